"""What a prompt leaves open, settled before sculpting; and the painted head that sculpting starts from."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from headsculpt.synthesis.completion import completed_prompt, unwanted
from headsculpt.synthesis.reading import read_prompt


def test_what_was_said_stays_and_the_rest_is_settled() -> None:
    prompt = "an old man with a white beard and round glasses"
    said, told = read_prompt(prompt).values, read_prompt(completed_prompt(prompt)).values
    assert said.items() <= told.items()
    assert {"skin", "hair_style", "clothing", "clothing_colour"} <= told.keys()
    assert told["hair_colour"] == "white"  # hair and beard are of one colour


@pytest.mark.parametrize("prompt", ["a lighthouse riding a bike", "", "qwerty"])
def test_a_prompt_without_a_known_word_is_told_as_a_person(prompt: str) -> None:
    assert completed_prompt(prompt) == "a pale person with short black hair, wearing a grey t-shirt"
    assert completed_prompt(prompt, 3) != completed_prompt(prompt)


def test_unknown_words_are_left_out() -> None:
    told = completed_prompt("a gigantic orc with a steam-powered jetpack.")
    assert told == "a green orc with short black hair, wearing a grey t-shirt"


def test_statues_have_no_colours() -> None:
    values = read_prompt(completed_prompt("a marble bust of a man with curly hair")).values
    assert not {"skin", "hair_colour", "clothing_colour"} & values.keys()


def test_near_a_hat_only_hair_that_was_asked_for_is_spoken_of() -> None:
    hat = "a gentleman in a black top hat with a moustache"
    far, near = (read_prompt(completed_prompt(hat, near=close)).values for close in (False, True))
    assert far["hair_style"] == "short"
    assert near == {family: value for family, value in far.items() if family != "hair_style"}
    shaven = read_prompt(completed_prompt("a cowboy in a cowboy hat", near=True)).values
    assert not {"hair_style", "hair_colour"} & shaven.keys()
    for other in ("a man with long hair and a beanie", "a king with a crown", "a smiling woman", "an alien in a cap"):
        assert completed_prompt(other, near=True) == completed_prompt(other)


@pytest.mark.parametrize(
    ("prompt", "colour"),
    [
        ("a wizard with a white beard and a top hat", "black"),  # not white as his hair
        ("a green-skinned boy with blue hair in a red hoodie and a beanie", "yellow"),  # what is left
        ("a boy in a blue cap", "blue"),
        ("a marble bust of a man in a top hat", None),
        ("a woman, bareheaded", None),
    ],
)
def test_a_hat_without_a_colour_gets_one(prompt: str, colour: str | None) -> None:
    assert read_prompt(completed_prompt(prompt)).values.get("headwear_colour") == colour


def test_bald_heads_get_no_hair_and_the_seed_decides() -> None:
    assert "hair_colour" not in read_prompt(completed_prompt("a bald man")).values
    assert completed_prompt("a woman", 3) == completed_prompt("a woman", 3)
    assert len({completed_prompt("a woman", seed) for seed in range(8)}) > 3


def test_people_of_one_seed_differ_and_an_edit_leaves_the_rest_alone() -> None:
    people = ("man", "woman", "boy", "girl", "king", "pirate", "cowboy", "witch")
    shirts = {read_prompt(completed_prompt(f"a {who}")).values.get("clothing_colour") for who in people}
    assert len(shirts) > 1
    before, after = (read_prompt(completed_prompt(f"a man{more}")).values for more in ("", " with round glasses"))
    assert after.pop("eyewear") == "round glasses" and before == after


def test_a_king_keeps_his_crown() -> None:
    assert "crown" in completed_prompt("a king with a golden crown and a full grey beard")


def test_a_field_learns_the_colours_of_a_surface_and_stays_empty() -> None:
    from headsculpt.representations.encodings import HashGrid
    from headsculpt.representations.fields import Field, paint

    generator = torch.Generator().manual_seed(0)
    field = Field(HashGrid(8, 2, 8, 64, 12, generator=generator), hidden=16, generator=generator)
    vertices = torch.tensor([[-0.5, -0.5, 0.0], [0.5, -0.5, 0.0], [0.5, 0.5, 0.0], [-0.5, 0.5, 0.0]])
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    colours = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.9, 0.1], [0.1, 0.9, 0.1], [0.9, 0.1, 0.1]])
    paint(field, vertices, faces, colours, generator, steps=150, batch=2048)
    x = torch.tensor([[-0.4, 0.0, 0.0], [0.4, 0.0, 0.0], [-0.4, 0.1, 0.04]])
    raw = field.raw(x).detach()
    wanted = torch.tensor([[0.82, 0.18, 0.1], [0.18, 0.82, 0.1], [0.82, 0.18, 0.1]])
    torch.testing.assert_close(torch.sigmoid(raw[:, 1:]), wanted, atol=0.08, rtol=0)
    assert raw[:, 0].abs().max() < 0.2


def test_the_painted_head_has_eyes_and_lips_but_no_hidden_parts() -> None:
    from headsculpt.heads.builtin import builtin_head
    from headsculpt.heads.colours import outer_faces, plain_colours

    head = builtin_head()
    colours = plain_colours(head)
    assert colours.shape == (len(head.template), 3) and colours.min() >= 0 and colours.max() <= 1
    assert colours[head.regions["pupil"] > 0.5].max() < 0.1
    seen = np.unique(outer_faces(head, head.template))
    assert not (head.regions["teeth"][seen] > 0.5).any()
    assert (head.regions["pupil"][seen] > 0.5).any()


@pytest.mark.parametrize(
    "told, away",
    [
        ("a pale man with short black hair, wearing a red t-shirt", "a moustache"),
        ("a pale man with short black hair, wearing a red t-shirt, clean-shaven", "a moustache"),
        ("a grey-skinned zombie with short black hair", "a moustache"),
        ("a pale man with short black hair and a black goatee", ""),
        ("a smiling woman with long red hair", ""),
        ("a tanned boy in a blue hoodie", ""),
        ("a pale elf girl with long blonde hair", ""),
        ("a steam-powered jetpack", ""),
    ],
)
def test_a_moustache_is_kept_off_whoever_could_have_one_and_was_given_none(told, away):
    assert unwanted(told) == away
