"""What a picture of a figure can show: by the angle, by the framing, and by what hides what."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headsculpt.synthesis.attributes import VALUES, Attributes

IGNORED = -100  # the label of what cannot be seen; cross_entropy's own default for "no label"
# How far from the front, in degrees, a picture still shows a family. Ours, from looking at the world:
# a nose's profile is clearest from the side, round and square glasses are one line from there.
AZIMUTH_LIMIT_DEG: dict[str, float] = {
    "subject": 85, "material": 180, "skin": 110, "hair_style": 180, "hair_colour": 180, "facial_hair": 80,
    "eyewear": 70, "headwear": 180, "headwear_colour": 180, "expression": 70, "face": 60, "nose": 85,
    "ears": 100, "earrings": 95, "clothing": 70, "clothing_colour": 180,
}  # fmt: skip
# The frame must reach this far (units above and below its centre) to hold what tells the family.
CLOSEST_FRAMING: dict[str, float] = {
    "clothing": 0.75,
    "clothing_colour": 0.72,
    "hair_style": 0.58,
    "headwear": 0.52,
    "headwear_colour": 0.52,
    "hair_colour": 0.48,
    "ears": 0.46,
    "earrings": 0.46,
    "face": 0.46,
}
COVERING_HATS = ("baseball cap", "beanie", "cowboy hat", "top hat")
BRIMMED_HATS = ("baseball cap", "cowboy hat", "top hat")
BRIM_DEG = 18.0  # from higher than this a brim hides the eyes
# Hair that falls over the lobes; the tips of pointed ears stick out of everything.
LOBE_HAIR = ("long", "curly")


def wrapped_deg(azimuth_deg: float) -> float:
    """The same direction in [-180, 180)."""
    return (azimuth_deg + 180.0) % 360.0 - 180.0


def visible_families(
    attributes: Attributes | None, azimuth_deg: float, half_height: float = 1.0, elevation_deg: float = 0.0
) -> frozenset[str]:
    """The families that a picture from there can show.

    Args:
        attributes: what the figure has, to leave out what it hides itself (hair under a hat, the skin of
            a statue, the colour of no hat); None asks about the view alone.
        azimuth_deg: any angle.
        half_height: framing in scene units, see :func:`headsculpt.cameras.framed`.
        elevation_deg: positive looks down.

    Returns:
        Names among those of ``VALUES``.

    Example:
        >>> "expression" in visible_families(None, 180.0)
        False
    """
    azimuth = abs(wrapped_deg(azimuth_deg))
    seen = {
        name
        for name, limit in AZIMUTH_LIMIT_DEG.items()
        if azimuth <= limit and half_height >= CLOSEST_FRAMING.get(name, 0.0)
    }
    return frozenset(seen if attributes is None else seen - _hidden(attributes, azimuth, elevation_deg))


def families_shown(values: Mapping[str, Any]) -> frozenset[str]:
    """The families that some view around a head with these values shows; what is not given is taken as plain."""
    attributes = Attributes(**values)
    return frozenset().union(*(visible_families(attributes, azimuth) for azimuth in range(0, 181, 15)))


def _hidden(a: Attributes, azimuth: float, elevation_deg: float) -> set[str]:
    """Families that the figure hides itself."""
    hidden: set[str] = set()
    if a.material != "plain":
        hidden |= {"skin", "hair_colour", "headwear_colour", "clothing_colour"}
    covered = a.headwear in COVERING_HATS
    if covered:
        hidden.add("hair_style")
    # Below a hat's brim hair shows at the temples and the back, but nothing of a mohawk; a beanie hides
    # short hair as well.
    hair_seen = a.hair_style != "bald" and not (covered and a.hair_style == "mohawk")
    if a.headwear == "beanie" and a.hair_style == "short":
        hair_seen = False
    beard_seen = a.facial_hair != "none" and azimuth <= AZIMUTH_LIMIT_DEG["facial_hair"]
    if not hair_seen and not beard_seen:
        hidden.add("hair_colour")
    if a.headwear in ("none", "crown"):
        hidden.add("headwear_colour")
    if a.hair_style in LOBE_HAIR and not a.earrings:  # with earrings it is worn behind the ears
        hidden.add("earrings")
    if a.eyewear == "eyepatch" and azimuth > 45:
        hidden.add("eyewear")  # it may be on the far side
    if a.headwear in BRIMMED_HATS and elevation_deg > BRIM_DEG:
        hidden |= {"subject", "expression", "eyewear", "face", "nose", "facial_hair"}
    if a.facial_hair == "full beard":
        hidden.add("face")  # the beard is the jaw's outline
    return hidden


def visible_labels(
    attributes: Attributes, azimuth_deg: float, elevation_deg: float, half_height: float
) -> list[int]:
    """Of each family in ``VALUES`` the number of its value, or :data:`IGNORED` where the picture cannot show it."""
    seen = visible_families(attributes, azimuth_deg, half_height, elevation_deg)
    return [
        values.index(getattr(attributes, family)) if family in seen else IGNORED
        for family, values in VALUES.items()
    ]
