"""Facial hair: shells over the beard's region, and a moustache that stands off the lip."""

from __future__ import annotations

import numpy as np

from headsculpt.synthesis.fit import Fit
from headsculpt.synthesis.palette import darker
from headsculpt.synthesis.parts import Array, Part, noise, part, smoothstep, tube


def _blurred(mask: Array, passes: int) -> Array:
    for _ in range(passes):
        mask = (np.roll(mask, 1, 1) + 2 * mask + np.roll(mask, -1, 1)) / 4
        padded = np.pad(mask, ((1, 1), (0, 0)), mode="edge")
        mask = (padded[:-2] + 2 * mask + padded[2:]) / 4
    return mask


def _shell(fit: Fit, region: str, colour: Array, thickness: float, hang: float, seed: int) -> Part:
    mask = fit.regions[region]
    inner = smoothstep(0.5, 1.0, _blurred(mask, 8))
    points = fit.skin * np.array([26.0, 9.0, 26.0], np.float32)
    streak = noise(np.ascontiguousarray(points.reshape(-1, 3), np.float32), seed).reshape(mask.shape) * 2 - 1
    offset = np.where(mask > 0.5, 0.008 + inner * (thickness + 0.012 * streak), 0.05 * (mask - 0.5))
    chin = float(fit.anchors["chin"][1])  # type: ignore[index]
    low = smoothstep(chin + 0.14, chin, fit.skin[..., 1]) * inner * (fit.skin[..., 2] > -0.1)
    down = np.zeros_like(fit.skin)
    down[..., 1] = -hang * low
    down[..., 2] = 0.35 * hang * low
    tint = np.clip(np.asarray(colour) * (1 + 0.35 * streak)[..., None], 0, 1)
    return fit.shell(offset, tint, kind="hair", specular=0.08, displaced=down)


def _moustache(fit: Fit, colour: Array, size: float, seed: int, rng: np.random.Generator) -> Part:
    mouth = np.asarray(fit.anchors["mouth"], np.float64)
    nose = np.asarray(fit.anchors["nose_tip"], np.float64)
    corner = abs(float(np.asarray(fit.anchors["left_mouth_corner"])[0]))
    top = min(0.5 * (mouth[1] + nose[1]) + 0.005, mouth[1] + 0.075)
    t = np.linspace(-1, 1, 25)
    reach = corner * float(rng.uniform(1.15, 1.4))
    droop = float(rng.uniform(-0.01, 0.055))
    x = t * reach
    y = top - 0.012 - (top - mouth[1] - 0.014) * np.abs(t) ** 1.5 - droop * np.abs(t) ** 5
    z = fit.front(x, y) + 0.010
    path = np.stack([x, y, z], 1)
    radius = size * np.interp(np.abs(t), [0, 0.12, 0.45, 0.8, 1.0], [0.020, 0.027, 0.028, 0.019, 0.006])
    vertices, faces = tube(path, radius, sides=10, up=(0.0, 0.0, 1.0), flat=0.8)
    piece = part(vertices, faces, colour, 0.08, "hair")
    streak = noise(np.ascontiguousarray(vertices * np.array([40, 12, 12]), np.float32), seed) * 2 - 1
    piece.colours[:] = np.clip(np.asarray(colour) * (1 + 0.35 * streak)[:, None], 0, 1)
    return piece


def build_beard(fit: Fit, name: str, colour: Array, rng: np.random.Generator) -> list[Part]:
    """Parts of a value of ``FACIAL_HAIR``."""
    seed = int(rng.integers(1 << 20))
    colour = darker(np.asarray(colour), 0.92)
    if name == "moustache":
        return [_moustache(fit, colour, 1.15, seed, rng)]
    if name == "goatee":
        return [
            _shell(fit, "goatee", colour, 0.036, float(rng.uniform(0.05, 0.11)), seed),
            _moustache(fit, colour, 0.62, seed, rng),
        ]
    if name == "full beard":
        hang = float(rng.uniform(0.05, 0.17))
        return [_shell(fit, "beard", colour, 0.052, hang, seed), _moustache(fit, colour, 1.0, seed, rng)]
    return []
