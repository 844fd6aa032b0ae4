"""Words that the portrait world does not have, said again in those that it has."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from headsculpt.edit_place import edited_families, keeps_shape
from headsculpt.synthesis.captions import caption, sample_attributes
from headsculpt.synthesis.completion import completed_prompt, in_near_words, words_left_out
from headsculpt.synthesis.reading import edited_prompt, read_prompt
from headsculpt.synthesis.synonyms import nearest_words


def test_near_words_unsay_nothing_that_was_understood():
    rng = np.random.default_rng(3)
    for _ in range(400):
        text = caption(sample_attributes(rng), rng, view_share=0.0).text
        said, near = read_prompt(text).values, read_prompt(nearest_words(text)).values
        assert {family: near.get(family) for family in said} == said, text


def test_what_is_understood_stays_as_it_was_typed():
    listed = json.loads((Path(__file__).parents[1] / "benchmarks" / "ablations.json").read_text())
    for entry in [*listed["prompts"], *listed["edits"]]:
        assert in_near_words(entry["prompt"]) == entry["prompt"]
    assert in_near_words("a black-haired man in a long flowing robe") != "a black-haired man in a long flowing robe"


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("a boy with an orange mohawk", "a tanned boy with a red mohawk, wearing a grey t-shirt"),
        ("a woman with purple hair", "a brown-skinned woman with long pink hair, wearing a blue t-shirt"),
        ("a black man with an afro", "a dark-skinned man with curly black hair, wearing a red t-shirt"),
        ("grandma with glasses", "a pale grandma with a grey bun, wearing round glasses and a red t-shirt"),
        ("a businessman with a red tie", "a tanned businessman with short brown hair, wearing a black suit and tie"),
        ("a punk girl with blue hair", "a tanned girl with a blue mohawk, wearing a black t-shirt"),
        ("an elf queen with silver hair",
         "a pale elf woman with long grey hair, wearing a golden crown and a red t-shirt"),
        ("a king", "a pale king with short brown hair, wearing a golden crown and a red t-shirt"),
        ("a 70 year old man", "a brown-skinned old man with short grey hair, wearing a grey t-shirt"),
        ("a stone orc", "a marble bust of an orc with short hair, wearing a t-shirt"),
        ("a man with horn-rimmed glasses and blue eyes",
         "a pale man with short black hair, wearing square glasses and a red t-shirt"),
        ("a man without hair", "a pale man with a bald head, wearing a red t-shirt"),
        ("a punk rocker", "a pale man with a pink mohawk, wearing a black t-shirt"),
        ("a baby with a baby blue hoodie", "a tanned boy with short black hair, wearing a blue hoodie"),
        ("a strong jaw and glasses with square frames, a hero", None),
    ],
)
def test_a_prompt_is_told_in_the_nearest_words(typed, told):
    if told is not None:
        assert completed_prompt(typed) == told
    else:
        assert read_prompt(in_near_words(typed)).values == {
            "face": "square jaw", "eyewear": "square glasses", "subject": "man",
        }  # fmt: skip


@pytest.mark.parametrize(
    ("typed", "values"),
    [
        ("a wizard with a long white beard and a fedora", {
            "subject": "old man", "facial_hair": "full beard", "hair_colour": "white", "headwear": "cowboy hat",
        }),
        ("a teenage girl with two blonde braids and a tiara", {
            "subject": "girl", "hair_style": "ponytail", "hair_colour": "blonde", "headwear": "crown",
        }),
        ("a goblin in a navy sweater", {"subject": "orc", "clothing": "t-shirt", "clothing_colour": "blue"}),
        ("a man with dark-brown hair and a dark red hoodie", {
            "subject": "man", "hair_colour": "brown", "clothing": "hoodie", "clothing_colour": "red",
        }),
        ("an olive-skinned man with olive skin, a royal crown and a royal blue vest", {
            "subject": "man", "skin": "tan", "headwear": "crown", "clothing": "t-shirt", "clothing_colour": "blue",
        }),
        ("a girl with a black bob in a red dress", {
            "subject": "girl", "hair_style": "short", "hair_colour": "black", "clothing": "t-shirt",
            "clothing_colour": "red",
        }),
        ("a stone statue of a grumpy emperor", {"material": "marble bust", "expression": "angry", "subject": "man"}),
        ("a man without glasses in a hat, an astronaut", {
            "subject": "man", "eyewear": "none", "headwear": "cowboy hat",
        }),
    ],
)  # fmt: skip
def test_near_words_are_read(typed, values):
    assert read_prompt(nearest_words(typed)).values == values


def test_a_colour_that_hair_cannot_have_is_not_lost():
    assert read_prompt("a boy with an orange mohawk").rest == ["orange"]
    assert edited_prompt("a man", "give him an orange mohawk").text.endswith("give him an orange mohawk")
    assert edited_prompt("a man", "give him an orange mohawk", nearest=True).text == "a man with a red mohawk"


def test_what_has_no_near_word_is_left_out_and_named():
    told = completed_prompt("a woman with a red scarf, a nose ring and green hair")
    assert told == "a brown-skinned woman with long green hair, wearing a blue t-shirt"
    assert words_left_out("a woman with a red scarf, a nose ring and green hair") == ["red", "scarf", "nose", "ring"]
    assert words_left_out("a king with a golden crown") == words_left_out("a wizard with glasses") == []
    assert in_near_words("a ghost of glass") == "a person"  # no word of it is known
    assert words_left_out("a ghost of glass") == ["ghost", "glass"]


@pytest.mark.parametrize(
    ("instruction", "told", "families"),
    [
        ("add glasses", "a man with short black hair, wearing round glasses", {"eyewear"}),
        ("give him a red fedora", "a man with short black hair, wearing a red cowboy hat",
         {"headwear", "headwear_colour"}),
        ("dye his hair purple", "a man with short pink hair", {"hair_colour"}),
        ("make his hair longer", "a man with long black hair", {"hair_style"}),
        ("make him look grumpy", "an angry man with short black hair", {"expression"}),
        ("take off the glasses", "a man with short black hair, without glasses", {"eyewear"}),
    ],
)  # fmt: skip
def test_an_instruction_is_told_in_the_nearest_words_and_has_its_place(instruction, told, families):
    assert edited_prompt("a man with short black hair", instruction, nearest=True).text == told
    assert edited_families("a man with short black hair", instruction) == families


def test_without_nearest_an_instruction_stays_as_typed():
    assert edited_prompt("a man", "add glasses").text == "a man, add glasses"
    assert keeps_shape("a man with short hair", "dye his hair purple")
