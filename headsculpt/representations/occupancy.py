"""Where a field has density: the grid that lets rays skip empty space and end behind surfaces."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from headsculpt.devices import check_on_cuda, importable, require
from headsculpt.representations import march_kernels


@dataclass
class Samples:
    """Packed samples of rays; ray r owns ``offsets[r]`` to ``offsets[r + 1]``, front to back.

    Attributes:
        points: ``(N, 3)`` scene units.
        t: ``(N,)`` distance from the ray's origin, scene units.
        dt: ``(N,)`` width.
        offsets: ``(R + 1,)`` int64.
    """

    points: Tensor
    t: Tensor
    dt: Tensor
    offsets: Tensor


class OccupancyGrid(nn.Module):
    """Densities of a G^3 grid over [-bound, bound]^3, axes in the order x, y, z (method A.2).

    A cell is occupied when it or one of its 26 neighbours holds more than ``threshold``. Cells are
    remembered with a decay, so that one low sample does not empty a cell.

    Args:
        resolution: G.
        bound: scene units.
        threshold: density per scene unit; 0.5 over a step of 0.02 is an opacity of 1 % (E.4).
        decay: of a cell's density at each update (A.2: 0.6).
        reach: ``(G, G, G)`` bool, where empty space is explored in training; None for everywhere.
    """

    density: Tensor
    flags: Tensor
    box: Tensor
    updated: Tensor

    def __init__(
        self,
        resolution: int = 64,
        *,
        bound: float = 1.0,
        threshold: float = 0.5,
        decay: float = 0.6,
        reach: Tensor | None = None,
    ) -> None:
        super().__init__()
        if resolution < 2:
            raise ValueError(f"the occupancy grid needs a resolution of at least 2; got {resolution}")
        self.bound, self.threshold, self.decay = float(bound), threshold, decay
        self._skip: dict[bool, Tensor] = {}
        self._least: Tensor | None = None
        shape = (resolution,) * 3
        self.register_buffer("density", torch.zeros(shape))
        self.register_buffer("updated", torch.tensor(False))
        if reach is None:
            reach = torch.ones(shape, dtype=torch.bool)
        # Until the first update everything counts as occupied: slow, but right.
        self.register_buffer("flags", reach.to(torch.uint8) * march_kernels.REACH | march_kernels.OCCUPIED)
        self.register_buffer("box", torch.tensor([[-bound] * 3, [bound] * 3], dtype=torch.float32))

    @property
    def resolution(self) -> int:
        return self.flags.shape[0]

    def centres(self, index: Tensor | None = None) -> Tensor:
        """``(n, 3)`` centres of the cells with these flat indices, or of all."""
        g = self.resolution
        if index is None:
            index = torch.arange(g**3, device=self.flags.device)
        cell = torch.stack([index // (g * g), index // g % g, index % g], -1)
        return ((cell.float() + 0.5) * (2 / g) - 1) * self.bound

    @torch.no_grad()
    def update(self, field: Callable[[Tensor], Tensor], generator: torch.Generator | None = None) -> None:
        """Measures the field's density again.

        The first time in all cells; then in the occupied ones and in a random eighth of the others.

        Args:
            field: ``(n, 3)`` points to ``(n,)`` densities.
            generator: places the points at random in their cells; None takes the centres of all cells.
        """
        flat = self.density.view(-1)
        everywhere = generator is None or not bool(self.updated)
        index = None
        if not everywhere:
            chosen = torch.rand(flat.shape, generator=generator) < 0.125
            occupied = (self.flags.view(-1) & march_kernels.OCCUPIED).bool()
            index = (chosen.to(flat.device) | occupied).nonzero()[:, 0]
        points = self.centres(index)
        if generator is not None:
            jitter = torch.rand(points.shape, generator=generator).to(points) - 0.5
            points = points + jitter * (2 * self.bound / self.resolution)
        measured = torch.cat([field(part) for part in points.split(1 << 17)])
        if index is None:
            flat.copy_(torch.maximum(flat * self.decay, measured) if bool(self.updated) else measured)
        else:
            flat[index] = torch.maximum(flat[index] * self.decay, measured)
        self.updated.fill_(True)
        self._rebuild()

    def _skips(self, explore: bool) -> Tensor:
        """Distance to the nearest cell that can get a sample; kept until the flags change."""
        from scipy.ndimage import distance_transform_cdt

        if explore not in self._skip:
            mask = march_kernels.OCCUPIED | (march_kernels.REACH if explore else 0)
            empty = (self.flags.cpu().numpy() & mask) == 0
            far = self.resolution
            distance = distance_transform_cdt(empty, "chessboard") if not empty.all() else far * empty
            self._skip[explore] = torch.from_numpy(np.minimum(distance, 255).astype(np.uint8))
        self._skip[explore] = self._skip[explore].to(self.flags.device)
        return self._skip[explore]

    def _least_density(self) -> Tensor:
        """Of each cell and its neighbours: what a ray through the cell has met at least; kept until it changes.

        A cell's own density will not do where it grows by decades across a surface: a ray that grazes an edge would
        end there, before it comes to what is seen behind.
        """
        if self._least is None:
            self._least = -nn.functional.max_pool3d(-self.density[None, None], 3, 1, 1)[0, 0]
        self._least = self._least.to(self.density.device)
        return self._least

    def _changed(self) -> None:
        self._skip.clear()
        self._least = None

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._changed()

    def _rebuild(self) -> None:
        self._changed()
        wide = nn.functional.max_pool3d(self.density[None, None], 3, 1, 1)[0, 0]
        occupied = (wide > self.threshold).to(torch.uint8) * march_kernels.OCCUPIED
        self.flags.copy_(self.flags & march_kernels.REACH | occupied)
        any_flag = self.flags > 0
        g, bounds = self.resolution, []
        for axis in range(3):
            others = [d for d in range(3) if d != axis]
            hit = any_flag.any(others[1]).any(others[0]).nonzero()[:, 0]
            bounds.append((int(hit[0]), int(hit[-1]) + 1) if hit.numel() else (0, 0))
        self.box.copy_((torch.tensor(bounds).T.float() * (2 / g) - 1) * self.bound)

    @torch.no_grad()
    def march(
        self,
        origins: Tensor,
        directions: Tensor,
        *,
        step: float,
        cap: int,
        explore: float = 0.0,
        generator: torch.Generator | None = None,
        opaque: float = 3.0,
        backend: str = "auto",
    ) -> Samples:
        """Samples where rays cross occupied cells; see :func:`march_kernels.march`.

        Args:
            origins, directions: ``(R, 3)``; unit directions.
            step: length of an interval, scene units.
            cap: largest number of samples of a ray.
            explore: chance of a sample in an empty interval within reach.
            generator: places samples at random in their intervals; None takes the middles.
            opaque: optical depth at which a ray ends, of the least density around each cell; the true depth is larger (of
                sculpted heads, 3 leaves out 1e-4 of a colour).
            backend: "numba" (CPU; CUDA tensors take a round trip), "triton" (CUDA; the same samples), or "auto": Triton
                for CUDA tensors where it is installed, else numba.

        Raises:
            ValueError: an unknown back end, or Triton for tensors that are not on CUDA.
            ImportError: Triton is missing; says how to install it.
        """
        if backend not in ("auto", "numba", "triton"):
            raise ValueError(f"backend must be 'auto', 'numba' or 'triton'; got {backend!r}")
        seed, exploring = 0, generator is not None and explore > 0
        if generator is not None:
            seed = int(torch.randint(0, 2**62, (), generator=generator))
        arrays = [origins.detach().float(), directions.detach().float(), self.flags]
        arrays += [self._skips(exploring), self._least_density(), self.box]
        numbers = (self.bound, step, cap, opaque, explore if exploring else 0.0, generator is not None, seed)
        if backend == "auto":
            backend = "triton" if origins.is_cuda and importable("triton") else "numba"
        if backend == "triton":
            require("triton")
            check_on_cuda("triton", origins=origins, flags=self.flags)
            from headsculpt.representations import march_triton

            kernels: Any = march_triton
            return Samples(*kernels.march(*(a.contiguous() for a in arrays), *numbers))
        return _march_on_cpu([a.cpu().contiguous().numpy() for a in arrays], numbers, origins.device)


def _march_on_cpu(arrays: list[np.ndarray], numbers: tuple, device: torch.device) -> Samples:
    """As :func:`.march_triton.march` with those arrays and numbers, by numba; samples on ``device``."""
    kernels: Any = march_kernels
    bound, step, cap, opaque, explore, jitter, seed = numbers
    origins, directions = arrays[:2]
    rays = len(origins)
    distances, widths = torch.empty(rays, cap), torch.empty(rays, cap)
    lengths = (np.float32(bound), np.float32(step), cap, np.float32(opaque), np.float32(explore))
    counts = kernels.march(*arrays, *lengths, jitter, seed, distances.numpy(), widths.numpy())
    offsets = torch.zeros(rays + 1, dtype=torch.int64)
    torch.cumsum(torch.from_numpy(counts), 0, out=offsets[1:])
    total = int(offsets[-1])
    points, t, dt = torch.empty(total, 3), torch.empty(total), torch.empty(total)
    out = (distances, widths, offsets, points, t, dt)
    kernels.pack(origins, directions, *(a.numpy() for a in out))
    return Samples(points.to(device), t.to(device), dt.to(device), offsets.to(device))
