"""The autoencoder's first state, training in several processes, and the head that a sentence describes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from headsculpt.priors import mini, parallel
from headsculpt.priors.catalogue import random_prior
from headsculpt.priors.text_to_head import TextToHead, fit_text_to_head
from headsculpt.priors.training import Budget, Stage, train
from headsculpt.priors.vae_start import start_as_downsampling


def coloured_squares(count: int, size: int = 64) -> torch.Tensor:
    """``(count, 3, size, size)`` in [-1, 1]: a square of one colour on another."""
    g = torch.Generator().manual_seed(0)
    images = (2 * torch.rand(count, 3, 1, 1, generator=g) - 1).repeat(1, 1, size, size)
    images[:, :, 16:40, 24:56] = 2 * torch.rand(count, 3, 1, 1, generator=g) - 1
    return images


def test_a_fresh_autoencoder_passes_colours():
    torch.manual_seed(0)
    vae = mini.make_vae()
    images = coloured_squares(4)

    def psnr() -> float:
        with torch.no_grad():
            back = vae.decode(vae.encode(images).latent_dist.mean).sample
        return float(-10 * torch.log10(((back - images) / 2).square().mean()))

    before = psnr()
    start_as_downsampling(vae)
    assert before < 12 and psnr() > before + 6


def test_the_first_latents_are_nearly_noiseless():
    vae = mini.make_vae()
    start_as_downsampling(vae)
    with torch.no_grad():
        posterior = vae.encode(coloured_squares(2)).latent_dist
    assert torch.allclose(posterior.logvar, torch.full_like(posterior.logvar, -6.0), atol=1e-4)


def _train_line(*, work: Path) -> bool:
    """Fits a line; each process draws its own points."""
    torch.manual_seed(0)
    model = nn.Linear(1, 1)

    def loss(step: int, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        x = torch.rand(8, 1, generator=generator)
        return (model(x) - (3 * x + 1)).square().mean(), {}

    def export(trained: nn.Module) -> None:
        torch.save(trained.state_dict(), work / "line.pt")

    stage = Stage("line", model, loss, export, batch=8, learning_rate=0.1, ema_decay=0.5, warm_up_steps=1)
    finished = train(stage, work, Budget(steps=300))
    torch.save(model.state_dict(), work / f"rank{parallel.rank()}.pt")
    return finished


def test_processes_that_share_gradients_end_with_the_same_weights(tmp_path: Path):
    assert parallel.run(2, _train_line, {"work": tmp_path})
    first, second = (torch.load(tmp_path / f"rank{i}.pt", weights_only=True) for i in (0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)
    line = torch.load(tmp_path / "line.pt", weights_only=True)
    assert abs(float(line["weight"]) - 3) < 0.3 and abs(float(line["bias"]) - 1) < 0.2


def test_one_process_needs_no_meeting():
    assert (parallel.rank(), parallel.world_size(), parallel.agreed(0.5)) == (0, 1, (0.5,))


def test_a_head_from_a_sentence_survives_saving(tmp_path: Path):
    prior = random_prior("tiny")
    fitted = fit_text_to_head(prior.tokenizer, prior.text_encoder, captions=40)
    fitted.save(tmp_path)
    again = TextToHead.load(tmp_path)
    assert again is not None and again.names == fitted.names
    identity, expression = again(prior, "a surprised girl")
    assert all(-1.2 <= value <= 1.2 for value in identity.values())
    assert all(0.05 < value <= 1.0 for value in expression.values())
    assert np.isfinite(list(identity.values())).all()


def test_a_folder_without_the_map_has_none(tmp_path: Path):
    assert TextToHead.load(tmp_path) is None


@pytest.mark.parametrize("text", ["an elf", "a man with a round face, brown skin and a green t-shirt"])
def test_the_head_is_a_function_of_the_text_alone(text: str):
    prior = random_prior("tiny")
    fitted = fit_text_to_head(prior.tokenizer, prior.text_encoder, captions=40)
    assert fitted(prior, text) == fitted(prior, text)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon to compare with")
def test_muon_takes_the_steps_of_torch_that_takes_one_matrix_after_another() -> None:
    from headsculpt.priors.optimiser import Muon

    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(*shape)) for shape in [(12, 20), (20, 12), (12, 20), (8, 8)]]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    before = [p.detach().clone() for p in ours]
    together = Muon(ours, 1e-2, 0.1)
    single = torch.optim.Muon(theirs, lr=1e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        for a, b in zip(ours[:3], theirs[:3], strict=True):  # the last one gets no gradient
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        together.step()
        single.step()
    for a, b, old in zip(ours[:3], theirs[:3], before[:3], strict=True):
        assert (a - b).norm() < 0.02 * (b - old).norm()  # theirs are of bfloat16
    assert torch.equal(ours[3], before[3])


@pytest.mark.parametrize("has_face", [(1, 0, 1, 1, 0, 1), (0, 0, 1, 0, 0, 0)])
def test_as_many_rows_are_mapped_whatever_the_batch_shows(has_face: tuple[int, ...]) -> None:
    from headsculpt.priors.train_unet import rows_to_map

    with_face = np.array(has_face, bool)
    seen = set()
    for seed in range(8):
        rows = rows_to_map(with_face, 2, torch.Generator().manual_seed(seed))
        assert rows.shape == (2,) and bool((rows.diff() > 0).all())
        assert with_face[rows.numpy()].sum() == min(2, with_face.sum())
        seen.add(tuple(rows.tolist()))
    assert len(seen) > 1


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_muon_takes_the_matrices_and_adamw_the_rest(layout: torch.memory_format) -> None:
    from headsculpt.priors.optimiser import MuonAdamW

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(4 * 36, 5))
    model = model.to(memory_format=layout)
    optimiser = MuonAdamW(model, 1e-3, (0.9, 0.99), 0.0)
    before = [p.detach().clone() for p in model.parameters()]
    model(torch.randn(16, 3, 8, 8)).square().mean().backward()
    optimiser.step()
    for old, parameter in zip(before, model.parameters(), strict=True):
        step = parameter.detach() - old
        assert step.abs().max() > 0
        if parameter.ndim > 1:  # Muon's step is nearly orthogonal: all its singular values are of one size
            singular = torch.linalg.svdvals(step.reshape(len(step), -1))
            assert singular.min() > 0.5 * singular.max()
    state = optimiser.state_dict()
    optimiser.zero_grad()
    assert all(p.grad is None for p in model.parameters())
    again = MuonAdamW(model, 5.0, (0.9, 0.99), 0.0)
    again.load_state_dict(state)
    assert [group["lr"] for group in again.param_groups] == [1e-3, 1e-3]
