"""Hats, a crown and headphones, fitted to a head."""

from __future__ import annotations

import numpy as np

from headsculpt.synthesis.fit import Fit
from headsculpt.synthesis.palette import darker, named_colour
from headsculpt.synthesis.parts import Array, Part, joined, loft, part, revolve, sphere, tube

HATS = ("baseball cap", "beanie", "cowboy hat", "top hat")  # these cover the hair on top
GOLD = (0.95, 0.70, 0.18)


def hat_height(fit: Fit) -> float:
    """Height of the line on the forehead that hats come down to."""
    brow, crown = float(fit.anchors["brow_height"]), float(fit.anchors["crown"][1])  # type: ignore[index]
    return brow + 0.26 * (crown - brow)


def hat_tilt(name: str) -> float:
    """Slope of the hat line: how much it falls per unit towards the back."""
    return {"crown": 0.10, "top hat": 0.08, "cowboy hat": 0.09}.get(name, 0.22)


def hat_line(fit: Fit, name: str, z: Array) -> Array:
    """Height of the hat's edge at depth ``z`` of the head."""
    _, _, front = fit.band(hat_height(fit))
    return hat_height(fit) + hat_tilt(name) * (z - front)


class _Seat:
    """The ellipse that a hat sits on, and the shear that lowers its back."""

    def __init__(self, fit: Fit, name: str, ease: float) -> None:
        self.height = hat_height(fit)
        width, back, front = fit.band(self.height - 0.06, 0.06)
        self.a, self.b, self.z = width + ease, 0.5 * (front - back) + ease, 0.5 * (front + back)
        self.tilt, self.front = hat_tilt(name), front
        self.top = float(fit.anchors["crown"][1]) - self.height  # type: ignore[index]

    def place(self, points: Array) -> Array:
        """Points of the hat frame (0 = hat line, centre of the ellipse) in the scene."""
        out = np.array(points, np.float64)
        out[..., 2] += self.z
        out[..., 1] += self.height + self.tilt * (out[..., 2] - self.front)
        return out

    def turned(self, profile: list[tuple[float, float]], columns: int = 44) -> Array:
        """``(N, columns, 3)`` points of a profile of (ellipse factor, height), in the hat frame."""
        return revolve(np.array(profile), self.a, self.b, columns)[0]


def _dome(height: float, rows: int, power: float = 2.4) -> list[tuple[float, float]]:
    """Profile of a cap from its top to (1, 0)."""
    t = np.linspace(0.02, 1.0, rows)
    radius = np.sin(0.5 * np.pi * t)
    return [(float(r), float(height * (1 - r**power) ** (1 / power))) for r in radius]


def _cap(fit: Fit, colour: Array, rng: np.random.Generator) -> Part:
    seat = _Seat(fit, "baseball cap", 0.035)
    profile = [*_dome(seat.top + 0.10, 12), (1.005, -0.03), (0.97, -0.03)]
    rings = seat.turned(profile, 48)
    vertices, faces = loft(seat.place(rings))
    dome = part(vertices, faces, colour)
    seam = (np.arange(48) % 8 == 0).repeat(1)
    tint = np.where(seam[None, :, None], darker(colour, 0.72), colour)
    dome.colours[: rings.shape[0] * 48] = np.broadcast_to(tint, (rings.shape[0], 48, 3)).reshape(-1, 3)
    # The visor: a sheet that is longest in front and bends down at its sides.
    t = np.linspace(-1, 1, 23)
    angle = t * 1.22
    reach = np.linspace(0, 1, 7)[:, None]
    length = 0.34 * np.sqrt(np.clip(1 - t**2, 0.0, 1))
    x = (seat.a + 0.05 * reach * length) * np.sin(angle) * (1 + 0.04 * reach)
    z = seat.b * np.cos(angle) + reach * length
    y = 0.0 - 0.10 * (x / seat.a) ** 2 * (0.3 + reach) - 0.09 * reach**1.5 + 0.015
    upper = np.stack([x, y, z], -1)
    under = upper - np.array([0, 0.022, 0.0])
    ring = np.concatenate([upper, under[::-1]], 0)  # loops around the visor's thickness
    vertices, faces = loft(seat.place(ring.transpose(1, 0, 2)))
    visor_colour = colour if rng.random() < 0.6 else darker(colour, 0.6)
    visor = part(vertices, faces, visor_colour)
    button = part(*sphere(seat.place(np.array([0, seat.top + 0.10, 0.0])), 0.022, 6, 8), darker(colour, 0.8))
    return joined([dome, visor, button])


def _beanie(fit: Fit, colour: Array, rng: np.random.Generator) -> Part:
    seat = _Seat(fit, "beanie", 0.035)
    columns = 96
    height = seat.top + float(rng.uniform(0.12, 0.2))
    rings = seat.turned([*_dome(height, 12, 2.1), (1.0, -0.06)], columns)
    rib = 1 + 0.012 * np.cos(np.arange(columns) * np.pi)[None, :, None]
    rings[..., [0, 2]] *= rib
    vertices, faces = loft(seat.place(rings))
    dome = part(vertices, faces, colour)
    shade = np.where(np.arange(columns) % 2 == 0, 1.0, 0.86)[None, :, None]
    dome.colours[: rings.shape[0] * columns] = (
        np.broadcast_to(shade, rings.shape[:2] + (1,)) * colour
    ).reshape(-1, 3)
    fold = seat.turned(
        [(1.0, 0.085), (1.07, 0.075), (1.10, 0.02), (1.09, -0.05), (1.04, -0.075), (0.98, -0.06)], columns
    )
    fold[..., [0, 2]] *= 1 + 0.014 * np.cos(np.arange(columns) * np.pi)[None, :, None]
    vertices, faces = loft(seat.place(fold), caps=False)
    cuff = part(vertices, faces, colour)
    cuff.colours[:] = (np.broadcast_to(shade, fold.shape[:2] + (1,)) * darker(colour, 0.88)).reshape(-1, 3)
    parts = [dome, cuff]
    if rng.random() < 0.45:
        parts.append(
            part(*sphere(seat.place(np.array([0, height + 0.05, 0.0])), 0.085, 10, 14), darker(colour, 1.15))
        )
    return joined(parts)


def _cowboy(fit: Fit, colour: Array, rng: np.random.Generator) -> Part:
    seat = _Seat(fit, "cowboy hat", 0.03)
    columns = 48
    height = seat.top + 0.20
    profile = [
        (0.02, 1.0),
        (0.35, 1.0),
        (0.62, 0.99),
        (0.78, 0.94),
        (0.88, 0.8),
        (0.93, 0.55),
        (0.97, 0.25),
        (1.0, 0.0),
    ]
    rings = seat.turned([(r, h * height) for r, h in profile], columns)
    # The pinched crown: a valley from front to back, deepest in the middle, and two dents in front.
    x, y, z = rings[..., 0].copy(), rings[..., 1], rings[..., 2].copy()
    upper = np.clip(y / height, 0, 1) ** 4
    rings[..., 1] -= upper * 0.10 * np.exp(-((x / 0.10) ** 2)) * (1 - 0.3 * (z / seat.b))
    rings[..., 0] *= 1 - 0.30 * np.clip(y / height, 0, 1) ** 2 * np.clip(z / seat.b, 0, 1)
    crown_vertices, crown_faces = loft(seat.place(rings))
    brim_profile = [
        (1.0, 0.03),
        (1.12, 0.0),
        (1.35, 0.0),
        (1.60, 0.005),
        (1.80, 0.01),
        (1.82, -0.005),
        (1.6, -0.02),
        (1.35, -0.025),
        (0.98, -0.03),
    ]
    brim = seat.turned(brim_profile, columns)
    reach = np.clip((np.array([p[0] for p in brim_profile]) - 1.0) / 0.82, 0, 1)[:, None]
    angle = np.linspace(0, 2 * np.pi, columns, endpoint=False)[None]
    curl = float(rng.uniform(0.16, 0.24))
    brim[..., 1] += reach**2 * (curl * np.sin(angle) ** 4 - 0.06 * np.cos(angle) ** 2)
    brim[..., 0] *= 1 - 0.16 * reach * np.sin(angle) ** 2
    brim_vertices, brim_faces = loft(seat.place(brim), caps=False)
    band = seat.turned([(1.0, 0.10), (1.015, 0.095), (1.03, 0.035), (1.0, 0.02)], columns)
    band_vertices, band_faces = loft(seat.place(band), caps=False)
    return joined([
        part(crown_vertices, crown_faces, colour),
        part(brim_vertices, brim_faces, darker(colour, 0.93)),
        part(band_vertices, band_faces, darker(colour, 0.35)),
    ])  # fmt: skip


def _top_hat(fit: Fit, colour: Array, rng: np.random.Generator) -> Part:
    seat = _Seat(fit, "top hat", 0.03)
    height = seat.top + float(rng.uniform(0.26, 0.34))
    profile = [
        (0.02, height),
        (0.9, height),
        (1.0, height - 0.012),
        (1.01, height - 0.03),
        (0.97, 0.6 * height),
        (0.96, 0.3 * height),
        (1.0, 0.0),
    ]
    body = part(*loft(seat.place(seat.turned(profile))), colour, 0.15)
    brim = seat.turned(
        [(1.0, 0.02), (1.2, 0.0), (1.42, 0.012), (1.44, 0.0), (1.42, -0.015), (1.2, -0.03), (0.97, -0.03)]
    )
    angle = np.linspace(0, 2 * np.pi, 44, endpoint=False)
    reach = np.clip((np.array([1.0, 1.2, 1.42, 1.44, 1.42, 1.2, 0.97]) - 1) / 0.44, 0, 1)[:, None]
    brim[..., 1] += 0.07 * reach * np.sin(angle)[None] ** 2
    brim_part = part(*loft(seat.place(brim), caps=False), darker(colour, 0.95), 0.15)
    ribbon_colour = named_colour("red") if float(np.mean(colour)) < 0.2 else darker(colour, 0.3)
    ribbon = seat.turned([(0.985, 0.15), (1.005, 0.14), (1.03, 0.03), (1.0, 0.02)])
    return joined([body, brim_part, part(*loft(seat.place(ribbon), caps=False), ribbon_colour)])


def _crown(fit: Fit, colour: Array, rng: np.random.Generator) -> Part:
    seat = _Seat(fit, "crown", 0.055)
    points, per_point = 8, 8
    columns = points * per_point
    phase = (np.arange(columns) % per_point) / per_point
    zigzag = 1 - np.abs(2 * phase - 1)  # 0 in the valleys, 1 at the peaks
    zigzag = np.roll(zigzag, per_point // 2)
    low, high = 0.13, 0.13 + 0.17 * zigzag
    rows = [
        (1.0, -0.02 + 0 * high),
        (1.05, -0.02 + 0 * high),
        (1.055, 0.03 + 0 * high),
        (1.03, 0.04 + 0 * high),
        (1.04, low + 0 * high),
        (1.08, high),
        (1.05, high),
        (1.0, low + 0 * high),
        (1.0, -0.02 + 0 * high),
    ]
    rings = seat.turned([(r, 0.0) for r, _ in rows], columns)
    rings[..., 1] = np.stack([h for _, h in rows])
    gold = part(*loft(seat.place(rings), caps=False), GOLD, 0.75, "metal")
    parts = [gold]
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    for a in angle:
        # Columns are spaced evenly in the angle, so the peaks are where the zigzag is one.
        for factor, height, radius, tint in ((1.06, 0.085, 0.034, colour), (1.08, 0.315, 0.024, GOLD)):
            centre = np.array([factor * seat.a * np.sin(a), height, factor * seat.b * np.cos(a)])
            gem = part(*sphere(seat.place(centre), radius, 7, 9), tint, 0.8, "metal")
            parts.append(gem)
    return joined(parts, "metal")


def _headphones(fit: Fit, colour: Array, volume: float) -> Part:
    left = np.asarray(fit.anchors["left_ear"], np.float64)
    width = float(fit.band(float(left[1]) + 0.15, 0.1)[0])
    crown = float(fit.anchors["crown"][1])  # type: ignore[index]
    top = crown + volume + 0.05
    ear_y, ear_z = float(left[1]), float(left[2])
    reach = max(abs(float(left[0])), width) + 0.03
    t = np.linspace(-0.5 * np.pi, 0.5 * np.pi, 29)
    wide = max(reach + 0.04, width + volume + 0.04)
    # The band is a superellipse from cup to cup, so that it clears the hair at the sides of the top.
    x = wide * np.sign(np.sin(t)) * np.abs(np.sin(t)) ** 0.85
    y = ear_y + 0.02 + (top - ear_y - 0.02) * np.abs(np.cos(t)) ** 0.75
    path = np.stack([x, y, np.full_like(x, ear_z)], 1)
    band = part(*tube(path, 0.024, sides=8, flat=2.3, up=(0.0, 0.0, 1.0)), colour, 0.3)
    parts = [band]
    for side in (-1.0, 1.0):
        for start, stop, radius, tint in (
            (0.0, 0.07, 0.135, darker(colour, 0.3)),
            (0.06, 0.14, 0.12, colour),
        ):
            s = np.array([start, start + 0.01, 0.5 * (start + stop), stop - 0.012, stop])
            r = radius * np.array([0.86, 0.98, 1.02, 0.96, 0.78])
            a = np.linspace(0, 2 * np.pi, 20, endpoint=False)
            ring = np.stack(
                [
                    np.broadcast_to(side * (reach - 0.03 + s)[:, None], (5, 20)),
                    ear_y + 1.12 * r[:, None] * np.cos(a)[None],
                    ear_z + r[:, None] * np.sin(a)[None],
                ],
                -1,
            )
            parts.append(part(*loft(ring), tint, 0.3))
    return joined(parts)


def build_headwear(fit: Fit, name: str, colour: Array, volume: float, rng: np.random.Generator) -> list[Part]:
    """The headwear's parts.

    Args:
        fit: the head.
        name: a value of ``HEADWEAR``.
        colour: ``(3,)`` its colour; a crown stays gold and wears it as gems.
        volume: how far the hair on top stands off the skull (headphones lie over it).
        rng: small variations.
    """
    colour = np.asarray(colour, np.float32)
    if name == "baseball cap":
        return [_cap(fit, colour, rng)]
    if name == "beanie":
        return [_beanie(fit, colour, rng)]
    if name == "cowboy hat":
        return [_cowboy(fit, colour, rng)]
    if name == "top hat":
        return [_top_hat(fit, colour, rng)]
    if name == "crown":
        return [_crown(fit, colour, rng)]
    if name == "headphones":
        return [_headphones(fit, colour, volume)]
    return []
