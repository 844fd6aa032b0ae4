"""Pictures that the diffusion model asked for, learnt more than once.

Asking the model costs more than a step of the representation, and a hat that is asked for once is forgotten before
it has grown. So the loop keeps the last pictures it was asked for, and takes further steps on them: the growing
and renewed data set of Instruct-NeRF2NeRF (Haque et al. 2023, arXiv 2303.12789, section 3.3), here with random
cameras and a limit on how old a picture may get. How many steps, and the limit, are ours.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import torch
from torch import Tensor

from headsculpt.cameras import Cameras
from headsculpt.guidance.score_distillation import at_size

KEPT = 16  # calls of the guidance; older pictures hold back what has changed since


class Replay:
    """The pictures of the last :data:`KEPT` calls of a guidance, with cameras and backgrounds."""

    def __init__(self) -> None:
        self._kept: deque[tuple[Cameras, Tensor, Tensor]] = deque(maxlen=KEPT)

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, cameras: Cameras, background: Tensor, target: Tensor) -> None:
        """Keeps one call.

        Args:
            cameras: B views, as they were rendered.
            background: ``(B, 3)`` in [0, 1].
            target: ``(B, h, h, 3)`` in [0, 1], kept in 16 bits.

        The views are kept at the size of the pictures, and pictures larger than the views at theirs: to draw what
        the model cannot see would only take time.
        """
        size = min(cameras.height, target.shape[1])
        self._kept.append((cameras.resized(size, size), background, at_size(target.detach(), size).half()))

    def any(self, generator: torch.Generator) -> tuple[Cameras, Tensor, Tensor]:
        """One of the calls, at random: views of h by h pixels, backgrounds, and pictures ``(B, h, h, 3)``.

        Raises:
            ValueError: nothing has been kept yet.
        """
        if not self._kept:
            raise ValueError("nothing to replay: no picture has been added")
        cameras, background, target = self._kept[int(torch.randint(len(self._kept), (), generator=generator))]
        return cameras, background, target.float()

    def state_dict(self) -> list[dict[str, Any]]:
        """Everything kept, as tensors and numbers."""
        return [
            {**vars(cameras), "background": background, "target": target}
            for cameras, background, target in self._kept
        ]

    def load_state_dict(self, state: list[dict[str, Any]], device: torch.device | str = "cpu") -> None:
        """Puts back what :meth:`state_dict` gave."""
        self._kept.clear()
        for entry in state:
            entry = dict(entry)
            background, target = (entry.pop(name).to(device) for name in ("background", "target"))
            self._kept.append((Cameras(**entry).to(device), background, target))
