"""Where on a head its attributes are: boxes around what a change of each may touch."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from headsculpt.cameras import Cameras

Box = tuple[tuple[float, float, float], tuple[float, float, float]]  # x, y, z from; x, y, z to

# Long hair lies close; above the chin it may stand off as far as curls do, and over the brow hang forward.
_HAIR: tuple[Box, ...] = (
    ((-0.55, -0.75, -0.70), (0.55, 1.00, 0.45)),
    ((-0.90, -0.34, -0.95), (0.90, 1.00, 0.45)),
    ((-0.90, 0.25, -0.95), (0.90, 1.00, 0.80)),
)
# From the brow up; behind and at the temples, where caps reach further down, from the ears' lobes up.
_HAT: tuple[Box, ...] = (
    ((-0.80, 0.10, -0.80), (0.80, 1.00, 0.80)),
    ((-0.80, -0.15, -0.80), (0.80, 0.10, 0.02)),
    ((-0.80, -0.12, 0.00), (-0.24, 0.10, 0.80)),
    ((0.24, -0.12, 0.00), (0.80, 0.10, 0.80)),
)
_CLOTHES: tuple[Box, ...] = (((-1.00, -1.00, -1.00), (1.00, -0.36, 1.00)),)
# In scene units on the built-in head, with room for what is put on; half of the head's width is 0.32, its crown at
# 0.54, its chin at -0.34.
PLACES: dict[str, tuple[Box, ...]] = {
    "hair_style": _HAIR,
    "hair_colour": _HAIR,
    "facial_hair": (((-0.36, -0.65, -0.10), (0.36, 0.05, 0.60)),),
    "eyewear": (((-0.42, -0.10, -0.10), (0.42, 0.25, 0.60)),),
    "headwear": _HAT,
    "headwear_colour": _HAT,
    "expression": (((-0.32, -0.52, -0.02), (0.32, 0.32, 0.55)),),  # down to the chin of an open mouth
    "nose": (((-0.14, -0.24, 0.30), (0.14, 0.14, 0.70)),),
    "ears": (((-0.60, -0.22, -0.30), (0.60, 0.40, 0.25)),),
    "earrings": (((-0.45, -0.35, -0.20), (0.45, 0.05, 0.20)),),
    "clothing": _CLOTHES,
    "clothing_colour": _CLOTHES,
}
EAR: Box = ((0.315, -0.22, -0.20), (0.60, 0.20, 0.10))  # the left one without the skull beside it
# Below the place of a hat, where its rim can stand off from the face.
UNDER_HAT: Box = ((-0.80, -0.15, -0.80), (0.80, 0.10, 0.80))
FADE = 0.05  # scene units around a box over which it ends
EVERYWHERE = ("subject", "material", "skin", "face")  # may change the whole head
COLOURS = frozenset({"hair_colour", "headwear_colour", "clothing_colour", "skin", "material"})  # no shape changes
AROUND_NOSE = frozenset({"expression", "facial_hair"})  # on the face, and not on the nose
HATS = frozenset({"headwear", "headwear_colour"})
OFF_FACE = frozenset({"hair_style", "hair_colour", "ears", "earrings", "clothing", "clothing_colour"})


def in_places(families: Collection[str], points: Tensor) -> Tensor:
    """How far scene points are in the place of one of these families.

    Args:
        families: names in :data:`PLACES`.
        points: ``(N, 3)``.

    Returns:
        ``(N,)``, 1 in a box, falling to 0 at :data:`FADE` from it.

    Raises:
        ValueError: a family without a place.
    """
    found = torch.zeros_like(points[:, 0])
    for box in _boxes(families):
        found = torch.maximum(found, in_box(box, points))
    return found


def in_box(box: Box, points: Tensor) -> Tensor:
    """``(N,)`` of scene points ``(N, 3)``: 1 in a box, falling to 0 at :data:`FADE` from it."""
    low, high = (torch.tensor(corner).to(points) for corner in box)
    outside = torch.maximum(low - points, points - high).clamp_min(0).norm(dim=-1)
    return (1 - outside / FADE).clamp_min(0)


def rays_through(families: Collection[str], cameras: Cameras, until: Tensor) -> Tensor:
    """Pixels whose rays pass through the place of one of these families before they have gone ``until``.

    Args:
        families: names in :data:`PLACES`.
        cameras: B views.
        until: ``(B, H, W)`` distance along each ray, scene units; infinite where nothing is in its way.

    Returns:
        ``(B, H, W)`` bool.

    Raises:
        ValueError: a family without a place.
    """
    origins, directions = cameras.rays()
    found = torch.zeros(until.shape, dtype=torch.bool, device=until.device)
    inverse = 1 / torch.where(directions.abs() < 1e-9, torch.full_like(directions, 1e-9), directions)
    for box in _boxes(families):
        low, high = (torch.tensor(corner, device=until.device) for corner in box)
        a, b = (low - origins) * inverse, (high - origins) * inverse
        enters, leaves = torch.minimum(a, b).amax(-1), torch.maximum(a, b).amin(-1)
        found |= (leaves > enters.clamp_min(0)) & (enters < until)
    return found


def _boxes(families: Collection[str]) -> list[Box]:
    unknown = sorted(set(families) - set(PLACES))
    if unknown:
        raise ValueError(f"{unknown[0]!r} has no place on a head; there are {', '.join(PLACES)}")
    return [box for family in families for box in PLACES[family]]
