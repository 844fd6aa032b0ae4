"""The instruction ControlNet's training: resumable, exported, loaded; what it learns from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from headsculpt.priors import mini, stages
from headsculpt.priors.catalogue import load_prior, random_prior
from headsculpt.priors.pairs import open_pairs
from headsculpt.priors.resident import Rows
from headsculpt.priors.train_instruction import (
    SHARES,
    Texts,
    fresh_controlnet,
    instruction_stage,
    teach_inlet,
)
from headsculpt.priors.training import Budget, train

FIGURES = 2


def write_pairs(folder: Path) -> None:
    """Pairs in the right format: discs that turn red."""
    rng = np.random.default_rng(0)
    shard = folder / "00000"
    shard.mkdir(parents=True)
    count = 4 * FIGURES
    before = np.full((count, 128, 128, 3), 220, np.uint8)
    before[:, 40:90, 40:90] = rng.integers(0, 255, (count, 1, 1, 3))
    after = before.copy()
    after[:, 40:90, 40:90] = (200, 0, 0)
    np.save(shard / "before.npy", before)
    np.save(shard / "after.npy", after)
    np.save(shard / "views.npy", np.zeros((count, 3), np.float32))
    notes = {
        "seed": 0,
        "figures": [{"instruction": f"make it red {i}", "kind": "recolour"} for i in range(FIGURES)],
        "captions": [[["a square"] * 2, ["a red square"] * 2] for _ in range(count)],
    }
    (shard / "figures.json").write_text(json.dumps(notes))


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder with pairs and the modules of a tiny family, the instruction ControlNet trained."""
    folder = tmp_path_factory.mktemp("work")
    write_pairs(folder / "pairs")
    prior = random_prior("tiny")
    modules = folder / "modules"
    mini.save_tokenizer(prior.tokenizer, modules / "tokenizer")
    for name in ("text_encoder", "vae", "unet", "scheduler"):
        getattr(prior, name).save_pretrained(modules / name)
    prior.controlnets["landmarks"].save_pretrained(modules / "controlnet_landmarks")
    (modules / "text_to_head.safetensors").unlink(missing_ok=True)
    stage = instruction_stage(folder, "cpu", 0, batch=4, inlet_steps=2)
    stage.sheet = None
    assert train(stage, folder, Budget(steps=4), log_every=1)
    return folder


def test_an_interrupted_stage_ends_where_an_undisturbed_one_does(work: Path, tmp_path: Path):
    again = Path(shutil.copytree(work, tmp_path / "work"))
    shutil.rmtree(again / "instruction")
    for finished in (False, True):
        stage = instruction_stage(again, "cpu", 0, batch=4, inlet_steps=2)
        stage.sheet = None
        assert train(stage, again, Budget(steps=4), pause_after=2, log_every=1) is finished
    one, two = (torch.load(w / "instruction" / "state.pt", weights_only=True) for w in (work, again))
    for part in ("parameters", "ema"):
        assert all(torch.equal(a, b) for a, b in zip(one[part], two[part], strict=True))


def test_the_family_has_it_and_the_catalogue_loads_it(work: Path, tmp_path: Path):
    stages.train_prior("export", work, out=tmp_path / "mini")
    prior = load_prior(tmp_path / "mini", controls=("landmarks", "instruction"))
    assert list(prior.controlnets) == ["landmarks", "instruction"]
    state = torch.load(work / "instruction" / "state.pt", weights_only=True)
    for ours, average in zip(prior.controlnets["instruction"].parameters(), state["ema"], strict=True):
        assert torch.equal(ours, average.half().float())


def test_a_sheet_shows_before_made_and_after(work: Path):
    stage = instruction_stage(work, "cpu", 0, batch=2)
    assert stage.sheet is not None
    assert stage.sheet(stage.model).size == (8 * 128, 6 * 128)


def test_every_kind_of_row_has_its_own_text(work: Path):
    pairs, tokenizer = open_pairs(work / "pairs"), random_prior("tiny").tokenizer
    texts = Texts(pairs, tokenizer)
    kinds = np.arange(4)
    rows = texts.rows(np.array([5, 5, 5, 5]), kinds, np.zeros(4, int))
    wanted = mini.tokenise(tokenizer, ["make it red 1", "a red square", "a square", ""])
    assert torch.equal(rows, wanted)
    assert list(SHARES) == ["instruction", "after", "before", "empty"] and sum(SHARES.values()) == pytest.approx(1)


def test_it_starts_from_the_landmark_controlnet_but_for_its_inlet(work: Path):
    unet = random_prior("tiny").unet
    torch.manual_seed(1)
    landmarks = random_prior("tiny", seed=3).controlnets["landmarks"]
    for parameter in landmarks.parameters():
        torch.nn.init.normal_(parameter)
    folder = work / "opened"
    landmarks.save_pretrained(folder)
    started = fresh_controlnet(unet, folder)
    assert torch.equal(started.controlnet_mid_block.weight, landmarks.controlnet_mid_block.weight)
    assert not started.controlnet_cond_embedding.conv_out.weight.any()
    assert not fresh_controlnet(unet, work / "none").controlnet_mid_block.weight.any()
    assert all(p.requires_grad for p in started.parameters())


def test_the_inlet_learns_what_the_unet_sees_of_latents():
    unet = random_prior("tiny").unet
    controlnet = fresh_controlnet(unet, Path("none"))
    others = {name: tensor.clone() for name, tensor in controlnet.state_dict().items()}
    rng = np.random.default_rng(0)
    size, channels = 16 * unet.config.sample_size // 2, unet.config.in_channels
    colours = rng.integers(0, 255, (6, 1, 1, 3), dtype=np.uint8)
    pictures = np.broadcast_to(colours, (6, size, size, 3)).copy()
    plain = np.zeros((6, channels, size // 8, size // 8), np.float32)
    plain[:, :3] = (colours.transpose(0, 3, 1, 2) / 127.5) - 1
    rows = Rows([pictures], "cpu"), Rows([plain], "cpu")
    assert teach_inlet(controlnet, unet, *rows, steps=0) == 1.0
    assert teach_inlet(controlnet, unet, *rows, steps=60) < 0.5
    for name, tensor in controlnet.state_dict().items():
        assert torch.equal(tensor, others[name]) != name.startswith("controlnet_cond_embedding"), name
    assert all(p.grad is None for p in unet.parameters())


def test_what_must_come_before_is_named(work: Path, tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="text_encoder is missing; train it first: .*train-prior text"):
        instruction_stage(tmp_path, "cpu", 0)
    shutil.copytree(work / "modules", tmp_path / "modules")
    with pytest.raises(FileNotFoundError, match="no pairs of portraits in .*train-prior pairs"):
        instruction_stage(tmp_path, "cpu", 0)
    shutil.rmtree(tmp_path / "modules" / "unet")
    with pytest.raises(FileNotFoundError, match="unet is missing; train it first: .*train-prior unet"):
        instruction_stage(tmp_path, "cpu", 0)


def test_instructions_are_in_the_text_encoders_language():
    """The shipped tokenizer was learned from captions and instructions: neither falls apart into bytes."""
    from transformers import CLIPTokenizer

    from headsculpt.priors.catalogue import MINI_FOLDER
    from headsculpt.priors.train_text import labelled_texts
    from headsculpt.synthesis.captions import sample_attributes
    from headsculpt.synthesis.instructions import sample_edit

    tokenizer = CLIPTokenizer.from_pretrained(MINI_FOLDER / "tokenizer", local_files_only=True)
    rng = np.random.default_rng(0)
    texts = {
        "captions": [t for t in labelled_texts(200, rng)[0]],
        "instructions": [sample_edit(sample_attributes(rng), rng)[1] for _ in range(200)],
    }
    for kind in texts.values():
        words = sum(len(text.split()) for text in kind)
        tokens = sum(len(tokenizer.tokenize(text)) for text in kind)
        assert tokens < 1.35 * words  # hyphens and commas are tokens of their own
