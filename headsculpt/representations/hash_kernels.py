"""CPU kernels of the hash grid: forward, both first derivatives, and the second one.

Letters: N points, L levels, F features a level, C = L * F. A table is flat, ``offset[l] + index * F + f``.
Every kernel takes the levels' geometry as arrays, so that one compiled version serves all grids.

Determinism: what gathers is parallel over blocks of points; what scatters is parallel over levels, and a
level owns its slice of the table, so the order of additions never depends on the number of threads.
"""

from __future__ import annotations

import numba
import numpy as np

BLOCK = 4096  # points a block: enough that a level's table stays in cache, few enough that the points do
_P1 = np.uint32(2654435761)
_P2 = np.uint32(805459861)
_ZERO, _HALF, _ONE = np.float32(0), np.float32(0.5), np.float32(1)
_TWO, _THREE, _SIX = np.float32(2), np.float32(3), np.float32(6)


@numba.njit(cache=True, nogil=True, inline="always")
def _cell(value, scale):
    """Cell number and position in it; NaN and values outside [0, 1] land on the border."""
    if not value > _ZERO:
        value = _ZERO
    elif value > _ONE:
        value = _ONE
    position = value * scale + _HALF
    cell = np.int64(position)
    return cell, position - np.float32(cell)


@numba.njit(cache=True, nogil=True, inline="always")
def _indices(cx, cy, cz, resolution, size, dense):
    """Table entries of a cell's eight corners, corner number = x + 2 y + 4 z."""
    if dense:
        square = resolution * resolution
        i0 = cx + cy * resolution + cz * square
        i1, i2, i4 = i0 + 1, i0 + resolution, i0 + square
        i3, i5, i6 = i2 + 1, i4 + 1, i4 + resolution
        i7 = i6 + 1
        if i7 >= size:  # only in the last half cell before the far border
            i0, i1, i2, i3 = i0 % size, i1 % size, i2 % size, i3 % size
            i4, i5, i6, i7 = i4 % size, i5 % size, i6 % size, i7 % size
    else:
        mask = np.uint32(size - 1)
        x0, x1 = np.uint32(cx), np.uint32(cx + 1)
        y0 = np.uint32(np.uint32(cy) * _P1)
        y1 = np.uint32(y0 + _P1)
        z0 = np.uint32(np.uint32(cz) * _P2)
        z1 = np.uint32(z0 + _P2)
        i0, i1 = np.int64((x0 ^ y0 ^ z0) & mask), np.int64((x1 ^ y0 ^ z0) & mask)
        i2, i3 = np.int64((x0 ^ y1 ^ z0) & mask), np.int64((x1 ^ y1 ^ z0) & mask)
        i4, i5 = np.int64((x0 ^ y0 ^ z1) & mask), np.int64((x1 ^ y0 ^ z1) & mask)
        i6, i7 = np.int64((x0 ^ y1 ^ z1) & mask), np.int64((x1 ^ y1 ^ z1) & mask)
    return i0, i1, i2, i3, i4, i5, i6, i7


@numba.njit(cache=True, nogil=True, inline="always")
def _weights(fx, fy, fz):
    """Trilinear weights of the eight corners."""
    gx, gy, gz = _ONE - fx, _ONE - fy, _ONE - fz
    a, b, c, d = gx * gy, fx * gy, gx * fy, fx * fy
    return a * gz, b * gz, c * gz, d * gz, a * fz, b * fz, c * fz, d * fz


@numba.njit(cache=True, nogil=True, inline="always")
def _smooth(f):
    return f * f * (_THREE - _TWO * f)


@numba.njit(cache=True, nogil=True, inline="always")
def _slope(f):
    return _SIX * f * (_ONE - f)


@numba.njit(cache=True, nogil=True, inline="always")
def _directional(fx, fy, fz, vx, vy, vz):
    """Derivatives of the eight weights along v, which includes the slope of f and the scale."""
    gx, gy, gz = _ONE - fx, _ONE - fy, _ONE - fz
    x0, x1, x2, x3 = vx * gy * gz, vx * fy * gz, vx * gy * fz, vx * fy * fz
    y0, y1, y2, y3 = vy * gx * gz, vy * fx * gz, vy * gx * fz, vy * fx * fz
    z0, z1, z2, z3 = vz * gx * gy, vz * fx * gy, vz * gx * fy, vz * fx * fy
    return (
        -x0 - y0 - z0,
        x0 - y1 - z1,
        -x1 + y0 - z2,
        x1 + y1 - z3,
        -x2 - y2 + z0,
        x2 - y3 + z1,
        -x3 + y2 + z2,
        x3 + y3 + z3,
    )


@numba.njit(cache=True, nogil=True, parallel=True)
def forward(x, table, offsets, sizes, resolutions, scales, dense, active, features, smooth, out):
    """Features of points: ``x (N, 3)``, ``out (N, C)``; levels from ``active`` on are set to 0."""
    count, levels = x.shape[0], sizes.shape[0]
    for block in numba.prange((count + BLOCK - 1) // BLOCK):
        start = block * BLOCK
        stop = min(count, start + BLOCK)
        for level in range(levels):
            column = level * features
            if level >= active:
                for n in range(start, stop):
                    for f in range(features):
                        out[n, column + f] = _ZERO
                continue
            resolution, size, scale = resolutions[level], sizes[level], scales[level]
            is_dense = dense[level]
            part = table[offsets[level] : offsets[level + 1]]
            for n in range(start, stop):
                cx, fx = _cell(x[n, 0], scale)
                cy, fy = _cell(x[n, 1], scale)
                cz, fz = _cell(x[n, 2], scale)
                if smooth:
                    fx, fy, fz = _smooth(fx), _smooth(fy), _smooth(fz)
                i = _indices(cx, cy, cz, resolution, size, is_dense)
                w = _weights(fx, fy, fz)
                if features == 2:
                    i0, i1, i2, i3 = 2 * i[0], 2 * i[1], 2 * i[2], 2 * i[3]
                    i4, i5, i6, i7 = 2 * i[4], 2 * i[5], 2 * i[6], 2 * i[7]
                    a = w[0] * part[i0] + w[1] * part[i1] + w[2] * part[i2] + w[3] * part[i3]
                    b = w[0] * part[i0 + 1] + w[1] * part[i1 + 1] + w[2] * part[i2 + 1] + w[3] * part[i3 + 1]
                    a += w[4] * part[i4] + w[5] * part[i5] + w[6] * part[i6] + w[7] * part[i7]
                    b += w[4] * part[i4 + 1] + w[5] * part[i5 + 1] + w[6] * part[i6 + 1] + w[7] * part[i7 + 1]
                    out[n, column] = a
                    out[n, column + 1] = b
                else:
                    for f in range(features):
                        a = _ZERO
                        for k in range(8):
                            a += w[k] * part[features * i[k] + f]
                        out[n, column + f] = a


@numba.njit(cache=True, nogil=True, parallel=True)
def backward_table(
    x, grad, offsets, sizes, resolutions, scales, dense, active, features, smooth, groups, out
):
    """Gradient of the table, ``out`` (zeroed by the caller), from ``grad (N, C)``.

    A group takes every ``groups``-th level, so that cheap coarse and costly fine levels are spread.
    """
    count, levels = x.shape[0], sizes.shape[0]
    for group in numba.prange(groups):
        for block in range((count + BLOCK - 1) // BLOCK):
            start = block * BLOCK
            stop = min(count, start + BLOCK)
            for level in range(group, min(levels, active), groups):
                column = level * features
                resolution, size, scale = resolutions[level], sizes[level], scales[level]
                is_dense = dense[level]
                part = out[offsets[level] : offsets[level + 1]]
                for n in range(start, stop):
                    cx, fx = _cell(x[n, 0], scale)
                    cy, fy = _cell(x[n, 1], scale)
                    cz, fz = _cell(x[n, 2], scale)
                    if smooth:
                        fx, fy, fz = _smooth(fx), _smooth(fy), _smooth(fz)
                    i = _indices(cx, cy, cz, resolution, size, is_dense)
                    w = _weights(fx, fy, fz)
                    if features == 2:
                        a, b = grad[n, column], grad[n, column + 1]
                        for k in range(8):
                            part[2 * i[k]] += w[k] * a
                            part[2 * i[k] + 1] += w[k] * b
                    else:
                        for f in range(features):
                            a = grad[n, column + f]
                            for k in range(8):
                                part[features * i[k] + f] += w[k] * a


@numba.njit(cache=True, nogil=True, parallel=True)
def backward_points(
    x, table, grad, offsets, sizes, resolutions, scales, dense, active, features, smooth, out
):
    """Gradient of the points, ``out (N, 3)``, from ``grad (N, C)``; 0 along a coordinate that is clamped."""
    count, levels = x.shape[0], sizes.shape[0]
    for block in numba.prange((count + BLOCK - 1) // BLOCK):
        start = block * BLOCK
        stop = min(count, start + BLOCK)
        for n in range(start, stop):
            out[n, 0] = out[n, 1] = out[n, 2] = _ZERO
        for level in range(min(levels, active)):
            column = level * features
            resolution, size, scale = resolutions[level], sizes[level], scales[level]
            is_dense = dense[level]
            part = table[offsets[level] : offsets[level + 1]]
            for n in range(start, stop):
                cx, fx = _cell(x[n, 0], scale)
                cy, fy = _cell(x[n, 1], scale)
                cz, fz = _cell(x[n, 2], scale)
                sx = sy = sz = scale
                if smooth:
                    sx, sy, sz = scale * _slope(fx), scale * _slope(fy), scale * _slope(fz)
                    fx, fy, fz = _smooth(fx), _smooth(fy), _smooth(fz)
                i = _indices(cx, cy, cz, resolution, size, is_dense)
                wx = _directional(fx, fy, fz, sx, _ZERO, _ZERO)
                wy = _directional(fx, fy, fz, _ZERO, sy, _ZERO)
                wz = _directional(fx, fy, fz, _ZERO, _ZERO, sz)
                dx, dy, dz = _ZERO, _ZERO, _ZERO
                for k in range(8):
                    value = _ZERO
                    for f in range(features):
                        value += grad[n, column + f] * part[features * i[k] + f]
                    dx += wx[k] * value
                    dy += wy[k] * value
                    dz += wz[k] * value
                out[n, 0] += dx
                out[n, 1] += dy
                out[n, 2] += dz
        for n in range(start, stop):
            for d in range(3):
                if not (x[n, d] >= _ZERO and x[n, d] <= _ONE):
                    out[n, d] = _ZERO


@numba.njit(cache=True, nogil=True, parallel=True)
def second_features(
    x, table, upstream, offsets, sizes, resolutions, scales, dense, active, features, smooth, out
):
    """Derivative of the features along ``upstream (N, 3)``: ``out (N, C)``."""
    count, levels = x.shape[0], sizes.shape[0]
    for block in numba.prange((count + BLOCK - 1) // BLOCK):
        start = block * BLOCK
        stop = min(count, start + BLOCK)
        for level in range(levels):
            column = level * features
            if level >= active:
                for n in range(start, stop):
                    for f in range(features):
                        out[n, column + f] = _ZERO
                continue
            resolution, size, scale = resolutions[level], sizes[level], scales[level]
            is_dense = dense[level]
            part = table[offsets[level] : offsets[level + 1]]
            for n in range(start, stop):
                cx, fx = _cell(x[n, 0], scale)
                cy, fy = _cell(x[n, 1], scale)
                cz, fz = _cell(x[n, 2], scale)
                vx, vy, vz = scale * upstream[n, 0], scale * upstream[n, 1], scale * upstream[n, 2]
                if smooth:
                    vx, vy, vz = vx * _slope(fx), vy * _slope(fy), vz * _slope(fz)
                    fx, fy, fz = _smooth(fx), _smooth(fy), _smooth(fz)
                i = _indices(cx, cy, cz, resolution, size, is_dense)
                w = _directional(fx, fy, fz, vx, vy, vz)
                for f in range(features):
                    a = _ZERO
                    for k in range(8):
                        a += w[k] * part[features * i[k] + f]
                    out[n, column + f] = a


@numba.njit(cache=True, nogil=True, parallel=True)
def second_table(
    x, grad, upstream, offsets, sizes, resolutions, scales, dense, active, features, smooth, groups, out
):
    """Gradient of the table through :func:`backward_points`, scattered into ``out`` (zeroed by the caller)."""
    count, levels = x.shape[0], sizes.shape[0]
    for group in numba.prange(groups):
        for block in range((count + BLOCK - 1) // BLOCK):
            start = block * BLOCK
            stop = min(count, start + BLOCK)
            for level in range(group, min(levels, active), groups):
                column = level * features
                resolution, size, scale = resolutions[level], sizes[level], scales[level]
                is_dense = dense[level]
                part = out[offsets[level] : offsets[level + 1]]
                for n in range(start, stop):
                    cx, fx = _cell(x[n, 0], scale)
                    cy, fy = _cell(x[n, 1], scale)
                    cz, fz = _cell(x[n, 2], scale)
                    vx, vy, vz = scale * upstream[n, 0], scale * upstream[n, 1], scale * upstream[n, 2]
                    if smooth:
                        vx, vy, vz = vx * _slope(fx), vy * _slope(fy), vz * _slope(fz)
                        fx, fy, fz = _smooth(fx), _smooth(fy), _smooth(fz)
                    i = _indices(cx, cy, cz, resolution, size, is_dense)
                    w = _directional(fx, fy, fz, vx, vy, vz)
                    for f in range(features):
                        a = grad[n, column + f]
                        for k in range(8):
                            part[features * i[k] + f] += w[k] * a
