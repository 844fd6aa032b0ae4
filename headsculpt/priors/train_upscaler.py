"""The training of :mod:`headsculpt.priors.upscaler`: from what the mini family decodes to portraits of twice the size.

Half of the pictures are decoded from latents of portraits, half from the noise predictor's estimate of them, which are
smoother; each is mixed with the portrait itself by a random share, as a render that is repainted is sharp where nothing
changes. Plain errors alone would give the mean of what a blurred edge may be, which is blurred; so there is a critic
(:mod:`headsculpt.priors.critic`), which counts most by its features.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from headsculpt.devices import mixed
from headsculpt.priors import mini
from headsculpt.priors.critic import Critic, criticised
from headsculpt.priors.dataset import Portraits, open_dataset
from headsculpt.priors.resident import Rows, as_images
from headsculpt.priors.sampling import decode, embed
from headsculpt.priors.train_vae import (
    crop_corners,
    encoder_stamp,
    face_boxes,
    face_weights,
    reconstruction_loss,
)
from headsculpt.priors.training import Stage
from headsculpt.priors.upscaler import FACTOR, Upscaler

log = logging.getLogger(__name__)

LARGE = "large"  # folder of the portraits of twice the size
SIZE = 64  # pixels of the pieces that are learnt at a time, before they are upscaled
NOISIEST = 0.4  # of the schedule, from which on an estimate is of another face, and its portrait no answer to it
PATCHES_WEIGHT = 0.1  # more draws wrinkles that nobody has, and view after view they add up


def upscaler_stage(work: Path, device: torch.device | str, seed: int, *, batch: int = 8) -> Stage:
    """Stage "upscaler"; needs portraits of twice the size, text encoder, VAE and UNet.

    Raises:
        FileNotFoundError: one of them is missing.
    """
    portraits = open_dataset(work / LARGE)
    decoded = Rows([decoded_pictures(work, portraits, device)], device)
    images, boxes = Rows(portraits.shards, device), face_boxes(portraits)
    torch.manual_seed(seed)
    upscaler, critic = Upscaler().to(device), Critic().to(device)
    # Both learn at once, so an interrupted training goes on with the critic that it had.
    model = nn.ModuleDict({"upscaler": upscaler, "critic": critic})
    full, size = portraits.shards[0].shape[1], FACTOR * SIZE
    shown = np.linspace(0, len(portraits) - 1, 8).astype(int)

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        indices = torch.randint(len(portraits), (batch,), generator=generator).numpy()
        corners = crop_corners(portraits.landmarks[indices], full, size, generator) // FACTOR * FACTOR
        target = cut(images, indices, corners, size) * 2 - 1
        soft = cut(decoded, indices, corners // FACTOR, SIZE) * 2 - 1
        share = torch.rand(batch, 1, 1, 1, generator=generator).to(device)
        pictures = torch.lerp(soft, F.avg_pool2d(target, FACTOR), share * (share > 0.5))
        weight = face_weights(boxes[indices] - np.tile(corners, 2)[:, None], size, device)
        with mixed(device):
            larger = upscaler(pictures).float()
        error = reconstruction_loss(larger, target, weight)
        total, figures = criticised(critic, larger, target, error, patches_weight=PATCHES_WEIGHT)
        with torch.no_grad():
            psnr = -10 * torch.log10(((larger - target) / 2).square().mean())
        return total, {"psnr": float(psnr), "error": float(error.detach()), **figures}

    def cut(rows: Rows, indices: NDArray, corners: NDArray, side: int) -> Tensor:
        """Squares ``(B, 3, side, side)`` in [0, 1] of pictures, by their left and top."""
        columns, lines = (torch.from_numpy(corners)[:, :, None] + torch.arange(side)).to(device).unbind(1)
        which = torch.arange(len(indices), device=device)[:, None, None]
        return as_images(rows[indices][which, lines[:, :, None], columns[:, None, :]])

    def sheet(model: Any) -> Image.Image:
        """Decoded, upscaled, and the portraits."""
        soft = as_images(decoded[shown])
        with torch.no_grad():
            larger = model["upscaler"].upscaled(soft.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        rows = [F.interpolate(soft, scale_factor=FACTOR, mode="bicubic").clamp(0, 1), larger, as_images(images[shown])]
        picture = torch.cat([torch.cat(list(row), 2) for row in rows], 1)
        return Image.fromarray((picture * 255).byte().permute(1, 2, 0).cpu().numpy())

    def export(model: Any) -> None:
        (work / "modules").mkdir(parents=True, exist_ok=True)
        model["upscaler"].save(work / "modules")

    # AdamW, whose first beta is that of networks which learn against each other.
    return Stage(
        "upscaler", model, loss, export, batch, sheet, learning_rate=5e-4, weight_decay=1e-4, betas=(0.5, 0.98),
        ema_decay=0.998,
    )  # fmt: skip


def decoded_pictures(work: Path, portraits: Portraits, device: torch.device | str) -> NDArray:
    """What the family decodes of portraits of twice its size ``(N, S / 2, S / 2, 3)`` uint8; made once, and kept.

    Raises:
        FileNotFoundError: a stage before has not been trained.
    """
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    modules = work / "modules"
    for stage, name in (("text", "text_encoder"), ("vae", "vae"), ("unet", "unet")):
        if not (modules / name / "config.json").exists():
            raise FileNotFoundError(
                f"{modules / name} is missing; train it first: headsculpt train-prior {stage} --work {work}"
            )
    path, note = work / "decoded" / "decoded.npy", work / "decoded" / "decoded.json"
    side = portraits.shards[0].shape[1] // FACTOR
    said = {"vae": encoder_stamp(modules / "vae"), "shape": [len(portraits), side, side, 3]}
    if note.exists() and json.loads(note.read_text(encoding="utf-8")) == said:
        return np.load(path, mmap_mode="r")
    tokenizer: Any = CLIPTokenizer.from_pretrained(modules / "tokenizer")
    encoder: Any = CLIPTextModel.from_pretrained(modules / "text_encoder", torch_dtype=torch.float32)
    vae: Any = AutoencoderKL.from_pretrained(modules / "vae", torch_dtype=torch.float32)
    unet: Any = UNet2DConditionModel.from_pretrained(modules / "unet", torch_dtype=torch.float32)
    for module in (encoder, vae, unet):
        module.to(device).eval()
    scheduler, generator = mini.make_scheduler(), torch.Generator().manual_seed(0)
    alphas = scheduler.alphas_cumprod.to(device)
    path.parent.mkdir(parents=True, exist_ok=True)
    decoded = np.lib.format.open_memmap(path, "w+", np.uint8, tuple(said["shape"]))
    for part in np.array_split(np.arange(len(portraits)), max(1, len(portraits) // 8)):
        pictures = as_images(torch.from_numpy(portraits.images(part))).to(device)
        with torch.no_grad(), mixed(device):
            latents = vae.encode(2 * F.avg_pool2d(pictures, FACTOR) - 1).latent_dist.mean.float()
            latents = latents * vae.config.scaling_factor
            estimated = slice(None, None, 2)
            clean = latents[estimated]
            t = (NOISIEST * len(alphas) * torch.rand(len(clean), generator=generator)).long().to(device)
            noise = torch.randn(clean.shape, generator=generator).to(device)
            noisy, a = scheduler.add_noise(clean, noise, t), alphas[t][:, None, None, None]
            text = embed(tokenizer, encoder, [portraits.captions[i][0] for i in part[estimated]])
            latents[estimated] = a.sqrt() * noisy - (1 - a).sqrt() * unet(noisy, t, text).sample.float()
        decoded[part] = (decode(vae, latents) * 255).round().byte().cpu().numpy()
        if part[-1] // 512 != part[0] // 512:
            log.info("decoded %d of %d", part[-1] + 1, len(portraits))
    decoded.flush()
    note.write_text(json.dumps(said), encoding="utf-8")
    return np.load(path, mmap_mode="r")
