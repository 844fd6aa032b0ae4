"""Stable Diffusion 1.5 at its full size with two ControlNets, random weights: does the road carry it?

Slow, and hungry: 3.6 GB of weights in bfloat16; twice that in float32, where the processor has no bfloat16, and a step
in it would take an hour. The networks are whole in each case; at 256 pixels they take a
quarter of the arithmetic.
"""

from __future__ import annotations

import dataclasses
import resource

import pytest
import torch

from headsculpt import sculpting
from headsculpt.config import SculptConfig, load_config
from headsculpt.devices import fast_bfloat16
from headsculpt.guidance.backbone import Control, LatentDiffusion
from headsculpt.priors.catalogue import random_prior
from headsculpt.priors.prior import Prior
from headsculpt.run_folder import RunFolder

DTYPE = torch.bfloat16 if fast_bfloat16("cpu") else torch.float32
SMALL = [
    f"prior.dtype={str(DTYPE).removeprefix('torch.')}",
    "prior.controls=[landmarks,instruct]", "prior.gradient_checkpointing=true",
    "coarse.steps=1", "coarse.batch=1", "coarse.render_size=32", "coarse.hash_log2_table=14", "coarse.samples=16",
    "fine.steps=1", "fine.batch=1", "fine.render_size=64", "fine.tet_resolution=24",
]  # fmt: skip


def peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


@pytest.fixture(scope="module")
def prior() -> Prior:
    return random_prior("sd15", dtype=DTYPE, controls=("landmarks", "instruction"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "pixels",
    [256, pytest.param(512, marks=pytest.mark.skipif(DTYPE == torch.float32, reason="minutes and 10 GB in float32"))],
)
def test_one_coarse_and_one_fine_step(prior: Prior, pixels: int, tmp_path, monkeypatch: pytest.MonkeyPatch):
    assert 1.75e9 < prior.parameter_count() < 1.83e9
    assert (prior.image_size, prior.latent_size) == (512, 64)
    assert {p.dtype for m in prior.modules() for p in m.parameters()} == {DTYPE}
    print(f"weights made: {peak_gb():.1f} GB at the peak")
    prior = dataclasses.replace(prior, image_size=pixels, latent_size=pixels // 8)

    def load(config: SculptConfig, device: torch.device) -> Prior:
        from headsculpt.priors.memory import spare_memory

        return spare_memory(prior, config.prior, device)

    monkeypatch.setattr(sculpting, "load_guiding_prior", load)
    config = load_config("sd15", SMALL, prompt="an old man with a white beard", device="cpu")
    run = RunFolder.create(tmp_path / "run", config)
    head = sculpting.sculpt(config, run)
    assert len(head.mesh.faces) > 0
    lines = run.progress_path.read_text(encoding="utf-8")
    assert lines.count("\n") == 2 and "nan" not in lines.lower()
    print(lines, f"{peak_gb():.1f} GB at the peak")


@pytest.mark.slow
def test_both_controls_of_an_editing_step(prior: Prior):
    """What an editing step asks of the model (HeadSculpt A.10): landmarks and reference together."""
    backbone = LatentDiffusion(dataclasses.replace(prior, image_size=256, latent_size=32))
    reference = torch.rand(1, 256, 256, 3, generator=torch.Generator().manual_seed(0))
    rows = torch.tensor([True])
    text = backbone.embed(["give him a red hat"])
    z, t = torch.zeros(1, 4, 32, 32), torch.tensor([500])
    controls = {"landmarks": Control(torch.zeros(1, 256, 256, 3), rows), "instruction": Control(reference, rows)}
    noise = backbone.predict_noise(z, t, text, controls)
    assert noise.shape == z.shape and torch.isfinite(noise).all()
    print(f"{peak_gb():.1f} GB at the peak")
