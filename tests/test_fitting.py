"""Reconstruction: camera files in and out, bad input, and that an object is found again."""

import functools
import json

import numpy as np
import pytest
import torch
from fit_scene import RADIUS, TINY, ball_views, grey_psnr
from PIL import Image

from headsculpt import cli
from headsculpt.avatar import Avatar
from headsculpt.cameras import Cameras, orbit
from headsculpt.fit_outputs import write_fitted
from headsculpt.fitting import Photographs, fit, pixel_rays
from headsculpt.meshes import Mesh, topology
from headsculpt.transforms import (
    PosedImages,
    looked_at,
    opacity_masks,
    read_posed_images,
    visual_hull,
    write_transforms,
)


@functools.lru_cache
def fitted_ball(seed: int = 0):
    images, cameras = ball_views()
    return fit(images, cameras, representation="dmtet", steps=50, seed=seed, settings=TINY)


def save(path, image: torch.Tensor) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((image * 255 + 0.5).to(torch.uint8).numpy()).save(path)


@pytest.fixture
def dataset(tmp_path):
    """Two images and a transforms.json that tests can spoil: the folder and a function that rewrites it."""
    images, cameras = ball_views()
    names = ["./train/r_0", "./train/r_1"]
    for name, image in zip(names, images[:2], strict=True):
        save(tmp_path / f"{name}.png", image)
    write_transforms(tmp_path / "transforms.json", cameras[:2], names)

    def spoil(change) -> None:
        path = tmp_path / "transforms.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return tmp_path, spoil


# ---------------------------------------------------------------- reading


def test_cameras_and_images_survive_the_file(dataset):
    folder, _ = dataset
    images, cameras = ball_views()
    posed = read_posed_images(folder, normalise=False)
    torch.testing.assert_close(posed.cameras.camera_to_world, cameras.camera_to_world[:2], atol=1e-5, rtol=0)
    torch.testing.assert_close(posed.cameras.fov_y_rad, cameras.fov_y_rad[:2])
    torch.testing.assert_close(posed.cameras.elevation_deg, cameras.elevation_deg[:2], atol=1e-3, rtol=0)
    turn = (posed.cameras.azimuth_deg - cameras.azimuth_deg[:2] + 180) % 360 - 180
    assert turn.abs().max() < 1e-3
    torch.testing.assert_close(posed.images, images[:2], atol=0.5 / 255 + 1e-6, rtol=0)
    assert posed.names == ["./train/r_0", "./train/r_1"]


def test_blenders_front_is_our_front_and_up_is_up(dataset):
    folder, spoil = dataset

    def front(content):  # at y = -4, looking along +y, z up: Blender's numpad 1
        pose = [[1, 0, 0, 0], [0, 0, -1, -4], [0, 1, 0, 1], [0, 0, 0, 1]]
        content["frames"][0]["transform_matrix"] = pose

    spoil(front)
    pose = read_posed_images(folder, normalise=False).cameras[[0]]
    torch.testing.assert_close(pose.origins[0], torch.tensor([0.0, 1.0, 4.0]))
    torch.testing.assert_close(pose.camera_to_world[0, :3, :3], torch.eye(3))
    assert float(pose.azimuth_deg[0]) == pytest.approx(0, abs=1e-4)
    same = read_posed_images(folder, normalise=False, up="y").cameras[[0]]
    torch.testing.assert_close(same.origins[0], torch.tensor([0.0, -4.0, 1.0]))


def test_a_moved_and_scaled_scene_is_brought_into_the_cube(tmp_path):
    images, cameras = ball_views()
    moved = cameras.camera_to_world.clone()
    moved[:, :3, 3] = 3 * moved[:, :3, 3] + torch.tensor([5.0, -7.0, 2.0])
    names = [f"{i}.png" for i in range(len(images))]
    for name, image in zip(names, images, strict=True):
        save(tmp_path / name, image)
    far = Cameras(moved, cameras.fov_y_rad, cameras.azimuth_deg, cameras.elevation_deg, 24, 24)
    write_transforms(tmp_path / "transforms.json", far, names)
    posed = read_posed_images(tmp_path)
    centre, _ = looked_at(posed.cameras)
    assert centre.norm() < 0.1
    scale = float(posed.scene_from_file[:3, :3].det() ** (1 / 3))
    assert 0.6 < scale * 3 * RADIUS < 0.9  # the ball's radius in the new scene; a pixel is 0.1
    rotation = posed.cameras.camera_to_world[:, :3, :3]
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3).expand(9, 3, 3), atol=1e-5, rtol=0)
    # The centre of the ball, in the file's coordinates (Z up), lands in the middle.
    ball = posed.scene_from_file @ torch.tensor([5.0, -2.0, -7.0, 1.0], dtype=torch.float64)
    assert ball[:3].norm() < 0.1


def test_images_are_made_smaller_and_other_shapes_keep_square_pixels(tmp_path):
    for name in ("a.png", "b.png"):
        save(tmp_path / name, torch.rand(20, 40, 3, generator=torch.Generator().manual_seed(1)))
    cameras = orbit([0.0, 90.0], fov_y_deg=30.0, height=20, width=40)
    write_transforms(tmp_path / "transforms.json", cameras, ["a.png", "b.png"])
    posed = read_posed_images(tmp_path, resolution=16)
    assert posed.images.shape == (2, 8, 16, 3)
    assert (posed.cameras.height, posed.cameras.width) == (8, 16)
    torch.testing.assert_close(posed.cameras.fov_y_rad, cameras.fov_y_rad)


def test_the_hull_of_a_ball_holds_the_ball_and_little_more():
    images, cameras = ball_views()
    axis = torch.linspace(-1, 1, 24)
    points = torch.cartesian_prod(axis, axis, axis)
    masks = opacity_masks(images)
    assert masks is not None
    hull = visual_hull(points, 2 / 23, cameras, masks)
    assert hull[points.norm(dim=-1) < RADIUS].all()
    assert not hull[points.norm(dim=-1) > RADIUS + 0.45].any()
    with pytest.raises(ValueError, match="silhouettes of the views agree nowhere"):
        visual_hull(points, 2 / 23, cameras, torch.zeros_like(masks))


def test_pixel_rays_are_those_of_the_cameras():
    cameras = orbit([10.0, 200.0], [5.0, -40.0], height=5, width=7)
    origins, directions = (a.reshape(-1, 3) for a in cameras.rays())
    index = torch.tensor([0, 6, 34, 35, 69, 40])
    found = pixel_rays(cameras, index)
    torch.testing.assert_close(found[0], origins[index])
    torch.testing.assert_close(found[1], directions[index])


# ---------------------------------------------------------------- bad input


def in_frame_one(key, value):
    def change(content):
        content["frames"][1][key] = value

    return change


def without(key):
    return lambda content: content.pop(key)


def matrix(*rows):
    return in_frame_one("transform_matrix", list(rows))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (in_frame_one("file_path", "./train/r_7"), r"frame 1 \(./train/r_7\): there is no such image in "),
        (lambda c: c["frames"][1].pop("file_path"), "frame 1 has no 'file_path'"),
        (lambda c: c.update(frames=[]), r"transforms.json: expected a list of one or more 'frames'; got \[\]"),
        (without("frames"), "transforms.json: expected a list of one or more 'frames'; got null"),
        (without("camera_angle_x"), "transforms.json: camera_angle_x must be an angle in radians .* got null"),
        (lambda c: c.update(camera_angle_x=40), "transforms.json: camera_angle_x must be .* got 40"),
        (in_frame_one("camera_angle_x", 0), r"frame 1 \(./train/r_1\): camera_angle_x must be"),
        (matrix([1, 0, 0], [0, 1, 0], [0, 0, 1]), r"frame 1 \(.*r_1\): transform_matrix must be 4x4; got 3x3"),
        (matrix([1, 0], [0]), r"frame 1 \(.*r_1\): transform_matrix must be 4x4 numbers; got \[\[1, 0\], \[0\]\]"),
        (in_frame_one("transform_matrix", None), r"frame 1 \(.*r_1\): transform_matrix must be 4x4 numbers"),
        (
            matrix([1, 0, 0, 0], [2, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]),
            r"frame 1 \(.*r_1\): transform_matrix is singular",
        ),
        (
            matrix([1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, 4], [0, 0, 0, 1]),
            r"frame 1 \(.*r_1\): transform_matrix is no rotation",
        ),
        (
            matrix([1, 0, 0, float("nan")], [0, 1, 0, 0], [0, 0, 1, 4], [0, 0, 0, 1]),
            r"frame 1 \(.*r_1\): transform_matrix holds a number that is not finite",
        ),
        (
            matrix([1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 4, 1]),
            r"frame 1 \(.*r_1\): the last row of transform_matrix must be 0 0 0 1",
        ),
    ],
)
def test_a_spoiled_camera_file_is_named_with_its_entry(dataset, change, message):
    folder, spoil = dataset
    spoil(change)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_posed_images(folder)


def test_a_missing_or_broken_camera_file_is_named(dataset):
    folder, _ = dataset
    with pytest.raises(FileNotFoundError, match="there is no camera file .*elsewhere.json"):
        read_posed_images(folder, folder / "elsewhere.json")
    with pytest.raises(FileNotFoundError, match="there is no transforms.json in .*train"):
        read_posed_images(folder / "train")
    with pytest.raises(FileNotFoundError, match="there is no folder .*nowhere"):
        read_posed_images(folder / "nowhere")
    (folder / "transforms.json").write_text("{'frames': ")
    with pytest.raises(ValueError, match="transforms.json is not JSON: .*line 1"):
        read_posed_images(folder)


def test_a_bad_image_is_named(dataset):
    folder, _ = dataset
    bad = folder / "train" / "r_1.png"
    save(bad, torch.rand(24, 20, 4))
    with pytest.raises(ValueError, match=r"one size: .*r_1.png is 20x24, .*r_0.png is 24x24"):
        read_posed_images(folder)
    save(bad, torch.rand(24, 24, 3))
    with pytest.raises(ValueError, match="r_0.png has an opacity channel and .*r_1.png has none"):
        read_posed_images(folder)
    save(bad, torch.zeros(24, 24, 4))
    with pytest.raises(ValueError, match="r_1.png is transparent everywhere"):
        read_posed_images(folder)
    bad.write_bytes(b"not a picture")
    with pytest.raises(ValueError, match="r_1.png is no image, or damaged"):
        read_posed_images(folder)
    with pytest.raises(ValueError, match="resolution must be at least 8 pixels; got 0"):
        read_posed_images(folder, resolution=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": torch.zeros(2, 0, 24, 3)}, r"images must be \(N, H, W, 3 or 4\), none of them 0; got \(2, 0, 24"),
        ({"images": torch.zeros(2, 24, 24, 3)}, r"images are .* \(2, 24, 24\), but the cameras are \(9, 24, 24\)"),
        ({"images": torch.full((9, 24, 24, 3), float("nan"))}, "image 0 holds values that are not finite"),
        ({"images": torch.full((9, 24, 24, 3), 255.0)}, r"images must lie in \[0, 1\]; got 255 to 255"),
        ({"representation": "mesh"}, "representation must be one of nerf, neus, dmtet, texture; got 'mesh'"),
        ({"light": "sun"}, "light must be one of baked, studio; got 'sun'"),
        ({"steps": 0}, "expected steps >= 1"),
        ({"hold_out": 1}, "hold_out 0 or at least 2"),
        ({"representation": "texture"}, "representation 'texture' needs a mesh, whose colours are to be found"),
        ({"mesh": Mesh(torch.eye(3), torch.tensor([[0, 1, 2]]))}, "'dmtet' takes no mesh; 'texture' does"),
        (
            {"cameras": orbit([0.0] * 8 + [9.0], distance=[4.0] * 8 + [50.0], height=24, width=24)},
            "camera 8 is 50 units from the object",
        ),
    ],
)
def test_arguments_that_do_not_fit_are_refused(change, message):
    images, cameras = ball_views()
    arguments = {"images": images, "cameras": cameras, "steps": 1, **change}
    with pytest.raises(ValueError, match=message):
        fit(arguments.pop("images"), arguments.pop("cameras"), **arguments)


def test_bytes_are_refused():
    images, cameras = ball_views()
    with pytest.raises(TypeError, match="one float tensor .* got torch.uint8"):
        fit((images * 255).to(torch.uint8), cameras)


# ---------------------------------------------------------------- fitting


def test_a_ball_is_found_again():
    found = fitted_ball()
    assert found.held_out == [7]
    assert topology(found.mesh.faces).closed
    error = (found.mesh.vertices.norm(dim=-1) - RADIUS).abs()
    assert error.mean() < 0.09  # a pixel is 0.09, and the silhouettes' hull begins at 0.13
    assert set(found.psnr) == {"neus", "dmtet"}
    assert found.psnr["neus"] > grey_psnr() + 1 and found.psnr["dmtet"] > grey_psnr() + 3


@pytest.mark.parametrize("representation", ["nerf", "neus"])
def test_the_same_seed_gives_the_same_mesh(representation):
    images, cameras = ball_views()
    short = [
        fit(images, cameras, representation=representation, steps=4, seed=3, settings=TINY).mesh for _ in range(2)
    ]
    assert torch.equal(short[0].vertices, short[1].vertices)


def test_progress_counts_both_stages_and_the_light_can_be_left_out():
    images, cameras = ball_views()
    seen = []
    found = fit(
        images, cameras, steps=5, light="studio", hold_out=0, settings=TINY, progress=lambda p: seen.append(p)
    )
    assert [(p.stage, p.step, p.steps) for p in seen] == [
        ("neus", 1, 3), ("neus", 2, 3), ("neus", 3, 3), ("mesh", 1, 2), ("mesh", 2, 2),
    ]  # fmt: skip
    assert (found.held_out, found.psnr) == ([], {})


def test_images_without_opacity_take_the_background_from_their_borders():
    images, cameras = ball_views()
    behind = torch.tensor([0.2, 0.9, 0.3])
    opaque = images[..., :3] * images[..., 3:] + behind * (1 - images[..., 3:])
    photographs = Photographs(opaque, cameras)
    torch.testing.assert_close(photographs.background, behind)
    full = Photographs(torch.cat([opaque, torch.ones_like(opaque[..., :1])], -1), cameras)
    assert full.masks is None and full.images.shape[-1] == 3
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(photographs.behind(2, generator), behind.expand(2, 3))


def test_pixels_are_drawn_near_the_object():
    images, cameras = ball_views()
    _, _, values = Photographs(images, cameras).pixels(400, 1.0, torch.Generator().manual_seed(0))
    assert (values[:, 3] > 0.5).float().mean() > 1.3 * (images[..., 3] > 0.5).float().mean()


# ---------------------------------------------------------------- files and the command


def test_outputs_can_be_read_again(tmp_path):
    images, cameras = ball_views()
    names = [f"r_{i}" for i in range(len(images))]
    posed = PosedImages(images, cameras, names, torch.eye(4, dtype=torch.float64))
    paths = write_fitted(fitted_ball(), posed, tmp_path / "out", max_faces=400, texture_size=64)
    assert [p.name for p in paths] == ["mesh.ply", "mesh.glb", "avatar", "preview.png", "metrics.json"]
    assert all(p.exists() for p in paths)
    assert len(Avatar.load(tmp_path / "out").mesh.faces) <= 408
    figures = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert figures["watertight"] is True and figures["psnr_held_out"]["dmtet"] > 0
    assert figures["held_out"] == ["r_7"] and np.array(figures["scene_from_file"]).shape == (4, 4)


@pytest.fixture
def command(capsys):
    def run(*arguments):
        with pytest.raises(SystemExit) as caught:
            cli.main([str(a) for a in arguments])
        output = capsys.readouterr()
        return caught.value.code or 0, output.out, " ".join(output.err.split())

    return run


def test_the_command_fits_and_says_where_the_results_are(command, tmp_path, monkeypatch):
    images, cameras = ball_views()
    names = [f"r_{i}.png" for i in range(len(images))]
    for name, image in zip(names, images, strict=True):
        save(tmp_path / "views" / name, image)
    write_transforms(tmp_path / "cameras.json", cameras, names)
    asked = []

    def quick(images, cameras, **keywords):
        asked.append(keywords)
        keywords.pop("progress")
        return fitted_ball()

    monkeypatch.setattr("headsculpt.fitting.fit", quick)
    out = tmp_path / "out"
    given = ("fit", tmp_path / "views", "--cameras", tmp_path / "cameras.json", "--out", out)
    status, said, complaints = command(*given, "--steps", 50, "--texture-size", 64)
    assert (status, complaints) == (0, "")
    assert asked[0]["mesh"] is None and asked[0]["steps"] == 50 and asked[0]["representation"] == "dmtet"
    assert "dmtet" in said and "dB" in said and str(out) in said
    status, _, complaints = command(*given)
    assert status == 2 and "holds another reconstruction; replace it with --overwrite" in complaints


def test_an_interrupted_command_says_how_to_go_on(command, dataset, monkeypatch):
    folder, _ = dataset

    def interrupted(images, cameras, checkpoint, **keywords):
        checkpoint.path.parent.mkdir()
        checkpoint.path.write_bytes(b"")
        raise KeyboardInterrupt

    monkeypatch.setattr("headsculpt.fitting.fit", interrupted)
    status, said, complaints = command("fit", folder, "--out", folder / "out")
    assert (status, complaints) == (130, "")
    assert "stopped; the work is kept. Run the same command with --resume to go on." in said
    status, _, complaints = command("fit", folder, "--out", folder / "out")
    assert status == 2 and "holds an unfinished reconstruction; go on with --resume" in complaints


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--representation", "mesh"], "--representation is 'mesh'; expected nerf, neus, dmtet or texture"),
        (["--representation", "texture"], "--representation texture needs --mesh FILE, whose colours are to be found"),
        (["--mesh", "a.obj"], "--mesh goes with --representation texture; got dmtet"),
        (["--mesh-frame", "z"], "--mesh-frame is 'z'; expected cameras, y-up or headsculpt"),
        (["--representation", "texture", "--mesh", "none.obj"], "there is no mesh file none.obj"),
        (["--resolution", "0"], "resolution must be at least 8 pixels; got 0"),
        (["--steps", "0"], "--steps is 0; expected 1 or more"),
        (["--up", "x"], "up must be 'y' or 'z'; got 'x'"),
        (["--cameras", "none.json"], "there is no camera file none.json"),
        (["--resume"], "there is nothing to resume: no file {out}/checkpoint.pt"),
    ],
)
def test_the_command_refuses_in_one_sentence(command, dataset, arguments, message):
    folder, _ = dataset
    status, said, complaints = command("fit", folder, "--out", folder / "out", *arguments)
    assert (status, said) == (2, "")
    assert complaints == "error: " + message.replace("{out}", str(folder / "out"))
    assert not (folder / "out").exists()
