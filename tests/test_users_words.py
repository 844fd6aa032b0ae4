"""Prompts and instructions as people type them, most of them once misread: negations, spelling, several orders."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from headsculpt.synthesis.attributes import VALUES
from headsculpt.synthesis.completion import completed_prompt
from headsculpt.synthesis.reading import edited_prompt, read_prompt


@pytest.mark.parametrize(
    ("prompt", "shows"),
    [
        ("man without mustache", {"facial_hair": "none"}),
        ("pirate without eyepatch", {"eyewear": "none"}),
        ("a king without a crown", {"headwear": "none"}),
        ("a chef without a hat", {"headwear": "none"}),
        ("a man without a beard or glasses", {"facial_hair": "none", "eyewear": "none"}),
        ("a man with beard but no moustache", {"facial_hair": "full beard"}),
        ("an old man that is not bald", {"subject": "old man", "hair_style": "short"}),
        ("a man who doesn't smile", {"expression": "neutral"}),
        ("a not so happy man", {"expression": "neutral"}),
        ("clean shaven viking", {"facial_hair": "none", "hair_colour": "blonde"}),
        ("dark skinned man with white beard", {"skin": "dark", "hair_colour": "white"}),
        ("red bearded viking", {"facial_hair": "full beard", "hair_colour": "red"}),
        ("black bearded pirate", {"skin": "tan", "facial_hair": "full beard", "hair_colour": "black"}),
        ("big nosed man", {"nose": "big"}),
        ("a dark brown hair man", {"skin": "pale", "hair_colour": "brown"}),
        ("a man whose beard is white", {"facial_hair": "full beard", "hair_colour": "white"}),
        ("a girl with long, wavy, red hair", {"hair_colour": "red"}),
        ("a women with long blond hair", {"subject": "woman", "hair_colour": "blonde"}),
        ("old wizard woman", {"subject": "old woman", "hair_colour": "white"}),
        ("a pirate woman", {"subject": "woman", "eyewear": "eyepatch"}),
        ("zombie businessman", {"subject": "zombie", "clothing": "suit and tie"}),
        ("a middle aged man", {"subject": "man"}),
        ("old, bald, fat, happy man", {"subject": "old man", "hair_style": "bald", "expression": "smiling"}),
        ("a blonde with blue eyes", {"subject": "woman", "hair_colour": "blonde"}),
        ("a woman with hair in two buns", {"hair_style": "bun"}),
        ("a man with glases and a red tshirt", {"eyewear": "round glasses", "clothing_colour": "red"}),
        ("a man with rectangular black-rimmed glasses", {"eyewear": "square glasses"}),
        ("a man in black", {"clothing_colour": "black", "skin": "pale"}),
        ("a brown man", {"skin": "brown"}),
        ("an elf with round ears", {"ears": "plain"}),
        ("boy with santa hat", {"subject": "boy", "headwear": "beanie", "headwear_colour": "red"}),
        ("girl in police hat", {"headwear": "baseball cap", "headwear_colour": "blue"}),
        ("a man in a dark suit", {"skin": "pale", "clothing_colour": "black"}),
        ("a man in a dark blue suit", {"skin": "pale", "clothing_colour": "blue"}),
        ("an old bearded man", {"subject": "old man", "facial_hair": "full beard"}),
        ("a bearded short-haired orc", {"subject": "orc", "facial_hair": "full beard"}),
        ("a man with a mustache but no beard, in a bowler hat", {"facial_hair": "moustache", "headwear": "top hat"}),
        ("a detective with a thin moustache", {"facial_hair": "moustache", "face": None}),
        ("a stone head of a bald monk", {"material": "marble bust", "hair_style": "bald"}),
        ("a bronze head of a young woman with braids", {"material": "bronze statue", "subject": "woman"}),
        ("a wooden puppet with a long nose", {"material": "wooden carving", "nose": "long"}),
        ("a terracotta warrior", {"material": "bronze statue"}),
        ("a smiling Buddha statue", {"material": "marble bust", "expression": "smiling"}),
        ("a mime with white face paint", {"subject": "man", "skin": "pale"}),
        ("a purple alien with big black eyes", {"subject": "alien", "skin": "blue"}),
        ("a furious red-skinned demon", {"skin": "brown", "expression": "angry"}),
        ("a judge in a white wig", {"hair_colour": "white"}),
        ("a woman with wild red hair", {"hair_style": "curly", "hair_colour": "red"}),
        ("an elf with a green hood", {"clothing": "hoodie", "clothing_colour": "green"}),
        ("a girl in a yellow raincoat with the hood up", {"clothing": "hoodie", "clothing_colour": "yellow"}),
        ("a knight in shining armor", {"clothing_colour": "grey"}),
        ("a dwarf with an iron helmet", {"headwear": "beanie", "headwear_colour": "grey"}),
        ("a pilot with a leather cap", {"headwear": "baseball cap", "headwear_colour": "brown"}),
        ("a man in a denim jacket", {"clothing_colour": "blue"}),
        ("a man in a green leather jacket", {"clothing_colour": "green"}),
        ("man, 60s, grey moustache", {"subject": "old man"}),
        ("a sea captain", {"subject": "man", "eyewear": None, "headwear": "baseball cap"}),
        ("Vincent van Gogh", {"facial_hair": "full beard", "hair_colour": "red"}),
        ("a woman painted by Picasso", {"subject": "woman", "hair_style": "long"}),
        ("a girl in the style of van Gogh", {"subject": "girl", "facial_hair": None}),
        ("an old sailor in a navy blue knitted cap", {"headwear": "beanie", "headwear_colour": "blue"}),
        ("a ranger in a green hooded cloak", {"clothing": "hoodie", "clothing_colour": "green"}),
        ("an emo teenager with long black bangs", {"hair_style": "long", "clothing_colour": "black"}),
        ("a girl dressed as Santa", {"subject": "girl", "headwear_colour": "red", "clothing": "hoodie", "skin": "tan"}),
        ("a woman in a chef costume", {"subject": "woman", "headwear": "top hat", "clothing_colour": "white"}),
        ("the Mona Lisa as a zombie", {"subject": "zombie", "skin": "grey", "hair_style": "long"}),
        ("an orc vampire", {"skin": "green", "clothing": "suit and tie"}),
        ("a man from Washington", {"subject": "man", "hair_style": "short"}),
        ("a woman in her sixties", {"subject": "old woman"}),
        ("a bust of Julius Caesar", {"material": "marble bust", "headwear": "crown"}),
        ("a man with a moustache and no beard", {"facial_hair": "moustache"}),
        ("a 12 year old elf", {"subject": "elf"}),
        ("an olive-skinned man", {"skin": "tan"}),
        ("a boy with a cap in yellow", {"headwear_colour": "yellow"}),
        ("the king's brother", {"subject": "man", "headwear": None}),
        ("a pirate with a red eyepatch", {"eyewear": "eyepatch", "skin": "tan"}),
        ("a woman made out of marble", {"material": "marble bust"}),
        ("a jade statue", {"material": "marble bust"}),
    ],
)
def test_a_prompt(prompt: str, shows: dict[str, object]) -> None:
    told = read_prompt(completed_prompt(prompt)).values
    assert {family: told.get(family) for family in shows} == shows


@pytest.mark.parametrize("prompt", ["Einstein's daughter", "a woman in a mario t-shirt", "a girl with a ninja friend"])
def test_whoever_is_only_spoken_of_gives_no_looks(prompt: str) -> None:
    told = read_prompt(completed_prompt(prompt)).values
    assert not {"facial_hair", "headwear"} & told.keys() and told.get("clothing") == "t-shirt"


BOY = "a tanned boy with short black hair, wearing a red baseball cap and a blue hoodie"
OLD = "an old man with short white hair and a white beard, wearing round glasses"
WOMAN = "a pale woman with long red hair, wearing a blue t-shirt"


@pytest.mark.parametrize(
    ("before", "instruction", "changes"),
    [
        (OLD, "remove the glasses and the beard", {"eyewear": "none", "facial_hair": "none"}),
        (OLD, "shave the beard and make him smile", {"facial_hair": "none", "expression": "smiling"}),
        (OLD, "shave his head and give him a goatee", {"hair_style": "bald", "facial_hair": "goatee"}),
        (OLD, "make only the beard black", {"hair_colour": "black"}),
        (OLD, "he doesn't wear glasses anymore", {"eyewear": "none"}),
        (BOY, "take off cap and give him curly hair", {"headwear": "none", "hair_style": "curly"}),
        (BOY, "can you take the red cap off please", {"headwear": "none"}),
        (BOY, "hat off", {"headwear": "none"}),
        (BOY, "I don't like the cap", {"headwear": "none"}),
        (BOY, "take a red cap", {"headwear": "baseball cap", "headwear_colour": "red"}),
        (BOY, "make the cap green and the hoodie yellow", {"headwear_colour": "green", "clothing_colour": "yellow"}),
        (BOY, "change the color of the cap to green", {"headwear_colour": "green"}),
        (BOY, "the cap should be green", {"headwear_colour": "green"}),
        (BOY, "give him a blue t-shirt, keep the cap", {"clothing": "t-shirt", "clothing_colour": "blue"}),
        (BOY, "a crown instead of the cap", {"headwear": "crown"}),
        (BOY, "replace the cap by a beanie", {"headwear": "beanie"}),
        (WOMAN, "make her a queen", {"headwear": "crown"}),
        (WOMAN, "change her hair color to black and add glasses",
         {"hair_colour": "black", "eyewear": "round glasses"}),
        (WOMAN, "make her glasses black", {}),
        (WOMAN, "make her 70 years old", {"subject": "old woman"}),
        (WOMAN, "turn her into stone", {"material": "marble bust"}),
        (WOMAN, "make it out of wood", {"material": "wooden carving"}),
        (WOMAN, "make her skin darker", {"skin": "dark"}),
        (WOMAN, "bigger nose", {"nose": "big"}),
        (WOMAN, "stop smiling", {"expression": "neutral"}),
        (WOMAN, "change her shirt to black", {"clothing_colour": "black"}),
        (OLD, "take away the glasses and the beard", {"eyewear": "none", "facial_hair": "none"}),
        (OLD, "remove the beard, not the glasses", {"facial_hair": "none"}),
        (OLD, "shave his beard but keep the moustache", {"facial_hair": "moustache"}),
        (OLD, "don't remove the beard", {}),
        (OLD, "turn him into an angry orc", {"expression": "angry", "subject": "orc"}),
        (OLD, "make him 10 years older", {"subject": "old man"}),
        (BOY, "make his hair and cap blue", {"hair_colour": "blue", "headwear_colour": "blue"}),
        (BOY, "make the hat bigger", {"headwear": "baseball cap"}),
        (BOY, "give him 2 earrings", {"earrings": True}),
        (BOY, "make the suit and tie white", {"clothing_colour": "white"}),
        (BOY, "give him a long nose like pinocchio", {"nose": "long"}),
        (WOMAN, "make her a wizard with red hair",
         {"subject": "old woman", "hair_style": "long", "hair_colour": "red"}),
        ("a man", "make him a wizard without a beard",
         {"subject": "old man", "hair_style": "long", "hair_colour": "white", "facial_hair": "none"}),
        (WOMAN, "make her hair shorter and blonde", {"hair_style": "short", "hair_colour": "blonde"}),
        ("a man with round glasses", "make the glasses square", {"eyewear": "square glasses"}),
        ("a girl with a ponytail", "tie her hair into a bun", {"hair_style": "bun"}),
        ("a girl with a ponytail", "let her hair down", {"hair_style": "long"}),
        ("a bald man", "let his hair grow", {"hair_style": "long"}),
        ("a bald man", "add a full head of grey hair", {"hair_style": "short", "hair_colour": "grey"}),
        ("a zombie", "bring him back to life", {"subject": "man"}),
        ("a man", "swap gender", {"subject": "woman"}),
        ("a man", "make him darker-skinned", {"skin": "dark"}),
        ("a man", "make him fatter", {"face": "round"}),
        ("a sad man", "cheer him up", {"expression": "smiling"}),
        ("an elf with pointed ears", "remove the pointed ears", {"ears": "plain"}),
    ],
)  # fmt: skip
def test_an_instruction(before: str, instruction: str, changes: dict[str, object]) -> None:
    assert edited_prompt(before, instruction, nearest=True).changes == changes


def test_a_person_who_becomes_an_old_man_keeps_the_skin() -> None:
    person = "a pale person with short black hair"
    wizard = edited_prompt(person, "turn them into a wizard", nearest=True).text
    assert wizard == "a pale old man with long white hair and a white beard"
    assert "pale" not in edited_prompt(person, "turn them into an orc", nearest=True).text


def test_what_keeps_its_garment_keeps_its_colour() -> None:
    assert edited_prompt(BOY, "put a baseball cap on him", nearest=True).text == BOY


def test_she_who_becomes_a_vampire_stays_a_woman() -> None:
    assert edited_prompt(WOMAN, "turn her into a vampire", nearest=True).changes["subject"] == "woman"
    wizard = edited_prompt(WOMAN, "turn her into a wizard", nearest=True).text
    assert wizard == "a pale old woman with long white hair, wearing a blue t-shirt"
    assert edited_prompt(WOMAN, "turn her into Santa", nearest=True).changes["facial_hair"] == "full beard"


def test_the_page_on_prompts_says_what_is_so() -> None:
    page = (Path(__file__).parents[1] / "docs" / "prompts.md").read_text(encoding="utf-8")
    vocabulary, examples = page.split("## What becomes of a sentence")
    for family, values in VALUES.items():
        for value in values:
            assert isinstance(value, bool) or value in ("none", "plain") or str(value) in vocabulary, (family, value)
    rows = re.findall(r"^\| (.+) \| (.+) \|$", examples, re.MULTILINE)[1:]
    told = {said: completed_prompt(said) for said, _ in rows}
    assert len(rows) >= 8 and told == dict(rows)
    for order in re.findall(r'"([^"]+)"', examples.split("## Edits")[1]):
        assert edited_prompt(BOY, order, nearest=True).changes, order
