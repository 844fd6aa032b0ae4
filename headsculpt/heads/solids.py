"""The designed body as a signed distance: a smooth union of ellipsoids and round cones.

Only the half with x >= 0 is written; the other is its mirror image. Lengths are scene units (0.25 m).
All measures are ours: the proportions that portrait drawing teaches (eyes at half the head's height, the
nose ends half-way from eyes to chin, the mouth a third below), with slightly large eyes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

EYE_CENTRE = np.array([0.127, 0.070, 0.298])
EYE_RADIUS = 0.072


def ellipsoid(p: np.ndarray, centre: tuple, radii: tuple, tilt_deg: float = 0.0) -> np.ndarray:
    """Approximate distance ``(N,)`` of points ``(N, 3)`` to an ellipsoid, turned about x by ``tilt_deg``."""
    q = p - np.asarray(centre, p.dtype)
    if tilt_deg:
        c, s = np.cos(np.deg2rad(tilt_deg)), np.sin(np.deg2rad(tilt_deg))
        q = np.stack([q[:, 0], c * q[:, 1] + s * q[:, 2], -s * q[:, 1] + c * q[:, 2]], 1)
    r = np.asarray(radii, p.dtype)
    scaled = q / r
    k0 = np.sqrt(np.einsum("ij,ij->i", scaled, scaled))
    scaled /= r
    k1 = np.sqrt(np.einsum("ij,ij->i", scaled, scaled))
    return k0 * (k0 - 1.0) / np.maximum(k1, 1e-9)


def cone(p: np.ndarray, a: tuple, b: tuple, radius_a: float, radius_b: float) -> np.ndarray:
    """Approximate distance ``(N,)`` to a round cone from ``a`` to ``b``: a capsule whose radius changes."""
    start, axis = np.asarray(a, p.dtype), np.asarray(b, p.dtype) - np.asarray(a, p.dtype)
    q = p - start
    t = np.clip(q @ axis / (axis @ axis), 0.0, 1.0)
    q = q - t[:, None] * axis
    return np.sqrt(np.einsum("ij,ij->i", q, q)) - (radius_a + (radius_b - radius_a) * t)


def union(a: np.ndarray, b: np.ndarray, k: float) -> np.ndarray:
    """Smooth minimum; ``k`` is the width of the fillet in scene units."""
    h = np.maximum(k - np.abs(a - b), 0.0) / k
    return np.minimum(a, b) - h * h * (0.25 * k)


def carve(a: np.ndarray, b: np.ndarray, k: float) -> np.ndarray:
    """Smooth difference: ``a`` without ``b``."""
    return -union(-a, b, k)


def skull(p: np.ndarray) -> np.ndarray:
    """Cranium, face, jaw and cheeks, without features. ``p`` has x >= 0."""
    d = ellipsoid(p, (0, 0.165, -0.045), (0.318, 0.375, 0.378))
    d = union(d, ellipsoid(p, (0, 0.20, 0.14), (0.25, 0.24, 0.225)), 0.10)  # forehead
    d = union(d, ellipsoid(p, (0, -0.04, 0.12), (0.262, 0.30, 0.235)), 0.10)  # face
    d = union(d, cone(p, (0.195, -0.180, 0.03), (0.045, -0.318, 0.300), 0.055, 0.050), 0.09)  # jaw bone
    d = union(d, cone(p, (0.212, 0.02, 0.0), (0.197, -0.165, 0.02), 0.062, 0.054), 0.12)  # ramus
    d = union(d, ellipsoid(p, (0, -0.325, 0.318), (0.078, 0.052, 0.072)), 0.05)  # chin
    d = union(d, cone(p, (0.165, -0.015, 0.27), (0.25, 0.01, 0.12), 0.06, 0.05), 0.07)  # cheekbone
    d = union(d, ellipsoid(p, (0.12, -0.12, 0.25), (0.105, 0.12, 0.105)), 0.08)  # cheek
    d = union(d, ellipsoid(p, (0, -0.325, 0.18), (0.13, 0.060, 0.15)), 0.10)  # under the jaw
    return union(d, ellipsoid(p, (0, -0.20, 0.285), (0.125, 0.105, 0.118)), 0.07)  # around the mouth


def features(p: np.ndarray, d: np.ndarray) -> np.ndarray:
    """Adds brow, sockets, nose, lids and lips to the skull's distance ``d``."""
    d = carve(d, ellipsoid(p, (0.123, 0.061, 0.408), (0.080, 0.056, 0.054)), 0.05)  # socket
    d = union(d, cone(p, (0.0, 0.138, 0.366), (0.19, 0.150, 0.30), 0.034, 0.028), 0.05)  # brow
    d = union(d, cone(p, (0, 0.10, 0.365), (0, -0.06, 0.438), 0.026, 0.030), 0.065)  # bridge
    d = union(d, ellipsoid(p, (0, -0.083, 0.452), (0.040, 0.036, 0.046)), 0.035)  # tip
    d = union(d, ellipsoid(p, (0.044, -0.101, 0.413), (0.025, 0.028, 0.044)), 0.030)  # wing
    d = union(d, cone(p, (0, -0.115, 0.43), (0, -0.15, 0.385), 0.014, 0.012), 0.03)  # columella
    lid = EYE_RADIUS + 0.0075
    d = union(d, ellipsoid(p, tuple(EYE_CENTRE), (lid, lid, lid)), 0.022)
    d = union(d, cone(p, (0.012, -0.187, 0.400), (0.094, -0.203, 0.345), 0.018, 0.010), 0.025)  # upper lip
    return union(d, cone(p, (0.0, -0.223, 0.396), (0.086, -0.208, 0.345), 0.022, 0.010), 0.025)  # lower lip


def mirrored(p: np.ndarray) -> np.ndarray:
    """Points with x >= 0, without a crease at the midline."""
    q = p.copy()
    q[:, 0] = np.sqrt(p[:, 0] ** 2 + 1e-6)
    return q


def trunk(p: np.ndarray) -> np.ndarray:
    """Neck, trapezius, shoulders and chest: signed distance ``(N,)``."""
    p = mirrored(p)
    d = cone(p, (0, -0.12, -0.10), (0, -0.75, -0.15), 0.172, 0.185)
    d = union(d, cone(p, (0.185, -0.10, -0.05), (0.035, -0.655, 0.045), 0.04, 0.030), 0.05)  # sternomastoid
    d = union(d, ellipsoid(p, (0, -0.50, 0.052), (0.035, 0.05, 0.035)), 0.05)  # Adam's apple
    d = union(d, cone(p, (0.08, -0.40, -0.20), (0.56, -0.76, -0.15), 0.10, 0.085), 0.14)  # trapezius
    d = union(d, ellipsoid(p, (0.62, -0.90, -0.14), (0.235, 0.21, 0.20)), 0.10)  # shoulder
    d = union(d, ellipsoid(p, (0, -1.02, -0.10), (0.66, 0.36, 0.30)), 0.14)  # chest
    return union(d, cone(p, (0.05, -0.70, 0.075), (0.50, -0.735, 0.0), 0.030, 0.028), 0.07)  # collar bone


def body(p: np.ndarray) -> np.ndarray:
    """Signed distance ``(N,)`` of the whole bust at points ``(N, 3)``; negative inside."""
    q = mirrored(p)
    head = skull(q)
    front = (q[:, 2] > 0.1) & (q[:, 1] < 0.35) & (q[:, 1] > -0.40)
    if front.any():
        head[front] = features(q[front], head[front])
    return union(head, trunk(q), 0.08)


def trace(
    origin: np.ndarray,
    direction: np.ndarray,
    solid: Callable[[np.ndarray], np.ndarray],
    reach: float = 1.35,
    steps: int = 48,
) -> np.ndarray:
    """First surface point met when coming from outside along each ray.

    Args:
        origin: ``(N, 3)`` inside the body.
        direction: ``(N, 3)`` unit, pointing outwards.
        solid: signed distance ``(N, 3) -> (N,)``.
        reach: distance from the origin at which the search starts, beyond the body.
        steps: sphere-tracing steps.

    Returns:
        ``(N, 3)`` points.
    """
    t = np.full(len(origin), reach, origin.dtype)
    active = np.arange(len(origin))
    for _ in range(steps):
        d = solid(origin[active] + t[active, None] * direction[active])
        t[active] = np.maximum(t[active] - 0.92 * d, 0.0)
        active = active[np.abs(d) > 2e-4]
        if not len(active):
            break
    return origin + t[:, None] * direction
