"""What an edit keeps of its source to the point: surface and colours outside its room, the mesh where shapes stay."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from stand_ins import textured_egg
from torch import nn

from headsculpt.avatar import Avatar, AvatarInfo
from headsculpt.config import load_config
from headsculpt.editing import SourceField, edit_config, kept_source
from headsculpt.heads.builtin import builtin_head
from headsculpt.kept_source import KeptColours, KeptSource, edit_room, mesh_colours, shape_room
from headsculpt.meshes import Mesh
from headsculpt.representations.dmtet import DMTet
from headsculpt.representations.tetrahedra import grid_vertices

SIDES = ("left", "right")
CPU = torch.device("cpu")


class Plain(nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))

    def forward(self, points):
        return self.value.expand(len(points), 3)


def ball(radius: float, resolution: int = 40) -> DMTet:
    lower, cell = torch.full((3,), -1.0), 2.0 / resolution
    points = grid_vertices((resolution + 1,) * 3, lower, cell)
    return DMTet((points.norm(dim=-1) - radius).view((resolution + 1,) * 3), lower, cell, Plain(0.5))


def upper_half(points):
    return (points[:, 1] > 0).float()


def test_outside_the_room_the_surface_is_the_sources():
    dmtet = ball(0.7)
    KeptSource(ball(0.5).mesh(), upper_half, shape_stays=False, resolution=40, device=CPU).keep_shape(dmtet)
    vertices = dmtet.mesh().vertices
    above, below = vertices[vertices[:, 1] > 0.1], vertices[vertices[:, 1] < -0.1]
    assert above.norm(dim=-1).mean() == pytest.approx(0.7, abs=0.005)
    assert below.norm(dim=-1).mean() == pytest.approx(0.5, abs=0.005)


def test_where_shapes_stay_all_of_it_is_the_sources_and_so_is_the_mesh():
    dmtet, source = ball(0.7), replace(ball(0.5).mesh(), uv=None)
    kept = KeptSource(source, upper_half, shape_stays=True, resolution=40, device=CPU)
    kept.keep_shape(dmtet)
    assert dmtet.mesh().vertices.norm(dim=-1).sub(0.5).abs().max() < 0.01
    mesh = kept.recoloured(Plain(0.25))
    assert torch.equal(mesh.vertices, source.vertices) and torch.equal(mesh.faces, source.faces)
    assert (mesh.colours == 0.25).all() and mesh.texture is None


def test_without_a_room_and_with_another_shape_nothing_is_kept():
    dmtet, field = ball(0.7), Plain(0.5)
    before = dmtet.sdf.detach().clone()
    kept = KeptSource(ball(0.5).mesh(), None, shape_stays=False, resolution=40, device=CPU)
    kept.keep_shape(dmtet)
    assert torch.equal(dmtet.sdf, before) and kept.colours(field) is field


def test_colours_are_the_sources_outside_the_room_and_learn_inside():
    triangle = Mesh(
        torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]), torch.tensor([[0, 1, 2]]), colours=torch.eye(3)
    )
    field = Plain(0.5)
    found = KeptColours(field, triangle, lambda points: (points[:, 0] < 0.3).float())(
        torch.tensor([[0.9, 0.0, 0.2], [0.1, 0.1, 0.2]])
    )
    assert found[0].tolist() == pytest.approx([0.1, 0.9, 0.0], abs=1e-5)  # of the nearest point
    assert found[1].tolist() == [0.5, 0.5, 0.5]
    found[1].sum().backward()
    assert float(field.value.grad) == 3


def test_a_texture_is_read_at_the_nearest_point_and_a_bare_mesh_refused():
    egg = textured_egg()
    centres = egg.vertices[egg.faces].mean(1)
    found = mesh_colours(egg, centres * 1.01)
    texture = torch.from_numpy(egg.texture.astype(np.float32) / 255)
    assert found.shape == centres.shape
    uv = egg.uv.mean(1)
    column = (uv[:, 0] * texture.shape[1]).long().clamp(0, texture.shape[1] - 1)
    row = ((1 - uv[:, 1]) * texture.shape[0]).long().clamp(0, texture.shape[0] - 1)
    assert (found - texture[row, column]).abs().mean() < 0.1
    bare = Mesh(egg.vertices, egg.faces)
    with pytest.raises(ValueError, match="no colours; give one with a texture and UVs, or with vertex colours"):
        mesh_colours(bare, centres)


def test_edits_of_hair_leave_the_face_and_those_of_hats_do_not():
    head = builtin_head()
    eye = torch.from_numpy(head.template[head.landmarks["left_eye"]]).float().mean(0)
    brow_high, side = torch.tensor([0.0, 0.35, 0.4]), torch.tensor([-0.4, 0.0, 0.0])
    points = torch.stack([eye, brow_high, side])
    assert edit_room(frozenset({"hair_colour"}), head.template, dict(head.landmarks))(points).tolist() == [0, 1, 1]
    hat = edit_room(frozenset({"headwear", "hair_colour"}), head.template, dict(head.landmarks))
    assert hat(points).tolist() == [1, 1, 1]


@pytest.mark.parametrize(("families", "nose", "lips"), [({"expression"}, 0, 1), ({"expression", "eyewear"}, 1, 1)])
def test_expressions_leave_the_nose_alone_and_spectacles_do_not(families, nose, lips):
    head = builtin_head()
    tip = torch.from_numpy(head.template[head.anchor_indices["nose_tip"]]).float()
    mouth = [index for name, index in head.landmarks.items() if "lips" in name]
    points = torch.cat([tip.view(1, 3), torch.from_numpy(head.template[np.concatenate(mouth)]).float()])
    found = edit_room(frozenset(families), head.template, dict(head.landmarks))(points)
    assert found[0] == nose and (found[1:] == lips).all()


def test_hats_leave_ears_their_shape_and_headphones_do_not():
    head = builtin_head()
    ears = torch.from_numpy(np.stack([head.template[head.anchor_indices[f"{side}_ear_tip"]] for side in SIDES])).float()
    for families, expected in (({"headwear"}, 0), ({"headwear", "ears"}, 1)):
        room = edit_room(frozenset(families), head.template, dict(head.landmarks))
        shape = shape_room(room, frozenset(families), uncovers=False)
        assert room(ears.view(-1, 3)).tolist() == [1, 1]
        assert shape(ears.view(-1, 3)).tolist() == [expected, expected]


def test_a_hat_that_goes_takes_its_rim_off_the_face_and_leaves_the_face_its_colours():
    head = builtin_head()
    below_brow, chin = torch.tensor([0.0, 0.0, 0.5]), torch.tensor([0.0, -0.4, 0.4])
    points = torch.stack([below_brow, chin])
    room = edit_room(frozenset({"headwear"}), head.template, dict(head.landmarks))
    assert room(points).tolist() == [0, 0]
    assert shape_room(room, frozenset({"headwear"}), uncovers=True)(points).tolist() == [1, 0]
    assert shape_room(room, frozenset({"headwear"}), uncovers=False)(points).tolist() == [0, 0]


def test_the_shape_may_have_a_room_of_its_own():
    dmtet = ball(0.7)
    kept = KeptSource(
        ball(0.5).mesh(), lambda points: torch.zeros_like(points[:, 0]), shape_room=upper_half,
        shape_stays=False, resolution=40, device=CPU,
    )  # fmt: skip
    kept.keep_shape(dmtet)
    vertices = dmtet.mesh().vertices
    assert vertices[vertices[:, 1] > 0.1].norm(dim=-1).mean() == pytest.approx(0.7, abs=0.005)


@pytest.mark.parametrize(
    ("instruction", "overrides", "room", "stays"),
    [
        ("give him a full red beard", (), True, False),
        ("make his hair green", (), True, True),
        ("turn him into a marble bust", (), False, True),
        ("turn him into a zombie", (), None, None),
        ("make it baroque", ("guidance.complete_prompt=false",), None, None),
        ("make his hair green", ("edit.place=false",), None, None),
        ("make his hair green", ("edit.told=a man with green hair and a hat",), None, None),
    ],
)
def test_what_is_kept_follows_the_instruction(instruction, overrides, room, stays):
    head, source = builtin_head(), ball(0.5).mesh()
    made = load_config("draft", ["prior.controls=[]"], prompt="a man with short hair")
    avatar = Avatar(source, AvatarInfo(prompt="a man with short hair"), SourceField(made, {}))
    config = edit_config(avatar, instruction, overrides=overrides)
    kept = kept_source(config, avatar, head.template, dict(head.landmarks), CPU)
    found = (None, None) if kept is None else (kept.room is not None, kept.shape_stays)
    assert found == (room, stays)


def test_an_instruction_without_a_word_that_the_prior_knows_is_refused():
    made = load_config("draft", ["prior.controls=[]"], prompt="a man with short hair")
    avatar = Avatar(ball(0.5).mesh(), AvatarInfo(prompt="a man with short hair"), SourceField(made, {}))
    with pytest.raises(ValueError, match='"make it baroque" changes nothing in "a pale man with short black hair'):
        edit_config(avatar, "make it baroque")
