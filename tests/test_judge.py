"""The judge: what a view can show, how views are combined, and that training resumes exactly."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from headsculpt.evaluation import train_judge
from headsculpt.evaluation.judge import (
    SIZE,
    Judge,
    JudgeConfig,
    JudgeNetwork,
    band_label,
    face_crops,
    load_judge,
)
from headsculpt.priors.dataset import VIEWS_PER_FIGURE, open_dataset
from headsculpt.priors.training import Budget, train
from headsculpt.synthesis.attributes import VALUES, Attributes
from headsculpt.synthesis.visibility import AZIMUTH_LIMIT_DEG, COVERING_HATS, visible_families

FACE_ONLY = {"expression", "face", "nose", "eyewear", "facial_hair"}
SMALL = JudgeConfig((8, 16, 16), (1, 1, 1), (8, 8), (1, 1), {"oval": 3, "lips": 2})


def random_attributes(rng: np.random.Generator) -> Attributes:
    return Attributes(**{name: values[rng.integers(len(values))] for name, values in VALUES.items()})


def write_portraits(folder: Path, figures: int = 12, points: int = 5) -> Path:
    """A data set of noise in the format of headsculpt.priors.dataset."""
    rng = np.random.default_rng(0)
    count = figures * VIEWS_PER_FIGURE
    shard = folder / "00000"
    shard.mkdir(parents=True)
    views = np.stack([rng.uniform(-180, 180, count), np.zeros(count), rng.uniform(0.5, 1.05, count)], 1)
    landmarks = np.concatenate([rng.uniform(30, 90, (count, points, 2)), np.ones((count, points, 1))], -1)
    np.save(shard / "images.npy", rng.integers(0, 255, (count, 128, 128, 3), dtype=np.uint8))
    np.save(shard / "views.npy", views.astype(np.float32))
    np.save(shard / "landmarks.npy", landmarks.astype(np.float32))
    people = [asdict(random_attributes(rng)) for _ in range(figures)]
    notes = {"seed": 0, "attributes": people, "captions": [["a head"]] * count, "contours": {"oval": points}}
    (shard / "figures.json").write_text(json.dumps(notes))
    return folder


def test_every_family_has_a_limit_and_is_seen_from_the_front():
    assert set(AZIMUTH_LIMIT_DEG) == set(VALUES)
    assert visible_families(None, 0.0, 1.0) == set(VALUES)


def test_seen_families_only_shrink_away_from_the_front_and_are_symmetric_and_periodic():
    rng = np.random.default_rng(1)
    for _ in range(30):
        a, half = random_attributes(rng), float(rng.uniform(0.5, 1.05))
        rows = [visible_families(a, float(azimuth), half) for azimuth in range(0, 181, 5)]
        assert all(later <= earlier for earlier, later in zip(rows, rows[1:], strict=False))
        azimuth = float(rng.uniform(-180, 180))
        assert visible_families(a, azimuth, half) == visible_families(a, -azimuth, half)
        assert visible_families(a, azimuth, half) == visible_families(a, azimuth + 720, half)
        assert visible_families(a, azimuth, half) <= visible_families(None, azimuth, half)


def test_from_behind_hair_and_headwear_are_judged_and_the_face_is_not():
    seen = visible_families(Attributes(headwear="crown"), 180.0)
    assert {"hair_style", "hair_colour", "headwear"} <= seen
    assert not seen & FACE_ONLY


@pytest.mark.parametrize("hat", COVERING_HATS)
def test_covering_hats_hide_the_hair_style_but_a_crown_does_not(hat):
    assert "hair_style" not in visible_families(Attributes(headwear=hat), 0.0)
    assert "hair_style" in visible_families(Attributes(headwear="crown"), 0.0)


@pytest.mark.parametrize(
    ("changes", "family", "expected"),
    [
        ({"hair_style": "bald"}, "hair_colour", False),
        ({"hair_style": "bald", "facial_hair": "goatee"}, "hair_colour", True),
        ({"material": "marble bust"}, "skin", False),
        ({"material": "bronze statue"}, "clothing_colour", False),
        ({"headwear": "none"}, "headwear_colour", False),
        ({"headwear": "crown"}, "headwear_colour", False),
        ({"headwear": "top hat"}, "headwear_colour", True),
        ({"hair_style": "long"}, "earrings", False),
        ({"hair_style": "long"}, "ears", True),
        ({"hair_style": "ponytail"}, "earrings", True),
        ({"facial_hair": "full beard"}, "face", False),
    ],
)
def test_a_figure_hides_some_families_itself(changes, family, expected):
    assert (family in visible_families(replace(Attributes(), **changes), 0.0)) is expected


def test_from_above_a_brim_hides_the_face():
    hatted = Attributes(headwear="top hat")
    assert "expression" in visible_families(hatted, 0.0, 1.0, 5.0)
    assert not visible_families(hatted, 0.0, 1.0, 30.0) & FACE_ONLY
    assert "expression" in visible_families(Attributes(headwear="beanie"), 0.0, 1.0, 30.0)


def test_a_beard_does_not_tell_the_hair_colour_from_behind():
    bearded = Attributes(hair_style="bald", facial_hair="full beard")
    assert "hair_colour" not in visible_families(bearded, 180.0)


def test_close_ups_do_not_show_the_clothes():
    assert "clothing" not in visible_families(Attributes(), 0.0, 0.6)
    assert "clothing" in visible_families(Attributes(), 0.0, 0.9)


def test_band_label_leaves_the_middle_out():
    label, weight = band_label(torch.tensor([0.0, -40.0, 100.0, 180.0, 540.0]), (85.0, 120.0))
    assert label.tolist() == [1, 1, 0, 0, 0]
    assert weight.tolist() == [1, 1, 0, 1, 1]


class _Fixed(JudgeNetwork):
    """Logits that are a function of the image's first pixel, so that each view's answer is known."""

    def forward(self, images):
        out = super().forward(images)
        strength = images[:, 0, 0, 0]
        for family in VALUES:
            out[family] = torch.zeros_like(out[family])
        # View 0 is sure of value 1; the others lean to value 0.
        out["eyewear"][:, 1] = torch.where(strength > 0.5, 6.0, 0.0)
        out["eyewear"][:, 0] = torch.where(strength > 0.5, 0.0, 2.0)
        out["hair_style"][:, 2] = torch.where(strength > 0.5, 0.0, 9.0)
        return out


def test_read_views_averages_log_probabilities_over_the_views_that_show_a_family():
    judge = Judge(_Fixed(SMALL))
    images = torch.zeros(3, 3, 128, 128)
    images[0] = 1.0
    result = judge.read_views(images, [0.0, 30.0, 180.0])
    # Front and three-quarter count for the eyewear; the back, which says "none" too, does not.
    logits = torch.tensor([[0.0, 6, 0, 0, 0], [2.0, 0, 0, 0, 0]]).log_softmax(-1).mean(0)
    value, probabilities = result["eyewear"]
    assert value == VALUES["eyewear"][1]
    torch.testing.assert_close(probabilities, logits.softmax(-1))
    assert result["hair_style"][0] == VALUES["hair_style"][2]
    back = judge.read_views(images[2:], [180.0])
    assert "eyewear" not in back and "hair_style" in back


def test_read_views_says_what_does_not_match():
    judge = Judge(JudgeNetwork(SMALL))
    with pytest.raises(ValueError, match=r"2 images, 1 azimuths"):
        judge.read_views(torch.zeros(2, 3, 128, 128), [0.0])
    with pytest.raises(ValueError, match=r"\(B, 3, H, W\); got \(2, 128, 128, 3\)"):
        judge.read(torch.zeros(2, 128, 128, 3))


def test_reading_has_the_vocabulary_and_takes_any_size(tmp_path):
    torch.manual_seed(0)
    judge = Judge(JudgeNetwork(SMALL), {"all": 0.5})
    images = torch.rand(2, 3, 96, 96)
    reading = judge.read(images)
    assert list(reading) == list(VALUES)
    for family, (values, probabilities) in reading.items():
        assert probabilities.shape == (2, len(VALUES[family])) and set(values) <= set(VALUES[family])
        torch.testing.assert_close(probabilities.sum(-1), torch.ones(2))
    points, seen = judge.landmarks(images)
    assert points.shape == (2, 5, 2) and seen.shape == (2, 5)
    loaded = load_judge(judge.save(tmp_path))
    assert loaded.accuracy == {"all": 0.5}
    torch.testing.assert_close(loaded.landmarks(images)[0], points, atol=1e-2, rtol=1e-2)


def test_missing_and_foreign_weights_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="judge.json is missing.*train_judge"):
        load_judge(tmp_path)
    Judge(JudgeNetwork(SMALL)).save(tmp_path)
    described = json.loads((tmp_path / "judge.json").read_text())
    described["families"]["nose"] = ["small"]
    (tmp_path / "judge.json").write_text(json.dumps(described))
    with pytest.raises(ValueError, match="reads nose as"):
        load_judge(tmp_path)


def _train(data: Path, work: Path, steps: int, pause_after: int | None = None) -> bool:
    torch.manual_seed(0)
    portraits = open_dataset(data)
    rows, _ = train_judge.split_rows(portraits)
    stage = train_judge.judge_stage(JudgeNetwork(SMALL), portraits, rows, work / "weights")
    return train(stage, work, Budget(steps=steps), pause_after=pause_after)


def test_training_resumes_bit_for_bit(tmp_path, monkeypatch):
    monkeypatch.setattr(train_judge, "BATCH", 8)
    monkeypatch.setattr(train_judge, "STATISTICS_BATCHES", 2)
    data = write_portraits(tmp_path / "data")
    assert _train(data, tmp_path / "whole", 3)
    assert not _train(data, tmp_path / "parts", 3, pause_after=1)
    assert _train(data, tmp_path / "parts", 3)
    whole, parts = (
        (tmp_path / name / "weights/judge.safetensors").read_bytes() for name in ("whole", "parts")
    )
    assert whole == parts


def test_held_out_accuracy_counts_only_what_is_seen(tmp_path):
    portraits = open_dataset(write_portraits(tmp_path))
    rows, held_out = train_judge.split_rows(portraits)
    assert not set(rows // VIEWS_PER_FIGURE) & set(held_out // VIEWS_PER_FIGURE)
    accuracy = train_judge.held_out_accuracy(Judge(JudgeNetwork(SMALL)), portraits, np.arange(len(portraits)))
    assert 0 <= accuracy["all"] <= 1 and set(accuracy) >= {*VALUES, "face_seen", "frontal", "landmark_error"}
    assert "all attributes" in train_judge.accuracy_table(accuracy)


def test_a_judge_is_trained_on_from_another_of_the_same_shape_only(tmp_path):
    trained = JudgeNetwork(SMALL)
    Judge(trained).save(tmp_path)
    fresh = JudgeNetwork(SMALL)
    train_judge.begin_with(fresh, tmp_path)
    torch.testing.assert_close(fresh.heads.weight, trained.heads.weight, atol=1e-3, rtol=1e-2)
    other = JudgeNetwork(replace(SMALL, widths=(8, 16, 24)))
    with pytest.raises(ValueError, match="the judge in .* the one to train is"):
        train_judge.begin_with(other, tmp_path)


def test_figures_are_read_from_all_sides_and_counted_where_a_view_shows_them(monkeypatch):
    person = Attributes(hair_style="bald", nose="big")

    class AlmostRight(Judge):  # reads the truth, but for the nose
        def read_views(self, images, azimuth_deg, half_height=1.0):
            assert images.shape == (len(azimuth_deg), 3, 128, 128) and 0 <= images.min() < images.max() <= 1
            return {f: ("long" if f == "nose" else getattr(person, f), torch.ones(1)) for f in VALUES}

    monkeypatch.setattr(train_judge, "sample_attributes", lambda rng: person)
    accuracy = train_judge.figure_accuracy(AlmostRight(JudgeNetwork(SMALL)), count=2)
    assert accuracy.pop("nose") == 0 and accuracy["subject"] == 1
    assert "hair_colour" not in accuracy  # no view of a bald head shows it
    families = len(accuracy)  # with "all" for the nose
    assert accuracy["all"] == pytest.approx(1 - 1 / families)


def test_pasted_faces_are_labelled_as_faces_and_nothing_else(tmp_path):
    portraits = open_dataset(write_portraits(tmp_path, figures=40))
    batch = train_judge.Examples(portraits)[np.arange(len(portraits))]
    before = batch.images.clone()
    batch = train_judge.paste_faces(batch, torch.Generator().manual_seed(0), share=1.0)
    changed = (batch.images != before).flatten(1).any(1)
    assert set(batch.face_pasted.tolist()) == {-1.0, 0.0, 1.0}
    assert (changed == (batch.face_pasted >= 0)).all()
    assert (batch.azimuth_deg[changed].abs() >= 120).all()
    assert (batch.labels[changed] == train_judge.IGNORED).all()


def test_a_picture_and_its_mirror_image_are_read_alike():
    torch.manual_seed(0)
    judge = Judge(JudgeNetwork(SMALL))
    picture = torch.rand(2, 3, SIZE, SIZE)
    plain, mirrored = judge.outputs(picture), judge.outputs(picture.flip(-1))
    for name in judge.network.sizes:
        assert torch.allclose(plain[name], mirrored[name], atol=1e-5)
    with torch.no_grad():
        assert torch.equal(plain["points"], judge.network(picture)["points"])  # not so the landmarks


def test_command_line_names_a_missing_data_folder(tmp_path, capsys):
    assert train_judge.main(["--data", str(tmp_path / "none"), "--work", str(tmp_path)]) == 1
    assert "no portraits in" in capsys.readouterr().err
    assert train_judge.main(["--data", str(tmp_path), "--work", str(tmp_path), "--batch", "0"]) == 1
    assert "--batch must be at least 1; got 0" in capsys.readouterr().err


def test_the_second_look_is_at_the_landmarks():
    picture = torch.zeros(2, 3, SIZE, SIZE)
    picture[0, :, 20:40, 80:100] = 1.0  # a face that fills this square
    corners = torch.tensor([[80.0, 20.0], [100.0, 40.0]])
    points = (corners / (0.5 * SIZE) - 1).expand(2, 2, 2)
    crops = face_crops(picture, points)
    assert crops.shape == (2, 3, SIZE // 2, SIZE // 2)
    inner = SIZE // 2 // 10 + 2  # a tenth of margin on each side, and the interpolation's
    assert (crops[0, :, inner:-inner, inner:-inner] > 0.99).all() and (crops[0, :, :3] < 0.01).all()
    assert (crops[1] == 0).all()
    points.zero_()  # landmarks in one point still give a crop
    assert face_crops(picture, points).isfinite().all()
