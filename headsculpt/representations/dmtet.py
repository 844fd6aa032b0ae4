"""DMTet: a surface that can be optimised, as signed distances on a deformable tetrahedral grid.

Shen et al. 2021 ("Deep marching tetrahedra"); the fine stage of HeadSculpt (method A.9). Signed distances
are negative inside, in scene units. Deformations are stored in scene units too and saturate at half a
cell, so that one learning rate moves the surface by about the same amount through either.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from headsculpt.cameras import Cameras
from headsculpt.meshes import (
    Mesh,
    Topology,
    laplacian_loss,
    normal_consistency_loss,
    topology,
)
from headsculpt.rendering import Rendering
from headsculpt.representations.handles import without_handles
from headsculpt.representations.surface_image import SeenSurface, see_surface
from headsculpt.representations.tetrahedra import (
    Crossings,
    grid_crossings,
    grid_vertices,
    largest_solid,
    surface_points,
)

# Grid vertices further from the surface than this many cells keep this value: they only have to be
# on the right side until the surface comes near, and it should then not take long to pass them.
BAND_CELLS = 2.0
MARGIN = 0.12  # scene units left free around the solid, for the surface to grow into
HANDLE_CELLS = 0.3  # how deep inside, or outside, what a handle's removal has filled or cut lies then
CHUNK = 1 << 18  # points of a field asked for at once

Field = Callable[[Tensor], Tensor]


@dataclass
class Surface:
    """The mesh that a DMTet is at the moment.

    Attributes:
        vertices: ``(V, 3)`` scene units, differentiable.
        faces: ``(F, 3)`` int64, counter-clockwise seen from outside.
        edges: which faces share an edge.
        values: ``(V, 2)`` signed distances at the ends of the grid edge on which each vertex lies.
    """

    vertices: Tensor
    faces: Tensor
    edges: Topology
    values: Tensor


class DMTet(nn.Module):
    """A closed surface with a colour field.

    Args:
        signed_distance: ``(X, Y, Z)`` float32 at the grid's vertices, scene units, negative inside.
        lower: ``(3,)`` position of the grid's first vertex.
        cell: edge of a grid cube, scene units.
        colour_field: module from ``(N, 3)`` scene points to ``(N, 3)`` albedo in [0, 1]; trained along.
        gradient_smoothing: passes of a (1/4, 1/2, 1/4) blur over the grid on the gradients of distances and
            deformations; 0 for none. Adam gives every vertex the same step whatever its gradient's size, so
            raw image gradients roughen a surface within a few steps; neighbours then move together, and the
            vertices next to the surface keep their distance to it.

    Raises:
        ValueError: a grid that is not three-dimensional, or nowhere negative.
    """

    lower: Tensor
    cell: Tensor

    def __init__(
        self,
        signed_distance: Tensor,
        lower: Tensor,
        cell: float,
        colour_field: nn.Module,
        *,
        gradient_smoothing: int = 2,
    ) -> None:
        super().__init__()
        if signed_distance.dim() != 3 or min(signed_distance.shape) < 3:
            raise ValueError(
                f"signed_distance must be (X, Y, Z), 3 or more each; got {tuple(signed_distance.shape)}"
            )
        if not (signed_distance < 0).any():
            raise ValueError("signed_distance is nowhere negative, so there is no surface")
        self.sdf = nn.Parameter(signed_distance.detach().float().clone())
        self.deform = nn.Parameter(torch.zeros(*signed_distance.shape, 3, device=signed_distance.device))
        self.register_buffer("lower", lower.detach().float().clone())
        self.register_buffer("cell", torch.tensor(float(cell)))
        self.colour_field = colour_field
        self.gradient_smoothing = gradient_smoothing
        self._cache: tuple[int, Crossings, Topology] | None = None

    @classmethod
    def from_field(
        cls,
        field: Any,
        *,
        resolution: int = 80,
        threshold: float | None = None,
        bound: float = 1.1,
        colour_field: nn.Module | None = None,
        smoothing_cells: float | None = None,
    ) -> DMTet:
        """The surface of a density, such as a NeRF's (method A.9 and E.7), or of a NeuS.

        The level set of the logarithm of the density is turned into signed distances by its own slope, so
        that it does not matter how steep the field is, and smoothed a little; then the largest solid piece
        is kept and its cavities are filled. A signed distance counts as minus that logarithm.

        Args:
            field: a module with ``density(points (N, 3)) -> (N,)`` or ``signed_distance`` of the same form,
                and ``colour_field`` (or ``albedo``); or just the density function.
            resolution: cells along the longest side of the solid's box.
            threshold: density of the surface; by default the mean density but at most 10. Of a field with
                signed distances the surface is at 0, and there is no threshold.
            bound: the field is looked at within [-bound, bound]^3.
            colour_field: overrides the field's own.
            smoothing_cells: standard deviation of the smoothing; by default 0.7, and 0 for signed distances.

        Raises:
            ValueError: no colour field, a resolution below 8, a density that nowhere reaches the threshold
                (says what the largest one was), a signed distance that is nowhere negative, or a threshold
                for signed distances.
        """
        if resolution < 8:
            raise ValueError(f"resolution must be at least 8; got {resolution}")
        signed = getattr(field, "signed_distance", None)
        if signed is not None and threshold is not None:
            raise ValueError(
                f"{type(field).__name__} has signed distances, whose surface is at 0; leave out threshold={threshold:g}"
            )
        density = getattr(field, "density", field) if signed is None else _as_density(signed, 0.5 * resolution)
        colour = colour_field if colour_field is not None else _colour_field_of(field)
        device = _device_of(field, colour)
        coarse = min(48, resolution)
        step = 2 * bound / coarse
        points = grid_vertices((coarse + 1,) * 3, torch.full((3,), -bound, device=device), step)
        sample = evaluate(density, points).reshape(-1)
        level = threshold if threshold is not None else min(float(sample.mean()), 10.0)
        if signed is not None:
            level = 1.0
        dense = sample > level
        if signed is not None and not dense.any():
            nearest = -float(torch.log(sample.max())) / (0.5 * resolution)
            raise ValueError(
                f"the field has no surface: its signed distance is nowhere below {nearest:.3g} within +-{bound}"
            )
        if level <= 0 or not dense.any():
            raise ValueError(
                f"the field has no surface: its density reaches {float(sample.max()):.3g} within +-{bound}, "
                f"and the threshold is {level:.3g}; train it for longer, or give a lower threshold"
            )
        low = (points[dense].amin(0) - MARGIN - step).clamp_min(-bound)
        high = (points[dense].amax(0) + MARGIN + step).clamp_max(bound)
        cell = float((high - low).max()) / resolution
        x, y, z = (int(n) + 1 for n in ((high - low) / cell - 1e-4).ceil().clamp_min(4))
        values = evaluate(density, grid_vertices((x, y, z), low, cell)).reshape(x, y, z)
        if smoothing_cells is None:
            smoothing_cells = 0.7 if signed is None else 0.0
        distance = distance_from_density(values.cpu().numpy(), level, cell, smoothing_cells)
        return cls(torch.from_numpy(distance).to(device), low, cell, colour)

    def extra_repr(self) -> str:
        return f"grid={tuple(self.sdf.shape)}, cell={float(self.cell):.4f}"

    # The surface

    def surface(self) -> Surface:
        """The mesh as it is now. Its topology is kept until the parameters change."""
        with torch.no_grad():  # the border stays outside, or the surface would have a hole there
            outside = 0.25 * self.cell
            for axis in range(3):
                for end in (0, -1):
                    self.sdf.data.select(axis, end).clamp_(min=outside)
        crossings, edges = self._topology()
        if crossings.faces.shape[0] == 0:
            raise RuntimeError("the surface has vanished: no signed distance is negative any more")
        ends = torch.stack([crossings.inside, crossings.outside], -1).reshape(-1)
        sdf, deform = self.sdf, self.deform
        if self.gradient_smoothing > 0 and torch.is_grad_enabled():
            sdf = _BlurredGradient.apply(sdf[..., None], self.gradient_smoothing)
            deform = _BlurredGradient.apply(deform, self.gradient_smoothing)
        values = sdf.reshape(-1).index_select(0, ends).view(-1, 2)
        # The published tanh(parameter) / resolution, but half a cell, so that no tetrahedron turns over
        # easily, and with slope 1 at 0.
        half = 0.5 * self.cell
        moved = half * torch.tanh(deform.reshape(-1, 3).index_select(0, ends) / half)
        positions = (self._rest(ends) + moved).view(-1, 2, 3)
        return Surface(surface_points(values, positions), crossings.faces, edges, values)

    def _topology(self) -> tuple[Crossings, Topology]:
        version = self.sdf._version  # counts in-place changes: each optimiser step is one
        if self._cache is None or self._cache[0] != version or self._cache[1].faces.device != self.sdf.device:
            crossings = grid_crossings(self.sdf)
            self._cache = (version, crossings, topology(crossings.faces))
        return self._cache[1], self._cache[2]

    def _rest(self, index: Tensor) -> Tensor:
        _, y, z = self.sdf.shape
        grid = torch.stack([index // (y * z), (index // z) % y, index % z], -1)
        return self.lower + grid * self.cell

    # Images

    def render(
        self,
        cameras: Cameras,
        *,
        background: Tensor | None = None,
        shaded: bool = True,
        with_albedo: bool = False,
        generator: torch.Generator | None = None,
        backend: str = "auto",
    ) -> Rendering:
        """Antialiased images, differentiable in the shape and the colour field.

        Args:
            cameras: B views.
            background: ``(B, 3)`` or ``(B, H, W, 3)``; white if None.
            shaded: under the light of :func:`headsculpt.rendering.shading`; otherwise rgb is the albedo.
            with_albedo: return the unlit colour as well.
            generator: taken for the sake of the common signature; nothing here is random.
            backend: of :func:`.rasterise.visibility`; nvdiffrast antialiases too where it is asked for.

        Raises:
            ValueError: a background of another shape.
        """
        seen = self.see(cameras, backend=backend)
        return seen.coloured(self.colour_field, background=background, shaded=shaded, with_albedo=with_albedo)[0]

    def see(self, cameras: Cameras, *, backend: str = "auto") -> SeenSurface:
        """What B views show of the shape as it is now, to be coloured as often as one likes."""
        surface = self.surface()
        return see_surface(surface.vertices, surface.faces, surface.edges, cameras, backend=backend)

    def regularisation(self) -> dict[str, Tensor]:
        """Terms to be weighted and added to the loss.

        Returns:
            laplacian: mean squared uniform Laplacian, scene units squared (method A.9).
            normal: mean of 1 - cos between the normals at the ends of an edge (method E.7).
            sign: binary cross-entropy between each end of a crossed grid edge and the other end's side,
                distances in cells as logits; against floating pieces (Munkberg et al. 2022, equation 2).
        """
        surface = self.surface()
        logits = surface.values / self.cell
        other_side = torch.zeros_like(logits)
        other_side[:, 0] = 1.0  # the inside end is drawn outwards, the outside end inwards
        sign = nn.functional.binary_cross_entropy_with_logits(logits, other_side)
        return {
            "laplacian": laplacian_loss(surface.vertices, surface.faces, surface.edges.edges),
            "normal": normal_consistency_loss(surface.vertices, surface.faces, surface.edges.edges),
            "sign": sign,
        }

    # Meshes and other grids

    @torch.no_grad()
    def solid_distance(self) -> Tensor:
        """``(X, Y, Z)`` signed distances without floating pieces and cavities."""
        inside = self.sdf.detach().cpu().numpy() < 0
        solid = torch.from_numpy(largest_solid(inside)).to(self.sdf.device)
        outside = self.sdf.abs().clamp_min(1e-3 * float(self.cell))
        return torch.where(solid, -outside, outside)

    @torch.no_grad()
    def prune(self) -> None:
        """Removes floating pieces and fills cavities, in place."""
        self.sdf.copy_(self.solid_distance())

    @torch.no_grad()
    def remove_handles(self, reach: int = 3) -> None:
        """Fills tunnels and cuts bridges up to ``2 * reach`` cells wide, in place; see :mod:`.handles`."""
        distance = self.solid_distance()
        solid = torch.from_numpy(without_handles((distance < 0).cpu().numpy(), reach)).to(distance.device)
        size = HANDLE_CELLS * float(self.cell)
        self.sdf.copy_(torch.where(solid == (distance < 0), distance, torch.where(solid, -size, size)))

    @torch.no_grad()
    def mesh(self) -> Mesh:
        """The largest piece as one watertight mesh with vertex colours; cavities are left out."""
        clean = DMTet(self.solid_distance(), self.lower, float(self.cell), self.colour_field)
        clean.deform.copy_(self.deform)
        surface = clean.surface()
        colours = evaluate(self.colour_field, surface.vertices).float().clamp(0, 1)
        return Mesh(surface.vertices.float(), surface.faces, colours=colours)

    @torch.no_grad()
    def regridded(self, resolution: int) -> DMTet:
        """The same surface on a grid with another number of cells, deformations worked into the distances."""
        mesh = self.mesh()
        low = torch.maximum(mesh.vertices.amin(0) - MARGIN, self.lower)
        last = torch.tensor(self.sdf.shape, device=low.device) - 1
        high = torch.minimum(mesh.vertices.amax(0) + MARGIN, self.lower + last * self.cell)
        cell = float((high - low).max()) / resolution
        x, y, z = (int(n) + 1 for n in ((high - low) / cell - 1e-4).ceil().clamp_min(4))
        points = grid_vertices((x, y, z), low, cell)
        # Undeformed distances at the point, less how far the grid was moved there along their slope.
        where = (points - self.lower) / (last * self.cell) * 2 - 1
        moved = 0.5 * self.cell * torch.tanh(self.deform / (0.5 * self.cell))
        values = torch.cat([self.solid_distance()[..., None], moved], -1).permute(3, 0, 1, 2)[None]

        def look_up(at: Tensor) -> Tensor:
            grid = at.flip(-1).view(1, 1, 1, -1, 3)  # grid_sample wants the fastest axis first
            return nn.functional.grid_sample(values, grid, align_corners=True, padding_mode="border")[
                0, :, 0, 0
            ].T

        shift = look_up(where)[:, 1:]
        distance = look_up(where - 2 * shift / (last * self.cell))[:, 0].view(x, y, z)
        band = BAND_CELLS * cell
        return DMTet(
            distance.clamp(-band, band),
            low,
            cell,
            self.colour_field,
            gradient_smoothing=self.gradient_smoothing,
        )

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Takes on the grid of the checkpoint; a DMTet of any resolution can load any other."""
        for name in ("sdf", "deform"):
            saved = state_dict.get(prefix + name)
            if saved is not None and saved.shape != getattr(self, name).shape:
                setattr(self, name, nn.Parameter(torch.zeros_like(saved, device=self.sdf.device)))
        self._cache = None
        super()._load_from_state_dict(state_dict, prefix, *rest)


class _BlurredGradient(torch.autograd.Function):
    """Identity whose gradient ``(X, Y, Z, C)`` is blurred along X, Y and Z."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, passes: int) -> Tensor:
        ctx.passes = passes
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        for _ in range(ctx.passes):
            for axis in range(3):
                blurred = grad * 0.5
                size = grad.shape[axis] - 1
                blurred.narrow(axis, 0, size).add_(grad.narrow(axis, 1, size), alpha=0.25)
                blurred.narrow(axis, 1, size).add_(grad.narrow(axis, 0, size), alpha=0.25)
                grad = blurred
        return grad, None


def distance_from_density(
    values: np.ndarray, level: float, cell: float, smoothing_cells: float
) -> np.ndarray:
    """``(X, Y, Z)`` float32 signed distances of the largest solid in a density grid; see ``from_field``."""
    from scipy import ndimage

    # Logarithms, since densities grow by decades across a surface; held to a factor e^4 about the level.
    logarithm = np.log(np.maximum(np.nan_to_num(values), 1e-12) / level).clip(-4, 4).astype(np.float32)
    solid = largest_solid(logarithm > 0)
    if not solid.any():
        raise ValueError("the field has no solid piece inside the grid's border; give a larger bound")
    logarithm = np.where(solid, np.maximum(logarithm, 1e-3), np.minimum(logarithm, -1e-3))
    slope = np.sqrt(sum(np.square(g) for g in np.gradient(logarithm, cell))) + 1e-6
    near = -logarithm / slope
    far = ndimage.distance_transform_edt(~solid) - ndimage.distance_transform_edt(solid)
    far = (far - np.sign(far) * 0.5) * cell  # it counts to the nearest vertex of the other side
    distance = np.where(np.abs(far) < 1.5 * cell, near.clip(-1.5 * cell, 1.5 * cell), far).astype(np.float32)
    band = BAND_CELLS * cell
    distance = distance.clip(-2 * band, 2 * band)
    if smoothing_cells > 0:
        distance = ndimage.gaussian_filter(distance, smoothing_cells, mode="nearest")
    solid = largest_solid(distance < 0)
    if not solid.any():
        raise ValueError("the field's solid is thinner than a cell; give a higher resolution")
    size = np.maximum(np.abs(distance), 1e-3 * cell)
    return np.where(solid, -size, size).clip(-band, band).astype(np.float32)


@torch.no_grad()
def evaluate(field: Field, points: Tensor) -> Tensor:
    """``field`` at ``points (N, 3)``, a part at a time, without gradient."""
    return torch.cat([field(part) for part in points.split(CHUNK)])


def _as_density(signed: Field, steepness: float) -> Field:
    """exp(-steepness f): linear in the distance f in the logarithm, and within e^4 of 1 for a few cells."""
    return lambda points: torch.exp((-steepness * signed(points)).clamp(-60.0, 60.0))


def _colour_field_of(field: Any) -> nn.Module:
    for name in ("colour_field", "albedo"):
        found = getattr(field, name, None)
        if isinstance(found, nn.Module):
            return found
    raise ValueError(
        f"{type(field).__name__} has no module called colour_field; give colour_field=, "
        "a module from (N, 3) points to (N, 3) albedo"
    )


def _device_of(*modules: Any) -> torch.device:
    for module in modules:
        if isinstance(module, nn.Module):
            for parameter in module.parameters():
                return parameter.device
    return torch.device("cpu")
