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
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from headsculpt.cameras import framed
from headsculpt.config import SculptConfig
from headsculpt.guidance.score_distillation import image_loss
from headsculpt.sculpting_stages import FineStage, drop_bad_gradients, split_parameters

if TYPE_CHECKING:
    from headsculpt.guidance.score_distillation import Guidance

# (azimuth in degrees, half height): the face from near, then the head; halves of it where most is hidden last.
VIEWS = (
    (0.0, 0.42), (32.0, 0.42), (-32.0, 0.42), (60.0, 0.48), (-60.0, 0.48), (0.0, 0.6),
    (90.0, 0.8), (-90.0, 0.8), (0.0, 0.9), (40.0, 0.9), (-40.0, 0.9), (0.0, 0.42),
)  # fmt: skip
# What is behind shares the colour field's tables with the face, and must not change with it.
KEPT = ((90.0, 0.9), (125.0, 0.8), (155.0, 1.0), (180.0, 0.7), (-155.0, 1.0), (-125.0, 0.8), (-90.0, 0.9))
ELEVATION_DEG = 5.0
BACKGROUND = 0.85
KEEP_SIZE = 128  # pixels

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
        guidance: asked once for each view, with the share of views done as progress; its record's target is the
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

    kept = [(_camera(*place, KEEP_SIZE), _grey()) for place in KEPT]
    with torch.no_grad():
        as_it_was = [_image(fine, *view, device) for view in kept]
    targets: list[Tensor] = []
    step = 0
    for number, place in enumerate(VIEWS):
        targets.append(_repainted(config, fine, guidance, place, number / len(VIEWS), generator))
        for repeat in range(refine.steps):
            # The new view, one of those before it, and one from behind.
            chosen = {number, int(torch.randint(number + 1, (), generator=generator))}
            behind = int(torch.randint(len(kept), (), generator=generator))
            for group, rate in zip(optimiser.param_groups, rates, strict=True):
                group["lr"] = rate * (1 - 0.7 * repeat / refine.steps)
            loss = refine.keep_weight * image_loss(_image(fine, *kept[behind], device), as_it_was[behind])
            for i in sorted(chosen):
                image = _image(fine, _camera(*VIEWS[i], config.fine.render_size), _grey(), device)
                loss = loss + image_loss(_shrunk(image, targets[i].shape[1]), targets[i])
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            drop_bad_gradients(fine.module)
            optimiser.step()
            step += 1
            report(step, float(loss.detach()))


def refine_steps(config: SculptConfig) -> int:
    """Steps of the whole refinement."""
    return config.refine.steps * len(VIEWS)


@torch.no_grad()
def _repainted(
    config: SculptConfig, fine: FineStage, guidance: Guidance, place: tuple[float, float], progress: float,
    generator: torch.Generator,
) -> Tensor:  # fmt: skip
    """``(1, h, w, 3)``: what the model makes of the mesh from there."""
    device = fine.dmtet.sdf.device
    camera = _camera(*place, config.fine.render_size).to(device)
    rendering = fine.dmtet.render(camera, background=_grey().to(device))
    rendering.background = _grey().to(device)
    result: Any = guidance(rendering, camera, progress, generator)
    record = result[1] if isinstance(result, tuple) else None
    if record is None or record.target is None:
        raise ValueError(
            "refinement learns pictures, and this guidance gives none (a GuidanceRecord with a target); "
            "set refine.steps=0"
        )
    return record.target


def _camera(azimuth_deg: float, half_height: float, size: int) -> Any:
    return framed([azimuth_deg], ELEVATION_DEG, half_height, height=size, width=size)


def _grey() -> Tensor:
    return torch.full((1, 3), BACKGROUND)


def _image(fine: FineStage, camera: Any, background: Tensor, device: torch.device) -> Tensor:
    return fine.dmtet.render(camera.to(device), background=background.to(device)).rgb


def _shrunk(image: Tensor, size: int) -> Tensor:
    """``(B, H, W, 3)`` at ``size`` pixels, as the diffusion model saw it."""
    if image.shape[1] == size:
        return image
    x = F.interpolate(
        image.permute(0, 3, 1, 2), (size, size), mode="bilinear", align_corners=False, antialias=image.shape[1] > size
    )
    return x.permute(0, 2, 3, 1)
