"""Clean latents by a few deterministic steps, each row of a batch from a timestep of its own.

diffusers' schedulers step a whole batch at one timestep, so the two that the loop needs stand here.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# (noisy latents, timesteps (B,)) -> noise prediction
NoisePredictor = Callable[[Tensor, Tensor], Tensor]
Sampler = Callable[[NoisePredictor, Tensor, Tensor, Tensor, int], Tensor]

LAST_TIMESTEP = 0.15  # of the schedule: where DPM-Solver++ makes its last prediction, or
LAST_SHARE = 0.25  # of the first timestep, where that is lower


def add_noise(latents: Tensor, noise: Tensor, alphas_cumprod: Tensor, timesteps: Tensor) -> Tensor:
    """z_t = sqrt(abar) z + sqrt(1 - abar) eps."""
    abar = alphas_cumprod[timesteps].view(-1, 1, 1, 1)
    return abar.sqrt() * latents + (1 - abar).sqrt() * noise


def clean_latents(noisy: Tensor, noise: Tensor, alphas_cumprod: Tensor, timesteps: Tensor) -> Tensor:
    """The clean latents that a noise prediction implies: (z_t - sqrt(1 - abar) eps) / sqrt(abar)."""
    abar = alphas_cumprod[timesteps].view(-1, 1, 1, 1)
    return (noisy - (1 - abar).sqrt() * noise) / abar.sqrt().clamp_min(1e-4)


def ddim_clean_latents(
    predict: NoisePredictor, noisy: Tensor, timesteps: Tensor, alphas_cumprod: Tensor, steps: int
) -> Tensor:
    """DDIM (Song et al. 2021, arXiv 2010.02502, eq. 12 without noise), in steps of equal length.

    One step is the one-shot estimate that SDS uses; a few give a sharper picture that the model itself
    would have sampled (the target of Instruct-NeRF2NeRF, E.9, and of SDEdit).

    Args:
        predict: the model.
        noisy: ``(B, C, h, w)``.
        timesteps: ``(B,)`` int64, of each row.
        alphas_cumprod: ``(T,)`` of the model.
        steps: predictions, at least 1.

    Raises:
        ValueError: no step.
    """
    z, now = noisy, timesteps
    for left in range(_checked(steps), 0, -1):
        noise = predict(z, now)
        clean = clean_latents(z, noise, alphas_cumprod, now)
        if left == 1:
            break
        later = now * (left - 1) // left
        z, now = add_noise(clean, noise, alphas_cumprod, later), later
    return clean


def dpm_clean_latents(
    predict: NoisePredictor, noisy: Tensor, timesteps: Tensor, alphas_cumprod: Tensor, steps: int
) -> Tensor:
    """DPM-Solver++ (2M) (Lu et al. 2022, arXiv 2211.01095, algorithm 2), in equal steps of log(alpha / sigma).

    Second order, from the clean estimates of this step and the one before: from high noise four predictions
    come as near to what many steps would give as eight of DDIM do, and five do from anywhere (``python
    benchmarks/samplers.py``). The last prediction is made at
    :data:`LAST_TIMESTEP`, below which a picture hardly changes (ours).

    Args:
        As of :func:`ddim_clean_latents`; one step is the same one-shot estimate.

    Raises:
        ValueError: no step.
    """
    ratios = 0.5 * torch.logit(alphas_cumprod.double(), eps=1e-12)  # log(alpha / sigma), also where sigma is all
    path = _even_in(ratios, timesteps, _checked(steps))
    z, before, step_before = noisy, None, None
    for i, now in enumerate(path):
        clean = clean_latents(z, predict(z, now), alphas_cumprod, now)
        if i + 1 == len(path):
            break
        later = path[i + 1]
        step = (ratios[later] - ratios[now]).view(-1, 1, 1, 1)
        aim = clean
        if before is not None and step_before is not None:
            # Rows that start too low to move have steps of no length, and nothing to extrapolate.
            aim = clean + (0.5 * step / step_before.clamp_min(1e-6)).clamp(max=1).to(clean) * (clean - before)
        abar, abar_later = (alphas_cumprod[t].view(-1, 1, 1, 1) for t in (now, later))
        z = ((1 - abar_later) / (1 - abar)).sqrt() * z + abar_later.sqrt() * (-torch.expm1(-step)).to(z) * aim
        before, step_before = clean, step
    return clean


SAMPLERS: dict[str, Sampler] = {"ddim": ddim_clean_latents, "dpm": dpm_clean_latents}


def _even_in(ratios: Tensor, timesteps: Tensor, steps: int) -> list[Tensor]:
    """``steps`` timesteps ``(B,)`` from the given ones down, evenly spaced in ``ratios`` ``(T,)``, which fall with t."""
    last = (timesteps.double() * LAST_SHARE).clamp(max=LAST_TIMESTEP * len(ratios)).long()
    first, end = ratios[timesteps], ratios[last]
    path = [timesteps]
    for i in range(1, steps):
        wanted = first + (end - first) * i / (steps - 1)
        # The rising sequence of ratios, searched from the clean end.
        place = len(ratios) - 1 - torch.searchsorted(ratios.flip(0), wanted)
        path.append(place.clamp(min=0).minimum(path[-1]))
    return path


def _checked(steps: int) -> int:
    if steps < 1:
        raise ValueError(f"steps must be at least 1; got {steps}")
    return steps
