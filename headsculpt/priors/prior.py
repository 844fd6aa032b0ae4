"""A loaded prior: the parts of a diffusion model, ready for a guidance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    import torch

    from headsculpt.priors.text_to_head import TextToHead
    from headsculpt.priors.upscaler import Upscaler


@dataclass
class Prior:
    """A text-to-image diffusion model with its controls.

    Attributes:
        name: catalogue name or folder.
        tokenizer, text_encoder, vae, unet, scheduler: as diffusers and transformers know them.
        controlnets: by what they obey, for instance "landmarks".
        image_size: pixels of the images that it was trained on.
        latent_size: image_size over the VAE's factor.
        text_to_head: the head that a sentence describes on average, for priors that have one.
        tokens: learned tokens by what they are for, and what a prompt says to use them; see
            :mod:`headsculpt.priors.tokens`.
        upscaler: makes its pictures twice as large, for priors that have one.
    """

    name: str
    tokenizer: Any
    text_encoder: nn.Module
    vae: nn.Module
    unet: nn.Module
    scheduler: Any
    image_size: int
    latent_size: int
    controlnets: Mapping[str, nn.Module] = field(default_factory=dict)
    text_to_head: TextToHead | None = None
    tokens: dict[str, str] = field(default_factory=dict)
    upscaler: Upscaler | None = None

    def modules(self) -> list[nn.Module]:
        """All networks."""
        beside = [] if self.upscaler is None else [self.upscaler]
        return [self.text_encoder, self.vae, self.unet, *self.controlnets.values(), *beside]

    def frozen(self, device: torch.device | str, dtype: torch.dtype) -> Prior:
        """Itself, moved, in evaluation mode and without gradients for its weights."""
        for module in self.modules():
            module.to(device=device).eval().requires_grad_(False)
            if next(module.parameters()).dtype != dtype:
                module.to(dtype=dtype)
        return self

    def parameter_count(self) -> int:
        """Parameters of all networks."""
        return sum(p.numel() for module in self.modules() for p in module.parameters())
