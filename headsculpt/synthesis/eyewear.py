"""Glasses, sunglasses and an eyepatch."""

from __future__ import annotations

import numpy as np

from headsculpt.synthesis.fit import Fit
from headsculpt.synthesis.palette import varied
from headsculpt.synthesis.parts import Array, Part, joined, part, tube, unit

RIMS = ((0.05, 0.05, 0.06), (0.05, 0.05, 0.06), (0.16, 0.09, 0.05), (0.85, 0.62, 0.18), (0.65, 0.06, 0.07))


def _outline(name: str, size: float, count: int = 28) -> Array:
    """``(count, 2)`` rim of the left glass around its centre, size = half width."""
    a = np.linspace(0, 2 * np.pi, count, endpoint=False)
    c, s = np.cos(a), np.sin(a)
    if name == "round glasses":
        return size * np.stack([c, s], 1)
    power = 0.42 if name == "square glasses" else 0.62
    xy = np.stack([np.sign(c) * np.abs(c) ** power, 0.78 * np.sign(s) * np.abs(s) ** power], 1)
    if name == "sunglasses":
        xy[:, 0] *= 1 + 0.10 * xy[:, 1]
    return size * xy


def _plane(fit: Fit) -> tuple[Array, Array, float]:
    """Centres of the two glasses, and their distance z in front of all that is behind them."""
    left, right = np.asarray(fit.anchors["left_eye"]), np.asarray(fit.anchors["right_eye"])
    bridge = np.asarray(fit.anchors["nose_bridge"])
    depth = max(float(bridge[2]) + 0.015, float(left[2]) + 0.085)
    return left, right, depth


def _bent(points: Array, depth: float) -> Array:
    """Puts ``(..., 2)`` points on a slightly cylindrical front, so that glasses wrap the face."""
    z = depth - 0.55 * points[..., 0] ** 2
    return np.concatenate([points, z[..., None]], -1)


def _temple(fit: Fit, start: Array, side: float) -> Array:
    """Path from the rim's hinge back over the ear."""
    ear = np.asarray(fit.anchors["left_ear" if side > 0 else "right_ear"], np.float64)
    x = max(abs(float(ear[0])), fit.band(float(start[1]), 0.05)[0]) + 0.015
    over = np.array([side * x, float(start[1]) + 0.0, float(ear[2]) + 0.03])
    end = over + np.array([-side * 0.01, -0.10, -0.09])
    middle = np.array([side * x, start[1], 0.5 * (start[2] + over[2])])
    corner = np.array([side * max(abs(start[0]) + 0.02, 0.95 * x), start[1], start[2] - 0.05])
    return np.stack([start, corner, middle, over, 0.5 * (over + end) + np.array([0, 0.02, 0]), end])


def _glasses(fit: Fit, name: str, rng: np.random.Generator) -> list[Part]:
    left, right, depth = _plane(fit)
    spacing = abs(float(left[0]))
    size = min(spacing - 0.022, 0.125) * (1.0 if name != "round glasses" else 0.97)
    colour = varied(RIMS[rng.integers(len(RIMS))] if name != "sunglasses" else RIMS[0], rng, 0.03)
    thickness = 0.017 if name == "round glasses" else 0.019
    kind = "metal" if colour[0] > 0.6 else "plastic"
    frames, lenses = [], []
    for side, eye in ((1.0, left), (-1.0, right)):
        xy = _outline(name, size) * np.array([side, 1.0])
        xy = xy + np.array([eye[0] + side * 0.008, eye[1] - 0.008])
        rim = _bent(xy, depth)
        frames.append(part(*tube(rim, thickness, sides=6, closed=True, up=(0, 0, 1)), colour, 0.35, kind))
        if name == "sunglasses":
            middle = xy.mean(0)
            rings = _bent(middle + (xy - middle)[None] * np.array([0.0, 0.5, 1.0])[:, None, None], depth)
            rings[:, :, 2] += np.array([0.012, 0.009, 0.0])[:, None]
            count = len(xy)
            a = np.arange(count)
            b = (a + 1) % count
            inner, outer = a + count, a + 2 * count
            inner_b, outer_b = b + count, b + 2 * count
            faces = np.concatenate([
                np.stack([a, inner, inner_b], 1), np.stack([inner, outer, outer_b], 1),
                np.stack([inner, outer_b, inner_b], 1),
            ])  # fmt: skip
            if side < 0:
                faces = faces[:, ::-1]
            lenses.append(part(rings.reshape(-1, 3), faces, (0.035, 0.035, 0.045), 0.9, "glass"))
        hinge = np.array([eye[0] + side * (size + 0.008), eye[1] + 0.25 * size, 0.0])
        hinge[2] = depth - 0.55 * hinge[0] ** 2
        frames.append(part(*tube(_temple(fit, hinge, side), 0.014, sides=6), colour, 0.35, kind))
    gap = spacing - size + 0.004
    t = np.linspace(-1, 1, 7)
    bridge = np.stack([t * gap, left[1] + 0.02 + 0.03 * (1 - t**2), depth + 0.012 * (1 - t**2)], 1)
    frames.append(part(*tube(bridge, 0.013, sides=6), colour, 0.35, kind))
    return [joined(frames, kind), *([joined(lenses, "glass")] if lenses else [])]


def _eyepatch(fit: Fit, rng: np.random.Generator) -> list[Part]:
    # Always over the head's left eye: no caption says which, and a prior that has seen either covers both.
    eye = np.asarray(fit.anchors["left_eye"], np.float64)
    colour = varied((0.045, 0.045, 0.05), rng, 0.05)
    a = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    shape = np.stack([0.118 * np.cos(a), 0.105 * np.sin(a) - 0.03 * np.abs(np.sin(0.5 * a)) ** 2], 1)
    radii = np.array([0.02, 0.5, 0.8, 1.0])
    xy = eye[:2] + np.array([0.006, 0.012]) + shape[None] * radii[:, None, None]
    surface = fit.front(xy[..., 0], xy[..., 1])
    # A cup over the eye: at least as far out as the eyeball, closing onto the skin at the rim.
    z = np.maximum(surface + 0.012, eye[2] + np.array([0.105, 0.098, 0.08, 0.0])[:, None])
    z[-1] = np.maximum(surface[-1] + 0.006, eye[2] - 0.02)
    points = np.concatenate([xy, z[..., None]], -1)
    count = len(a)
    i = np.arange(count)
    j = (i + 1) % count
    faces = [np.stack([k * count + i, (k + 1) * count + i, (k + 1) * count + j], 1) for k in range(3)]
    faces += [np.stack([k * count + i, (k + 1) * count + j, k * count + j], 1) for k in range(3)]
    patch = part(points.reshape(-1, 3), np.concatenate(faces), colour, 0.25)
    # The strap runs around the head: over the forehead on the far side, under the ear's top on this one.
    angle = np.linspace(-np.pi, np.pi, 48, endpoint=False)
    y = (
        eye[1]
        + 0.035
        + 0.16 * np.clip(-np.sin(angle), -0.15, 1)
        + 0.06 * np.clip(-np.cos(angle), 0, 1)
    )
    path = _around(fit, angle, y, 0.012)
    strap = part(*tube(path, 0.016, sides=6, flat=0.5, closed=True, up=(0, 1, 0)), colour, 0.2)
    return [patch, strap]


def _around(fit: Fit, angle: Array, height: Array, lift: float) -> Array:
    """Points on the skin at given azimuths and heights, raised by ``lift``."""
    points, normals = fit.skin.reshape(-1, 3), fit.normals.reshape(-1, 3)
    head = points[:, 1] > -0.3
    points, normals = points[head], normals[head]
    azimuth = np.arctan2(points[:, 0], points[:, 2])
    difference = np.abs((azimuth[None] - angle[:, None] + np.pi) % (2 * np.pi) - np.pi) * 0.35
    distance = difference**2 + (points[None, :, 1] - height[:, None]) ** 2
    nearest = np.argpartition(distance, 4, axis=1)[:, :4]
    weight = 1 / (np.take_along_axis(distance, nearest, 1) + 1e-4)
    weight /= weight.sum(1, keepdims=True)
    path = (points[nearest] * weight[..., None]).sum(1)
    outward = unit((normals[nearest] * weight[..., None]).sum(1))
    path = path + lift * outward
    return (np.roll(path, 1, 0) + 2 * path + np.roll(path, -1, 0)) / 4


def build_eyewear(fit: Fit, name: str, rng: np.random.Generator) -> list[Part]:
    """Parts of a value of ``EYEWEAR``."""
    if name == "none":
        return []
    if name == "eyepatch":
        return _eyepatch(fit, rng)
    return _glasses(fit, name, rng)
