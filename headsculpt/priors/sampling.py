"""Images from a prior: DDIM with classifier-free guidance, in bulk and under any control."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from headsculpt.devices import mixed
from headsculpt.priors.mini import tokenise

# Models are typed Any here: diffusers' classes are lazy and type checkers see no methods on them.


@torch.no_grad()
def embed(tokenizer: Any, encoder: Any, texts: Sequence[str]) -> Tensor:
    """Text states ``(B, T, D)`` float32."""
    return encoder(tokenise(tokenizer, list(texts)).to(encoder.device)).last_hidden_state.float()


@torch.no_grad()
def sample_latents(
    unet: Any,
    scheduler: Any,
    text: Tensor,
    empty: Tensor,
    generator: torch.Generator,
    *,
    steps: int = 25,
    guidance_scale: float = 4.0,
    controlnet: Any = None,
    condition: Tensor | None = None,
    control_scale: float = 1.0,
    control_guided: bool = True,
) -> Tensor:
    """Scaled latents ``(B, C, h, w)`` float32 for text states.

    Args:
        unet, scheduler: of one prior.
        text: ``(B, T, D)`` states of the prompts.
        empty: ``(1, T, D)`` states of the empty prompt.
        generator: CPU generator of the initial noise.
        steps: of DDIM (Song et al. 2021), eta 0.
        guidance_scale: s in ``empty + s * (text - empty)``; 1 switches guidance off.
        controlnet, condition: control and its map ``(B, 3, H, W)`` in [0, 1]; or None.
        control_scale: of the control's residuals.
        control_guided: guidance points at the control as it does at the text, as the half without text does not
            see it (diffusers' guess mode); with False both halves see it.
    """
    from headsculpt.guidance.classifier_free import classifier_free_guidance

    size, channels = unet.config.sample_size, unet.config.in_channels
    device = text.device
    x = torch.randn((len(text), channels, size, size), generator=generator).to(device)
    both = torch.cat([empty.expand_as(text), text])
    maps = None if condition is None else condition.to(device)
    seen = slice(len(x) if control_guided else 0, None)  # rows that pass through the control
    if maps is not None and not control_guided:
        maps = maps.repeat(2, 1, 1, 1)
    scheduler.set_timesteps(steps, device=device)
    for t in scheduler.timesteps:
        twice, times = x.repeat(2, 1, 1, 1), t.expand(2 * len(x))
        with mixed(device):
            down = middle = None
            if controlnet is not None:
                down, middle = controlnet(
                    twice[seen], times[seen], both[seen], maps, conditioning_scale=control_scale, return_dict=False
                )
                if control_guided:  # a residual of zero is the plain UNet
                    down = [torch.cat([torch.zeros_like(part), part]) for part in down]
                    middle = torch.cat([torch.zeros_like(middle), middle])
            out = unet(
                twice,
                times,
                both,
                down_block_additional_residuals=down,
                mid_block_additional_residual=middle,
            ).sample
        without, given = out.float().chunk(2)
        x = scheduler.step(classifier_free_guidance(given, without, guidance_scale), t, x).prev_sample
    return x


@torch.no_grad()
def decode(vae: Any, latents: Tensor) -> Tensor:
    """Images ``(B, H, W, 3)`` float32 in [0, 1] of scaled latents."""
    with mixed(latents.device):
        x = vae.decode(latents / vae.config.scaling_factor).sample
    return (0.5 + 0.5 * x.float()).clamp(0, 1).permute(0, 2, 3, 1)
