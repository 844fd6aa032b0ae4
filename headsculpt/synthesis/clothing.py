"""T-shirt, hoodie, suit and tie: shells over the shoulders, and what is sewn to them."""

from __future__ import annotations

import numpy as np

from headsculpt.synthesis.fit import Fit
from headsculpt.synthesis.palette import COLOUR_VALUES, darker, mixed
from headsculpt.synthesis.parts import Array, Part, grid_faces, noise, part, smoothstep, tube, unit

TEMPLATE_NECK_BASE_Y = -0.602  # of the head that the lines below are drawn on


def _collar_line(fit: Fit, front: float, side: float, back: float) -> tuple[Array, Array, Array]:
    """``(R, C)`` field, positive below a neckline of given heights; and its path ``(C, 3)`` and outward."""
    shift = float(np.asarray(fit.anchors["neck_base"])[1]) - TEMPLATE_NECK_BASE_Y
    angle = np.arctan2(fit.skin[..., 0], fit.skin[..., 2] + 0.11)
    degrees = np.degrees(np.abs(angle))
    line = (
        np.interp(
            degrees, [0, 30, 60, 90, 130, 180], [front, front + 0.03, 0.5 * (front + side), side, back, back]
        )
        + shift
    )
    chin = float(np.asarray(fit.anchors["chin"])[1])
    field = np.where(fit.skin[..., 1] < chin - 0.02, line - fit.skin[..., 1], -0.1)
    columns = fit.skin.shape[1]
    row = np.argmax(field > 0, axis=0)
    row = np.maximum(row, 1)
    c = np.arange(columns)
    low, high = field[row - 1, c], field[row, c]
    t = np.clip(-low / (high - low + 1e-9), 0, 1)[:, None]
    path = fit.skin[row - 1, c] * (1 - t) + fit.skin[row, c] * t
    outward = unit(fit.normals[row - 1, c] * (1 - t) + fit.normals[row, c] * t)
    for _ in range(3):
        path = (np.roll(path, 1, 0) + 2 * path + np.roll(path, -1, 0)) / 4
    return field, path[::2], outward[::2]


def _cloth(fit: Fit, field: Array, colour: Array, thickness: float, seed: int) -> Part:
    folds = (
        noise(np.ascontiguousarray((fit.skin * 5.0).reshape(-1, 3), np.float32), seed).reshape(field.shape)
        - 0.5
    )
    offset = np.where(
        field > 0,
        thickness * smoothstep(0, 0.02, field) + 0.02 * folds * smoothstep(0, 0.1, field) + 0.004,
        field,
    )
    tint = np.clip(np.asarray(colour) * (1 + 0.22 * folds)[..., None], 0, 1)
    flat = np.zeros_like(fit.skin)
    flat[-1, :, 1] = -1.0 - (fit.skin[-1] + offset[-1][:, None] * fit.normals[-1])[:, 1]
    return fit.shell(offset, tint, kind="cloth", displaced=flat)


def _bottom(fit: Fit, colour: Array, thickness: float) -> Part:
    """The flat cut through the chest, so that the bust is closed from below."""
    rim = (fit.skin[-1] + thickness * fit.normals[-1]).copy()
    rim[:, 1] = -1.0
    count = len(rim)
    middle = rim.mean(0, keepdims=True)
    i = np.arange(count)
    faces = np.stack([np.full(count, count), np.roll(i, -1), i], 1)
    if fit.flipped:
        faces = faces[:, ::-1]
    return part(np.concatenate([rim, middle]), faces, darker(colour, 0.6))


def _patch(
    fit: Fit, outline: Array, lift: float, colour: Array, columns: int = 9, bulge: float = 0.0
) -> Part:
    """A flat piece on the chest; ``outline`` ``(N, 3)`` is y, left x and right x, downwards."""
    t = np.linspace(0, 1, columns)
    x = outline[:, 1:2] * (1 - t) + outline[:, 2:3] * t
    y = np.broadcast_to(outline[:, :1], x.shape)
    z = fit.front(x, y) + lift + bulge * (1 - (2 * t - 1) ** 2)
    vertices = np.stack([x, y, z], -1).reshape(-1, 3)
    return part(vertices, grid_faces(len(outline), columns, False), colour)


def _t_shirt(fit: Fit, colour: Array, seed: int) -> list[Part]:
    field, path, outward = _collar_line(fit, -0.675, -0.475, -0.465)
    collar = part(*tube(path + 0.016 * outward, 0.024, sides=6, flat=0.8, closed=True), darker(colour, 0.8))
    return [_cloth(fit, field, colour, 0.022, seed), collar, _bottom(fit, colour, 0.022)]


def _hoodie(fit: Fit, colour: Array, seed: int) -> list[Part]:
    field, path, outward = _collar_line(fit, -0.665, -0.47, -0.45)
    angle = np.arctan2(path[:, 0], path[:, 2] + 0.11)
    behind = 0.5 - 0.5 * np.cos(angle)
    radius = 0.050 + 0.052 * behind
    centre = (
        path
        + (0.03 + 0.035 * behind)[:, None] * outward
        + np.array([0, 1, 0]) * (0.02 + 0.03 * behind)[:, None]
    )
    hood = part(*tube(centre, radius, sides=10, closed=True), colour)
    fold = noise(np.ascontiguousarray(hood.vertices * 9, np.float32), seed + 1) - 0.5
    hood.colours[:] = np.clip(np.asarray(colour) * (0.93 + 0.2 * fold)[:, None], 0, 1)
    parts = [_cloth(fit, field, colour, 0.036, seed), hood, _bottom(fit, colour, 0.036)]
    cord = np.array([0.92, 0.92, 0.9]) if float(np.mean(colour)) < 0.6 else np.array([0.15, 0.15, 0.17])
    y = np.linspace(-0.66, -0.90, 8)
    for side, length in ((1.0, 1.0), (-1.0, 0.9)):
        x = side * np.linspace(0.065, 0.085, 8)
        yy = y[0] + (y - y[0]) * length
        z = fit.front(x, yy) + 0.055
        z[0] += 0.03
        parts.append(part(*tube(np.stack([x, yy, z], 1), 0.0135, sides=6, up=(1, 0, 0)), cord))
        tip = np.stack([x[-2:], yy[-2:] - 0.02, z[-2:]], 1)
        parts.append(part(*tube(tip, 0.018, sides=6, up=(1, 0, 0)), darker(cord, 0.6)))
    outline = np.array([[-0.925, -0.17, 0.17], [-0.945, -0.20, 0.20]])
    parts.append(_patch(fit, outline, 0.050, darker(colour, 0.6), 13))
    return parts


def _suit(fit: Fit, colour: Array, seed: int, rng: np.random.Generator) -> list[Part]:
    field, path, outward = _collar_line(fit, -0.655, -0.475, -0.45)
    shirt = np.array([0.92, 0.92, 0.93], np.float32)
    rows = np.linspace(-0.585, -0.985, 14)
    t = np.linspace(0, 1, 14)
    half = 0.185 * (1 - t) + 0.05 * t
    parts = [
        _cloth(fit, field, colour, 0.030, seed),
        _bottom(fit, colour, 0.030),
        _patch(fit, np.stack([rows, -half, half], 1), 0.044, shirt),
    ]
    # The shirt's collar stands up around the neck.
    stand = path + 0.004 * outward + np.array([0, 0.03, 0])
    parts.append(part(*tube(stand, 0.020, sides=6, flat=1.9, closed=True), shirt))
    for side in (1.0, -1.0):
        # A collar wing, and a lapel along the edge of the V.
        wing = np.array(
            [[-0.575, 0.03, 0.165], [-0.62, 0.035, 0.175], [-0.67, 0.07, 0.15], [-0.70, 0.105, 0.115]]
        )
        if side < 0:
            wing = wing * np.array([1, -1, -1]) @ np.array([[1, 0, 0], [0, 0, 1], [0, 1, 0]])
        parts.append(_patch(fit, wing, 0.066, darker(shirt, 0.97), 5))
        inner = half + 0.0
        outer = half + 0.125 * np.interp(t, [0, 0.35, 0.42, 1.0], [0.55, 0.95, 0.62, 0.12])
        lapel = np.stack([rows, inner - 0.01, outer], 1)
        if side < 0:
            lapel = np.stack([rows, -outer, -inner + 0.01], 1)
        lapel_colour = mixed(darker(colour, 0.72), np.full(3, 0.5, np.float32), 0.10)
        parts.append(_patch(fit, lapel, 0.062, lapel_colour, 6))
    choices = [
        n
        for n in ("red", "blue", "yellow", "purple", "green")
        if np.abs(np.asarray(COLOUR_VALUES[n]) - colour).sum() > 0.5
    ]
    tie_colour = np.asarray(COLOUR_VALUES[choices[rng.integers(len(choices))]], np.float32)
    knot = np.array([[-0.605, -0.052, 0.052], [-0.63, -0.056, 0.056], [-0.675, -0.032, 0.032]])
    blade = np.array(
        [[-0.665, -0.030, 0.030], [-0.76, -0.050, 0.050], [-0.88, -0.062, 0.062], [-0.985, -0.066, 0.066]]
    )
    parts.append(_patch(fit, blade, 0.058, tie_colour, 7, 0.016))
    parts.append(_patch(fit, knot, 0.070, darker(tie_colour, 0.85), 7, 0.018))
    return parts


def build_clothing(fit: Fit, name: str, colour: Array, rng: np.random.Generator) -> list[Part]:
    """Parts of a value of ``CLOTHING`` in ``colour`` ``(3,)`` (of the jacket, for a suit)."""
    seed = int(rng.integers(1 << 20))
    colour = np.asarray(colour, np.float32)
    if name == "hoodie":
        return _hoodie(fit, colour, seed)
    if name == "suit and tie":
        return _suit(fit, colour, seed, rng)
    return _t_shirt(fit, colour, seed)
