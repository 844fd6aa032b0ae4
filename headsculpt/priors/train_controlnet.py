"""The landmark ControlNet of the mini family (Zhang et al. 2023): the UNet's encoder, copied and trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from headsculpt.priors import mini
from headsculpt.priors.sampling import mixed
from headsculpt.priors.train_text import save_module
from headsculpt.priors.train_unet import open_frozen, sample_sheet, stratified_timesteps, velocity_loss
from headsculpt.priors.training import Stage

BLACK_SHARE = 0.15  # of the maps are dropped: a black map must leave the UNet's own answer
EMPTY_SHARE = 0.3  # of the texts are dropped, so that the map alone has to place the face


def landmark_stage(work: Path, device: torch.device | str, seed: int, *, batch: int = 48) -> Stage:
    """Stage "landmarks"; needs the data set, the text encoder, the VAE and the UNet."""
    from diffusers import UNet2DConditionModel

    folder = work / "modules" / "unet"
    if not (folder / "config.json").exists():
        raise FileNotFoundError(
            f"{folder} is missing; train it first: headsculpt train-prior unet --work {work}"
        )
    frozen = open_frozen(work, device)
    unet: Any = UNet2DConditionModel.from_pretrained(folder, torch_dtype=torch.float32).to(device)
    unet.eval().requires_grad_(False)
    torch.manual_seed(seed)
    controlnet = mini.make_controlnet(unet).to(device).requires_grad_(True).train()
    alphas = frozen.scheduler.alphas_cumprod.to(device)
    size = frozen.portraits.shards[0].shape[1]

    def maps(indices: np.ndarray) -> Tensor:
        drawn = torch.from_numpy(frozen.portraits.landmark_maps(indices, size))
        return drawn.permute(0, 3, 1, 2).float().div(255).to(device)

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        indices, latents, text = frozen.batch(batch, generator, EMPTY_SHARE)
        condition = maps(indices)
        condition[torch.rand(batch, generator=generator) < BLACK_SHARE] = 0.0
        noise = torch.randn(latents.shape, generator=generator).to(device)
        t = stratified_timesteps(batch, len(alphas), generator).to(device)
        noisy = frozen.scheduler.add_noise(latents, noise, t)
        with mixed(device):
            down, middle = controlnet(noisy, t, text, condition, return_dict=False)
            output = unet(
                noisy, t, text, down_block_additional_residuals=down, mid_block_additional_residual=middle
            ).sample
        return velocity_loss(output, latents, noise, alphas[t]), {}

    facing = np.flatnonzero(np.abs(frozen.portraits.views[:, 0]) < 80)
    facing = facing if len(facing) else np.arange(len(frozen.portraits))
    shown = facing[np.linspace(0, len(facing) - 1, 16).astype(int)]

    def sheet(model: Any) -> Image.Image:
        """Samples of the usual texts under landmark maps of other figures, with the maps drawn over them."""
        condition = maps(shown)
        picture = sample_sheet(frozen, unet, model, condition)
        drawn = (condition.permute(0, 2, 3, 1).cpu().numpy() * 255).astype(np.uint8)
        over = np.concatenate([np.concatenate(list(drawn[i : i + 8]), 1) for i in (0, 8)])
        below = np.asarray(picture)
        return Image.fromarray(np.concatenate([below, np.maximum(below // 2, over)]))

    def export(model: Any) -> None:
        save_module(model, work / "modules" / "controlnet_landmarks")

    return Stage(
        "landmarks", controlnet, loss, export, batch, sheet, learning_rate=4e-4, ema_decay=0.995,
        warm_up_steps=50,
    )  # fmt: skip
