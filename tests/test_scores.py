"""The law of each score, on a Gaussian mixture whose noise prediction is known in closed form."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial

import pytest
import torch
from closed_form import ABAR, GaussianMixture, particles_noise
from torch import Tensor

from headsculpt.cameras import framed
from headsculpt.config import CoarseConfig, GuidanceConfig, load_config
from headsculpt.guidance import scores
from headsculpt.guidance.classifier_free import classifier_free_guidance
from headsculpt.guidance.perp_neg import blend_weights, perp_neg_direction, perpendicular, view_blend
from headsculpt.guidance.score_distillation import ScoreDistillation
from headsculpt.guidance.scores import SCORES, Step, sds_gradient
from headsculpt.rendering import Rendering

# "far" lies where no text ever is: what a negative prompt names.
PAIR = GaussianMixture({"left": (-1.5, 0.3, 0.3), "right": (1.5, 0.5, 0.7)})
PLAIN = GaussianMixture({"plain": (0.5, 0.6, 1.0), "elf": (1.0, 0.6, 1.0), "far": (-3.0, 0.6, 1.0)}, ["plain"])


def step_of(
    model: GaussianMixture, latents: Tensor, timesteps: Tensor, scale: float = 1.0, *,
    text: str = "elf", negative: str = "far", noise: Tensor | None = None, seed: int = 0,
) -> Step:  # fmt: skip
    """A step under plain guidance whose base is no text."""
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed)) if noise is None else noise
    said = {"text": text, "empty": "", "negative": negative}

    def predict(noisy: Tensor, at: Tensor, texts: Sequence[str]) -> list[Tensor]:
        return [model.predict_noise(noisy, at, model.embed([said[t]] * len(noisy))) for t in texts]

    def guided(noisy: Tensor, at: Tensor) -> Tensor:
        return classifier_free_guidance(*predict(noisy, at, ("text", "empty")), scale)

    return Step(latents, noise, timesteps, ABAR, predict, guided, scale)


def residual(step: Step, clean: Tensor) -> Tensor:
    return sds_gradient(step.latents, clean, step.timesteps, ABAR, "uniform")


def settle(
    score: Callable[[Step], Tensor], model: GaussianMixture, start: Tensor, *, scale: float = 1.0, text: str = "elf",
    low: int = 20, high: int = 400, steps: int = 400, rate: float = 0.2,
) -> Tensor:  # fmt: skip
    """Where particles ``(N, 3, 1, 1)`` come to rest, each under its own timesteps and noise, at a falling rate."""
    g = torch.Generator().manual_seed(1)
    z = start.clone()
    for i in range(steps):
        t = torch.randint(low, high, (len(z),), generator=g)
        step = step_of(model, z, t, scale, text=text, noise=torch.randn(z.shape, generator=g))
        if score is scores.vsd:
            step = dataclasses.replace(step, own=partial(particles_noise, z.clone()))
        z = z - rate * (1 - i / steps) * residual(step, score(step))
    return z


def cloud(n: int, mean: float, spread: float) -> Tensor:
    return mean + spread * torch.randn(n, 3, 1, 1, generator=torch.Generator().manual_seed(7))


def test_the_model_predicts_its_own_score():
    z, t = cloud(6, 0.0, 2.0).requires_grad_(), torch.tensor([20, 200, 400, 600, 800, 950])
    text = PAIR.embed(["left", "right", "", "left", "", ""])
    (gradient,) = torch.autograd.grad(PAIR.log_density(z, t, text).sum(), z)
    sigma = (1 - ABAR[t]).sqrt().view(-1, 1, 1, 1)
    assert torch.allclose(PAIR.predict_noise(z.detach(), t, text), -sigma * gradient, atol=1e-4)


def test_moved_latents_give_the_residual_back():
    step = step_of(PLAIN, cloud(3, 0.0, 1.0), torch.tensor([20, 500, 950]))
    wanted = cloud(3, 1.0, 2.0)
    assert torch.allclose(residual(step, step.moved(wanted)), wanted, atol=1e-3)


# SDS: modes


def test_sds_collapses_onto_the_mean_of_what_the_text_says():
    rest = settle(scores.sds, PAIR, cloud(64, 0.0, 1.0), text="right", high=980, steps=600)
    assert abs(float(rest.mean()) - 1.5) < 0.05
    assert float(rest.std()) < 0.2 * 0.5


def test_sds_without_text_leaves_every_particle_on_a_mode():
    start = torch.cat([cloud(32, -1.5, 0.4), cloud(32, 1.5, 0.4)])
    rest = settle(scores.sds, PAIR, start, text="")
    left, right = rest[:32], rest[32:]
    assert abs(float(left.mean()) + 1.5) < 0.1 and abs(float(right.mean()) - 1.5) < 0.1
    assert float(left.std()) < 0.5 * 0.3 and float(right.std()) < 0.5 * 0.5


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_guidance_carries_the_fixed_point_of_sds_past_the_mean(scale: float):
    """Of two Gaussians of equal spread, it is exactly m_u + s (m_c - m_u): over-saturation in one line."""
    rest = settle(scores.sds, PLAIN, cloud(64, 0.0, 1.0), scale=scale, steps=600)
    assert abs(float(rest.mean()) - (0.5 + scale * 0.5)) < 0.05


# VSD: the distribution


def test_vsd_reaches_the_distribution_where_sds_collapses():
    start = cloud(128, -0.5, 0.1)
    rest = settle(scores.vsd, PLAIN, start, high=980, steps=800)
    assert abs(float(rest.mean()) - 1.0) < 0.1
    assert abs(float(rest.std()) - 0.6) < 0.1
    assert float(settle(scores.sds, PLAIN, start, high=980, steps=800).std()) < 0.2


def test_vsd_shares_the_particles_among_the_modes_as_the_model_does():
    rest = settle(scores.vsd, PAIR, cloud(128, 0.0, 0.5), text="", high=980, steps=1000)
    side = rest.flatten(1).mean(1) > 0
    assert abs(float(side.float().mean()) - 0.7) < 0.1
    assert abs(float(rest[side].std()) - 0.5) < 0.1 and abs(float(rest[~side].std()) - 0.3) < 0.1


def test_particles_distributed_as_the_model_stay():
    """The fixed point: renderings that the model itself could have made feel no mean pull, others do."""
    samples = cloud(512, 1.0, 0.6)
    step = step_of(PLAIN, samples, torch.randint(300, 900, (512,), generator=torch.Generator().manual_seed(0)))
    step = dataclasses.replace(step, own=partial(particles_noise, samples))
    assert float(residual(step, scores.vsd(step)).mean().abs()) < 0.05
    off = step_of(PLAIN, samples - 1, step.timesteps)
    off = dataclasses.replace(off, own=partial(particles_noise, samples - 1))
    assert float(residual(off, scores.vsd(off)).mean()) < -0.2


def test_vsd_without_a_model_of_the_renderings_is_refused():
    with pytest.raises(ValueError, match="score 'vsd' needs a model of the renderings; expected Step.own, got None"):
        scores.vsd(step_of(PLAIN, cloud(1, 0, 1), torch.tensor([5])))


# CSD: the classifier


def test_csd_is_the_gradient_of_the_models_own_classifier():
    z, t = cloud(5, 0.0, 1.5), torch.tensor([50, 200, 400, 700, 900])
    step = step_of(PAIR, z, t, scale=7.0, text="right")
    noisy = step.noisy.requires_grad_()
    right, anything = PAIR.embed(["right"] * 5), PAIR.embed([""] * 5)
    posterior = PAIR.log_density(noisy, t, right) - PAIR.log_density(noisy, t, anything)
    (gradient,) = torch.autograd.grad(posterior.sum(), noisy)
    sigma = (1 - ABAR[t]).sqrt().view(-1, 1, 1, 1)
    assert torch.allclose(residual(step, scores.csd(step)), -7 * sigma * gradient, atol=2e-3)


def test_csd_rests_where_the_text_is_certain_and_pulls_to_no_mean():
    start = cloud(64, 1.5, 0.5)
    rest = settle(scores.csd, PAIR, start, text="right")
    assert float((rest - start).abs().mean()) < 0.05  # already certain: nothing moves
    between = settle(scores.csd, PAIR, cloud(64, 0.0, 0.2), text="right", scale=3.0)
    zero = torch.zeros(64, dtype=torch.long)
    certain = PAIR.log_density(between, zero, PAIR.embed(["left"] * 64)) - PAIR.log_density(
        between, zero, PAIR.embed(["right"] * 64)
    )
    assert float(certain.exp().max()) < 0.01


def test_the_negative_prompt_of_csd():
    step = step_of(PLAIN, cloud(3, 0.0, 1.0), torch.tensor([100, 500, 900]), scale=2.0)
    text, empty, negative = step.predict(step.noisy, step.timesteps, ("text", "empty", "negative"))
    wanted = 2 * (text - empty) + 2 * 0.5 * (empty - negative)
    assert torch.allclose(residual(step, scores.csd(step, 0.5)), wanted, atol=1e-3)


# NFSD: no noise left


def test_nfsd_at_low_noise_is_sds_without_its_noise():
    step = step_of(PLAIN, cloud(4, 0.0, 1.0), torch.tensor([20, 60, 120, 199]), scale=7.5)
    without = residual(step, scores.nfsd(step)) - residual(step, scores.sds(step))
    assert torch.allclose(without, step.noise, atol=1e-3)


def test_nfsd_at_high_noise_moves_from_the_negative_prompt_and_towards_the_text():
    step = step_of(PLAIN, cloud(3, 0.0, 1.0), torch.tensor([200, 500, 900]), scale=7.5)
    text, empty, negative = step.predict(step.noisy, step.timesteps, ("text", "empty", "negative"))
    wanted = empty - negative + 7.5 * (text - empty)
    assert torch.allclose(residual(step, scores.nfsd(step)), wanted, atol=2e-3)
    same = step_of(PLAIN, step.latents, step.timesteps, scale=7.5, negative="")
    assert torch.allclose(scores.nfsd(same), scores.csd(same), atol=1e-3)


def test_nfsd_at_low_noise_rests_where_sds_does():
    rest = settle(scores.nfsd, PLAIN, cloud(64, 0.5, 0.5), scale=2.0, high=200, steps=800)
    assert abs(float(rest.mean()) - 1.5) < 0.05


# SSD: guidance against itself


def test_ssd_is_guidance_less_the_plain_prediction():
    step = step_of(PLAIN, cloud(3, 0.0, 1.0), torch.tensor([100, 500, 900]), scale=7.5)
    text, empty = step.predict(step.noisy, step.timesteps, ("text", "empty"))
    assert torch.allclose(residual(step, scores.ssd(step)), 6.5 * (text - empty), atol=2e-3)


def test_ssd_without_guidance_has_nothing_to_say():
    step = step_of(PLAIN, cloud(3, 0.0, 1.0), torch.tensor([100, 500, 900]), scale=1.0)
    assert float(residual(step, scores.ssd(step)).abs().max()) < 1e-4


# ISM: intervals of a deterministic path


def test_ism_does_not_depend_on_noise():
    z, t = cloud(3, 0.0, 1.0), torch.tensor([100, 500, 900])
    first, second = (scores.ism(step_of(PLAIN, z, t, 7.5, seed=seed)) for seed in (0, 1))
    assert torch.equal(first, second)


def test_ism_of_a_gaussian_is_its_closed_form():
    """e(z_t) - e(z_s) = (f_t - f_s) (z - m) / v on the exact path, f = sqrt((1 - abar) / (abar v^2 + 1 - abar))."""
    z, t = cloud(4, 0.0, 1.0), torch.tensor([150, 400, 600, 900])
    step = step_of(PLAIN, z, t, text="")
    f = ((1 - ABAR) / (ABAR * 0.6**2 + 1 - ABAR)).sqrt()
    wanted = (f[t] - f[t - 50]).view(-1, 1, 1, 1) * (z - 0.5) / 0.6
    got = residual(step, scores.ism(step, 0.05, stride=0.01))
    assert float((got - wanted).norm() / wanted.norm()) < 0.1


def test_ism_rests_at_the_mean_from_every_start():
    rest = settle(partial(scores.ism, stride=0.05), PLAIN, cloud(32, 0.0, 1.0), text="", steps=300, rate=4.0)
    assert abs(float(rest.mean()) - 0.5) < 0.05 and float(rest.std()) < 0.05


def test_ism_at_the_first_timesteps_does_not_run_off_the_schedule():
    step = step_of(PLAIN, cloud(2, 0.0, 1.0), torch.tensor([1, 30]))
    assert torch.isfinite(scores.ism(step)).all()


# Perp-neg


def test_only_the_perpendicular_part_of_a_negative_counts():
    main, other, base = cloud(2, 1.0, 1.0), cloud(2, 0.0, 2.0), torch.zeros(2, 3, 1, 1)
    assert float((perpendicular(other, main) * main).sum((1, 2, 3)).abs().max()) < 1e-5
    weights = torch.tensor([[-1.0], [-1.0]])
    assert torch.allclose(perp_neg_direction(main, base, [2 * main], weights), main, atol=1e-5)
    moved = perp_neg_direction(main, base, [other], weights)
    assert torch.allclose(moved, main - perpendicular(other, main), atol=1e-5)


def test_views_are_mixed_and_the_wrong_ones_pushed_away():
    front, side, back = view_blend(0), view_blend(-90), view_blend(180)
    assert front.positive == ("front", "side", 1.0) and front.negatives == ("front", "side")
    assert abs(front.weights[0]) < 1e-3 and front.weights[1] < -1.5  # in front the side is unwanted
    assert side.positive[:2] == ("side", "back") and abs(side.weights[0]) < 1e-3
    assert back.negatives == ("side", "front") and back.weights[1] < -1.9  # behind, above all the face
    assert view_blend(30) == view_blend(-30) == view_blend(390)
    assert (blend_weights(range(0, 360, 5)) < 1e-3).all()


# Chosen by name, through the whole guidance


def guide(model: GaussianMixture, **settings: object) -> ScoreDistillation:
    config = GuidanceConfig(  # type: ignore[arg-type]
        latent_weight=1.0, image_weight=0.0, common_noise=0.0, prompt_style="headsculpt", **settings
    )
    stage = CoarseConfig(guidance_scale=3.0, denoise_steps=1, t_window=1.0)
    return ScoreDistillation(model, "elf", config, stage)  # type: ignore[arg-type]


@pytest.mark.parametrize("perp_neg", [False, True])
@pytest.mark.parametrize("score", [s for s in SCORES if s != "vsd"])
def test_every_score_can_be_chosen_by_name(score: str, perp_neg: bool):
    cameras = framed([0.0, 120.0, 180.0], 0.0, 1.0, height=1, width=1)
    rgb = torch.full((3, 1, 1, 3), 0.2, requires_grad=True)
    guidance = guide(PLAIN, score=score, perp_neg=perp_neg)
    loss, record = guidance(Rendering(rgb, torch.ones(3, 1, 1, 1)), cameras, 0.5, torch.Generator().manual_seed(0))
    loss.backward()
    assert rgb.grad is not None and torch.isfinite(rgb.grad).all() and float(rgb.grad.abs().min()) > 0
    assert record.own_loss is None and guidance.state_dict() == {}


def test_the_gradient_of_the_guidance_is_that_of_its_score():
    cameras = framed([0.0], 0.0, 1.0, height=1, width=1)
    rgb = torch.full((1, 1, 1, 3), 0.2, requires_grad=True)
    guidance = guide(PLAIN, score="ism")
    loss, record = guidance(Rendering(rgb, torch.ones(1, 1, 1, 1)), cameras, 0.5, torch.Generator().manual_seed(0))
    loss.backward()
    t = torch.tensor([round(record.timestep * 1000)])
    step = step_of(PLAIN, PLAIN.encode(rgb.detach()), t, 3.0)
    wanted = 8 * residual(step, scores.ism(step)).permute(0, 2, 3, 1)
    assert torch.allclose(rgb.grad, wanted, rtol=1e-3)


def test_unknown_scores_and_bad_settings_are_named():
    with pytest.raises(ValueError, match="unknown score 'sdss'; expected one of sds, vsd, ism, csd, nfsd, ssd"):
        guide(PLAIN, score="sdss")
    with pytest.raises(ValueError, match="guidance.score is 'sdss'; expected one of sds, vsd"):
        load_config("mini", ["guidance.score=sdss"])
    with pytest.raises(ValueError, match="guidance.ism_interval is 0.0; expected a fraction"):
        load_config("mini", ["guidance.ism_interval=0"])
    with pytest.raises(ValueError, match="give particles=ParticleModel"):
        guide(PLAIN, score="vsd")


def test_perpendicular_negatives_are_told_what_completes_the_prompt(monkeypatch: pytest.MonkeyPatch):
    guidance, said = guide(PLAIN, perp_neg=True, complete_prompt=True), list[str]()

    def embed(texts: Sequence[str]) -> Tensor:
        said.extend(texts)
        return torch.zeros(len(texts), 1, 1)

    monkeypatch.setattr(guidance.backbone, "embed", embed)
    guidance._states(framed([30.0], 0.0, 1.0, height=8, width=8))
    views = [text for text in said if "view" in text]
    assert len(views) >= 4 and all(text.startswith(guidance.told) for text in views) and guidance.told != "elf"
