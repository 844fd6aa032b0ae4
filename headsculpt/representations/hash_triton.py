"""The hash grid on CUDA by Triton kernels, which pip installs (:class:`.hash_autograd.Kernels`).

A program takes BLOCK points of one level. Values agree with the other back ends to rounding. Scatters add
atomically, so gradients of the table repeat to rounding, not to the bit. With ``TRITON_INTERPRET=1`` set
before Triton is first imported, everything here runs on CPU tensors, slowly: that is how it is tested
without a GPU.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl
from torch import Tensor

if TYPE_CHECKING:
    from headsculpt.representations.encodings import GridLevels

BLOCK = 256


@triton.jit
def _unit(x, n, valid, axis: tl.constexpr):
    """A coordinate in [0, 1]; NaN counts as 0."""
    value = tl.load(x + 3 * n + axis, mask=valid, other=0.0)
    return tl.where(value > 0, tl.minimum(value, 1.0), 0.0)


@triton.jit
def _cell(value, scale, SMOOTH: tl.constexpr):
    """Cell number, weight of its far side, and the derivative of that weight by the coordinate."""
    position = value * scale + 0.5
    cell = position.to(tl.int32)
    fraction = position - cell.to(tl.float32)
    if SMOOTH:
        slope = 6.0 * fraction * (1.0 - fraction) * scale
        fraction = fraction * fraction * (3.0 - 2.0 * fraction)
    else:
        slope = tl.zeros_like(fraction) + scale
    return cell, fraction, slope


@triton.jit
def _entry(cx, cy, cz, resolution, size, dense):
    """Table entry of a corner. The primes are tiny-cuda-nn's, as int32, where products wrap as in uint32."""
    if dense != 0:
        entry = (cx + cy * resolution + cz * resolution * resolution) % size
    else:
        entry = (cx ^ (cy * -1640531535) ^ (cz * 805459861)) & (size - 1)
    return entry


@triton.jit
def _side(fraction, slope, far: tl.constexpr):
    """Weight of one side of a cell along an axis, and its derivative."""
    if far:
        return fraction, slope
    else:
        return 1.0 - fraction, -slope


@triton.jit
def _gather(
    x, table, direction, out, offsets, sizes, resolutions, scales, dense, count, active, width,
    FEATURES: tl.constexpr, SMOOTH: tl.constexpr, DIRECTIONAL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Features, or their derivative along a direction; levels that are not active are left alone."""
    n = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    level = tl.program_id(1)
    valid = n < count
    scale = tl.load(scales + level)
    size, resolution, is_dense = tl.load(sizes + level), tl.load(resolutions + level), tl.load(dense + level)
    part = table + tl.load(offsets + level)
    cx, fx, sx = _cell(_unit(x, n, valid, 0), scale, SMOOTH)
    cy, fy, sy = _cell(_unit(x, n, valid, 1), scale, SMOOTH)
    cz, fz, sz = _cell(_unit(x, n, valid, 2), scale, SMOOTH)
    if DIRECTIONAL:
        sx *= tl.load(direction + 3 * n, mask=valid, other=0.0)
        sy *= tl.load(direction + 3 * n + 1, mask=valid, other=0.0)
        sz *= tl.load(direction + 3 * n + 2, mask=valid, other=0.0)
    for f in tl.static_range(FEATURES):
        total = tl.zeros([BLOCK], tl.float32)
        for k in tl.static_range(8):
            wx, dx = _side(fx, sx, k % 2)
            wy, dy = _side(fy, sy, k // 2 % 2)
            wz, dz = _side(fz, sz, k // 4)
            entry = _entry(cx + k % 2, cy + k // 2 % 2, cz + k // 4, resolution, size, is_dense)
            value = tl.load(part + FEATURES * entry + f, mask=valid, other=0.0)
            if DIRECTIONAL:
                total += (dx * wy * wz + wx * dy * wz + wx * wy * dz) * value
            else:
                total += wx * wy * wz * value
        tl.store(out + n * width + level * FEATURES + f, total, mask=valid)


@triton.jit
def _scatter(
    x, grad, direction, out, offsets, sizes, resolutions, scales, dense, count, active, width,
    FEATURES: tl.constexpr, SMOOTH: tl.constexpr, DIRECTIONAL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The transpose of :func:`_gather`: adds to the table's entries."""
    n = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    level = tl.program_id(1)
    valid = n < count
    scale = tl.load(scales + level)
    size, resolution, is_dense = tl.load(sizes + level), tl.load(resolutions + level), tl.load(dense + level)
    part = out + tl.load(offsets + level)
    cx, fx, sx = _cell(_unit(x, n, valid, 0), scale, SMOOTH)
    cy, fy, sy = _cell(_unit(x, n, valid, 1), scale, SMOOTH)
    cz, fz, sz = _cell(_unit(x, n, valid, 2), scale, SMOOTH)
    if DIRECTIONAL:
        sx *= tl.load(direction + 3 * n, mask=valid, other=0.0)
        sy *= tl.load(direction + 3 * n + 1, mask=valid, other=0.0)
        sz *= tl.load(direction + 3 * n + 2, mask=valid, other=0.0)
    for k in tl.static_range(8):
        wx, dx = _side(fx, sx, k % 2)
        wy, dy = _side(fy, sy, k // 2 % 2)
        wz, dz = _side(fz, sz, k // 4)
        if DIRECTIONAL:
            weight = dx * wy * wz + wx * dy * wz + wx * wy * dz
        else:
            weight = wx * wy * wz
        entry = _entry(cx + k % 2, cy + k // 2 % 2, cz + k // 4, resolution, size, is_dense)
        for f in tl.static_range(FEATURES):
            upstream = tl.load(grad + n * width + level * FEATURES + f, mask=valid, other=0.0)
            tl.atomic_add(part + FEATURES * entry + f, weight * upstream, mask=valid, sem="relaxed")


@triton.jit
def _gather_points(
    x, table, grad, out, offsets, sizes, resolutions, scales, dense, count, active, width,
    FEATURES: tl.constexpr, SMOOTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Gradient of the points; a program sums over all active levels."""
    n = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    valid = n < count
    ux, uy, uz = _unit(x, n, valid, 0), _unit(x, n, valid, 1), _unit(x, n, valid, 2)
    gx, gy, gz = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    level = 0
    while level < active:  # not range(active): Triton's interpreter cannot take an index from numpy 2.4 on
        scale = tl.load(scales + level)
        size, resolution = tl.load(sizes + level), tl.load(resolutions + level)
        is_dense = tl.load(dense + level)
        part = table + tl.load(offsets + level)
        cx, fx, sx = _cell(ux, scale, SMOOTH)
        cy, fy, sy = _cell(uy, scale, SMOOTH)
        cz, fz, sz = _cell(uz, scale, SMOOTH)
        for k in tl.static_range(8):
            wx, dx = _side(fx, sx, k % 2)
            wy, dy = _side(fy, sy, k // 2 % 2)
            wz, dz = _side(fz, sz, k // 4)
            entry = _entry(cx + k % 2, cy + k // 2 % 2, cz + k // 4, resolution, size, is_dense)
            value = tl.zeros([BLOCK], tl.float32)
            for f in tl.static_range(FEATURES):
                upstream = tl.load(grad + n * width + level * FEATURES + f, mask=valid, other=0.0)
                value += upstream * tl.load(part + FEATURES * entry + f, mask=valid, other=0.0)
            gx += dx * wy * wz * value
            gy += wx * dy * wz * value
            gz += wx * wy * dz * value
        level += 1
    rx = tl.load(x + 3 * n, mask=valid, other=0.0)
    ry = tl.load(x + 3 * n + 1, mask=valid, other=0.0)
    rz = tl.load(x + 3 * n + 2, mask=valid, other=0.0)
    tl.store(out + 3 * n, tl.where((rx >= 0) & (rx <= 1), gx, 0.0), mask=valid)
    tl.store(out + 3 * n + 1, tl.where((ry >= 0) & (ry <= 1), gy, 0.0), mask=valid)
    tl.store(out + 3 * n + 2, tl.where((rz >= 0) & (rz <= 1), gz, 0.0), mask=valid)


_GEOMETRY: weakref.WeakKeyDictionary[GridLevels, dict[torch.device, tuple[Tensor, ...]]]
_GEOMETRY = weakref.WeakKeyDictionary()


def _geometry(levels: GridLevels, device: torch.device) -> tuple[Tensor, ...]:
    """The levels' arrays on a device, copied once: offsets int64, the others 32 bits wide."""
    copies = _GEOMETRY.setdefault(levels, {})
    if device not in copies:
        copies[device] = (
            torch.from_numpy(levels.offsets[:-1].copy()).to(device),
            torch.from_numpy(levels.sizes).to(device, torch.int32),
            torch.from_numpy(levels.resolutions).to(device, torch.int32),
            torch.from_numpy(levels.scales).to(device, torch.float32),
            torch.from_numpy(levels.dense).to(device, torch.int32),
        )
    return copies[device]


def _launch(
    kernel: Any, x: Tensor, second: Tensor, third: Tensor, out: Tensor, levels: GridLevels, active: int, **static: Any
) -> Tensor:
    count = x.shape[0]
    if count == 0 or active == 0:
        return out
    arguments = (*_geometry(levels, x.device), count, active, len(levels.sizes) * levels.features)
    blocks = triton.cdiv(count, BLOCK)
    grid = (blocks,) if kernel is _gather_points else (blocks, active)
    flags = {"FEATURES": levels.features, "SMOOTH": levels.smooth, "BLOCK": BLOCK, **static}
    with torch.cuda.device(x.device if x.is_cuda else -1):
        kernel[grid](x.contiguous(), second.contiguous(), third.contiguous(), out, *arguments, **flags)
    return out


def features(x: Tensor, table: Tensor, levels: GridLevels, active: int) -> Tensor:
    out = x.new_zeros(x.shape[0], len(levels.sizes) * levels.features)
    x, table = x.detach(), table.detach()
    return _launch(_gather, x, table, x, out, levels, active, DIRECTIONAL=False)


def point_gradient(x: Tensor, table: Tensor, grad: Tensor, levels: GridLevels, active: int) -> Tensor:
    return _launch(_gather_points, x.detach(), table.detach(), grad, torch.zeros_like(x), levels, active)


def table_gradient(x: Tensor, table: Tensor, grad: Tensor, levels: GridLevels, active: int) -> Tensor:
    out = torch.zeros_like(table)
    x = x.detach()
    return _launch(_scatter, x, grad, x, out, levels, active, DIRECTIONAL=False)


def directional_features(
    x: Tensor, table: Tensor, direction: Tensor, levels: GridLevels, active: int
) -> Tensor:
    out = x.new_zeros(x.shape[0], len(levels.sizes) * levels.features)
    return _launch(_gather, x.detach(), table.detach(), direction, out, levels, active, DIRECTIONAL=True)


def directional_table_gradient(
    x: Tensor, table: Tensor, grad: Tensor, direction: Tensor, levels: GridLevels, active: int
) -> Tensor:
    out = torch.zeros_like(table)
    return _launch(_scatter, x.detach(), grad, direction, out, levels, active, DIRECTIONAL=True)
