"""Laws of the scores, on a diffusion model whose score is known in closed form: a Gaussian."""

from __future__ import annotations

import pytest
import torch

from headsculpt.cameras import framed
from headsculpt.config import CoarseConfig, GuidanceConfig
from headsculpt.guidance.backbone import Control, LatentDiffusion
from headsculpt.guidance.classifier_free import classifier_free_guidance
from headsculpt.guidance.samplers import add_noise, clean_latents
from headsculpt.guidance.score_distillation import ScoreDistillation, annealed_timesteps, asked_picture
from headsculpt.guidance.scores import sds_gradient, timestep_weight
from headsculpt.priors.catalogue import random_prior
from headsculpt.rendering import Rendering

ABAR = torch.linspace(0.9995, 0.005, 1000)
MEAN = 2.0
SHAPE = (3, 4, 5, 5)


def gaussian_noise(spread: float):
    """E[eps | z_t] where clean latents are N(MEAN, spread^2): the exact model of that distribution."""

    def predict(noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        a = ABAR[timesteps].view(-1, 1, 1, 1)
        variance = a * spread**2 + (1 - a)
        return (1 - a).sqrt() * (noisy - a.sqrt() * MEAN) / variance

    return predict


def drawn(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(SHAPE, generator=g), torch.randn(SHAPE, generator=g), torch.tensor([20, 400, 950])


def test_scale_one_of_the_standard_form_and_zero_of_the_other_are_the_conditional_prediction():
    c, u, _ = drawn()
    assert torch.allclose(classifier_free_guidance(c, u, 1.0), c, atol=1e-6)
    assert torch.equal(classifier_free_guidance(c, u, 0.0, form="one_plus"), c)


def test_the_two_forms_differ_by_one_unit_of_scale():
    c, u, _ = drawn()
    standard = classifier_free_guidance(c, u, 8.5)
    assert torch.allclose(classifier_free_guidance(c, u, 7.5, form="one_plus"), standard, atol=1e-5)


def test_full_rescaling_gives_the_conditional_spread():
    c, u, _ = drawn()
    guided = classifier_free_guidance(c, u, 20.0, rescale=1.0)
    assert torch.allclose(guided.std((1, 2, 3)), c.std((1, 2, 3)), rtol=1e-4)


def test_an_unknown_form_is_refused():
    c, u, _ = drawn()
    with pytest.raises(ValueError, match="form is 'standard' or 'one_plus'; got 'double'"):
        classifier_free_guidance(c, u, 1.0, form="double")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("weighting", "law"),
    [
        ("sds", lambda a: 1 - a),
        ("uniform", lambda a: torch.ones_like(a)),
        ("fantasia3d", lambda a: a.sqrt() * (1 - a)),
    ],
)
def test_weights_follow_their_papers(weighting, law):
    t = torch.tensor([0, 500, 999])
    assert torch.allclose(timestep_weight(ABAR, t, weighting).flatten(), law(ABAR[t]))


def test_an_unknown_weighting_is_refused():
    with pytest.raises(ValueError, match="got 'flat'"):
        timestep_weight(ABAR, torch.tensor([1]), "flat")  # type: ignore[arg-type]


def test_noise_and_clean_are_inverse():
    z, noise, t = drawn()
    noisy = add_noise(z, noise, ABAR, t)
    assert torch.allclose(clean_latents(noisy, noise, ABAR, t), z, atol=1e-3)


def test_sds_gradient_is_the_noise_residual():
    z, noise, t = drawn()
    noisy = add_noise(z, noise, ABAR, t)
    predicted = gaussian_noise(0.5)(noisy, t)
    gradient = sds_gradient(z, clean_latents(noisy, predicted, ABAR, t), t, ABAR, "sds")
    assert torch.allclose(gradient, (1 - ABAR[t]).view(-1, 1, 1, 1) * (predicted - noise), atol=1e-3)


def test_following_sds_reaches_the_mode():
    """SDS seeks the mode (Poole et al. 2022, section 3): for a Gaussian that is its mean."""
    g = torch.Generator().manual_seed(0)
    z = torch.randn(1, 1, 8, 8, generator=g).requires_grad_()
    optimiser = torch.optim.Adam([z], lr=0.05)
    for _ in range(400):
        t = torch.randint(20, 980, (1,), generator=g)
        noise = torch.randn(z.shape, generator=g)
        noisy = add_noise(z.detach(), noise, ABAR, t)
        clean = clean_latents(noisy, gaussian_noise(0.5)(noisy, t), ABAR, t)
        z.grad = sds_gradient(z.detach(), clean, t, ABAR, "sds")
        optimiser.step()
    assert abs(float(z.detach().mean()) - MEAN) < 0.1
    assert float(z.detach().std()) < 0.3


def test_the_upper_timestep_falls_over_the_stage():
    stage = CoarseConfig(t_min=0.02, t_max_start=0.98, t_max_end=0.3, t_window=1.0)
    g = torch.Generator().manual_seed(0)
    early = annealed_timesteps(4000, 0.0, stage, 1000, g)
    late = annealed_timesteps(4000, 1.0, stage, 1000, g)
    assert 20 <= int(early.min()) and 950 < int(early.max()) <= 980
    assert 20 <= int(late.min()) and 280 < int(late.max()) <= 300


def test_a_window_keeps_timesteps_near_the_upper_end():
    stage = CoarseConfig(t_min=0.02, t_max_start=0.9, t_max_end=0.1, t_window=0.2)
    g = torch.Generator().manual_seed(0)
    early, late = (annealed_timesteps(4000, progress, stage, 1000, g) for progress in (0.0, 1.0))
    assert 700 <= int(early.min()) and int(early.max()) <= 900
    assert 20 <= int(late.min()) < 30  # the lowest timestep holds where the window would go below it


@pytest.fixture(scope="module")
def backbone() -> LatentDiffusion:
    return LatentDiffusion(random_prior("tiny"))


def guide(backbone: LatentDiffusion, **settings: float) -> ScoreDistillation:
    config = GuidanceConfig(**settings)  # type: ignore[arg-type]
    return ScoreDistillation(backbone, "an elf", config, CoarseConfig(denoise_steps=1), seed=5)


@pytest.mark.parametrize("weights", [{"latent_weight": 1.0, "image_weight": 0.0}, {"latent_weight": 0.0}])
def test_guidance_gives_a_gradient_to_the_picture(backbone: LatentDiffusion, weights: dict[str, float]):
    cameras = framed([0.0, 180.0], 0.0, 1.0, height=32, width=32)
    rgb = torch.full((2, 32, 32, 3), 0.5, requires_grad=True)
    rendering = Rendering(rgb, torch.ones(2, 32, 32, 1))
    loss, record = guide(backbone, **weights)(rendering, cameras, 0.5, torch.Generator().manual_seed(0))
    loss.backward()
    assert rgb.grad is not None and float(rgb.grad.abs().sum()) > 0
    assert 0 < record.timestep < 1 and record.seconds > 0


def test_from_near_hair_under_a_hat_is_left_out(backbone: LatentDiffusion, monkeypatch: pytest.MonkeyPatch):
    said: list[str] = []
    monkeypatch.setattr(backbone, "embed", lambda texts: said.extend(texts) or torch.zeros(len(texts), 4, 8))
    guidance = ScoreDistillation(backbone, "an elf in a beanie", GuidanceConfig(), CoarseConfig())
    guidance.texts(framed([0.0, 0.0], 0.0, [0.42, 1.05], height=32, width=32))
    assert ["hair" in text for text in said if "elf" in text] == [False, True]


def test_the_common_part_of_the_noise_is_the_same_in_all_views_and_steps(backbone: LatentDiffusion):
    latents = torch.zeros(4, 3, 2, 2)
    g = torch.Generator().manual_seed(0)
    all_common = guide(backbone, common_noise=1.0)
    first, second = all_common._noise(latents, g), all_common._noise(latents, g)
    assert torch.equal(first, second) and torch.equal(first[0], first[3])
    fresh = guide(backbone, common_noise=0.0)
    assert not torch.equal(fresh._noise(latents, g), fresh._noise(latents, g))


def test_mixed_noise_has_unit_variance(backbone: LatentDiffusion):
    noise = guide(backbone, common_noise=0.5)._noise(torch.zeros(64, 8, 16, 16), torch.Generator().manual_seed(0))
    assert abs(float(noise.var()) - 1) < 0.05


def test_a_control_that_the_prior_lacks_is_named(backbone: LatentDiffusion):
    size = backbone.prior.latent_size
    z = torch.zeros(1, backbone.prior.unet.config.in_channels, size, size)
    control = Control(torch.ones(1, 8, 8, 3), torch.tensor([True]))
    with pytest.raises(ValueError, match="has no ControlNet 'depth'"):
        backbone.predict_noise(z, torch.tensor([3]), backbone.embed(["an elf"]), {"depth": control})


def test_the_asked_picture_has_its_colours_on_top_of_the_rendering_or_as_they_were_drawn():
    generator = torch.Generator().manual_seed(0)
    rgb, wanted, present = (0.3 + 0.3 * torch.rand(2, 4, 4, 3, generator=generator) for _ in range(3))
    plain = asked_picture(rgb, wanted, present)
    torch.testing.assert_close(plain, (rgb + wanted - present).clamp(0, 1))
    # Grey wanted, and present as the decoder makes it, without the specks of the rendering.
    grey = torch.full_like(rgb, 0.5)
    specks = grey + torch.tensor([0.1, -0.05, -0.05]) * torch.tensor([1.0, -1.0]).repeat(8).view(4, 4, 1)
    assert (asked_picture(specks, grey, grey) - grey).abs().max() > 0.09
    torch.testing.assert_close(asked_picture(specks, grey, grey, drawn_colours=True), grey)
    # Brightness still goes on top of what is rendered.
    brighter = asked_picture(rgb * 0.5, grey, grey, drawn_colours=True)
    torch.testing.assert_close(brighter.mean(-1), (rgb * 0.5).mean(-1))


def test_a_moustache_that_nobody_asked_for_is_kept_away_where_a_face_is_seen(
    backbone: LatentDiffusion, monkeypatch: pytest.MonkeyPatch
):
    said: list[list[str]] = []
    monkeypatch.setattr(backbone, "embed", lambda texts: said.append(texts) or torch.zeros(len(texts), 4, 8))
    cameras = framed([0.0, 90.0, 180.0], 0.0, 1.0, height=32, width=32)
    for prompt, config, given, expected in (
        ("a man", GuidanceConfig(), "", ["a moustache", "a moustache", ""]),
        ("a man", GuidanceConfig(), "a hat", ["a moustache, a hat", "a moustache, a hat", "a hat"]),
        ("a man with a beard", GuidanceConfig(), "", ["", "", ""]),
        ("a man", GuidanceConfig(complete_prompt=False), "", ["", "", ""]),
        ("a man", GuidanceConfig(keep_off=False), "", ["", "", ""]),
    ):
        ScoreDistillation(backbone, prompt, config, CoarseConfig(), negative_prompt=given).texts(cameras)
        assert said[-1] == expected
