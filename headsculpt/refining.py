"""The last look: the diffusion model repaints the mesh view by view, and the mesh keeps each picture.

Score distillation asks for something a little different in every step, and what its requests do not agree on
(the rims of spectacles, a pupil) comes out as their mean. Here each view is asked once: its render is noised and
sampled back in several steps (SDEdit, Meng et al. 2021, arXiv 2108.01073), and the result is painted on the surface
that it shows (:mod:`headsculpt.representations.painted`). The views come in order, in two rounds with less noise each
time, so that later ones keep what earlier ones decided (as TEXTure does, Richardson et al. 2023, arXiv 2302.01721). The
bust comes before the face: a picture of a face from near cuts its hat off, and would paint hair on what is left of it.
Views, order and noise levels are ours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from headsculpt.cameras import framed
from headsculpt.config import SculptConfig
from headsculpt.representations.painted import PaintedColours
from headsculpt.sculpting_stages import FineStage

if TYPE_CHECKING:
    from headsculpt.guidance.score_distillation import Guidance
    from headsculpt.priors.upscaler import Upscaler

# (azimuth, elevation, half height), angles in degrees: the bust from the front, from a little above where the top is to
# be seen, and from all around, so far off that its rim is in frame; then the face from near, once from below for the
# chin's underside, and from the front once more.
BUST = (
    (0.0, 5.0, 1.05), (40.0, 30.0, 1.05), (-40.0, 30.0, 1.05), (90.0, 5.0, 1.05), (-90.0, 5.0, 1.05),
    (135.0, 10.0, 1.05), (-135.0, 10.0, 1.05), (180.0, 30.0, 1.05),
)  # fmt: skip
FACE = (
    (0.0, 5.0, 0.42), (32.0, 5.0, 0.42), (-32.0, 5.0, 0.42), (60.0, 5.0, 0.48), (-60.0, 5.0, 0.48), (0.0, -12.0, 0.6),
    (0.0, 5.0, 0.42),
)  # fmt: skip
VIEWS = BUST + FACE
BACKGROUND = 0.85

# How many views are painted, after each.
Report = Callable[[int], None]


@torch.no_grad()
def refine_colours(
    config: SculptConfig,
    fine: FineStage,
    guidance: Guidance,
    report: Report = lambda view: None,
    upscaler: Upscaler | None = None,
) -> None:
    """Paints the fine stage's mesh; its shape stays.

    Args:
        config: ``config.refine`` has the numbers; the seed is the only randomness, so that a run that is
            interrupted here does it again to the same end.
        fine: its mesh gets a :class:`~headsculpt.representations.painted.PaintedColours`, on what it had.
        guidance: asked once for each view, with the progress of :func:`progress_at`; its record's target is the
            picture that is painted.
        report: called after each view.
        upscaler: makes each picture larger before it is painted.

    Raises:
        ValueError: the guidance's record holds no target picture.
    """
    generator = torch.Generator().manual_seed(config.seed)
    painted = PaintedColours(fine.dmtet.colour_field)
    fine.dmtet.colour_field = painted
    views = VIEWS[: config.refine.views]
    for number, (azimuth, elevation, half_height) in enumerate(views):
        size, device = config.fine.render_size, fine.dmtet.sdf.device
        camera = framed([azimuth], elevation, half_height, height=size, width=size).to(device)
        seen = fine.dmtet.see(camera)
        background = torch.full((1, 3), BACKGROUND, device=device)
        rendering, _ = seen.coloured(painted, background=background)
        rendering.background = background
        target = _target(guidance(rendering, camera, progress_at(number), generator))
        drawn = target.shape[1]
        if upscaler is not None:
            target = upscaler.upscaled(target)
            if target.shape[1] > size:  # seen by more pixels than the guidance was shown
                camera = framed([azimuth], elevation, half_height, height=target.shape[1], width=target.shape[2])
                camera = camera.to(device)
                seen = fine.dmtet.see(camera)
        painted.paint(camera, seen, target, drawn=drawn)
        report(number + 1)
    if config.refine.carry_on:
        painted.carry_on(fine.dmtet.surface().vertices)


def progress_at(number: int) -> float:
    """How far the noise has fallen at a view of :data:`VIEWS`, 0 to 1.

    It falls fast at first in each round, as a few views decide most; half as far for the bust, whose face is to come.
    """
    if number < len(BUST):
        return 0.5 * (1 - (1 - number / len(BUST)) ** 2)
    return 1 - (1 - (number - len(BUST)) / len(FACE)) ** 2


def _target(result: Any) -> Tensor:
    """``(1, h, w, 3)``: what the model made of the view."""
    record = result[1] if isinstance(result, tuple) else None
    if record is None or record.target is None:
        raise ValueError(
            "the last look paints pictures, and this guidance gives none (a GuidanceRecord with a target); "
            "set refine.views=0"
        )
    return record.target
