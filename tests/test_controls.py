"""Several controls at once: their residuals add up, each with its own rows and scale."""

from __future__ import annotations

import pytest
import torch

from headsculpt.config import CoarseConfig, GuidanceConfig
from headsculpt.guidance.backbone import Control, LatentDiffusion
from headsculpt.guidance.score_distillation import ScoreDistillation, predictor
from headsculpt.priors import mini
from headsculpt.priors.catalogue import random_prior
from headsculpt.priors.sampling import sample_latents


@pytest.fixture(scope="module")
def backbone() -> LatentDiffusion:
    """Two ControlNets whose closing layers, zero when fresh, have been moved."""
    prior = random_prior("tiny", controls=("landmarks", "instruction"))
    generator = torch.Generator().manual_seed(0)
    for net in prior.controlnets.values():
        for name, parameter in net.named_parameters():
            if name.startswith("controlnet_") and ("blocks" in name or "mid_block" in name or "conv_out" in name):
                parameter.data.normal_(0, 0.05, generator=generator)
    return LatentDiffusion(prior)


def residuals(backbone: LatentDiffusion, controls: dict[str, Control]) -> list[torch.Tensor] | None:
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(3, mini.LATENT_CHANNELS, 16, 16, generator=generator)
    text = backbone.embed(["an elf", "a man", ""])
    down, middle = backbone._control_residuals(latents, torch.tensor([10, 500, 900]), text, controls)
    return None if down is None else [*down, middle]


def control(seed: int, rows: tuple[bool, ...] = (True, True, True), scale: float = 1.0) -> Control:
    image = torch.rand(3, 128, 128, 3, generator=torch.Generator().manual_seed(seed))
    return Control(image, torch.tensor(rows), scale)


@torch.no_grad()
def test_two_controls_add_up(backbone: LatentDiffusion) -> None:
    first, second = control(2), control(3, (True, False, True))
    alone = [residuals(backbone, {"landmarks": first}), residuals(backbone, {"instruction": second})]
    both = residuals(backbone, {"landmarks": first, "instruction": second})
    for a, b, together in zip(*alone, both, strict=True):
        assert torch.allclose(a + b, together, atol=1e-5)
        assert b[1].abs().max() == 0 < b[0].abs().max()


@torch.no_grad()
def test_what_guidance_leaves_is_led_nowhere_where_landmarks_are_drawn(backbone: LatentDiffusion) -> None:
    z = torch.randn(3, mini.LATENT_CHANNELS, 16, 16, generator=torch.Generator().manual_seed(1))
    at, states = torch.tensor([300, 500, 700]), {name: backbone.embed([name] * 3) for name in ("text", "base")}
    image = torch.zeros(3, 128, 128, 3)
    image[:, 32:64, 32:64] = 1
    landmarks = Control(image, torch.tensor([True, False, True]))
    lines = landmarks.drawn((16, 16)) * landmarks.rows.view(-1, 1, 1, 1)
    for others in ({}, {"instruction": control(2)}):
        controls = {"landmarks": landmarks, **others}
        text, base = predictor(backbone, states, controls, {"text"})(z, at, ("text", "base"))
        led = {name: backbone.predict_noise(z, at, states[name], controls) for name in states}
        unled = backbone.predict_noise(z, at, states["base"], others)
        torch.testing.assert_close(text, led["text"], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(base, lines * unled + (1 - lines) * led["base"], atol=1e-5, rtol=1e-4)
        assert 0 < lines.mean() < 1 and (led["base"] - unled)[[0, 2]].abs().amax() > 1e-2


@torch.no_grad()
def test_each_has_its_own_scale(backbone: LatentDiffusion) -> None:
    full = residuals(backbone, {"landmarks": control(2), "instruction": control(3)})
    mixed = residuals(backbone, {"landmarks": control(2, scale=0.5), "instruction": control(3, scale=0.0)})
    plain = residuals(backbone, {"landmarks": control(2)})
    for f, m, p in zip(full, mixed, plain, strict=True):
        assert torch.allclose(m, 0.5 * p, atol=1e-5) and not torch.allclose(f, p)


@torch.no_grad()
def test_rows_without_any_control_do_not_pass_through_one(backbone: LatentDiffusion) -> None:
    assert residuals(backbone, {"landmarks": control(2, (False,) * 3), "instruction": control(3, (False,) * 3)}) is None


@torch.no_grad()
def test_guidance_points_at_landmarks_where_they_are_drawn(backbone: LatentDiffusion) -> None:
    image = torch.zeros(3, 128, 128, 3)
    image[:, 10, :64] = 1.0  # the second row of latents, left half
    states = {name: backbone.embed([text] * 3) for name, text in (("text", "an elf"), ("base", "a man"))}
    z = torch.randn(3, mini.LATENT_CHANNELS, 16, 16, generator=torch.Generator().manual_seed(5))
    at = torch.tensor([10, 500, 900])

    def asked(rows: tuple[bool, ...], guided: bool) -> tuple[torch.Tensor, torch.Tensor]:
        guide = ScoreDistillation(backbone, "an elf", GuidanceConfig(), CoarseConfig(landmarks_guided=guided))
        controls = {"landmarks": Control(image, torch.tensor(rows))}
        text, base = guide.predictions(states, controls)(z, at, ("text", "base"))
        return text, base

    some, none = (True, False, True), (False,) * 3
    published, guided, without = asked(some, False), asked(some, True), asked(none, True)
    torch.testing.assert_close(guided[0], published[0], atol=1e-5, rtol=1e-4)  # with its text a view sees them
    drawn = torch.zeros(3, 1, 16, 16)
    drawn[:, :, 1, :8] = 1
    torch.testing.assert_close(guided[1], drawn * without[1] + (1 - drawn) * published[1], atol=1e-5, rtol=1e-4)
    assert (guided[1] - published[1])[[0, 2], :, 1, :8].abs().max() > 1e-3


@torch.no_grad()
def test_samples_are_guided_by_their_control_or_only_see_it(backbone: LatentDiffusion) -> None:
    prior = backbone.prior
    text, empty = backbone.embed(["an elf", "a man"]), backbone.embed([""])
    maps = control(2).image[:2].movedim(3, 1)

    def drawn(guided: bool, scale: float, control_scale: float = 1.0) -> torch.Tensor:
        return sample_latents(
            prior.unet, prior.scheduler, text, empty, torch.Generator().manual_seed(1), steps=2,
            guidance_scale=scale, controlnet=prior.controlnets["landmarks"], condition=maps,
            control_scale=control_scale, control_guided=guided,
        )  # fmt: skip

    assert not torch.allclose(drawn(True, 4.0), drawn(False, 4.0), atol=1e-3)
    # Without guidance only the half with text counts, and without a control there is nothing to point at.
    torch.testing.assert_close(drawn(True, 1.0), drawn(False, 1.0), atol=2e-2, rtol=0)
    torch.testing.assert_close(drawn(True, 4.0, 0.0), drawn(False, 4.0, 0.0), atol=2e-2, rtol=0)
