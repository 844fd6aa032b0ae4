"""NeuS: a head as the zero level of a signed distance, rendered as a volume (method B.1).

Wang et al. 2021 ("NeuS: learning neural implicit surfaces by volume rendering"); AvatarBooth's
representation, on a hash grid instead of its eight-layer network. Distances are negative inside, in scene
units. A ray is cut into sections between its samples; the opacity of a section from distance f_i to f_(i+1) is

    alpha_i = max((Phi(s f_i) - Phi(s f_(i+1))) / Phi(s f_i), 0),   Phi the logistic function,

which is what emission and absorption give for the optical depth log Phi(s f_i) - log Phi(s f_(i+1)): so the
compositing is the NeRF's. Its sum along a ray telescopes: a section may be long where nothing is in it, and
no step is too coarse for a sharp s. Letters: N samples, each with the section that it begins; R rays.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from headsculpt.cameras import Cameras
from headsculpt.meshes import Mesh
from headsculpt.rendering import Rendering
from headsculpt.representations.compositing import composite
from headsculpt.representations.density_prior import DensityPrior
from headsculpt.representations.encodings import HashGrid
from headsculpt.representations.fields import ColourField, Field
from headsculpt.representations.occupancy import OccupancyGrid, Samples
from headsculpt.representations.volume import (
    TETRAHEDRON,
    RayStatistics,
    background_image,
    lattice_mesh,
    lit_rendering,
    on_lattice,
    ray_terms,
)

FAINT = 1e-4  # sections of less weight than this get no colour; a ray has a few dozen


def section_depths(distance: Tensor, inverse_deviation: Tensor, offsets: Tensor) -> Tensor:
    """Optical depth of the section that each sample begins; 1 - exp(-depth) is the alpha of method B.1.

    Args:
        distance: ``(N,)`` signed distances of packed samples.
        inverse_deviation: s, scalar.
        offsets: ``(R + 1,)`` int64; ray r owns the samples offsets[r] to offsets[r + 1], front to back.

    Returns:
        ``(N,)``, 0 or more, differentiable; 0 for the last sample of a ray and where the distance rises.
    """
    logarithm = nn.functional.logsigmoid(inverse_deviation * distance)
    drop = (logarithm[:-1] - logarithm[1:]).clamp_min(0)
    depths = torch.cat([drop, distance.new_zeros(min(1, distance.shape[0]))])
    return depths * ~last_samples(offsets, distance.shape[0])


def last_samples(offsets: Tensor, count: int) -> Tensor:
    """``(N,)`` bool: which samples are the last of their ray."""
    last = torch.zeros(count, dtype=torch.bool, device=offsets.device)
    last[offsets[1:][offsets.diff() > 0] - 1] = True
    return last


@torch.no_grad()
def section_points(distance: Tensor, samples: Samples) -> Samples:
    """Where each section crosses the surface, or comes nearest to it: linear between its two samples.

    The last sample of a ray, which begins no section, stays where it is.
    """
    if distance.shape[0] == 0:
        return samples
    last = last_samples(samples.offsets, distance.shape[0])
    drop = distance - torch.where(last, distance, distance.roll(-1))
    share = torch.where(drop > 0, distance / drop.clamp_min(1e-12), torch.zeros_like(drop)).clamp(0, 1)
    width = torch.where(last, torch.zeros_like(drop), samples.t.roll(-1) - samples.t)
    # A line whose values on either side are known has its points in between.
    step = torch.where(last[:, None], torch.zeros_like(samples.points), samples.points.roll(-1, 0) - samples.points)
    return Samples(samples.points + share[:, None] * step, samples.t + share * width, width, samples.offsets)


class NeuS(nn.Module):
    """Signed distance and albedo in [-bound, bound]^3: f = start + residual * network, cut off at the cube.

    All randomness of a render comes from the generator passed to it. ``state_dict`` holds everything, the
    start's distances and the occupancy included; the hash grid's open levels too.

    Args:
        start: the shape to begin with, a head for instance; None takes a ball of radius 0.5. Only its
            signed distance is read.
        levels, features, base_resolution, finest_resolution, log2_table, interpolation, backend: of the
            hash grid, see :class:`HashGrid`.
        hidden, layers, bfloat16: of the network, see :class:`Field`.
        bound: half edge of the cube, scene units.
        samples: largest number of samples of a ray.
        step: distance between them near the surface, scene units.
        occupancy_resolution: cells along an edge of the occupancy grid.
        deviation: start of v, where s = exp(10 v) per scene unit is learned (B.1: 0.3, so s = 20).
        residual: distance that one unit of the network's output is; ours. A learning rate that suits
            colours then moves the surface by hundredths of a unit per step, not by tenths. (A ball of
            24-pixel images came within a fifth of a pixel in 60 steps at 0.3, in 100 at 0.1.)
        epsilon: least reach of the differences that give normals and the eikonal term, scene units. While
            finer levels are still closed it is a cell of the finest open one (Li et al. 2023,
            "Neuralangelo", section 3.2: the gradient of a whole cell, not of the nearest corner).
        eikonal_points: at which the slope is measured after a render with a generator.
        generator: of the initial parameters.

    Raises:
        ValueError: a number out of range, or an unknown name.
    """

    def __init__(
        self,
        start: DensityPrior | None = None,
        *,
        levels: int = 14,
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
        samples: int = 96,
        step: float = 0.02,
        occupancy_resolution: int = 64,
        deviation: float = 0.3,
        residual: float = 0.2,
        epsilon: float = 0.005,
        eikonal_points: int = 1024,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if samples < 2 or step <= 0 or residual <= 0 or epsilon <= 0 or eikonal_points < 1:
            raise ValueError(
                "expected samples >= 2, step > 0, residual > 0, epsilon > 0 and eikonal_points >= 1; got "
                f"samples={samples}, step={step}, residual={residual}, epsilon={epsilon}, "
                f"eikonal_points={eikonal_points}"
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
        self.start = DensityPrior.blob() if start is None else start
        self.deviation = nn.Parameter(torch.tensor(float(deviation)))
        self.bound, self.samples, self.step = float(bound), samples, step
        self.residual, self.epsilon, self.eikonal_points = residual, epsilon, eikonal_points
        # A signed distance needs no memory: its slope bounds what one sample in a cell can miss.
        self.occupancy = OccupancyGrid(occupancy_resolution, bound=bound, decay=0.0)
        self._last: RayStatistics | None = None
        self._slope_points: Tensor | None = None

    # ---------------------------------------------------------------- the field

    @property
    def inverse_deviation(self) -> Tensor:
        """s, per scene unit: 1/s is the thickness of the surface's haze. At most e^9 (B.1's code: 1e6)."""
        return torch.exp((10 * self.deviation).clamp(-2.0, 9.0))

    def raw(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Signed distance ``(N,)`` and raw colour ``(N, 3)`` of scene points ``(N, 3)``."""
        out = self.field.raw(x)
        if self.start.kind == "blob":
            start = x.norm(dim=-1) - 0.5
        else:
            start = self.start.signed_distance(x).to(out.dtype)
        within = x.abs().amax(-1) - self.bound  # so a head that reaches the cube's border is closed there
        return torch.maximum(start + self.residual * out[:, 0], within), out[:, 1:]

    def signed_distance(self, x: Tensor) -> Tensor:
        """``(N, 3)`` scene points to ``(N,)`` scene units, negative inside."""
        return self.raw(x)[0]

    def density(self, x: Tensor) -> Tensor:
        """``(N, 3)`` scene points to ``(N,)``, that a ray meets which goes straight in: s (1 - Phi(s f))."""
        s = self.inverse_deviation
        return s * torch.sigmoid(-s * self.signed_distance(x))

    def albedo(self, x: Tensor) -> Tensor:
        """``(N, 3)`` scene points to ``(N, 3)`` colour in [0, 1]."""
        return torch.sigmoid(self.field.raw(x)[:, 1:])

    @property
    def colour_field(self) -> ColourField:
        """The albedo as a module that shares the parameters; the texture of what is made from it."""
        return ColourField(self.field)

    @property
    def reach(self) -> float:
        """Of the differences at the moment, scene units; see ``epsilon``."""
        grid = self.field.encoding
        cell = 2 * self.bound / float(grid.geometry.resolutions[grid.active_levels - 1])
        return max(self.epsilon, cell) if grid.active_levels < grid.levels else self.epsilon

    def around(self, x: Tensor) -> Tensor:
        """``(N, 4)`` signed distances at four points around each of ``(N, 3)``; see TETRAHEDRON."""
        offsets = torch.tensor(TETRAHEDRON, dtype=x.dtype, device=x.device)
        return self.signed_distance((x[:, None] + self.reach * offsets).view(-1, 3)).view(-1, 4)

    def slope(self, around: Tensor) -> Tensor:
        """Gradients ``(N, 3)`` from :meth:`around`, differentiable: for the light, and for the eikonal term."""
        return around @ torch.tensor(TETRAHEDRON, dtype=around.dtype, device=around.device) / (4 * self.reach)

    def normal(self, x: Tensor) -> Tensor:
        """Unit normals ``(N, 3)``, out of the head, at scene points ``(N, 3)``."""
        return nn.functional.normalize(self.slope(self.around(x)), dim=-1, eps=1e-6)

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
            generator: for training: samples at random places. None takes the middles of the intervals.

        Returns:
            Rendering with rgb, opacity, depth, albedo, and normal when shaded.

        Raises:
            ValueError: a background of another shape.
        """
        origins, directions = (a.reshape(-1, 3) for a in cameras.rays())
        behind = background_image(background, cameras)
        samples = self.occupancy.march(
            origins, directions, step=self.step, cap=self.samples, generator=generator
        )
        distance = self.signed_distance(samples.points)
        depths = section_depths(distance, self.inverse_deviation, samples.offsets)
        # The colour of a section is that of the surface in it, so its sharpness does not hang on the step.
        found = section_points(distance, samples)
        ones = torch.ones_like(depths)
        with torch.no_grad():
            weights = composite(depths, ones, found.t, ones[:, None], samples.offsets).weights
        chosen = (weights > FAINT).nonzero()[:, 0]
        colours = torch.zeros_like(samples.points).index_copy(0, chosen, self.albedo(found.points[chosen]))
        composited = composite(depths, ones, found.t, colours, samples.offsets)
        normal_of = self.normal if shaded else None
        rays = (origins, directions)
        rendering, self._last = lit_rendering(cameras, rays, composited, found, behind, normal_of, ambient)
        self._slope_points = None if generator is None else self._draw(samples.points, generator)
        return rendering

    def _draw(self, points: Tensor, generator: torch.Generator) -> Tensor:
        """``(eikonal_points, 3)``: three quarters from the samples of the rays, the rest from the cube."""
        near = self.eikonal_points * 3 // 4 if len(points) else 0
        drawn = torch.randint(0, max(1, len(points)), (near,), generator=generator).to(points.device)
        cube = torch.rand(self.eikonal_points - near, 3, generator=generator).to(points)
        return torch.cat([points[drawn], (cube * 2 - 1) * self.bound])

    # ---------------------------------------------------------------- training

    @torch.no_grad()
    def update_occupancy(self, step: int = 0, generator: torch.Generator | None = None) -> None:
        """Looks again where the surface is; call it every 16 steps or so. The first time looks everywhere."""
        self.occupancy.update(self._need, generator)

    def _need(self, x: Tensor) -> Tensor:
        """What the occupancy grid keeps: 0 in clear space, 1 near the surface, and a wall behind it.

        Near is where a section has an optical depth of 1 % (s f = 5), and two cells more, so that the
        surface is found again where it has moved to. The wall ends a ray; it stands where all of a cell is
        inside and light is down to e^-6.
        """
        f = self.signed_distance(x)
        cell, haze = 2 * self.bound / self.occupancy.resolution, 1 / float(self.inverse_deviation)
        wall = 3.0 / self.step  # two samples of it are the optical depth at which marching stops
        return torch.where(f < -1.8 * cell - 6 * haze, wall, (f < 2 * cell + 5 * haze).to(f))

    def open_bands(self, progress: float, *, start_level: int = 5, until: float = 0.5) -> None:
        """Progressive bands (method E.4): coarse levels first, all of them from ``until`` of the run on.

        Args:
            progress: of the run, 0 to 1.
            start_level: levels in use at the start; ours, as is the linear opening.
            until: progress at which the last one opens.
        """
        grid = self.field.encoding
        share = min(1.0, progress / until) if until > 0 else 1.0
        grid.active_levels = start_level + int(share * max(0, grid.levels - start_level))

    def regularisation(self, progress: float = 1.0, distortion: bool = True) -> dict[str, Tensor]:
        """Terms of the last render, unweighted scalars: those of :func:`.volume.ray_terms`, and

        * eikonal: mean of (|grad f| - 1)^2 (B.2: weight 0.1), of a render with a generator;
        * curvature: mean of |Laplacian of f|, per scene unit (Neuralangelo, equation 9), likewise.

        Args:
            progress: of the run, 0 to 1; the terms do not depend on it, ramps are the caller's.
            distortion: whether that term is wanted.

        Raises:
            RuntimeError: nothing was rendered yet.
        """
        terms = ray_terms(self._last, distortion)
        if self._slope_points is not None:
            around, middle = self.around(self._slope_points), self.signed_distance(self._slope_points)
            terms["eikonal"] = (self.slope(around).norm(dim=-1) - 1).square().mean()
            # The offsets' second moments are 4 I: the mean exceeds the middle by reach^2 / 2 times the Laplacian.
            terms["curvature"] = ((around.mean(-1) - middle) * (2 / self.reach**2)).abs().mean()
        return terms

    # ---------------------------------------------------------------- what it becomes

    def mesh(self, resolution: int = 96) -> Mesh:
        """The closed surface where the distance is 0, with vertex colours.

        Args:
            resolution: cells along an edge of the cube.

        Raises:
            ValueError: the distance is nowhere negative.
        """
        device = self.occupancy.density.device
        points, values = on_lattice(self.signed_distance, self.bound, resolution, device)
        if not (values < 0).any():
            raise ValueError(f"no surface: the signed distance is nowhere below {float(values.min()):.3g}")
        return lattice_mesh(points, values, self.albedo, "the mesh of the NeuS")
