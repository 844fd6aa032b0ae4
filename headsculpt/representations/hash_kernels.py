"""CPU kernels of the hash grid: forward, both first derivatives, and the second one.

Letters: N points, L levels, F features a level, C = L * F. A table is flat, ``offset[l] + index * F + f``.
Every kernel takes the levels' geometry as arrays, so that one compiled version serves all grids.

The kernels do one level after the other, all points of it: its part of the table, half a megabyte, then stays in a
core's own cache. So features and their gradients are ``(C, N)`` here, each feature of all points in a row, which is also
how a linear layer gives gradients back. In the two kernels that every step of a NeRF takes, :func:`forward` and
:func:`backward_table`, points come in chunks: first the corners' table entries and weights of a whole chunk, then the
table itself, entry by entry, both in the vector instructions of ``hash_vectors.py``.

Determinism: what gathers is parallel over points; what scatters is parallel over levels, and a
level owns its slice of the table, so the order of additions never depends on the number of threads.
"""

from __future__ import annotations

import numba
import numpy as np

from headsculpt.representations.hash_vectors import CHUNK, CORNERS, LANES, corners, gathered, gathered_four, scattered

BLOCK = 16384  # points a task
TILE = 256  # points that are turned at once: their features fit in a core's first cache
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
def planar(x, count):
    """``x (N, 3)`` clamped to [0, 1] (NaN to 0), as ``(3, count)``: all x, all y, all z; zeros fill it up."""
    points = np.empty((3, count), np.float32)
    for block in numba.prange((count + BLOCK - 1) // BLOCK):
        start, stop = block * BLOCK, min(count, (block + 1) * BLOCK)
        for axis in range(3):
            for n in range(start, min(stop, x.shape[0])):
                value = x[n, axis]
                value = value if value > _ZERO else _ZERO
                points[axis, n] = value if value < _ONE else _ONE
            for n in range(max(start, x.shape[0]), stop):
                points[axis, n] = _ZERO
    return points


@numba.njit(cache=True, nogil=True, parallel=True)
def turned(rows, columns):
    """``rows (N, C)`` to ``columns (C, N)``."""
    count = rows.shape[0]
    for tile in numba.prange((count + TILE - 1) // TILE):
        for c in range(columns.shape[0]):
            for n in range(tile * TILE, min(count, (tile + 1) * TILE)):
                columns[c, n] = rows[n, c]


@numba.njit(cache=True, nogil=True)
def _scratch():
    """Entries and weights of a chunk's corners, ``(8 * CHUNK)`` each.

    They lie side by side from the start of a page: elsewhere, stores take up to three times as long.
    """
    memory = np.empty(16 * CHUNK + 1024, np.float32)
    first = (-memory.ctypes.data) % 4096 // 4
    middle = first + 8 * CHUNK
    return memory[first:middle].view(np.uint32), memory[middle : middle + 8 * CHUNK]


@numba.njit(cache=True, nogil=True)
def _corners(xs, ys, zs, first, scale, smooth, dense, resolution, size, entries, weights):
    """Table entries and weights of the corners around CHUNK points, those from ``first`` on."""
    for j in range(np.uint64(0), np.uint64(CHUNK), np.uint64(LANES)):
        corners(
            xs, ys, zs, np.uint64(first) + j, j,
            scale, smooth, dense, np.uint32(resolution), np.uint32(size), entries, weights,
        )  # fmt: skip


@numba.njit(cache=True, nogil=True)
def _gather_pairs(part, entries, weights, chunk, stop, first, second):
    """Both features of a chunk's points, from their corners."""
    # Unsigned: a signed index might count from the end, which costs a test.
    start, count = np.uint64(chunk), np.uint64(min(CHUNK, stop - chunk))
    fours = count - count % np.uint64(4)
    for j in range(np.uint64(0), fours, np.uint64(4)):
        gathered_four(part, entries, weights, j, first, second, start + j)
    for j in range(fours, count):
        a, b = gathered(part, entries, weights, j)
        first[start + j] = a
        second[start + j] = b


@numba.njit(cache=True, nogil=True)
def _scatter_pairs(part, entries, weights, chunk, stop, first, second):
    """Adds a chunk's gradients of both features to the table's."""
    start, count = np.uint64(chunk), np.uint64(min(CHUNK, stop - chunk))
    for j in range(count):
        scattered(part, entries, weights, j, first[start + j], second[start + j])


@numba.njit(cache=True, nogil=True, parallel=True, fastmath={"contract"})
def forward(points, table, offsets, sizes, resolutions, scales, dense, active, features, smooth, groups, out):
    """Features of :func:`planar` points, ``out (C, N)``; levels from ``active`` on are set to 0.

    A group takes one share of the points through all levels.
    """
    levels, count = sizes.shape[0], out.shape[1]
    xs, ys, zs = points[0], points[1], points[2]
    chunks = (count + CHUNK - 1) // CHUNK
    width = np.uint64(features)
    for group in numba.prange(groups):
        start, stop = chunks * group // groups * CHUNK, min(count, chunks * (group + 1) // groups * CHUNK)
        entries, weights = _scratch()
        for level in range(levels):
            first = level * features
            if level >= active:
                out[first : first + features, start:stop] = _ZERO
                continue
            part = table[offsets[level] : offsets[level + 1]]
            one, other = out[first], out[first + features - 1]  # sliced here: it costs more than a few points do
            for chunk in range(start, stop, CHUNK):
                _corners(
                    xs, ys, zs, chunk, scales[level], smooth, dense[level], resolutions[level], sizes[level],
                    entries, weights,
                )  # fmt: skip
                if features == 2:
                    _gather_pairs(part, entries, weights, chunk, stop, one, other)
                    continue
                for j in range(min(CHUNK, stop - chunk)):
                    for f in range(features):
                        a = _ZERO
                        for k in range(CORNERS):
                            entry = width * np.uint64(entries[k * CHUNK + j]) + np.uint64(f)
                            a += weights[k * CHUNK + j] * part[entry]
                        out[first + f, chunk + j] = a


@numba.njit(cache=True, nogil=True, parallel=True, fastmath={"contract"})
def backward_table(
    points, grad, offsets, sizes, resolutions, scales, dense, active, features, smooth, groups, out
):
    """Gradient of the table, ``out``, from ``grad (C, N)``; of levels from ``active`` on it is 0.

    A group takes every ``groups``-th level, so that cheap coarse and costly fine levels are spread.
    """
    levels, count = sizes.shape[0], grad.shape[1]
    xs, ys, zs = points[0], points[1], points[2]
    width = np.uint64(features)
    for group in numba.prange(groups):
        entries, weights = _scratch()
        for level in range(group, levels, groups):
            first = level * features
            part = out[offsets[level] : offsets[level + 1]]
            part[:] = _ZERO
            if level >= active:
                continue
            one, other = grad[first], grad[first + features - 1]
            for chunk in range(0, count, CHUNK):
                _corners(
                    xs, ys, zs, chunk, scales[level], smooth, dense[level], resolutions[level], sizes[level],
                    entries, weights,
                )  # fmt: skip
                if features == 2:
                    _scatter_pairs(part, entries, weights, chunk, count, one, other)
                    continue
                for j in range(min(CHUNK, count - chunk)):
                    for f in range(features):
                        a = grad[first + f, chunk + j]
                        for k in range(CORNERS):
                            entry = width * np.uint64(entries[k * CHUNK + j]) + np.uint64(f)
                            part[entry] += weights[k * CHUNK + j] * a


@numba.njit(cache=True, nogil=True, parallel=True)
def backward_points(
    x, table, grad, offsets, sizes, resolutions, scales, dense, active, features, smooth, out
):
    """Gradient of the points, ``out (N, 3)``, from ``grad (C, N)``; 0 along a coordinate that is clamped."""
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
                        value += grad[column + f, n] * part[features * i[k] + f]
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
    """Derivative of the features along ``upstream (N, 3)``: ``out (C, N)``."""
    count, levels = x.shape[0], sizes.shape[0]
    for block in numba.prange((count + BLOCK - 1) // BLOCK):
        start = block * BLOCK
        stop = min(count, start + BLOCK)
        for level in range(levels):
            column = level * features
            if level >= active:
                for n in range(start, stop):
                    for f in range(features):
                        out[column + f, n] = _ZERO
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
                    out[column + f, n] = a


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
                        a = grad[column + f, n]
                        for k in range(8):
                            part[features * i[k] + f] += w[k] * a
