"""The hash grid's numba kernels as functions of CPU tensors (:class:`.hash_autograd.Kernels`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numba
import numpy as np
import torch
from torch import Tensor

from headsculpt.representations import hash_kernels as _hash_kernels

if TYPE_CHECKING:
    from headsculpt.representations.encodings import GridLevels


hash_kernels: Any = _hash_kernels  # compiled functions, whose arguments mypy counts as if they took none


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().contiguous().numpy()


def _groups(levels: GridLevels) -> int:
    """Parallel tasks of a scatter; their number changes the speed, never the result."""
    return max(1, min(len(levels.sizes), numba.get_num_threads()))


def _planar(x: Tensor) -> np.ndarray:
    """All x, all y, all z, clamped, in whole chunks."""
    chunk = hash_kernels.CHUNK
    return hash_kernels.planar(_array(x), (len(x) + chunk - 1) // chunk * chunk)


def _turned(grad: Tensor) -> np.ndarray:
    """``(N, C)`` to ``(C, N)``; what comes back through a linear layer lies like that already."""
    if grad.t().is_contiguous():
        return _array(grad.t())
    out = np.empty((grad.shape[1], grad.shape[0]), np.float32)
    hash_kernels.turned(_array(grad), out)
    return out


def features(x: Tensor, table: Tensor, levels: GridLevels, active: int) -> Tensor:
    out = torch.empty(len(levels.sizes) * levels.features, x.shape[0])
    arguments = levels.arguments(active)
    hash_kernels.forward(_planar(x), _array(table), *arguments, numba.get_num_threads(), out.numpy())
    return out.t()


def point_gradient(x: Tensor, table: Tensor, grad: Tensor, levels: GridLevels, active: int) -> Tensor:
    out = torch.empty(x.shape[0], 3)
    arguments = levels.arguments(active)
    hash_kernels.backward_points(_array(x), _array(table), _turned(grad), *arguments, out.numpy())
    return out


def table_gradient(x: Tensor, table: Tensor, grad: Tensor, levels: GridLevels, active: int) -> Tensor:
    out = torch.empty_like(table)
    arguments = levels.arguments(active)
    hash_kernels.backward_table(_planar(x), _turned(grad), *arguments, _groups(levels), out.numpy())
    return out


def directional_features(
    x: Tensor, table: Tensor, direction: Tensor, levels: GridLevels, active: int
) -> Tensor:
    out = torch.empty(len(levels.sizes) * levels.features, x.shape[0])
    arguments = levels.arguments(active)
    hash_kernels.second_features(_array(x), _array(table), _array(direction), *arguments, out.numpy())
    return out.t()


def directional_table_gradient(
    x: Tensor, table: Tensor, grad: Tensor, direction: Tensor, levels: GridLevels, active: int
) -> Tensor:
    out = torch.zeros_like(table)
    arguments = levels.arguments(active)
    hash_kernels.second_table(
        _array(x), _turned(grad), _array(direction), *arguments, _groups(levels), out.numpy()
    )
    return out
