"""Training data where the training runs: rows by index, and what is measured on whole data sets at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from headsculpt.priors.dataset import Portraits
from headsculpt.priors.resident import Rows, as_images, generator_for, normal_like
from headsculpt.priors.train_vae import (
    FACE_PARTS,
    FACE_WEIGHT,
    MARGINS,
    crop_corners,
    face_boxes,
    face_weights,
)

CONTOURS = {"oval": 3, "left_eye": 5, "right_eye": 5, "lips_outer": 4, "lips_inner": 4}
CUDA = pytest.param(
    "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
)


def portraits(count: int = 9) -> Portraits:
    """Noise with random landmarks, of which a few are visible."""
    rng = np.random.default_rng(0)
    ends = np.cumsum(list(CONTOURS.values())).tolist()
    contours = {name: slice(end - CONTOURS[name], end) for name, end in zip(CONTOURS, ends, strict=True)}
    landmarks = rng.uniform(-10, 138, (count, ends[-1], 3)).astype(np.float32)
    landmarks[..., 2] = rng.random((count, ends[-1])) < rng.random((count, 1))
    shards = [rng.integers(0, 255, (n, 128, 128, 3), np.uint8) for n in (4, count - 4)]
    return Portraits(shards, np.zeros((count, 3)), landmarks, [], [[]] * count, contours)


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.int64])
def test_rows_come_by_index_from_several_parts(device: str, dtype: type) -> None:
    parts = [np.arange(6, dtype=dtype).reshape(3, 2), np.arange(6, 14, dtype=dtype).reshape(4, 2)]
    rows = Rows(parts, device)
    indices = np.array([6, 0, 3, 3, 2])
    assert len(rows) == 7 and rows[indices].device.type == device
    np.testing.assert_array_equal(rows[indices].cpu().numpy(), np.concatenate(parts)[indices])


def test_a_cpu_draws_from_the_generator_of_the_stage() -> None:
    generator, same = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    assert generator_for("cpu", generator) is generator
    assert torch.equal(normal_like(torch.zeros(4), generator), torch.randn(4, generator=same))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
def test_a_gpu_draws_from_one_that_it_seeds() -> None:
    one, two = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    place = torch.zeros(4, device="cuda")
    first = normal_like(place, one)
    assert torch.equal(first, normal_like(place, two)) and not torch.equal(first, normal_like(place, one))


def test_images_are_fractions() -> None:
    image = as_images(torch.tensor([[[[0, 255, 51]]]], dtype=torch.uint8))
    assert image.shape == (1, 3, 1, 1) and torch.allclose(image.flatten(), torch.tensor([0, 1, 0.2]))


def test_weights_are_those_of_a_loop_over_pixels() -> None:
    data = portraits()
    weights = face_weights(face_boxes(data), 128)
    for points, found in zip(data.landmarks, weights[:, 0], strict=True):
        expected = torch.ones(128, 128)
        for names, margin in zip(FACE_PARTS, MARGINS, strict=True):
            of_part = np.concatenate([points[data.contours[name]] for name in names])
            seen = of_part[of_part[:, 2] > 0.5, :2]
            if len(seen) < 4:
                continue
            low, high = seen.min(0), seen.max(0)
            grow = margin * max(high - low)
            left, top = np.clip(np.floor(low - grow), 0, 128).astype(int)
            right, bottom = np.clip(np.ceil(high + grow), 0, 128).astype(int)
            expected[top:bottom, left:right] = 1 + FACE_WEIGHT
        assert torch.equal(found, expected)
    assert weights.max() > 1 and (weights.amax((1, 2, 3)) == 1).any()


def test_crops_lie_near_a_visible_landmark_and_inside() -> None:
    landmarks = np.zeros((200, 3, 3), np.float32)
    landmarks[:, 1] = 90, 40, 1  # the only visible one
    landmarks[:, 0] = 10, 120, 0
    corners = crop_corners(landmarks, 128, 64, torch.Generator().manual_seed(0))
    assert corners.shape == (200, 2) and (corners >= 0).all() and (corners <= 64).all()
    assert (np.abs(corners + 32 - np.array([90, 40])) <= 0.3 * 64 + 1).all()
    landmarks[..., 2] = 0
    anywhere = crop_corners(landmarks, 128, 64, torch.Generator().manual_seed(0))
    assert anywhere.min() < 4 and anywhere.max() > 60
    landmarks[:, [0, 2], 2] = 1
    landmarks[:, 2] = 118, 10, 1
    either = crop_corners(landmarks, 128, 64, torch.Generator().manual_seed(0))
    assert 60 < (either[:, 0] > either[:, 1]).sum() < 140


def test_several_processes_draw_the_same_maps() -> None:
    data = portraits(130)
    indices = np.arange(130)
    one = data.landmark_maps(indices, 32)
    assert one.shape == (130, 32, 32, 3) and one.any()
    np.testing.assert_array_equal(one, data.landmark_maps(indices, 32, workers=2))
