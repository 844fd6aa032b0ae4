"""Neural radiance field of a head: hash grid, density prior, occupancy grid, packed samples.

What it shares with NeuS (light, images, regularisers of rays, the mesh of a lattice) is in ``volume.py``.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from headsculpt.cameras import Cameras
from headsculpt.meshes import Mesh
from headsculpt.rendering import Rendering
from headsculpt.representations.compositing import composite
from headsculpt.representations.density_prior import DensityPrior
from headsculpt.representations.encodings import HashGrid
from headsculpt.representations.fields import ColourField, Field
from headsculpt.representations.occupancy import OccupancyGrid
from headsculpt.representations.volume import (
    TETRAHEDRON,
    RayStatistics,
    background_image,
    lattice_mesh,
    lit_rendering,
    on_lattice,
    ray_terms,
)

NORMALS = ("surface", "analytic", "grid", "none")


class NeRF(nn.Module):
    """Density and albedo in [-bound, bound]^3: sigma = density_scale * softplus(raw + prior).

    All randomness of a render comes from the generator passed to it; with the same one, renders and
    gradients repeat to the bit on one machine. ``state_dict`` holds everything, the prior's distances and
    the occupancy included.

    Args:
        density_prior: start of the density; None takes a ball (``DensityPrior.blob``).
        levels, features, base_resolution, finest_resolution, log2_table, interpolation, backend: of the
            hash grid, see :class:`HashGrid`.
        hidden, layers, bfloat16: of the network, see :class:`Field`.
        samples: largest number of samples of a ray.
        step: length of a ray's interval, scene units.
        density_scale: density of one unit of softplus, per scene unit; ours. 8 makes the solid head
            (raw 4) opaque within 0.1 while the network's outputs stay small.
        occupancy_resolution: cells along an edge of the occupancy grid.
        explore: chance of a sample in an empty interval near the head, in training.
        reach: how far from the prior's surface empty space is explored, scene units.
        normals: what the light sees. "surface": differences of the raw density at four points around
            the point that the ray sees, trained through. "analytic": its exact gradient, trained through.
            "grid": gradient of the smoothed occupancy densities, no gradient, nearly free. "none": no
            light.
        epsilon: of the differences, scene units (A.2: 1e-2).
        generator: of the initial parameters.

    Raises:
        ValueError: an unknown name, or a number out of range.
    """

    surface_level = 10.0  # density at the surface of the mesh (A.9: min(mean density, 10))

    def __init__(
        self,
        density_prior: DensityPrior | None = None,
        *,
        levels: int = 16,
        features: int = 2,
        base_resolution: int = 16,
        finest_resolution: int = 512,
        log2_table: int = 16,
        interpolation: str = "smoothstep",
        backend: str = "auto",
        hidden: int = 32,
        layers: int = 1,
        bfloat16: bool = False,
        bound: float = 1.0,
        samples: int = 64,
        step: float = 0.025,
        density_scale: float = 8.0,
        occupancy_resolution: int = 64,
        explore: float = 0.05,
        reach: float = 0.3,
        normals: str = "surface",
        epsilon: float = 0.015,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if normals not in NORMALS:
            raise ValueError(f"normals must be one of {', '.join(NORMALS)}; got {normals!r}")
        if samples < 1 or step <= 0 or not 0 <= explore <= 1:
            raise ValueError(
                "expected samples >= 1, step > 0 and explore in [0, 1]; "
                f"got samples={samples}, step={step}, explore={explore}"
            )
        encoding = HashGrid(
            levels,
            features,
            base_resolution,
            finest_resolution,
            log2_table,
            interpolation,
            backend,
            generator,
        )
        self.field = Field(
            encoding, hidden=hidden, layers=layers, bound=bound, bfloat16=bfloat16, generator=generator
        )
        self.density_prior = DensityPrior.blob() if density_prior is None else density_prior
        self.bound, self.samples, self.step = float(bound), samples, step
        self.density_scale, self.explore = density_scale, explore
        self.normals, self.epsilon = normals, epsilon
        self.occupancy = OccupancyGrid(occupancy_resolution, bound=bound)
        centres = self.occupancy.centres()
        if self.density_prior.kind == "blob":
            near = centres.norm(dim=-1) < 0.5 + reach
        else:
            near = self.density_prior.signed_distance(centres) < reach
        self.occupancy = OccupancyGrid(
            occupancy_resolution, bound=bound, reach=near.view(self.occupancy.flags.shape)
        )
        self._last: RayStatistics | None = None

    # ---------------------------------------------------------------- the field

    def raw(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Raw density ``(N,)`` with the prior, and raw colour ``(N, 3)``, of scene points ``(N, 3)``."""
        out = self.field.raw(x)
        return out[:, 0] + self.density_prior(x), out[:, 1:]

    def density(self, x: Tensor) -> Tensor:
        """``(N, 3)`` scene points to ``(N,)`` density per scene unit; 0 outside the cube."""
        within = (x.detach().abs() <= self.bound).all(-1)
        return self.density_scale * nn.functional.softplus(self.raw(x)[0]) * within

    def albedo(self, x: Tensor) -> Tensor:
        """``(N, 3)`` scene points to ``(N, 3)`` colour in [0, 1]."""
        return torch.sigmoid(self.field.raw(x)[:, 1:])

    @property
    def colour_field(self) -> ColourField:
        """The albedo as a module that shares the NeRF's parameters; the texture of what is made from it."""
        return ColourField(self.field)

    # ---------------------------------------------------------------- rendering

    def render(
        self,
        cameras: Cameras,
        *,
        background: Tensor | None = None,
        shaded: bool = True,
        ambient: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Rendering:
        """Images of the field.

        Args:
            cameras: B views.
            background: ``(B, 3)``, or ``(B, H, W, 3)``, in [0, 1]; None is white.
            shaded: multiply the albedo with the light (:func:`headsculpt.rendering.shading`).
            ambient: share of the light that is even, 0 to 1.
            generator: for training: samples at random places, and empty space explored. None renders
                the middles of the intervals, and no empty space.

        Returns:
            Rendering with rgb, opacity, depth, albedo, and normal when shaded.

        Raises:
            ValueError: a background of another shape.
        """
        origins, directions = (a.reshape(-1, 3) for a in cameras.rays())
        behind = background_image(background, cameras)
        samples = self.occupancy.march(
            origins, directions, step=self.step, cap=self.samples, explore=self.explore, generator=generator
        )
        raw, colour = self.raw(samples.points)
        sigma = self.density_scale * nn.functional.softplus(raw)
        composited = composite(sigma, samples.dt, samples.t, torch.sigmoid(colour), samples.offsets)
        lit = shaded and self.normals != "none"
        normal_of = partial(self.normal, kind=self.normals) if lit else None
        rays = (origins, directions)
        rendering, self._last = lit_rendering(cameras, rays, composited, samples, behind, normal_of, ambient)
        return rendering

    def normal(self, x: Tensor, kind: str = "surface") -> Tensor:
        """Unit normals ``(N, 3)``, out of the head, at scene points ``(N, 3)``; see ``normals`` above."""
        if kind == "surface":
            offsets = torch.tensor(TETRAHEDRON, dtype=x.dtype, device=x.device)
            around = x[:, None] + self.epsilon * offsets
            values = self.raw(around.view(-1, 3))[0].view(-1, 4)
            gradient = values @ offsets
        elif kind == "analytic":
            with torch.enable_grad():
                points = x.detach().requires_grad_()
                value = self.field.raw(points)[:, 0].sum()
                train = torch.is_grad_enabled() and value.requires_grad
                (gradient,) = torch.autograd.grad(value, points, create_graph=train)
            gradient = gradient + _difference(self.density_prior, x, self.epsilon)
        elif kind == "grid":
            gradient = self._grid_gradient(x)
        else:
            raise ValueError(f"normals must be one of {', '.join(NORMALS)}; got {kind!r}")
        return nn.functional.normalize(-gradient, dim=-1, eps=1e-6)

    @torch.no_grad()
    def _grid_gradient(self, x: Tensor) -> Tensor:
        grid = torch.log(self.occupancy.density + 0.1)[None, None]
        smooth = nn.functional.avg_pool3d(grid, 3, 1, 1, count_include_pad=False)
        slopes = torch.stack(torch.gradient(smooth[0, 0]))[None]
        # grid_sample's last coordinate is the first axis of the volume: give it z, y, x.
        where = (x.detach() / self.bound).flip(-1).view(1, -1, 1, 1, 3)
        read = nn.functional.grid_sample(slopes, where, padding_mode="border", align_corners=False)
        return read.view(3, -1).T

    # ---------------------------------------------------------------- training

    @torch.no_grad()
    def update_occupancy(self, step: int = 0, generator: torch.Generator | None = None) -> None:
        """Measures the density again; call it every 16 steps or so (A.2). Step 0 measures everywhere."""
        self.occupancy.update(self.density, generator)

    def regularisation(self, progress: float = 1.0, distortion: bool = True) -> dict[str, Tensor]:
        """Terms of the last render, unweighted scalars: see :func:`.volume.ray_terms`.

        Args:
            progress: of the run, 0 to 1; the terms do not depend on it, ramps are the caller's.
            distortion: whether that term is wanted.

        Raises:
            RuntimeError: nothing was rendered yet.
        """
        return ray_terms(self._last, distortion)

    # ---------------------------------------------------------------- what it becomes

    @torch.no_grad()
    def mesh(self, resolution: int = 96, level: float | None = None) -> Mesh:
        """The closed surface where the density is ``level`` (10 by default), with vertex colours.

        Args:
            resolution: cells along an edge of the cube.
            level: density per scene unit.

        Raises:
            ValueError: the density nowhere reaches the level.
        """
        level = self.surface_level if level is None else level
        points, density = on_lattice(self.density, self.bound, resolution, self.occupancy.density.device)
        if not (density > level).any():
            raise ValueError(
                f"no surface: the density reaches {float(density.max()):.3g}, the level is {level:.3g}"
            )
        # In the logarithm the density is nearly linear across a surface, which places it better.
        value = torch.log(torch.tensor(level + 1e-2)) - torch.log(density + 1e-2)
        return lattice_mesh(points, value, self.albedo, "the mesh of the NeRF")


def _difference(prior: DensityPrior, x: Tensor, epsilon: float) -> Tensor:
    offsets = torch.tensor(TETRAHEDRON, dtype=x.dtype, device=x.device)
    values = prior((x[:, None] + epsilon * offsets).view(-1, 3)).view(-1, 4)
    return values @ offsets / (4 * epsilon)
