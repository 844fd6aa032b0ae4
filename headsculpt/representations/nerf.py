"""Neural radiance field of a head: hash grid, density prior, occupancy grid, packed samples.

A pixel's colour is the composited albedo times the light at the surface it sees (one normal a ray, not one
a sample): for a head, whose rays end within a few steps of the skin, the two agree, and it costs a fifth.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from headsculpt.cameras import Cameras
from headsculpt.meshes import Mesh
from headsculpt.rendering import Rendering, shading
from headsculpt.representations.compositing import composite, distortion_loss
from headsculpt.representations.density_prior import DensityPrior
from headsculpt.representations.encodings import HashGrid
from headsculpt.representations.fields import ColourField, Field
from headsculpt.representations.occupancy import OccupancyGrid, Samples

NORMALS = ("surface", "analytic", "grid", "none")
_TETRAHEDRON = ((1.0, -1.0, -1.0), (-1.0, -1.0, 1.0), (-1.0, 1.0, -1.0), (1.0, 1.0, 1.0))


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
        self._last: _Statistics | None = None

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
        batch, height, width = len(cameras), cameras.height, cameras.width
        origins, directions = (a.reshape(-1, 3) for a in cameras.rays())
        if background is None:
            background = torch.ones(batch, 3, device=origins.device)
        if background.shape == (batch, 3):
            background = background[:, None, None].expand(batch, height, width, 3)
        if background.shape != (batch, height, width, 3):
            raise ValueError(
                f"expected a background of shape ({batch}, 3) or ({batch}, {height}, {width}, 3); "
                f"got {tuple(background.shape)}"
            )
        samples = self.occupancy.march(
            origins, directions, step=self.step, cap=self.samples, explore=self.explore, generator=generator
        )
        raw, colour = self.raw(samples.points)
        sigma = self.density_scale * nn.functional.softplus(raw)
        total, opacity, depth, weights = composite(
            sigma, samples.dt, samples.t, torch.sigmoid(colour), samples.offsets
        )
        distance = depth / opacity.clamp_min(1e-6)
        normal = None
        light = torch.ones_like(opacity[:, None])
        if shaded and self.normals != "none":
            hit = (opacity.detach() > 0.1).nonzero()[:, 0]
            points = origins[hit] + distance.detach()[hit, None] * directions[hit]
            normal_hit = self.normal(points, self.normals)
            normal = torch.zeros_like(origins).index_copy(0, hit, normal_hit)
            light_hit = ambient + (1 - ambient) * shading(normal_hit)
            # Where there is hardly anything, the light of a surface that faces sideways.
            light = torch.full_like(light, 0.7).index_copy(0, hit, light_hit)
        self._last = _Statistics(opacity, weights, normal, directions, samples)

        def image(x: Tensor) -> Tensor:
            return x.view(batch, height, width, -1)

        clear = image(1 - opacity)
        forward = -cameras.camera_to_world[:, :3, 2]
        along = (directions.view(batch, -1, 3) @ forward[:, :, None]).reshape(-1)
        seen = (opacity > 1e-3).to(depth)
        return Rendering(
            rgb=image(total * light).clamp(0, 1) + clear * background,
            opacity=image(opacity),
            depth=image(distance * along * seen),
            normal=None if normal is None else image(normal),
            albedo=image(total) + clear * background,
        )

    def normal(self, x: Tensor, kind: str = "surface") -> Tensor:
        """Unit normals ``(N, 3)``, out of the head, at scene points ``(N, 3)``; see ``normals`` above."""
        if kind == "surface":
            offsets = torch.tensor(_TETRAHEDRON, dtype=x.dtype, device=x.device)
            around = x[:, None] + self.epsilon * offsets  # four points give the gradient (quilez, "normals")
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

    def regularisation(self, progress: float = 1.0) -> dict[str, Tensor]:
        """Terms of the last render, unweighted scalars.

        * entropy: mean binary entropy (bits) of the rays' opacities (A.8's formula; over rays);
        * weight_entropy: the same of the samples' weights, as HeadSculpt's code has it;
        * opacity: mean opacity. sparsity: mean sqrt(opacity^2 + 0.01). opaque: BCE(o, o) (E.5);
        * orientation: mean over rays of opacity * max(0, n.d)^2, opacity detached (A.8, E.5);
        * distortion: Mip-NeRF 360's.

        Args:
            progress: of the run, 0 to 1; the terms do not depend on it, ramps are the caller's.

        Raises:
            RuntimeError: nothing was rendered yet.
        """
        last = self._last
        if last is None:
            raise RuntimeError("regularisation() describes the last render; call render() first")
        opacity = last.opacity
        terms = {
            "entropy": _entropy(opacity),
            "weight_entropy": _entropy(last.weights) if last.weights.numel() else opacity.sum() * 0,
            "opacity": opacity.mean(),
            "sparsity": (opacity.square() + 0.01).sqrt().mean(),
            "opaque": nn.functional.binary_cross_entropy(o := opacity.clamp(1e-3, 1 - 1e-3), o.detach()),
            "distortion": distortion_loss(
                last.weights, last.samples.t, last.samples.dt, last.samples.offsets
            ),
        }
        if last.normal is not None:
            away = (last.normal * last.directions).sum(-1).clamp_min(0).square()
            terms["orientation"] = (opacity.detach() * away).mean()
        return terms

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
        from headsculpt.representations.tetrahedra import grid_crossings, grid_vertices, surface_points

        level = self.surface_level if level is None else level
        device = self.occupancy.density.device
        count = resolution + 3  # one cell beyond the cube on each side, where the density is 0
        cell = 2 * self.bound / resolution
        lattice = grid_vertices((count,) * 3, torch.full((3,), -self.bound - cell, device=device), cell)
        density = torch.cat([self.density(part) for part in lattice.split(1 << 17)])
        if not (density > level).any():
            raise ValueError(
                f"no surface: the density reaches {float(density.max()):.3g}, the level is {level:.3g}"
            )
        # In the logarithm the density is nearly linear across a surface, which places it better.
        value = torch.log(torch.tensor(level + 1e-2)) - torch.log(density + 1e-2)
        found = grid_crossings(value.view((count,) * 3))
        ends = torch.stack([found.inside, found.outside], -1)
        vertices = surface_points(value[ends], lattice[ends])
        return Mesh(vertices, found.faces, self.albedo(vertices)).checked("the mesh of the NeRF")

    def _load_from_state_dict(self, state_dict: Any, prefix: Any, *args: Any, **kwargs: Any) -> None:
        # A checkpoint may hold a prior of another size than the one that this object was made with.
        saved = state_dict.get(prefix + "density_prior.distance")
        if saved is not None and saved.shape != self.density_prior.distance.shape:
            self.density_prior.distance = torch.empty_like(saved, device=self.density_prior.distance.device)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class _Statistics:
    """What a render leaves for the regularisers."""

    def __init__(
        self, opacity: Tensor, weights: Tensor, normal: Tensor | None, directions: Tensor, samples: Samples
    ) -> None:
        self.opacity, self.weights, self.normal = opacity, weights, normal
        self.directions, self.samples = directions, samples


def _entropy(a: Tensor) -> Tensor:
    a = a.clamp(1e-5, 1 - 1e-5)
    return (-a * torch.log2(a) - (1 - a) * torch.log2(1 - a)).mean()


def _difference(prior: DensityPrior, x: Tensor, epsilon: float) -> Tensor:
    offsets = torch.tensor(_TETRAHEDRON, dtype=x.dtype, device=x.device)
    values = prior((x[:, None] + epsilon * offsets).view(-1, 3)).view(-1, 4)
    return values @ offsets / (4 * epsilon)
