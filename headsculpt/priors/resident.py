"""Training data where the training runs: mapped from disk for a CPU, all of it in the memory of a GPU.

A core takes longer to draw the landmark maps of a batch and to gather its pictures than a GPU takes for a whole step of
the mini UNet. Held there as bytes, a hundred thousand pictures take 5 GB, and a batch is one look-up.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def gather(parts: Sequence[NDArray], indices: NDArray) -> NDArray:
    """Rows ``(B, ...)`` of arrays ``(N_i, ...)`` that lie one after another, by index."""
    starts = np.cumsum([0, *(len(part) for part in parts)])
    numbers = np.searchsorted(starts, indices, side="right") - 1
    return np.stack([parts[n][i - starts[n]] for n, i in zip(numbers, indices, strict=True)])


class Rows:
    """Rows of arrays that lie one after another, by index.

    Args:
        parts: arrays ``(N_i, ...)`` of one dtype, mapped from disk or not.
        device: where the rows are wanted; on CUDA all parts are copied there now.
    """

    def __init__(self, parts: Sequence[NDArray], device: torch.device | str) -> None:
        self.parts, self.device = parts, torch.device(device)
        self._held: Tensor | None = None
        if self.device.type == "cuda":
            # One part at a time: together they would lie in memory twice.
            shape = (len(self), *parts[0].shape[1:])
            self._held = torch.empty(shape, dtype=_dtype(parts[0]), device=self.device)
            for held, part in zip(self._held.split([len(part) for part in parts]), parts, strict=True):
                held.copy_(torch.from_numpy(np.array(part)))

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    def __getitem__(self, indices: NDArray) -> Tensor:
        """Rows ``(B, ...)`` on the device, in the parts' dtype."""
        if self._held is not None:
            return self._held[torch.from_numpy(indices).to(self.device)]
        return torch.from_numpy(gather(self.parts, indices)).to(self.device)


def _dtype(part: NDArray) -> torch.dtype:
    return torch.from_numpy(np.empty(0, part.dtype)).dtype


def generator_for(device: torch.device | str, generator: torch.Generator) -> torch.Generator:
    """The generator to draw large tensors with on a device: this one on the CPU, else one that it seeds.

    A batch's noise is two million normal numbers: a core takes its time to draw them, and they would have to travel.
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
