"""Where an edit may act: what its words name, as cameras see it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from headsculpt.cameras import framed
from headsculpt.config import EditConfig, config_from_yaml, load_config, to_yaml
from headsculpt.edit_place import SIZE, EditPlace, edited_families, keeps_shape, takes_hat_off
from headsculpt.guidance.identity_editing import EditDistillation, at_size_of
from headsculpt.heads.builtin import builtin_head
from headsculpt.heads.places import EVERYWHERE, FADE, PLACES, in_places, rays_through
from headsculpt.meshes import Mesh
from headsculpt.synthesis.attributes import VALUES

VIEWS = (0.0, 60.0, -90.0, 180.0)


def cameras(half_height: float = 1.0):
    return framed(VIEWS, 5.0, half_height, height=SIZE, width=SIZE)


def place(*families: str) -> EditPlace:
    head = builtin_head()
    mesh = Mesh(torch.from_numpy(head.template).float(), torch.from_numpy(head.faces).long())
    return EditPlace(families, mesh, head.template, head.faces, dict(head.landmarks))


@pytest.mark.parametrize(
    ("instruction", "families"),
    [
        ("give him a full red beard", {"facial_hair"}),  # red is the beard, not the hair
        ("give him a red beard and red hair", {"facial_hair", "hair_colour"}),
        ("make his beard white", {"facial_hair"}),
        ("dye his goatee black", {"facial_hair"}),
        ("make him red-haired with a beard", {"facial_hair", "hair_colour"}),
        ("make her hair green", {"hair_colour"}),
        ("give him headphones", {"headwear", "ears"}),
        ("put a blue beanie on him", {"headwear", "headwear_colour"}),
        ("take off the cap", {"headwear"}),
        ("make him smile", {"expression"}),
        ("turn her into a zombie", set()),  # the whole of her
        ("turn him into a marble bust", set()),
        ("make it baroque", set()),  # who knows what
        ("give him a red beard made of lobsters", set()),
    ],
)
def test_what_an_instruction_names(instruction, families):
    assert edited_families("a boy wearing a red baseball cap", instruction) == families


def test_hair_and_a_beard_that_is_there_have_one_colour():
    assert edited_families("a man with a beard", "make his hair green") == {"hair_colour", "facial_hair"}


def test_headphones_that_are_taken_off_reach_to_the_ears():
    assert edited_families("a woman with red headphones", "remove her headphones") == {"headwear", "ears"}


@pytest.mark.parametrize(
    ("prompt", "instruction", "kept"),
    [
        ("an elf", "make her hair green", True),
        ("a bald man with a beard", "make his beard white", True),
        ("a bald man", "make his hair green", False),  # it has to grow first
        ("a boy in a red cap", "make the cap blue", True),
        ("a boy", "make his hat red", False),
        ("a man", "turn him into a marble bust", True),
        ("a man", "give him a red beard", False),
        ("a man", "turn him into a zombie", False),
        ("a man", "make it baroque", False),
    ],
)
def test_colours_and_materials_alone_leave_the_shape(prompt, instruction, kept):
    assert keeps_shape(prompt, instruction) is kept


@pytest.mark.parametrize(
    ("prompt", "instruction", "expected"),
    [
        ("a boy wearing a red baseball cap", "take off the cap", True),
        ("a boy wearing a red baseball cap", "put a blue beanie on him", True),
        ("a boy", "put a red cap on him", False),
        ("a boy wearing a red baseball cap", "give him round glasses", False),
    ],
)
def test_a_hat_goes_where_there_was_one_and_the_instruction_names_it(prompt, instruction, expected):
    assert takes_hat_off(prompt, instruction) is expected


def test_a_point_is_in_a_place_up_to_its_box_and_fades_beyond():
    low, high = PLACES["nose"][0]
    middle = [(a + b) / 2 for a, b in zip(low, high, strict=True)]
    points = torch.tensor([[high[0] + d, *middle[1:]] for d in (-0.01, 0.5 * FADE, FADE, 1.0)])
    assert in_places({"nose"}, points).tolist() == pytest.approx([1.0, 0.5, 0.0, 0.0], abs=1e-5)
    behind, cheek = torch.tensor([[0.0, 0.0, -0.4], [0.15, -0.05, 0.3]])
    assert in_places({"headwear"}, torch.stack([behind, cheek])).tolist() == [1, 0]  # caps reach down there
    curl, quiff, shoulder, nose = torch.tensor([[0.75, 0.1, -0.2], [0.1, 0.5, 0.6], [0.75, -0.5, -0.2], [0, 0, 0.55]])
    assert in_places({"hair_colour"}, torch.stack([curl, quiff, shoulder, nose])).tolist() == [1, 1, 0, 0]
    assert in_places({"nose", "clothing"}, torch.tensor([[0.0, -0.9, 0.0]])) == 1
    with pytest.raises(ValueError, match="'subject' has no place on a head; there are hair_style"):
        in_places({"subject"}, points)


def test_every_family_has_a_place_or_none():
    assert set(PLACES) | set(EVERYWHERE) == set(VALUES) and not set(PLACES) & set(EVERYWHERE)
    with pytest.raises(ValueError, match="'skin' has no place on a head; there are hair_style"):
        rays_through(["skin"], cameras(), torch.full((4, SIZE, SIZE), torch.inf))


def test_a_ray_ends_where_something_is_in_its_way():
    free = torch.full((4, SIZE, SIZE), torch.inf)
    seen, hidden = (rays_through(["nose"], cameras(), until) for until in (free, torch.full_like(free, 0.1)))
    assert seen.flatten(1).any(1).all() and not hidden.any()


@pytest.mark.parametrize(
    ("family", "part", "seen_behind"),
    [("eyewear", "eyeballs", False), ("headwear", "scalp", True), ("nose", "nose", False)],
)
def test_a_place_holds_its_part_where_that_is_seen_and_nothing_behind_the_head(family, part, seen_behind):
    head = builtin_head()
    found = place(family)(cameras())
    pixels = cameras().pixels(torch.from_numpy(head.template)).long().clamp(0, SIZE - 1)
    chosen = torch.from_numpy(head.regions[part] > 0.5)
    if family == "headwear":
        chosen &= torch.from_numpy(head.template[:, 1] > 0.25)
    x, y = pixels[0, chosen].T
    assert found[0, 0, y, x].mean() > 0.9
    x, y = pixels[3, chosen].T
    behind = found[3, 0, y, x].mean()
    assert behind > 0.9 if seen_behind else behind < 0.05


@pytest.mark.parametrize(("family", "kept"), [("hair_colour", True), ("earrings", True), ("eyewear", False)])
def test_what_is_not_on_the_face_leaves_eyes_and_lips_alone(family, kept):
    head = builtin_head()
    near = framed([0.0], 5.0, 0.45, height=SIZE, width=SIZE)
    found = place(family)(near)[0, 0]
    for name in ("left_eye", "right_eye"):
        middle = near.pixels(torch.from_numpy(head.template[head.landmarks[name]]))[0].mean(0).long()
        assert bool(found[middle[1], middle[0]]) != kept


@pytest.mark.parametrize("expression", ["surprised", "smiling"])
def test_a_face_can_move_within_the_place_of_an_expression(expression):
    from headsculpt.synthesis.character import EXPRESSION_WEIGHTS

    head = builtin_head()
    moved = head.vertices({}, EXPRESSION_WEIGHTS[expression])
    changed = np.linalg.norm(moved - head.vertices({}, {}), axis=1) > 0.01
    low, high = (np.array(corner) for corner in PLACES["expression"][0])
    assert changed.any() and ((moved[changed] > low) & (moved[changed] < high)).all()


def test_a_brim_over_the_face_is_not_spared():
    from_above = framed([40.0], 30.0, 0.6, height=SIZE, width=SIZE)
    assert place("headwear").kept == {} and place("headwear")(from_above).any()


def test_at_other_sizes_a_latent_counts_whole_and_a_picture_keeps_the_outline():
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 10, 10] = 1
    assert at_size_of(torch.zeros(1, 8, 16, 16), mask).sum() == 1
    assert at_size_of(torch.zeros(1, 3, 128, 128), mask).shape == (1, 1, 128, 128)


def test_outside_its_place_an_edit_asks_for_the_source(monkeypatch):
    from test_identity_editing import SOURCE, grey, guide, rendering, views

    from headsculpt.guidance.backbone import LatentDiffusion
    from headsculpt.priors.catalogue import random_prior

    def left_half(given):
        half = torch.zeros(len(given), 1, SIZE, SIZE)
        half[..., : SIZE // 2] = 1
        return half

    editing = guide(LatentDiffusion(random_prior("tiny")), instructed=False, mask=False)
    edited = EditDistillation(
        editing.base, "an elf", EditConfig(instruction="add a hat", mask=False), grey, instructed=False, place=left_half
    )
    _, record = edited(rendering(0.9), views(), 0.0, torch.Generator().manual_seed(0))
    size = record.target.shape[2]
    right = record.target[:, :, size // 2 + 1 :]
    assert torch.allclose(right, torch.full_like(right, SOURCE), atol=1e-5)
    left = record.target[:, :, : size // 2 - 1]
    assert not torch.allclose(left, torch.full_like(left, SOURCE), atol=1e-2)


def test_heads_made_before_are_edited_as_they_were():
    text = to_yaml(load_config("mini", prompt="an elf"))
    assert config_from_yaml(text, "new").edit.place and config_from_yaml(text, "new").guidance.sampler == "dpm"
    before = "\n".join(line for line in text.splitlines() if line.strip() not in ("place: true", "sampler: dpm"))
    old = config_from_yaml(before, "old")
    assert not old.edit.place and old.guidance.sampler == "ddim"
