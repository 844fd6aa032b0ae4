"""Identity shapes: displacement fields on the template. All strengths are ours, at weight 1.

A field takes points ``q (N, 3)`` folded to x >= 0 and returns displacements ``(N, 3)`` in scene units; +x is
away from the midline. Fields are plain functions, so compound ones (child, age, orc) are sums of simple ones.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from headsculpt.heads.solids import EYE_CENTRE, EYE_RADIUS
from headsculpt.heads.template import Template, smoothstep

EAR_ROOT = np.array([0.290, 0.0, 0.02])  # where the left ear leaves the head

Field = Callable[[np.ndarray], np.ndarray]


def near(q: np.ndarray, centre: tuple, radius: float | tuple) -> np.ndarray:
    """``(N,)`` Gaussian around ``centre`` of points ``q`` (x >= 0)."""
    d = (q - np.asarray(centre)) / np.asarray(radius)
    return np.exp(-np.einsum("ij,ij->i", d, d))


def move(weight: np.ndarray, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> np.ndarray:
    """Displacement ``(N, 3)`` along fixed axes, scene units."""
    return weight[:, None] * np.array([x, y, z])


def _head(q: np.ndarray) -> np.ndarray:
    """1 on the head, 0 on neck and shoulders."""
    front = smoothstep(-0.02, 0.12, q[:, 2])
    return smoothstep(-0.52, -0.36, q[:, 1]) * (1 - front) + front * smoothstep(-0.50, -0.40, q[:, 1])


def _lower_face(q: np.ndarray) -> np.ndarray:
    """1 on the face below the eyes, 0 above and behind."""
    return smoothstep(0.12, -0.12, q[:, 1]) * _head(q) * smoothstep(-0.18, 0.08, q[:, 2])


def _scale(
    q: np.ndarray, weight: np.ndarray, about: tuple, x: float = 0.0, y: float = 0.0, z: float = 0.0
) -> np.ndarray:
    """Scaling about a point by 1 + (x, y, z), locally."""
    return weight[:, None] * (q - np.asarray(about)) * np.array([x, y, z])


def head_width(q: np.ndarray) -> np.ndarray:
    """A wider head."""
    return _scale(q, _head(q), (0, 0, 0), x=0.13)


def head_height(q: np.ndarray) -> np.ndarray:
    """A taller head."""
    return _scale(q, _head(q), (0, -0.05, 0), y=0.12)


def head_depth(q: np.ndarray) -> np.ndarray:
    """A deeper head, from nose to back."""
    return _scale(q, _head(q), (0, 0, 0.05), z=0.12)


def face_slim(q: np.ndarray) -> np.ndarray:
    """A long, narrow face with flat cheeks."""
    w = _lower_face(q)
    d = _scale(q, w, (0, 0, 0), x=-0.20) + _scale(q, _head(q), (0, 0, 0), x=-0.07)
    d += move(near(q, (0.19, -0.13, 0.22), 0.10), x=-0.020, z=-0.010)
    return d + move(near(q, (0, -0.36, 0.33), (0.12, 0.10, 0.2)), y=-0.035)


def face_round(q: np.ndarray) -> np.ndarray:
    """A short, round face with full cheeks."""
    d = _scale(q, _lower_face(q), (0, 0, 0), x=0.09) + _scale(q, _head(q), (0, 0, 0), x=0.06)
    d += move(near(q, (0.19, -0.14, 0.22), (0.13, 0.12, 0.17)), x=0.042, z=0.025)
    d += move(near(q, (0.10, -0.33, 0.22), (0.12, 0.07, 0.14)), x=0.035, y=-0.008, z=0.0)
    return d + move(near(q, (0, -0.36, 0.33), (0.10, 0.10, 0.2)), y=0.030, z=-0.012)


def jaw_square(q: np.ndarray) -> np.ndarray:
    """Broad angles of the jaw and a flat chin."""
    d = move(near(q, (0.21, -0.24, 0.06), (0.14, 0.13, 0.20)), x=0.040, y=-0.024)
    d += move(near(q, (0.13, -0.34, 0.27), (0.08, 0.09, 0.13)), x=0.050, y=-0.018, z=0.006)
    d += move(near(q, (0.20, -0.13, 0.20), (0.06, 0.06, 0.10)), x=-0.008)
    return d + move(near(q, (0, -0.35, 0.34), (0.10, 0.06, 0.1)), y=-0.012, z=0.012)


def jaw_width(q: np.ndarray) -> np.ndarray:
    """A wider lower face."""
    return _scale(q, smoothstep(0.0, -0.22, q[:, 1]) * _lower_face(q), (0, 0, 0), x=0.22)


def chin_length(q: np.ndarray) -> np.ndarray:
    """A longer chin."""
    return move(near(q, (0, -0.38, 0.30), (0.15, 0.12, 0.25)), y=-0.06)


def chin_forward(q: np.ndarray) -> np.ndarray:
    """A chin that stands out."""
    return move(near(q, (0, -0.34, 0.36), (0.13, 0.09, 0.2)), z=0.05)


def cheekbones(q: np.ndarray) -> np.ndarray:
    """High, strong cheekbones over flat cheeks."""
    d = move(near(q, (0.215, -0.01, 0.21), (0.07, 0.05, 0.10)), x=0.028, y=0.006, z=0.014)
    return d + move(near(q, (0.19, -0.13, 0.22), (0.06, 0.06, 0.1)), x=-0.014, z=-0.010)


def cheek_fullness(q: np.ndarray) -> np.ndarray:
    """Full cheeks."""
    return move(near(q, (0.17, -0.12, 0.25), 0.09), x=0.040, y=-0.004, z=0.028)


def brow_ridge(q: np.ndarray) -> np.ndarray:
    """A heavy brow."""
    return move(near(q, (0.10, 0.145, 0.37), (0.12, 0.035, 0.10)), y=-0.008, z=0.034)


def forehead_slope(q: np.ndarray) -> np.ndarray:
    """A forehead that runs back."""
    return move(near(q, (0, 0.33, 0.32), (0.25, 0.13, 0.20)), z=-0.07, y=-0.01)


def eye_size(q: np.ndarray) -> np.ndarray:
    """Larger eyes; lids and eyeballs scale as one."""
    offset = q - EYE_CENTRE
    r = np.linalg.norm(offset / np.array([1.0, 1.0, 1.6]), axis=1)
    d = 0.24 * smoothstep(2.6, 1.1, r / EYE_RADIUS)[:, None] * offset
    d[:, 2] *= 0.65 * smoothstep(2.0, 1.1, r / EYE_RADIUS)
    d[:, 0] *= smoothstep(0.0, 0.062, q[:, 0])
    return d


def _around_eye(q: np.ndarray) -> np.ndarray:
    """1 on eye and lids, fading out over brow and cheek."""
    r = np.linalg.norm((q - EYE_CENTRE) / np.array([1.0, 1.0, 2.0]), axis=1)
    return smoothstep(2.4, 1.1, r / EYE_RADIUS)


def eye_spacing(q: np.ndarray) -> np.ndarray:
    """Eyes further apart."""
    return move(_around_eye(q), x=0.020)


def eye_tilt(q: np.ndarray) -> np.ndarray:
    """Outer corners of the eyes higher."""
    w = _around_eye(q) * (np.abs(q[:, 0] - EYE_CENTRE[0]) / 0.05) * np.sign(q[:, 0] - EYE_CENTRE[0])
    return move(w, y=0.015)


def nose_length(q: np.ndarray) -> np.ndarray:
    """A longer nose: the tip comes down and forward, the base half as much."""
    w = (
        np.clip((0.06 - q[:, 1]) / 0.16, 0, 1)
        * smoothstep(-0.19, -0.14, q[:, 1])
        * np.exp(-((q[:, 0] / 0.07) ** 4))
    )
    return move(w * (0.40 + 0.60 * smoothstep(0.39, 0.46, q[:, 2])) * (q[:, 2] > 0.2), y=-0.060, z=0.032)


def nose_width(q: np.ndarray) -> np.ndarray:
    """Wider wings and bridge."""
    w = near(q, (0.04, -0.10, 0.42), (0.045, 0.045, 0.07))
    return _scale(q, w, (0, 0, 0), x=0.50) + _scale(
        q, near(q, (0, 0, 0.41), (0.05, 0.07, 0.08)), (0, 0, 0), x=0.25
    )


def nose_size(q: np.ndarray) -> np.ndarray:
    """A bigger nose on the same bridge."""
    w = near(q, (0, -0.095, 0.43), (0.075, 0.060, 0.085))
    d = _scale(q, w, (0, -0.05, 0.375), x=0.78, y=0.55, z=0.75)
    return d + move(near(q, (0, 0.0, 0.40), (0.035, 0.06, 0.07)), z=0.018)


def nose_bridge(q: np.ndarray) -> np.ndarray:
    """A higher bridge."""
    return move(near(q, (0, 0.01, 0.41), (0.035, 0.055, 0.07)), z=0.032)


def nose_tip_up(q: np.ndarray) -> np.ndarray:
    """A tip that turns up."""
    return move(near(q, (0, -0.095, 0.47), (0.05, 0.04, 0.06)), y=0.026, z=0.006)


def mouth_width(q: np.ndarray) -> np.ndarray:
    """A wider mouth."""
    return _scale(q, near(q, (0.05, -0.205, 0.37), (0.09, 0.05, 0.12)), (0, 0, 0), x=0.30)


def lip_fullness(q: np.ndarray) -> np.ndarray:
    """Fuller lips."""
    d = move(near(q, (0.02, -0.184, 0.41), (0.07, 0.020, 0.06)), y=0.007, z=0.013)
    return d + move(near(q, (0.02, -0.226, 0.41), (0.065, 0.022, 0.06)), y=-0.008, z=0.015)


def neck_thickness(q: np.ndarray) -> np.ndarray:
    """A thicker neck."""
    w = (
        smoothstep(-0.20, -0.40, q[:, 1])
        * smoothstep(-0.80, -0.55, q[:, 1])
        * smoothstep(0.45, 0.25, q[:, 0])
    )
    w = w * smoothstep(0.22, 0.10, q[:, 2])
    return _scale(q, w, (0, 0, -0.10), x=0.24, z=0.20)


def shoulder_width(q: np.ndarray) -> np.ndarray:
    """Broader shoulders."""
    return _scale(q, smoothstep(-0.52, -0.80, q[:, 1]), (0, 0, 0), x=0.16)


def feminine(q: np.ndarray) -> np.ndarray:
    """A woman: softer brow and jaw, fuller lips, slender neck, narrow shoulders."""
    d = -0.8 * brow_ridge(q) - 0.55 * jaw_square(q) - 0.6 * neck_thickness(q) - 1.0 * shoulder_width(q)
    d += 0.8 * lip_fullness(q) - 0.45 * nose_size(q) + 0.35 * nose_tip_up(q) + 0.5 * eye_size(q)
    d += _scale(q, smoothstep(-0.05, -0.30, q[:, 1]) * _lower_face(q), (0, 0, 0), x=-0.14)
    d += move(near(q, (0, -0.50, 0.07), (0.05, 0.06, 0.06)), z=-0.016)
    return d + 0.4 * cheekbones(q) + move(near(q, (0, -0.36, 0.33), (0.10, 0.09, 0.2)), y=0.014)


def child(q: np.ndarray) -> np.ndarray:
    """A child: short jaw, small nose, large eyes, domed forehead, narrow shoulders."""
    head = _head(q)
    d = 0.75 * eye_size(q) - 0.6 * nose_size(q) + 0.5 * nose_tip_up(q) - 0.9 * brow_ridge(q)
    d += 0.45 * face_round(q) - 0.6 * nose_bridge(q) - 0.7 * neck_thickness(q)
    d += _scale(q, smoothstep(-0.52, -0.75, q[:, 1]), (0, 0, 0), x=-0.25)
    d += _scale(q, smoothstep(-0.60, -0.85, q[:, 1]), (0, 0, -0.1), z=-0.12)
    d += move(near(q, (0, -0.36, 0.26), (0.26, 0.17, 0.30)), y=0.055, z=-0.02)  # a short jaw
    d += _scale(q, near(q, (0, -0.205, 0.38), (0.12, 0.06, 0.12)), (0, 0, 0), x=-0.16)
    d += _scale(q, smoothstep(-0.05, -0.30, q[:, 1]) * _lower_face(q), (0, 0, 0), x=-0.13)
    d += _scale(q, head, (0, -0.30, -0.02), x=-0.03, y=-0.05, z=-0.06)
    return d + move(near(q, (0, 0.32, 0.22), (0.30, 0.22, 0.25)), z=0.035, y=0.0)


def age(q: np.ndarray) -> np.ndarray:
    """Old age: hollow cheeks, jowls, folds beside the nose, bags under the eyes."""
    d = move(near(q, (0.17, -0.10, 0.26), (0.05, 0.06, 0.08)), x=-0.022, z=-0.022)  # hollow cheek
    d += move(near(q, (0.16, -0.28, 0.22), (0.06, 0.06, 0.10)), x=0.026, y=-0.036, z=0.006)  # jowl
    fold = near(q, (0.095, -0.160, 0.37), (0.016, 0.045, 0.08))  # nasolabial fold and the cheek beside it
    d += move(fold, z=-0.022) + move(near(q, (0.125, -0.150, 0.34), (0.022, 0.045, 0.08)), z=0.017)
    d += move(near(q, (0.125, 0.010, 0.36), (0.050, 0.014, 0.06)), z=0.014, y=-0.006)  # eye bag
    d += move(near(q, (0.125, -0.016, 0.36), (0.055, 0.010, 0.06)), z=-0.010)
    d += move(near(q, (0.17, 0.13, 0.33), (0.06, 0.03, 0.08)), y=-0.012)  # drooping brow
    d += move(near(q, (0.10, -0.21, 0.36), (0.03, 0.03, 0.08)), y=-0.010) - 0.45 * lip_fullness(q)
    d += move(near(q, (0.245, 0.12, 0.20), (0.05, 0.08, 0.10)), x=-0.016)  # temple
    d += move(near(q, (0.025, -0.46, 0.06), (0.025, 0.10, 0.08)), z=0.018)  # cords of the neck
    return d + 0.45 * nose_length(q) + 0.3 * nose_size(q) + 0.35 * brow_ridge(q)


def cranium_large(q: np.ndarray) -> np.ndarray:
    """An alien: a tall, wide cranium over a small chin, with large eyes."""
    up = smoothstep(-0.02, 0.35, q[:, 1])
    d = _scale(q, up, (0, 0.10, 0.0), x=0.36, y=0.42, z=0.26)
    d += _scale(q, _lower_face(q) * smoothstep(0, -0.3, q[:, 1]), (0, 0, 0.0), x=-0.34)
    d += move(near(q, (0, -0.34, 0.28), (0.20, 0.12, 0.2)), y=0.020, z=-0.025)
    return d + 1.3 * eye_size(q) - 0.8 * nose_size(q) - 0.6 * neck_thickness(q)


def orc_jaw(q: np.ndarray) -> np.ndarray:
    """An orc: underbite, heavy brow, broad jaw, nose and neck."""
    d = _scale(q, smoothstep(-0.05, -0.28, q[:, 1]) * _lower_face(q), (0, 0, 0), x=0.12)
    d += move(near(q, (0, -0.31, 0.30), (0.24, 0.10, 0.22)), z=0.075, y=-0.015)  # underbite
    d += move(near(q, (0.03, -0.228, 0.40), (0.09, 0.018, 0.06)), z=0.030, y=0.004)
    d += 1.7 * brow_ridge(q) + 0.7 * jaw_square(q) + 0.8 * neck_thickness(q) + 0.6 * shoulder_width(q)
    d += 0.8 * nose_width(q) - 0.5 * nose_length(q) + 0.6 * forehead_slope(q) - 0.25 * eye_size(q)
    return d + 0.5 * cheekbones(q)


def gaunt(q: np.ndarray) -> np.ndarray:
    """A zombie: sunken cheeks, temples and eyes."""
    d = move(near(q, (0.18, -0.115, 0.24), (0.055, 0.07, 0.10)), x=-0.050, z=-0.036)
    d += move(near(q, (0.25, 0.14, 0.20), (0.06, 0.09, 0.10)), x=-0.032)
    d += move(near(q, (0.126, 0.015, 0.36), (0.055, 0.020, 0.06)), z=-0.018)
    d += move(near(q, (0.10, -0.27, 0.33), (0.05, 0.03, 0.08)), z=-0.012)
    d += move(near(q, (0.03, -0.10, 0.44), (0.05, 0.04, 0.05)), z=-0.016)
    return d + 0.9 * cheekbones(q) + 0.7 * brow_ridge(q) - 0.8 * neck_thickness(q) - 0.7 * lip_fullness(q)


# Local ear axes in scene coordinates are close to -z (backwards) and +y, so ears use the same fields.
def ear_size(q: np.ndarray) -> np.ndarray:
    """Larger ears."""
    return (q - EAR_ROOT) * np.array([0.30, 0.36, 0.36])


def ear_pointed(q: np.ndarray) -> np.ndarray:
    """Long ears whose tips point up, back and outwards."""
    upper = smoothstep(0.0, 1.0, (q[:, 1] - 0.03) / 0.11)
    d = move(upper**1.6, x=0.17, y=0.17, z=-0.13)
    d += _scale(q, upper**1.5, (0.36, 0.10, -0.07), x=0.1, y=0.0, z=-0.45)
    return d


SKIN_FIELDS: dict[str, Field] = {
    f.__name__: f
    for f in (
        head_width, head_height, head_depth, face_slim, face_round, jaw_square, jaw_width, chin_length,
        chin_forward, cheekbones, cheek_fullness, brow_ridge, forehead_slope, eye_size, eye_spacing, eye_tilt,
        nose_length, nose_width, nose_size, nose_bridge, nose_tip_up, mouth_width, lip_fullness,
        neck_thickness, shoulder_width, feminine, child, age, cranium_large, orc_jaw, gaunt,
    )
}  # fmt: skip
EAR_FIELDS: dict[str, tuple[tuple[float, Field], ...]] = {
    "ear_size": ((1.0, ear_size),),
    "ear_pointed": ((1.0, ear_pointed),),
    "child": ((-0.25, ear_size),),
    "feminine": ((-0.3, ear_size),),
    "age": ((0.35, ear_size),),
    "cranium_large": ((-0.6, ear_size),),
    "orc_jaw": ((0.25, ear_pointed),),
}
# How much of eye_size a shape contains.
EYE_SHARES = {"eye_size": 1.0, "feminine": 0.5, "child": 0.75, "cranium_large": 1.3, "orc_jaw": -0.25}
IDENTITY_NAMES = tuple(SKIN_FIELDS) + ("ear_size", "ear_pointed")


def build_identity(template: Template) -> dict[str, np.ndarray]:
    """Identity name -> displacement ``(V, 3)`` float32 at weight 1.

    Ears, teeth and tongue move rigidly with the place they hang on; eyeballs and the skin that touches them
    move and scale as one, so that lids keep hugging the eyes.
    """
    sign = np.where(template.vertices[:, :1] < 0, -1.0, 1.0) * np.array([1.0, 0, 0]) + np.array([0, 1.0, 1.0])
    q = template.surface * sign
    eyes = np.concatenate([template.parts["left_eyeball"], template.parts["right_eyeball"]])
    ears = np.concatenate([template.parts["left_ear"], template.parts["right_ear"]])
    mouth = np.concatenate([template.parts[n] for n in ("upper_teeth", "lower_teeth", "tongue")])
    lids = smoothstep(2.5, 1.15, np.linalg.norm((q - EYE_CENTRE) / [1, 1, 1.5], axis=1) / EYE_RADIUS)[:, None]
    front = EYE_CENTRE[None] + [0, 0, EYE_RADIUS]
    out: dict[str, np.ndarray] = {}
    for name in IDENTITY_NAMES:
        field = SKIN_FIELDS.get(name)
        if field is None:
            delta = np.zeros_like(q)
        else:
            # Scaling or tilting the eye is meant; only what the field does besides is made rigid there.
            share = EYE_SHARES.get(name, 0.0)
            about_eye = share * eye_size(q) + (eye_tilt(q) if name == "eye_tilt" else 0.0)
            moved = (field(front) - share * eye_size(front)) * (name != "eye_tilt")
            delta = about_eye + lids * moved + (1 - lids) * (field(q) - about_eye)
            delta[ears] = field(np.array([[0.285, 0.02, 0.01]]))
            delta[mouth] = field(np.array([[0.0, -0.204, 0.37]]))
            delta[eyes] = moved + share * 0.24 * (q[eyes] - EYE_CENTRE)
        for share, ear_field in EAR_FIELDS.get(name, ()):
            delta[ears] += share * ear_field(q[ears])
        delta[:, 0] *= smoothstep(0.0, 0.015, q[:, 0])  # the midline stays in its plane
        out[name] = (delta * sign).astype(np.float32)
    return out
