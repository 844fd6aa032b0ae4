"""Score distillation guidance: a rendering goes in, the loss that improves it comes out."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from headsculpt.cameras import CLOSE_UP_HALF_HEIGHT, Cameras
from headsculpt.config import CoarseConfig, FineConfig, GuidanceConfig, RefineConfig
from headsculpt.guidance import scores
from headsculpt.guidance.backbone import Backbone, Control, LatentDiffusion
from headsculpt.guidance.classifier_free import classifier_free_guidance
from headsculpt.guidance.perp_neg import blend_weights, perp_neg_direction, view_blend
from headsculpt.guidance.samplers import SAMPLERS
from headsculpt.guidance.scores import Step, sds_gradient
from headsculpt.prompts import head_view, view_prompt
from headsculpt.rendering import Rendering
from headsculpt.synthesis.completion import completed_prompt, unwanted

if TYPE_CHECKING:
    from headsculpt.guidance.particles import ParticleModel

# What "negative" says to scores that need an unwanted picture, where the user names none (NFSD's own words).
UNWANTED = "unrealistic, blurry, low quality, out of focus, ugly, low contrast, dull, dark, low-resolution, gloomy"


@dataclass
class GuidanceRecord:
    """What one guidance call did; written to progress.jsonl."""

    timestep: float  # mean over the batch, as a fraction of the schedule
    seconds: float  # spent in the diffusion model
    target: Tensor | None = None  # (B, h, w, 3) what the model would have liked to see
    own_loss: float | None = None  # of the model of the renderings (VSD)


# The contract of every guidance: a plain function with this signature is one.
Guidance = Callable[[Rendering, Cameras, float, torch.Generator], "tuple[Tensor, GuidanceRecord] | Tensor"]

Predictions = Callable[[Tensor, Tensor, Sequence[str]], Sequence[Tensor]]


def annealed_timesteps(
    batch: int, progress: float, stage: CoarseConfig | FineConfig | RefineConfig, count: int, generator: torch.Generator
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


def latent_loss(latents: Tensor, gradient: Tensor) -> Tensor:
    """A scalar whose gradient in the latents ``(B, C, h, w)`` is ``gradient`` over B."""
    aim = (latents - gradient).detach()
    return 0.5 * F.mse_loss(latents, aim, reduction="sum") / len(latents)


def image_loss(rgb: Tensor, target: Tensor) -> Tensor:
    """Mean distance of images ``(B, H, W, 3)`` in [0, 1]: absolute, and squared below 0.05.

    The mean of disagreeing targets is grey; their median is not.
    """
    return F.smooth_l1_loss(rgb, target, beta=0.05)


def asked_picture(rgb: Tensor, wanted: Tensor, present: Tensor, *, drawn_colours: bool = False) -> Tensor:
    """The picture that the model asks for in place of a rendering.

    It is what the model would change, on top of what is there: an encoder that blurs then blurs both terms alike, and
    details that the model does not object to stay (ours, not ablated yet). So do specks of colour on grey cloth or
    marble, too fine for the latents; colours less their brightness are better taken from what the model drew.

    Args:
        rgb: the rendering, ``(B, H, W, 3)`` in [0, 1].
        wanted, present: the decoded latents that the model asks for, and those of the rendering.
        drawn_colours: take the colours, less their brightness, from ``wanted`` alone.
    """
    asked = rgb + wanted - present
    if drawn_colours:
        asked = asked.mean(-1, keepdim=True) + wanted - wanted.mean(-1, keepdim=True)
    return asked.clamp(0, 1)


def at_size(rgb: Tensor, size: int) -> Tensor:
    """Images ``(B, H, W, 3)`` at ``(B, size, size, 3)``."""
    if rgb.shape[1:3] == (size, size):
        return rgb
    shrink = rgb.shape[1] > size
    x = F.interpolate(
        rgb.permute(0, 3, 1, 2), (size, size), mode="bilinear", align_corners=False, antialias=shrink
    )
    return x.permute(0, 2, 3, 1)


class ScoreDistillation:
    """Guidance by a text-to-image model under view-dependent prompts and controls.

    A score of :mod:`headsculpt.guidance.scores` (SDS, VSD, ...) says which clean latents the model asks for.
    Two terms lead there, either of which may be off: the latent residual (DreamFusion eq. 3) goes back through
    the encoder; the image residual (HiFA, Zhu et al. 2023, eq. 8) compares the picture with the decoded
    clean latents, so the encoder takes no gradient and colours stay true even when it is small.

    Args:
        backbone: the diffusion model.
        prompt: what the head should show, without a view.
        config: weights and forms.
        stage: guidance scale, timestep range and denoising steps of the stage that is guided.
        landmarks: cameras -> landmark control, or None.
        negative_prompt: added to the negative prompt of every view.
        back_token: a learned token for views from behind, or None.
        seed: of the noise that all steps share.
        particles: the model of the renderings that score ``vsd`` needs; it learns as this is called.

    Raises:
        ValueError: an unknown score, or ``vsd`` without particles.
    """

    def __init__(
        self,
        backbone: LatentDiffusion,
        prompt: str,
        config: GuidanceConfig,
        stage: CoarseConfig | FineConfig | RefineConfig,
        *,
        landmarks: Callable[[Cameras], Control] | None = None,
        negative_prompt: str = "",
        back_token: str | None = None,
        seed: int = 0,
        particles: ParticleModel | None = None,
    ) -> None:
        if config.score == "vsd" and particles is None:
            raise ValueError("score 'vsd' needs a model of the renderings; give particles=ParticleModel(backbone)")
        self.score = named_score(config, stage)
        self.particles = particles if config.score == "vsd" else None
        self.backbone, self.prompt, self.config, self.stage = backbone, prompt, config, stage
        self.landmarks, self.negative_prompt, self.back_token = landmarks, negative_prompt, back_token
        self.seed = seed
        self._common: Tensor | None = None

    @property
    def told(self) -> str:
        """The prompt as the model is told it; of the face from near perhaps less
        (:func:`headsculpt.synthesis.completion.completed_prompt`)."""
        return self._told()

    def _told(self, near: bool = False) -> str:
        return completed_prompt(self.prompt, self.seed, near=near) if self.config.complete_prompt else self.prompt

    def texts(self, cameras: Cameras) -> tuple[Tensor, Tensor]:
        """Text states of the positive and the negative prompts of these views, ``(B, T, D)`` each."""
        style: Any = self.config.prompt_style  # config.validated() checked it
        azimuths = cameras.azimuth_deg.tolist()
        pairs = [
            view_prompt(self._told(half < CLOSE_UP_HALF_HEIGHT), a, style=style, back_token=self.back_token)
            for a, half in zip(azimuths, cameras.half_height.tolist(), strict=True)
        ]
        unasked = unwanted(self.told) if self.config.complete_prompt and self.config.keep_off else ""
        negatives = []
        for azimuth, (_, negative) in zip(azimuths, pairs, strict=True):
            parts = (negative, "" if head_view(azimuth) == "back" else unasked, self.negative_prompt)
            negatives.append(", ".join(part for part in parts if part))
        return self.backbone.embed([p for p, _ in pairs]), self.backbone.embed(negatives)

    def _noise(self, latents: Tensor, generator: torch.Generator) -> Tensor:
        """Noise for the latents: fresh, with a share that is the same for all views and steps.

        Whatever the prompt leaves open (the colour of a shirt) is decided by the noise, mostly by its low
        frequencies. Fresh noise decides differently in every step, and the sculpture averages to grey;
        a common part is meant to make views and steps agree. Ours, off by default (0 is the published form):
        since open attributes are settled in the prompt, one unlucky noise does more harm than fresh ones.
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

    def _states(self, cameras: Cameras) -> dict[str, Tensor]:
        """Text states ``(B, T, D)`` by what they are for.

        ``text`` is the prompt of each view; ``base`` is what classifier-free guidance starts from: the negative
        prompt, or no text where there is none. ``empty`` is no text; ``negative`` the negative prompt, or
        :data:`UNWANTED` where there is none. With perp-neg, ``text`` is mixed from the neighbouring views'
        prompts, and ``away0`` and ``away1`` are the views to push away.
        """
        text, base = self.texts(cameras)
        states = {"text": text, "base": base}
        if self.config.score in ("csd", "nfsd", "ism"):
            states["empty"] = self.backbone.embed([""] * len(cameras))
            states["negative"] = base if self.negative_prompt else self.backbone.embed([UNWANTED] * len(cameras))
        if self.config.perp_neg:
            blends = [view_blend(float(a)) for a in cameras.azimuth_deg]
            share = torch.tensor([b.positive[2] for b in blends]).view(-1, 1, 1).to(text)
            first = self._view_texts(cameras, [b.positive[0] for b in blends])
            second = self._view_texts(cameras, [b.positive[1] for b in blends])
            states["text"] = share * first + (1 - share) * second
            for i in (0, 1):
                states[f"away{i}"] = self._view_texts(cameras, [b.negatives[i] for b in blends])
        return states

    def _view_texts(self, cameras: Cameras, views: Sequence[str]) -> Tensor:
        """Text states of the prompt as each of these views says it, ``(B, T, D)``."""
        style: Any = self.config.prompt_style
        prompts = []
        for azimuth, view in zip(cameras.azimuth_deg, views, strict=True):
            left = (float(azimuth) + 180.0) % 360.0 - 180.0 >= 0
            at = {"front": 0.0, "side": 90.0 if left else -90.0, "back": 180.0}[view]
            prompts.append(view_prompt(self.told, at, style=style, back_token=self.back_token)[0])
        return self.backbone.embed(prompts)

    def _controls(self, cameras: Cameras, progress: float) -> dict[str, Control]:
        if self.landmarks is None or progress >= self.config.landmarks_until:
            return {}
        return {"landmarks": self.landmarks(cameras)}

    def predictions(self, states: dict[str, Tensor], controls: dict[str, Control]) -> Predictions:
        """(noisy latents, timesteps, texts by name) -> one noise prediction for each text, in one pass."""
        return predictor(self.backbone, states, controls, {"text"} if self.stage.landmarks_guided else set(states))

    def guided(self, predict: Predictions, cameras: Cameras) -> scores.NoisePredictor:
        """The guided noise prediction for these views as a function of (noisy latents, timesteps)."""

        def guide(noisy: Tensor, at: Tensor) -> Tensor:
            if self.config.perp_neg:
                text, base, *away = predict(noisy, at, ("text", "base", "away0", "away1"))
                text = base + perp_neg_direction(text, base, away, blend_weights(cameras.azimuth_deg.tolist()))
            else:
                text, base = predict(noisy, at, ("text", "base"))
            form: Any = self.config.cfg_form  # config.validated() checked it
            return classifier_free_guidance(
                text, base, self.stage.guidance_scale, form=form, rescale=self.config.rescale
            )

        return guide

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
            loss = latents.new_zeros(())
            states, controls = self._states(cameras), self._controls(cameras, progress)
            predict, own = self.predictions(states, controls), None
            if self.particles is not None:
                own = partial(self.particles.predict, text=states["text"], cameras=cameras, controls=controls)
            scale = self.stage.guidance_scale
            guided = self.guided(predict, cameras)
            clean = self.score(Step(latents.detach(), noise, timesteps, abar, predict, guided, scale, own))
            weighting: Any = config.weighting  # config.validated() checked it
            gradient = sds_gradient(latents, clean, timesteps, abar, weighting)
            if config.grad_clip > 0:
                gradient = gradient.clamp(-config.grad_clip, config.grad_clip)
        target = None
        if config.latent_weight > 0:
            loss = loss + config.latent_weight * latent_loss(latents, gradient)
        if config.image_weight > 0:
            rgb = self._at_prior_size(rendering.rgb)
            with torch.no_grad():
                wanted, present = backbone.decode(torch.cat([clean, latents])).chunk(2)
                target = asked_picture(rgb, wanted, present, drawn_colours=config.drawn_colours)
            loss = loss + config.image_weight * image_loss(rgb, target)
        own_loss = None
        if self.particles is not None:
            own_loss = self.particles.learn(latents.detach(), states["text"], cameras, controls, generator)
        timestep = float(timesteps.float().mean()) / len(abar)  # waits for the device
        seconds = time.perf_counter() - started
        return loss, GuidanceRecord(timestep, seconds, target, own_loss)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs beside the configuration: the model of the renderings, for VSD."""
        return {} if self.particles is None else {"particles": self.particles.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Puts back what :meth:`state_dict` gave."""
        if self.particles is not None and "particles" in state:
            self.particles.load_state_dict(state["particles"])

    def _at_prior_size(self, rgb: Tensor) -> Tensor:
        """Images ``(B, H, W, 3)`` at the size that the prior decodes to."""
        return at_size(rgb, self.backbone.image_size)


def predictor(
    backbone: Backbone, states: dict[str, Tensor], controls: dict[str, Control], pointing: Collection[str]
) -> Predictions:
    """(noisy latents, timesteps, texts by name) -> one noise prediction for each text, in one pass.

    All see the controls; but where landmarks are drawn, those with a text that is not in ``pointing`` do not see
    them. Guidance goes away from such predictions, and so towards the landmarks there, as it does towards the text
    (diffusers' guess mode does that all over the picture; then what landmarks say nothing about, hats for instance,
    gives way to the face that they most often come with. Ours).

    Args:
        backbone: the diffusion model.
        states: text states ``(B, T, D)`` by name.
        controls: of the views.
        pointing: names of texts that guidance points at; all of ``states`` for predictions that see everything.
    """

    landmarks = controls.get("landmarks")

    def predict(noisy: Tensor, at: Tensor, texts: Sequence[str]) -> Sequence[Tensor]:
        every = torch.arange(len(noisy), device=noisy.device)
        # Where no landmark is drawn all see the same, and nothing is predicted twice.
        apart = every[:0] if landmarks is None else every[landmarks.rows.to(every.device)]
        blind = [i for i, text in enumerate(texts) if len(apart) and text not in pointing]
        order = torch.cat([every] * len(texts) + [apart] * len(blind))
        led = len(texts) * len(every)
        unseen = torch.arange(len(order)) >= led
        found = backbone.predict_noise(
            noisy[order],
            at[order],
            torch.cat([states[text] for text in texts] + [states[texts[i]][apart] for i in blind]),
            {name: c.taken(order, unseen if name == "landmarks" else None) for name, c in controls.items()},
        )
        result = list(found[:led].chunk(len(texts)))
        if landmarks is not None and blind:
            drawn = landmarks.drawn(noisy.shape[-2:]).to(noisy)[apart]
            for i, without in zip(blind, found[led:].chunk(len(blind)), strict=True):
                result[i] = result[i].index_copy(0, apart, torch.lerp(result[i][apart], without, drawn))
        return result

    return predict


def named_score(config: GuidanceConfig, stage: CoarseConfig | FineConfig | RefineConfig) -> Callable[[Step], Tensor]:
    """The score that the configuration names, with its settings.

    Raises:
        ValueError: an unknown name.
    """
    if config.score == "sds":
        return partial(scores.sds, denoise_steps=stage.denoise_steps, sampler=SAMPLERS[config.sampler])
    if config.score == "csd":
        return partial(scores.csd, negative_weight=config.negative_weight)
    if config.score == "ism":
        return partial(scores.ism, interval=config.ism_interval, stride=config.ism_stride)
    if config.score not in scores.SCORES:
        raise ValueError(f"unknown score {config.score!r}; expected one of {', '.join(scores.SCORES)}")
    return {"vsd": scores.vsd, "nfsd": scores.nfsd, "ssd": scores.ssd}[config.score]
