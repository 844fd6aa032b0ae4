"""Marching rays through an occupancy grid on CUDA by a Triton kernel, which pip installs: :func:`.march_kernels.march`.

A program takes BLOCK rays, one a lane, and goes on until the last of them has ended. The kernel runs twice: it counts
the samples of each ray, and after a cumulative sum it places them. Operations are those of the CPU kernel in the same
order, never fused, and divisions are rounded as there, so that both place the same samples. With
``TRITON_INTERPRET=1`` set before Triton is first imported this runs on CPU tensors, slowly: that is how it is tested
without a GPU.

Letters: R rays, N samples, G cells along an edge of the grid.
"""

from __future__ import annotations

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from headsculpt.representations import march_kernels

BLOCK = 32  # of one warp: rays side by side in an image, which end at about the same time
OCCUPIED = tl.constexpr(march_kernels.OCCUPIED)
REACH = tl.constexpr(march_kernels.REACH)


@triton.jit
def _random(seed, ray, k):
    z = seed + ray.to(tl.uint64) * 0x9E3779B97F4A7C15 + k.to(tl.uint64) * 0xD1B54A32D192ED03
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB
    z = z ^ (z >> 31)
    return (z >> 40).to(tl.float32) * (1 / 16777216)


@triton.jit
def _slab(o, d, low, high):
    along = tl.abs(d) < 1e-9
    d = tl.where(along, 1.0, d)
    a, b = tl.div_rn(low - o, d), tl.div_rn(high - o, d)
    outside = (o < low) | (o > high)
    near = tl.where(along, tl.where(outside, 1e9, -1e9), tl.minimum(a, b))
    far = tl.where(along, tl.where(outside, -1e9, 1e9), tl.maximum(a, b))
    return near, far


@triton.jit
def _cell(o, d, t, bound, to_cell, size):
    """Position along an axis, in cells, and the number of the cell."""
    place = (o + t * d + bound) * to_cell
    return place, tl.minimum(tl.maximum(place.to(tl.int32), 0), size - 1)


@triton.jit
def _inverse(d):
    steep = tl.abs(d) > 1e-9
    return tl.where(steep, tl.div_rn(tl.full(d.shape, 1.0, tl.float32), tl.where(steep, d, 1.0)), 1e9)


@triton.jit
def _exit(place, cell, d, inverse, free):
    """How far along the ray, in cells, the border of the empty block is on this axis."""
    border = tl.where(d > 0, cell + free, cell + 1 - free).to(tl.float32)
    return tl.abs((border - place) * inverse)


@triton.jit(do_not_specialize=["seed", "rays"])
def _march(
    origins, directions, flags, skip, density, box, offsets, counts, points, distances, widths,
    rays, size, cap, bound, step, to_cell, cell, per_step, opaque, explore, wide, seed,
    JITTER: tl.constexpr, PLACE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Counts samples, or with PLACE writes them from each ray's offset on; arguments as of the CPU kernel."""
    ray = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    valid = ray < rays
    seed = seed.to(tl.uint64)
    ox = tl.load(origins + 3 * ray, mask=valid, other=0.0)
    oy = tl.load(origins + 3 * ray + 1, mask=valid, other=0.0)
    oz = tl.load(origins + 3 * ray + 2, mask=valid, other=0.0)
    dx = tl.load(directions + 3 * ray, mask=valid, other=0.0)
    dy = tl.load(directions + 3 * ray + 1, mask=valid, other=0.0)
    dz = tl.load(directions + 3 * ray + 2, mask=valid, other=0.0)
    x0, x1 = _slab(ox, dx, tl.load(box), tl.load(box + 3))
    y0, y1 = _slab(oy, dy, tl.load(box + 1), tl.load(box + 4))
    z0, z1 = _slab(oz, dz, tl.load(box + 2), tl.load(box + 5))
    start = tl.maximum(tl.maximum(x0, y0), tl.maximum(z0, 0.0))
    stop = tl.minimum(x1, tl.minimum(y1, z1))
    ix, iy, iz = _inverse(dx), _inverse(dy), _inverse(dz)
    if PLACE:
        first = tl.load(offsets + ray, mask=valid, other=0)
    depth = tl.zeros([BLOCK], tl.float32)
    count = tl.zeros([BLOCK], tl.int32)
    k = tl.zeros([BLOCK], tl.int32)
    going = valid & (start < stop) & (count < cap)
    start = tl.where(going, start, 0.0)  # what misses the box may start at 1e9, too many cells to count
    while tl.max(going.to(tl.int32), 0) > 0:
        place = tl.full([BLOCK], 0.5, tl.float32)
        if JITTER:
            place = _random(seed, ray, k)
        t = start + k.to(tl.float32) * step + place * step
        px, cx = _cell(ox, dx, t, bound, to_cell, size)
        py, cy = _cell(oy, dy, t, bound, to_cell, size)
        pz, cz = _cell(oz, dz, t, bound, to_cell, size)
        at = (cx * size + cy) * size + cz
        flag = tl.load(flags + at, mask=going, other=0)
        occupied = (flag & OCCUPIED) != 0
        within = ((flag & REACH) != 0) & (occupied == 0) & (explore > 0)
        sampled = occupied
        if JITTER:
            sampled = sampled | (within & (_random(seed + 1, ray, k) < explore))
        sampled = sampled & going
        if PLACE:
            n = first + count
            tl.store(distances + n, t, mask=sampled)
            tl.store(widths + n, tl.where(occupied, step, wide), mask=sampled)
            tl.store(points + 3 * n, ox + t * dx, mask=sampled)
            tl.store(points + 3 * n + 1, oy + t * dy, mask=sampled)
            tl.store(points + 3 * n + 2, oz + t * dz, mask=sampled)
        count += sampled.to(tl.int32)
        depth += tl.load(density + at, mask=going & occupied, other=0.0) * step
        # In empty space to the interval that holds the exit from the largest empty block of cells around this one.
        free = tl.maximum(tl.load(skip + at, mask=going, other=0).to(tl.int32), 1)
        across = tl.minimum(_exit(px, cx, dx, ix, free), _exit(py, cy, dy, iy, free))
        across = tl.minimum(across, _exit(pz, cz, dz, iz, free))
        leave = ((t + across * cell - start) * per_step).to(tl.int32)
        beyond = tl.where(occupied | within, k + 1, tl.maximum(k + 1, leave))
        k = tl.where(going, beyond, k)
        going = going & (count < cap) & (start + k.to(tl.float32) * step < stop)
        going = going & ((depth > opaque) == 0)
    if not PLACE:
        tl.store(counts + ray, count, mask=valid)


def march(
    origins: Tensor,
    directions: Tensor,
    flags: Tensor,
    skip: Tensor,
    density: Tensor,
    box: Tensor,
    bound: float,
    step: float,
    cap: int,
    opaque: float,
    explore: float,
    jitter: bool,
    seed: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Points ``(N, 3)``, distances ``(N,)``, widths ``(N,)`` and offsets ``(R + 1,)`` of packed samples.

    Tensors are contiguous, and on one device; the rest as of :func:`.march_kernels.march`.
    """
    rays, size = origins.shape[0], flags.shape[0]
    width, one = np.float32(step), np.float32(1)
    to_cell = np.float32(size) / (np.float32(2) * np.float32(bound))
    wide = width / np.float32(explore) if explore > 0 else width
    numbers = (bound, step, to_cell, one / to_cell, one / width, opaque, explore, wide)
    settings = (rays, size, cap, *(float(number) for number in numbers), seed)
    offsets = torch.zeros(rays + 1, dtype=torch.int64, device=origins.device)
    counts = torch.zeros(rays, dtype=torch.int32, device=origins.device)

    def launch(*samples: Tensor, place: bool) -> None:
        if rays == 0:
            return
        arrays = (origins, directions, flags, skip, density, box, offsets, counts, *samples)
        with torch.cuda.device(origins.device if origins.is_cuda else -1):
            _march[(triton.cdiv(rays, BLOCK),)](
                *arrays, *settings, JITTER=jitter, PLACE=place, BLOCK=BLOCK, num_warps=1, enable_fp_fusion=False
            )

    none = origins.new_empty(0)
    launch(none, none, none, place=False)
    torch.cumsum(counts, 0, out=offsets[1:])
    total = int(offsets[-1])
    points, distances, widths = origins.new_empty(total, 3), origins.new_empty(total), origins.new_empty(total)
    launch(points, distances, widths, place=True)
    return points, distances, widths, offsets
