"""Back-bone adapter: what a score needs of a diffusion model, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from headsculpt.devices import mixed

if TYPE_CHECKING:
    from headsculpt.priors.prior import Prior


class Backbone(Protocol):
    """A diffusion model as the scores see it. Latents are ``(B, C, h, w)``, noise is predicted (epsilon)."""

    alphas_cumprod: Tensor  # (T,) float32, decreasing

    def encode(self, images: Tensor) -> Tensor:
        """Latents of images ``(B, H, W, 3)`` in [0, 1]; differentiable."""

    def decode(self, latents: Tensor) -> Tensor:
        """Images ``(B, H, W, 3)`` in [0, 1] of latents."""

    def embed(self, texts: Sequence[str]) -> Tensor:
        """Text states ``(B, T, D)``."""

    def predict_noise(
        self, latents: Tensor, timesteps: Tensor, text: Tensor, controls: dict[str, Control] | None = None
    ) -> Tensor:
        """Noise in the latents at ``timesteps`` ``(B,)`` int64."""


class Control:
    """A control image for some rows of a batch.

    Args:
        image: ``(B, H, W, 3)`` float in [0, 1].
        rows: ``(B,)`` bool; rows that are False do not pass through the ControlNet at all.
        scale: conditioning scale.
    """

    def __init__(self, image: Tensor, rows: Tensor, scale: float = 1.0) -> None:
        self.image, self.rows, self.scale = image, rows, scale

    def taken(self, order: Tensor, unseen: Tensor | None = None) -> Control:
        """For a batch of the rows ``order`` ``(N,)`` int64; where ``unseen`` ``(N,)`` is True, without the control."""
        rows = self.rows[order.to(self.rows.device)]
        if unseen is not None:
            rows = rows & ~unseen.to(rows.device)
        return Control(self.image[order.to(self.image.device)], rows, self.scale)

    def drawn(self, size: Sequence[int]) -> Tensor:
        """``(B, 1, *size)`` float32: 1 where the image is not black, 0 elsewhere."""
        lit = self.image.amax(-1)[:, None] > 0
        return F.adaptive_max_pool2d(lit.float(), tuple(size))


class LatentDiffusion:
    """Adapter for any prior in the diffusers layout: the mini family, Stable Diffusion 1.5, 2.1.

    Args:
        prior: loaded by :func:`headsculpt.priors.catalogue.load_prior`; its weights are frozen.
        autocast: run the networks in bfloat16 where True and the device is faster in it.
    """

    def __init__(self, prior: Prior, *, autocast: bool = False) -> None:
        self.prior = prior
        self.vae: Any = prior.vae  # diffusers' types hide its methods behind nn.Module
        # The autoencoder's: the other networks may be off-loaded (headsculpt.priors.memory), it never is.
        self.device = next(prior.vae.parameters()).device
        self.dtype = next(prior.vae.parameters()).dtype
        self.autocast = autocast
        self.alphas_cumprod = prior.scheduler.alphas_cumprod.float().to(self.device)
        self.image_size = int(prior.image_size)
        for module in (prior.vae, prior.unet, prior.text_encoder, *prior.controlnets.values()):
            module.requires_grad_(False).eval()
            if self.device.type == "cpu":
                # A few per cent faster (benchmarks/precision.py).
                module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._text_cache: dict[str, Tensor] = {}

    def _mixed(self) -> Any:
        return mixed(self.device, self.autocast)

    def encode(self, images: Tensor) -> Tensor:
        x = images.permute(0, 3, 1, 2).to(self.device)
        if x.shape[-2:] != (self.image_size, self.image_size):
            down = x.shape[-1] > self.image_size
            x = F.interpolate(
                x, (self.image_size, self.image_size), mode="bilinear", align_corners=False, antialias=down
            )
        with self._mixed():
            # The mean, not a sample: the residual is then a function of the image alone.
            latents = self.vae.encode((2 * x - 1).to(self.dtype)).latent_dist.mean
        return latents.float() * self.vae.config.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        with self._mixed():
            x = self.vae.decode(
                (latents / self.vae.config.scaling_factor).to(self.dtype)
            ).sample
        return (0.5 + 0.5 * x.float()).clamp(0, 1).permute(0, 2, 3, 1)

    @torch.no_grad()
    def embed(self, texts: Sequence[str]) -> Tensor:
        missing = [t for t in dict.fromkeys(texts) if t not in self._text_cache]
        if missing:
            tokens = self.prior.tokenizer(
                missing,
                padding="max_length",
                max_length=self.prior.tokenizer.model_max_length,
                truncation=True,
                return_tensors="pt",
            )
            states = self.prior.text_encoder(tokens.input_ids.to(self.device))[0]
            self._text_cache.update(zip(missing, states, strict=True))
        return torch.stack([self._text_cache[t] for t in texts])

    def predict_noise(
        self,
        latents: Tensor,
        timesteps: Tensor,
        text: Tensor,
        controls: dict[str, Control] | None = None,
        *,
        learn: bool = False,
    ) -> Tensor:
        """As the protocol says; with ``learn``, differentiable in whatever of the UNet takes gradients."""
        with torch.set_grad_enabled(learn):
            return self._predict_noise(latents, timesteps, text, controls)

    def _predict_noise(
        self, latents: Tensor, timesteps: Tensor, text: Tensor, controls: dict[str, Control] | None
    ) -> Tensor:
        z, text = latents.to(self.dtype), text.to(self.dtype)
        with self._mixed():
            down, mid = self._control_residuals(z, timesteps, text, controls or {})
            output = self.prior.unet(
                z,
                timesteps,
                encoder_hidden_states=text,
                down_block_additional_residuals=down,
                mid_block_additional_residual=mid,
            ).sample
        output = output.float()
        if self.prior.scheduler.config.prediction_type == "v_prediction":
            a = self.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
            output = a.sqrt() * output + (1 - a).sqrt() * latents
        return output

    def _control_residuals(
        self, z: Tensor, timesteps: Tensor, text: Tensor, controls: dict[str, Control]
    ) -> tuple[list[Tensor] | None, Tensor | None]:
        """Sum of the ControlNets' residuals; zero rows where a control does not apply.

        A zero residual is the plain UNet, so one UNet call serves rows with and without controls.
        """
        down: list[Tensor] | None = None
        mid: Tensor | None = None
        for name, control in controls.items():
            rows = control.rows.to(z.device)
            if not rows.any():
                continue
            if name not in self.prior.controlnets:
                raise ValueError(
                    f"prior {self.prior.name!r} has no ControlNet {name!r}; it has "
                    f"{sorted(self.prior.controlnets)}"
                )
            image = control.image.to(z)[rows].permute(0, 3, 1, 2)
            if image.shape[-1] != self.image_size:
                image = F.interpolate(image, (self.image_size, self.image_size), mode="area")
            some_down, some_mid = self.prior.controlnets[name](
                z[rows],
                timesteps[rows],
                encoder_hidden_states=text[rows],
                controlnet_cond=image,
                conditioning_scale=control.scale,
                return_dict=False,
            )

            def spread(part: Tensor, rows: Tensor = rows) -> Tensor:
                if rows.all():
                    return part
                whole = part.new_zeros((len(rows), *part.shape[1:]))
                whole[rows] = part
                return whole

            some_down, some_mid = [spread(d) for d in some_down], spread(some_mid)
            down = some_down if down is None else [a + b for a, b in zip(down, some_down, strict=True)]
            mid = some_mid if mid is None else mid + some_mid
        return down, mid
