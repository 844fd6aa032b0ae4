"""Pictures of twice the size, for what is painted on a mesh: a small network that lies beside the mini family.

The mini family decodes 128x128 pixels, and a latent of it stands for 8x8 of them, so what it paints is soft. The
portrait world can be rendered at any size; so the way from a decoded picture to the portrait at twice its size can be
learnt, as in super-resolution (residual blocks without normalisation, Lim et al. 2017, arXiv 1707.02921, and sub-pixel
shuffling, Shi et al. 2016, arXiv 1609.05158). Size and training (:mod:`headsculpt.priors.train_upscaler`) are ours.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FILE = "upscaler.safetensors"
FACTOR = 2
CHANNELS, BLOCKS = 32, 8


class Upscaler(nn.Module):
    """``(B, 3, H, W)`` in [-1, 1] to ``(B, 3, 2 H, 2 W)``; fresh, it is bilinear interpolation."""

    def __init__(self, channels: int = CHANNELS, blocks: int = BLOCKS) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, channels, 3, 1, 1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, channels, 3, 1, 1), nn.SiLU(), nn.Conv2d(channels, channels, 3, 1, 1))
            for _ in range(blocks)
        )
        self.conv_out = nn.Conv2d(channels, 3 * FACTOR**2, 3, 1, 1)
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)  # type: ignore[arg-type]

    def forward(self, pictures: Tensor) -> Tensor:
        larger = F.interpolate(pictures, scale_factor=FACTOR, mode="bilinear", align_corners=False)
        features = self.conv_in(pictures)
        for block in self.blocks:
            features = features + block(features)
        return larger + F.pixel_shuffle(self.conv_out(features), FACTOR)

    @torch.no_grad()
    def upscaled(self, pictures: Tensor) -> Tensor:
        """Pictures ``(B, H, W, 3)`` in [0, 1] as ``(B, 2 H, 2 W, 3)`` in [0, 1]."""
        first = self.conv_in.weight
        larger = self((2 * pictures.permute(0, 3, 1, 2) - 1).to(first)).float()
        return (0.5 + 0.5 * larger).clamp(0, 1).permute(0, 2, 3, 1)

    def save(self, folder: Path) -> None:
        """Writes :data:`FILE` into a prior's folder."""
        from safetensors.torch import save_file

        save_file({k: v.half().contiguous().cpu() for k, v in self.state_dict().items()}, str(folder / FILE))

    @staticmethod
    def load(folder: Path) -> Upscaler | None:
        """The network that lies beside a prior, of the size of its weights, or None where the folder has none.

        Raises:
            ValueError: the file holds something else.
        """
        from safetensors.torch import load_file

        path = folder / FILE
        if not path.exists():
            return None
        tensors = {name: tensor.float() for name, tensor in load_file(path).items()}
        try:
            channels, blocks = len(tensors["conv_in.bias"]), sum(n.endswith(".0.bias") for n in tensors)
            upscaler = Upscaler(channels, blocks)
            upscaler.load_state_dict(tensors)
        except (KeyError, RuntimeError):
            raise ValueError(f"{path} holds no upscaler of headsculpt; fetch or export it again") from None
        return upscaler.eval()
