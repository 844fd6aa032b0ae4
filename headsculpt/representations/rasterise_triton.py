"""Triangle visibility on CUDA by a Triton kernel, which pip installs: the ids of :mod:`.rasterise_numba`, bit for bit.

Vertices are snapped in plain torch. A first kernel finds the triangles that a pixel may see, a small part of them all,
and only these are gathered. The second takes their boxes tile by tile; a covered pixel keeps the smallest (depth,
triangle), packed into 64 bits, by an atomic minimum. A third finds the edges of silhouettes.
Coverage is exact in integers, and depths are float64 operations in the CPU kernel's order, never fused, so
that they round alike. The few triangles that cross the near plane or reach far outside the view are clipped
by the CPU kernel. With ``TRITON_INTERPRET=1`` set before Triton is first imported this runs on CPU tensors,
slowly: that is how it is tested without a GPU.

Letters: B images, N vertices, F triangles, T triangles left to draw.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from headsculpt.representations import rasterise_numba as cpu

TILE = 8  # pixels along a side; most triangles of a fine mesh fit in one
TILES = 4  # of a program
LAUNCH = 1 << 22  # tiles a launch, so that a few huge triangles do not fill the memory with tile numbers
EMPTY = (1 << 63) - 1
BLOCK = 256  # triangles or edges of a program
DRAW, CLIP = tl.constexpr(1), tl.constexpr(2)


@triton.jit
def _choose(
    faces, snapped, state, out, vertices, count, height, width,
    CULL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """``out (B, F)``: DRAW, CLIP, or 0 for what has no area, faces away where CULL, or holds no pixel's centre."""
    f = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    image = tl.program_id(1).to(tl.int64)
    valid = f < count
    a = tl.load(faces + 3 * f, mask=valid, other=0) + image * vertices
    b = tl.load(faces + 3 * f + 1, mask=valid, other=0) + image * vertices
    c = tl.load(faces + 3 * f + 2, mask=valid, other=0) + image * vertices
    worst = tl.maximum(tl.load(state + a), tl.maximum(tl.load(state + b), tl.load(state + c)))
    ax, ay = tl.load(snapped + 2 * a), tl.load(snapped + 2 * a + 1)
    bx, by = tl.load(snapped + 2 * b), tl.load(snapped + 2 * b + 1)
    cx, cy = tl.load(snapped + 2 * c), tl.load(snapped + 2 * c + 1)
    area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
    left, right = tl.minimum(ax, tl.minimum(bx, cx)), tl.maximum(ax, tl.maximum(bx, cx))
    top, bottom = tl.minimum(ay, tl.minimum(by, cy)), tl.maximum(ay, tl.maximum(by, cy))
    # As in _prepared: 127 and 128 of the 256 positions of a pixel lie before its centre, and the shift rounds down.
    seen = tl.maximum((left + 127) >> 8, 0) <= tl.minimum((right - 128) >> 8, width - 1)
    seen = seen & (tl.maximum((top + 127) >> 8, 0) <= tl.minimum((bottom - 128) >> 8, height - 1))
    if CULL:
        seen = seen & (area < 0)
    else:
        seen = seen & (area != 0)
    drawn = tl.where(seen, DRAW, 0)
    chosen = tl.where(worst == 0, drawn, tl.where(worst == 1, CLIP, 0))
    tl.store(out + image * count + f, chosen.to(tl.int8), mask=valid)


@triton.jit
def _side(clip, vertex, there, nx, ny, nw):
    """Whether a vertex lies on the positive side of an edge's plane through the camera, and whether it is in front."""
    x = tl.load(clip + 4 * vertex, mask=there, other=0.0)
    y = tl.load(clip + 4 * vertex + 1, mask=there, other=0.0)
    w = tl.load(clip + 4 * vertex + 3, mask=there, other=0.0)
    return nx * x + ny * y + nw * w > 0, w > 0


@triton.jit
def _fold(edges, opposite, clip, out, vertices, count, BLOCK: tl.constexpr):
    """``out (B, E)``: 1 or -1, the side of a silhouette's surface, or 0; see :func:`.shading_ops.silhouettes_reference`."""
    e = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    image = tl.program_id(1).to(tl.int64)
    valid = e < count
    a = tl.load(edges + 2 * e, mask=valid, other=0) + image * vertices
    b = tl.load(edges + 2 * e + 1, mask=valid, other=0) + image * vertices
    one = tl.load(opposite + 2 * e, mask=valid, other=0) + image * vertices
    other = tl.load(opposite + 2 * e + 1, mask=valid, other=0)
    paired = other >= 0
    ax, ay, aw = tl.load(clip + 4 * a), tl.load(clip + 4 * a + 1), tl.load(clip + 4 * a + 3)
    bx, by, bw = tl.load(clip + 4 * b), tl.load(clip + 4 * b + 1), tl.load(clip + 4 * b + 3)
    nx, ny, nw = ay * bw - aw * by, aw * bx - ax * bw, ax * by - ay * bx
    first, first_in_front = _side(clip, one, valid, nx, ny, nw)
    second, second_in_front = _side(clip, other + image * vertices, valid & paired, nx, ny, nw)
    fold = (paired == 0) | ((first == second) & second_in_front)
    fold = fold & first_in_front & (aw > 0) & (bw > 0)
    tl.store(out + image * count + e, tl.where(fold, tl.where(first, 1, -1), 0).to(tl.int8), mask=valid)


@triton.jit
def _draw(
    corners, depths, boxes, indices, images, owners, locals_, keys, count, height, width,
    TILE: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """``corners (T, 6)`` int64 with positive area, ``depths (T, 3)`` float64, ``boxes (T, 4)`` int64."""
    item = tl.program_id(0).to(tl.int64) * TILES + tl.arange(0, TILES)
    valid = item < count
    t = tl.load(owners + item, mask=valid, other=0)
    local = tl.load(locals_ + item, mask=valid, other=0)
    ax, ay = tl.load(corners + 6 * t), tl.load(corners + 6 * t + 1)
    bx, by = tl.load(corners + 6 * t + 2), tl.load(corners + 6 * t + 3)
    cx, cy = tl.load(corners + 6 * t + 4), tl.load(corners + 6 * t + 5)
    az, bz, cz = tl.load(depths + 3 * t), tl.load(depths + 3 * t + 1), tl.load(depths + 3 * t + 2)
    c0, c1 = tl.load(boxes + 4 * t), tl.load(boxes + 4 * t + 1)
    r0, r1 = tl.load(boxes + 4 * t + 2), tl.load(boxes + 4 * t + 3)

    # From here on as in rasterise_numba.fill, the same operations in the same order.
    area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
    px, py = c0 * 256 + 128, r0 * 256 + 128
    e0 = (cx - bx) * (py - by) - (cy - by) * (px - bx)
    e1 = (ax - cx) * (py - cy) - (ay - cy) * (px - cx)
    e2 = (bx - ax) * (py - ay) - (by - ay) * (px - ax)
    col0, col1, col2 = -(cy - by) * 256, -(ay - cy) * 256, -(by - ay) * 256
    row0, row1, row2 = (cx - bx) * 256, (ax - cx) * 256, (bx - ax) * 256
    inverse = 1.0 / area.to(tl.float64)
    zb, zc = bz - az, cz - az
    z = az + (e1.to(tl.float64) * zb + e2.to(tl.float64) * zc) * inverse
    z_col = (col1.to(tl.float64) * zb + col2.to(tl.float64) * zc) * inverse
    z_row = (row1.to(tl.float64) * zb + row2.to(tl.float64) * zc) * inverse
    z_low = tl.minimum(tl.minimum(az, bz), cz)
    z_high = tl.maximum(tl.maximum(az, bz), cz)
    e0 -= ((cy >= by) & ((cy != by) | (cx <= bx))).to(tl.int64)
    e1 -= ((ay >= cy) & ((ay != cy) | (ax <= cx))).to(tl.int64)
    e2 -= ((by >= ay) & ((by != ay) | (bx <= ax))).to(tl.int64)

    across = (c1 - c0) // TILE + 1
    pixel = tl.arange(0, TILE * TILE)[None, :]
    k = ((local % across) * TILE)[:, None] + pixel % TILE
    r = ((local // across) * TILE)[:, None] + pixel // TILE
    seen = valid[:, None] & (k <= (c1 - c0)[:, None]) & (r <= (r1 - r0)[:, None])
    i0 = e0[:, None] + k * col0[:, None] + r * row0[:, None]
    i1 = e1[:, None] + k * col1[:, None] + r * row1[:, None]
    i2 = e2[:, None] + k * col2[:, None] + r * row2[:, None]
    seen = seen & ((i0 | i1 | i2) >= 0)
    z_first = z[:, None] + r.to(tl.float64) * z_row[:, None]
    exact = z_first + k.to(tl.float64) * z_col[:, None]
    depth = tl.minimum(tl.maximum(exact, z_low[:, None]), z_high[:, None]).to(tl.float32)
    depth = tl.where(depth == 0, 0.0, depth)  # -0 and 0 are one depth
    seen = seen & (depth <= 1.0)

    bits = depth.to(tl.int32, bitcast=True)
    ordered = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(tl.int64)  # ascends with the depth
    key = (ordered << 32) | tl.load(indices + t)[:, None]
    first = tl.load(images + t) * height * width
    at = keys + first[:, None] + (r0[:, None] + r) * width + c0[:, None] + k
    seen = seen & (key < tl.load(at, mask=seen, other=0))  # keys only fall, so a stale one is no harm
    tl.atomic_min(at, key, mask=seen, sem="relaxed")


def visible(clip: Tensor, faces: Tensor, height: int, width: int, cull_back: bool) -> Tensor:
    """``(B, H, W)`` int32 on the device of ``clip``; arguments as in :func:`.rasterise.visibility`."""
    batch = clip.shape[0]
    keys = torch.full((batch, height, width), EMPTY, dtype=torch.int64, device=clip.device)
    if batch and len(faces):
        found = _triangles(clip.float().contiguous(), faces.long().contiguous(), height, width, cull_back)
        _draw_all(_prepared(found, height, width, cull_back), keys)
    triangle = (keys & 0xFFFFFFFF).int()
    return torch.where(keys == EMPTY, torch.full_like(triangle, -1), triangle)


def silhouettes(clip: Tensor, edges: Tensor, opposite: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Image, edge and side, on the device of ``clip``; as :func:`.shading_ops.silhouettes_reference`."""
    clip, edges, opposite = clip.detach().float().contiguous(), edges.contiguous(), opposite.contiguous()
    found = torch.zeros(clip.shape[0], len(edges), dtype=torch.int8, device=clip.device)
    if found.numel():
        with torch.cuda.device(clip.device if clip.is_cuda else -1):
            _fold[(triton.cdiv(len(edges), BLOCK), clip.shape[0])](
                edges, opposite, clip, found, clip.shape[1], len(edges), BLOCK=BLOCK, enable_fp_fusion=False
            )
    image, edge = found.nonzero().unbind(-1)
    return image, edge, found[image, edge].to(clip)


def _triangles(clip: Tensor, faces: Tensor, height: int, width: int, cull_back: bool) -> tuple[Tensor, ...]:
    """Snapped corners ``(T, 3, 2)`` int64, depths ``(T, 3)`` float64, index and image ``(T,)`` int64."""
    x, y, z, w = clip.double().unbind(-1)
    finite = torch.isfinite(clip).all(-1)
    cut = (w < cpu.MIN_W) | (z < -w) | (x.abs() > cpu.BAND * w) | (y.abs() > cpu.BAND * w)
    state = torch.where(finite, cut.int(), 2)
    w = torch.where(state == 0, w, 1)  # the others are not used
    sx = (0.5 + 0.5 * x / w) * width * cpu.SUBPIXEL
    sy = (0.5 - 0.5 * y / w) * height * cpu.SUBPIXEL
    snapped = torch.stack([sx, sy], -1).nan_to_num(0).clamp(-cpu.GUARD, cpu.GUARD).round().long()
    depth = z / w
    chosen = torch.empty(len(clip), len(faces), dtype=torch.int8, device=clip.device)
    with torch.cuda.device(clip.device if clip.is_cuda else -1):
        _choose[(triton.cdiv(len(faces), BLOCK), len(clip))](
            faces, snapped, state, chosen, clip.shape[1], len(faces), height, width, CULL=cull_back, BLOCK=BLOCK
        )
    image, index = (chosen == DRAW.value).nonzero().unbind(-1)
    corner = faces[index]
    found = (snapped[image[:, None], corner], depth[image[:, None], corner], index, image)
    clipped_image, clipped_index = (chosen == CLIP.value).nonzero().unbind(-1)
    if len(clipped_index) == 0:
        return found
    crossing = clip[clipped_image[:, None], faces[clipped_index]].cpu().contiguous().numpy()
    xy, zs, owner = (torch.from_numpy(a).to(clip.device) for a in cpu.clip_list(crossing, height, width))
    pieces = (xy, zs, clipped_index[owner], clipped_image[owner])
    return tuple(torch.cat(pair) for pair in zip(found, pieces, strict=True))


def _prepared(
    triangles: tuple[Tensor, ...], height: int, width: int, cull_back: bool
) -> tuple[Tensor, ...]:
    """Those that have an area and whose box holds a pixel centre, turned so that the area is positive."""
    xy, depth, index, image = triangles
    device = xy.device
    a, b, c = xy.unbind(1)
    area = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])
    low, high = xy.amin(1), xy.amax(1)
    half = cpu.SUBPIXEL // 2
    first = ((low + half - 1) >> cpu.SHIFT).clamp_min(0)
    last = torch.minimum((high - half) >> cpu.SHIFT, torch.tensor([width - 1, height - 1], device=device))
    boxes = torch.stack([first[:, 0], last[:, 0], first[:, 1], last[:, 1]], -1)
    keep = (first <= last).all(-1) & ((area < 0) if cull_back else (area != 0))
    keep = keep.nonzero()[:, 0]
    turned, straight = torch.tensor([[0, 2, 1], [0, 1, 2]], device=device)
    order = torch.where((area[keep] < 0)[:, None], turned, straight)
    corners = xy[keep].gather(1, order[..., None].expand(-1, -1, 2)).reshape(-1, 6)
    return corners, depth[keep].gather(1, order), boxes[keep].contiguous(), index[keep], image[keep]


def _draw_all(triangles: tuple[Tensor, ...], keys: Tensor) -> None:
    corners, depths, boxes, index, image = triangles
    tiles = ((boxes[:, 1] - boxes[:, 0]) // TILE + 1) * ((boxes[:, 3] - boxes[:, 2]) // TILE + 1)
    ends = tiles.cumsum(0)
    total = int(ends[-1]) if len(ends) else 0
    _, height, width = keys.shape
    for begin in range(0, total, LAUNCH):
        number = torch.arange(begin, min(begin + LAUNCH, total), device=keys.device)
        owner = torch.searchsorted(ends, number, right=True)
        local = number - (ends - tiles)[owner]
        with torch.cuda.device(keys.device if keys.is_cuda else -1):
            _draw[(triton.cdiv(len(number), TILES),)](
                corners, depths, boxes, index, image, owner, local, keys, len(number), height, width,
                TILE=TILE, TILES=TILES, enable_fp_fusion=False,
            )  # fmt: skip
