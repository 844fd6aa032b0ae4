"""The rig: expressions and joints on a sculpture, a mouth that opens, and both in a GLB."""

import functools
import json
import runpy
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from stand_ins import EggColours, egg, finished_egg, textured_egg

from headsculpt import cli
from headsculpt.avatar import Avatar, AvatarInfo
from headsculpt.cameras import METRES_PER_UNIT, framed
from headsculpt.config import load_config
from headsculpt.export.bake import bake
from headsculpt.export.files import split_at_seams
from headsculpt.export.gltf import UPRIGHT, glb_bytes, read_glb, turn_of_normals
from headsculpt.export.head_motion import EYE, JOINTS, HeadMotion
from headsculpt.export.mouth import opened
from headsculpt.export.rig import Rig, evened_out, posed, rigged
from headsculpt.export.splitting import border, with_split_edges
from headsculpt.export.unwrap import shape_of_surface
from headsculpt.export.view import render_mesh
from headsculpt.heads.builtin import builtin_head
from headsculpt.heads.expressions import EXPRESSION_NAMES
from headsculpt.heads.template import build_template
from headsculpt.meshes import Mesh, face_normals, unique_edges, vertex_normals
from headsculpt.outputs import finished_avatar
from headsculpt.priors.catalogue import load_prior
from headsculpt.sculpting import described_head, starting_head

IDENTITY = {"nose_size": 0.6, "head_width": -0.3}


@functools.lru_cache
def bust() -> Mesh:
    """A closed surface like a sculpture's: the template's skin, eyes and lips shut, welded, with its own atlas."""
    head, template = builtin_head(), build_template()
    shaped = template.surface + head.vertices(IDENTITY) - head.template
    skin = np.zeros(len(shaped), bool)
    for indices in (template.grid, template.parts["crown"], template.parts["cut"]):
        skin[indices] = True
    faces = template.faces[skin[template.faces].all(1)]
    points, place = np.unique(shaped.astype(np.float32), axis=0, return_inverse=True)
    welded = place.reshape(-1)[faces].astype(np.int64)
    whole = (welded != np.roll(welded, 1, 1)).all(1)
    mesh = Mesh(
        torch.from_numpy(points),
        torch.from_numpy(welded[whole]),
        uv=torch.from_numpy(template.uv[faces[whole]]).float(),
    )
    return bake(mesh, EggColours(), 256)


@functools.lru_cache
def moving_bust() -> tuple[Mesh, Rig]:
    return rigged(bust(), IDENTITY, {})


def _volume(mesh: Mesh) -> float:
    return float(mesh.to_trimesh().volume)


def test_the_stand_in_is_closed():
    assert shape_of_surface(bust().faces.numpy()) == (True, 1, 2)


# --- edges -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.5, 0.2])
def test_split_edges_leave_the_surface_as_it_was(share):
    generator = torch.Generator().manual_seed(0)
    mesh = textured_egg()
    edges = unique_edges(mesh.faces)
    # Of all kinds: triangles with no, one, two and three split edges; and given from either end.
    edges = edges[torch.rand(len(edges), generator=generator) < 0.5]
    turned = torch.rand(len(edges), generator=generator) < 0.5
    edges = torch.where(turned[:, None], edges.flip(1), edges)
    split = with_split_edges(mesh, edges, torch.full((len(edges),), share))
    assert shape_of_surface(split.faces.numpy()) == (True, 1, 2)
    assert len(split.vertices) == len(mesh.vertices) + len(edges)
    assert _volume(split) == pytest.approx(_volume(mesh), rel=1e-5)
    new = split.vertices[len(mesh.vertices) :]
    assert torch.allclose(new, torch.lerp(mesh.vertices[edges[:, 0]], mesh.vertices[edges[:, 1]], share))
    # The same picture: UVs are divided as the triangles are.
    camera = framed([20.0], 5.0, 0.9, height=96, width=96)
    before, after = (render_mesh(m, camera, background=(0, 0, 0), shaded=False).rgb for m in (mesh, split))
    assert (before - after).abs().max() < 0.02


def test_each_new_vertex_of_a_split_triangle_is_used():
    mesh = egg(2)
    edges = unique_edges(mesh.faces)
    split = with_split_edges(mesh, edges)
    assert len(split.faces) == 4 * len(mesh.faces)
    assert torch.equal(torch.unique(split.faces), torch.arange(len(split.vertices)))


def test_a_border_is_found_along_edges_from_either_end():
    mesh = egg(3)
    height = 0.1234
    edges, above = unique_edges(mesh.faces), mesh.vertices[:, 1] > height
    edges = edges[above[edges[:, 0]] != above[edges[:, 1]]]
    for given in (edges, edges.flip(1)):
        low, high = border(mesh, given, above, lambda points: points[:, 1] > height)
        start, end = mesh.vertices[given[:, 0], 1], mesh.vertices[given[:, 1], 1]
        truth = (height - start) / (end - start)
        assert (low <= truth + 1e-5).all() and (truth <= high + 1e-5).all()
        assert torch.allclose(high - low, torch.full_like(low, 1 / 32))
    none = border(mesh, edges[:0], above, lambda points: points[:, 1] > height)
    assert all(len(part) == 0 for part in none)


# --- evening out -------------------------------------------------------------------------------------------


def test_evening_out_keeps_constants_stays_in_range_and_does_nothing_without_reach():
    mesh = egg(3)
    count = len(mesh.vertices)
    step = (mesh.vertices[:, :1] > 0).double().numpy()
    values = np.concatenate([np.full((count, 1), 0.7), step], 1)
    spread = evened_out(mesh, values, np.full(count, 0.2))
    assert np.allclose(spread[:, 0], 0.7, atol=1e-5)
    assert spread[:, 1].min() >= -1e-5 and spread[:, 1].max() <= 1 + 1e-5
    assert np.allclose(evened_out(mesh, values, np.zeros(count)), values, atol=1e-6)
    near = np.abs(mesh.vertices[:, 0].numpy()) < 0.1
    assert 0.1 < spread[near, 1].min() and spread[near, 1].max() < 0.9
    wider = evened_out(mesh, values, np.full(count, 0.4))
    assert wider[:, 1].std() < spread[:, 1].std() < step.std()


# --- the rig -----------------------------------------------------------------------------------------------


def test_a_sculpture_that_is_the_head_moves_as_the_head_does():
    mesh, rig = moving_bust()
    assert tuple(rig.expressions) == EXPRESSION_NAMES and rig.names == JOINTS
    assert np.allclose(rig.weights.sum(1), 1, atol=1e-5) and rig.weights.min() >= 0
    head = builtin_head()
    vertices = head.vertices(IDENTITY)
    brow = head.landmarks["left_brow"]
    at = torch.cdist(torch.from_numpy(vertices[brow]), mesh.vertices).argmin(1).numpy()
    for name in ("browInnerUp", "browDownLeft", "jawOpen"):
        assert np.allclose(rig.expressions[name][at], head.expression_shapes[name][brow], atol=2e-3)
    # The chin follows the jaw, the crown the neck, the shoulders nothing.
    chin = torch.from_numpy(vertices[head.anchor_indices["chin"]].mean(0))
    for point, joint in (
        (chin, "jaw"),
        (torch.tensor([0, 0.5, 0]), "neck"),
        (torch.tensor([0.7, -0.95, 0]), "root"),
    ):
        nearest = (mesh.vertices - point).norm(dim=-1).argmin()
        assert rig.weights[nearest, JOINTS.index(joint)] > 0.9


def test_at_rest_nothing_moves():
    mesh, rig = moving_bust()
    assert torch.allclose(posed(mesh, rig).vertices, mesh.vertices, atol=1e-6)
    assert torch.allclose(
        posed(mesh, rig, {"jawOpen": 0.0}, {"neck": (0, 0, 0)}).vertices, mesh.vertices, atol=1e-6
    )


def test_a_turned_neck_turns_the_head_and_leaves_the_shoulders():
    mesh, rig = moving_bust()
    turned = posed(mesh, rig, pose={"neck": (0.0, np.deg2rad(30), 0.0)})
    nose = mesh.vertices[:, 2].argmax()
    angle = np.rad2deg(np.arctan2(*(turned.vertices[nose] - torch.from_numpy(rig.joints[1]))[[0, 2]].numpy()))
    assert angle == pytest.approx(30, abs=1.5)
    low = mesh.vertices[:, 1] < -0.85
    assert torch.allclose(turned.vertices[low], mesh.vertices[low], atol=1e-5)


def test_the_face_is_finer_where_it_bends_and_only_there():
    mesh, _ = moving_bust()
    coarse = bust()
    assert len(mesh.faces) > len(coarse.faces)
    far = coarse.vertices[:, 2] < -0.1
    kept = mesh.vertices[: len(coarse.vertices)]
    assert torch.equal(kept, coarse.vertices)
    assert not (mesh.vertices[len(kept) :, 2] < -0.1).any() and far.any()


def test_what_stands_off_moves_as_one():
    """A brow that stands out like a visor: the skin under it would be pulled apart, the visor is not."""
    mesh = bust()
    near = ((mesh.vertices - torch.tensor([0.0, 0.15, 0.4])).norm(dim=-1) < 0.2)[:, None]
    pushed = torch.where(near, mesh.vertices + torch.tensor([0, 0, 0.15]), mesh.vertices)
    slopes = []
    for vertices in (mesh.vertices, pushed):
        moving, rig = rigged(Mesh(vertices, mesh.faces, uv=mesh.uv), IDENTITY, {})
        edges = unique_edges(moving.faces).numpy()
        place, moved = moving.vertices.numpy()[edges], rig.expressions["browDownLeft"][edges]
        there = (np.abs(place[..., 1] - 0.15) < 0.12).all(1) & (place[..., 2] > 0.3).all(1)
        change = np.linalg.norm(moved[there, 0] - moved[there, 1], axis=1)
        slopes.append(float(np.max(change / np.linalg.norm(place[there, 0] - place[there, 1], axis=1))))
    assert slopes[1] < 0.5 * slopes[0]


@pytest.mark.parametrize(
    "given, words",
    [
        (({"jawOpn": 1.0}, None), "no expression named 'jawOpn'; did you mean 'jawOpen'"),
        ((None, {"nek": (0, 0, 0)}), "no joint named 'nek'; did you mean 'neck'"),
        (({"jawOpen": float("nan")}, None), "expression 'jawOpen' has weight nan; expected a finite number"),
        ((None, {"neck": (0, float("inf"), 0)}), r"joint 'neck' is turned by \[0.0, inf, 0.0\]; expected 3 finite"),
        ((None, {"neck": (0.5,)}), r"joint 'neck' is turned by \[0.5\]; expected 3 finite numbers"),
    ],
)
def test_a_pose_that_cannot_be_taken(given, words):
    with pytest.raises(ValueError, match=words.replace("(", r"\(")):
        posed(*moving_bust(), *given)


def test_eyes_shut():
    """A picture of blue eyes in a white face: with both lids down, hardly any blue is left."""
    mesh, motion = bust(), HeadMotion(IDENTITY, {})
    eye = (motion.at(mesh.vertices)[:, EYE] > 0.5).float()[:, None]
    coloured = Mesh(mesh.vertices, mesh.faces, 1 - eye * torch.tensor([1.0, 1.0, 0.0]), mesh.uv)
    moving, rig = rigged(coloured, IDENTITY, {})
    camera = framed([0.0], 0.0, 0.35, height=160, width=160)
    blue = []
    for weight in (0.0, 1.0):
        shut = posed(moving, rig, {"eyeBlinkLeft": weight, "eyeBlinkRight": weight})
        picture = render_mesh(shut, camera, background=(1, 1, 1), shaded=False).rgb[0]
        blue.append(float((picture[..., 0] < 0.5).float().sum()))
    assert blue[0] > 150 and blue[1] < 0.15 * blue[0]


# --- the mouth ---------------------------------------------------------------------------------------------


def test_the_mouth_opens_and_the_surface_stays_closed():
    mesh, rig = moving_bust()
    assert shape_of_surface(mesh.faces.numpy()) == (True, 1, 2)
    wide = posed(mesh, rig, {"jawOpen": 1.0})
    assert (face_normals(mesh.vertices, mesh.faces).norm(dim=-1) > 0.99).float().mean() > 0.99
    camera = framed([0.0], 0.0, 0.3, height=128, width=128, offset=torch.tensor([[0.0, -0.25, 0.0]]))
    shut, open_ = (render_mesh(m, camera, background=(0, 0, 0), shaded=False).rgb[0] for m in (mesh, wide))
    middle = slice(50, 78)
    assert open_[middle, middle].min() < 0.5 * shut[middle, middle].min()
    # Closed lips: with jawOpen, mouthClose brings the lower one back.
    closed = posed(mesh, rig, {"jawOpen": 1.0, "mouthClose": 1.0})
    hidden = render_mesh(closed, camera, background=(0, 0, 0), shaded=False).rgb[0]
    dark = [(picture[middle, middle].amax(-1) < 0.25).float().mean() for picture in (open_, hidden)]
    assert dark[1] < 0.35 * dark[0]


def test_there_are_teeth_and_a_tongue_in_an_open_mouth_that_was_shut_at_rest():
    camera = framed([0.0], 0.0, 0.3, height=128, width=128, offset=torch.tensor([[0.0, -0.25, 0.0]]))

    def inside(mesh: Mesh, rig: Rig) -> tuple[int, int]:
        wide = posed(mesh, rig, {"jawOpen": 1.0})
        rgb = render_mesh(wide, camera, background=(0, 0, 0), shaded=False).rgb[0]
        ivory = (rgb > 0.6).all(-1) & (rgb[..., 0] > rgb[..., 2])
        red = (rgb[..., 0] > 1.5 * rgb[..., 1]) & (rgb[..., 1:] < 0.3).all(-1) & (rgb[..., 0] > 0.2)
        return int(ivory.sum()), int(red.sum())

    grey = Mesh(bust().vertices, bust().faces, uv=bust().uv, texture=np.full_like(bust().texture, 100))
    teeth, tongue = inside(*rigged(grey, IDENTITY, {}))
    assert teeth > 40 and tongue > 40
    assert inside(*rigged(grey, IDENTITY, {}, teeth=False)) == (0, 0)
    assert inside(*rigged(grey, IDENTITY, {"jawOpen": 0.4})) == (0, 0)


def test_statues_have_no_teeth(monkeypatch):
    asked: list[bool] = []
    made = moving_bust()
    monkeypatch.setattr("headsculpt.export.rig.rigged", lambda *_, teeth: asked.append(teeth) or made)
    for prompt in ("a man with a moustache", "a plaster bust of a man", "a bronze statue of an old woman"):
        Avatar(bust(), AvatarInfo(prompt=prompt, identity=IDENTITY, expression={})).rigged()
    assert asked == [True, False, False]


def test_nothing_of_the_pocket_shows_at_rest():
    mesh, _ = moving_bust()
    for azimuth in (0.0, 40.0):
        camera = framed([azimuth], 0.0, 0.5, height=160, width=160)
        before, after = (
            render_mesh(m, camera, background=(0, 0, 0), shaded=False).rgb for m in (bust(), mesh)
        )
        assert (before - after).square().mean() < 1e-4


def test_a_surface_without_lips_is_rigged_without_a_cut(caplog):
    caplog.set_level("INFO")
    egg_behind = textured_egg()
    egg_behind = Mesh(
        egg_behind.vertices - torch.tensor([0, 0, 1.0]),
        egg_behind.faces,
        None,
        egg_behind.uv,
        egg_behind.texture,
    )
    mesh, rig = rigged(egg_behind, {}, {})
    assert "the mouth cannot be cut open" in caplog.text
    assert shape_of_surface(mesh.faces.numpy()) == (True, 1, 2)
    assert all(np.isfinite(shape).all() for shape in rig.expressions.values())


def test_a_texture_without_room_leaves_the_mouth_shut():
    mesh = bust()
    full = Mesh(mesh.vertices, mesh.faces, uv=mesh.uv, texture=np.zeros((16, 16, 3), np.uint8))
    line = np.arange(6)
    assert opened(full, line, np.zeros(len(mesh.vertices))) is None
    oblong = Mesh(mesh.vertices, mesh.faces, uv=mesh.uv, texture=np.zeros((64, 32, 3), np.uint8))
    assert opened(oblong, line, np.zeros(len(mesh.vertices))) is None


# --- GLB ---------------------------------------------------------------------------------------------------


def _parts(content: bytes) -> tuple[dict, bytes]:
    length = struct.unpack("<I", content[12:16])[0]
    return json.loads(content[20 : 20 + length]), content[28 + length :]


def _values(tree: dict, data: bytes, view: int, offset: int, kind: str, count: int, width: int) -> np.ndarray:
    start = tree["bufferViews"][view].get("byteOffset", 0) + offset
    return np.frombuffer(data, kind, count * width, start).reshape(count, width)


def test_a_glb_has_the_rig():
    mesh, rig = moving_bust()
    content = glb_bytes(mesh, rig=rig)
    tree, data = _parts(content)
    (drawn,), (skin,) = tree["meshes"], tree["skins"]
    (primitive,) = drawn["primitives"]
    assert drawn["extras"]["targetNames"] == list(EXPRESSION_NAMES)
    assert len(primitive["targets"]) == len(drawn["weights"]) == 52
    views = [tree["bufferViews"][tree["accessors"][a]["bufferView"]] for a in primitive["attributes"].values()]
    assert {view["target"] for view in views} == {34962}
    # Joints: where they stand, and what brings them back.
    names = [tree["nodes"][i]["name"] for i in skin["joints"]]
    assert names == list(JOINTS)
    assert [node["skin"] for node in tree["nodes"] if "mesh" in node] == [0]
    place = np.zeros(3)
    rest = tree["accessors"][skin["inverseBindMatrices"]]
    matrices = _values(tree, data, rest["bufferView"], 0, "<f4", 3, 16).reshape(3, 4, 4)
    for i, joint in enumerate(skin["joints"]):
        place = place + tree["nodes"][joint]["translation"]  # root, neck and jaw are a chain
        assert np.allclose(place, rig.joints[i] * METRES_PER_UNIT, atol=1e-6)
        assert np.allclose(matrices[i][3, :3], -place, atol=1e-6)
    # Skinning: as the rig has it, at the vertices that the file has.
    count = tree["accessors"][primitive["attributes"]["POSITION"]]["count"]
    weights, joints = (tree["accessors"][primitive["attributes"][name]] for name in ("WEIGHTS_0", "JOINTS_0"))
    assert weights["count"] == joints["count"] == count
    weight = _values(tree, data, weights["bufferView"], 0, "<f4", count, 4)
    assert np.allclose(weight.sum(1), 1, atol=1e-5)
    # Expressions: sparse, in metres.
    split = split_at_seams(mesh)
    assert len(split.source) == count
    target = primitive["targets"][EXPRESSION_NAMES.index("browInnerUp")]
    accessor = tree["accessors"][target["POSITION"]]
    rows, moved = _sparse_rows(tree, data, accessor)
    expected = rig.expressions["browInnerUp"][split.source] * METRES_PER_UNIT
    assert np.allclose(moved, expected[rows], atol=1e-6)
    still = np.delete(np.arange(count), rows)
    assert np.abs(expected[still]).max() <= 1.1e-5
    assert np.allclose(accessor["max"], np.maximum(moved.max(0), 0)) and len(rows) < 0.5 * count
    # Normals: those of the face that has moved.
    rows, turned = _sparse_rows(tree, data, tree["accessors"][target["NORMAL"]])
    expected = turn_of_normals(mesh, torch.from_numpy(rig.expressions["browInnerUp"])).numpy()[split.source]
    assert 0 < len(rows) < 0.5 * count
    assert np.allclose(turned, expected[rows], atol=1e-6)
    still = np.delete(np.arange(count), rows)
    assert np.abs(expected)[still].max() <= UPRIGHT + 1e-6


def test_normals_turn_with_the_surface_and_not_with_what_turns_over():
    mesh = bust()
    vertices, faces = mesh.vertices.float(), mesh.faces
    assert turn_of_normals(mesh, torch.zeros_like(vertices)).abs().max() < 1e-5
    # Turned as a whole, the normals turn, too.
    c, s = np.cos(0.5), np.sin(0.5)
    turn = torch.tensor([[c, 0, s], [0, 1, 0], [-s, 0, c]], dtype=torch.float32)
    wanted = vertex_normals(vertices @ turn.T, faces) - vertex_normals(vertices, faces)
    assert torch.allclose(turn_of_normals(mesh, vertices @ turn.T - vertices), wanted, atol=1e-4)
    # A vertex that is pulled over its neighbours turns faces over; no normal follows them to the other side.
    ring = faces[(faces == int(vertices[:, 2].argmax())).any(1)]
    moved = torch.zeros_like(vertices)
    moved[ring[0, 0]] = 6 * (vertices[ring[0, 1]] - vertices[ring[0, 0]])
    resting = vertex_normals(vertices, faces)[faces.unique()]
    after = resting + turn_of_normals(mesh, moved)[faces.unique()]
    followed = vertex_normals(vertices + moved, faces)[faces.unique()]
    assert (after * resting).sum(-1).min() > 0 > (followed * resting).sum(-1).min()


def _sparse_rows(tree: dict, data: bytes, accessor: dict) -> tuple[np.ndarray, np.ndarray]:
    """The vertices that a sparse accessor lists, and their values ``(N, 3)``."""
    sparse = accessor["sparse"]
    rows, values = (
        _values(tree, data, sparse[part]["bufferView"], sparse[part]["byteOffset"], kind, sparse["count"], width)
        for part, kind, width in (("indices", "<u4", 1), ("values", "<f4", 3))
    )
    return rows[:, 0], values


def test_a_rigged_glb_reads_as_a_closed_mesh_and_is_the_same_bytes_again(tmp_path):
    mesh, rig = moving_bust()
    (tmp_path / "bust.glb").write_bytes(glb_bytes(mesh, rig=rig))
    again = read_glb(tmp_path / "bust.glb")
    assert shape_of_surface(again.faces.numpy())[:2] == (True, 1)
    assert glb_bytes(mesh, rig=rig) == (tmp_path / "bust.glb").read_bytes()


def test_more_joints_than_gltf_takes_are_refused():
    mesh = textured_egg()
    many = Rig(
        ("a", "b", "c", "d", "e"),
        (-1, 0, 1, 2, 3),
        np.zeros((5, 3), np.float32),
        np.full((len(mesh.vertices), 5), 0.2),
        {},
    )
    with pytest.raises(ValueError, match="glTF takes 4 joints a vertex; the rig has 5"):
        glb_bytes(mesh, rig=many)


# --- avatars -----------------------------------------------------------------------------------------------


def _main(*arguments: object) -> int:
    with pytest.raises(SystemExit) as caught:
        cli.main([str(a) for a in arguments])
    return caught.value.code or 0


def _avatar(**known: dict) -> Avatar:
    return Avatar(bust(), AvatarInfo(prompt="a bust", **known))


def test_an_avatar_exports_its_rig_and_poses(tmp_path):
    avatar = _avatar(identity=IDENTITY, expression={})
    assert avatar.can_move
    rigged_file = avatar.export(tmp_path / "rigged.glb")
    plain = avatar.export(tmp_path / "plain.glb", rig=False)
    assert "skins" in _parts(rigged_file.read_bytes())[0] and "skins" not in _parts(plain.read_bytes())[0]
    assert avatar.rigged() is avatar.rigged()
    moved = avatar.posed({"jawOpen": 1.0}, {"neck": (0, 30, 0)})
    assert moved.mesh is not avatar.mesh and not moved.can_move
    assert not np.array_equal(
        np.asarray(moved.render(resolution=64)), np.asarray(avatar.render(resolution=64))
    )
    moved.export(tmp_path / "still.obj")
    # What it was sculpted from is kept with it.
    avatar.save(tmp_path / "saved")
    assert Avatar.load(tmp_path / "saved").info.identity == IDENTITY


def test_an_avatar_of_before_there_were_rigs_says_so(tmp_path, capsys):
    avatar = _avatar()
    with pytest.raises(ValueError, match="this avatar does not know which head it was sculpted from"):
        avatar.posed({"jawOpen": 1.0})
    avatar.save(tmp_path / "old")
    assert _main("export", tmp_path / "old", tmp_path / "old.glb") == 0
    assert "old.glb has no rig: it is not known which head this one was sculpted from" in capsys.readouterr().err
    assert "skins" not in _parts((tmp_path / "old.glb").read_bytes())[0]
    assert _main("render", tmp_path / "old", "--expression", "jawOpen=1") == 2
    assert "does not know which head it was sculpted from" in capsys.readouterr().err


def test_the_command_line_poses(tmp_path, capsys):
    _avatar(identity=IDENTITY, expression={}).save(tmp_path / "bust")
    common = ["render", str(tmp_path / "bust"), "--resolution", "48", "--out", str(tmp_path / "a.png")]
    assert (
        _main(
            *common, "--expression", "jawOpen=0.7", "--expression", "browInnerUp=1", "--turn", "neck=0,20,0"
        )
        == 0
    )
    assert (tmp_path / "a.png").exists()
    around = ["turntable", tmp_path / "bust", "--frames", 1, "--resolution", 32, "--out", tmp_path / "a.gif"]
    assert _main(*around, "--expression", "jawOpen=1") == 0 and (tmp_path / "a.gif").exists()
    for option, value, words in (
        ("--expression", "jawOpen", "--expression is 'jawOpen'; expected a name, '=' and a number"),
        ("--expression", "jawOpen=wide", "--expression is 'jawOpen=wide'; expected a name, '=' and a number"),
        (
            "--turn",
            "neck=20",
            "--turn is 'neck=20'; expected a name, '=' and 3 numbers with commas between them",
        ),
        ("--expression", "jawOpn=1", "no expression named 'jawOpn'; did you mean 'jawOpen'"),
    ):
        assert _main(*common, option, value) == 2
        assert words in capsys.readouterr().err


def test_a_sculpture_knows_the_head_that_it_started_from():
    config = load_config("draft", prompt="a girl with a big nose, smiling")
    prior = load_prior("mini", device="cpu")
    identity, expression = described_head(config, prior)
    vertices, _, _ = starting_head(config, prior)
    assert np.array_equal(builtin_head().vertices(identity, expression), vertices)
    assert expression["mouthSmileLeft"] > 0.2 and identity["nose_size"] > 0.2
    finished = replace(finished_egg(), identity=identity, expression=expression)
    small = load_config("draft", ["output.texture_size=64", "output.max_faces=500"], prompt=config.prompt)
    made = finished_avatar(finished, small)
    assert made.can_move and made.info.identity == identity and made.info.expression == expression
    # A head of FLAME's, a prior that describes none, or a wish not to: the built-in head as it is.
    assert described_head(config, None) == ({}, {})
    flame = load_config("draft", ["guidance.head=flame.npz"], prompt=config.prompt)
    assert described_head(flame, prior) == ({}, {})


def test_the_benchmark_measures_a_rig(tmp_path, monkeypatch, capsys):
    benchmark = Path(__file__).parent.parent / "benchmarks" / "rig.py"
    if not benchmark.is_file():
        pytest.skip("headsculpt runs from an installation")
    _avatar(identity=IDENTITY, expression={}).save(tmp_path / "bust")
    monkeypatch.setattr("sys.argv", ["rig.py", str(tmp_path / "bust")])
    assert runpy.run_path(str(benchmark))["main"]() == 0
    said = capsys.readouterr().out
    assert "1 of 1 are whole" in said and "100%" in said
