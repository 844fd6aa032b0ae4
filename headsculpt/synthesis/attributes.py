"""What a portrait can show: twelve families of attributes, and how a random figure draws them."""

from __future__ import annotations

from dataclasses import dataclass, fields

SUBJECTS = ("man", "woman", "boy", "girl", "old man", "old woman", "elf", "alien", "orc", "zombie")
MATERIALS = ("plain", "marble bust", "bronze statue", "wooden carving")
SKINS = ("pale", "tan", "brown", "dark", "green", "blue", "grey")
HAIR_STYLES = ("bald", "short", "long", "curly", "ponytail", "bun", "mohawk")
HAIR_COLOURS = ("black", "brown", "blonde", "red", "grey", "white", "blue", "pink", "green")
FACIAL_HAIR = ("none", "moustache", "goatee", "full beard")
EYEWEAR = ("none", "round glasses", "square glasses", "sunglasses", "eyepatch")
HEADWEAR = ("none", "baseball cap", "beanie", "cowboy hat", "top hat", "crown", "headphones")
EXPRESSIONS = ("neutral", "smiling", "sad", "angry", "surprised")
FACES = ("slim", "round", "square jaw")
NOSES = ("small", "big", "long")
EARS = ("plain", "pointed")
CLOTHING = ("t-shirt", "hoodie", "suit and tie")
COLOURS = (
    "black", "white", "grey", "brown", "red", "orange", "yellow", "green", "blue", "purple", "pink",
)  # fmt: skip


@dataclass(frozen=True)
class Attributes:
    """One figure, completely named. Values are those of the tuples above."""

    subject: str = "man"
    material: str = "plain"
    skin: str = "pale"
    hair_style: str = "short"
    hair_colour: str = "brown"
    facial_hair: str = "none"
    eyewear: str = "none"
    headwear: str = "none"
    headwear_colour: str = "black"
    expression: str = "neutral"
    face: str = "slim"
    nose: str = "small"
    ears: str = "plain"
    earrings: bool = False
    clothing: str = "t-shirt"
    clothing_colour: str = "white"


VALUES: dict[str, tuple] = {
    "subject": SUBJECTS,
    "material": MATERIALS,
    "skin": SKINS,
    "hair_style": HAIR_STYLES,
    "hair_colour": HAIR_COLOURS,
    "facial_hair": FACIAL_HAIR,
    "eyewear": EYEWEAR,
    "headwear": HEADWEAR,
    "headwear_colour": COLOURS,
    "expression": EXPRESSIONS,
    "face": FACES,
    "nose": NOSES,
    "ears": EARS,
    "earrings": (False, True),
    "clothing": CLOTHING,
    "clothing_colour": COLOURS,
}
assert tuple(VALUES) == tuple(f.name for f in fields(Attributes))
