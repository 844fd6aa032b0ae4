"""The LoRA of variational score distillation, on a tiny UNet of the real classes."""

from __future__ import annotations

import pytest
import torch

from headsculpt import sculpting
from headsculpt.cameras import framed
from headsculpt.config import CoarseConfig, GuidanceConfig, load_config
from headsculpt.guidance.backbone import LatentDiffusion
from headsculpt.guidance.score_distillation import ScoreDistillation
from headsculpt.priors.catalogue import random_prior
from headsculpt.rendering import Rendering
from headsculpt.run_folder import RunFolder

pytest.importorskip("peft")
from headsculpt.guidance.particles import ParticleModel  # noqa: E402

CAMERAS = framed([0.0, 180.0], 0.0, 1.0, height=16, width=16)


@pytest.fixture
def backbone() -> LatentDiffusion:
    return LatentDiffusion(random_prior("tiny"))


def inputs(backbone: LatentDiffusion) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    unet = backbone.prior.unet.config
    z = torch.randn(2, unet.in_channels, unet.sample_size, unet.sample_size, generator=g)
    return z, torch.tensor([100, 700]), backbone.embed(["an elf", "an elf from behind"])


def test_the_guiding_model_is_as_it_was_and_trains_nothing(backbone: LatentDiffusion):
    z, t, text = inputs(backbone)
    before = backbone.predict_noise(z, t, text)
    particles = ParticleModel(backbone, rate=1e-2)
    weights = {n: p.clone() for n, p in backbone.prior.unet.named_parameters() if "lora" not in n}
    for seed in range(3):
        particles.learn(z, text, CAMERAS, {}, torch.Generator().manual_seed(seed))
    assert torch.equal(backbone.predict_noise(z, t, text), before)
    assert not torch.allclose(particles.predict(z, t, text, CAMERAS, {}), before, atol=1e-4)
    assert all(torch.equal(p, weights[n]) for n, p in backbone.prior.unet.named_parameters() if n in weights)


def test_it_learns_what_the_renderings_look_like(backbone: LatentDiffusion):
    z, _, text = inputs(backbone)
    particles = ParticleModel(backbone, rate=5e-2)
    losses = [particles.learn(z, text, CAMERAS, {}, torch.Generator().manual_seed(0)) for _ in range(15)]
    assert losses[-1] < 0.96 * losses[0]


def test_cameras_are_told_apart_once_it_has_learned(backbone: LatentDiffusion):
    z, t, text = inputs(backbone)
    particles = ParticleModel(backbone, rate=1e-2)
    for seed in range(5):
        particles.learn(z, text, CAMERAS, {}, torch.Generator().manual_seed(seed))
    other = framed([90.0, 90.0], 0.0, 1.0, height=16, width=16)
    assert not torch.equal(particles.predict(z, t, text, CAMERAS, {}), particles.predict(z, t, text, other, {}))


def test_a_resumed_model_goes_on_bit_for_bit(backbone: LatentDiffusion):
    z, t, text = inputs(backbone)
    first = ParticleModel(backbone, rate=1e-2)
    first.learn(z, text, CAMERAS, {}, torch.Generator().manual_seed(0))
    state = first.state_dict()
    first.learn(z, text, CAMERAS, {}, torch.Generator().manual_seed(1))
    wanted = first.predict(z, t, text, CAMERAS, {})
    second = ParticleModel(backbone, rate=1e-2, seed=9)  # takes the place of the first
    second.load_state_dict(state)
    second.learn(z, text, CAMERAS, {}, torch.Generator().manual_seed(1))
    assert torch.equal(second.predict(z, t, text, CAMERAS, {}), wanted)


def test_a_checkpoint_of_another_rank_is_refused(backbone: LatentDiffusion):
    state = ParticleModel(backbone, rank=2).state_dict()
    with pytest.raises(ValueError, match="does not fit this UNet and guidance.lora_rank; resume with the settings"):
        ParticleModel(backbone, rank=4).load_state_dict(state)


def test_without_peft_it_says_what_to_install(backbone: LatentDiffusion, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="needs the package peft, which is missing: pip install .headsculpt.vsd."):
        ParticleModel(backbone)


def test_vsd_guides_and_learns_in_one_call(backbone: LatentDiffusion):
    config = GuidanceConfig(score="vsd", latent_weight=1.0, image_weight=0.0, common_noise=0.0)
    guidance = ScoreDistillation(
        backbone, "an elf", config, CoarseConfig(), particles=ParticleModel(backbone, rate=1e-2)
    )
    rgb = torch.full((2, 16, 16, 3), 0.5, requires_grad=True)
    rendering = Rendering(rgb, torch.ones(2, 16, 16, 1))
    before = guidance.state_dict()["particles"]["lora"]
    loss, record = guidance(rendering, CAMERAS, 0.5, torch.Generator().manual_seed(0))
    loss.backward()
    assert float(rgb.grad.abs().sum()) > 0 and record.own_loss > 0
    after = guidance.state_dict()["particles"]["lora"]
    assert any(not torch.equal(before[n], after[n]) for n in before)
    guidance.load_state_dict({"particles": {**guidance.state_dict()["particles"], "lora": before}})
    assert all(torch.equal(before[n], p) for n, p in guidance.particles.lora.items())


def test_a_run_with_vsd_resumes_bit_for_bit(tmp_path, monkeypatch: pytest.MonkeyPatch):
    settings = [
        "guidance.score=vsd", "guidance.lora_rate=1e-2", "guidance.latent_weight=1", "guidance.image_weight=0",
        "coarse.steps=3", "coarse.batch=1", "coarse.render_size=16", "coarse.samples=8", "coarse.hash_levels=4",
        "fine.steps=2", "fine.batch=1", "fine.render_size=24", "fine.tet_resolution=16",
        "refine.views=1", "refine.denoise_steps=1", "refine.tet_resolution=20",
        "prior.dtype=float32", "checkpoint_every_s=0", "preview_every_s=1000",
    ]  # fmt: skip
    config = load_config("draft", settings, prompt="an elf", device="cpu")
    monkeypatch.setattr(sculpting, "load_guiding_prior", lambda config, device: random_prior("tiny"))

    class Killed(Exception):
        pass

    def stop(progress):
        if progress.step == 2:  # in the coarse stage, then in the fine one, then in the last look
            raise Killed

    whole = sculpting.sculpt(config, RunFolder.create(tmp_path / "whole", config)).mesh
    run = RunFolder.create(tmp_path / "cut", config)
    for _ in range(3):
        with pytest.raises(Killed):
            sculpting.sculpt(config, run, progress=stop)
    resumed = sculpting.sculpt(config, RunFolder.open(tmp_path / "cut")).mesh
    assert torch.equal(resumed.vertices, whole.vertices) and torch.equal(resumed.colours, whole.colours)
