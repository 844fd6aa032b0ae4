"""Parts that are not skin: ears, eyeballs, teeth and tongue, each one closed surface."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from headsculpt.heads.solids import EYE_CENTRE, EYE_RADIUS


@dataclass
class Part:
    """A piece of the template.

    Attributes:
        vertices: ``(K, 3)`` scene units.
        faces: ``(F, 3)`` int, counter-clockwise from outside.
        uv: ``(K, 2)`` in [0, 1].
        rings: ``(K,)`` what the part counts along itself: polar angle in degrees for an eyeball, fraction
            from the middle to the rim (above 1: back side) for an ear.
    """

    vertices: np.ndarray
    faces: np.ndarray
    uv: np.ndarray
    rings: np.ndarray

    def mirrored(self) -> Part:
        """The same part on the other side (x -> -x)."""
        return Part(self.vertices * [-1.0, 1.0, 1.0], self.faces[:, ::-1], self.uv, self.rings)

    def placed_uv(self, u: float, v: float, size: float = 0.13) -> Part:
        """The same part with its chart moved into the square of side ``size`` at (u, v)."""
        return replace(self, uv=self.uv * size + [u, v])


def _rings(
    rings: list[np.ndarray], first: np.ndarray, last: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Closed surface from ``K`` rings ``(S, 3)`` and two end points; rings run counter-clockwise seen from
    the first point. Returns vertices, faces and disc-shaped uv (the first point in the middle)."""
    segments = len(rings[0])
    vertices = np.concatenate([first[None], *rings, last[None]])
    j, k = np.arange(segments), (np.arange(segments) + 1) % segments
    faces = [np.stack([np.zeros(segments, int), 1 + j, 1 + k], 1)]
    for r in range(len(rings) - 1):
        a, b = 1 + r * segments, 1 + (r + 1) * segments
        faces += [np.stack([a + j, b + j, b + k], 1), np.stack([a + j, b + k, a + k], 1)]
    a, end = 1 + (len(rings) - 1) * segments, len(vertices) - 1
    faces.append(np.stack([a + j, np.full(segments, end), a + k], 1))
    angle = 2 * np.pi * j / segments
    radii = 0.5 * (np.arange(len(rings)) + 1) / (len(rings) + 1)
    disc = 0.5 + (radii[:, None, None] * np.stack([np.cos(angle), np.sin(angle)], -1)).reshape(-1, 2)
    uv = np.concatenate([[[0.5, 0.5]], disc, [[0.999, 0.5]]])
    return vertices, np.concatenate(faces), uv


# Polar angles of an eyeball's rings. Two rings close together at the edges of pupil and iris keep a colour
# per vertex crisp there.
PUPIL_DEG, IRIS_DEG = 12.5, 30.0
EYE_RINGS_DEG = (6.0, 11.9, 13.1, 18.0, 24.0, 29.3, 30.7, 35.0, 42.0, 52.0, 64.0, 80.0, 105.0, 135.0, 160.0)
EYE_SEGMENTS = 28


def eyeball() -> Part:
    """The left eyeball, looking along +Z; the cornea stands out a little."""
    around = 2 * np.pi * np.arange(EYE_SEGMENTS) / EYE_SEGMENTS
    rings = []
    for degrees in EYE_RINGS_DEG:
        polar = np.deg2rad(degrees)
        bulge = 1.0 + 0.03 * np.clip(1 - (degrees / IRIS_DEG) ** 2, 0, None)
        ring = np.stack(
            [
                np.sin(polar) * np.cos(around),
                np.sin(polar) * np.sin(around),
                np.full_like(around, np.cos(polar)),
            ],
            1,
        )
        rings.append(EYE_CENTRE + EYE_RADIUS * bulge * ring)
    front, back = EYE_CENTRE + [0, 0, 1.03 * EYE_RADIUS], EYE_CENTRE - [0, 0, EYE_RADIUS]
    vertices, faces, uv = _rings(rings, front, back)
    polar = np.concatenate([[0.0], np.repeat(EYE_RINGS_DEG, EYE_SEGMENTS), [180.0]])
    return Part(vertices, faces, uv, polar)


EAR_SEGMENTS = 32


def _ear_outline(angle: np.ndarray) -> np.ndarray:
    """Distance of the rim from the ear's middle; angle 0 points backwards, 90 degrees up."""
    base = 1 / np.sqrt((np.cos(angle) / 0.078) ** 2 + (np.sin(angle) / 0.125) ** 2)
    lobe = -0.12 * np.exp(-((((np.rad2deg(angle) + 40 + 180) % 360 - 180) / 28) ** 2))
    upper = 0.08 * np.exp(-((((np.rad2deg(angle) - 55 + 180) % 360 - 180) / 35) ** 2))
    front = -0.30 * np.exp(-((((np.rad2deg(angle) - 180 + 180) % 360 - 180) / 50) ** 2))
    return base * (1 + lobe + upper + front)


def _ear_relief(fraction: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Height of the ear's front above its plane, scene units: concha, antihelix, groove, helix."""
    turn = np.rad2deg(angle)
    back = 0.5 + 0.5 * np.cos(angle)  # 1 behind, 0 towards the face

    def near(centre: float, width: float) -> np.ndarray:
        return np.exp(-((((turn - centre + 180) % 360 - 180) / width) ** 2))

    helix = np.exp(-(((fraction - 0.90) / 0.085) ** 2)) * (1 - near(-90, 55)) * 0.020
    antihelix = (
        np.exp(-(((fraction - 0.62) / 0.11) ** 2)) * np.clip(back + 0.25, 0, 1) * (1 - near(-90, 45)) * 0.017
    )
    concha = -0.022 * np.exp(-((fraction / 0.42) ** 2))
    groove = -0.008 * np.exp(-(((fraction - 0.77) / 0.06) ** 2)) * (1 - near(-90, 60))
    tragus = 0.020 * np.exp(-(((fraction - 0.45) / 0.2) ** 2)) * near(190, 28)
    lobe = 0.006 * np.exp(-(((fraction - 0.7) / 0.3) ** 2)) * near(-90, 45)
    return helix + antihelix + concha + groove + tragus + lobe


def ear() -> Part:
    """The left pinna: a shell that stands off the head, its front edge inside the head."""
    around = 2 * np.pi * np.arange(EAR_SEGMENTS) / EAR_SEGMENTS
    rim = _ear_outline(around)
    front = np.array([0.14, 0.28, 0.38, 0.48, 0.56, 0.63, 0.70, 0.77, 0.83, 0.89, 0.95, 0.99])
    back = np.array([1.0, 0.95, 0.85, 0.70, 0.45, 0.2])
    rings, marks = [], []

    def place(fraction: np.ndarray, height: np.ndarray) -> np.ndarray:
        backward, up = fraction * rim * np.cos(around), fraction * rim * np.sin(around)
        return np.stack([backward, up, height], -1)

    for f in front:
        rings.append(place(np.full_like(around, f), _ear_relief(np.full_like(around, f), around)))
        marks.append(f)
    for f in back:
        bowl = -0.012 - 0.028 * np.clip(1 - f, 0, 1) ** 0.6
        rings.append(place(np.full_like(around, f), np.full_like(around, bowl if f < 1 else -0.004)))
        marks.append(2.0 - f)
    first, last = np.array([0, 0, -0.022]), np.array([0, 0, -0.05])
    # Local axes: backwards, up and away from the head; the shell's back swings out by 28 degrees, and the
    # whole leans back by 12.
    flare, lean = np.deg2rad(28.0), np.deg2rad(12.0)
    backward = np.array([np.sin(flare), 0.0, -np.cos(flare)])
    outward = np.array([np.cos(flare), 0.0, np.sin(flare)])
    up = np.array([0.06, np.cos(lean), -np.sin(lean)])
    up /= np.linalg.norm(up)
    frame = np.stack([backward, up, outward])
    centre = np.array([0.322, 0.012, -0.030])
    vertices, faces, uv = _rings(
        [r @ frame + centre for r in rings], first @ frame + centre, last @ frame + centre
    )
    # Seen from outside the left ear, "backwards" is to the left, so rings run clockwise: turn faces over.
    return Part(
        vertices,
        _outward(vertices, faces),
        uv,
        np.concatenate([[0.0], np.repeat(marks, EAR_SEGMENTS), [2.0]]),
    )


def _outward(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Faces wound so that the closed surface has positive volume."""
    a, b, c = (vertices[faces[:, i]] - vertices.mean(0) for i in range(3))
    return faces if np.einsum("ij,ij->", a, np.cross(b, c)) > 0 else faces[:, ::-1]


def teeth(upper: bool) -> Part:
    """One row of teeth as a bent bar just behind the lips."""
    around = 2 * np.pi * np.arange(10) / 10
    y, low = (-0.192, 0.019) if upper else (-0.2225, 0.016)
    rings = []
    for a in np.deg2rad(np.linspace(-62, 62, 25)):
        middle = np.array([0.078 * np.sin(a), y, 0.270 + 0.082 * np.cos(a)])
        out = np.array([np.sin(a), 0.0, np.cos(a)])
        across = np.sign(np.cos(around)) * np.abs(np.cos(around)) ** 0.5 * 0.010
        height = np.sign(np.sin(around)) * np.abs(np.sin(around)) ** 0.5 * low * 0.8
        rings.append(middle + across[:, None] * out + height[:, None] * [0, 1, 0])
    vertices, faces, uv = _rings(rings, rings[0].mean(0), rings[-1].mean(0))
    return Part(vertices, _outward(vertices, faces), uv, np.zeros(len(vertices)))


def tongue() -> Part:
    """The tongue at rest behind the lower teeth."""
    around = 2 * np.pi * np.arange(14) / 14
    rings = []
    for t in np.linspace(0.08, 0.98, 10):
        wide, high = 0.048 * np.sqrt(1 - (t**3) ** 2), 0.014 * np.sqrt(1 - (t**4) ** 2) + 0.001
        x, y = wide * np.cos(around), high * np.sin(around)
        rings.append(
            np.stack([x, -0.226 + y + 0.006 * np.sin(np.pi * t), np.full_like(x, 0.20 + 0.132 * t)], 1)
        )
    vertices, faces, uv = _rings(rings, rings[0].mean(0), rings[-1].mean(0) + [0, 0, 0.003])
    return Part(
        vertices,
        _outward(vertices, faces),
        uv,
        np.concatenate([[0.0], np.repeat(np.linspace(0.08, 0.98, 10), 14), [1.0]]),
    )
