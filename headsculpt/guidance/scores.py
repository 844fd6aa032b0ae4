"""Scores: from a noised latent to what the picture should have been. Free functions over a back-bone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

# (noisy latents, timesteps (B,)) -> guided noise prediction
NoisePredictor = Callable[[Tensor, Tensor], Tensor]

Weighting = Literal["sds", "uniform", "fantasia3d"]


def timestep_weight(alphas_cumprod: Tensor, timesteps: Tensor, weighting: Weighting) -> Tensor:
    """w(t), shaped to multiply ``(B, C, h, w)``.

    * ``sds``: 1 - abar (DreamFusion).
    * ``uniform``: 1 (Magic3D's coarse stage).
    * ``fantasia3d``: sqrt(abar) (1 - abar) (Fantasia3D; HeadSculpt A.8).
    """
    abar = alphas_cumprod[timesteps]
    if weighting == "sds":
        weight = 1 - abar
    elif weighting == "uniform":
        weight = torch.ones_like(abar)
    elif weighting == "fantasia3d":
        weight = abar.sqrt() * (1 - abar)
    else:
        raise ValueError(f"weighting is 'sds', 'uniform' or 'fantasia3d'; got {weighting!r}")
    return weight.view(-1, 1, 1, 1)


def add_noise(latents: Tensor, noise: Tensor, alphas_cumprod: Tensor, timesteps: Tensor) -> Tensor:
    """z_t = sqrt(abar) z + sqrt(1 - abar) eps."""
    abar = alphas_cumprod[timesteps].view(-1, 1, 1, 1)
    return abar.sqrt() * latents + (1 - abar).sqrt() * noise


def clean_latents(noisy: Tensor, noise: Tensor, alphas_cumprod: Tensor, timesteps: Tensor) -> Tensor:
    """The clean latents that a noise prediction implies: (z_t - sqrt(1 - abar) eps) / sqrt(abar)."""
    abar = alphas_cumprod[timesteps].view(-1, 1, 1, 1)
    return (noisy - (1 - abar).sqrt() * noise) / abar.sqrt().clamp_min(1e-4)


def sds_gradient(
    latents: Tensor, clean: Tensor, timesteps: Tensor, alphas_cumprod: Tensor, weighting: Weighting = "sds"
) -> Tensor:
    """Score distillation sampling (DreamFusion eq. 3): ``w(t) (eps_hat - eps)``.

    Written with the clean latents that the prediction implies, since
    ``eps_hat - eps = sqrt(abar / (1 - abar)) (z - z_clean)`` for ``z_t`` noised from ``z``; so a clean
    estimate that took several steps (:func:`ddim_clean_latents`) fits the same formula.

    Args:
        latents: ``(B, C, h, w)`` latents of the rendering.
        clean: ``(B, C, h, w)`` the model's estimate.

    Returns:
        gradient of the loss with respect to the latents, ``(B, C, h, w)``.
    """
    abar = alphas_cumprod[timesteps].view(-1, 1, 1, 1)
    residual = (abar / (1 - abar)).sqrt() * (latents - clean)
    return torch.nan_to_num(timestep_weight(alphas_cumprod, timesteps, weighting) * residual)


def ddim_clean_latents(
    predict: NoisePredictor, noisy: Tensor, timesteps: Tensor, alphas_cumprod: Tensor, steps: int
) -> Tensor:
    """Clean latents by ``steps`` deterministic DDIM steps from each row's own timestep (Song et al. 2021).

    One step is the one-shot estimate that SDS uses; a few give a sharper picture that the model itself
    would have sampled (the target of Instruct-NeRF2NeRF, E.9, and of SDEdit).
    """
    z, now = noisy, timesteps
    for left in range(steps, 0, -1):
        noise = predict(z, now)
        clean = clean_latents(z, noise, alphas_cumprod, now)
        if left == 1:
            return clean
        later = now * (left - 1) // left
        z, now = add_noise(clean, noise, alphas_cumprod, later), later
    raise ValueError(f"steps must be at least 1; got {steps}")
