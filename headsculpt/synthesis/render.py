"""A fast software renderer of figures, for training data.

It rasterises with a z-buffer at a multiple of the image's resolution and shades every sample with the
light of :func:`headsculpt.rendering.shading` (the same constants, so a prior that saw these pictures
knows the light that sculptures are shown with) plus a small highlight where a part asks for one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numba
import numpy as np

from headsculpt.rendering import GROUND_LIGHT, KEY_LIGHT, KEY_LIGHT_DIRECTION, SKY_LIGHT

if TYPE_CHECKING:
    from headsculpt.cameras import Cameras
    from headsculpt.synthesis.figure import Figure

Array = np.ndarray
_LENGTH = float(np.sqrt(sum(c * c for c in KEY_LIGHT_DIRECTION)))
_KX, _KY, _KZ = (float(c) / _LENGTH for c in KEY_LIGHT_DIRECTION)
_AMBIENT, _AMBIENT_SLOPE, _KEY = float(GROUND_LIGHT), float(SKY_LIGHT - GROUND_LIGHT), float(KEY_LIGHT)
LANDMARK_TOLERANCE = 0.03  # scene units that a landmark may lie behind the surface and still count as seen


@numba.njit(cache=True, nogil=True)
def _to_screen(vertices: Array, clip: Array, width: int, height: int) -> Array:
    """``(V, 3)`` column, row and 1/depth; 1/depth is 0 behind the camera."""
    out = np.empty((vertices.shape[0], 3), np.float32)
    for i in range(vertices.shape[0]):
        x, y, z = vertices[i, 0], vertices[i, 1], vertices[i, 2]
        w = clip[3, 0] * x + clip[3, 1] * y + clip[3, 2] * z + clip[3, 3]
        if w < 1e-3:
            out[i, 0], out[i, 1], out[i, 2] = 0.0, 0.0, 0.0
            continue
        inverse = 1.0 / w
        cx = clip[0, 0] * x + clip[0, 1] * y + clip[0, 2] * z + clip[0, 3]
        cy = clip[1, 0] * x + clip[1, 1] * y + clip[1, 2] * z + clip[1, 3]
        out[i, 0] = (0.5 + 0.5 * cx * inverse) * width
        out[i, 1] = (0.5 - 0.5 * cy * inverse) * height
        out[i, 2] = inverse
    return out


@numba.njit(cache=True, nogil=True)
def _rasterise(screen: Array, faces: Array, nearest: Array, face_ids: Array) -> None:
    """Fills ``nearest`` (1/depth, larger is nearer) and ``face_ids`` (-1 where empty)."""
    height, width = nearest.shape
    nearest[:] = 0.0
    face_ids[:] = -1
    for f in range(faces.shape[0]):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        x0, y0, w0 = screen[a, 0], screen[a, 1], screen[a, 2]
        x1, y1, w1 = screen[b, 0], screen[b, 1], screen[b, 2]
        x2, y2, w2 = screen[c, 0], screen[c, 1], screen[c, 2]
        if w0 <= 0.0 or w1 <= 0.0 or w2 <= 0.0:
            continue
        left = int(np.ceil(min(x0, x1, x2) - 0.5))
        right = int(np.floor(max(x0, x1, x2) - 0.5))
        top = int(np.ceil(min(y0, y1, y2) - 0.5))
        bottom = int(np.floor(max(y0, y1, y2) - 0.5))
        left, right, top, bottom = max(left, 0), min(right, width - 1), max(top, 0), min(bottom, height - 1)
        if left > right or top > bottom:
            continue
        area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
        if abs(area) < 1e-9:
            continue
        inverse = 1.0 / area
        for row in range(top, bottom + 1):
            py = row + 0.5
            for column in range(left, right + 1):
                px = column + 0.5
                u = ((x1 - px) * (y2 - py) - (x2 - px) * (y1 - py)) * inverse
                v = ((x2 - px) * (y0 - py) - (x0 - px) * (y2 - py)) * inverse
                w = 1.0 - u - v
                if u >= 0.0 and v >= 0.0 and w >= 0.0:
                    near = u * w0 + v * w1 + w * w2
                    if near > nearest[row, column]:
                        nearest[row, column] = near
                        face_ids[row, column] = f


@numba.njit(cache=True, nogil=True)
def _shade(
    screen: Array, faces: Array, nearest: Array, face_ids: Array, vertices: Array, normals: Array,
    colours: Array, specular: Array, eye: Array, background: Array, samples: int,
    rgb: Array, mask: Array, depth: Array, normal: Array,
) -> None:  # fmt: skip
    """Shades all samples and averages them into the image's pixels."""
    height, width = mask.shape
    total = samples * samples
    for row in range(height):
        for column in range(width):
            red, green, blue, covered, far = 0.0, 0.0, 0.0, 0, 0.0
            sx, sy, sz = 0.0, 0.0, 0.0
            for s in range(total):
                r, c = row * samples + s // samples, column * samples + s % samples
                f = face_ids[r, c]
                if f < 0:
                    red += background[0]
                    green += background[1]
                    blue += background[2]
                    continue
                i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
                px, py = c + 0.5, r + 0.5
                x0, y0, x1, y1 = screen[i, 0], screen[i, 1], screen[j, 0], screen[j, 1]
                x2, y2 = screen[k, 0], screen[k, 1]
                area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
                u = ((x1 - px) * (y2 - py) - (x2 - px) * (y1 - py)) / area
                v = ((x2 - px) * (y0 - py) - (x0 - px) * (y2 - py)) / area
                w = 1.0 - u - v
                distance = 1.0 / nearest[r, c]
                u, v, w = (
                    u * screen[i, 2] * distance,
                    v * screen[j, 2] * distance,
                    w * screen[k, 2] * distance,
                )
                nx = u * normals[i, 0] + v * normals[j, 0] + w * normals[k, 0]
                ny = u * normals[i, 1] + v * normals[j, 1] + w * normals[k, 1]
                nz = u * normals[i, 2] + v * normals[j, 2] + w * normals[k, 2]
                scale = 1.0 / np.sqrt(nx * nx + ny * ny + nz * nz + 1e-12)
                if area > 0.0:  # rows run downwards, so faces seen from outside have a negative area
                    scale = -scale
                nx, ny, nz = nx * scale, ny * scale, nz * scale
                wrapped = max(0.5 + 0.5 * (nx * _KX + ny * _KY + nz * _KZ), 0.0)
                light = _AMBIENT + _AMBIENT_SLOPE * (0.5 + 0.5 * ny) + _KEY * wrapped * wrapped
                shine = u * specular[i] + v * specular[j] + w * specular[k]
                glint = 0.0
                if shine > 0.01:
                    vx = eye[0] - (u * vertices[i, 0] + v * vertices[j, 0] + w * vertices[k, 0])
                    vy = eye[1] - (u * vertices[i, 1] + v * vertices[j, 1] + w * vertices[k, 1])
                    vz = eye[2] - (u * vertices[i, 2] + v * vertices[j, 2] + w * vertices[k, 2])
                    length = 1.0 / np.sqrt(vx * vx + vy * vy + vz * vz)
                    hx, hy, hz = vx * length + _KX, vy * length + _KY, vz * length + _KZ
                    length = np.sqrt(hx * hx + hy * hy + hz * hz) + 1e-6
                    cosine = (nx * hx + ny * hy + nz * hz) / length
                    if cosine > 0.0:
                        glint = 0.55 * shine * cosine ** (12.0 + 36.0 * shine)
                red += min(light * (u * colours[i, 0] + v * colours[j, 0] + w * colours[k, 0]) + glint, 1.0)
                green += min(light * (u * colours[i, 1] + v * colours[j, 1] + w * colours[k, 1]) + glint, 1.0)
                blue += min(light * (u * colours[i, 2] + v * colours[j, 2] + w * colours[k, 2]) + glint, 1.0)
                covered += 1
                far += distance
                sx, sy, sz = sx + nx, sy + ny, sz + nz
            rgb[row, column, 0] = np.uint8(red / total * 255.0 + 0.5)
            rgb[row, column, 1] = np.uint8(green / total * 255.0 + 0.5)
            rgb[row, column, 2] = np.uint8(blue / total * 255.0 + 0.5)
            mask[row, column] = covered / total
            if covered > 0:
                depth[row, column] = far / covered
                length = 1.0 / np.sqrt(sx * sx + sy * sy + sz * sz + 1e-12)
                normal[row, column, 0] = sx * length
                normal[row, column, 1] = sy * length
                normal[row, column, 2] = sz * length


@numba.njit(cache=True, nogil=True)
def _visible(points: Array, nearest: Array, tolerance: float) -> Array:
    """Which screen points ``(K, 3)`` lie in the picture and not behind the surface."""
    height, width = nearest.shape
    out = np.zeros(points.shape[0], np.bool_)
    for i in range(points.shape[0]):
        column, row = int(np.floor(points[i, 0])), int(np.floor(points[i, 1]))
        if points[i, 2] <= 0 or column < 0 or row < 0 or column >= width or row >= height:
            continue
        distance = 1.0 / points[i, 2]
        for r in range(max(row - 1, 0), min(row + 2, height)):
            for c in range(max(column - 1, 0), min(column + 2, width)):
                near = nearest[r, c]
                if near <= 0.0 or 1.0 / near > distance - tolerance:
                    out[i] = True
    return out


def render_figure(
    figure: Figure, cameras: Cameras, *, background: Array, supersample: int = 2
) -> dict[str, Array]:
    """Pictures of a figure, with what is known about every pixel.

    Args:
        figure: what to draw.
        cameras: batch of B views.
        background: ``(3,)`` or ``(B, 3)`` colour, [0, 1].
        supersample: samples per pixel and axis.

    Returns:
        rgb ``(B, H, W, 3)`` uint8; mask ``(B, H, W)`` float32 coverage; depth ``(B, H, W)`` float32 along
        the viewing axis, 0 where empty; normal ``(B, H, W, 3)`` float32 in scene coordinates, 0 where
        empty; landmarks ``(B, K, 2)`` float32 (column, row) in pixels, in the order of
        ``figure.landmark_points()``; landmark_visible ``(B, K)`` bool.

    Raises:
        ValueError: the background's shape fits neither, or supersample is below 1.
    """
    batch, height, width = len(cameras), cameras.height, cameras.width
    colours = np.asarray(background, np.float32)
    if colours.shape not in ((3,), (batch, 3)):
        raise ValueError(f"background must be (3,) or ({batch}, 3) for {batch} cameras; got {colours.shape}")
    if supersample < 1:
        raise ValueError(f"supersample must be at least 1; got {supersample}")
    colours = np.ascontiguousarray(np.broadcast_to(colours, (batch, 3)))
    clip = cameras.world_to_clip.detach().cpu().numpy().astype(np.float64)
    eyes = cameras.origins.detach().cpu().numpy().astype(np.float32)
    points = figure.landmark_points()

    rgb = np.empty((batch, height, width, 3), np.uint8)
    mask = np.zeros((batch, height, width), np.float32)
    depth = np.zeros((batch, height, width), np.float32)
    normal = np.zeros((batch, height, width, 3), np.float32)
    landmarks = np.empty((batch, len(points), 2), np.float32)
    visible = np.empty((batch, len(points)), np.bool_)
    nearest = np.empty((height * supersample, width * supersample), np.float32)
    face_ids = np.empty(nearest.shape, np.int32)
    for b in range(batch):
        screen = _to_screen(figure.vertices, clip[b], nearest.shape[1], nearest.shape[0])
        _rasterise(screen, figure.faces, nearest, face_ids)
        _shade(
            screen, figure.faces, nearest, face_ids, figure.vertices, figure.normals, figure.colours,
            figure.specular, eyes[b], colours[b], supersample, rgb[b], mask[b], depth[b], normal[b],
        )  # fmt: skip
        seen = _to_screen(points, clip[b], nearest.shape[1], nearest.shape[0])
        visible[b] = _visible(seen, nearest, LANDMARK_TOLERANCE)
        landmarks[b] = seen[:, :2] / supersample
    return {
        "rgb": rgb,
        "mask": mask,
        "depth": depth,
        "normal": normal,
        "landmarks": landmarks,
        "landmark_visible": visible,
    }


@numba.njit(cache=True, nogil=True)
def _lit(points: Array, nearest: Array, bias: float) -> Array:
    """``(V,)`` share of the 3x3 neighbours of every point that do not hide it."""
    height, width = nearest.shape
    out = np.ones(points.shape[0], np.float32)
    for i in range(points.shape[0]):
        column, row = int(np.floor(points[i, 0])), int(np.floor(points[i, 1]))
        free, count = 0, 0
        for r in range(max(row - 1, 0), min(row + 2, height)):
            for c in range(max(column - 1, 0), min(column + 2, width)):
                count += 1
                if points[i, 2] > nearest[r, c] - bias:
                    free += 1
        if count > 0:
            out[i] = free / count
    return out


# Directions the baked occlusion looks in, with weights: mostly above and in front, where the light is.
_SKY = (
    ((0.0, 1.0, 0.05), 1.0),
    ((0.35, 0.60, 0.72), 1.6),
    ((-0.45, 0.55, 0.70), 0.9),
    ((0.75, 0.45, -0.45), 0.6),
    ((-0.75, 0.45, -0.45), 0.6),
)


def sky_visibility(vertices: Array, normals: Array, faces: Array, resolution: int = 72) -> Array:
    """Baked ambient occlusion: the share ``(V,)`` of a few directions from which a vertex is seen.

    Args:
        vertices: ``(V, 3)`` float32 within about [-1.3, 1.3].
        normals: ``(V, 3)`` unit; points start a little above the surface.
        faces: ``(F, 3)`` int32.
        resolution: pixels of the shadow maps; low ones are softer.
    """
    total = np.zeros(len(vertices), np.float32)
    weights = 0.0
    nearest = np.empty((resolution, resolution), np.float32)
    face_ids = np.empty((resolution, resolution), np.int32)
    raised = vertices + np.float32(0.03) * normals
    scale = resolution / 2.7
    for direction, weight in _SKY:
        d = np.asarray(direction) / np.linalg.norm(direction)
        right = np.cross((0.0, 0.0, 1.0) if abs(d[1]) > 0.9 else (0.0, 1.0, 0.0), d)
        right /= np.linalg.norm(right)
        axes = np.stack([right * scale, np.cross(d, right) * scale, d]).T.astype(np.float32)
        shift = np.array([resolution / 2, resolution / 2, 5.0], np.float32)
        _rasterise(vertices @ axes + shift, faces, nearest, face_ids)
        total += np.float32(weight) * _lit(raised @ axes + shift, nearest, 0.03)
        weights += weight
    return total / np.float32(weights)
