"""CPU kernels of volume rendering: marching rays through an occupancy grid, and compositing samples.

Letters: R rays, N samples, C values of a sample. Samples are packed: ray r owns ``offsets[r]`` to
``offsets[r + 1]``, front to back. All loops are parallel over rays, and a ray's sums are formed in order,
so the result does not depend on the number of threads.
"""

from __future__ import annotations

import numba
import numpy as np

OCCUPIED, REACH = 1, 2
_ZERO, _ONE = np.float32(0), np.float32(1)


@numba.njit(cache=True, nogil=True, inline="always")
def _random(seed, ray, k):
    """A uniform number in [0, 1) for a ray's k-th interval: the splitmix64 finaliser of a counter."""
    z = (
        np.uint64(seed)
        + np.uint64(ray) * np.uint64(0x9E3779B97F4A7C15)
        + np.uint64(k) * np.uint64(0xD1B54A32D192ED03)
    )
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return np.float32(z >> np.uint64(40)) * np.float32(1 / 16777216)


@numba.njit(cache=True, nogil=True, inline="always")
def _slab(o, d, low, high):
    """Where a line crosses one pair of planes; everything, or nothing, where it runs along them."""
    if abs(d) < 1e-9:
        if o < low or o > high:
            return np.float32(1e9), np.float32(-1e9)
        return np.float32(-1e9), np.float32(1e9)
    a, b = (low - o) / d, (high - o) / d
    return min(a, b), max(a, b)


@numba.njit(cache=True, nogil=True, parallel=True)
def march(
    origins,
    directions,
    flags,
    skip,
    density,
    box,
    bound,
    step,
    cap,
    opaque,
    explore,
    jitter,
    seed,
    distances,
    widths,
):
    """Places samples on rays.

    A ray is cut into intervals of length ``step``; an interval in an occupied cell gets one sample, at a
    random place in it if ``jitter``, else in its middle. Empty cells are left at once, except that within
    reach an interval gets a sample with probability ``explore`` and a width of ``step / explore``: on average
    that is what sampling all of them gives, and so density can grow where there is none. A ray ends where
    the densities of the grid alone have made it opaque: optical depth ``opaque``.

    Args:
        origins, directions: ``(R, 3)``, unit directions.
        flags: ``(G, G, G)`` uint8, OCCUPIED and REACH.
        skip: ``(G, G, G)`` uint8, chessboard distance in cells to the nearest cell that can get a sample.
        density: ``(G, G, G)`` float32, what a ray through a cell meets at least.
        box: ``(2, 3)`` bounds of all cells with a flag, scene units.
        distances, widths: ``(R, cap)`` out.

    Returns:
        ``(R,)`` int64 number of samples of each ray.
    """
    rays, size = origins.shape[0], flags.shape[0]
    counts = np.zeros(rays, np.int64)
    to_cell = np.float32(size) / (np.float32(2) * bound)
    cell, per_step = _ONE / to_cell, _ONE / step
    for r in numba.prange(rays):
        ox, oy, oz = origins[r, 0], origins[r, 1], origins[r, 2]
        dx, dy, dz = directions[r, 0], directions[r, 1], directions[r, 2]
        x0, x1 = _slab(ox, dx, box[0, 0], box[1, 0])
        y0, y1 = _slab(oy, dy, box[0, 1], box[1, 1])
        z0, z1 = _slab(oz, dz, box[0, 2], box[1, 2])
        start = max(max(x0, y0), max(z0, _ZERO))
        stop = min(x1, min(y1, z1))
        depth, count, k = _ZERO, 0, 0
        ix = _ONE / dx if abs(dx) > 1e-9 else np.float32(1e9)
        iy = _ONE / dy if abs(dy) > 1e-9 else np.float32(1e9)
        iz = _ONE / dz if abs(dz) > 1e-9 else np.float32(1e9)
        while count < cap:
            near = start + np.float32(k) * step
            if near >= stop:
                break
            place = _random(seed, r, k) if jitter else np.float32(0.5)
            t = near + place * step
            px = (ox + t * dx + bound) * to_cell
            py = (oy + t * dy + bound) * to_cell
            pz = (oz + t * dz + bound) * to_cell
            cx = min(max(int(px), 0), size - 1)
            cy = min(max(int(py), 0), size - 1)
            cz = min(max(int(pz), 0), size - 1)
            flag = flags[cx, cy, cz]
            if flag & OCCUPIED:
                distances[r, count] = t
                widths[r, count] = step
                count += 1
                depth += density[cx, cy, cz] * step
                if depth > opaque:
                    break
                k += 1
            elif flag & REACH and explore > 0:
                if _random(seed + 1, r, k) < explore:
                    distances[r, count] = t
                    widths[r, count] = step / explore
                    count += 1
                k += 1
            else:
                # To the interval that holds the exit from the largest empty block of cells around this one.
                free = max(np.int64(skip[cx, cy, cz]), 1)
                ex = (np.float32(cx + free if dx > 0 else cx + 1 - free) - px) * ix
                ey = (np.float32(cy + free if dy > 0 else cy + 1 - free) - py) * iy
                ez = (np.float32(cz + free if dz > 0 else cz + 1 - free) - pz) * iz
                leave = t + max(min(abs(ex), min(abs(ey), abs(ez))), _ZERO) * cell
                k = max(k + 1, int((leave - start) * per_step))
        counts[r] = count
    return counts


@numba.njit(cache=True, nogil=True, parallel=True)
def pack(origins, directions, distances, widths, offsets, points, t, dt):
    """Samples of all rays behind one another: ``points (N, 3)``, ``t (N,)``, ``dt (N,)`` out."""
    for r in numba.prange(origins.shape[0]):
        first = offsets[r]
        for i in range(offsets[r + 1] - first):
            n = first + i
            t[n], dt[n] = distances[r, i], widths[r, i]
            for d in range(3):
                points[n, d] = origins[r, d] + distances[r, i] * directions[r, d]


@numba.njit(cache=True, nogil=True, parallel=True)
def composite(sigma, dt, t, values, offsets, weights, through, total, opacity, depth):
    """Emission and absorption along rays; see :func:`headsculpt.representations.compositing.composite`.

    ``through (N,)`` is the transmittance behind each sample, kept for the gradient.
    """
    channels = values.shape[1]
    for r in numba.prange(opacity.shape[0]):
        clear, reached = _ONE, _ZERO
        for c in range(channels):
            total[r, c] = _ZERO
        for n in range(offsets[r], offsets[r + 1]):
            kept = np.exp(-sigma[n] * dt[n])
            weight = clear * (_ONE - kept)
            clear = clear * kept
            weights[n], through[n] = weight, clear
            reached += weight * t[n]
            for c in range(channels):
                total[r, c] += weight * values[n, c]
        opacity[r], depth[r] = _ONE - clear, reached


@numba.njit(cache=True, nogil=True, parallel=True)
def composite_gradient(
    dt, t, values, offsets, weights, through, g_weights, g_total, g_opacity, g_depth, g_sigma, g_values
):
    """Gradient of :func:`composite`: d weight_j / d sigma_i = dt_i (through_i [i = j] - weight_j [j > i])."""
    channels = values.shape[1]
    for r in numba.prange(offsets.shape[0] - 1):
        behind = _ZERO
        for n in range(offsets[r + 1] - 1, offsets[r] - 1, -1):
            g = g_weights[n] + g_opacity[r] + g_depth[r] * t[n]
            for c in range(channels):
                g += g_total[r, c] * values[n, c]
                g_values[n, c] = weights[n] * g_total[r, c]
            g_sigma[n] = dt[n] * (through[n] * g - behind)
            behind += weights[n] * g


@numba.njit(cache=True, nogil=True, parallel=True)
def distortion(weights, t, dt, offsets, loss, gradient):
    """Mip-NeRF 360's distortion of each ray, ``loss (R,)``, and its gradient to the weights, ``(N,)``."""
    for r in numba.prange(loss.shape[0]):
        mass, moment, value = _ZERO, _ZERO, _ZERO
        for n in range(offsets[r], offsets[r + 1]):
            gradient[n] = np.float32(2) * (t[n] * mass - moment)
            mass += weights[n]
            moment += weights[n] * t[n]
        after_mass, after_moment = _ZERO, _ZERO
        for n in range(offsets[r + 1] - 1, offsets[r] - 1, -1):
            gradient[n] += np.float32(2) * (after_moment - t[n] * after_mass)
            own = weights[n] * dt[n] / np.float32(3)
            value += np.float32(0.5) * weights[n] * gradient[n] + weights[n] * own
            gradient[n] += np.float32(2) * own
            after_mass += weights[n]
            after_moment += weights[n] * t[n]
        loss[r] = value
