"""Decimation, atlas, baking and file formats."""

import json
import struct

import numpy as np
import pytest
import torch
from stand_ins import EggColours, egg, textured_egg

from headsculpt.cameras import METRES_PER_UNIT, framed
from headsculpt.export.bake import bake, fill_from_nearest, texel_positions
from headsculpt.export.fidelity import texture_fidelity
from headsculpt.export.files import split_at_seams
from headsculpt.export.gltf import glb_bytes, read_glb
from headsculpt.export.unwrap import decimate, shape_of_surface, unwrap, without_crumbs, without_folds
from headsculpt.export.view import around, render_mesh, sample_texture, strip, turntable_frames, write_movie
from headsculpt.export.wavefront import obj_files, ply_bytes
from headsculpt.meshes import Mesh


def test_decimation_keeps_a_closed_surface_closed():
    small = decimate(egg(), 1000)
    assert len(small.faces) <= 1000
    assert small.to_trimesh().is_watertight
    assert shape_of_surface(small.faces.numpy()) == (True, 1, 2)
    assert small.to_trimesh().volume == pytest.approx(egg().to_trimesh().volume, rel=0.02)


def test_decimation_of_a_rough_surface_stays_closed_too():
    rough = egg(5)
    noise = 0.01 * torch.randn(rough.vertices.shape, generator=torch.Generator().manual_seed(0))
    small = decimate(Mesh(rough.vertices + noise, rough.faces), 3000)
    assert shape_of_surface(small.faces.numpy()) == (True, 1, 2)
    assert len(small.faces) < len(rough.faces)


def test_a_surface_that_few_triangles_would_tear_keeps_more_and_not_all(monkeypatch, caplog):
    import fast_simplification

    whole = fast_simplification.simplify

    def torn(vertices, faces, *, target_count, agg):
        v, f = whole(vertices, faces, target_count=target_count, agg=agg)
        return (v, f) if target_count >= 3000 else (v, f[1:])

    monkeypatch.setattr(fast_simplification, "simplify", torn)
    assert 2500 < len(decimate(egg(5), 1000).faces) <= 4000 < len(egg(5).faces)
    assert len(decimate(egg(5), 300).faces) == len(egg(5).faces)
    assert "with 300 the surface would not stay whole" in caplog.text


def test_a_small_mesh_is_not_decimated():
    assert torch.equal(decimate(egg(2), 10**6).faces, egg(2).faces)


def test_a_crumb_that_hangs_on_by_one_vertex_is_left_out():
    import trimesh

    body = trimesh.creation.icosphere(2)
    crumb = np.array([[0, 1, 2], [0, 2, 3], [0, 3, 1], [1, 3, 2]])
    top = np.asarray(body.vertices)[0]
    vertices = np.concatenate([body.vertices, top + [[0.1, 0, 0.2], [0, 0.1, 0.2], [0.1, 0.1, 0.3]]])
    joined = np.where(crumb == 0, 0, crumb + len(body.vertices) - 1)
    faces = np.concatenate([joined, body.faces])
    assert shape_of_surface(faces) == (True, 1, 3)
    kept_vertices, kept = without_crumbs(vertices, faces)
    assert shape_of_surface(kept) == (True, 1, 2) and len(kept) == len(body.faces)
    assert len(kept_vertices) == len(body.vertices)
    same = trimesh.Trimesh(kept_vertices, kept, process=False)
    assert same.volume == pytest.approx(body.volume)


def test_shape_of_surface_sees_holes_parts_and_handles():
    import trimesh

    faces = egg(2).faces.numpy()
    assert shape_of_surface(faces) == (True, 1, 2)
    assert shape_of_surface(faces[1:])[0] is False
    assert shape_of_surface(np.concatenate([faces, faces + faces.max() + 1])) == (True, 2, 4)
    assert shape_of_surface(np.concatenate([faces[:1, ::-1], faces[1:]]))[0] is False
    assert shape_of_surface(trimesh.creation.torus(1.0, 0.3).faces) == (True, 1, 0)
    assert shape_of_surface(faces[:0]) == (False, 0, 0)


def test_folded_triangles_are_removed():
    vertices = np.zeros((5, 3), np.float32)
    faces = np.array([[0, 1, 2], [0, 2, 1], [1, 1, 3], [1, 3, 4]])
    kept_vertices, kept = without_folds(vertices, faces)
    assert kept.tolist() == [[0, 1, 2]] and len(kept_vertices) == 3


def test_atlas_has_no_overlaps_and_stays_in_the_square():
    mesh = unwrap(egg(3), 256)
    assert mesh.uv.shape == (len(mesh.faces), 3, 2)
    assert mesh.uv.min() >= 0 and mesh.uv.max() <= 1
    edge = mesh.uv[:, 1:] - mesh.uv[:, :1]
    area = 0.5 * (edge[:, 0, 0] * edge[:, 1, 1] - edge[:, 0, 1] * edge[:, 1, 0]).abs().sum()
    covered = texel_positions(mesh, 512)[1].float().mean()
    assert covered == pytest.approx(float(area), rel=0.02)  # overlaps would cover less than their area


def test_texels_know_their_surface_points():
    position, covered = texel_positions(unwrap(egg(4), 128), 128)
    radius = (position[covered] / torch.tensor([0.5, 0.7, 0.55])).norm(dim=-1)
    assert radius.sub(1).abs().max() < 0.01


def test_baked_texture_is_the_field():
    mesh = textured_egg()
    texture = torch.from_numpy(mesh.texture.astype(np.float32) / 255).permute(2, 0, 1)[None]
    weights = torch.rand(len(mesh.faces), 3, generator=torch.Generator().manual_seed(1))
    weights = (weights / weights.sum(-1, keepdim=True))[..., None]
    sampled = sample_texture(texture, (mesh.uv * weights).sum(1))
    expected = EggColours()((mesh.vertices[mesh.faces] * weights).sum(1))
    assert (sampled - expected).abs().mean() < 0.01
    assert (sampled - expected).abs().max() < 0.08


def test_baking_needs_uvs_and_survives_a_field_with_nans():
    with pytest.raises(ValueError, match="unwrap it first"):
        bake(egg(2), EggColours())
    texture = bake(unwrap(egg(2), 32), lambda points: points * float("nan"), 32).texture
    assert texture is not None and texture.max() == 0


def test_gaps_take_the_nearest_value():
    image = np.zeros((1, 5, 1), np.float32)
    image[0, 1], image[0, 4] = 1, 2
    covered = np.array([[False, True, False, False, True]])
    assert fill_from_nearest(image, covered)[0, :, 0].tolist() == [1, 1, 1, 2, 2]


def glb_parts(content):
    magic, version, _ = struct.unpack("<III", content[:12])
    assert (magic, version) == (0x46546C67, 2)
    length, _ = struct.unpack("<II", content[12:20])
    return json.loads(content[20 : 20 + length]), content[28 + length :]


def test_glb_is_textured_metric_and_reads_back(tmp_path):
    content = glb_bytes(textured_egg())
    tree, binary = glb_parts(content)
    material = tree["materials"][0]["pbrMetallicRoughness"]
    assert material["metallicFactor"] == 0 and "baseColorTexture" in material
    primitive = tree["meshes"][0]["primitives"][0]
    assert {"POSITION", "NORMAL", "TEXCOORD_0"} <= set(primitive["attributes"])

    def accessor(index):
        entry = tree["accessors"][index]
        view = tree["bufferViews"][entry["bufferView"]]
        start = view.get("byteOffset", 0) + entry.get("byteOffset", 0)
        width = {"VEC2": 2, "VEC3": 3}[entry["type"]]
        return np.frombuffer(binary, "<f4", entry["count"] * width, start).reshape(-1, width)

    split = split_at_seams(textured_egg())
    position = accessor(primitive["attributes"]["POSITION"])
    assert np.ptp(position[:, 1]) == pytest.approx(1.4 * METRES_PER_UNIT, rel=0.01)
    uv = accessor(primitive["attributes"]["TEXCOORD_0"])  # glTF's v points down
    assert np.allclose(uv[:, 0], split.uv[:, 0], atol=1e-6) and np.allclose(uv[:, 1], 1 - split.uv[:, 1], atol=1e-6)

    path = tmp_path / "egg.glb"
    path.write_bytes(content)
    mesh = read_glb(path)
    assert mesh.to_trimesh().is_watertight
    camera = framed([30.0], 10.0, 1.0, height=64, width=64)
    difference = render_mesh(mesh, camera).rgb - render_mesh(textured_egg(), camera).rgb
    assert difference.abs().max() < 0.02


def test_files_are_the_same_bytes_every_time():
    assert glb_bytes(textured_egg()) == glb_bytes(textured_egg())
    again = bake(unwrap(egg(3), 128), EggColours(), 128)
    assert torch.equal(again.uv, textured_egg().uv) and np.array_equal(again.texture, textured_egg().texture)


def test_obj_and_ply_read_back(tmp_path):
    import trimesh

    for name, content in obj_files(textured_egg(), "egg").items():
        (tmp_path / name).write_bytes(content)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["egg.mtl", "egg.obj", "egg.png"]
    obj = trimesh.load(tmp_path / "egg.obj", force="mesh", process=False)
    assert obj.visual.material.image.size == (128, 128)
    assert len(obj.faces) == len(textured_egg().faces)

    (tmp_path / "egg.ply").write_bytes(ply_bytes(textured_egg()))
    ply = trimesh.load(tmp_path / "egg.ply", process=False)
    assert ply.is_watertight
    expected = EggColours()(textured_egg().vertices).numpy() * 255
    assert np.abs(ply.visual.vertex_colors[:, :3] - expected).mean() < 4


@pytest.mark.parametrize("writer", [glb_bytes, lambda mesh: obj_files(mesh, "x")])
def test_formats_with_texture_refuse_a_mesh_without(writer):
    with pytest.raises(ValueError, match="no texture; bake it first"):
        writer(egg(2))


def test_view_shows_the_right_side():
    camera = framed([0.0, 90.0], 0.0, 1.0, height=48, width=48)
    rendering = render_mesh(textured_egg(), camera, background=(0.0, 0.0, 0.0), shaded=False)
    front, left = rendering.rgb
    assert front[24, 30, 0] > front[24, 18, 0]  # red grows to the head's left: to the right in the picture
    assert front[12, 24, 1] > front[36, 24, 1]  # green grows upwards
    assert left[24, 18, 2] > left[24, 30, 2]  # seen from its left, the face looks to the picture's left
    assert rendering.opacity[0, 24, 24] == 1 and rendering.opacity[0, 0, 0] == 0


def test_texture_fidelity_is_high_for_the_same_surface_and_low_for_another():
    def field_render(cameras, background):
        colour = tuple(background[0].tolist())
        return render_mesh(egg(4), cameras, background=colour, shaded=False, supersample=1).rgb

    cameras = framed([0.0, 120.0], 10.0, 1.0, height=128, width=128)
    baked = bake(unwrap(egg(4), 256), EggColours(), 256)
    good = texture_fidelity(baked, field_render, cameras)
    assert good.psnr_db > 38 and len(good.per_view_db) == 2
    baked.texture = 255 - baked.texture
    assert texture_fidelity(baked, field_render, cameras).psnr_db < 20


@pytest.mark.parametrize("name", ["a.webp", "a.gif", "a.mp4", "a.png"])
def test_turntables_move(tmp_path, name):
    frames = turntable_frames(textured_egg(), 3, 32)
    path = write_movie(tmp_path / name, frames)
    assert path.stat().st_size > 100
    assert [p.name for p in tmp_path.iterdir()] == [name]
    if not name.endswith("mp4"):
        from PIL import Image

        assert Image.open(path).n_frames == 3


def test_a_strip_has_four_views():
    assert strip(textured_egg(), 32).shape == (32, 128, 3)


def test_pictures_of_the_whole_show_all_of_it_in_the_middle():
    mesh = textured_egg()
    moved = Mesh(mesh.vertices * 0.6 + torch.tensor([0.0, -0.3, 0.0]), mesh.faces, mesh.colours, mesh.uv, mesh.texture)
    cameras = around(moved, [0.0, 45.0, 90.0, 180.0], 6.0, 64)
    pixels = cameras.pixels(moved.vertices)
    assert pixels.min() > 0 and pixels.max() < 64
    assert (pixels.amax(1) - pixels.amin(1)).amax() > 48  # and it is not small
    assert ((pixels.amax(1) + pixels.amin(1)) / 2 - 32).abs().max() < 3


@pytest.mark.parametrize("elevation_deg", [-40.0, 6.0, 60.0])
def test_nothing_of_a_bust_is_cut_off_from_above_or_below(elevation_deg):
    # A cone: what a picture cut off were the shoulders.
    turn = torch.arange(32) * (2 * torch.pi / 32)
    rim = torch.stack([turn.cos(), -torch.ones(32), turn.sin()], -1)
    cone = torch.cat([rim, torch.tensor([[0.0, 1.0, 0.0]])])
    number = torch.arange(32)
    faces = torch.stack([number, (number + 1) % 32, torch.full((32,), 32)], -1)
    cameras = around(Mesh(cone, faces), torch.arange(16) * 22.5, elevation_deg, 64)
    pixels = cameras.pixels(cone)
    assert pixels.min() > 0 and pixels.max() < 64
