"""What an edit leaves as it was: pixels outside the edited region, the face's landmarks, the other attributes.

An edit that restyles the whole head reaches any instruction; a good one changes what it was told to and
nothing else. HeadSculpt argues with pictures here; the figures are ours.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from headsculpt.heads.places import PLACES
from headsculpt.synthesis.attributes import VALUES
from headsculpt.synthesis.visibility import families_shown

if TYPE_CHECKING:
    from headsculpt.avatar import Avatar
    from headsculpt.cameras import Cameras
    from headsculpt.evaluation.judge import Judge

def edited_region(families: Collection[str], cameras: Cameras) -> Tensor:
    """Where an edit of these families may change a picture: the outlines of their boxes.

    Args:
        families: names of ``VALUES`` that the edit is about.
        cameras: B views.

    Returns:
        ``(B, 1, H, W)`` bool; all True where a family may change the whole head.

    Raises:
        ValueError: an unknown family.
    """
    unknown = sorted(set(families) - set(VALUES))
    if unknown:
        raise ValueError(f"unknown attribute {unknown[0]!r}; there are {', '.join(VALUES)}")
    height, width = cameras.height, cameras.width
    region = torch.zeros(len(cameras), 1, height, width, dtype=torch.bool)
    if any(family not in PLACES for family in families):
        return ~region
    rows = torch.arange(height)[:, None] + 0.5
    columns = torch.arange(width)[None] + 0.5
    for family in families:
        box = PLACES[family][0]  # a second one lies behind the head, and would cover the face from the front
        corners = torch.cartesian_prod(*(torch.tensor(pair) for pair in zip(*box, strict=True)))
        pixels = cameras.pixels(corners).cpu()
        low, high = pixels.amin(1), pixels.amax(1)
        for b in range(len(cameras)):
            inside = (columns >= low[b, 0]) & (columns <= high[b, 0]) & (rows >= low[b, 1]) & (rows <= high[b, 1])
            region[b, 0] |= inside
    return region


def outside_difference(before: Tensor, after: Tensor, region: Tensor) -> float | None:
    """Mean absolute difference of two sets of pictures outside a region.

    Args:
        before, after: ``(B, 3, H, W)`` in [0, 1], the same views.
        region: ``(B, 1, H, W)`` bool, the edited part.

    Returns:
        0 for equal pictures up to 1; None where nothing is outside.

    Raises:
        ValueError: shapes that do not fit.
    """
    if before.shape != after.shape or before.dim() != 4 or region.shape != (len(before), 1, *before.shape[2:]):
        raise ValueError(
            f"expected two (B, 3, H, W) and a region (B, 1, H, W); got {tuple(before.shape)}, {tuple(after.shape)} "
            f"and {tuple(region.shape)}"
        )
    outside = ~region.bool().expand_as(before)
    return float((before - after).abs()[outside].mean()) if outside.any() else None


def landmark_drift(
    before: Tensor, after: Tensor, seen_before: Tensor, seen_after: Tensor
) -> float | None:
    """Mean distance between landmarks before and after, over those seen in both.

    Args:
        before, after: ``(B, K, 2)`` as fractions of the picture's width.
        seen_before, seen_after: ``(B, K)`` bool, or probabilities, where 0.5 and more means seen.

    Returns:
        a fraction of the width; None where no landmark is seen in both.
    """
    if before.shape != after.shape or before.shape[-1] != 2:
        raise ValueError(f"expected landmarks (B, K, 2) twice; got {tuple(before.shape)} and {tuple(after.shape)}")
    both = (seen_before.float() >= 0.5) & (seen_after.float() >= 0.5)
    return float((before - after).norm(dim=-1)[both].mean()) if both.any() else None


def attributes_kept(
    before: Mapping[str, object], after: Mapping[str, object], named: Collection[str]
) -> tuple[int, int]:
    """Of the families that the edit does not name: how many read the same before and after, and how many there are.

    A family that can be seen only before or only after (hair under a new hat) says nothing and is not counted,
    nor is the colour of what is not there.
    """
    shown = families_shown(before) & families_shown(after)
    pairs = [f for f in before if f in after and f in shown and f not in named]
    return sum(before[f] == after[f] for f in pairs), len(pairs)


def identity_preservation(
    source: Avatar, edited: Avatar, judge: Judge, families: Collection[str], *, resolution: int = 256
) -> dict[str, Any]:
    """All of it on two avatars, from front, three-quarter and side.

    Args:
        source, edited: before and after.
        judge: reads attributes and, where it was trained to, landmarks.
        families: what the edit is about, as the prompts file ``expects`` it.

    Returns:
        ``outside_difference``, ``landmark_drift`` (None where they cannot be measured), ``kept`` and ``kept_of``.
    """
    from headsculpt.cameras import framed
    from headsculpt.evaluation.evaluate import ELEVATION_DEG, READ_VIEWS, views_of

    places = READ_VIEWS[:8]
    pictures = [views_of(avatar, places, resolution) for avatar in (source, edited)]
    azimuths, halves = [a for a, _ in places], [half for _, half in places]
    cameras = framed(azimuths, ELEVATION_DEG, 1.0, height=resolution, width=resolution)
    readings = [
        {family: value for family, (value, _) in judge.read_views(images, azimuths, halves).items()}
        for images in pictures
    ]
    kept, of = attributes_kept(readings[0], readings[1], families)
    drift = None
    if judge.network.config.landmark_count:
        (points, seen), (moved, still) = (judge.landmarks(images[:3]) for images in pictures)
        drift = landmark_drift(points, moved, seen, still)
    region = edited_region(families, cameras)
    return {
        "outside_difference": outside_difference(pictures[0], pictures[1], region),
        "landmark_drift": drift,
        "kept": kept,
        "kept_of": of,
    }
