"""The colours that the vocabulary names, and their natural spread."""

from __future__ import annotations

import numpy as np

Array = np.ndarray

COLOUR_VALUES: dict[str, tuple[float, float, float]] = {
    "black": (0.07, 0.07, 0.08),
    "white": (0.90, 0.90, 0.88),
    "grey": (0.47, 0.48, 0.50),
    "brown": (0.38, 0.22, 0.11),
    "red": (0.78, 0.09, 0.09),
    "orange": (0.95, 0.47, 0.06),
    "yellow": (0.95, 0.82, 0.12),
    "green": (0.12, 0.55, 0.18),
    "blue": (0.11, 0.26, 0.78),
    "purple": (0.46, 0.13, 0.62),
    "pink": (0.96, 0.45, 0.68),
}
SKIN_VALUES: dict[str, tuple[float, float, float]] = {
    "pale": (0.98, 0.82, 0.73),
    "tan": (0.80, 0.57, 0.40),
    "brown": (0.55, 0.35, 0.22),
    "dark": (0.30, 0.18, 0.12),
    "green": (0.42, 0.66, 0.30),
    "blue": (0.36, 0.56, 0.86),
    "grey": (0.60, 0.61, 0.63),
}
HAIR_VALUES: dict[str, tuple[float, float, float]] = {
    "black": (0.06, 0.05, 0.06),
    "brown": (0.32, 0.18, 0.09),
    "blonde": (0.90, 0.70, 0.33),
    "red": (0.70, 0.22, 0.06),
    "grey": (0.50, 0.50, 0.52),
    "white": (0.91, 0.91, 0.90),
    "blue": (0.10, 0.30, 0.85),
    "pink": (0.96, 0.38, 0.66),
    "green": (0.14, 0.62, 0.24),
}
IRIS_VALUES = (
    (0.25, 0.14, 0.06),
    (0.20, 0.42, 0.70),
    (0.22, 0.50, 0.25),
    (0.45, 0.30, 0.12),
    (0.38, 0.45, 0.50),
)


def named_colour(name: str) -> Array:
    """``(3,)`` float32 of a colour of clothes and headwear."""
    return np.asarray(COLOUR_VALUES[name], np.float32)


def darker(colour: Array, factor: float) -> Array:
    """The colour times ``factor``, clipped; a factor above 1 lightens."""
    return np.clip(np.asarray(colour, np.float32) * np.float32(factor), 0, 1)


def varied(colour: Array | tuple[float, ...], rng: np.random.Generator, amount: float = 0.05) -> Array:
    """The colour with a little random brightness and tint, relative to itself."""
    base = np.asarray(colour, np.float32)
    factor = 1 + amount * rng.standard_normal() + 0.4 * amount * rng.standard_normal(3)
    return np.clip(base * factor, 0.02, 0.97).astype(np.float32)


def mixed(a: Array, b: Array, share: Array | float) -> Array:
    """``a`` where ``share`` is 0, ``b`` where it is 1; ``share`` gets a trailing axis if it is an array."""
    weight = np.asarray(share, np.float32)[..., None] if np.ndim(share) else np.float32(share)
    return (np.asarray(a, np.float32) * (1 - weight) + np.asarray(b, np.float32) * weight).astype(np.float32)
