"""Multi-resolution hash grid (Müller et al. 2022), one table for every back end.

The geometry is tiny-cuda-nn's: level l has the scale ``base * growth^l - 1``, a point sits at
``x * scale + 0.5``, a level whose ``resolution^3`` corners fit in the table is stored densely, the others
are hashed. So one flat parameter serves the torch reference, the numba kernels and tiny-cuda-nn alike.
"""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

BACKENDS = ("auto", "torch", "numba", "tinycudann")
_TINYCUDANN_INSTALL = (
    "pip install git+https://github.com/NVlabs/tiny-cuda-nn/#subdirectory=bindings/torch (needs CUDA)"
)
_P1, _P2 = 2654435761, 805459861


@dataclass(frozen=True)
class GridLevels:
    """Geometry of the levels; arrays of length L, offsets of length L + 1 in floats of the flat table."""

    offsets: np.ndarray
    sizes: np.ndarray
    resolutions: np.ndarray
    scales: np.ndarray
    dense: np.ndarray
    features: int
    smooth: bool

    @staticmethod
    def build(
        levels: int, features: int, base: int, finest: int, log2_table: int, smooth: bool
    ) -> GridLevels:
        growth = math.exp(math.log(finest / base) / (levels - 1)) if levels > 1 else 1.0
        log2_growth = np.float32(math.log2(growth))
        scales = np.exp2(np.arange(levels, dtype=np.float32) * log2_growth) * np.float32(base) - np.float32(1)
        scales = scales.astype(np.float32)
        resolutions = np.ceil(scales).astype(np.int64) + 1
        cubes = resolutions**3
        sizes = np.minimum((cubes + 7) // 8 * 8, 1 << log2_table)
        offsets = np.concatenate([[0], np.cumsum(sizes * features)]).astype(np.int64)
        return GridLevels(offsets, sizes, resolutions, scales, cubes <= sizes, features, smooth)

    def arguments(self, active: int) -> tuple[Any, ...]:
        """What every kernel takes between its inputs and its output."""
        return (
            self.offsets,
            self.sizes,
            self.resolutions,
            self.scales,
            self.dense,
            active,
            self.features,
            self.smooth,
        )


def hash_grid_reference(x: Tensor, table: Tensor, levels: GridLevels, active: int) -> Tensor:
    """The encoding in plain torch, differentiable as often as one likes; any device and float type.

    Args:
        x: ``(N, 3)``; clamped to [0, 1], NaN counts as 0.
        table: flat ``(offsets[-1],)``.
        levels: geometry.
        active: levels from this number on give 0.

    Returns:
        ``(N, L * F)``.
    """
    clamped = torch.where(torch.isnan(x), torch.zeros_like(x), x).clamp(0, 1)
    out = []
    for level in range(len(levels.sizes)):
        if level >= active:
            out.append(x.new_zeros(x.shape[0], levels.features))
            continue
        size, resolution = int(levels.sizes[level]), int(levels.resolutions[level])
        part = table[int(levels.offsets[level]) : int(levels.offsets[level + 1])].view(size, -1)
        position = clamped * float(levels.scales[level]) + 0.5
        cell = position.detach().floor()
        fraction = position - cell
        if levels.smooth:
            fraction = fraction * fraction * (3 - 2 * fraction)
        corner = cell.long()
        total = x.new_zeros(x.shape[0], levels.features)
        for k in range(8):
            bits = [k & 1, k >> 1 & 1, k >> 2 & 1]
            cx, cy, cz = (corner[:, d] + bits[d] for d in range(3))
            if levels.dense[level]:
                index = (cx + cy * resolution + cz * resolution**2) % size
            else:
                index = (cx ^ (cy * _P1) ^ (cz * _P2)) & (size - 1)
            weight = torch.ones_like(x[:, :1])
            for d in range(3):
                f = fraction[:, d : d + 1]
                weight = weight * (f if bits[d] else 1 - f)
            total = total + weight * part[index]
        out.append(total)
    return torch.cat(out, -1)


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().contiguous().numpy()


def _kernels() -> Any:
    """Imported on first use: numba takes a second that a torch or CUDA user need not wait for."""
    from headsculpt.representations import hash_kernels

    return hash_kernels


def _groups(levels: GridLevels) -> int:
    """Parallel tasks of a scatter; their number changes the speed, never the result."""
    import numba

    return max(1, min(len(levels.sizes), numba.get_num_threads()))


class _HashGridFunction(torch.autograd.Function):
    """The encoding by numba kernels; its gradient to the points is itself differentiable once more."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, table: Tensor, levels: GridLevels, active: int) -> Tensor:
        kernels = _kernels()
        out = torch.empty(x.shape[0], len(levels.sizes) * levels.features)
        kernels.forward(_array(x), _array(table), *levels.arguments(active), out.numpy())
        ctx.save_for_backward(x, table)
        ctx.levels, ctx.active = levels, active
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:  # type: ignore[override]
        x, table = ctx.saved_tensors
        need_x, need_table = ctx.needs_input_grad[:2]
        grad_x, grad_table = _HashGridGradient.apply(
            x, table, grad, ctx.levels, ctx.active, need_x, need_table
        )
        return (grad_x if need_x else None), (grad_table if need_table else None), None, None


class _HashGridGradient(torch.autograd.Function):
    """Gradients of the encoding as an operation with gradients of its own (for normals that are trained).

    What comes back through ``grad_x`` reaches the table and the incoming gradient; the second derivative
    with respect to the points is not formed, nor anything behind ``grad_table``.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        table: Tensor,
        grad: Tensor,
        levels: GridLevels,
        active: int,
        need_x: bool,
        need_table: bool,
    ) -> tuple[Tensor, Tensor]:
        kernels = _kernels()
        arguments = levels.arguments(active)
        points, upstream = _array(x), _array(grad)
        grad_x, grad_table = torch.empty(0), torch.empty(0)
        if need_x:
            grad_x = torch.empty(x.shape[0], 3)
            kernels.backward_points(points, _array(table), upstream, *arguments, grad_x.numpy())
        if need_table:
            grad_table = torch.zeros_like(table)
            kernels.backward_table(points, upstream, *arguments, _groups(levels), grad_table.numpy())
        ctx.save_for_backward(x, table, grad)
        ctx.levels, ctx.active, ctx.need_x = levels, active, need_x
        ctx.mark_non_differentiable(grad_table)
        if not need_x:
            ctx.mark_non_differentiable(grad_x)
        return grad_x, grad_table

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, second: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        kernels = _kernels()
        x, table, grad = ctx.saved_tensors
        grad_table = grad_grad = None
        if not ctx.need_x:
            return None, None, None, None, None, None, None
        arguments = ctx.levels.arguments(ctx.active)
        inside = second * ((x >= 0) & (x <= 1))
        points, direction = _array(x), _array(inside)
        if ctx.needs_input_grad[1]:
            grad_table = torch.zeros_like(table)
            kernels.second_table(
                points, _array(grad), direction, *arguments, _groups(ctx.levels), grad_table.numpy()
            )
        if ctx.needs_input_grad[2]:
            grad_grad = torch.empty_like(grad, memory_format=torch.contiguous_format)
            kernels.second_features(points, _array(table), direction, *arguments, grad_grad.numpy())
        return None, grad_table, grad_grad, None, None, None, None


class HashGrid(nn.Module):
    """Points of the unit cube to features (tiny-cuda-nn's "HashGrid"; method A.2, E.4).

    The values of every back end agree to rounding and the parameter is the same, so a checkpoint is tied
    to none. Points are clamped to [0, 1]; along a clamped coordinate the gradient is 0. The numba back end
    is deterministic whatever the number of threads.

    Args:
        levels: number of grids.
        features: features of a level.
        base_resolution: cells along an edge of the coarsest grid.
        finest_resolution: the same of the finest.
        log2_table: binary logarithm of the entries of a hashed level.
        interpolation: "linear", or "smoothstep" (continuous first derivatives; HeadSculpt's choice).
        backend: "auto" takes numba on the CPU, and tiny-cuda-nn or else torch on CUDA.

    Raises:
        ValueError: a number out of range, or an unknown name.
        ImportError: tiny-cuda-nn was asked for and is not installed; says how to install it.
    """

    active: Tensor
    table: nn.Parameter

    def __init__(
        self,
        levels: int = 16,
        features: int = 2,
        base_resolution: int = 16,
        finest_resolution: int = 2048,
        log2_table: int = 19,
        interpolation: str = "smoothstep",
        backend: str = "auto",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if levels < 1 or features < 1 or base_resolution < 2 or finest_resolution < base_resolution:
            raise ValueError(
                "a hash grid needs levels >= 1, features >= 1 and 2 <= base_resolution <= finest_resolution; "
                f"got levels={levels}, features={features}, base_resolution={base_resolution}, "
                f"finest_resolution={finest_resolution}"
            )
        if not 4 <= log2_table <= 26:
            raise ValueError(f"log2_table must lie in 4..26; got {log2_table}")
        if interpolation not in ("linear", "smoothstep"):
            raise ValueError(f"interpolation must be 'linear' or 'smoothstep'; got {interpolation!r}")
        if backend not in BACKENDS:
            raise ValueError(f"backend must be one of {', '.join(BACKENDS)}; got {backend!r}")
        self.backend = backend
        self.base_resolution, self.finest_resolution = base_resolution, finest_resolution
        self.log2_table, self.interpolation = log2_table, interpolation
        self.geometry = GridLevels.build(
            levels, features, base_resolution, finest_resolution, log2_table, interpolation == "smoothstep"
        )
        count = int(self.geometry.offsets[-1])
        # U[-1e-4, 1e-4], as in the paper: small, so that the start is the density prior alone.
        self.table = nn.Parameter((torch.rand(count, generator=generator) * 2 - 1) * 1e-4)
        self.register_buffer("active", torch.tensor(levels))
        self._active = levels
        self._tinycudann: Any = None

    @property
    def levels(self) -> int:
        return len(self.geometry.sizes)

    @property
    def features(self) -> int:
        return self.geometry.features

    @property
    def width(self) -> int:
        """Features of a point: levels * features."""
        return self.levels * self.features

    @property
    def active_levels(self) -> int:
        """Levels in use; finer ones give 0 and cost nothing (progressive bands, method E.4)."""
        return self._active

    @active_levels.setter
    def active_levels(self, value: int) -> None:
        self._active = int(min(max(value, 1), self.levels))
        self.active.fill_(self._active)

    def set_bands(self, step: int, *, start_level: int = 8, start_step: int = 0, every: int = 100) -> None:
        """Opens the levels one by one: ``start_level`` until ``start_step``, then one more each ``every``."""
        self.active_levels = start_level + max(0, step - start_step) // max(1, every)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._active = int(self.active)

    def resolve_backend(self, device: torch.device) -> str:
        """The back end that a tensor on ``device`` gets."""
        if self.backend != "auto":
            return self.backend
        if device.type == "cpu":
            return "numba"
        if device.type == "cuda" and importlib.util.find_spec("tinycudann") is not None:
            return "tinycudann"
        return "torch"

    def forward(self, x: Tensor) -> Tensor:
        """Features of points.

        Args:
            x: ``(N, 3)`` float32; [0, 1] is the cube.

        Returns:
            ``(N, levels * features)`` float32, coarsest level first.

        Raises:
            ValueError: another shape, or a back end that cannot take the tensor's device.
        """
        if x.dim() != 2 or x.shape[1] != 3:
            raise ValueError(f"expected points of shape (N, 3); got {tuple(x.shape)}")
        backend = self.resolve_backend(x.device)
        if backend == "numba" and x.device.type != "cpu":
            raise ValueError(
                f"the numba hash grid takes CPU tensors; got one on {x.device}; use backend='auto'"
            )
        if x.dtype == torch.float64 or self.table.dtype == torch.float64:
            backend = "torch"  # the reference is the one that runs in double precision
        if backend == "numba":
            return _HashGridFunction.apply(x.float(), self.table, self.geometry, self._active)
        if backend == "tinycudann":
            return self._forward_tinycudann(x)
        return hash_grid_reference(x, self.table, self.geometry, self._active)

    def _forward_tinycudann(self, x: Tensor) -> Tensor:
        """tiny-cuda-nn as a stateless function of our table (its batch is a multiple of 256)."""
        try:
            import tinycudann as tcnn
            from tinycudann import modules
        except ImportError as error:
            raise ImportError(
                f"backend='tinycudann' needs tiny-cuda-nn: {_TINYCUDANN_INSTALL}; "
                "backend='auto' works without it"
            ) from error
        if x.device.type != "cuda":
            raise ValueError(f"tiny-cuda-nn takes CUDA tensors; got one on {x.device}")
        if self._tinycudann is None:
            growth = (self.finest_resolution / self.base_resolution) ** (1 / max(1, self.levels - 1))
            config = {
                "otype": "HashGrid",
                "n_levels": self.levels,
                "n_features_per_level": self.features,
                "log2_hashmap_size": self.log2_table,
                "base_resolution": self.base_resolution,
                "per_level_scale": growth,
                "interpolation": "Smoothstep" if self.geometry.smooth else "Linear",
            }
            self._tinycudann = tcnn.Encoding(3, config, dtype=torch.float32).native_tcnn_module
        count = x.shape[0]
        padding = -count % 256
        points = torch.nn.functional.pad(x.nan_to_num(0).clamp(0, 1), (0, 0, 0, padding))
        out = modules._module_function.apply(self._tinycudann, points, self.table, 1.0)[:count]
        mask = torch.arange(self.width, device=x.device) < self._active * self.features
        return out * mask

    def extra_repr(self) -> str:
        return (
            f"levels={self.levels}, features={self.features}, base_resolution={self.base_resolution}, "
            f"finest_resolution={self.finest_resolution}, log2_table={self.log2_table}, "
            f"interpolation={self.interpolation!r}, backend={self.backend!r}"
        )
