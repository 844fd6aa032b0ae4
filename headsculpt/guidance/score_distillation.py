"""Score distillation guidance: a rendering goes in, the loss that improves it comes out."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from headsculpt.cameras import Cameras
from headsculpt.config import CoarseConfig, FineConfig, GuidanceConfig
from headsculpt.guidance.backbone import Control, LatentDiffusion
from headsculpt.guidance.classifier_free import classifier_free_guidance
from headsculpt.guidance.scores import add_noise, ddim_clean_latents, sds_gradient
from headsculpt.prompts import view_prompt
from headsculpt.rendering import Rendering


@dataclass
class GuidanceRecord:
    """What one guidance call did; written to progress.jsonl."""

    timestep: float  # mean over the batch, as a fraction of the schedule
    seconds: float  # spent in the diffusion model
    target: Tensor | None = None  # (B, h, w, 3) what the model would have liked to see


# The contract of every guidance: a plain function with this signature is one.
Guidance = Callable[[Rendering, Cameras, float, torch.Generator], "tuple[Tensor, GuidanceRecord] | Tensor"]


def annealed_timesteps(
    batch: int, progress: float, stage: CoarseConfig | FineConfig, count: int, generator: torch.Generator
) -> Tensor:
    """Random timesteps ``(batch,)`` from a range whose upper end falls over the stage (HiFA; ProlificDreamer).

    Args:
        batch: rows.
        progress: of the stage, 0 to 1; the upper end falls linearly from ``t_max_start`` to ``t_max_end``.
        stage: holds the range, as fractions of the schedule.
        count: timesteps in the schedule.
        generator: source of randomness.
    """
    high = stage.t_max_start + (stage.t_max_end - stage.t_max_start) * progress
    low = max(stage.t_min, high - stage.t_window)
    fraction = low + (high - low) * torch.rand(batch, generator=generator)
    return (fraction * count).long().clamp(1, count - 1)


class ScoreDistillation:
    """Guidance by a text-to-image model under view-dependent prompts and controls.

    Two terms, either of which may be off: the latent residual (SDS, DreamFusion eq. 3) goes back through
    the encoder; the image residual (HiFA, Zhu et al. 2023, eq. 8) compares the picture with the decoded
    clean prediction, so the encoder takes no gradient and colours stay true even when it is small.

    Args:
        backbone: the diffusion model.
        prompt: what the head should show, without a view.
        config: weights and forms.
        stage: guidance scale, timestep range and denoising steps of the stage that is guided.
        landmarks: cameras -> landmark control, or None.
        negative_prompt: added to the negative prompt of every view.
        back_token: a learned token for views from behind, or None.
        seed: of the noise that all steps share.
    """

    def __init__(
        self,
        backbone: LatentDiffusion,
        prompt: str,
        config: GuidanceConfig,
        stage: CoarseConfig | FineConfig,
        *,
        landmarks: Callable[[Cameras], Control] | None = None,
        negative_prompt: str = "",
        back_token: str | None = None,
        seed: int = 0,
    ) -> None:
        self.backbone, self.prompt, self.config, self.stage = backbone, prompt, config, stage
        self.landmarks, self.negative_prompt, self.back_token = landmarks, negative_prompt, back_token
        self.seed = seed
        self._common: Tensor | None = None

    def texts(self, cameras: Cameras) -> tuple[Tensor, Tensor]:
        """Text states of the positive and the negative prompts of these views, ``(B, T, D)`` each."""
        style: Any = self.config.prompt_style  # config.validated() checked it
        pairs = [
            view_prompt(self.prompt, float(a), style=style, back_token=self.back_token)
            for a in cameras.azimuth_deg
        ]
        negatives = [", ".join(t for t in (n, self.negative_prompt) if t) for _, n in pairs]
        return self.backbone.embed([p for p, _ in pairs]), self.backbone.embed(negatives)

    def _noise(self, latents: Tensor, generator: torch.Generator) -> Tensor:
        """Noise for the latents: fresh, with a share that is the same for all views and steps.

        Whatever the prompt leaves open (the colour of a shirt) is decided by the noise, mostly by its low
        frequencies. Fresh noise decides differently in every step, and the sculpture averages to grey;
        a common part is meant to make views and steps agree. Ours, chosen by eye on two prompts
        and not ablated yet (0 is the published form).
        """
        fresh = torch.randn(latents.shape, generator=generator).to(latents.device)
        share = self.config.common_noise
        if share == 0:
            return fresh
        if self._common is None or self._common.shape != latents.shape[1:]:
            # From a generator of its own, so that a resumed run finds the same noise.
            own = torch.Generator().manual_seed(self.seed)
            self._common = torch.randn(latents.shape[1:], generator=own).to(latents.device)
        return share**0.5 * self._common + (1 - share) ** 0.5 * fresh

    def predictor(self, cameras: Cameras, progress: float) -> Callable[[Tensor, Tensor], Tensor]:
        """The guided noise prediction for these views as a function of (noisy latents, timesteps)."""
        positive, negative = self.texts(cameras)
        both = torch.cat([positive, negative])
        controls: dict[str, Control] = {}
        if self.landmarks is not None and progress < self.config.landmarks_until:
            controls["landmarks"] = self.landmarks(cameras).repeated(2)

        def predict(noisy: Tensor, timesteps: Tensor) -> Tensor:
            noise = self.backbone.predict_noise(
                torch.cat([noisy, noisy]), torch.cat([timesteps, timesteps]), both, controls
            )
            conditional, unconditional = noise.chunk(2)
            return classifier_free_guidance(
                conditional,
                unconditional,
                self.stage.guidance_scale,
                form=self.config.cfg_form,  # type: ignore[arg-type]  # config.validated() checked it
                rescale=self.config.rescale,
            )

        return predict

    def __call__(
        self, rendering: Rendering, cameras: Cameras, progress: float, generator: torch.Generator
    ) -> tuple[Tensor, GuidanceRecord]:
        started = time.perf_counter()
        config, backbone = self.config, self.backbone
        batch = len(cameras)
        abar = backbone.alphas_cumprod
        with torch.set_grad_enabled(config.latent_weight > 0):
            latents = backbone.encode(rendering.rgb)
        timesteps = annealed_timesteps(batch, progress, self.stage, len(abar), generator).to(latents.device)
        noise = self._noise(latents, generator)
        with torch.no_grad():
            noisy = add_noise(latents, noise, abar, timesteps)
            predict = self.predictor(cameras, progress)
            loss = latents.new_zeros(())
            clean = ddim_clean_latents(predict, noisy, timesteps, abar, self.stage.denoise_steps)
            weighting: Any = config.weighting  # config.validated() checked it
            gradient = sds_gradient(latents, clean, timesteps, abar, weighting)
            if config.grad_clip > 0:
                gradient = gradient.clamp(-config.grad_clip, config.grad_clip)
        target = None
        if config.latent_weight > 0:
            aim = (latents - gradient).detach()
            loss = loss + config.latent_weight * 0.5 * F.mse_loss(latents, aim, reduction="sum") / batch
        if config.image_weight > 0:
            rgb = self._at_prior_size(rendering.rgb)
            with torch.no_grad():
                # What the model would change, on top of what is there: an encoder that blurs then blurs both
                # terms alike, and details that the model does not object to stay (ours, not ablated yet).
                wanted, present = backbone.decode(torch.cat([clean, latents])).chunk(2)
                target = (rgb + wanted - present).clamp(0, 1)
            difference = (rgb - target).abs()
            # Smooth L1 with a small knee: the mean of disagreeing targets is grey, their median is not.
            robust = torch.where(difference < 0.05, difference.square() / 0.1, difference - 0.025)
            loss = loss + config.image_weight * robust.mean()
        seconds = time.perf_counter() - started
        return loss, GuidanceRecord(float(timesteps.float().mean()) / len(abar), seconds, target)

    def _at_prior_size(self, rgb: Tensor) -> Tensor:
        """Images ``(B, H, W, 3)`` at the size that the prior decodes to."""
        size = self.backbone.image_size
        if rgb.shape[1:3] == (size, size):
            return rgb
        shrink = rgb.shape[1] > size
        x = F.interpolate(
            rgb.permute(0, 3, 1, 2), (size, size), mode="bilinear", align_corners=False, antialias=shrink
        )
        return x.permute(0, 2, 3, 1)
