"""The 52 expression shapes of ARKit, as displacements of the template. All strengths are ours, at weight 1.

Names and meanings are those of ``ARFaceAnchor.BlendShapeLocation``; left is the head's own left (+X).
"""

from __future__ import annotations

import numpy as np

from headsculpt.heads import template as layout
from headsculpt.heads.regions import grid_coordinates, jaw_weight
from headsculpt.heads.solids import EYE_CENTRE, EYE_RADIUS
from headsculpt.heads.template import Template, lid_curves, smoothstep

EXPRESSION_NAMES = (
    "eyeBlinkLeft", "eyeLookDownLeft", "eyeLookInLeft", "eyeLookOutLeft", "eyeLookUpLeft", "eyeSquintLeft",
    "eyeWideLeft", "eyeBlinkRight", "eyeLookDownRight", "eyeLookInRight", "eyeLookOutRight",
    "eyeLookUpRight", "eyeSquintRight", "eyeWideRight", "jawForward", "jawLeft", "jawRight", "jawOpen",
    "mouthClose", "mouthFunnel", "mouthPucker", "mouthLeft", "mouthRight", "mouthSmileLeft",
    "mouthSmileRight", "mouthFrownLeft", "mouthFrownRight", "mouthDimpleLeft", "mouthDimpleRight",
    "mouthStretchLeft", "mouthStretchRight", "mouthRollLower", "mouthRollUpper", "mouthShrugLower",
    "mouthShrugUpper", "mouthPressLeft", "mouthPressRight", "mouthLowerDownLeft", "mouthLowerDownRight",
    "mouthUpperUpLeft", "mouthUpperUpRight", "browDownLeft", "browDownRight", "browInnerUp",
    "browOuterUpLeft", "browOuterUpRight", "cheekPuff", "cheekSquintLeft", "cheekSquintRight",
    "noseSneerLeft", "noseSneerRight", "tongueOut",
)  # fmt: skip

JAW_HINGE = np.array([0.0, -0.055, 0.02])
JAW_OPEN_DEG = 17.0
LOOK_DEG = 22.0
LID_CLEARANCE = 0.0075


def build_expressions(template: Template) -> dict[str, np.ndarray]:
    """Expression name -> displacement ``(V, 3)`` float32 at weight 1, in the order of EXPRESSION_NAMES."""
    return _Builder(template).all()


def _turn(points: np.ndarray, about: np.ndarray, pitch_deg: float, yaw_deg: float = 0.0) -> np.ndarray:
    """Displacement of points turned about a centre: pitch > 0 looks down, yaw > 0 looks to +X."""
    p, w = np.deg2rad(pitch_deg), np.deg2rad(yaw_deg)
    rx = np.array([[1, 0, 0], [0, np.cos(p), -np.sin(p)], [0, np.sin(p), np.cos(p)]])
    ry = np.array([[np.cos(w), 0, np.sin(w)], [0, 1, 0], [-np.sin(w), 0, np.cos(w)]])
    offset = points - about
    return offset @ (ry @ rx).T - offset


class _Builder:
    """Holds the coordinates that all shapes are written in: those of the head's left half, mirrored."""

    def __init__(self, template: Template) -> None:
        self.t = template
        self.g = grid_coordinates(template)
        self.p = template.vertices
        self.q = template.surface.copy()
        self.q[:, 0] = np.abs(self.q[:, 0])
        self.jaw = jaw_weight(template)
        skin = np.zeros(len(self.p))
        skin[template.grid] = 1.0
        self.skin = skin
        rows, xi, m = self.g["row"], self.g["xi"], self.g["m"]
        top, bottom = layout.LIP_ROWS
        near_mouth = smoothstep(1.25, 0.55, m)
        self.upper_lip = self.on_skin(smoothstep(top - 10, top - 1, rows) * (rows <= top) * near_mouth)
        self.lower_lip = self.on_skin(
            smoothstep(bottom + 10, bottom + 1, rows) * (rows >= bottom) * near_mouth
        )
        u0, l0 = layout.LID_ROWS
        across = smoothstep(1.7, 0.95, np.abs(xi))
        self.upper_lid = self.on_skin(smoothstep(layout.CREASE_ROW - 2.5, u0, rows) * (rows <= u0) * across)
        self.lower_lid = self.on_skin(smoothstep(l0 + 4.5, l0, rows) * (rows >= l0) * across)
        self.xi_all = self.on_skin(xi)

    def on_skin(self, values: np.ndarray) -> np.ndarray:
        out = np.zeros(len(self.p))
        out[self.t.grid] = values
        return out

    def near(self, centre: tuple, radius: float | tuple) -> np.ndarray:
        d = (self.q - np.asarray(centre)) / np.asarray(radius)
        return np.exp(-np.einsum("ij,ij->i", d, d)) * self.skin

    def move(self, weight: np.ndarray, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> np.ndarray:
        """Both sides at once: +x is away from the midline."""
        d = weight[:, None] * np.array([x, y, z])
        d[:, 0] *= np.sign(self.p[:, 0])
        return d

    def pockets(self, d: np.ndarray) -> np.ndarray:
        """Lets the rows inside the mouth and the eyes follow the rims on both sides of them."""
        grid = self.t.grid
        for (top, bottom), inside in (
            (layout.LIP_ROWS, self.g["m"][0] < 1.0),
            (layout.LID_ROWS, np.abs(self.g["xi"][0]) < 1.0),
        ):
            for r in range(top + 1, bottom):
                s = (r - top) / (bottom - top)
                columns = np.flatnonzero(inside)
                d[grid[r, columns]] = (1 - s) * d[grid[top, columns]] + s * d[grid[bottom, columns]]
        return d

    def side(self, d: np.ndarray, left: bool) -> np.ndarray:
        """Half of a shape that acts on both sides; the halves add up to the whole, smoothly at the middle."""
        x = self.p[:, 0] if left else -self.p[:, 0]
        return d * smoothstep(-0.022, 0.022, x)[:, None]

    # --- pairs -----------------------------------------------------------------------------------------
    def blink(self) -> np.ndarray:
        xi = self.xi_all
        upper, lower = lid_curves(xi)
        closed = lower + 0.002 * np.clip(1 - xi**2, 0, 1)
        target = self.p.copy()
        target[:, 1] += self.upper_lid * (closed - upper)
        return self._over_eye(target, self.upper_lid) - self.p

    def _over_eye(self, target: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """Pushes lid points out of the eyeball (with the lid's thickness)."""
        centre = EYE_CENTRE * np.stack([np.sign(self.p[:, 0]), np.ones(len(self.p)), np.ones(len(self.p))], 1)
        offset = target - centre
        flat = np.einsum("ij,ij->i", offset[:, :2], offset[:, :2])
        z = np.sqrt(np.clip((EYE_RADIUS + LID_CLEARANCE) ** 2 - flat, 0, None))
        inside = (weight > 0.02) & (flat < EYE_RADIUS**2) & (offset[:, 2] < z)
        out = target.copy()
        out[inside, 2] = (centre[:, 2] + z)[inside]
        return out

    def lids(self, upper: float, lower: float) -> np.ndarray:
        arch = np.clip(1 - self.xi_all**2, 0, 1) ** 0.5
        target = self.p.copy()
        target[:, 1] += (self.upper_lid * upper + self.lower_lid * lower) * arch
        return self._over_eye(target, self.upper_lid + self.lower_lid) - self.p

    def look(self, left: bool, pitch: float, yaw: float) -> np.ndarray:
        d = np.zeros_like(self.p)
        ids = self.t.parts["left_eyeball" if left else "right_eyeball"]
        centre = EYE_CENTRE * [1.0 if left else -1.0, 1, 1]
        d[ids] = _turn(self.p[ids], centre, pitch, yaw)
        if pitch:
            d += self.side(self.pockets(self.lids(-0.015 * np.sign(pitch), -0.005 * np.sign(pitch))), left)
        return d

    def smile(self) -> np.ndarray:
        d = self.move(self.near((0.108, -0.206, 0.35), (0.050, 0.050, 0.12)), x=0.034, y=0.050, z=-0.024)
        d += self.move(self.near((0.055, -0.205, 0.39), (0.045, 0.035, 0.10)), x=0.012, y=0.004, z=-0.008)
        return d + self.move(
            self.near((0.155, -0.090, 0.30), (0.055, 0.050, 0.10)), x=0.012, y=0.020, z=0.014
        )

    def frown(self) -> np.ndarray:
        d = self.move(self.near((0.108, -0.210, 0.35), (0.045, 0.045, 0.12)), x=0.006, y=-0.046, z=-0.006)
        d += self.move(self.near((0.0, -0.240, 0.40), (0.06, 0.03, 0.10)), y=0.010, z=0.008)
        return d + self.move(self.near((0.05, -0.205, 0.40), (0.05, 0.03, 0.1)), y=0.004)

    def dimple(self) -> np.ndarray:
        return self.move(self.near((0.105, -0.204, 0.35), (0.030, 0.030, 0.1)), x=0.014, y=0.004, z=-0.022)

    def stretch(self) -> np.ndarray:
        d = self.move(self.near((0.10, -0.212, 0.35), (0.05, 0.05, 0.12)), x=0.032, y=-0.016, z=-0.024)
        return d + self.move(self.near((0.10, -0.50, 0.03), (0.06, 0.10, 0.1)), x=0.008, z=0.006)

    def press(self) -> np.ndarray:
        d = self.move(self.upper_lip, y=-0.009, z=-0.014) + self.move(self.lower_lip, y=0.009, z=-0.014)
        return d + self.move(self.near((0.108, -0.205, 0.35), 0.03), x=0.006, z=-0.008)

    def lower_down(self) -> np.ndarray:
        return self.move(self.lower_lip, x=0.006, y=-0.032, z=-0.004)

    def upper_up(self) -> np.ndarray:
        d = self.move(self.upper_lip, x=0.003, y=0.030, z=0.004)
        return d + self.move(self.near((0.09, -0.15, 0.37), 0.04), y=0.010, z=0.008)

    def brow_down(self) -> np.ndarray:
        d = self.move(self.near((0.060, 0.140, 0.38), (0.060, 0.045, 0.10)), x=-0.018, y=-0.044, z=0.016)
        d += self.move(self.near((0.150, 0.145, 0.34), (0.055, 0.040, 0.10)), y=-0.016, z=0.004)
        d += self.move(self.near((0.012, 0.150, 0.39), (0.010, 0.035, 0.06)), z=-0.012)  # furrow
        return d + self.lids(-0.007, 0.0)

    def brow_outer_up(self) -> np.ndarray:
        return self.move(self.near((0.165, 0.158, 0.33), (0.065, 0.050, 0.10)), y=0.042, z=-0.004)

    def cheek_squint(self) -> np.ndarray:
        d = self.move(self.near((0.155, -0.030, 0.31), (0.060, 0.045, 0.10)), x=0.004, y=0.022, z=0.016)
        return d + self.lids(-0.002, 0.008)

    def squint(self) -> np.ndarray:
        d = self.lids(-0.008, 0.010)
        return d + self.move(self.near((0.15, -0.005, 0.32), (0.06, 0.03, 0.08)), y=0.008, z=0.008)

    def sneer(self) -> np.ndarray:
        d = self.move(self.near((0.048, -0.095, 0.41), (0.030, 0.035, 0.06)), x=0.008, y=0.020, z=0.004)
        d += self.move(self.near((0.035, 0.00, 0.39), (0.025, 0.04, 0.06)), y=0.010, z=0.008)
        return d + self.move(self.upper_lip, y=0.010, z=0.003)

    # --- whole face ------------------------------------------------------------------------------------
    def jaw_move(self, pitch: float = 0.0, x: float = 0.0, z: float = 0.0) -> np.ndarray:
        d = _turn(self.p, JAW_HINGE, pitch) + np.array([x, 0.0, z])
        return self.jaw[:, None] * d

    def mouth_close(self) -> np.ndarray:
        """With jawOpen at the same weight the lips stay shut: the lower lip comes back up."""
        # The lips meet at 38 % of the way down, as the upper lip stretches too.
        back = -self.jaw_move(pitch=JAW_OPEN_DEG) * self.lower_lip[:, None] * 0.62
        return back + self.move(self.upper_lip, y=-0.38 * 0.115, z=-0.010)

    def funnel(self) -> np.ndarray:
        d = self.move(self.near((0.108, -0.205, 0.35), (0.05, 0.05, 0.12)), x=-0.034, z=0.020)
        return d + self.move(self.upper_lip, y=0.018, z=0.030) + self.move(self.lower_lip, y=-0.018, z=0.030)

    def pucker(self) -> np.ndarray:
        d = self.move(self.near((0.108, -0.205, 0.35), (0.055, 0.05, 0.12)), x=-0.048, z=0.026)
        d += self.move(self.near((0.05, -0.205, 0.39), (0.03, 0.04, 0.1)), x=-0.014)
        return d + self.move(self.upper_lip + self.lower_lip, z=0.028)

    def shift(self, x: float) -> np.ndarray:
        w = self.near((0.0, -0.205, 0.38), (0.13, 0.06, 0.15))
        return w[:, None] * np.array([x, 0.0, 0.0])

    def brow_inner_up(self) -> np.ndarray:
        d = self.move(self.near((0.055, 0.155, 0.38), (0.055, 0.050, 0.10)), x=-0.004, y=0.046, z=-0.002)
        return d + self.move(self.near((0.180, 0.15, 0.32), (0.04, 0.03, 0.08)), y=-0.008)

    def tongue_out(self) -> np.ndarray:
        d = self.move(self.lower_lip, y=-0.016, z=0.002) + self.move(self.upper_lip, y=0.004)
        ids = self.t.parts["tongue"]
        along = self.t.rings["tongue"]
        d[ids] += np.stack([0 * along, -0.045 * along**3 + 0.012 * along, 0.150 * along], 1)
        return d

    def all(self) -> dict[str, np.ndarray]:
        """All shapes by name."""
        pairs = {
            "eyeBlink": self.blink(),
            "eyeSquint": self.squint(),
            "eyeWide": self.lids(0.013, -0.005),
            "mouthSmile": self.smile(),
            "mouthFrown": self.frown(),
            "mouthDimple": self.dimple(),
            "mouthStretch": self.stretch(),
            "mouthPress": self.press(),
            "mouthLowerDown": self.lower_down(),
            "mouthUpperUp": self.upper_up(),
            "browDown": self.brow_down(),
            "browOuterUp": self.brow_outer_up(),
            "cheekSquint": self.cheek_squint(),
            "noseSneer": self.sneer(),
        }
        puff = self.near((0.15, -0.16, 0.30), (0.075, 0.07, 0.12))
        shapes = {
            "jawForward": self.jaw_move(z=0.035),
            "jawLeft": self.jaw_move(x=0.028),
            "jawRight": self.jaw_move(x=-0.028),
            "jawOpen": self.jaw_move(pitch=JAW_OPEN_DEG),
            "mouthClose": self.mouth_close(),
            "mouthFunnel": self.funnel(),
            "mouthPucker": self.pucker(),
            "mouthLeft": self.shift(0.030),
            "mouthRight": self.shift(-0.030),
            "mouthRollLower": self.move(self.lower_lip, y=0.010, z=-0.020),
            "mouthRollUpper": self.move(self.upper_lip, y=-0.008, z=-0.020),
            "mouthShrugLower": self.move(self.near((0, -0.25, 0.38), (0.09, 0.05, 0.1)), y=0.020, z=0.014),
            "mouthShrugUpper": self.move(self.upper_lip, y=0.014, z=0.012),
            "browInnerUp": self.brow_inner_up(),
            "cheekPuff": self.move(puff, x=0.040, z=0.026),
            "tongueOut": self.tongue_out(),
        }
        for name, both in pairs.items():
            both = self.pockets(both)
            shapes[f"{name}Left"], shapes[f"{name}Right"] = self.side(both, True), self.side(both, False)
        turns = {
            "Down": (LOOK_DEG, 0.0),
            "Up": (-LOOK_DEG, 0.0),
            "In": (0.0, -LOOK_DEG),
            "Out": (0.0, LOOK_DEG),
        }
        for name, (pitch, yaw) in turns.items():
            shapes[f"eyeLook{name}Left"] = self.look(True, pitch, yaw)
            shapes[f"eyeLook{name}Right"] = self.look(False, pitch, -yaw)
        ready = {}
        for name in EXPRESSION_NAMES:
            d = shapes[name]
            ready[name] = (d if name.startswith("eyeLook") else self.pockets(d)).astype(np.float32)
        return ready
