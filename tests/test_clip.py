"""The small CLIP: which pairs are negatives, its training and export, and the reading of any CLIP folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_priors import write_portraits
from transformers import CLIPModel

from headsculpt.evaluation import metrics
from headsculpt.priors import mini, stages
from headsculpt.priors.dataset import open_dataset
from headsculpt.priors.train_clip import (
    TINY_TEXT,
    TINY_VISION,
    clip_stage,
    contradicted,
    contrastive_loss,
    make_clip,
    shown_truth,
)
from headsculpt.priors.train_text import FIELDS, labels_of
from headsculpt.priors.training import Budget, train
from headsculpt.synthesis.attributes import Attributes
from headsculpt.synthesis.captions import caption, sample_attributes


def test_the_full_size_is_small() -> None:
    tokenizer = mini.make_tokenizer(["a man"] * 2, 600)
    with torch.device("meta"):
        model = make_clip(tokenizer)
    words = (mini.VOCABULARY - len(tokenizer)) * 192
    assert 3e6 < sum(p.numel() for p in model.parameters()) + words < 5e6


def test_only_what_a_picture_visibly_contradicts_is_a_negative() -> None:
    man = Attributes(subject="man", eyewear="round glasses")
    woman = replace(man, subject="woman", eyewear="none")
    named = [frozenset({"subject"}), frozenset({"subject", "eyewear"}), frozenset()]
    said = torch.tensor([labels_of(man, names, "a man", None) for names in named])
    every = frozenset(FIELDS) - {"view", "side"}
    values = torch.tensor([labels_of(person, every, "", None) for person in (man, woman, replace(man, eyewear="none"))])
    visible = torch.ones(values.shape, dtype=torch.bool)
    expected = [[False, True, False], [False, True, True], [False, False, False]]
    assert contradicted(said, values, visible).tolist() == expected
    visible[2, list(FIELDS).index("eyewear")] = False  # seen from behind
    assert contradicted(said, values, visible)[1].tolist() == [False, True, False]


def test_a_pair_that_is_no_negative_costs_nothing() -> None:
    similarity = torch.randn(5, 5, generator=torch.Generator().manual_seed(0)) * 3
    negative = ~torch.eye(5, dtype=torch.bool)
    labels = torch.arange(5)
    plain = 0.5 * (
        torch.nn.functional.cross_entropy(similarity, labels) + torch.nn.functional.cross_entropy(similarity.T, labels)
    )
    assert torch.allclose(contrastive_loss(similarity, negative), plain)
    negative[0, 3] = False
    louder = similarity.clone()
    louder[0, 3] += 50
    assert torch.equal(contrastive_loss(similarity, negative), contrastive_loss(louder, negative))
    assert contrastive_loss(similarity, torch.zeros(5, 5, dtype=torch.bool)) == 0


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    write_portraits(folder / "data")
    mini.save_tokenizer(mini.make_tokenizer(["a man with a white beard"] * 2, 560), folder / "modules" / "tokenizer")
    return folder


def tiny(work: Path):
    return clip_stage(work, "cpu", 0, batch=6, vision=TINY_VISION, text=TINY_TEXT)


def test_training_resumes_and_exports_what_transformers_and_the_metrics_read(work: Path) -> None:
    assert not train(tiny(work), work, Budget(steps=4), pause_after=2, log_every=1)
    assert train(tiny(work), work, Budget(steps=4), log_every=1)
    halved = (work / "modules" / "clip" / "model.safetensors").read_bytes()
    (work / "clip" / "state.pt").unlink()
    assert train(tiny(work), work, Budget(steps=4), log_every=1)
    assert (work / "modules" / "clip" / "model.safetensors").read_bytes() == halved
    assert isinstance(CLIPModel.from_pretrained(work / "modules" / "clip"), CLIPModel)
    for which in (work / "modules", work / "modules" / "clip"):
        model, tokenizer = metrics.load_clip(which)
        assert -1 <= metrics.clip_score(model, tokenizer, torch.rand(2, 3, 64, 64), ["a man", "a"]) <= 1
    assert next(model.parameters()).dtype == torch.float32


def test_the_truth_of_every_picture_agrees_with_its_figure(work: Path) -> None:
    portraits = open_dataset(work / "data")
    values, visible = shown_truth(portraits)
    assert values.shape == visible.shape == (len(portraits), len(FIELDS))
    assert (values < np.array(list(FIELDS.values()))).all()
    behind = np.abs(portraits.views[:, 0]) > 170
    assert not visible[behind, list(FIELDS).index("expression")].any()


def test_the_stage_is_registered_and_names_what_must_come_before(tmp_path: Path) -> None:
    assert "clip" in stages.STAGES and "clip" in stages.MINUTES and "clip" in stages.BATCH and "clip" in stages.BESIDE
    with pytest.raises(FileNotFoundError, match="tokenizer is missing; train it first: headsculpt train-prior text"):
        stages.train_prior("clip", tmp_path, steps=1)


def test_a_clip_that_is_not_here_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match="there is no CLIP in .*; train the mini one"):
        metrics.load_clip(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(FileNotFoundError, match="'nobody/no-clip' is no folder and not in the local cache"):
        metrics.load_clip("nobody/no-clip")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="holds no readable CLIP"):
        metrics.load_clip(tmp_path)


def test_the_clip_that_ships_tells_portraits_apart() -> None:
    from headsculpt.priors.dataset import render_portraits

    rng = np.random.default_rng(99)
    images, texts = [], []
    for _ in range(12):
        person = sample_attributes(rng)
        pictures, views, _ = render_portraits(person, rng, 128)
        row = int(np.abs(views[:, 0]).argmin())
        images.append(torch.from_numpy(pictures[row]).permute(2, 0, 1).float() / 255)
        texts.append(caption(person, rng).text)
    model, tokenizer = metrics.load_clip("mini")
    assert metrics.r_precision(model, tokenizer, torch.stack(images), texts) > 0.25  # one in twelve by chance
    shifted = metrics.clip_score(model, tokenizer, torch.stack(images), texts[1:] + texts[:1])
    assert metrics.clip_score(model, tokenizer, torch.stack(images), texts) > shifted + 0.1
