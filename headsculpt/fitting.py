"""Reconstruction: posed images in, an object out.

:func:`fit` trains a NeRF on the pixels and, if asked for, makes a DMTet from it and refines that on whole
images. Read it top to bottom: :class:`Photographs` holds the data, :func:`fit_nerf` and :func:`fit_mesh` are
the two loops. ``headsculpt.transforms`` reads the images from disk, ``headsculpt.fit_outputs`` writes
what was found.

Letters: N images, H rows, W columns, R rays.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from headsculpt.cameras import Cameras
from headsculpt.meshes import Mesh
from headsculpt.rendering import Rendering
from headsculpt.sculpting import Progress, drop_bad_gradients, split_parameters, weighted_sum
from headsculpt.transforms import opacity_masks, visual_hull

if TYPE_CHECKING:
    from headsculpt.representations.density_prior import DensityPrior
    from headsculpt.representations.dmtet import DMTet
    from headsculpt.representations.nerf import NeRF

REPRESENTATIONS = ("nerf", "dmtet")
LIGHTS = ("baked", "studio")
CHUNK = 1 << 15  # rays rendered at once where no gradient is wanted


@dataclass(frozen=True)
class FitSettings:
    """Settings of :func:`fit`; the values are ours.

    Attributes:
        rays: pixels per step of the NeRF.
        near_share: of those, from pixels on or beside the object, where the images have opacity.
        samples, step: of the NeRF's rays, see :class:`.nerf.NeRF`; step is in scene units.
        hash_levels, hash_finest, hash_log2_table, hidden: of its hash grid and network.
        occupancy_resolution, hull_resolution: cells along an edge of the cube.
        lr_grid, lr_network, lr_geometry: learning rates of hash tables, networks, and the surface.
        opacity_weight: of the squared error of the opacity.
        distortion_weight: of Mip-NeRF 360's term, against fog.
        mesh_share: of the steps of ``"dmtet"``, those on the surface.
        mesh_batch: images per step of the surface.
        tet_resolution: cells along the longest side of the object.
        laplacian_weight, normal_weight: smoothness of the surface.
    """

    rays: int = 4096
    near_share: float = 0.75
    samples: int = 128
    step: float = 0.0125
    hash_levels: int = 14
    hash_finest: int = 1024
    hash_log2_table: int = 17
    hidden: int = 48
    occupancy_resolution: int = 64
    hull_resolution: int = 72
    lr_grid: float = 1e-2
    lr_network: float = 5e-3
    lr_geometry: float = 1e-3
    opacity_weight: float = 0.2
    distortion_weight: float = 2e-3
    mesh_share: float = 0.3
    mesh_batch: int = 2
    tet_resolution: int = 112
    laplacian_weight: float = 0.2
    normal_weight: float = 0.01


@dataclass
class FittedObject:
    """What :func:`fit` leaves.

    Attributes:
        mesh: watertight, with vertex colours, in scene units.
        colour_field: ``(N, 3)`` scene points -> ``(N, 3)`` colour in [0, 1]; with baked light, as photographed.
        nerf: the field.
        dmtet: the surface, or None for a representation of ``"nerf"``.
        light: "baked" or "studio".
        held_out: indices of the images that were not trained on.
        psnr: dB on those, mean over images, for each representation; empty where none was held out.
        seconds: that the fit took.
    """

    mesh: Mesh
    colour_field: nn.Module
    nerf: NeRF
    dmtet: DMTet | None
    light: str
    held_out: list[int] = field(default_factory=list)
    psnr: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    @torch.no_grad()
    def render(self, cameras: Cameras, background: Tensor | None = None) -> Rendering:
        """The last representation from these B views, over ``background (B, 3)`` or white."""
        if self.dmtet is None:
            return render_field(self.nerf, cameras, background, self.light)
        return self.dmtet.render(cameras, background=background, shaded=self.light == "studio")


def fit(
    images: Tensor,
    cameras: Cameras,
    *,
    representation: str = "dmtet",
    steps: int = 1500,
    seed: int = 0,
    light: str = "baked",
    hold_out: int = 8,
    settings: FitSettings | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> FittedObject:
    """Reconstructs an object from images with known cameras.

    Args:
        images: ``(N, H, W, 3 or 4)`` float in [0, 1]; the fourth channel is the object's opacity. Without it
            the background must be one plain colour, which is read from the images' borders.
        cameras: N views of H rows and W columns, with the object in [-1, 1]^3.
        representation: "nerf", or "dmtet": a NeRF first, then the surface made from it.
        steps: of the optimiser, both stages together.
        seed: of all randomness.
        light: "baked" takes the colours as they are, whatever the light; with "studio" the object was lit by
            :func:`headsculpt.rendering.shading`, and the colour that is found is albedo.
        hold_out: every so manyth image is only for measuring; 0 trains on all.
        settings: sizes, rates and weights.
        progress: called after each step.

    Returns:
        the object, on the device of ``images``.

    Raises:
        ValueError: an argument that does not fit, silhouettes that agree nowhere, or no surface found.

    Example:
        >>> from headsculpt.transforms import read_posed_images
        >>> posed = read_posed_images("lego/train", "lego/transforms_train.json")  # doctest: +SKIP
        >>> fit(posed.images, posed.cameras, representation="nerf").psnr  # doctest: +SKIP
    """
    settings = settings or FitSettings()
    _check(images, cameras, representation, steps, light, hold_out)
    begin = time.monotonic()
    generator = torch.Generator().manual_seed(seed)
    photographs = Photographs(images, cameras.to(images.device))
    test = [i for i in range(len(images)) if hold_out and i % hold_out == hold_out - 1]
    train = photographs.some([i for i in range(len(images)) if i not in test])
    mesh_steps = min(round(steps * settings.mesh_share), steps - 1) if representation == "dmtet" else 0
    report = _Report(progress, {"nerf": steps - mesh_steps, "mesh": mesh_steps})

    nerf = new_nerf(train, settings, generator)
    fit_nerf(nerf, train, steps - mesh_steps, settings, light, generator, report)
    figures = {}
    if test:
        figures["nerf"] = psnr(lambda c, b: render_field(nerf, c, b, light), photographs.some(test))

    from headsculpt.representations.dmtet import DMTet

    # A colour field of its own: the NeRF's shares its network with the density, which should stay as it is.
    colour = copy.deepcopy(nerf.colour_field)
    dmtet = DMTet.from_field(nerf, resolution=settings.tet_resolution, colour_field=colour, bound=1.0)
    if representation == "dmtet":
        fit_mesh(dmtet, train, mesh_steps, settings, light, generator, report)
        shaded = light == "studio"
        if test:
            render = lambda c, b: dmtet.render(c, background=b, shaded=shaded)  # noqa: E731
            figures["dmtet"] = psnr(render, photographs.some(test))
    return FittedObject(
        dmtet.mesh().checked("the reconstructed mesh"),
        dmtet.colour_field,
        nerf,
        dmtet if representation == "dmtet" else None,
        light,
        test,
        figures,
        time.monotonic() - begin,
    )


class Photographs:
    """Images with cameras, and the pixels to draw from.

    Args:
        images: ``(N, H, W, 3 or 4)`` float in [0, 1].
        cameras: N views.
        background: ``(3,)`` plain colour behind images without opacity; read from their borders if None.
    """

    def __init__(self, images: Tensor, cameras: Cameras, background: Tensor | None = None) -> None:
        self.masks = opacity_masks(images)
        self.images = images if self.masks is not None else images[..., :3]
        self.cameras = cameras
        if background is None and self.masks is None and len(images):
            sides = (images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1])
            background = torch.cat([side.reshape(-1, images.shape[-1]) for side in sides])[:, :3].median(0)[0]
        self.background = torch.ones(3).to(images) if background is None else background
        self._near = torch.empty(0, dtype=torch.int64)
        if self.masks is not None and len(images):
            margin = max(1, max(images.shape[1:3]) // 32)
            wide = nn.functional.max_pool2d(self.masks[:, None].float(), 2 * margin + 1, 1, margin)
            self._near = (wide.reshape(-1) > 0).nonzero()[:, 0].cpu()

    def __len__(self) -> int:
        return len(self.images)

    def some(self, index: list[int]) -> Photographs:
        """The images with these numbers."""
        return Photographs(self.images[index], self.cameras[index], self.background)

    def pixels(self, count: int, near_share: float, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Random pixels: ray origins and directions, each ``(R, 3)``, and values ``(R, 3 or 4)``."""
        total = self.images.shape[0] * self.images.shape[1] * self.images.shape[2]
        near = round(count * near_share) if len(self._near) else 0
        index = torch.randint(0, total, (count - near,), generator=generator)
        if near:
            drawn = torch.randint(0, len(self._near), (near,), generator=generator)
            index = torch.cat([index, self._near[drawn]])
        index = index.to(self.images.device)
        origins, directions = pixel_rays(self.cameras, index)
        return origins, directions, self.images.reshape(total, -1)[index]

    def over(self, values: Tensor, background: Tensor) -> Tensor:
        """Colours ``(..., 3)`` of ``values (..., 3 or 4)`` before a background that broadcasts to them."""
        if self.masks is None:
            return values
        alpha = values[..., 3:]
        return values[..., :3] * alpha + background * (1 - alpha)

    def behind(self, count: int, generator: torch.Generator) -> Tensor:
        """``(count, 3)`` backgrounds to train with: random ones where opacity is known, so that none blends in."""
        if self.masks is None:
            return self.background.expand(count, 3)
        return torch.rand(count, 3, generator=generator).to(self.images)


def pixel_rays(cameras: Cameras, index: Tensor) -> tuple[Tensor, Tensor]:
    """Rays through the centres of pixels, as in :meth:`Cameras.rays` but only of those asked for.

    Args:
        cameras: N views.
        index: ``(R,)`` int64 into the flattened ``N * H * W``.

    Returns:
        origins and unit directions, each ``(R, 3)``.
    """
    height, width = cameras.height, cameras.width
    image = index // (height * width)
    row, column = index // width % height, index % width
    half = torch.tan(0.5 * cameras.fov_y_rad)[image]
    y = (1 - 2 * (row + 0.5) / height) * half
    x = (2 * (column + 0.5) / width - 1) * half * (width / height)
    pose = cameras.camera_to_world[image]
    directions = (pose[:, :3, :3] @ torch.stack([x, y, -torch.ones_like(x)], -1)[..., None])[..., 0]
    return pose[:, :3, 3], nn.functional.normalize(directions, dim=-1)


class _RayColumn(Cameras):
    """Any R rays as a picture of R rows and one column, which is what NeRF.render takes; its depth is void."""

    def __init__(self, origins: Tensor, directions: Tensor) -> None:
        nothing = origins.new_zeros(1)
        pose = torch.eye(4, device=origins.device)[None]
        super().__init__(pose, nothing, nothing, nothing, height=len(origins), width=1)
        self._origins, self._directions = origins, directions

    def rays(self) -> tuple[Tensor, Tensor]:
        return self._origins[None, :, None], self._directions[None, :, None]


def new_nerf(photographs: Photographs, settings: FitSettings, generator: torch.Generator) -> NeRF:
    """A NeRF that starts as the visual hull, or as a ball where there are no silhouettes."""
    from headsculpt.representations.nerf import NeRF

    prior = hull_prior(photographs, settings.hull_resolution)
    nerf = NeRF(
        prior,
        levels=settings.hash_levels,
        finest_resolution=settings.hash_finest,
        log2_table=settings.hash_log2_table,
        hidden=settings.hidden,
        samples=settings.samples,
        step=settings.step,
        occupancy_resolution=settings.occupancy_resolution,
        reach=1.3 if prior.kind == "blob" else 0.1,  # from the ball to the cube's corners; hardly off the hull
        generator=generator,
    )
    return nerf.to(photographs.images.device)


def hull_prior(photographs: Photographs, resolution: int) -> DensityPrior:
    """The visual hull as a density to start from: thin enough to be carved, and nothing lies outside it."""
    from scipy.ndimage import distance_transform_edt

    from headsculpt.representations.density_prior import DensityPrior

    if photographs.masks is None:
        return DensityPrior.blob(inside=2.0)
    axis = torch.linspace(-1, 1, resolution, device=photographs.images.device)
    cell = 2 / (resolution - 1)
    points = torch.cartesian_prod(axis, axis, axis)
    hull = visual_hull(points, cell, photographs.cameras, photographs.masks)
    inside = hull.view((resolution,) * 3).cpu().numpy()
    # It counts to the nearest point of the other side; the surface lies half a cell before that.
    distance = distance_transform_edt(~inside) - distance_transform_edt(inside)
    distance = (distance - 0.5 * torch.sign(torch.from_numpy(distance)).numpy()) * cell
    return DensityPrior(torch.from_numpy(distance), inside=1.0, outside=6.0, slope=60.0)


def fit_nerf(
    nerf: NeRF,
    photographs: Photographs,
    steps: int,
    settings: FitSettings,
    light: str,
    generator: torch.Generator,
    report: Callable[[str, int, float], None] = lambda stage, step, loss: None,
) -> None:
    """Trains a NeRF on random pixels."""
    grid, network = split_parameters(nerf)
    groups = [{"params": grid, "lr": settings.lr_grid}, {"params": network, "lr": settings.lr_network}]
    optimiser = torch.optim.Adam(groups, betas=(0.9, 0.99), eps=1e-15)
    weights = {"distortion": settings.distortion_weight}
    for step in range(steps):
        if step % 16 == 0:
            nerf.update_occupancy(step, generator)
        origins, directions, values = photographs.pixels(settings.rays, settings.near_share, generator)
        background = photographs.behind(len(values), generator)
        view = _RayColumn(origins, directions)
        rendering = nerf.render(
            view, background=background[None, :, None], shaded=light == "studio", generator=generator
        )
        loss = mse_loss(rendering.rgb[0, :, 0], photographs.over(values, background))
        total = loss + weighted_sum(nerf.regularisation(step / steps), weights)
        if photographs.masks is not None:
            total = total + settings.opacity_weight * mse_loss(rendering.opacity[0, :, 0], values[:, 3:])
        _step(optimiser, total, nerf, step / steps)
        report("nerf", step + 1, float(loss.detach()))
    nerf.update_occupancy(0, None)  # for renders: all cells, at their centres


def fit_mesh(
    dmtet: DMTet,
    photographs: Photographs,
    steps: int,
    settings: FitSettings,
    light: str,
    generator: torch.Generator,
    report: Callable[[str, int, float], None] = lambda stage, step, loss: None,
) -> None:
    """Refines a surface and its colours on whole images."""
    grid, network = split_parameters(dmtet.colour_field)
    colour = {id(p) for p in dmtet.colour_field.parameters()}
    groups = [
        {"params": [p for p in dmtet.parameters() if id(p) not in colour], "lr": settings.lr_geometry},
        {"params": grid, "lr": 0.5 * settings.lr_grid},
        {"params": network, "lr": 0.5 * settings.lr_network},
    ]
    optimiser = torch.optim.Adam(groups, betas=(0.9, 0.99), eps=1e-15)
    weights = {"laplacian": settings.laplacian_weight, "normal": settings.normal_weight}
    order: list[int] = []
    for step in range(steps):
        if len(order) < settings.mesh_batch:
            order += torch.randperm(len(photographs), generator=generator).tolist()
        chosen, order = order[: settings.mesh_batch], order[settings.mesh_batch :]
        values = photographs.images[chosen]
        background = photographs.behind(len(chosen), generator)
        rendering = dmtet.render(
            photographs.cameras[chosen], background=background, shaded=light == "studio"
        )
        loss = mse_loss(rendering.rgb, photographs.over(values, background[:, None, None]))
        total = loss + weighted_sum(dmtet.regularisation(), weights)
        if photographs.masks is not None:
            total = total + settings.opacity_weight * mse_loss(rendering.opacity, values[..., 3:])
        _step(optimiser, total, dmtet, step / steps)
        report("mesh", step + 1, float(loss.detach()))


def _step(optimiser: torch.optim.Optimizer, loss: Tensor, module: nn.Module, progress: float) -> None:
    """One step; rates rise over the first 3 %, then fall exponentially to a thirtieth (ours)."""
    factor = min(1.0, 0.1 + progress / 0.03) * 0.033**progress
    for group in optimiser.param_groups:
        group.setdefault("base_lr", group["lr"])
        group["lr"] = group["base_lr"] * factor
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    drop_bad_gradients(module)
    optimiser.step()


# ---------------------------------------------------------------- measuring


@torch.no_grad()
def render_field(nerf: NeRF, cameras: Cameras, background: Tensor | None, light: str) -> Rendering:
    """A NeRF's images, CHUNK rays at a time: rgb and opacity."""
    shape = (len(cameras), cameras.height, cameras.width)
    pixels = shape[1] * shape[2]
    device = cameras.camera_to_world.device
    behind = torch.ones(shape[0], 3, device=device) if background is None else background
    colours, opacities = [], []
    for part in torch.arange(shape[0] * pixels, device=device).split(CHUNK):
        view = _RayColumn(*pixel_rays(cameras, part))
        rendering = nerf.render(
            view, background=behind[part // pixels][None, :, None], shaded=light == "studio"
        )
        colours.append(rendering.rgb[0, :, 0])
        opacities.append(rendering.opacity[0, :, 0])
    return Rendering(torch.cat(colours).view(*shape, 3), torch.cat(opacities).view(*shape, 1))


@torch.no_grad()
def psnr(render: Callable[[Cameras, Tensor], Rendering], photographs: Photographs) -> float:
    """Peak signal-to-noise ratio in dB, mean over the images, over white or over their own background."""
    total = 0.0
    for index in range(len(photographs)):
        rgb = render(photographs.cameras[[index]], photographs.background[None]).rgb[0]
        truth = photographs.over(photographs.images[index], photographs.background)
        total += -10 * float(torch.log10(mse_loss(rgb, truth).clamp_min(1e-10)))
    return total / max(1, len(photographs))


class _Report:
    """Turns steps into :class:`Progress` for the caller."""

    def __init__(self, callback: Callable[[Progress], None] | None, steps: dict[str, int]) -> None:
        self.callback, self.steps = callback, steps
        self.begin = self.last = time.monotonic()
        self.pace = 0.0

    def __call__(self, stage: str, step: int, loss: float) -> None:
        now = time.monotonic()
        spent, self.last = now - self.last, now
        self.pace = spent if self.pace == 0 else 0.95 * self.pace + 0.05 * spent
        left = self.steps[stage] - step + (self.steps["mesh"] if stage == "nerf" else 0)
        if self.callback is not None:
            self.callback(Progress(stage, step, self.steps[stage], loss, now - self.begin, left * self.pace))


def _check(
    images: Tensor, cameras: Cameras, representation: str, steps: int, light: str, hold_out: int
) -> None:
    if not isinstance(images, Tensor) or not images.is_floating_point():
        kind = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"images must be one float tensor (N, H, W, 3 or 4) in [0, 1]; got {kind}")
    shape = tuple(images.shape)
    if images.dim() != 4 or shape[3] not in (3, 4) or min(shape) == 0:
        raise ValueError(f"images must be (N, H, W, 3 or 4), none of them 0; got {shape}")
    wanted = (len(cameras), cameras.height, cameras.width)
    if shape[:3] != wanted:
        raise ValueError(f"images are (N, H, W) = {shape[:3]}, but the cameras are {wanted}")
    finite = torch.isfinite(images).flatten(1).all(1)
    if not finite.all():
        raise ValueError(f"image {int((~finite).nonzero()[0])} holds values that are not finite")
    if float(images.min()) < 0 or float(images.max()) > 1:
        raise ValueError(
            f"images must lie in [0, 1]; got {float(images.min()):.3g} to {float(images.max()):.3g}"
        )
    if not torch.isfinite(cameras.camera_to_world).all():
        raise ValueError("a camera holds numbers that are not finite")
    far = cameras.origins.norm(dim=-1)
    if float(far.max()) > cameras.far - 2:
        raise ValueError(
            f"camera {int(far.argmax())} is {float(far.max()):.3g} units from the object; expected at most "
            f"{cameras.far - 2:g}: scale the scene so that the object fits in [-1, 1]^3"
        )
    if representation not in REPRESENTATIONS:
        raise ValueError(f"representation must be one of {', '.join(REPRESENTATIONS)}; got {representation!r}")
    if light not in LIGHTS:
        raise ValueError(f"light must be one of {', '.join(LIGHTS)}; got {light!r}")
    if steps < 1 or hold_out < 0 or hold_out == 1:
        raise ValueError(
            f"expected steps >= 1, and hold_out 0 or at least 2; got steps={steps}, hold_out={hold_out}"
        )
