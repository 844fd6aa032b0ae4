"""Laws of the cameras: where azimuths look from, and that projecting undoes casting rays."""

from __future__ import annotations

import pytest
import torch

from headsculpt.cameras import framed, orbit, sample_head_cameras
from headsculpt.config import load_config
from headsculpt.sculpting_stages import CoarseStage


@pytest.mark.parametrize(
    ("azimuth", "axis"),
    [(0.0, (0, 0, 1)), (90.0, (1, 0, 0)), (180.0, (0, 0, -1)), (-90.0, (-1, 0, 0)), (270.0, (-1, 0, 0))],
)
def test_azimuth_names_the_side_that_is_seen(azimuth, axis):
    origin = orbit([azimuth], distance=3.0).origins[0]
    assert torch.allclose(origin, 3 * torch.tensor(axis, dtype=torch.float32), atol=1e-5)


def test_positive_elevation_looks_down():
    assert float(orbit([0.0], 30.0, distance=2.0).origins[0, 1]) == pytest.approx(1.0)


def test_from_the_front_the_heads_left_is_on_the_right_of_the_image_and_up_is_up():
    camera = orbit([0.0], height=100, width=100)
    left, top = camera.pixels(torch.tensor([[0.5, 0.0, 0.0], [0.0, 0.5, 0.0]]))[0]
    assert float(left[0]) > 50 and float(left[1]) == pytest.approx(50, abs=1e-3)
    assert float(top[1]) < 50 and float(top[0]) == pytest.approx(50, abs=1e-3)


@pytest.mark.parametrize(("height", "width"), [(7, 5), (4, 9), (1, 1)])
def test_points_on_a_ray_project_to_its_pixel_centre(height, width):
    generator = torch.Generator().manual_seed(0)
    cameras = sample_head_cameras(3, generator, height=height, width=width)
    origins, directions = cameras.rays()
    distance = 1 + 4 * torch.rand(3, height, width, 1, generator=generator)
    pixels = cameras.pixels((origins + distance * directions).reshape(3, -1, 3)).view(3, height, width, 2)
    rows, columns = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    expected = torch.stack([columns, rows], -1).expand_as(pixels)
    assert torch.allclose(pixels, expected, atol=2e-3)


def test_clip_w_is_the_depth_along_the_axis():
    camera = orbit([25.0], [40.0], target=(0.1, 0.2, 0.3), distance=2.5)
    assert float(camera.project(torch.tensor([[0.1, 0.2, 0.3]]))[0, 0, 3]) == pytest.approx(2.5, abs=1e-5)


def test_orbit_keeps_its_angles_and_looks_at_its_target():
    azimuth, elevation = torch.tensor([-170.0, -20.0, 33.0, 179.0]), torch.tensor([-60.0, 0.0, 45.0, 80.0])
    target = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    cameras = orbit(azimuth, elevation, target=target, distance=[1.0, 2, 3, 4])
    offset = cameras.origins - target
    assert torch.allclose(torch.rad2deg(torch.atan2(offset[:, 0], offset[:, 2])), azimuth, atol=1e-3)
    assert torch.allclose(torch.rad2deg((offset[:, 1] / offset.norm(dim=-1)).asin()), elevation, atol=1e-2)
    assert torch.allclose(offset.norm(dim=-1), torch.tensor([1.0, 2, 3, 4]))
    centre = cameras.pixels(target[:, None])[:, 0]
    assert torch.allclose(centre, torch.full((4, 2), 64.0), atol=1e-3)
    rotation = cameras.camera_to_world[:, :3, :3]
    assert torch.allclose(rotation @ rotation.transpose(1, 2), torch.eye(3).expand(4, 3, 3), atol=1e-5)
    assert torch.allclose(torch.linalg.det(rotation), torch.ones(4), atol=1e-5)


def test_framed_shows_the_half_height_it_was_asked_for():
    camera = framed([0.0, 70.0], 0.0, [0.5, 1.05], fov_y_deg=20.0, height=64, width=64)
    target_y = torch.tensor([0.08, 0.0])
    top = torch.zeros(2, 1, 3)
    top[:, 0, 1] = target_y + torch.tensor([0.5, 1.05])
    assert torch.allclose(camera.pixels(top)[:, 0, 1], torch.zeros(2), atol=1e-2)


def test_a_camera_says_how_much_it_frames():
    half = torch.tensor([0.36, 0.6, 1.05, 0.8])
    cameras = framed([0.0, 70.0, -140.0, 180.0], [0.0, 35.0, -15.0, 60.0], half, fov_y_deg=24.0)
    assert torch.allclose(cameras.half_height, half, atol=1e-5)


def test_sampled_cameras_cover_the_circle_and_follow_the_generator():
    first = sample_head_cameras(4, torch.Generator().manual_seed(5))
    again = sample_head_cameras(4, torch.Generator().manual_seed(5))
    assert torch.equal(first.camera_to_world, again.camera_to_world)
    ordered = first.azimuth_deg.sort().values
    gaps = torch.diff(ordered, append=ordered[:1] + 360)
    assert float(gaps.max()) < 180 and (first.azimuth_deg >= -180).all() and (first.azimuth_deg < 180).all()


def test_the_closest_framing_holds_a_face_from_brows_to_lips():
    from headsculpt.cameras import CLOSEST_HALF_HEIGHT
    from headsculpt.heads.builtin import builtin_head

    head = builtin_head()
    vertices = torch.from_numpy(head.vertices()).float()
    camera = framed([0.0], 5.0, CLOSEST_HALF_HEIGHT, fov_y_deg=26.0)
    for contour in ("left_brow", "right_brow", "left_eye", "right_eye", "lips_outer"):
        pixels = camera.pixels(vertices[torch.from_numpy(head.landmarks[contour]).long()])[0]
        assert 0 < pixels.min() and pixels.max() < 128, contour
    eye = camera.pixels(vertices[torch.from_numpy(head.landmarks["left_eye"]).long()])[0, :, 0]
    assert float(eye.max() - eye.min()) > 24  # of 128 pixels


def test_close_ups_look_at_faces_within_their_own_range():
    cameras = sample_head_cameras(
        64, torch.Generator().manual_seed(0), jitter=0.0, face_share=1.0, face_half_height=(0.4, 0.5)
    )
    half = cameras.origins.sub(torch.tensor([0.0, 0.05, 0.0])).norm(dim=-1) * torch.tan(0.5 * cameras.fov_y_rad)
    assert cameras.azimuth_deg.abs().max() <= 60
    assert 0.38 < half.min() and half.max() < 0.52


def test_resizing_and_indexing_keep_the_views():
    cameras = framed(torch.arange(6) * 60.0, 8.0, 1.05, height=32, width=32)
    point = torch.tensor([[0.3, 0.2, 0.1]])
    assert torch.allclose(cameras.resized(64, 64).pixels(point), 2 * cameras.pixels(point), atol=1e-3)
    assert torch.equal(cameras[2:4].pixels(point), cameras.pixels(point)[2:4])


@pytest.mark.parametrize("size", [(0, 4), (4, 0), (-1, 4)])
def test_an_image_without_pixels_is_refused(size):
    with pytest.raises(ValueError, match="at least 1x1 pixels"):
        orbit([0.0], height=size[0], width=size[1])


def test_a_camera_at_the_pole_is_refused():
    with pytest.raises(ValueError, match="elevation_deg must lie in"):
        orbit([0.0], [90.0])


def test_sculpting_sees_whole_busts_first():
    config = load_config("mini", ["cameras.jitter=0", "coarse.batch=300"])
    stage = CoarseStage(torch.nn.Module(), config)

    def half_heights(progress: float) -> torch.Tensor:
        cameras = stage.cameras(progress, torch.Generator().manual_seed(0))
        distance = cameras.origins.sub(torch.tensor([0.0, 0.05, 0.0])).norm(dim=-1)
        return distance * torch.tan(0.5 * cameras.fov_y_rad)

    first, then = half_heights(0.49), half_heights(0.5)
    assert 0.7 < first.min() and first.max() < 1.08
    share = float((then < config.cameras.half_height_min - 0.02).float().mean())  # half of the close looks
    assert 0.17 < share < 0.31
    config.cameras.busts_first = 0.0
    assert half_heights(0.0).min() < 0.4
