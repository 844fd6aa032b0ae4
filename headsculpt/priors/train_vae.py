"""The autoencoder of the mini family, trained to keep eyes, mouths and spectacle rims.

Plain reconstruction, without a critic: squared error, absolute error at three scales and of the image's
gradients, four times as heavy around the visible eyes and lips. An adversarial critic would invent texture;
the portraits are smooth, and what guidance needs of a VAE is that small features survive.

Two things are for the noise predictor's sake. Latents at half size must decode to the image at half size
(Kouzelis et al. 2025, EQ-VAE), which keeps them smooth and so easy to learn; and the decoder sees a little
noise, so that it forgives what the noise predictor gets slightly wrong.
"""

from __future__ import annotations

import hashlib
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from headsculpt.devices import mixed
from headsculpt.priors import mini
from headsculpt.priors.dataset import Portraits, open_dataset
from headsculpt.priors.resident import Rows, as_images, normal_like
from headsculpt.priors.train_text import save_module
from headsculpt.priors.training import Stage
from headsculpt.priors.vae_start import start_as_downsampling

KL_WEIGHT = 1e-6  # keeps the latents near zero without costing detail, as in latent diffusion
FACE_WEIGHT = 3.0  # added to 1 around eyes and lips
GRADIENT_WEIGHT = 1.0
SQUARED_WEIGHT = 8.0
HALF_SIZE_WEIGHT = 0.5
LATENT_NOISE = 0.1  # deviation, where the latents' own is near 1
CROP = 2  # crops are this many times smaller than the image, and so many more of them fit into a step
WHOLE_EVERY = 4  # every fourth step sees whole images: group normalisation must know them too
FACE_PARTS = (("left_eye", "right_eye"), ("lips_outer", "lips_inner"))  # one box each; margins below
MARGINS = (0.45, 0.30)  # of the box's width: spectacle rims lie well outside the eyes


def encoder_stamp(folder: Path) -> str:
    """SHA-256 of a VAE's encoder: latents made with it are stale when this changes."""
    tensors = load_file(folder / "diffusion_pytorch_model.safetensors")
    digest = hashlib.sha256()
    for name in sorted(tensors):
        if name.startswith(("encoder.", "quant_conv.")):
            digest.update(name.encode() + tensors[name].numpy().tobytes())
    return digest.hexdigest()


def to_tensor(images: np.ndarray, device: torch.device | str) -> Tensor:
    """Images ``(B, H, W, 3)`` uint8 as ``(B, 3, H, W)`` float32 in [-1, 1]."""
    return torch.from_numpy(images).to(device).permute(0, 3, 1, 2).contiguous().float().div_(127.5).sub_(1.0)


def face_boxes(portraits: Portraits) -> NDArray:
    """Boxes around the visible eyes and around the visible lips of every picture.

    Returns:
        ``(N, 2, 4)`` float32 left, top, right, bottom in pixels of the picture; empty (all 0) where too little is seen.
    """
    boxes = np.zeros((len(portraits), len(FACE_PARTS), 4), np.float32)
    for column, (names, margin) in enumerate(zip(FACE_PARTS, MARGINS, strict=True)):
        points = np.concatenate([portraits.landmarks[:, portraits.contours[name]] for name in names], 1)
        seen = points[..., 2:] > 0.5
        low = np.where(seen, points[..., :2], np.inf).min(1)
        high = np.where(seen, points[..., :2], -np.inf).max(1)
        enough = seen.sum((1, 2)) >= 4
        low, high = low[enough], high[enough]
        grow = margin * (high - low).max(1, keepdims=True)
        boxes[enough, column] = np.concatenate([np.floor(low - grow), np.ceil(high + grow)], 1)
    return boxes


def face_weights(boxes: NDArray, size: int, device: torch.device | str = "cpu") -> Tensor:
    """Weight of every pixel ``(B, 1, size, size)`` float32: 1, and more within :func:`face_boxes` ``(B, 2, 4)``."""
    left, top, right, bottom = torch.from_numpy(boxes).to(device).unbind(-1)
    pixel = torch.arange(size, device=device, dtype=torch.float32)
    across = (pixel >= left[..., None]) & (pixel < right[..., None])
    down = (pixel >= top[..., None]) & (pixel < bottom[..., None])
    inside = (down[..., :, None] & across[..., None, :]).any(1, keepdim=True)
    return 1.0 + FACE_WEIGHT * inside.float()


def crop_corners(landmarks: NDArray, full: int, size: int, generator: torch.Generator) -> NDArray:
    """Left and top ``(B, 2)`` int64 of a square of ``size`` pixels in each image of ``full`` pixels, near one of the
    visible ``landmarks`` ``(B, K, 3)`` where there is one."""
    pick, *corner = torch.rand((3, len(landmarks)), generator=generator).numpy()
    corners = np.stack(corner, 1) * (full - size)
    seen = landmarks[..., 2] > 0.5
    some = seen.any(1)
    # The one whose place among the visible ones was drawn.
    place = (seen.cumsum(1) > (pick * seen.sum(1))[:, None].astype(int)).argmax(1)
    middle = landmarks[np.arange(len(landmarks)), place, :2] - size / 2
    near = middle + (np.stack(corner, 1) - 0.5) * 0.6 * size
    corners[some] = near[some]
    return np.clip(np.round(corners), 0, full - size).astype(np.int64)


def reconstruction_loss(image: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Weighted absolute error at full, half and quarter size, and of horizontal and vertical differences,
    and plain squared error."""
    total = torch.zeros((), device=image.device)
    difference, w = image - target, weight
    for _ in range(3):
        total = total + (w * difference.abs()).sum() / (w.sum() * 3)
        difference, w = F.avg_pool2d(difference, 2), F.avg_pool2d(w, 2)
    e, w = image - target, weight
    across = (w[..., 1:] * (e[..., 1:] - e[..., :-1]).abs()).sum() / (w.sum() * 3)
    down = (w[..., 1:, :] * (e[..., 1:, :] - e[..., :-1, :]).abs()).sum() / (w.sum() * 3)
    return total + GRADIENT_WEIGHT * (across + down) + SQUARED_WEIGHT * (image - target).square().mean()


def vae_stage(
    work: Path, device: torch.device | str, seed: int, *, config: dict = mini.VAE, batch: int = 4
) -> Stage:
    """Stage "vae"; needs the data set."""
    portraits = open_dataset(work / "data")
    torch.manual_seed(seed)
    vae = mini.make_vae(config).to(device)
    start_as_downsampling(vae)
    shown = np.linspace(0, len(portraits) - 1, 8).astype(int)

    images, boxes = Rows(portraits.shards, device), face_boxes(portraits)
    full = portraits.shards[0].shape[1]

    def pieces(step: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """A step's images ``(B, 3, h, w)`` and their weights: whole ones, or crops around landmarks."""
        count, size = (batch, full) if step % WHOLE_EVERY == 0 else (batch * CROP**2, full // CROP)
        indices = torch.randint(len(portraits), (count,), generator=generator).numpy()
        corners = crop_corners(portraits.landmarks[indices], full, size, generator)
        pixels = torch.from_numpy(corners)[:, :, None] + torch.arange(size)
        columns, rows = pixels.to(device).unbind(1)
        which = torch.arange(count, device=device)[:, None, None]
        cut = images[indices][which, rows[:, :, None], columns[:, None, :]]
        weights = face_weights(boxes[indices] - np.tile(corners, 2)[:, None], size, device)
        return as_images(cut) * 2 - 1, weights

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float | Tensor]]:
        target, weight = pieces(step, generator)
        with mixed(device):
            posterior = vae.encode(target).latent_dist
            noise = normal_like(posterior.mean, generator)
            latents = posterior.mean + posterior.std.clamp(min=LATENT_NOISE) * noise
            image = vae.decode(latents).sample
            half = vae.decode(F.avg_pool2d(latents, 2)).sample
        error = reconstruction_loss(image.float(), target, weight)
        small = reconstruction_loss(half.float(), F.avg_pool2d(target, 2), F.avg_pool2d(weight, 2))
        kl = posterior.kl().float().mean()
        with torch.no_grad():
            psnr = -10 * torch.log10(((image.float() - target) / 2).square().mean())
        return error + HALF_SIZE_WEIGHT * small + KL_WEIGHT * kl, {
            "psnr": psnr, "half": small.detach(), "kl": kl.detach()
        }  # fmt: skip

    def sheet(model: Any) -> Image.Image:
        pictures = portraits.images(shown)
        with torch.no_grad(), mixed(device):
            back = model.decode(model.encode(to_tensor(pictures, device)).latent_dist.mean).sample
        back = ((back.float() + 1) * 127.5).clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
        rows = np.concatenate([np.concatenate(list(pictures), 1), np.concatenate(list(back), 1)])
        return Image.fromarray(rows).resize((rows.shape[1] * 2, rows.shape[0] * 2), Image.Resampling.NEAREST)

    def export(model: Any) -> None:
        count = min(512, len(portraits))
        pictures = portraits.images(np.linspace(0, len(portraits) - 1, count).astype(int))
        save_module(standardised(model, to_tensor(pictures, device)), work / "modules" / "vae")

    return Stage(
        "vae", vae, loss, export, batch, sheet, learning_rate=1e-3, weight_decay=1e-4, betas=(0.9, 0.98),
        ema_decay=0.998, modules={"vae": vae},
    )  # fmt: skip


@torch.no_grad()
def standardised(vae: Any, pictures: Tensor) -> Any:
    """The same autoencoder with latents of zero mean and unit deviation in each channel.

    The change is folded into the two 1x1 convolutions around the latents, so images stay what they were,
    and ``scaling_factor`` becomes 1.

    Args:
        vae: an ``AutoencoderKL`` with both quantisation convolutions.
        pictures: ``(B, 3, H, W)`` in [-1, 1] to measure on.
    """
    vae = deepcopy(vae).float()
    latents = torch.cat([vae.encode(part).latent_dist.mean for part in pictures.split(16)])
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3)).clamp(min=1e-4)
    channels = len(mean)
    into, back = vae.quant_conv, vae.post_quant_conv
    back.bias += back.weight[:, :, 0, 0] @ mean
    back.weight *= std[None, :, None, None]
    into.bias[:channels] = (into.bias[:channels] - mean) / std
    into.weight[:channels] /= std[:, None, None, None]
    into.bias[channels:] -= 2 * std.log()  # the log variance shrinks with the square
    vae.register_to_config(scaling_factor=1.0)
    return vae
