"""A head that costs nothing: a coloured egg with the interface of a finished sculpture."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from headsculpt.cameras import Cameras
from headsculpt.export.bake import bake
from headsculpt.export.unwrap import unwrap
from headsculpt.export.view import render_mesh
from headsculpt.meshes import Mesh
from headsculpt.rendering import Rendering
from headsculpt.sculpting import FinishedHead


class EggColours(nn.Module):
    """Smooth colours: red grows to the head's left, green upwards, blue forwards."""

    def forward(self, points: Tensor) -> Tensor:
        return 0.5 + 0.45 * torch.sin(2.5 * points)


class EggDMTet:
    """Renders the egg from its vertex colours."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh_value = mesh

    def render(self, cameras: Cameras, *, background: Tensor, shaded: bool = True, **_: object) -> Rendering:
        colour = tuple(background[0].tolist())
        return render_mesh(self.mesh_value, cameras, background=colour, shaded=shaded, supersample=1)


@functools.lru_cache
def egg(subdivisions: int = 4) -> Mesh:
    """A closed mesh of ``20 * 4**subdivisions`` triangles with vertex colours."""
    import trimesh

    sphere = trimesh.creation.icosphere(subdivisions=subdivisions)
    vertices = torch.tensor(sphere.vertices, dtype=torch.float32) * torch.tensor([0.5, 0.7, 0.55])
    return Mesh(vertices, torch.tensor(sphere.faces.copy()), EggColours()(vertices))


@functools.lru_cache
def textured_egg(subdivisions: int = 3, size: int = 128) -> Mesh:
    return bake(unwrap(egg(subdivisions), size), EggColours(), size)


def finished_egg(subdivisions: int = 4) -> FinishedHead:
    mesh = egg(subdivisions)
    return FinishedHead(mesh, EggColours(), EggDMTet(mesh))  # type: ignore[arg-type]
