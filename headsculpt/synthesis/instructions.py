"""Edits of a figure, and the sentences that ask for them: "give him a full red beard", "take off the cap".

An edit changes what its sentence says and nothing else, with two exceptions that belong to the world: hair
and beard share one colour, and who becomes an orc, an alien or a zombie gets such a skin (an elf, pointed
ears). Pairs of before and after train the instruction ControlNet.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from headsculpt.synthesis import wording as w
from headsculpt.synthesis.attributes import (
    CLOTHING,
    COLOURS,
    EYEWEAR,
    FACES,
    FACIAL_HAIR,
    HAIR_COLOURS,
    HAIR_STYLES,
    HEADWEAR,
    NOSES,
    SKINS,
    Attributes,
)
from headsculpt.synthesis.captions import sample_skin

EDIT_KINDS = ("add", "remove", "recolour", "hair", "expression", "age", "material", "species", "shape")


@dataclass(frozen=True)
class _Who:
    """How an instruction calls the figure: "him" or "the man", "his" or "the"."""

    them: str
    their: str


def sample_edit(
    attributes: Attributes, rng: np.random.Generator, *, kind: str | None = None
) -> tuple[Attributes, str]:
    """A random edit that this figure can have, and an instruction for it.

    Args:
        attributes: the figure before; it stays as it is.
        rng: the only source of randomness.
        kind: one of ``EDIT_KINDS``, or None for any that this figure can have.

    Returns:
        The figure afterwards, which always differs, and the instruction.

    Raises:
        ValueError: an unknown kind, or one that this figure has no edit of: nothing to remove, no colours on
            marble, bronze or wood, no ages of species.
    """
    if kind is not None and kind not in EDIT_KINDS:
        raise ValueError(f"unknown kind of edit {kind!r}; expected one of {', '.join(EDIT_KINDS)}")
    for name in [kind] if kind else [EDIT_KINDS[i] for i in rng.permutation(len(EDIT_KINDS))]:
        made = _MAKERS[name](attributes, _who(attributes, rng), rng)
        if made is not None:
            return made[0], _dress(made[1], rng)
    raise ValueError(f"a figure with {attributes} has no edit of kind {kind!r}; pass kind=None for any other")


def _dress(text: str, rng: np.random.Generator) -> str:
    draw = rng.random()
    if draw < 0.05:
        text = f"please {text}"
    text = w.with_articles(text)
    if rng.random() < 0.06:
        text = text[0].upper() + text[1:]
    return text + "." if rng.random() < 0.06 else text


def _who(a: Attributes, rng: np.random.Generator) -> _Who:
    if a.subject in w.MALE:
        them, their = "him", "his"
    elif a.subject in w.FEMALE:
        them, their = "her", "her"
    else:
        words = (("him", "his"), ("her", "her"), ("it", "its"), ("them", "their"))
        if a.facial_hair != "none":
            words = (words[0], words[2], words[0], words[3])
        them, their = words[int(rng.integers(4))]
    if rng.random() < 0.12:
        them = f"the {w.pick(rng, w.NOUNS[a.subject], plain=0.8)}"
    return _Who(them, "the" if rng.random() < 0.2 else their)


def _any(rng: np.random.Generator, *words: str) -> str:
    return words[int(rng.integers(len(words)))]


def _other(rng: np.random.Generator, values: tuple, present: object, *unwanted: object) -> str:
    left = [value for value in values if value != present and value not in unwanted]
    return left[int(rng.integers(len(left)))]


def _add(a: Attributes, who: _Who, rng: np.random.Generator) -> tuple[Attributes, str] | None:
    hidden = ("baseball cap", "beanie", "cowboy hat", "top hat", "crown") if a.hair_style == "mohawk" else ()
    choices = ["eyewear", "clothing"] + ([] if a.earrings else ["earrings"])
    if not (hidden and a.headwear == "headphones"):
        choices.append("headwear")
    if a.subject not in w.FEMALE and a.subject != "boy":
        choices += ["facial_hair"] * 2
    family = _any(rng, *choices)
    colour = ""
    changes: dict[str, Any] = {}
    if family == "earrings":
        return replace(a, earrings=True), _give(w.pick(rng, w.WEARS["earrings"][True]), who, rng)
    if family == "facial_hair":
        value = _other(rng, FACIAL_HAIR, a.facial_hair, "none")
        if a.material == "plain" and rng.random() < 0.6:
            bald_or_new = a.hair_style == "bald" or rng.random() < 0.5
            hair = _any(rng, *HAIR_COLOURS) if bald_or_new else a.hair_colour
            colour, changes = w.colour_word(rng, hair, hair=True), {"hair_colour": hair}
        phrase = w.fill(w.pick(rng, w.HAS["facial_hair"][value]), colour)
        text = f"give {who.them} {phrase}" if rng.random() < 0.7 else f"add {phrase}"
        if value == "full beard" and rng.random() < 0.12 and not colour:
            text = _any(rng, f"make {who.them} bearded", f"let {who.them} grow a beard")
        return replace(a, facial_hair=value, **changes), text
    values = {"eyewear": EYEWEAR, "headwear": HEADWEAR, "clothing": CLOTHING}[family]
    value = _other(rng, values, getattr(a, family), "none", *hidden)
    if family != "eyewear" and value != "crown" and a.material == "plain":
        if rng.random() < 0.6:
            changes = {f"{family}_colour": _any(rng, *COLOURS)}
            colour = w.colour_word(rng, changes[f"{family}_colour"])
    phrase = w.fill(w.pick(rng, w.WEARS[family][value]), colour)
    changes[family] = value
    after = replace(a, **changes)
    if family == "clothing":
        return after, _any(
            rng,
            f"put {who.them} in {phrase}",
            f"dress {who.them} in {phrase}",
            f"give {who.them} {phrase}",
            f"change {who.their} clothes to {phrase}",
            f"make {who.them} wear {phrase}",
        )
    present = getattr(a, family)
    if present != "none" and rng.random() < 0.5:
        return after, _any(rng, f"replace {who.their} {_short(present)} with {phrase}",
                           f"swap {who.their} {_short(present)} for {phrase}")  # fmt: skip
    return after, _give(phrase, who, rng)


def _give(phrase: str, who: _Who, rng: np.random.Generator) -> str:
    return _any(
        rng,
        f"add {phrase}",
        f"give {who.them} {phrase}",
        f"put {phrase} on {who.them}",
        f"make {who.them} wear {phrase}",
        f"let {who.them} wear {phrase}",
        f"have {who.them} wear {phrase}",
    )


# How a thing that is already there is called: "take off the cap".
_SHORT: dict[str, tuple[str, ...]] = {
    "moustache": ("moustache", "mustache"),
    "goatee": ("goatee", "chin beard"),
    "full beard": ("beard", "full beard"),
    "round glasses": ("glasses", "round glasses", "spectacles"),
    "square glasses": ("glasses", "square glasses", "spectacles"),
    "sunglasses": ("sunglasses", "shades", "dark glasses"),
    "eyepatch": ("eyepatch", "eye patch"),
    "baseball cap": ("cap", "baseball cap", "hat"),
    "beanie": ("beanie", "hat", "knit cap"),
    "cowboy hat": ("cowboy hat", "hat", "stetson"),
    "top hat": ("top hat", "hat"),
    "crown": ("crown", "golden crown"),
    "headphones": ("headphones", "headset"),
    "t-shirt": ("t-shirt", "shirt", "tee"),
    "hoodie": ("hoodie", "hooded sweatshirt"),
    "suit and tie": ("suit", "suit and tie"),
}


def _short(value: str) -> str:
    return _SHORT[value][0]


def _remove(a: Attributes, who: _Who, rng: np.random.Generator) -> tuple[Attributes, str] | None:
    families = [f for f in ("facial_hair", "eyewear", "headwear") if getattr(a, f) != "none"]
    families += ["earrings"] if a.earrings else []
    if not families:
        return None
    family = _any(rng, *families)
    if family == "earrings":
        thing, after = "earrings", replace(a, earrings=False)
    else:
        thing = w.pick(rng, _SHORT[getattr(a, family)])
        gone: dict[str, Any] = {family: "none"}
        after = replace(a, **gone)
    said = _any(rng, "the", who.their)
    texts = [f"remove {said} {thing}", f"get rid of {said} {thing}", f"no {thing}", f"without the {thing}"]
    if family == "facial_hair":
        texts += [f"shave off {said} {thing}", f"shave {who.them}", f"make {who.them} clean-shaven"]
    else:
        texts += [f"take off {said} {thing}", f"take {said} {thing} off", f"take off {said} {thing}"]
    return after, _any(rng, *texts)


def _recolour(a: Attributes, who: _Who, rng: np.random.Generator) -> tuple[Attributes, str] | None:
    if a.material != "plain":
        return None
    families = ["skin", "clothing_colour"]
    families += ["hair_colour"] * 2 if a.hair_style != "bald" or a.facial_hair != "none" else []
    families += ["headwear_colour"] if a.headwear not in ("none", "crown") else []
    family = _any(rng, *families)
    if family == "skin":
        skin = _other(rng, SKINS, a.skin)
        has, before = w.pick(rng, w.HAS["skin"][skin]), w.pick(rng, w.BEFORE["skin"][skin])
        colour = {"dark": "dark", "tan": "tan", "pale": "pale"}.get(skin, skin)
        return replace(a, skin=skin), _any(
            rng,
            f"give {who.them} {has}",
            f"make {who.their} skin {colour}",
            f"make {who.them} {before}",
            f"change {who.their} skin to {colour}",
        )
    if family == "hair_colour":
        value = _other(rng, HAIR_COLOURS, a.hair_colour)
        colour = w.colour_word(rng, value, hair=True)
        thing = "hair"
        if a.hair_style == "bald" or (a.facial_hair != "none" and rng.random() < 0.3):
            thing = w.pick(rng, _SHORT[a.facial_hair])
        elif a.hair_style in ("ponytail", "bun", "mohawk") and rng.random() < 0.3:
            thing = a.hair_style
    else:
        value = _other(rng, COLOURS, getattr(a, family))
        colour = w.colour_word(rng, value)
        thing = w.pick(rng, _SHORT[getattr(a, family.removesuffix("_colour"))])
    changes: dict[str, Any] = {family: value}
    after = replace(a, **changes)
    texts = [f"make {who.their} {thing} {colour}", f"change {who.their} {thing} to {colour}",
             f"turn {who.their} {thing} {colour}", f"colour {who.their} {thing} {colour}",
             f"{colour} {thing}"]  # fmt: skip
    if thing == "hair":
        texts += [f"dye {who.their} hair {colour}", f"give {who.them} {colour} hair"]
    return after, _any(rng, *texts)


def _hair(a: Attributes, who: _Who, rng: np.random.Generator) -> tuple[Attributes, str] | None:
    hatted = a.headwear not in ("none", "headphones")
    style = _other(rng, HAIR_STYLES, a.hair_style, *(("bun", "mohawk") if hatted else ()))
    colour = ""
    changes: dict[str, Any] = {}
    if style == "bald":
        text = _any(rng, f"make {who.them} bald", f"shave {who.their} head", f"remove {who.their} hair",
                    f"give {who.them} a bald head")  # fmt: skip
    else:
        if a.material == "plain" and rng.random() < 0.3:
            changes = {"hair_colour": _any(rng, *HAIR_COLOURS)}
            colour = w.colour_word(rng, changes["hair_colour"], hair=True)
        phrase = w.fill(w.pick(rng, w.HAS["hair_style"][style]), colour)
        texts = [f"give {who.them} {phrase}", f"change {who.their} hair to {phrase}", f"add {phrase}"]
        if style in ("long", "short", "curly") and not colour:
            texts += [f"make {who.their} hair {style}"] * 2
        if style == "short" and not colour and a.hair_style != "bald":
            texts += [f"cut {who.their} hair short", f"give {who.them} a short haircut"]
        if style in ("ponytail", "bun") and not colour and a.hair_style != "bald":
            texts += [f"tie {who.their} hair in a {style}", f"put {who.their} hair in a {style}"]
        text = _any(rng, *texts)
    return replace(a, hair_style=style, **changes), text


_EXPRESS: dict[str, tuple[str, ...]] = {
    "neutral": ("look calm", "stop smiling", "relax", "look neutral"),
    "smiling": ("smile", "grin", "laugh", "look happy"),
    "sad": ("look sad", "cry", "look unhappy"),
    "angry": ("frown", "look angry", "scowl", "look furious"),
    "surprised": ("look surprised", "open the mouth", "look shocked", "look amazed"),
}


def _expression(a: Attributes, who: _Who, rng: np.random.Generator) -> tuple[Attributes, str] | None:
    value = _other(rng, tuple(_EXPRESS), a.expression)
    express = [e for e in _EXPRESS[value] if e != "stop smiling" or a.expression == "smiling"]
    adjective = w.pick(rng, w.BEFORE["expression"][value])
    return replace(a, expression=value), _any(
        rng,
        f"make {who.them} {w.pick(rng, express)}",
        f"make {who.them} {w.pick(rng, express)}",
        f"let {who.them} {w.pick(rng, express)}",
        f"make {who.them} {adjective}",
        f"give {who.them} {w.pick(rng, w.HAS['expression'][value])}",
    )


_AGES = {"boy": 0, "girl": 0, "man": 1, "woman": 1, "old man": 2, "old woman": 2}


def _age(a: Attributes, who: _Who, rng: np.random.Generator) -> tuple[Attributes, str] | None:
    if a.subject not in _AGES:
        return None
    line = ("boy", "man", "old man") if a.subject in w.MALE else ("girl", "woman", "old woman")
    target = _other(rng, line, a.subject, *(("boy",) if a.facial_hair != "none" else ()))
    noun = w.pick(rng, w.NOUNS[target], plain=0.7)
    texts = [f"turn {who.them} into a {noun}", f"make {who.them} a {noun}"]
    step = _AGES[target] - _AGES[a.subject]
    if target.startswith("old"):
        texts += [f"make {who.them} old", f"make {who.them} look old", f"make {who.them} very old",
                  f"make {who.them} elderly"]  # fmt: skip
    elif _AGES[target] == 0:
        texts += [f"make {who.them} a child", f"turn {who.them} into a child", f"make {who.them} very young"]
    if step == 1:
        texts += [f"make {who.them} older", f"age {who.them}", f"make {who.them} look older"]
    elif step == -1:
        texts += [f"make {who.them} younger", f"make {who.them} look younger", f"make {who.them} young"]
    return replace(a, subject=target), _any(rng, *texts)


def _material(a: Attributes, who: _Who, rng: np.random.Generator) -> tuple[Attributes, str] | None:
    if a.material != "plain" and rng.random() < 0.35:
        return replace(a, material="plain"), _any(
            rng,
            f"bring {who.them} to life",
            f"turn {who.them} into a real person",
            f"make {who.them} a real person",
            f"turn the {a.material.split()[1]} into a living person",
        )
    value = _other(rng, tuple(w.MATERIALS), a.material)
    thing = w.pick(rng, w.MATERIALS[value])
    made = [m for m in w.MADE_OF[value] if m.split()[0] in ("made", "cast", "carved")]
    stuff = {"marble bust": "marble", "bronze statue": "bronze", "wooden carving": "wood"}[value]
    return replace(a, material=value), _any(
        rng,
        f"turn {who.them} into a {thing}",
        f"turn {who.them} into a {thing}",
        f"make {who.them} a {thing}",
        f"make it look {w.pick(rng, made)}",
        f"turn {who.them} into {stuff}",
        f"make it a {thing}",
    )


def _species(a: Attributes, who: _Who, rng: np.random.Generator) -> tuple[Attributes, str] | None:
    bearded = a.facial_hair != "none"
    species = ("elf", "alien", "orc", "zombie")
    people: tuple[str, ...] = ("man",) if bearded else ("man", "woman")
    if a.subject in people or rng.random() < 0.85:
        people = ()
    target = _other(rng, species + people, a.subject)
    after = replace(a, subject=target)
    if target == "elf":
        after = replace(after, ears="pointed")
    elif a.subject == "elf" and target in people:
        after = replace(after, ears="plain")
    if target in ("alien", "orc", "zombie") or (a.subject in species and target in people):
        after = replace(after, skin=sample_skin(rng, target))
    noun = w.pick(rng, w.NOUNS[target], plain=0.7)
    return after, _any(
        rng,
        f"turn {who.them} into a {noun}",
        f"turn {who.them} into a {noun}",
        f"make {who.them} a {noun}",
        f"make {who.them} look like a {noun}",
        f"transform {who.them} into a {noun}",
        f"change {who.them} into a {noun}",
    )


def _shape(a: Attributes, who: _Who, rng: np.random.Generator) -> tuple[Attributes, str] | None:
    family = _any(rng, "face", "nose", *(() if a.subject == "elf" else ("ears",)))
    values = {"face": FACES, "nose": NOSES, "ears": ("plain", "pointed")}[family]
    value = _other(rng, values, getattr(a, family))
    texts = [f"give {who.them} {w.pick(rng, w.HAS[family][value])}" for _ in range(2)]
    texts += [f"make {who.their} {words}" for words in _SHAPES[value]]
    changes: dict[str, Any] = {family: value}
    return replace(a, **changes), _any(rng, *texts)


_SHAPES: dict[str, tuple[str, ...]] = {
    "slim": ("face slim", "face thinner", "face slimmer", "face narrow"),
    "round": ("face round", "face rounder", "cheeks chubby", "face chubby"),
    "square jaw": ("jaw square", "face square", "jaw stronger", "jaw wider"),
    "small": ("nose small", "nose smaller", "nose tiny"),
    "big": ("nose big", "nose bigger", "nose larger", "nose huge"),
    "long": ("nose long", "nose longer"),
    "plain": ("ears normal", "ears plain", "ears rounded"),
    "pointed": ("ears pointed", "ears pointy"),
}

_MAKERS: dict[str, Callable[[Attributes, _Who, np.random.Generator], tuple[Attributes, str] | None]] = {
    "add": _add,
    "remove": _remove,
    "recolour": _recolour,
    "hair": _hair,
    "expression": _expression,
    "age": _age,
    "material": _material,
    "species": _species,
    "shape": _shape,
}
