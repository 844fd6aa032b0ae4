"""The last look: the diffusion model repaints the mesh view by view, and the mesh learns each picture.

Score distillation asks for something a little different in every step, and what its requests do not agree on
(the rims of spectacles, a pupil) comes out as their mean. Here each view is asked once: its render is noised and
sampled back in several steps (SDEdit, Meng et al. 2021, arXiv 2108.01073), and the colours are fitted to the
result (DreamGaussian's second stage, Tang et al. 2023, arXiv 2309.16653, section 3.3). The views come in order,
the face from the front first, with less noise each time, so that later ones keep what earlier ones decided (as
TEXTure does, Richardson et al. 2023, arXiv 2302.01721). Views, order and noise levels are ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from headsculpt.cameras import Cameras, framed
from headsculpt.config import SculptConfig
from headsculpt.guidance.score_distillation import at_size, image_loss
from headsculpt.rendering import Rendering
from headsculpt.sculpting_stages import FineStage, drop_bad_gradients, split_parameters

if TYPE_CHECKING:
    from headsculpt.guidance.score_distillation import Guidance
    from headsculpt.representations.surface_image import SeenSurface

# (azimuth, elevation, half height), angles in degrees: the face from near, then the bust from all around and so far
# off that its rim is in frame (what no view shows is spoilt by what shares its table entries), once from below for
# the chin's underside, a little from above where the top is to be seen, then the face once more.
VIEWS = (
    (0.0, 5.0, 0.42), (32.0, 5.0, 0.42), (-32.0, 5.0, 0.42), (60.0, 5.0, 0.48), (-60.0, 5.0, 0.48), (0.0, -12.0, 0.6),
    (0.0, 5.0, 1.05), (90.0, 5.0, 0.95), (-90.0, 5.0, 0.95), (135.0, 10.0, 1.05), (-135.0, 10.0, 1.05),
    (180.0, 30.0, 0.95), (40.0, 30.0, 1.05), (-40.0, 30.0, 1.05),
    (0.0, 5.0, 0.42),
)  # fmt: skip
# What is behind shares the colour field's tables with the face, so until their turn comes these views are learnt
# as they are. Those of the face are not: they would keep what the first view has just replaced.
BEHIND_DEG = 90.0
BACKGROUND = 0.85

# (step, loss) after each step
Report = Callable[[int, float], None]


def refine_colours(
    config: SculptConfig, fine: FineStage, guidance: Guidance, report: Report = lambda step, loss: None
) -> None:
    """Repaints the colour field of the fine stage's mesh; its shape stays.

    Args:
        config: ``config.refine`` has the numbers; the seed is the only randomness, so that a run that is
            interrupted here does it again to the same end.
        fine: changed in place.
        guidance: asked once for each view, with a progress that rises from 0 to nearly 1; its record's target is the
            picture that is learnt.
        report: called after each step.

    Raises:
        ValueError: the guidance's record holds no target picture.
    """
    refine, device = config.refine, fine.dmtet.sdf.device
    generator = torch.Generator().manual_seed(config.seed)
    grid, network = split_parameters(fine.dmtet.colour_field)
    rates = (refine.lr_grid, refine.lr_network)
    optimiser = torch.optim.Adam([{"params": grid}, {"params": network}], betas=(0.9, 0.99), eps=1e-15)

    views = [_view(config, fine, number) for number in range(len(VIEWS))]  # the shape stays, so once and for all
    targets: dict[int, Tensor] = {}
    kept: dict[int, Tensor] = {}
    for number, (azimuth, _, _) in enumerate(VIEWS):
        if abs(azimuth) >= BEHIND_DEG:
            kept[number] = views[number].rendering(fine).rgb.detach()
    step = 0
    for number in range(len(VIEWS)):
        # Falls fast at first: after a few views most of the face is decided.
        progress = 1 - (1 - number / len(VIEWS)) ** 2
        targets[number] = _repainted(views[number], fine, guidance, progress, generator)
        kept.pop(number, None)
        for repeat in range(refine.steps):
            for group, rate in zip(optimiser.param_groups, rates, strict=True):
                group["lr"] = rate * (1 - 0.7 * repeat / refine.steps)
            # The new view, one of those before it, and one whose turn comes later.
            loss = torch.zeros((), device=device)
            for i in sorted({number, _any(list(targets), generator)}):
                image = views[i].rendering(fine).rgb
                loss = loss + image_loss(at_size(image, targets[i].shape[1]), targets[i])
                loss = loss + refine.chroma_weight * chroma_variation(image)
            if kept:
                i = _any(list(kept), generator)
                loss = loss + refine.keep_weight * image_loss(views[i].rendering(fine).rgb, kept[i])
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            drop_bad_gradients(fine.module)
            optimiser.step()
            step += 1
            report(step, float(loss.detach()))


def chroma_variation(image: Tensor) -> Tensor:
    """Total variation (Rudin et al. 1992) of an image's colours less their mean, its brightness; a scalar.

    The renders are larger than the pictures they are compared with, so what is finer than a pixel of the picture is
    asked for by nobody: it stays the noise that it began as, which on grey cloth and white hair shows as coloured
    specks. Brightness is left alone, where the shading of folds and strands is.

    Args:
        image: ``(B, H, W, 3)``.
    """
    chroma = image - image.mean(-1, keepdim=True)
    down, across = chroma[:, 1:] - chroma[:, :-1], chroma[:, :, 1:] - chroma[:, :, :-1]
    return down.abs().mean() + across.abs().mean()


def refine_steps(config: SculptConfig) -> int:
    """Steps of the whole refinement."""
    return config.refine.steps * len(VIEWS)


@dataclass
class _View:
    """One of the views, with what it shows of the shape."""

    camera: Cameras
    background: Tensor
    seen: SeenSurface

    def rendering(self, fine: FineStage) -> Rendering:
        """In the colours of the moment."""
        rendering, _ = self.seen.coloured(fine.dmtet.colour_field, background=self.background)
        rendering.background = self.background
        return rendering


@torch.no_grad()
def _view(config: SculptConfig, fine: FineStage, number: int) -> _View:
    azimuth, elevation, half_height = VIEWS[number]
    size, device = config.fine.render_size, fine.dmtet.sdf.device
    camera = framed([azimuth], elevation, half_height, height=size, width=size).to(device)
    return _View(camera, torch.full((1, 3), BACKGROUND, device=device), fine.dmtet.see(camera))


@torch.no_grad()
def _repainted(
    view: _View, fine: FineStage, guidance: Guidance, progress: float, generator: torch.Generator
) -> Tensor:
    """``(1, h, w, 3)``: what the model makes of the mesh from there."""
    result: Any = guidance(view.rendering(fine), view.camera, progress, generator)
    record = result[1] if isinstance(result, tuple) else None
    if record is None or record.target is None:
        raise ValueError(
            "refinement learns pictures, and this guidance gives none (a GuidanceRecord with a target); "
            "set refine.steps=0"
        )
    return record.target


def _any(numbers: list[int], generator: torch.Generator) -> int:
    return numbers[int(torch.randint(len(numbers), (), generator=generator))]
