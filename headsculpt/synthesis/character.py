"""Who a figure is: shape weights, expression weights, skin, and the marks of its kind."""

from __future__ import annotations

import numpy as np

from headsculpt.heads.builtin import Head
from headsculpt.heads.identity import IDENTITY_NAMES
from headsculpt.synthesis.attributes import Attributes
from headsculpt.synthesis.fit import Fit
from headsculpt.synthesis.hair import stubble
from headsculpt.synthesis.palette import IRIS_VALUES, SKIN_VALUES, darker, mixed, varied
from headsculpt.synthesis.parts import (
    Array,
    Part,
    joined,
    noise,
    part,
    smoothstep,
    sphere,
    tube,
    vertex_normals,
)

FEMALE = ("woman", "girl", "old woman")

# Identity weights of each kind; the values are ours, exaggerated until they read at 128 pixels.
SUBJECT_IDENTITY: dict[str, dict[str, float]] = {
    "man": {"jaw_width": 0.25, "cheek_fullness": 0.3, "brow_ridge": 0.4, "neck_thickness": 0.3, "shoulder_width": 0.2},
    "woman": {"feminine": 0.8, "cheek_fullness": 0.35, "lip_fullness": 0.5, "eye_size": 0.15,
              "jaw_width": 0.2, "mouth_width": 0.45},
    "boy": {"child": 0.9, "eye_size": 0.2, "cheek_fullness": 0.3},
    "girl": {"child": 0.9, "feminine": 0.4, "eye_size": 0.3, "cheek_fullness": 0.4},
    "old man": {"age": 1.0, "brow_ridge": 0.4, "ear_size": 0.4, "nose_size": 0.25},
    "old woman": {"age": 1.0, "feminine": 0.8, "ear_size": 0.2},
    "elf": {"ear_pointed": 1.0, "cheek_fullness": 0.2, "face_slim": 0.3, "eye_tilt": 0.7,
            "cheekbones": 0.4, "eye_size": 0.3},
    "alien": {"cranium_large": 1.0, "eye_size": 1.0, "nose_size": -1.0, "nose_length": -0.5, "lip_fullness": -0.8,
              "ear_size": -0.8, "mouth_width": -0.3, "jaw_width": 0.3, "neck_thickness": -0.7},
    "orc": {"orc_jaw": 1.0, "mouth_width": 0.9, "brow_ridge": 0.9, "nose_width": 0.7, "neck_thickness": 0.9,
            "shoulder_width": 0.6},
    "zombie": {"gaunt": 1.0, "cheekbones": 0.4},
}  # fmt: skip
FACE_IDENTITY = {
    "slim": {"face_slim": 0.5},
    "round": {"face_round": 0.75},
    "square jaw": {"jaw_square": 1.45},
}
NOSE_IDENTITY = {
    "small": {"nose_size": -0.6},
    "big": {"nose_size": 1.0, "nose_width": 0.6},
    "long": {"nose_length": 1.0, "nose_size": 0.35, "nose_width": -0.3},
}
EXPRESSION_WEIGHTS: dict[str, dict[str, float]] = {
    "neutral": {},
    "smiling": {"mouthSmileLeft": 1.0, "mouthSmileRight": 1.0, "cheekSquintLeft": 0.4, "cheekSquintRight": 0.4,
                "mouthUpperUpLeft": 0.5, "mouthUpperUpRight": 0.5, "mouthLowerDownLeft": 0.3,
                "mouthLowerDownRight": 0.3, "jawOpen": 0.09},
    "sad": {"mouthFrownLeft": 1.0, "mouthFrownRight": 1.0, "browInnerUp": 1.0, "mouthShrugLower": 0.4},
    "angry": {"browDownLeft": 1.0, "browDownRight": 1.0, "noseSneerLeft": 0.6, "noseSneerRight": 0.6,
              "mouthFrownLeft": 0.5, "mouthFrownRight": 0.5, "eyeSquintLeft": 0.4, "eyeSquintRight": 0.4,
              "mouthPressLeft": 0.3, "mouthPressRight": 0.3},
    "surprised": {"jawOpen": 0.75, "eyeWideLeft": 1.0, "eyeWideRight": 1.0, "browInnerUp": 1.0,
                  "browOuterUpLeft": 1.0, "browOuterUpRight": 1.0, "mouthFunnel": 0.3},
}  # fmt: skip


def _groups(a: Attributes) -> tuple[dict[str, float], ...]:
    """What the kind, the face and the nose ask of the identity, before limits."""
    nose = {} if a.subject == "alien" and a.nose == "small" else NOSE_IDENTITY[a.nose]
    return SUBJECT_IDENTITY[a.subject], FACE_IDENTITY[a.face], nose


def _limited(a: Attributes, weights: dict[str, float]) -> dict[str, float]:
    if a.face == "round" or a.subject in ("boy", "girl"):  # round upon round would swell
        weights["cheek_fullness"] = min(weights.get("cheek_fullness", 0.0), 0.0)
    if a.ears == "pointed":
        weights["ear_pointed"] = max(weights.get("ear_pointed", 0.0), 1.0)
    return weights


def shape_weights(a: Attributes) -> tuple[dict[str, float], dict[str, float]]:
    """Identity and expression weights that the attributes stand for, without individual variation."""
    weights: dict[str, float] = {}
    for group in _groups(a):
        for name, weight in group.items():
            weights[name] = weights.get(name, 0.0) + weight
    return _limited(a, weights), dict(EXPRESSION_WEIGHTS[a.expression])


def identity_of(a: Attributes, rng: np.random.Generator) -> dict[str, float]:
    """Identity weights: :func:`shape_weights`, and a little of everything for the individual."""
    special = ("feminine", "child", "age", "cranium_large", "orc_jaw", "gaunt", "ear_pointed")
    individual = {n: 0.14 * float(rng.standard_normal()) for n in IDENTITY_NAMES}
    weights = {n: w for n, w in individual.items() if n not in special}
    for group in _groups(a):
        for name, weight in group.items():
            weights[name] = weights.get(name, 0.0) + weight * float(1 + 0.08 * rng.standard_normal())
    return _limited(a, weights)


def expression_of(a: Attributes, rng: np.random.Generator) -> dict[str, float]:
    """ARKit weights of the named expression, a little stronger or weaker each time."""
    strength = float(rng.uniform(0.85, 1.0))
    weights = {n: w * strength for n, w in EXPRESSION_WEIGHTS[a.expression].items()}
    if a.expression == "smiling" and rng.random() < 0.4:  # a smile with closed lips
        for name in (
            "mouthUpperUpLeft",
            "mouthUpperUpRight",
            "mouthLowerDownLeft",
            "mouthLowerDownRight",
            "jawOpen",
        ):
            weights[name] = 0.0
    return weights


def brow_colour(a: Attributes, hair: Array, skin: Array) -> Array:
    """Brows: the hair's colour, kept darker than the skin that they lie on."""
    colour = darker(hair, 0.72)
    if a.hair_colour in ("white", "grey"):
        return darker(hair, 0.9)
    if float(colour.mean()) > 0.75 * float(skin.mean()):
        colour = mixed(colour, darker(skin, 0.4), 0.5)
    return colour


def skin_colours(
    a: Attributes, head: Head, vertices: Array, fit: Fit, hair: Array, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Colours ``(V, 3)`` and highlights ``(V,)`` of the bare head."""
    r = head.regions
    base = varied(SKIN_VALUES[a.skin], rng, 0.05)
    colours = np.tile(base, (len(vertices), 1)).astype(np.float32)
    seed = int(rng.integers(1 << 20))
    mottled = noise(np.ascontiguousarray(vertices * 7.0, np.float32), seed) - 0.5
    colours *= (1 + 0.06 * mottled)[:, None]
    human = a.skin in ("pale", "tan", "brown", "dark")
    warm = base * np.array([1.05, 0.74, 0.72], np.float32) if human else base * np.float32(0.80)
    blush = 0.55 if a.subject in (*FEMALE, "boy") else 0.30
    for name, share in (("cheeks", blush), ("nose", 0.25), ("ears", 0.3)):
        colours = mixed(colours, warm, share * r[name])
    lips = base * np.array([0.92, 0.50, 0.50], np.float32) if human else base * np.float32(0.62)
    if a.subject in FEMALE and human and a.subject != "old woman":
        lips = mixed(lips, np.array([0.72, 0.10, 0.16]), 0.25 if a.subject == "girl" else 0.6)
    colours = mixed(colours, lips, 0.9 * r["lips"])
    if a.hair_style in ("mohawk", "short", "ponytail", "bun", "curly", "long"):
        scalp = stubble(fit, colours[head_grid(head)], hair, 0.5 if a.hair_style == "mohawk" else 0.8)
        colours[head_grid(head).ravel()] = scalp.reshape(-1, 3)
    colours = mixed(colours, darker(base, 0.25), 0.85 * r["eyelid_rims"])
    colours = mixed(colours, darker(base, 0.35), 0.7 * r["nostrils"])
    if a.subject in FEMALE and human:
        shadow = varied(
            np.array([[0.35, 0.2, 0.35], [0.3, 0.2, 0.15], [0.2, 0.3, 0.5]])[rng.integers(3)], rng
        )
        colours = mixed(colours, shadow, 0.28 * r["eyelids"])
    specular = np.full(len(vertices), 0.10, np.float32)
    specular += 0.12 * r["lips"]
    if a.subject == "zombie":
        colours = _rotten(colours, base, head, vertices, seed)
    if a.subject in ("old man", "old woman"):
        colours = mixed(colours, warm, 0.25 * r["eyelids"])
    colours = _mouth_and_eyes(a, head, colours, specular, rng)
    return colours, specular


def head_grid(head: Head) -> Array:
    """``(R + 1, C)`` the skin grid with the crown's vertex as a first row."""
    top = np.full((1, head.skin_grid.shape[1]), head.parts["crown"][0])
    return np.concatenate([top, head.skin_grid])


def _rotten(colours: Array, base: Array, head: Head, vertices: Array, seed: int) -> Array:
    """A zombie's skin: blotches, wounds, and dark rings around the eyes."""
    blotch = noise(np.ascontiguousarray(vertices * 6.0, np.float32), seed + 5)
    colours = mixed(
        colours, base * np.array([0.62, 0.72, 0.50], np.float32), 0.8 * smoothstep(0.52, 0.62, blotch)
    )
    wound = noise(np.ascontiguousarray(vertices * 4.0, np.float32), seed + 6)
    mask = smoothstep(0.72, 0.76, wound) * head.regions["skin"]
    colours = mixed(colours, np.array([0.36, 0.05, 0.06]), 0.85 * mask)
    for side in ("left_eyeball", "right_eyeball"):
        centre = vertices[head.parts[side]].mean(0)
        distance = np.linalg.norm((vertices - centre) * np.array([0.85, 1.0, 0.5]), axis=1)
        ring = smoothstep(0.15, 0.075, distance) * head.regions["skin"]
        colours = mixed(colours, np.array([0.13, 0.07, 0.10]), 0.8 * ring)
    return colours


def _mouth_and_eyes(
    a: Attributes, head: Head, colours: Array, specular: Array, rng: np.random.Generator
) -> Array:
    r = head.regions
    iris = varied(IRIS_VALUES[rng.integers(len(IRIS_VALUES))], rng, 0.08)
    white, pupil = np.array([0.93, 0.93, 0.92]), np.array([0.02, 0.02, 0.02])
    if a.subject == "zombie":
        iris, white, pupil = (
            np.array([0.85, 0.88, 0.70]),
            np.array([0.90, 0.86, 0.66]),
            np.array([0.35, 0.35, 0.25]),
        )
    if a.subject == "orc":
        iris, white = np.array([0.85, 0.55, 0.05]), np.array([0.88, 0.80, 0.55])
    if a.subject == "alien":
        iris = white = pupil = np.array([0.015, 0.015, 0.02])
    out = colours
    for name, colour in (("eyeballs", white), ("iris", iris), ("pupil", pupil)):
        out = mixed(out, colour, r[name])
    out = mixed(out, np.array([0.90, 0.88, 0.82]), r["teeth"])
    out = mixed(out, np.array([0.62, 0.22, 0.24]), r["tongue"])
    out = mixed(out, np.array([0.20, 0.05, 0.06]), r["mouth_inside"])
    specular[r["eyeballs"] > 0.5] = 0.95
    return out


def _lines(
    a: Attributes, head: Head, vertices: Array, fit: Fit, hair: Array, rng: np.random.Generator
) -> list[Part]:
    """Brows and lashes: raised, so that eyes are read from afar."""
    normals = vertex_normals(vertices, head.faces)
    skin = np.asarray(SKIN_VALUES[a.skin], np.float32)
    out = []
    female = a.subject in (*FEMALE, "elf")
    for side in ("left", "right"):
        if a.subject != "alien":
            index = head.landmarks[f"{side}_brow"]
            path = vertices[index] + 0.004 * normals[index]
            t = np.linspace(0, 1, len(path))
            thick = (0.011 if female else 0.018) * float(rng.uniform(0.85, 1.15))
            if a.subject in ("old man", "orc"):
                thick *= 1.25
            radius = thick * np.interp(t, [0, 0.15, 0.6, 1], [0.75, 1.0, 0.9, 0.3])
            brow = part(
                *tube(path, radius, sides=8, up=(0, 0, 1), flat=0.6), brow_colour(a, hair, skin), 0.0, "hair"
            )
            out.append(brow)
        lid = head.landmarks[f"{side}_eye"]
        upper = lid[: len(lid) // 2]
        path = vertices[upper] + 0.003 * normals[upper]
        if a.subject == "alien":
            continue
        t = np.linspace(-1, 1, len(path))
        radius = (0.0085 if female else 0.0055) * (1 - 0.6 * t**4)
        lash = part(*tube(path, radius, sides=6, up=(0, 0, 1)), (0.05, 0.035, 0.03), 0.0, "line")
        out.append(lash)
    return out


def _wrinkles(fit: Fit, colour: Array, rng: np.random.Generator) -> list[Part]:
    brow, crown = float(fit.anchors["brow_height"]), float(fit.anchors["crown"][1])  # type: ignore[index]
    eye, mouth, nose = (np.asarray(fit.anchors[k], float) for k in ("left_eye", "mouth", "nose_tip"))
    corner = np.asarray(fit.anchors["left_mouth_corner"], float)
    out = []
    t = np.linspace(-1, 1, 15)
    taper = 0.3 + 0.7 * (1 - t**2)
    for k in range(3):
        y = (
            brow
            + (0.16 + 0.10 * k) * (crown - brow)
            + 0.012 * np.cos(2.5 * t)
            + 0.004 * rng.standard_normal()
        )
        out.append((np.stack([t * (0.15 - 0.015 * k), y], 1), 0.010 * taper))
    for side in (1.0, -1.0):
        s = np.linspace(0, 1, 11)
        fold_x = side * (0.055 + (corner[0] + 0.022 - 0.055) * s**0.8)
        fold_y = nose[1] - 0.025 + (mouth[1] - 0.045 - nose[1] + 0.025) * s
        out.append((np.stack([fold_x, fold_y], 1), 0.008 * (0.4 + 0.6 * np.sin(np.pi * (0.15 + 0.8 * s)))))
        bag_t = np.linspace(-1, 1, 11)
        bag = np.stack([side * eye[0] + 0.068 * bag_t, eye[1] - 0.058 + 0.022 * bag_t**2], 1)
        out.append((bag, 0.009 * (0.3 + 0.7 * (1 - bag_t**2))))
        for slope in (-1.0, 0.0, 1.0):
            crow = np.stack(
                [side * (eye[0] + 0.085 + 0.045 * s), eye[1] + 0.01 + slope * (0.01 + 0.03 * s)], 1
            )
            out.append((crow, 0.006 * (1.0 - 0.6 * s)))
    return [joined([part(*fit.ribbon(points, width, 0.004), colour, 0.0, "line") for points, width in out])]


def _stitches(fit: Fit, rng: np.random.Generator) -> list[Part]:
    side = float(rng.choice([-1.0, 1.0]))
    brow = float(fit.anchors["brow_height"])
    out = []
    for start, stop in (
        ((0.20 * side, brow + 0.06), (0.03 * side, brow + 0.15)),
        ((-0.20 * side, -0.06), (-0.10 * side, -0.20)),
    ):
        s = np.linspace(0, 1, 9)[:, None]
        line = np.asarray(start) * (1 - s) + np.asarray(stop) * s
        out.append((line, 0.011))
        direction = np.asarray(stop) - np.asarray(start)
        across = np.array([-direction[1], direction[0]]) / np.linalg.norm(direction)
        for k in np.linspace(0.1, 0.9, 5):
            centre = np.asarray(start) * (1 - k) + np.asarray(stop) * k
            out.append((np.stack([centre - 0.03 * across, centre, centre + 0.03 * across]), 0.010))
    return [joined([part(*fit.ribbon(p, w, 0.007), (0.08, 0.03, 0.04), 0.0, "line") for p, w in out])]


def _tusks(fit: Fit) -> list[Part]:
    out = []
    corner = np.asarray(fit.anchors["left_mouth_corner"], float)
    mouth = np.asarray(fit.anchors["mouth"], float)
    for side in (1.0, -1.0):
        x = side * max(0.78 * corner[0], 0.062)
        base = np.array([x, mouth[1] - 0.03, float(fit.front(np.array(x), np.array(mouth[1] - 0.01))) - 0.01])
        t = np.linspace(0, 1, 9)
        path = base + np.stack(
            [side * 0.022 * t, 0.085 * t, 0.045 * np.sin(0.5 * np.pi * np.minimum(1.4 * t, 1)) - 0.01 * t], 1
        )
        out.append(
            part(
                *tube(path, 0.021 * (1 - t) ** 0.7 + 0.001, sides=8, up=(0, 0, 1)),
                (0.93, 0.89, 0.74),
                0.3,
                "tooth",
            )
        )
    return out


def _earrings(fit: Fit, rng: np.random.Generator) -> list[Part]:
    gold = np.array([0.96, 0.72, 0.18])
    hoops = rng.random() < 0.7
    out = []
    for name, side in (("left_ear_lobe", 1.0), ("right_ear_lobe", -1.0)):
        lobe = np.asarray(fit.anchors[name], float) + np.array([side * 0.012, 0.0, 0.012])
        if hoops:
            a = np.linspace(0, 2 * np.pi, 18, endpoint=False)
            radius = 0.055
            ring = lobe + np.stack(
                [
                    side * 0.02 + 0.6 * radius * np.sin(a),
                    radius * (np.cos(a) - 0.9),
                    0.8 * radius * np.sin(a),
                ],
                1,
            )
            out.append(part(*tube(ring, 0.0125, sides=6, closed=True, up=(0.8, 0, -0.6)), gold, 0.7, "metal"))
        else:
            out.append(
                part(*sphere(lobe + np.array([side * 0.012, -0.005, 0.01]), 0.03, 8, 10), gold, 0.8, "metal")
            )
    return out


def extras(
    a: Attributes, head: Head, vertices: Array, fit: Fit, hair: Array, rng: np.random.Generator
) -> list[Part]:
    """Brows, lashes, wrinkles, stitches, tusks, earrings."""
    skin = np.asarray(SKIN_VALUES[a.skin], np.float32)
    out = _lines(a, head, vertices, fit, hair, rng)
    if a.subject in ("old man", "old woman"):
        out += _wrinkles(fit, darker(skin, 0.68), rng)
    if a.subject == "zombie":
        out += _stitches(fit, rng)
    if a.subject == "orc":
        out += _tusks(fit)
    if a.earrings:
        out += _earrings(fit, rng)
    return out
