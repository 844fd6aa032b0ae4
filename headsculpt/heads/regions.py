"""Where things are on the head: soft masks, landmark contours, anchor points, joints and skinning."""

from __future__ import annotations

import numpy as np

from headsculpt.heads import template as layout
from headsculpt.heads.parts import IRIS_DEG, PUPIL_DEG
from headsculpt.heads.template import Template, smoothstep

JOINT_NAMES = ("root", "neck", "jaw", "left_eye", "right_eye")
JOINT_PARENTS = (-1, 0, 1, 1, 1)


def skin_mask(template: Template, values: np.ndarray) -> np.ndarray:
    """``(V,)`` float32 mask from ``(R, C)`` values on the skin; 0 elsewhere."""
    mask = np.zeros(len(template.vertices), np.float32)
    mask[template.grid] = np.clip(values, 0, 1)
    return mask


def part_mask(template: Template, *names: str) -> np.ndarray:
    """``(V,)`` float32 mask that is 1 on the named parts."""
    mask = np.zeros(len(template.vertices), np.float32)
    for name in names:
        mask[template.parts[name]] = 1.0
    return mask


def grid_coordinates(template: Template) -> dict[str, np.ndarray]:
    """Coordinates ``(R, C)`` on the skin: x (absolute), y, z, a (absolute azimuth), row, xi (across the eye,
    -1 inner to 1 outer corner), m (across the mouth, 1 at the corner)."""
    p = template.surface[template.grid]
    a = np.abs(template.azimuth_deg)
    row = np.repeat(np.arange(len(p), dtype=float)[:, None], p.shape[1], 1)
    return {
        "x": np.abs(p[..., 0]),
        "y": p[..., 1],
        "z": p[..., 2],
        "a": a,
        "row": row,
        "xi": (a - layout.EYE_AZIMUTH_DEG) / layout.EYE_HALF_WIDTH_DEG,
        "m": a / layout.MOUTH_HALF_WIDTH_DEG,
    }


def build_regions(template: Template) -> dict[str, np.ndarray]:
    """Soft masks ``(V,)`` float32 in [0, 1] by name."""
    g = grid_coordinates(template)
    x, y, z, a, row, m = (g[k] for k in ("x", "y", "z", "a", "row", "m"))
    top, bottom = layout.LIP_ROWS
    pocket = (row > top) & (row < bottom) & (m < 1)
    eye_pocket = (row > layout.LID_ROWS[0]) & (row < layout.LID_ROWS[1]) & (np.abs(g["xi"]) < 1)
    head = y > -0.45
    hairline = (
        0.33 - 0.05 * smoothstep(25, 45, a) - 0.22 * smoothstep(45, 62, a) - 0.02 * smoothstep(62, 80, a)
    )
    hairline = hairline - 0.31 * smoothstep(92, 125, a)
    scalp = smoothstep(-0.028, 0.022, y - hairline) * head
    lips = smoothstep(layout.LIPS_OUTER_ROWS[0] - 0.6, layout.LIPS_OUTER_ROWS[0] + 0.4, row)
    lips = lips * smoothstep(layout.LIPS_OUTER_ROWS[1] + 0.6, layout.LIPS_OUTER_ROWS[1] - 0.4, row)
    lips = lips * smoothstep(1.06, 0.98, m)
    brow_wide = smoothstep(5.0, 10.5, a) * smoothstep(37, 31, a)
    brows = np.exp(-(((row - layout.BROW_ROW) / (1.3 - 0.5 * smoothstep(20, 36, a))) ** 4)) * brow_wide
    moustache = (
        smoothstep(-0.136, -0.150, y + 0.22 * x) * smoothstep(-0.235, -0.205, y) * smoothstep(1.25, 1.05, m)
    )
    moustache = moustache * (1 - lips) * (row < top + 1) * (z > 0.2)
    goatee = (
        smoothstep(-0.235, -0.255, y) * smoothstep(0.115, 0.065, x) * smoothstep(0.12, 0.2, z) * (y > -0.45)
    )
    goatee = goatee + moustache * smoothstep(1.2, 1.05, m)
    edge = (
        -0.19
        + 0.16 * smoothstep(40, 72, a)
        + 0.11 * smoothstep(72, 82, a)
        - 0.03 * np.exp(-(((a - 30) / 10) ** 2))
    )
    beard = smoothstep(edge + 0.015, edge - 0.015, y) * smoothstep(-0.46, -0.41, y) * smoothstep(92, 84, a)
    beard = np.maximum(beard * (1 - lips), moustache) * ~pocket
    under = y < -0.36
    neck = np.where(under, smoothstep(0.24, 0.16, z), smoothstep(-0.05, -0.12, z)) * smoothstep(
        -0.28, -0.36, y
    )
    shoulders = (row >= layout.NECK_BASE_ROW + 4).astype(float)
    nose = np.exp(-((x / 0.055) ** 4)) * smoothstep(0.08, 0.0, y) * smoothstep(-0.150, -0.135, y) * (z > 0.2)
    nostrils = np.exp(-(((x - 0.024) / 0.011) ** 2) - ((y + 0.124) / 0.009) ** 2) * (z > 0.38)
    cheeks = np.exp(-(((x - 0.165) / 0.06) ** 2) - ((y + 0.075) / 0.05) ** 2) * (z > 0.1)
    lids = np.exp(-((np.abs(g["xi"]) / 1.25) ** 6)) * smoothstep(
        layout.CREASE_ROW - 2, layout.CREASE_ROW, row
    )
    lids = lids * smoothstep(layout.LID_ROWS[1] + 3, layout.LID_ROWS[1] + 1, row) * ~eye_pocket
    rims = (np.abs(g["xi"]) < 1.12) * (
        np.exp(-(((row - layout.LID_ROWS[0]) / 0.7) ** 2))
        + 0.4 * np.exp(-(((row - layout.LID_ROWS[1]) / 0.6) ** 2))
    )
    forehead_lines = np.maximum.reduce([np.exp(-(((y - h) / 0.006) ** 2)) for h in (0.215, 0.25, 0.285)])
    along = np.clip((-0.115 - y) / 0.125, 0, 1)
    fold = np.exp(-(((x - 0.060 - 0.062 * along) / 0.010) ** 2)) * smoothstep(-0.10, -0.125, y)
    wrinkles = forehead_lines * smoothstep(34, 24, a) * 0.7 + fold * smoothstep(-0.25, -0.225, y) * (z > 0.2)
    bag = np.exp(-(((y - 0.014 - 0.6 * (x - 0.127) ** 2 / 0.06) / 0.007) ** 2) - ((x - 0.127) / 0.045) ** 4)
    feet = np.maximum.reduce(
        [np.exp(-(((y - 0.075 - s * (x - 0.20)) / 0.005) ** 2)) for s in (-0.7, 0.0, 0.7)]
    )
    wrinkles = wrinkles + (
        0.8 * bag + 0.7 * feet * smoothstep(0.200, 0.21, x) * smoothstep(0.25, 0.23, x)
    ) * (z > 0.1)
    masks = {
        "wrinkles": wrinkles,
        "scalp": scalp,
        "brows": brows,
        "lips": lips * ~pocket,
        "mouth_inside": pocket,
        "beard": beard,
        "moustache": moustache,
        "goatee": np.clip(goatee, 0, 1) * (1 - lips),
        "nose": nose,
        "nostrils": nostrils,
        "cheeks": cheeks,
        "eyelids": lids,
        "eyelid_rims": rims,
        "neck": neck * (1 - shoulders),
        "shoulders": shoulders,
        "face": smoothstep(95, 80, a) * (y > -0.36) * (1 - scalp),
        "forehead": smoothstep(60, 50, a) * smoothstep(0.165, 0.185, y) * (1 - scalp),
        "chin": np.exp(-((x / 0.09) ** 2) - ((y + 0.32) / 0.06) ** 2) * (z > 0.2),
        "skin": np.ones_like(x),
    }
    regions = {name: skin_mask(template, values.astype(float)) for name, values in masks.items()}
    regions["scalp"][template.parts["crown"]] = 1.0
    regions["shoulders"][template.parts["cut"]] = 1.0
    regions["skin"][template.parts["crown"]] = 1.0
    regions["ears"] = part_mask(template, "left_ear", "right_ear")
    regions["teeth"] = part_mask(template, "upper_teeth", "lower_teeth")
    regions["tongue"] = part_mask(template, "tongue")
    regions["eyeballs"] = part_mask(template, "left_eyeball", "right_eyeball")
    for name, limit in (("iris", IRIS_DEG), ("pupil", PUPIL_DEG)):
        mask = np.zeros(len(template.vertices), np.float32)
        for side in ("left_eyeball", "right_eyeball"):
            mask[template.parts[side]] = template.rings[side] < limit
        regions[name] = mask
    return regions


def build_landmarks(template: Template) -> dict[str, np.ndarray]:
    """Ordered contours of vertex indices ``(K,)`` int32, as MediaPipe's annotator draws them.

    ``oval``, ``left_eye``, ``right_eye``, ``lips_outer`` and ``lips_inner`` are closed (the last point joins
    the first); ``left_brow`` and ``right_brow`` are open, from the nose outwards. Left is the head's (+X).
    """
    grid, azimuth = template.grid, template.azimuth_deg[0]
    columns = grid.shape[1]

    def span(low: float, high: float) -> np.ndarray:
        """Columns with azimuth in [low, high], in order of azimuth."""
        chosen = np.flatnonzero((azimuth >= low) & (azimuth <= high))
        return chosen[np.argsort(azimuth[chosen])]

    def nearest(degrees: float) -> int:
        return int(np.argmin(np.abs(azimuth - degrees)))

    half = layout.EYE_HALF_WIDTH_DEG + 0.3
    eye = span(layout.EYE_AZIMUTH_DEG - half, layout.EYE_AZIMUTH_DEG + half)
    left_eye = np.concatenate([grid[layout.LID_ROWS[0], eye], grid[layout.LID_ROWS[1], eye[::-1]]])
    brow = span(7.0, 36.0)[::2]
    left_brow = grid[layout.BROW_ROW, brow]
    mouth = span(-layout.MOUTH_HALF_WIDTH_DEG - 0.2, layout.MOUTH_HALF_WIDTH_DEG + 0.2)
    outer = [grid[r, mouth] for r in layout.LIPS_OUTER_ROWS]
    inner = [grid[r, mouth] for r in layout.LIP_ROWS]

    def mirrored(indices: np.ndarray) -> np.ndarray:
        rows, cols = np.divmod(indices, columns)
        return grid[rows, (-cols) % columns]

    # Oval: up from the chin along the head's left, over the forehead, down its right.
    corners = ((0, -0.372), (16, -0.355), (28, -0.325), (40, -0.285), (52, -0.235), (62, -0.17),
               (69, -0.09), (72, 0.0), (72, 0.10), (64, 0.20), (48, 0.28), (30, 0.325), 
               (14, 0.345), (0, 0.35))  # fmt: skip
    y = template.surface[grid][..., 1]
    left_side = []
    for degrees, height in corners:
        column = nearest(degrees)
        left_side.append(grid[int(np.argmin(np.abs(y[:, column] - height))), column])
    left = np.array(left_side)
    oval = np.concatenate([left, mirrored(left[1:-1])[::-1]])
    contours = {
        "oval": oval,
        "left_eye": left_eye,
        "right_eye": mirrored(left_eye),
        "left_brow": left_brow,
        "right_brow": mirrored(left_brow),
        "lips_outer": np.concatenate([outer[0], outer[1][::-1]]),
        "lips_inner": np.concatenate([inner[0], inner[1][::-1]]),
    }
    return {name: indices.astype(np.int32) for name, indices in contours.items()}


def build_anchor_indices(template: Template) -> dict[str, np.ndarray]:
    """Anchor name -> vertex indices whose mean is the anchor."""
    grid, p = template.grid, template.vertices

    def closest(x: float, y: float, z: float) -> np.ndarray:
        skin = p[grid.ravel()]
        return grid.ravel()[[int(np.argmin(((skin - [x, y, z]) ** 2).sum(1)))]]

    front = grid[:, 0]
    nose_rows = (p[front][:, 1] < 0.05) & (p[front][:, 1] > -0.14)
    tip = front[nose_rows][[int(np.argmax(p[front[nose_rows]][:, 2]))]]
    anchors = {
        "nose_bridge": closest(0, 0.062, 0.40),
        "nose_tip": tip,
        "chin": closest(0, -0.345, 0.40),
        "crown": template.parts["crown"],
        "mouth": grid[list(layout.LIP_ROWS), 0],
        "neck_base": np.concatenate([closest(0, -0.62, 0.06), closest(0, -0.58, -0.34)]),
        "brow": grid[layout.BROW_ROW, :1],
        "forehead": closest(0, 0.25, 0.36),
        "back": closest(0, 0.15, -0.43),
    }
    for side, sign in (("left", 1.0), ("right", -1.0)):
        ear = template.parts[f"{side}_ear"]
        ball = template.parts[f"{side}_eyeball"]
        anchors[f"{side}_eye"] = ball[[0, -1]]  # the middle of cornea and back
        anchors[f"{side}_cornea"] = ball[:1]
        anchors[f"{side}_ear"] = ear
        lobe = ear[np.argsort(p[ear][:, 1])[:24]]
        anchors[f"{side}_ear_lobe"] = lobe[np.argsort(sign * p[lobe][:, 0])[-8:]]
        anchors[f"{side}_ear_tip"] = ear[[int(np.argmax(p[ear][:, 1]))]]
        anchors[f"{side}_temple"] = closest(sign * 0.30, 0.10, 0.10)
        anchors[f"{side}_mouth_corner"] = closest(sign * 0.106, layout.MOUTH_Y, 0.35)
    return anchors


def jaw_weight(template: Template) -> np.ndarray:
    """``(V,)`` how far each vertex follows the lower jaw, 0 to 1; a step between the lips."""
    g = grid_coordinates(template)
    y, z, a, row = g["y"], g["z"], g["a"], g["row"]
    top, bottom = layout.LIP_ROWS
    m = np.clip(g["m"], 0, 1)
    at_top, at_bottom = 0.40 * m**5, 1 - 0.60 * m**4.5
    above = at_top * smoothstep(top - 12, top, row)
    below = at_bottom + (1 - at_bottom) * smoothstep(bottom, bottom + 7, row)
    t = np.clip((row - top) / (bottom - top), 0, 1)
    weight = np.where(row <= top, above, np.where(row >= bottom, below, at_top + (at_bottom - at_top) * t))
    beyond = np.clip(g["m"] - 1, 0, None)
    spread = 0.012 + 0.05 * np.clip(beyond, 0, 1.6)
    outside = smoothstep(layout.MOUTH_Y + spread * 1.2, layout.MOUTH_Y - spread * 1.5, y)
    weight = np.where(
        g["m"] < 1, weight, outside * smoothstep(0, 0.3, beyond) + weight * smoothstep(0.3, 0, beyond)
    )
    weight = weight * smoothstep(98, 55, a)
    weight = weight * np.where(row > layout.CHIN_ROW, smoothstep(0.04, 0.30, z), 1.0) * (y > -0.48)
    out = skin_mask(template, weight).astype(np.float64)
    out[template.parts["lower_teeth"]] = 1.0
    out[template.parts["tongue"]] = 0.9
    return out


def build_skinning(template: Template) -> np.ndarray:
    """``(V, J)`` float32 weights over :data:`JOINT_NAMES`; rows sum to 1."""
    p = template.surface
    weights = np.zeros((len(p), len(JOINT_NAMES)))
    jaw = jaw_weight(template)
    neck = smoothstep(-0.62, -0.36, p[:, 1]) * (np.hypot(p[:, 0], p[:, 2] + 0.08) < 0.6)
    weights[:, 2] = jaw
    weights[:, 1] = neck * (1 - jaw)
    for joint, side in ((3, "left_eyeball"), (4, "right_eyeball")):
        weights[template.parts[side]] = 0
        weights[template.parts[side], joint] = 1
    weights[:, 0] = 1 - weights[:, 1:].sum(1)
    weights = np.clip(weights, 0, 1)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)
