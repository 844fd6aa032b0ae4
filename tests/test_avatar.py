"""What a user does with an avatar, and what a damaged one says."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from stand_ins import finished_egg, textured_egg

from headsculpt.avatar import Avatar, AvatarInfo
from headsculpt.config import load_config
from headsculpt.outputs import finished_avatar, write_outputs
from headsculpt.run_folder import RunFolder


@pytest.fixture
def avatar():
    return Avatar(textured_egg(), AvatarInfo(prompt="an egg", seed=3, preset="draft", lineage=["a hen"]))


def test_save_and_load_give_the_same_avatar(avatar, tmp_path):
    loaded = Avatar.load(avatar.save(tmp_path / "egg"))
    assert loaded.info == avatar.info
    assert torch.equal(loaded.mesh.vertices, avatar.mesh.vertices)
    assert torch.equal(loaded.mesh.faces, avatar.mesh.faces)
    assert torch.equal(loaded.mesh.uv, avatar.mesh.uv)
    assert np.array_equal(loaded.mesh.texture, avatar.mesh.texture)


def test_the_same_avatar_is_saved_as_the_same_bytes(avatar, tmp_path):
    first = {p.name: p.read_bytes() for p in avatar.save(tmp_path / "a").iterdir()}
    again = {p.name: p.read_bytes() for p in Avatar.load(tmp_path / "a").save(tmp_path / "b").iterdir()}
    assert first == again


def test_saving_again_replaces_and_saving_over_other_files_refuses(avatar, tmp_path):
    avatar.save(tmp_path / "egg")
    avatar.save(tmp_path / "egg")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["egg"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("")
    with pytest.raises(FileExistsError, match="holds files that are no avatar"):
        avatar.save(tmp_path / "other")


def test_loading_what_is_no_avatar(avatar, tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no avatar .* give a saved avatar or a run"):
        Avatar.load(tmp_path)
    run = RunFolder.create(tmp_path / "run", load_config("draft", prompt="an egg"))
    with pytest.raises(FileNotFoundError, match="finish the run with 'headsculpt resume"):
        Avatar.load(run.path)


@pytest.mark.parametrize("name", ["geometry.safetensors", "texture.png", "avatar.json"])
def test_loading_a_truncated_file_says_so(avatar, tmp_path, name):
    path = avatar.save(tmp_path / "egg") / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match="is damaged"):
        Avatar.load(tmp_path / "egg")


def test_loading_without_geometry_names_the_file(avatar, tmp_path):
    (avatar.save(tmp_path / "egg") / "geometry.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="incomplete: .*geometry.safetensors is missing"):
        Avatar.load(tmp_path / "egg")


def test_loading_indices_out_of_range_and_wrong_uvs(avatar, tmp_path):
    from safetensors.torch import save_file

    folder = avatar.save(tmp_path / "egg")
    tensors = {"vertices": torch.zeros(3, 3), "faces": torch.tensor([[0, 1, 7]], dtype=torch.int32)}
    save_file(tensors, folder / "geometry.safetensors")
    with pytest.raises(ValueError, match=r"face 0 is \[0, 1, 7\]"):
        Avatar.load(folder)
    tensors["faces"] = torch.tensor([[0, 1, 2]], dtype=torch.int32)
    save_file({**tensors, "uv": torch.zeros(2, 3, 2)}, folder / "geometry.safetensors")
    with pytest.raises(ValueError, match=r"uv is \(2, 3, 2\); expected \(1, 3, 2\)"):
        Avatar.load(folder)


def test_an_avatar_from_the_future(avatar, tmp_path):
    path = avatar.save(tmp_path / "egg") / "avatar.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
    with pytest.raises(ValueError, match=r"newer headsculpt \(format 99, this one reads up to 1\): update it"):
        Avatar.load(tmp_path / "egg")


def test_render_is_a_picture_of_the_asked_size(avatar):
    cut_out = avatar.render(30, 10, 48)
    assert (cut_out.mode, cut_out.size) == ("RGBA", (48, 48))
    assert cut_out.getpixel((0, 0))[3] == 0 and cut_out.getpixel((24, 24))[3] == 255
    white = avatar.render(30, 10, 48, background=(1.0, 1.0, 1.0))
    assert (white.mode, white.getpixel((0, 0))) == ("RGB", (255, 255, 255))
    with pytest.raises(ValueError, match="resolution must be 1 to 4096 pixels; got 0"):
        avatar.render(resolution=0)
    with pytest.raises(ValueError, match="elevation_deg must lie in"):
        avatar.render(elevation_deg=90)


@pytest.mark.parametrize("suffix", [".glb", ".obj", ".ply"])
def test_export_by_suffix(avatar, tmp_path, suffix):
    assert avatar.export(tmp_path / "new" / f"egg{suffix}").is_file()
    assert len(list((tmp_path / "new").iterdir())) == (3 if suffix == ".obj" else 1)


def test_unknown_suffixes_name_the_known_ones(avatar, tmp_path):
    with pytest.raises(ValueError, match=r"exported as \.glb, \.obj, \.ply; got .*egg\.stl"):
        avatar.export(tmp_path / "egg.stl")
    with pytest.raises(ValueError, match=r"written as \.webp, \.gif, \.mp4, \.png; got .*egg\.avi"):
        avatar.turntable(tmp_path / "egg.avi")


def test_a_finished_head_becomes_all_outputs(tmp_path):
    overrides = [
        "output.texture_size=64", "output.max_faces=1200", "output.turntable_frames=2",
        "output.turntable_size=32", "output.preview_size=32",
    ]  # fmt: skip
    config = load_config("draft", overrides, prompt="an egg", seed=5)
    run = RunFolder.create(tmp_path / "run", config)
    avatar = finished_avatar(finished_egg(), config)
    assert all(path.exists() for path in write_outputs(avatar, run, config))
    assert len(avatar.mesh.faces) <= 1200 and avatar.mesh.to_trimesh().is_watertight
    loaded = Avatar.load(run.path)
    assert (loaded.info.prompt, loaded.info.seed, loaded.info.preset) == ("an egg", 5, "draft")
    assert Image.open(run.path / "preview.png").size == (128, 32)
