"""Scores: from a rendering's latents to what they should have been. Free functions over a back-bone.

Each paper's residual is written as it stands there, in units of noise, so that the gradient is
``w(t) residual``; :meth:`Step.moved` turns it into the clean latents that it asks for. All scores return
those, so that every one of them can pull in latents and, decoded, in RGB.

Letters: z latents of the rendering, eps noise, z_t noised latents, abar cumulated alpha, e(text) predicted
noise, e() without text, e_cfg guided, s guidance scale.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from headsculpt.guidance.samplers import NoisePredictor, Sampler, add_noise, clean_latents, ddim_clean_latents

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


def sds_gradient(
    latents: Tensor, clean: Tensor, timesteps: Tensor, alphas_cumprod: Tensor, weighting: Weighting = "sds"
) -> Tensor:
    """Score distillation sampling (DreamFusion eq. 3): ``w(t) (eps_hat - eps)``.

    Written with the clean latents that the prediction implies, since
    ``eps_hat - eps = sqrt(abar / (1 - abar)) (z - z_clean)`` for ``z_t`` noised from ``z``; so a clean
    estimate that took several steps (:mod:`headsculpt.guidance.samplers`) fits the same formula.

    Args:
        latents: ``(B, C, h, w)`` latents of the rendering.
        clean: ``(B, C, h, w)`` the model's estimate.

    Returns:
        gradient of the loss with respect to the latents, ``(B, C, h, w)``.
    """
    abar = alphas_cumprod[timesteps].view(-1, 1, 1, 1)
    residual = (abar / (1 - abar)).sqrt() * (latents - clean)
    return torch.nan_to_num(timestep_weight(alphas_cumprod, timesteps, weighting) * residual)


@dataclass(frozen=True)
class Step:
    """What one step of distillation knows; every score is a function of it.

    Attributes:
        latents: ``(B, C, h, w)`` of the rendering, without gradient.
        noise: ``(B, C, h, w)`` that noises them.
        timesteps: ``(B,)`` int64.
        alphas_cumprod: ``(T,)`` of the model.
        predict: (noisy, timesteps, texts) -> one noise prediction for each text, in one pass; texts are
            ``"text"``, ``"empty"`` and ``"negative"``.
        guided: (noisy, timesteps) -> prediction under classifier-free guidance, or perp-neg.
        scale: the guidance scale that ``guided`` uses, for scores that guide in their own way.
        own: noise predicted by a model of the current renderings (VSD), or None.
    """

    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    alphas_cumprod: Tensor
    predict: Callable[[Tensor, Tensor, Sequence[str]], Sequence[Tensor]]
    guided: NoisePredictor
    scale: float = 1.0
    own: NoisePredictor | None = None

    @property
    def noisy(self) -> Tensor:
        return add_noise(self.latents, self.noise, self.alphas_cumprod, self.timesteps)

    def moved(self, residual: Tensor) -> Tensor:
        """Clean latents that a residual of noise asks for: ``z - sqrt((1 - abar) / abar) residual``.

        The inverse of what :func:`sds_gradient` does, so that its gradient is ``w(t) residual``.
        """
        abar = self.alphas_cumprod[self.timesteps].view(-1, 1, 1, 1)
        return self.latents - ((1 - abar) / abar.clamp_min(1e-8)).sqrt() * residual


def sds(step: Step, denoise_steps: int = 1, sampler: Sampler = ddim_clean_latents) -> Tensor:
    """Score distillation sampling (Poole et al. 2022, DreamFusion, eq. 3): residual ``e_cfg(z_t) - eps``.

    Seeks modes: for a Gaussian every start ends at the mean. With ``denoise_steps`` above 1 the clean
    estimate is sampled in several steps, see :mod:`headsculpt.guidance.samplers`.
    """
    return sampler(step.guided, step.noisy, step.timesteps, step.alphas_cumprod, denoise_steps)


def vsd(step: Step) -> Tensor:
    """Variational score distillation (Wang et al. 2023, ProlificDreamer, eq. 9): ``e_cfg(z_t) - e_own(z_t)``.

    ``e_own`` is a model of the renderings as they are now (a LoRA that learns beside the sculpture). At rest
    the renderings are distributed as the model's pictures are, instead of sitting on a mode.

    Raises:
        ValueError: the step has no model of its own renderings.
    """
    if step.own is None:
        raise ValueError("score 'vsd' needs a model of the renderings; expected Step.own, got None")
    noisy = step.noisy
    return step.moved(step.guided(noisy, step.timesteps) - step.own(noisy, step.timesteps))


def csd(step: Step, negative_weight: float = 0.0) -> Tensor:
    """Classifier score distillation (Yu et al. 2023): residual ``s (e(text) - e())``, the classifier alone.

    ``e(text) - e()`` is ``-sqrt(1 - abar)`` times the gradient of the model's own ``log p(text | z_t)``. With
    a negative prompt of weight n it becomes ``s (e(text) - e()) + n s (e() - e(negative))``, the paper's form
    with weights ``w1 = s`` and ``w2 = n s``; it anneals n to 0 over the run, here n stays.
    """
    noisy = step.noisy
    if negative_weight == 0:
        text, empty = step.predict(noisy, step.timesteps, ("text", "empty"))
        return step.moved(step.scale * (text - empty))
    text, empty, negative = step.predict(noisy, step.timesteps, ("text", "empty", "negative"))
    return step.moved(step.scale * ((text - empty) + negative_weight * (empty - negative)))


NFSD_LOW = 0.2  # of the schedule: t < 200 of 1000 in the paper


def nfsd(step: Step) -> Tensor:
    """Noise-free score distillation (Katzir et al. 2023): residual ``delta_D + s delta_C``.

    ``delta_C = e(text) - e()`` steers to the text. ``delta_D`` steers to the domain of real images: ``e()``
    for t below 200, where the noise that it holds is small, and ``e() - e(negative)`` above, where the
    negative prompt stands for a picture out of the domain. No residual noise is distilled, so that a usual
    scale (7.5) is enough.
    """
    text, empty, negative = step.predict(step.noisy, step.timesteps, ("text", "empty", "negative"))
    low = step.timesteps < NFSD_LOW * len(step.alphas_cumprod)
    domain = torch.where(low.view(-1, 1, 1, 1), empty, empty - negative)
    return step.moved(domain + step.scale * (text - empty))


def ssd(step: Step) -> Tensor:
    """Self score distillation (Liu et al. 2024, HeadArtist): residual ``e_cfg(z_t) - e(text)``.

    VSD without a LoRA: the model without guidance stands for the distribution of the renderings, and both
    predictions see the landmark map. In plain guidance this is ``(s - 1) (e(text) - e(negative))``.
    """
    noisy = step.noisy
    (text,) = step.predict(noisy, step.timesteps, ("text",))
    return step.moved(step.guided(noisy, step.timesteps) - text)


def ism(step: Step, interval: float = 0.05, stride: float = 0.2) -> Tensor:
    """Interval score matching (Liang et al. 2023, LucidDreamer): residual ``e_cfg(z_t) - e(z_s)``.

    The latents are not noised at random but by DDIM inversion without text, first to s in steps of at most
    ``stride``, then over the ``interval`` to t (delta_S = 200 and delta_T = 50 of 1000 steps in the paper's
    code). The residual has no noise in it: the same rendering always gets the same answer. Rows of a batch
    take equally many steps, each its own length (ours).

    Args:
        step: its noise is not used.
        interval: t - s, as a fraction of the schedule.
        stride: longest inversion step, likewise.
    """
    count = len(step.alphas_cumprod)
    abar, t = step.alphas_cumprod, step.timesteps
    s = (t - max(1, round(interval * count))).clamp_min(0)
    steps = max(1, -(-int(s.max()) // max(1, round(stride * count))))

    clean, now = step.latents, torch.zeros_like(t)
    (noise,) = step.predict(clean, now, ("empty",))
    for i in range(1, steps + 1):
        later = s * i // steps
        noisy = add_noise(clean, noise, abar, later)
        (noise,) = step.predict(noisy, later, ("empty",))
        clean = clean_latents(noisy, noise, abar, later)
    noisy = add_noise(clean, noise, abar, t)
    return step.moved(step.guided(noisy, t) - noise)


SCORES = ("sds", "vsd", "ism", "csd", "nfsd", "ssd")
