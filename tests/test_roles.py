"""What goes with a calling or a name: in prompts that leave it open, and in edits that make somebody one."""

from __future__ import annotations

import re

import pytest

from headsculpt.synthesis.completion import completed_prompt, words_left_out
from headsculpt.synthesis.reading import edited_prompt, read_prompt
from headsculpt.synthesis.roles import CALLINGS, NAMES, looks_of, looks_to_become


@pytest.mark.parametrize("looks", sorted({entry[-1] for entry in (*CALLINGS, *NAMES)}))
def test_all_looks_are_in_the_vocabulary(looks: str) -> None:
    found = read_prompt(f"a person with {looks}")
    assert found.rest == [] and len(found.values) >= 1 + len(re.findall(r",| and (?!tie)", looks))


@pytest.mark.parametrize("who", [who for _, who, _ in NAMES])
def test_names_stand_for_somebody_in_the_vocabulary(who: str) -> None:
    found = read_prompt(f"a {who}")
    assert found.rest == [] and found.noun


@pytest.mark.parametrize(
    ("prompt", "told"),
    [
        ("Charlie Chaplin", "a pale man with short black hair and a black moustache, wearing a black suit and tie"),
        ("Pinocchio", "a wooden carving of a boy with short hair and a long nose, wearing a t-shirt"),
        ("a statue of Zeus", "a marble bust of an old man with long hair and a beard, wearing a t-shirt"),
        ("a chef with a hat", "a pale man with short black hair, wearing a white top hat and a white t-shirt"),
        ("the Mona Lisa", "a pale woman with long brown hair, wearing a green t-shirt"),
    ],
)  # fmt: skip
def test_what_a_prompt_leaves_open_is_as_with_others_of_that_kind(prompt: str, told: str) -> None:
    assert completed_prompt(prompt) == told
    assert words_left_out(prompt) == []


@pytest.mark.parametrize(
    ("prompt", "family", "value"),
    [
        ("a wizard without a beard", "facial_hair", "none"),
        ("a wizard with a red beard", "hair_colour", "red"),
        ("a bald wizard", "hair_style", "bald"),
        ("a vampire in a red hoodie", "clothing_colour", "red"),
        ("a nurse with a blue cap", "headwear_colour", "blue"),
        ("a chef with a moustache, wearing a green beanie", "headwear", "beanie"),
    ],
)
def test_what_was_said_stands(prompt: str, family: str, value: str) -> None:
    assert read_prompt(completed_prompt(prompt)).values[family] == value


def test_a_garment_said_otherwise_does_not_take_the_usual_ones_colour() -> None:
    assert read_prompt(completed_prompt("a police officer with a beanie")).values["headwear"] == "beanie"
    assert looks_of("a police officer") == "a blue baseball cap and a blue t-shirt"
    told = {read_prompt(completed_prompt("a nurse in a hoodie", seed)).values["clothing_colour"] for seed in range(6)}
    assert len(told) > 1 and "white" not in told


def test_women_and_children_get_no_beards_and_children_no_white_hair() -> None:
    for prompt in ("a female wizard", "a girl wizard", "a boy wizard"):
        assert "facial_hair" not in read_prompt(completed_prompt(prompt)).values
    assert read_prompt(completed_prompt("a female wizard")).values["hair_colour"] == "white"
    assert read_prompt(completed_prompt("a boy wizard")).values["hair_colour"] not in ("white", "grey")


@pytest.mark.parametrize(
    "prompt", ["a girl with a wizard hat", "a man with a viking's beard", "a girl dressed as an evil witch", ""]
)
def test_what_is_only_worn_makes_nobody_one(prompt: str) -> None:
    assert looks_of(prompt) == ""


@pytest.mark.parametrize(
    ("instruction", "after"),
    [
        ("turn him into a wizard", "an old man with long white hair and a white beard"),
        ("make him a chef", "a man with short brown hair, wearing a white top hat and a white t-shirt"),
        ("make him look like Einstein", "a pale old man with curly white hair and a white moustache"),
        ("give him a wizard hat", "a man with short brown hair, wearing a top hat"),
    ],
)
def test_an_edit_makes_somebody_one(instruction: str, after: str) -> None:
    assert edited_prompt("a man with short brown hair", instruction, nearest=True).text == after
    assert bool(looks_to_become(instruction)) == ("hat" not in instruction)


@pytest.mark.parametrize(
    ("prompt", "subject"),
    [
        ("a woman, 75 years old, with glasses", "old woman"),
        ("a man aged 80", "old man"),
        ("a man of 30", "man"),
        ("a man, 2 earrings", "man"),
        ("a 12-year-old with a cap", "boy"),
        ("a 35 year old Indian woman", "woman"),
        ("a 70-year-old person", "old man"),
        ("an elderly person with white hair", "old man"),
    ],
)
def test_ages_are_read(prompt: str, subject: str) -> None:
    assert read_prompt(completed_prompt(prompt)).values["subject"] == subject
    assert not re.search("year|old|aged", " ".join(words_left_out(prompt)))


def test_an_unknown_calling_is_a_person_and_what_is_said_of_it_stays() -> None:
    told = completed_prompt("a tanned zookeeper with a red beard")
    assert told == "a tanned person with short red hair and a red beard, wearing a grey t-shirt"
    assert words_left_out("a tanned zookeeper with a red beard") == ["zookeeper"]
