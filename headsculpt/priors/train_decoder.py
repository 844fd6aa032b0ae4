"""A further training of the mini family's decoder alone, on the latents that its noise predictor knows.

What a decoder makes of a face caps everything that is drawn through it, and it can be trained on at any time:
the encoder stays as it is, bit for bit, and with it the latents, so that UNet and ControlNets stay valid
(Stability AI gave the decoder of Stable Diffusion its further training in the same way). It sees whole images
only, since group normalisation reads whole images later, too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from headsculpt.devices import mixed
from headsculpt.priors.dataset import open_dataset
from headsculpt.priors.resident import Rows, as_images, normal_like
from headsculpt.priors.train_text import save_module
from headsculpt.priors.train_unet import cached_latents
from headsculpt.priors.train_vae import LATENT_NOISE, face_boxes, face_weights, reconstruction_loss
from headsculpt.priors.training import Stage

TRAINED = ("decoder.", "post_quant_conv.")


def decoder_stage(work: Path, device: torch.device | str, seed: int, *, batch: int = 8) -> Stage:
    """Stage "decoder"; needs the data set and the VAE, which it starts from and in the end replaces.

    Raises:
        FileNotFoundError: there is no VAE to begin with.
    """
    from diffusers import AutoencoderKL

    folder = work / "modules" / "vae"
    if not (folder / "config.json").exists():
        raise FileNotFoundError(f"{folder} is missing; train it first: headsculpt train-prior vae --work {work}")
    portraits = open_dataset(work / "data")
    vae: Any = AutoencoderKL.from_pretrained(folder, torch_dtype=torch.float32).to(device)
    latents = Rows([cached_latents(work / "latents", portraits, vae, folder, device)], device)
    images, boxes = Rows(portraits.shards, device), face_boxes(portraits)
    for name, parameter in vae.named_parameters():
        parameter.requires_grad_(name.startswith(TRAINED))
    vae.to(memory_format=torch.channels_last)
    shown = np.linspace(0, len(portraits) - 1, 8).astype(int)

    def scaled(indices: np.ndarray) -> Tensor:
        return latents[indices].float() / vae.config.scaling_factor

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float | Tensor]]:
        indices = torch.randint(len(portraits), (batch,), generator=generator).numpy()
        target = as_images(images[indices]) * 2 - 1
        weight = face_weights(boxes[indices], target.shape[-1], device)
        z = scaled(indices)
        # What the noise predictor draws is a little off: each picture has another share of that.
        level = LATENT_NOISE * torch.rand(batch, 1, 1, 1, generator=generator).to(device)
        z = z + level * normal_like(z, generator)
        with mixed(device):
            image = vae.decode(z).sample
        with torch.no_grad():
            psnr = -10 * torch.log10(((image.float() - target) / 2).square().mean())
        return reconstruction_loss(image.float(), target, weight), {"psnr": psnr}

    def sheet(model: Any) -> Image.Image:
        with torch.no_grad(), mixed(device):
            back = model.decode(scaled(shown)).sample
        back = ((back.float() + 1) * 127.5).clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
        rows = np.concatenate([np.concatenate(list(portraits.images(shown)), 1), np.concatenate(list(back), 1)])
        return Image.fromarray(rows).resize((rows.shape[1] * 2, rows.shape[0] * 2), Image.Resampling.NEAREST)

    def export(model: Any) -> None:
        save_module(model, folder)

    return Stage(
        "decoder", vae, loss, export, batch, sheet, learning_rate=6e-4, weight_decay=1e-4, betas=(0.9, 0.98),
        ema_decay=0.998, muon=True,
    )  # fmt: skip
