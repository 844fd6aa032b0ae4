"""Training data where the training runs: mapped from disk for a CPU, all of it in the memory of a GPU.

A core stacks a thousand portraits in about the time in which a data-centre GPU takes a whole step of the mini
UNet; held there as bytes, a hundred thousand of them take 5 GB, and a batch is one look-up.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Rows:
    """Rows of arrays that lie one after another, by index.

    Args:
        parts: arrays ``(N_i, ...)`` of one dtype, mapped from disk or not.
        device: where the rows are wanted; on CUDA all parts are copied there now.
    """

    def __init__(self, parts: Sequence[NDArray], device: torch.device | str) -> None:
        self.parts, self.device = parts, torch.device(device)
        self.starts = np.cumsum([0, *(len(part) for part in parts)])
        self._held: Tensor | None = None
        if self.device.type == "cuda":
            # One part at a time: together they would lie in memory twice.
            shape = (len(self), *parts[0].shape[1:])
            self._held = torch.empty(shape, dtype=_dtype(parts[0]), device=self.device)
            for start, part in zip(self.starts, parts, strict=False):
                self._held[start : start + len(part)] = torch.from_numpy(np.array(part)).to(self.device)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, indices: NDArray) -> Tensor:
        """Rows ``(B, ...)`` on the device, in the parts' dtype."""
        if self._held is not None:
            return self._held[torch.from_numpy(indices).to(self.device)]
        numbers = np.searchsorted(self.starts, indices, side="right") - 1
        rows = [self.parts[n][i - self.starts[n]] for n, i in zip(numbers, indices, strict=True)]
        return torch.from_numpy(np.stack(rows)).to(self.device)


def _dtype(part: NDArray) -> torch.dtype:
    return torch.from_numpy(np.empty(0, part.dtype)).dtype


def generator_for(device: torch.device | str, generator: torch.Generator) -> torch.Generator:
    """The generator to draw large tensors with on a device: this one on the CPU, else one that it seeds.

    A million normal numbers and their way to a GPU take as long as a step there.
    """
    if torch.device(device).type == "cpu":
        return generator
    seed = int(torch.randint(1 << 62, (), generator=generator))
    return torch.Generator(device).manual_seed(seed)


def normal_like(values: Tensor, generator: torch.Generator) -> Tensor:
    """Normal noise of the values' shape, on their device, from a generator of the CPU."""
    own = generator_for(values.device, generator)
    return torch.randn(values.shape, generator=own, device=values.device)


def as_images(rows: Tensor) -> Tensor:
    """Rows ``(B, H, W, 3)`` uint8 as ``(B, 3, H, W)`` float32 in [0, 1]."""
    return rows.permute(0, 3, 1, 2).contiguous().float().div_(255)
