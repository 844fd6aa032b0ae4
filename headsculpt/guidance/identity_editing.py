"""Identity-aware editing score distillation, IESD (HeadSculpt; method A.10), and an edit mask of ours.

Two predictions for the same noised picture are blended: one under the instruction, one under the source's
description. Both see the landmark map and, through the instruction ControlNet, a render of the frozen source:

    e_hat(y) = e_u + s (e_y - e_u)
    e_tilde  = w_e e_hat(instruction) + (1 - w_e) e_hat(description)

Beyond the paper, and each can be switched off: part of the edited prediction may read the prompt of the edited
head instead of the instruction (``target_share``; all of it where the prior has no instruction ControlNet), and
the sculpture is held to the source wherever the two predictions agree (``mask``), and outside the places of what
the instruction names (``place``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from copy import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from headsculpt.cameras import Cameras, framed
from headsculpt.config import EditConfig
from headsculpt.guidance.backbone import Control
from headsculpt.guidance.classifier_free import classifier_free_guidance
from headsculpt.guidance.score_distillation import (
    GuidanceRecord,
    Predictions,
    ScoreDistillation,
    annealed_timesteps,
    asked_picture,
    image_loss,
    latent_loss,
    predictor,
)
from headsculpt.guidance.samplers import SAMPLERS, add_noise
from headsculpt.guidance.scores import sds_gradient
from headsculpt.rendering import Rendering

# (cameras, background (B, 3)) -> the source from there, (B, H, W, 3) in [0, 1]
Reference = Callable[[Cameras, Tensor], Tensor]

# Azimuths from which the strength of an edit is measured, and the pictures' rows and columns.
LOOKS = (0.0, 30.0, -30.0, 75.0, -75.0, 130.0, -130.0, 180.0)
SEEN = 128


class EditDistillation:
    """Guidance of an edit.

    Args:
        base: score distillation under the prompt of the edited head; gives back-bone, views and noise.
        source_prompt: describes the source.
        edit: instruction and settings.
        reference: draws the frozen source. The paper shows its albedo; ours is lit, as the pictures are that
            the mini family learned from.
        instructed: whether the back-bone has the ControlNet "instruction".
        control_scale: of that ControlNet.
        place: cameras -> where the edit may act, ``(B, 1, h, w)`` from 0 to 1; None is everywhere.
        holds: draw what lies in the place and outside the mask back to the source, too; otherwise it stays as it is.
    """

    def __init__(
        self,
        base: ScoreDistillation,
        source_prompt: str,
        edit: EditConfig,
        reference: Reference,
        *,
        instructed: bool,
        control_scale: float = 1.0,
        place: Callable[[Cameras], Tensor] | None = None,
        holds: bool = True,
    ) -> None:
        self.place, self.holds = place, holds
        self.base, self.edit, self.reference = base, edit, reference
        self.instructed, self.control_scale = instructed, control_scale
        self.share = edit.target_share if instructed else 1.0
        self.describing = copy(base)
        self.describing.prompt = source_prompt
        self._strongest: float | None = None

    @property
    def edited_texts(self) -> dict[str, float]:
        """Texts of the edited prediction and their shares of it."""
        shares = {"instruction": 1 - self.share, "target": self.share}
        return {name: share for name, share in shares.items() if share > 0}

    def states(self, cameras: Cameras) -> dict[str, Tensor]:
        """Text states ``(B, T, D)``: the instruction without a view (A.10), all others with theirs."""
        target, negative = self.base.texts(cameras)
        instruction = self.base.backbone.embed([self.edit.instruction] * len(cameras))
        source = self.describing.texts(cameras)[0]
        return {"instruction": instruction, "target": target, "source": source, "none": negative}

    def predictions(self, cameras: Cameras, progress: float, shown: Tensor) -> Predictions:
        """Noise predictions under several texts in one pass; all see the reference, and the landmarks as in
        :func:`.score_distillation.predictor`."""
        base, states = self.base, self.states(cameras)
        controls: dict[str, Control] = {}
        if base.landmarks is not None and progress < base.config.landmarks_until:
            controls["landmarks"] = base.landmarks(cameras)
        if self.instructed:
            everywhere = torch.ones(len(cameras), dtype=torch.bool)
            controls["instruction"] = Control(shown, everywhere, self.control_scale)

        guided = base.stage.landmarks_guided
        return predictor(base.backbone, states, controls, states.keys() - {"none"} if guided else states)

    def blended(self, predict: Predictions, noisy: Tensor, timesteps: Tensor) -> Tensor:
        """e_tilde of the module's equation, ``(B, C, h, w)``."""
        weights = {name: self.edit.strength * share for name, share in self.edited_texts.items()}
        weights["source"] = 1 - self.edit.strength
        weights = {name: weight for name, weight in weights.items() if weight != 0}
        *conditional, unconditional = predict(noisy, timesteps, [*weights, "none"])
        scale, rescale = self.base.stage.guidance_scale, self.base.config.rescale
        total = torch.zeros_like(unconditional)
        for weight, prediction in zip(weights.values(), conditional, strict=True):
            total = total + weight * classifier_free_guidance(prediction, unconditional, scale, rescale=rescale)
        return total

    def differences(self, predict: Predictions, kept: Tensor, noise: Tensor) -> Tensor:
        """How far the edited and the source's clean latents lie apart on the noised source, ``(B, 1, h, w)``.

        As in DiffEdit (Couairon et al. 2023) both read the noised *source*, at one noise level: compared on the
        sculpture itself they would agree again as soon as the edit is there, and a mask would let go of it.

        Args:
            predict: from :meth:`predictions`.
            kept: ``(B, C, h, w)`` latents of the source.
            noise: of the same shape.
        """
        abar = self.base.backbone.alphas_cumprod
        t = torch.full((len(kept),), int(self.edit.mask_timestep * (len(abar) - 1)), device=kept.device)
        edited = self.edited_texts
        *predictions, source = predict(add_noise(kept, noise, abar, t), t, [*edited, "source"])
        difference = sum(share * p for share, p in zip(edited.values(), predictions, strict=True)) - source
        a = abar[t].view(-1, 1, 1, 1)
        clean = ((1 - a) / a.clamp_min(1e-4)).sqrt() * difference
        size = clean.square().mean(1, keepdim=True).sqrt()
        return F.avg_pool2d(size, 3, 1, 1, count_include_pad=False)

    @torch.no_grad()
    def strongest(self) -> float:
        """The largest difference that the edit makes in any of :data:`LOOKS`, where it may act; measured once, always
        the same.

        Measured on the first training of the mini family, differences of one edit are ten times those of
        another (a top hat, a smile), so no fixed threshold serves; and one relative to each view by itself
        would find an edit of the face behind the head.
        """
        if self._strongest is None:
            generator, found = torch.Generator().manual_seed(self.base.seed), 0.0
            for first in range(0, len(LOOKS), 4):  # four at a time, as in training
                cameras = framed(LOOKS[first : first + 4], 5.0, 0.9, height=SEEN, width=SEEN)
                cameras = cameras.to(self.base.backbone.alphas_cumprod.device)
                behind = torch.full((len(cameras), 3), 0.9, device=cameras.azimuth_deg.device)
                shown = self.reference(cameras, behind)
                kept = self.base.backbone.encode(shown)
                noise = torch.randn(kept.shape, generator=generator).to(kept.device)
                sizes = self.differences(self.predictions(cameras, 0.0, shown), kept, noise)
                if self.place is not None:
                    sizes = sizes * at_size_of(sizes, self.place(cameras))
                found = max(found, float(sizes.flatten(1).quantile(0.98, 1).max()))
            self._strongest = found
        return self._strongest

    def mask(self, predict: Predictions, kept: Tensor, noise: Tensor) -> Tensor:
        """Where the edit is: 1 inside, 0 where the two predictions agree; ``(B, 1, h, w)``.

        On 25 pairs of the portrait world, with the mini family's text alone, a threshold of 0.5 covers nine
        tenths of what really changed and two fifths of what did not; sculpting wants more room: see the default.
        """
        size = self.differences(predict, kept, noise)
        reach = max(1, kept.shape[-1] // 16)  # latent pixels that a new shape may stand out
        size = F.max_pool2d(size, 2 * reach + 1, 1, reach)
        return (size / max(self.edit.mask_threshold * self.strongest(), 1e-6) - 0.5).clamp(0, 1)

    def __call__(
        self, rendering: Rendering, cameras: Cameras, progress: float, generator: torch.Generator
    ) -> tuple[Tensor, GuidanceRecord]:
        started = time.perf_counter()
        base, backbone, config = self.base, self.base.backbone, self.base.config
        if rendering.background is None:
            raise ValueError("an edit compares pictures over one background; set rendering.background, (B, 3)")
        abar, batch = backbone.alphas_cumprod, len(cameras)
        shown = self.reference(cameras, rendering.background).to(rendering.rgb)
        with torch.set_grad_enabled(config.latent_weight > 0):
            latents = backbone.encode(rendering.rgb)
        timesteps = annealed_timesteps(batch, progress, base.stage, len(abar), generator).to(latents.device)
        noise, other_noise = base._noise(latents, generator), base._noise(latents, generator)
        with torch.no_grad():
            kept, beside = backbone.encode(shown), shown
            predict = self.predictions(cameras, progress, shown)

            inside = self.mask(predict, kept, other_noise) if self.edit.mask else torch.ones_like(kept[:, :1])
            place = None if self.place is None else self.place(cameras)
            if place is not None:
                inside = inside * at_size_of(kept, place)
                if not self.holds:
                    free = at_size_of(shown.permute(0, 3, 1, 2), place).permute(0, 2, 3, 1)
                    beside = torch.lerp(shown, rendering.rgb.detach(), free)
                    kept = backbone.encode(beside)
            # Drawn whole wherever the edit acts at all, and faded afterwards: a part of the source held at every
            # step draws the sample back to all of it (a half recoloured lock of hair stays as it was).
            acts = (inside > 0).to(inside)

            def guided(noisy: Tensor, at: Tensor) -> Tensor:
                a = abar[at].view(-1, 1, 1, 1)
                of_source = (noisy - a.sqrt() * kept) / (1 - a).sqrt().clamp_min(1e-4)
                return torch.lerp(of_source, self.blended(predict, noisy, at), acts)

            # Outside the mask stands the noised source at every step, so that what is drawn inside is drawn onto it
            # (Avrahami et al. 2023, arXiv 2206.02779).
            noisy = add_noise(torch.lerp(kept, latents, acts), noise, abar, timesteps)
            clean = SAMPLERS[config.sampler](guided, noisy, timesteps, abar, base.stage.denoise_steps)
            weighting: Any = config.weighting  # config.validated() checked it
            gradient = sds_gradient(latents, torch.lerp(kept, clean, inside), timesteps, abar, weighting)
            if config.grad_clip > 0:
                gradient = gradient.clamp(-config.grad_clip, config.grad_clip)
        loss, target = latents.new_zeros(()), None
        if config.latent_weight > 0:
            loss = loss + config.latent_weight * latent_loss(latents, gradient)
        if config.image_weight > 0:
            rgb = base._at_prior_size(rendering.rgb)
            with torch.no_grad():
                wanted, present = backbone.decode(torch.cat([clean, latents])).chunk(2)
                edited = asked_picture(rgb, wanted, present, drawn_colours=config.drawn_colours)
                share = F.interpolate(inside, rgb.shape[1:3], mode="bilinear")
                if place is not None:
                    share = share * at_size_of(share, place)
                share = share.permute(0, 2, 3, 1)
                # Outside the mask the source itself, to the pixel: no autoencoder comes between.
                target = share * edited + (1 - share) * base._at_prior_size(beside)
            loss = loss + config.image_weight * image_loss(rgb, target)
        seconds = time.perf_counter() - started
        return loss, GuidanceRecord(float(timesteps.float().mean()) / len(abar), seconds, target)


def at_size_of(like: Tensor, place: Tensor) -> Tensor:
    """``place (B, 1, h, w)`` with the rows and columns of ``like (B, C, H, W)``, on its device: ``(B, 1, H, W)``.

    What becomes smaller keeps its maximum: a latent counts whole where a part of it does.
    """
    place, size = place.to(like), tuple(like.shape[-2:])
    if size[0] < place.shape[-2]:
        return F.adaptive_max_pool2d(place, size)
    return F.interpolate(place, size, mode="bilinear")
