"""The words of the portrait world: for every value of every attribute family, the ways people say it.

The first entry of a list is the plain one and is used about half of the time. ``{c}`` is where a colour goes
(or nothing); ``a`` becomes ``an`` where it must when a sentence is finished (:func:`with_articles`).
The tables are data only: :mod:`.captions` and :mod:`.instructions` make sentences of them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

MALE = frozenset({"man", "boy", "old man"})
FEMALE = frozenset({"woman", "girl", "old woman"})
HUMANS = MALE | FEMALE

NOUNS: dict[str, tuple[str, ...]] = {
    "man": ("man", "guy", "male", "dude", "fellow", "young man", "adult man", "male person"),
    "woman": ("woman", "lady", "female", "young woman", "young lady", "female person"),
    "boy": ("boy", "little boy", "lad", "young boy", "small boy", "schoolboy"),
    "girl": ("girl", "little girl", "lass", "young girl", "small girl", "schoolgirl"),
    "old man": (
        "old man", "elderly man", "grandfather", "grandpa", "old guy", "old gentleman", "senior man",
        "aged man",
        "elderly gentleman",
    ),
    "old woman": (
        "old woman", "old lady", "elderly woman", "grandmother", "grandma", "granny", "elderly lady",
        "senior woman", "aged woman",
    ),
    "elf": ("elf", "elven person", "elfish person", "wood elf", "high elf"),
    "alien": ("alien", "extraterrestrial", "space alien", "alien creature", "alien being", "martian"),
    "orc": ("orc", "orc warrior", "ork", "orc creature", "orcish warrior", "orcish creature"),
    "zombie": ("zombie", "undead person", "undead creature", "undead", "living dead person"),
}  # fmt: skip
# Species said together with a man's or a woman's word; the second only without facial hair.
SPECIES_MALE: dict[str, tuple[str, ...]] = {
    "elf": ("elf man", "elf boy", "male elf", "elven man"),
    "alien": ("alien man", "male alien"),
    "orc": ("orc man", "male orc"),
    "zombie": ("zombie man", "undead man", "male zombie", "zombie boy"),
}
SPECIES_FEMALE: dict[str, tuple[str, ...]] = {
    "elf": ("elf girl", "elf woman", "female elf", "elven girl", "elven woman", "elven lady"),
    "alien": ("alien girl", "alien woman", "female alien"),
    "orc": ("orc woman", "female orc"),
    "zombie": ("zombie girl", "zombie woman", "undead woman", "female zombie"),
}
# Who somebody is when the caption leaves the subject out.
ANYBODY = ("person", "head", "character", "someone", "figure", "human face", "face")
FACELESS = frozenset({"head", "human face", "face", "figure"})  # nobody "who wears" anything

# (word, subjects it may stand for, family and value that the figure must have). The word states that value.
ROLES: tuple[tuple[str, frozenset[str], str, str], ...] = (
    ("king", frozenset({"man", "old man"}), "headwear", "crown"),
    ("old king", frozenset({"old man"}), "headwear", "crown"),
    ("prince", frozenset({"man", "boy"}), "headwear", "crown"),
    ("queen", frozenset({"woman", "old woman"}), "headwear", "crown"),
    ("old queen", frozenset({"old woman"}), "headwear", "crown"),
    ("princess", frozenset({"girl", "woman"}), "headwear", "crown"),
    ("cowboy", frozenset({"man", "old man"}), "headwear", "cowboy hat"),
    ("cowboy", frozenset({"man"}), "headwear", "cowboy hat"),
    ("old cowboy", frozenset({"old man"}), "headwear", "cowboy hat"),
    ("cowgirl", frozenset({"woman", "girl"}), "headwear", "cowboy hat"),
    ("pirate", frozenset({"man", "old man", "woman"}), "eyewear", "eyepatch"),
    ("pirate", frozenset({"man"}), "eyewear", "eyepatch"),
    ("old pirate", frozenset({"old man"}), "eyewear", "eyepatch"),
    ("gentleman", frozenset({"man", "old man"}), "headwear", "top hat"),
    ("gentleman", frozenset({"man", "old man"}), "clothing", "suit and tie"),
    ("businessman", frozenset({"man"}), "clothing", "suit and tie"),
    ("businesswoman", frozenset({"woman"}), "clothing", "suit and tie"),
)
# Words that do not settle their value: a gentleman may be in a suit or in a top hat.
VAGUE_ROLES = frozenset({"gentleman"})

MATERIALS: dict[str, tuple[str, ...]] = {
    "marble bust": (
        "marble bust", "marble statue", "marble sculpture", "white marble bust", "bust in marble",
    ),
    "bronze statue": (
        "bronze statue", "bronze bust", "bronze sculpture", "statue in bronze", "bronze figure",
    ),
    "wooden carving": ("wooden carving", "wood carving", "wooden bust", "wooden sculpture", "wooden statue"),
}  # fmt: skip
MADE_OF: dict[str, tuple[str, ...]] = {
    "marble bust": ("made of marble", "carved in marble", "in white marble", "marble bust"),
    "bronze statue": ("made of bronze", "cast in bronze", "bronze statue", "in bronze"),
    "wooden carving": ("made of wood", "carved from wood", "wooden carving", "carved in wood"),
}

COLOURS: dict[str, tuple[str, ...]] = {
    "black": ("black",),
    "white": ("white",),
    "grey": ("grey", "gray"),
    "brown": ("brown",),
    "red": ("red", "bright red"),
    "orange": ("orange", "bright orange"),
    "yellow": ("yellow", "bright yellow"),
    "green": ("green",),
    "blue": ("blue",),
    "purple": ("purple", "violet"),
    "pink": ("pink",),
}
HAIR_COLOURS: dict[str, tuple[str, ...]] = {
    "black": ("black", "jet-black", "raven"),
    "brown": ("brown", "chestnut", "brunette"),
    "blonde": ("blonde", "blond", "golden", "yellow"),
    "red": ("red", "ginger", "auburn"),
    "grey": ("grey", "gray", "silver"),
    "white": ("white", "snow-white"),
    "blue": ("blue",),
    "pink": ("pink",),
    "green": ("green",),
}

# Adjectives before the noun.
BEFORE: dict[str, dict[str, tuple[str, ...]]] = {
    "skin": {
        "pale": ("pale", "pale-skinned", "fair-skinned", "light-skinned", "fair"),
        "tan": ("tanned", "tan", "suntanned", "tan-skinned"),
        "brown": ("brown-skinned",),
        "dark": ("dark-skinned", "black-skinned", "black", "dark"),
        "green": ("green", "green-skinned"),
        "blue": ("blue", "blue-skinned"),
        "grey": ("grey-skinned", "gray-skinned", "grey", "gray"),
    },
    "hair_style": {
        "bald": ("bald", "bald-headed", "hairless"),
        "short": ("short-haired",),
        "long": ("long-haired",),
        "curly": ("curly-haired", "curly"),
    },
    "facial_hair": {
        "none": ("clean-shaven", "beardless"),
        "moustache": ("moustached", "mustached"),
        "full beard": ("bearded",),
    },
    "headwear": {"none": ("bareheaded", "hatless")},
    "expression": {
        "neutral": ("calm", "relaxed", "expressionless"),
        "smiling": ("smiling", "happy", "grinning", "laughing", "cheerful"),
        "sad": ("sad", "unhappy", "crying", "gloomy", "sorrowful"),
        "angry": ("angry", "furious", "frowning", "scowling", "mad"),
        "surprised": ("surprised", "shocked", "astonished", "amazed", "startled"),
    },
    "face": {
        "slim": ("slim-faced", "thin-faced", "slim", "thin", "slender"),
        "round": ("round-faced", "chubby", "chubby-cheeked", "plump"),
        "square jaw": ("square-jawed", "strong-jawed", "square-faced"),
    },
    "nose": {"small": ("small-nosed",), "big": ("big-nosed", "large-nosed"), "long": ("long-nosed",)},
    "ears": {"pointed": ("pointy-eared",)},
}

# What somebody has: "with ...", "who has ...", or an entry of a comma list.
HAS: dict[str, dict[str, tuple[str, ...]]] = {
    "skin": {
        "pale": ("pale skin", "fair skin", "light skin", "a pale complexion"),
        "tan": ("tanned skin", "tan skin", "a tan", "suntanned skin"),
        "brown": ("brown skin", "a brown complexion"),
        "dark": ("dark skin", "black skin", "dark brown skin", "a dark complexion"),
        "green": ("green skin", "a green face"),
        "blue": ("blue skin", "a blue face"),
        "grey": ("grey skin", "gray skin", "a grey face", "ashen grey skin"),
    },
    "hair_style": {
        "bald": ("a bald head", "no hair", "a shaved head", "a hairless head"),
        "short": ("short {c} hair", "{c} short hair", "{c} hair cut short", "cropped {c} hair"),
        "long": ("long {c} hair", "{c} long hair", "long flowing {c} hair", "long straight {c} hair"),
        "curly": ("curly {c} hair", "{c} curly hair", "{c} curls", "{c} curly locks"),
        "ponytail": (
            "a {c} ponytail", "{c} hair in a ponytail", "{c} hair tied in a ponytail", "a {c} pony tail",
        ),
        "bun": ("a {c} bun", "{c} hair in a bun", "a {c} hair bun", "{c} hair tied up in a bun"),
        "mohawk": ("a {c} mohawk", "a {c} mohawk haircut", "{c} hair in a mohawk", "{c} mohawk hair"),
    },
    "facial_hair": {
        "none": ("no beard", "no facial hair"),
        "moustache": ("a {c} moustache", "a {c} mustache", "a thick {c} moustache"),
        "goatee": ("a {c} goatee", "a {c} goatee beard", "a {c} chin beard", "a small {c} goatee"),
        "full beard": (
            "a {c} beard", "a full {c} beard", "a {c} full beard", "a thick {c} beard", "a bushy {c} beard",
            "a big {c} beard",
        ),
    },
    "expression": {
        "neutral": ("a neutral expression", "a calm expression", "a calm face", "a blank expression"),
        "smiling": ("a smile", "a big smile", "a grin", "a happy face", "a happy expression"),
        "sad": ("a sad face", "a sad expression", "sad eyes", "an unhappy face", "a sad look"),
        "angry": ("an angry face", "an angry expression", "a frown", "an angry look", "a furious face"),
        "surprised": (
            "a surprised face", "an open mouth", "a surprised expression", "a shocked face",
            "a surprised look",
        ),
    },
    "face": {
        "slim": ("a slim face", "a thin face", "a narrow face", "a slender face", "a lean face"),
        "round": ("a round face", "a chubby face", "chubby cheeks", "round cheeks", "a plump face"),
        "square jaw": ("a square jaw", "a strong jaw", "a square face", "a strong square jaw", "a wide jaw"),
    },
    "nose": {
        "small": ("a small nose", "a little nose", "a button nose", "a tiny nose"),
        "big": ("a big nose", "a large nose", "a huge nose", "a wide nose"),
        "long": ("a long nose", "a very long nose", "a long thin nose"),
    },
    "ears": {
        "plain": ("plain ears", "normal ears", "rounded ears"),
        "pointed": ("pointed ears", "pointy ears", "elf ears", "elven ears"),
    },
}  # fmt: skip

# What somebody wears: "wearing ...", "with ...", "in ...".
WEARS: dict[str, dict[object, tuple[str, ...]]] = {
    "eyewear": {
        "none": ("no glasses", "no eyewear"),
        "round glasses": (
            "round glasses", "round spectacles", "round eyeglasses", "glasses with round frames",
            "round-rimmed glasses", "a pair of round glasses",
        ),
        "square glasses": (
            "square glasses", "rectangular glasses", "square spectacles", "glasses with square frames",
            "square-framed glasses", "a pair of square glasses",
        ),
        "sunglasses": ("sunglasses", "dark glasses", "shades", "dark sunglasses", "a pair of sunglasses"),
        "eyepatch": ("a eyepatch", "a eye patch", "a black eyepatch", "a patch over one eye"),
    },
    "headwear": {
        "none": ("no hat", "nothing on the head", "no headwear"),
        "baseball cap": ("a {c} baseball cap", "a {c} cap"),
        "beanie": (
            "a {c} beanie", "a {c} knit cap", "a {c} woolly hat", "a {c} knitted hat", "a {c} beanie hat",
        ),
        "cowboy hat": ("a {c} cowboy hat", "a {c} stetson", "a {c} western hat"),
        "top hat": ("a {c} top hat", "a tall {c} top hat", "a {c} tall hat"),
        "crown": ("a golden crown", "a crown", "a gold crown", "a royal crown"),
        "headphones": ("{c} headphones", "a pair of {c} headphones", "a {c} headset", "big {c} headphones"),
    },
    "earrings": {False: ("no earrings",), True: ("earrings", "a pair of earrings", "ear rings")},
    "clothing": {
        "t-shirt": ("a {c} t-shirt", "a {c} tee", "a {c} tee shirt", "a {c} shirt"),
        "hoodie": ("a {c} hoodie", "a {c} hooded sweatshirt", "a {c} hoody"),
        "suit and tie": (
            "a {c} suit and tie", "a {c} suit", "a {c} suit with a tie", "a {c} business suit",
            "a {c} suit jacket and tie",
        ),
    },
}  # fmt: skip

# What follows after a comma.
AFTER: dict[str, dict[str, tuple[str, ...]]] = {
    "expression": {
        "neutral": ("looking calm", "not smiling", "neutral expression"),
        "smiling": ("smiling", "grinning", "laughing", "happy", "smiling happily", "looking happy"),
        "sad": ("looking sad", "crying", "sad", "unhappy", "looking unhappy"),
        "angry": ("looking angry", "frowning", "angry", "furious", "scowling"),
        "surprised": ("looking surprised", "surprised", "with open mouth", "mouth open", "shocked", "amazed"),
    },
    "facial_hair": {"none": ("clean-shaven", "without a beard", "without facial hair")},
    "eyewear": {"none": ("without glasses", "not wearing glasses")},
    "headwear": {"none": ("bareheaded", "without a hat", "not wearing a hat")},
    "earrings": {"none": ("without earrings",)},
}

# The first of each is what :func:`headsculpt.synthesis.captions.view_phrase` says, so it stays exact.
VIEWS: dict[str, tuple[str, ...]] = {
    "front": (
        "front view", "front view of head", "seen from the front", "from the front", "facing the camera",
        "frontal view", "looking at the camera",
    ),
    "three-quarter": ("three-quarter view from the {side}", "three-quarter view", "3/4 view", "half profile"),
    "side": (
        "{side} side view", "side view", "side view of head", "profile", "from the side",
        "seen from the {side}",
        "in profile", "seen from the side", "{side} profile",
    ),
    "three-quarter back": (
        "three-quarter back view from the {side}", "three-quarter back view",
        "seen from behind and the {side}",
        "back view from the {side}",
    ),
    "back": (
        "back view", "back view of head", "seen from behind", "from behind", "rear view", "from the back",
        "back of the head",
    ),
}  # fmt: skip
ABOVE = ("seen from above", "from above", "overhead view", "high angle")
CLOSE = ("close-up", "closeup", "face close-up", "close-up view")

OPENINGS = (
    "a portrait of", "portrait of", "a photo of", "a picture of", "a 3d render of", "3d render of",
    "a 3d model of", "an image of", "a head of", "the head of", "a drawing of", "head and shoulders of",
    "a beautiful portrait of", "an avatar of", "a rendering of",
)  # fmt: skip
CLOSINGS = (
    "highly detailed", "game character", "3d render", "high quality", "beautiful", "stylized", "4k",
    "best quality",
    "character design", "plain background", "realistic", "fantasy character", "studio light", "portrait",
    "avatar",
)  # fmt: skip
# Words that mean nothing here: the text encoder must not trip over them.
NOISE = (
    "mysterious", "noble", "wise", "cyberpunk", "ancient", "steampunk", "heroic", "famous", "handsome",
    "pretty",
    "cute", "strange", "friendly", "evil", "magical", "medieval", "futuristic", "cartoon", "elegant", "brave",
)  # fmt: skip


def pick(rng: np.random.Generator, words: Sequence[str], plain: float = 0.45) -> str:
    """One of ``words``: the first with probability ``plain``, otherwise any of them."""
    if rng.random() < plain:
        return words[0]
    return words[int(rng.integers(len(words)))]


def colour_word(rng: np.random.Generator, colour: str, *, hair: bool = False) -> str:
    """A word for ``colour``; the plain one four times in five."""
    return pick(rng, (HAIR_COLOURS if hair else COLOURS)[colour], plain=0.75)


def fill(phrase: str, colour: str = "") -> str:
    """``phrase`` with its colour, or without one when ``colour`` is empty."""
    return " ".join(phrase.replace("{c}", colour).split())


def with_articles(text: str) -> str:
    """``text`` with every "a" and "an" as the next word's first letter asks, and single spaces.

    Good for this vocabulary, which has no silent h and no "uniform".
    """
    text = " ".join(text.split())
    return re.sub(r"\b([Aa])n? (?=(\w))", lambda m: m[1] + ("n " if m[2].lower() in "aeiou" else " "), text)


def listed(rng: np.random.Generator, phrases: Sequence[str], *, bare: bool = True) -> str:
    """The phrases as "a and b" or "a, b and c"; now and then "and" alone or, if ``bare``, only commas."""
    if len(phrases) < 2:
        return "".join(phrases)
    draw = rng.random()
    if bare and draw < 0.12:
        return ", ".join(phrases)
    if draw < 0.2 and len(phrases) == 3:
        return " and ".join(phrases)
    comma = "," if len(phrases) > 2 and draw > 0.8 else ""
    return ", ".join(phrases[:-1]) + f"{comma} and {phrases[-1]}"
