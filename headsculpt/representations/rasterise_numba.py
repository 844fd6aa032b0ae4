"""The compiled loops of :mod:`.rasterise` and :mod:`.shading_ops`; scalars and arrays only."""

from __future__ import annotations

import numba
import numpy as np

SHIFT = 8
SUBPIXEL = 1 << SHIFT  # positions per pixel and axis; 1/256 is what GPUs use too
GUARD = float(1 << 29)  # snapped coordinates are held within this, so that products fit an int64
BAND = 1000.0  # triangles that reach further than this many half images are clipped, for the same reason
MIN_W = 1e-6  # vertices closer to the camera plane than this are clipped away


@numba.njit(cache=True, fastmath=False, nogil=True)
def to_screen(x: float, y: float, w: float, height: int, width: int) -> tuple[int, int]:
    sx = (0.5 + 0.5 * x / w) * width * SUBPIXEL
    sy = (0.5 - 0.5 * y / w) * height * SUBPIXEL
    return int(np.rint(min(max(sx, -GUARD), GUARD))), int(np.rint(min(max(sy, -GUARD), GUARD)))


@numba.njit(cache=True, fastmath=False, nogil=True)
def snap_vertices(clip, height, width, xy, depth, state):
    """Fills ``xy (N,2)`` int32, ``depth (N,)`` float64, ``state (N,)``: 0 in front, 1 to clip, 2 not finite."""
    for i in range(clip.shape[0]):
        x, y, z, w = float(clip[i, 0]), float(clip[i, 1]), float(clip[i, 2]), float(clip[i, 3])
        if not (np.isfinite(x) and np.isfinite(y) and np.isfinite(z) and np.isfinite(w)):
            state[i] = 2
        elif w < MIN_W or z < -w or abs(x) > BAND * w or abs(y) > BAND * w:
            state[i] = 1
        else:
            state[i] = 0
            xy[i, 0], xy[i, 1] = to_screen(x, y, w, height, width)
            depth[i] = z / w


@numba.njit(cache=True, fastmath=False, nogil=True)
def draw_snapped(ax, ay, az, bx, by, bz, cx, cy, cz, index, height, width, ids, zbuffer, cull_back):
    """Draws one triangle given in snapped screen coordinates (int64) with depths z/w (float64)."""
    left, right = min(ax, bx, cx), max(ax, bx, cx)
    top, bottom = min(ay, by, cy), max(ay, by, cy)
    half = SUBPIXEL // 2
    c0 = max((left + half - 1) >> SHIFT, 0)  # first column whose centre is not left of the box
    c1 = min((right - half) >> SHIFT, width - 1)
    r0 = max((top + half - 1) >> SHIFT, 0)
    r1 = min((bottom - half) >> SHIFT, height - 1)
    if c0 > c1 or r0 > r1:
        return
    area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
    if area == 0 or (cull_back and area > 0):
        return  # counter-clockwise with y up is clockwise, area < 0, with y down
    if area < 0:
        bx, by, bz, cx, cy, cz = cx, cy, cz, bx, by, bz
        area = -area
    px, py = c0 * SUBPIXEL + half, r0 * SUBPIXEL + half
    # e0 belongs to the edge opposite to a, and so on; steps per column and row.
    e0 = (cx - bx) * (py - by) - (cy - by) * (px - bx)
    e1 = (ax - cx) * (py - cy) - (ay - cy) * (px - cx)
    e2 = (bx - ax) * (py - ay) - (by - ay) * (px - ax)
    col0, col1, col2 = -(cy - by) * SUBPIXEL, -(ay - cy) * SUBPIXEL, -(by - ay) * SUBPIXEL
    row0, row1, row2 = (cx - bx) * SUBPIXEL, (ax - cx) * SUBPIXEL, (bx - ax) * SUBPIXEL
    inverse = 1.0 / area
    z = az + (e1 * (bz - az) + e2 * (cz - az)) * inverse
    z_col = (col1 * (bz - az) + col2 * (cz - az)) * inverse
    z_row = (row1 * (bz - az) + row2 * (cz - az)) * inverse
    z_low, z_high = min(az, bz, cz), max(az, bz, cz)
    # Top-left rule: a centre on an edge counts only if the edge is a top or a left one (y points down).
    if not (cy < by or (cy == by and cx > bx)):
        e0 -= 1
    if not (ay < cy or (ay == cy and ax > cx)):
        e1 -= 1
    if not (by < ay or (by == ay and bx > ax)):
        e2 -= 1
    for r in range(r0, r1 + 1):
        first, last = 0, c1 - c0
        if last > 6:  # a wide box: solve for the span instead of testing every pixel
            for e, step in ((e0, col0), (e1, col1), (e2, col2)):
                if step > 0:
                    first = max(first, -(e // step))  # ceil(-e / step)
                elif step < 0:
                    last = min(last, e // -step)
                elif e < 0:
                    last = -1
        i0, i1, i2 = e0 + first * col0, e1 + first * col1, e2 + first * col2
        for k in range(first, last + 1):
            # Selects, not branches: half of the tests fail, and a mispredicted branch costs more than both.
            nearest = zbuffer[r, c0 + k]
            depth = np.float32(min(max(z + k * z_col, z_low), z_high))
            wins = ((i0 | i1 | i2) >= 0) & (depth < nearest)
            zbuffer[r, c0 + k] = depth if wins else nearest
            ids[r, c0 + k] = index if wins else ids[r, c0 + k]
            i0 += col0
            i1 += col1
            i2 += col2
        e0 += row0
        e1 += row1
        e2 += row2
        z += z_row


@numba.njit(cache=True, fastmath=False, nogil=True)
def clip_polygon(polygon, count, plane, scratch):
    """Keeps the part of ``polygon[:count]`` in front of a plane; returns its size.

    Planes: 0 near (z = -w), 1 the camera's own (w = MIN_W), 2 to 5 the guard band (+-x, +-y = BAND * w).
    An intersection is computed from the vertex in front to the one behind, whichever way the edge runs, so
    that both triangles of a shared edge get the same point to the last bit.
    """
    kept = 0
    for i in range(count):
        j = (i + 1) % count
        if plane == 0:
            di, dj = polygon[i, 2] + polygon[i, 3], polygon[j, 2] + polygon[j, 3]
        elif plane == 1:
            di, dj = polygon[i, 3] - MIN_W, polygon[j, 3] - MIN_W
        else:
            axis, sign = (plane - 2) >> 1, 1 - 2 * (plane & 1)
            di = BAND * polygon[i, 3] + sign * polygon[i, axis]
            dj = BAND * polygon[j, 3] + sign * polygon[j, axis]
        if di >= 0:
            scratch[kept] = polygon[i]
            kept += 1
        if (di >= 0) != (dj >= 0):
            if di >= 0:
                t = di / (di - dj)
                for axis in range(4):
                    scratch[kept, axis] = polygon[i, axis] + t * (polygon[j, axis] - polygon[i, axis])
            else:
                t = dj / (dj - di)
                for axis in range(4):
                    scratch[kept, axis] = polygon[j, axis] + t * (polygon[i, axis] - polygon[j, axis])
            kept += 1
    polygon[:kept] = scratch[:kept]
    return kept


@numba.njit(cache=True, fastmath=False, nogil=True)
def draw_range(clip, faces, xy, depth, state, begin, end, height, width, ids, zbuffer, cull_back):
    """Draws triangles ``begin..end-1`` of one image, in order."""
    polygon, scratch = np.zeros((10, 4)), np.zeros((10, 4))
    for f in range(begin, end):
        i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
        worst = max(state[i], state[j], state[k])
        if worst == 0:
            draw_snapped(
                np.int64(xy[i, 0]), np.int64(xy[i, 1]), depth[i],
                np.int64(xy[j, 0]), np.int64(xy[j, 1]), depth[j],
                np.int64(xy[k, 0]), np.int64(xy[k, 1]), depth[k],
                f, height, width, ids, zbuffer, cull_back,
            )  # fmt: skip
        elif worst == 1:
            for axis in range(4):
                polygon[0, axis], polygon[1, axis], polygon[2, axis] = (
                    clip[i, axis],
                    clip[j, axis],
                    clip[k, axis],
                )
            count = 3
            for plane in range(6):
                count = clip_polygon(polygon, count, plane, scratch)
            for corner in range(1, count - 1):
                ax, ay = to_screen(polygon[0, 0], polygon[0, 1], polygon[0, 3], height, width)
                bx, by = to_screen(polygon[corner, 0], polygon[corner, 1], polygon[corner, 3], height, width)
                cx, cy = to_screen(
                    polygon[corner + 1, 0], polygon[corner + 1, 1], polygon[corner + 1, 3], height, width
                )
                draw_snapped(
                    np.int64(ax), np.int64(ay), polygon[0, 2] / polygon[0, 3],
                    np.int64(bx), np.int64(by), polygon[corner, 2] / polygon[corner, 3],
                    np.int64(cx), np.int64(cy), polygon[corner + 1, 2] / polygon[corner + 1, 3],
                    f, height, width, ids, zbuffer, cull_back,
                )  # fmt: skip


@numba.njit(cache=True, fastmath=False, nogil=True)
def merge(ids, zbuffer, other_ids, other_zbuffer):
    """Takes over the pixels where the other part, which holds later triangles, is strictly nearer."""
    for r in range(ids.shape[0]):
        for c in range(ids.shape[1]):
            if other_zbuffer[r, c] < zbuffer[r, c]:
                zbuffer[r, c] = other_zbuffer[r, c]
                ids[r, c] = other_ids[r, c]


@numba.njit(cache=True, fastmath=False, nogil=True)
def silhouettes(clip, edges, opposite):  # noqa: ANN001, ANN201
    """Image, edge and whether the surface is on the positive side, of every silhouette edge of every image."""
    batch, count = clip.shape[0], edges.shape[0]
    images = np.empty(batch * count, np.int64)
    indices = np.empty(batch * count, np.int64)
    positive = np.empty(batch * count, np.bool_)
    found = 0
    for image in range(batch):
        v = clip[image]
        for edge in range(count):
            a, b, c, d = edges[edge, 0], edges[edge, 1], opposite[edge, 0], opposite[edge, 1]
            if v[a, 3] <= 0 or v[b, 3] <= 0 or v[c, 3] <= 0:
                continue
            nx = v[a, 1] * v[b, 3] - v[a, 3] * v[b, 1]
            ny = v[a, 3] * v[b, 0] - v[a, 0] * v[b, 3]
            nz = v[a, 0] * v[b, 1] - v[a, 1] * v[b, 0]
            side = nx * v[c, 0] + ny * v[c, 1] + nz * v[c, 3] > 0
            if d >= 0:
                if v[d, 3] <= 0 or (nx * v[d, 0] + ny * v[d, 1] + nz * v[d, 3] > 0) != side:
                    continue
            images[found] = image
            indices[found] = edge
            positive[found] = side
            found += 1
    return images[:found].copy(), indices[:found].copy(), positive[:found].copy()
