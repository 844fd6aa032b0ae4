"""What an edit keeps of its source, exactly: its surface and its colours, wherever the instruction names nothing.

Guidance holds a sculpture to its source outside the places of an edit (:mod:`.edit_place`), but by pictures of 128
pixels, from a field that goes on moving: a nose comes back a little longer, a girl's face a boy's. So in the end the
source itself is put there. An edit of colours alone keeps the source's mesh, to the vertex and to its UVs (ours).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from headsculpt.heads.places import AROUND_NOSE, EAR, HATS, OFF_FACE, UNDER_HAT, Box, in_box, in_places
from headsculpt.meshes import Mesh
from headsculpt.representations.density_prior import DensityPrior
from headsculpt.representations.dmtet import BAND_CELLS, DMTet, evaluate
from headsculpt.representations.mesh_distance import closest_weights, nearest_face
from headsculpt.representations.tetrahedra import grid_vertices
from headsculpt.representations.texture import sample_texture

BOUND = 1.15  # scene units: a little more than a sculpture reaches

# (N, 3) scene points -> (N,): 1 where an edit may act, 0 where it may not
Room = Callable[[Tensor], Tensor]


class KeptSource:
    """The source of an edit, to be kept outside the edit's room.

    Args:
        mesh: of the source, closed, with UVs and a texture, or with vertex colours.
        room: where the edit may act; None is everywhere.
        shape_room: where it may change the shape; None is the room.
        shape_stays: whether the edit leaves the whole shape alone.
        resolution: cells of the finest grid that takes the shape.
        device: of the sculpture.
    """

    def __init__(
        self,
        mesh: Mesh,
        room: Room | None,
        *,
        shape_room: Room | None = None,
        shape_stays: bool,
        resolution: int,
        device: torch.device,
    ) -> None:
        self.mesh, self.room, self.shape_stays = mesh, room, shape_stays
        self.shape_room = shape_room or room
        self.solid: DensityPrior | None = None
        if shape_stays or room is not None:
            vertices, faces = mesh.vertices.detach().cpu().numpy(), mesh.faces.cpu().numpy()
            self.solid = DensityPrior.from_mesh(vertices, faces, resolution + 32, bound=BOUND).to(device)

    @torch.no_grad()
    def keep_shape(self, dmtet: DMTet) -> None:
        """Gives a DMTet, not yet deformed, the source's surface outside the room, in place."""
        if self.solid is None:
            return
        shape, cell = dmtet.sdf.shape, float(dmtet.cell)
        points = grid_vertices((shape[0], shape[1], shape[2]), dmtet.lower, cell)
        band = BAND_CELLS * cell
        kept = evaluate(self.solid.signed_distance, points).view(shape).clamp(-band, band)
        share = torch.zeros_like(kept)
        if self.shape_room is not None and not self.shape_stays:
            share = evaluate(self.shape_room, points).view(shape)
        dmtet.sdf.copy_(torch.lerp(kept, dmtet.sdf, share))
        dmtet.prune()

    @torch.no_grad()
    def recoloured(self, field: nn.Module) -> Mesh:
        """The source's mesh and UVs, with the field's colours at its vertices and no texture yet."""
        vertices = self.mesh.vertices.detach()
        device = next((p.device for p in field.parameters()), vertices.device)
        colours = evaluate(field, vertices.to(device)).float().clamp(0, 1)
        return Mesh(vertices.to(device), self.mesh.faces.to(device), colours=colours, uv=self.mesh.uv)

    def colours(self, field: nn.Module) -> nn.Module:
        """``field`` in the room, the source's own colours outside it."""
        return field if self.room is None else KeptColours(field, self.mesh, self.room)


class KeptColours(nn.Module):
    """A colour field, ``(N, 3)`` scene points to ``(N, 3)`` albedo in [0, 1]; no gradient reaches the mesh.

    Args:
        field: of the edit.
        mesh: of the source.
        room: 1 where ``field`` counts, 0 where the colour of the nearest point of the mesh does.
    """

    def __init__(self, field: nn.Module, mesh: Mesh, room: Room) -> None:
        super().__init__()
        self.field, self.mesh, self.room = field, mesh, room

    def forward(self, points: Tensor) -> Tensor:
        new = self.field(points)
        share = self.room(points)[:, None].to(new)
        kept = torch.zeros_like(new)
        outside = share[:, 0] < 1
        if outside.any():
            kept[outside] = mesh_colours(self.mesh, points[outside]).to(new)
        return torch.lerp(kept, new, share)


@torch.no_grad()
def mesh_colours(mesh: Mesh, points: Tensor) -> Tensor:
    """Albedo ``(N, 3)`` in [0, 1], on the CPU, of the points of a mesh nearest to ``points (N, 3)``.

    Raises:
        ValueError: the mesh has neither a texture with UVs nor vertex colours.
    """
    points = points.detach().cpu().float()
    vertices, faces = mesh.vertices.detach().cpu().float(), mesh.faces.cpu().long()
    face = nearest_face(points, vertices, faces)
    weights = closest_weights(points.double(), vertices[faces[face]].double()).float()[..., None]
    if mesh.texture is not None and mesh.uv is not None:
        texture = torch.from_numpy(mesh.texture.astype(np.float32) / 255)
        return sample_texture(texture, (mesh.uv.cpu()[face] * weights).sum(1))
    if mesh.colours is None:
        raise ValueError("the source's mesh has no colours; give one with a texture and UVs, or with vertex colours")
    return (mesh.colours.detach().cpu().float()[faces[face]] * weights).sum(1)


def edit_room(families: frozenset[str], vertices: np.ndarray, contours: Mapping[str, np.ndarray]) -> Room:
    """Where an edit of these families may act: their places, less the face where none of them is on it, and less the
    nose where none of them is on that.

    Args:
        families: names in :data:`headsculpt.heads.places.PLACES`, at least one.
        vertices: ``(V, 3)`` of the head whose landmarks guide.
        contours: name -> vertex indices.
    """
    face: Tensor | None = None
    if families <= OFF_FACE:
        kept = [index for name, index in contours.items() if "eye" in name or "lips" in name]
        corners = vertices[np.concatenate(kept)]
        face = torch.tensor(np.stack([corners.min(0), corners.max(0)]), dtype=torch.float32)

    nose = _nose_of(vertices, contours) if families <= AROUND_NOSE else None

    def room(points: Tensor) -> Tensor:
        found = in_places(families, points)
        if nose is not None:
            found = found * (1 - in_box(nose, points))
        if face is not None:
            low, high = face.to(points)
            spared = (points > low).all(-1) & (points[:, :2] < high[:2]).all(-1)
            found = torch.where(spared, torch.zeros_like(found), found)
        return found

    return room


def shape_room(room: Room, families: frozenset[str], *, uncovers: bool) -> Room:
    """Where in the room of an edit the shape may change: a hat that comes leaves ears theirs; where one goes, the face
    below loses what its rim stood off.

    Args:
        room: from :func:`edit_room`.
        families: as there.
        uncovers: whether a hat goes.
    """
    if not families <= HATS:
        return room
    ear_low, ear_high = (torch.tensor(corner) for corner in EAR)

    def shape(points: Tensor) -> Tensor:
        found = room(points)
        if uncovers:
            return torch.maximum(found, in_box(UNDER_HAT, points))
        across = torch.cat([points[:, :1].abs(), points[:, 1:]], -1)
        ear = ((across > ear_low.to(points)) & (across < ear_high.to(points))).all(-1)
        return torch.where(ear, torch.zeros_like(found), found)

    return shape


def _nose_of(vertices: np.ndarray, contours: Mapping[str, np.ndarray]) -> Box:
    """A box around a nose, between the eyes and above the lips, for heads whose contours have none."""
    eyes = vertices[np.concatenate([index for name, index in contours.items() if "eye" in name and "brow" not in name])]
    lips = vertices[np.concatenate([index for name, index in contours.items() if "lips" in name])]
    wide, top, bottom = float(np.abs(eyes[:, 0]).min()), float(eyes[:, 1].mean()), float(lips[:, 1].max())
    return (-wide, bottom + 0.35 * (top - bottom), float(lips[:, 2].min())), (wide, top, BOUND)
