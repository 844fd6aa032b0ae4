"""Statues: a material that overrides the colours of the whole figure."""

from __future__ import annotations

import numpy as np

from headsculpt.synthesis.palette import mixed
from headsculpt.synthesis.parts import Array, noise, smoothstep


def _ridged(points: Array, frequency: float, seed: int) -> Array:
    """Thin lines where smooth noise crosses its middle, 1 on the line."""
    warp = noise(np.ascontiguousarray(points * frequency * 2.1, np.float32), seed + 1) - 0.5
    value = noise(np.ascontiguousarray(points * frequency + 0.8 * warp[:, None], np.float32), seed) - 0.5
    return 1 - smoothstep(0.0, 0.05, np.abs(value))


def apply_material(
    name: str, vertices: Array, colours: Array, specular: Array, occlusion: Array, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Colours and highlights of a figure made of one material.

    Args:
        name: a value of ``MATERIALS``; "plain" changes nothing.
        vertices: ``(V, 3)``.
        colours: ``(V, 3)`` of the living figure; a little of its light and dark stays, so that pupils,
            rims and hair can be told apart.
        specular: ``(V,)``.
        occlusion: ``(V,)`` share of the sky that is seen, for what gathers in cavities.
        rng: where veins, patina and grain lie.
    """
    if name == "plain":
        return colours, specular
    seed = int(rng.integers(1 << 20))
    shift = rng.uniform(-9, 9, 3).astype(np.float32)
    points = vertices + shift
    luminance = colours @ np.array([0.3, 0.59, 0.11], np.float32)
    relief = (0.90 + 0.10 * np.clip(luminance * 1.6, 0, 1))[:, None]
    if name == "marble bust":
        vein = 0.55 * _ridged(points, 2.6, seed) + 0.35 * _ridged(points, 5.5, seed + 9)
        base = np.array([0.93, 0.92, 0.90], np.float32) * (1 + 0.02 * rng.standard_normal())
        out = mixed(np.broadcast_to(base, colours.shape), np.array([0.52, 0.53, 0.57]), np.clip(vein, 0, 0.7))
        return np.clip(out * relief, 0, 1), np.full_like(specular, 0.25)
    if name == "bronze statue":
        base = np.array([0.52, 0.32, 0.12], np.float32) * (1 + 0.08 * rng.standard_normal())
        patch = noise(np.ascontiguousarray(points * 6, np.float32), seed)
        patina = smoothstep(0.62, 0.2, occlusion + 0.45 * (patch - 0.5))
        out = mixed(np.broadcast_to(base, colours.shape), np.array([0.22, 0.42, 0.34]), 0.75 * patina)
        return np.clip(out * relief, 0, 1), np.full_like(specular, 0.7)
    tone = np.array([0.62, 0.40, 0.21], np.float32) * (1 + 0.10 * rng.standard_normal())
    warp = 0.10 * (noise(np.ascontiguousarray(points * 3, np.float32), seed) - 0.5)
    # Growth rings around a trunk that stands behind the figure's middle and leans a little.
    radius = np.hypot(vertices[:, 0] - 0.10 - 0.25 * vertices[:, 1], vertices[:, 2] + 0.35) + warp
    ring = 0.5 + 0.5 * np.sin(radius * (2 * np.pi / 0.052))
    fibre = noise(np.ascontiguousarray(points * np.array([30, 3, 30]), np.float32), seed + 3)
    out = mixed(
        np.broadcast_to(tone, colours.shape), tone * 0.52, np.clip(0.65 * ring**2 + 0.35 * fibre - 0.1, 0, 1)
    )
    return np.clip(out * relief, 0, 1), np.full_like(specular, 0.08)
