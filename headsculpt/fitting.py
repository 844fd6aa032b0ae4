"""Reconstruction: posed images in, an object out.

:func:`fit` trains a NeRF or a NeuS on the pixels and, if asked for, makes a DMTet from the NeRF and refines
that on whole images; or it finds the colours of a mesh that is given. ``headsculpt.photographs`` holds the
data, ``headsculpt.fit_stages`` the settings and the two loops; ``headsculpt.transforms`` reads the images
from disk, ``headsculpt.fit_outputs`` writes what was found.

Letters: N images, H rows, W columns.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from headsculpt.cameras import Cameras
from headsculpt.devices import keep_freed_memory
from headsculpt.fit_checkpoint import FitCheckpoint
from headsculpt.fit_stages import (
    FitSettings,
    fit_field,
    fit_surface,
    new_nerf,
    new_neus,
    new_textured_mesh,
)
from headsculpt.meshes import Mesh
from headsculpt.photographs import Photographs, RayColumn, pixel_rays
from headsculpt.rendering import Rendering
from headsculpt.sculpting import Progress

if TYPE_CHECKING:
    from headsculpt.representations.dmtet import DMTet
    from headsculpt.representations.nerf import NeRF
    from headsculpt.representations.neus import NeuS
    from headsculpt.representations.textured_mesh import TexturedMesh

__all__ = [
    "LIGHTS",
    "REPRESENTATIONS",
    "FitSettings",
    "FittedObject",
    "Photographs",
    "fit",
    "pixel_rays",
    "psnr",
    "render_field",
]

REPRESENTATIONS = ("nerf", "neus", "dmtet", "texture")
LIGHTS = ("baked", "studio")
CHUNK = 1 << 15  # rays rendered at once where no gradient is wanted


@dataclass
class FittedObject:
    """What :func:`fit` leaves.

    Attributes:
        mesh: with vertex colours, in scene units; watertight, unless it was given.
        colour_field: ``(N, 3)`` scene points -> ``(N, 3)`` colour in [0, 1]; with baked light, as photographed.
        representation: that was asked for.
        field: the NeRF or the NeuS; None for ``"texture"``.
        surface: the DMTet or the mesh with its colours; None for a field.
        light: "baked" or "studio".
        held_out: indices of the images that were not trained on.
        psnr: dB on those, mean over images, for each representation; empty where none was held out.
        seconds: that the fit took.
    """

    mesh: Mesh
    colour_field: nn.Module
    representation: str
    field: NeRF | NeuS | None
    surface: DMTet | TexturedMesh | None
    light: str
    held_out: list[int] = dataclass_field(default_factory=list)
    psnr: dict[str, float] = dataclass_field(default_factory=dict)
    seconds: float = 0.0

    @torch.no_grad()
    def render(self, cameras: Cameras, background: Tensor | None = None) -> Rendering:
        """The last representation from these B views, over ``background (B, 3)`` or white."""
        if self.surface is not None:
            return self.surface.render(cameras, background=background, shaded=self.light == "studio")
        assert self.field is not None
        return render_field(self.field, cameras, background, self.light)


def fit(
    images: Tensor,
    cameras: Cameras,
    *,
    representation: str = "dmtet",
    steps: int = 1500,
    seed: int = 0,
    light: str = "baked",
    hold_out: int = 8,
    mesh: Mesh | None = None,
    settings: FitSettings | None = None,
    progress: Callable[[Progress], None] | None = None,
    checkpoint: FitCheckpoint | None = None,
) -> FittedObject:
    """Reconstructs an object from images with known cameras.

    Args:
        images: ``(N, H, W, 3 or 4)`` float in [0, 1]; the fourth channel is the object's opacity. Without it
            the background must be one plain colour, which is read from the images' borders.
        cameras: N views of H rows and W columns, with the object in [-1, 1]^3.
        representation: "nerf"; "neus", a surface as a signed distance; "dmtet", a NeuS first, then the
            surface made from it; or "texture", the colours of ``mesh`` alone.
        steps: of the optimiser, all stages together.
        seed: of all randomness.
        light: "baked" takes the colours as they are, whatever the light; with "studio" the object was lit by
            :func:`headsculpt.rendering.shading`, and the colour that is found is albedo.
        hold_out: every so manyth image is only for measuring; 0 trains on all.
        mesh: whose colours are wanted, in scene units; for "texture" only.
        settings: sizes, rates and weights.
        progress: called after each step.
        checkpoint: to write to, and to go on from; the result is to the bit that of an undisturbed fit.

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
    _check(images, cameras, representation, steps, light, hold_out, mesh)
    begin = time.monotonic()
    keep_freed_memory(images.device)
    generator = torch.Generator().manual_seed(seed)
    photographs = Photographs(images, cameras.to(images.device))
    test = [i for i in range(len(images)) if hold_out and i % hold_out == hold_out - 1]
    train = photographs.some([i for i in range(len(images)) if i not in test])
    mesh_steps = min(round(steps * settings.mesh_share), steps - 1) if representation == "dmtet" else 0
    first = "neus" if representation == "dmtet" else representation
    report = _Report(progress, {first: steps - mesh_steps, "mesh": mesh_steps})
    checkpoint = checkpoint or FitCheckpoint(None)
    checkpoint.begin(
        {
            "representation": representation,
            "steps": steps,
            "seed": seed,
            "light": light,
            "hold_out": hold_out,
            "settings": str(settings),
            "images": f"{len(images)} of {images.shape[1]}x{images.shape[2]}, mean {float(images.double().mean()):.9f}",
        }
    )
    common = (settings, light, generator, report, checkpoint)

    figures: dict[str, float] = {}
    trained: NeRF | NeuS | None = None
    surface: DMTet | TexturedMesh | None = None
    if mesh is not None:
        surface = new_textured_mesh(mesh, train, settings, generator)
        fit_surface(surface, train, steps, *common)
        colour, result = surface.colour_field, surface.mesh()
    else:
        from headsculpt.representations.dmtet import DMTet

        new_field = new_neus if first == "neus" else new_nerf
        trained = new_field(train, settings, generator)
        fit_field(trained, train, steps - mesh_steps, *common)
        if test:
            figures[first] = psnr(partial(render_field, trained, light=light), photographs.some(test))
        # A colour field of its own: the field's shares its network with the shape, which should stay as it is.
        colour = copy.deepcopy(trained.colour_field)
        dmtet = DMTet.from_field(trained, resolution=settings.tet_resolution, colour_field=colour, bound=1.0)
        if representation == "dmtet":
            surface = dmtet
            fit_surface(dmtet, train, mesh_steps, *common)
        result = dmtet.mesh().checked("the reconstructed mesh")
    found = FittedObject(result, colour, representation, trained, surface, light, test, figures)
    if test and surface is not None:
        figures[representation] = psnr(found.render, photographs.some(test))
    found.seconds = time.monotonic() - begin
    return found


# ---------------------------------------------------------------- measuring


@torch.no_grad()
def render_field(
    trained: NeRF | NeuS, cameras: Cameras, background: Tensor | None, light: str
) -> Rendering:
    """A field's images, CHUNK rays at a time: rgb and opacity."""
    shape = (len(cameras), cameras.height, cameras.width)
    pixels = shape[1] * shape[2]
    device = cameras.camera_to_world.device
    behind = torch.ones(shape[0], 3, device=device) if background is None else background
    colours, opacities = [], []
    for part in torch.arange(shape[0] * pixels, device=device).split(CHUNK):
        view = RayColumn(*pixel_rays(cameras, part))
        rendering = trained.render(
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
        left = self.steps[stage] - step + (self.steps["mesh"] if stage != "mesh" else 0)
        if self.callback is not None:
            self.callback(Progress(stage, step, self.steps[stage], loss, now - self.begin, left * self.pace))


def _check(
    images: Tensor,
    cameras: Cameras,
    representation: str,
    steps: int,
    light: str,
    hold_out: int,
    mesh: Mesh | None,
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
    if (mesh is None) == (representation == "texture"):
        if mesh is None:
            raise ValueError("representation 'texture' needs a mesh, whose colours are to be found")
        raise ValueError(f"representation {representation!r} takes no mesh; 'texture' does")
