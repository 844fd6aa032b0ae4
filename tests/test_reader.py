"""The reader of noisy latents, and what the UNet learns from it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from test_priors import tiny_stage, write_portraits

from headsculpt.priors import mini, stages
from headsculpt.priors.train_reader import Reader, load_reader, noised, reader_stage, reading_loss
from headsculpt.priors.train_unet import read_estimates, unet_stage
from headsculpt.priors.training import Budget, train
from headsculpt.synthesis.attributes import VALUES
from headsculpt.synthesis.visibility import IGNORED

WIDTHS = (16, 16, 16)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    write_portraits(folder / "data")
    for name in ("text", "vae"):
        stage = tiny_stage(name, folder)
        stage.sheet = None
        assert train(stage, folder, Budget(steps=2))
    return folder


def test_a_reader_learns_what_can_be_read() -> None:
    torch.manual_seed(0)
    reader, generator = Reader(4, WIDTHS), torch.Generator().manual_seed(0)
    labels = torch.full((64, len(VALUES)), IGNORED)
    family = list(VALUES).index("material")
    labels[:, family] = torch.arange(64) % 4
    latents = torch.nn.functional.one_hot(labels[:, family], 4).float()[:, :, None, None].expand(64, 4, 8, 8)
    alphas = torch.full((64,), 0.9)
    optimiser = torch.optim.Adam(reader.parameters(), 3e-3)
    losses = []
    for _ in range(40):
        loss = reading_loss(reader(noised(latents, alphas, generator), alphas), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[0] > 1.0 and losses[-1] < 0.2


def test_what_cannot_be_seen_is_not_asked() -> None:
    logits = {name: torch.randn(2, len(values)) for name, values in VALUES.items()}
    labels = torch.full((2, len(VALUES)), IGNORED)
    assert float(reading_loss(logits, labels)) == 0
    labels[1, 0] = 3
    wanted = torch.nn.functional.cross_entropy(logits["subject"][1:], labels[1:, 0])
    assert torch.allclose(reading_loss(logits, labels), wanted)


def test_true_velocities_are_read_as_their_pictures_and_wrong_ones_get_a_gradient() -> None:
    torch.manual_seed(0)
    reader = Reader(4, WIDTHS).requires_grad_(False)
    alphas = mini.make_scheduler().alphas_cumprod
    t = torch.tensor([100, 500, 800])
    a = alphas[t][:, None, None, None]
    clean, noise = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8)
    noisy, velocity = a.sqrt() * clean + (1 - a).sqrt() * noise, a.sqrt() * noise - (1 - a).sqrt() * clean
    labels = torch.zeros(3, len(VALUES), dtype=torch.long)
    velocity.requires_grad_()
    read = read_estimates(reader, velocity, noisy, t, labels, alphas, torch.Generator().manual_seed(1))
    again = alphas[t // 2]
    direct = reading_loss(reader(noised(clean, again, torch.Generator().manual_seed(1)), again), labels)
    assert torch.allclose(read, direct, rtol=2e-2)  # read in bfloat16
    read.backward()
    assert velocity.grad is not None and (velocity.grad.flatten(1).norm(dim=1) > 0).all()


def test_the_unet_is_read_where_there_is_a_reader(work: Path, tmp_path: Path) -> None:
    mine = Path(shutil.copytree(work, tmp_path / "work"))
    assert load_reader(mine, "cpu") is None
    stage = reader_stage(mine, "cpu", 0, batch=4, widths=WIDTHS)
    assert not train(stage, mine, Budget(steps=4), pause_after=2)
    assert train(reader_stage(mine, "cpu", 0, batch=4, widths=WIDTHS), mine, Budget(steps=4))
    reader = load_reader(mine, "cpu")
    assert reader is not None and not any(p.requires_grad for p in reader.parameters())
    whole = tmp_path / "whole"
    shutil.copytree(work, whole)
    assert train(reader_stage(whole, "cpu", 0, batch=4, widths=WIDTHS), whole, Budget(steps=4))
    assert (whole / "reader/reader.safetensors").read_bytes() == (mine / "reader/reader.safetensors").read_bytes()

    with open(whole / "modules/vae/diffusion_pytorch_model.safetensors", "ab") as file:
        file.write(b" ")
    with pytest.raises(ValueError, match="trained on latents of another VAE.*train-prior reader --work"):
        load_reader(whole, "cpu")

    unet = unet_stage(mine, "cpu", 0, config=mini.TINY_UNET, batch=4)
    unet.sheet = None
    assert train(unet, mine, Budget(steps=2), log_every=1)
    line = json.loads((mine / "unet/losses.jsonl").read_text().splitlines()[-1])
    assert np.isfinite(line["nats"]) and line["loss"] > line["velocity"]


def test_the_reader_is_a_stage_before_the_unet() -> None:
    order = stages.STAGES
    assert order.index("vae") < order.index("reader") < order.index("unet") and "reader" in stages.MINUTES
