"""What a prompt leaves open, decided once.

A diffusion model decides anew in every view and step what the prompt does not say: skin tone, hair, clothes.
Score distillation then averages contradicting answers, and a head whose beard alone was said to be white turns
white all over. So the open attributes are settled from the seed before sculpting begins, and told to the model
with the rest (ours).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from zlib import crc32

import numpy as np

from headsculpt.synthesis.reading import BEARDLESS, Reading, fitting, read_prompt, sentence, values_of
from headsculpt.synthesis.roles import looks_of, outfit_of
from headsculpt.synthesis.synonyms import nearest_words
from headsculpt.synthesis.visibility import COVERING_HATS
from headsculpt.synthesis.wording import VAGUE_ROLES

SKIN = {"elf": ("pale",), "orc": ("green",), "zombie": ("grey",), "alien": ("grey",)}
HUMAN_SKIN = ("pale", "tan", "brown")
HAIR_STYLE = {"woman": "long", "girl": "long", "old woman": "bun", "elf": "long", "alien": "bald"}
HAIR_COLOUR = {"old man": ("grey",), "old woman": ("grey",), "elf": ("blonde",), "orc": ("black",)}
HUMAN_HAIR = ("black", "brown")
SHIRT = ("blue", "green", "red", "grey")
HAT = {"top hat": ("black",), "cowboy hat": ("brown",), "headphones": ("black",)}
WORN = ("headwear", "headwear_colour", "eyewear", "clothing", "clothing_colour")  # what an outfit changes
# The first noun: the last word before what somebody has.
_WHO = re.compile(r"(?:[\w'-]+ )*?(?P<who>[\w'-]+)(?=$|[,.;]| (?:with|in|who|wearing|wears|has|having|of|from)\b)")
CAP = ("red", "blue", "green", "yellow")  # of caps and beanies; one more than skin, hair and shirt can take


@lru_cache(maxsize=64)  # asked for every view of every step
def completed_prompt(prompt: str, seed: int = 0, *, near: bool = False) -> str:
    """The prompt with plain answers to what it leaves open; of a person where no word of it was understood.

    Args:
        prompt: in the user's words, said again in nearer ones where they are not all understood
            (:func:`in_near_words`).
        seed: decides between answers that are equally plain.
        near: for a picture of the face from near. It cuts a hat off, and where hair is spoken of, hair is drawn in
            its place; so hair that a hat covers, and that nobody asked for, is left out.

    Example:
        >>> completed_prompt("an old man with a white beard and round glasses")
        'a brown-skinned old man with short white hair and a white beard, wearing round glasses and a grey t-shirt'
    """
    worn = values_of(outfit_of(prompt))
    typical = values_of(looks_of(prompt)) | {family: worn[family] for family in WORN if family in worn}
    prompt = in_near_words(prompt)
    found = read_prompt(prompt)
    # By the noun as well, or all heads of one seed would wear one shirt; by nothing else that is said, so that an
    # edit which adds a hat leaves the shirt alone.
    who = found.noun or str(found.values.get("subject", ""))
    added = _plain_answers(found, typical, np.random.default_rng([seed, crc32(who.encode())]))
    covered = {**added, **found.values}.get("headwear") in COVERING_HATS
    if near and covered and added.get("hair_style", "bald") != "bald":
        del added["hair_style"]
        if found.values.get("facial_hair", "none") == "none":  # a beard keeps its colour
            added.pop("hair_colour", None)
    values = {**added, **found.values}
    noun = found.noun
    lacks = found.implied is not None and found.values.get(found.implied[0]) == "none"
    if lacks and noun not in VAGUE_ROLES:  # a king without a crown is a man
        noun = ""
    return sentence(Reading(values, noun, found.sex, found.implied, found.extra))


@lru_cache(maxsize=64)
def unwanted(told: str) -> str:
    """What the mini family draws although nobody asked for it, for the negative prompt: a moustache, on whoever could
    have one (not on women and children) and was not given facial hair. Empty for all others.

    Three in four of the men that it learnt from have facial hair, and "clean-shaven" in the prompt changes nothing.
    Named bare: of "a person with a moustache" men become women and boys.

    Args:
        told: the prompt as :func:`completed_prompt` gives it.

    Example:
        >>> unwanted("a pale man with short black hair, wearing a red t-shirt")
        'a moustache'
    """
    found = read_prompt(told)
    if not found.values and not found.noun:
        return ""
    bearded = found.values.get("facial_hair", "none") != "none"
    beardless = found.sex == "female" or found.values.get("subject") in BEARDLESS
    return "" if bearded or beardless else "a moustache"


def in_near_words(prompt: str) -> str:
    """The prompt in the words of the vocabulary: said again in the nearest ones where not all of it is understood,
    and without what has none (:func:`words_left_out`). "a person" where no word of it is understood: of words that it
    never met, a model draws another head in every view.

    Example:
        >>> in_near_words("a wizard with a white beard, glasses and a wand")
        'an old man with a white beard, wearing round glasses'
    """
    found = read_prompt(prompt)
    if found.rest:
        found = _nearest_reading(prompt)
    elif found.values or found.noun:
        return prompt
    return sentence(found) if found.values or found.noun else "a person"


def words_left_out(prompt: str) -> list[str]:
    """Words of a prompt that the vocabulary has nothing near to.

    Example:
        >>> words_left_out("a wizard with a white beard, glasses and a wand")
        ['wand']
    """
    if not read_prompt(prompt).rest:
        return []
    return _nearest_reading(prompt).rest


def _nearest_reading(prompt: str) -> Reading:
    """What a prompt says in the nearest words; whoever it speaks of in a word that has none near is a person."""
    near = nearest_words(prompt)
    found = read_prompt(near)
    if not found.noun and (who := _WHO.match(near)) and who["who"].lower() in found.rest:
        someone = read_prompt(near[: who.start("who")] + "person" + near[who.end("who") :])
        someone.rest.insert(0, who["who"].lower())
        return someone
    return found


def _plain_answers(found: Reading, typical: Mapping[str, object], rng: np.random.Generator) -> dict[str, object]:
    """Family to value, of what was not said and can be seen: what is typical of who it is, or else plain."""
    said = dict(found.values)
    subject = str(said.get("subject") or ("woman" if found.sex == "female" else "man"))
    # Drawn in this order whatever was said, so that one more word does not change all the rest.
    skin = str(rng.choice(SKIN.get(subject, HUMAN_SKIN)))
    hair = str(rng.choice(HAIR_COLOUR.get(subject, HUMAN_HAIR)))
    others = [c for c in SHIRT if c not in (said.get("headwear_colour"), said.get("skin", skin))]
    shirt = others[int(rng.integers(len(others)))]
    if subject == "elf" and found.sex == "male":
        style = "short"
    else:
        style = HAIR_STYLE.get(subject, "short")
    usual = {"skin": skin, "hair_style": style, "hair_colour": hair, "clothing": "t-shirt"}
    answers: dict[str, object] = {**usual, **fitting(typical, said, found.sex)}
    if found.implied and found.noun not in VAGUE_ROLES:  # a king has a crown, whether or not it is said
        answers[found.implied[0]] = found.implied[1]
    has = {**answers, **said}
    hat = has.get("headwear", "none")
    if hat not in ("none", "crown"):  # every crown is said to be golden
        taken = (has.get("clothing_colour", shirt), said.get("skin", skin), said.get("hair_colour", hair))
        colours = HAT.get(str(hat)) or [c for c in CAP if c not in taken]
        answers.setdefault("headwear_colour", colours[int(rng.integers(len(colours)))])
    answers.setdefault("clothing_colour", "black" if has["clothing"] == "suit and tie" else shirt)
    if has["hair_style"] == "bald" and has.get("facial_hair", "none") == "none":
        del answers["hair_colour"]
    return {family: value for family, value in answers.items() if family not in said}
