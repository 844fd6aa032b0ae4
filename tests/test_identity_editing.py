"""Identity-aware editing: the blend of A.10, what sees what, and the mask; on predictions that are known."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from headsculpt.cameras import Cameras, framed
from headsculpt.config import CoarseConfig, EditConfig, GuidanceConfig
from headsculpt.guidance.backbone import Control, LatentDiffusion
from headsculpt.guidance.identity_editing import EditDistillation
from headsculpt.guidance.score_distillation import ScoreDistillation
from headsculpt.priors import mini
from headsculpt.priors.catalogue import random_prior
from headsculpt.rendering import Rendering

SOURCE = 0.25  # grey of the source's picture


@pytest.fixture(scope="module")
def backbone() -> LatentDiffusion:
    return LatentDiffusion(random_prior("tiny", controls=("instruction",)))


def grey(cameras: Cameras, background: Tensor) -> Tensor:
    return torch.full((len(cameras), cameras.height, cameras.width, 3), SOURCE)


def guide(backbone: LatentDiffusion, *, instructed: bool = True, scale: float = 3.0, weights=(0.0, 1.0), **edit):
    config = GuidanceConfig(latent_weight=weights[0], image_weight=weights[1], common_noise=0.0)
    base = ScoreDistillation(backbone, "an elf in a hat", config, CoarseConfig(guidance_scale=scale, denoise_steps=1))
    return EditDistillation(
        base, "an elf", EditConfig(instruction="add a hat", **edit), grey, instructed=instructed
    )


def views(count: int = 2) -> Cameras:
    return framed([0.0, 180.0][:count], 0.0, 1.0, height=32, width=32)


def known(values: dict[str, Tensor | float], asked: list[str] | None = None):
    """Predictions that are constants, by the name of the text."""

    def predict(noisy: Tensor, timesteps: Tensor, texts: Sequence[str]) -> tuple[Tensor, ...]:
        if asked is not None:
            asked.extend(texts)
        return tuple(torch.as_tensor(values[text]).expand_as(noisy).clone() for text in texts)

    return predict


def rendering(value: float = 0.5, size: int = 32) -> Rendering:
    rgb = torch.full((2, size, size, 3), value, requires_grad=True)
    return Rendering(rgb, torch.ones(2, size, size, 1), background=torch.ones(2, 3))


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0, 1.5])
@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_the_blend_is_the_papers_and_its_extremes_ask_for_no_more_than_they_need(backbone, strength, share):
    e = {"instruction": 4.0, "target": 8.0, "source": 1.0, "none": 0.5}
    asked: list[str] = []
    editing = guide(backbone, strength=strength, target_share=share)
    noisy, t = torch.zeros(1, 2, 4, 4), torch.tensor([500])
    got = editing.blended(known(e, asked), noisy, t)
    hat = {name: e["none"] + 3.0 * (value - e["none"]) for name, value in e.items()}
    wanted = strength * ((1 - share) * hat["instruction"] + share * hat["target"]) + (1 - strength) * hat["source"]
    assert torch.allclose(got, torch.full_like(got, wanted), atol=1e-4)
    needed = {"instruction": strength * (1 - share), "target": strength * share, "source": 1 - strength}
    assert set(asked) == {"none", *(name for name, weight in needed.items() if weight)}


def test_without_instruction_controlnet_the_target_prompt_alone_is_read(backbone):
    editing = guide(backbone, instructed=False, target_share=0.0)
    assert editing.edited_texts == {"target": 1.0}


def test_the_description_names_the_view_and_the_instruction_does_not(backbone, monkeypatch):
    seen: list[str] = []
    embed = backbone.embed
    monkeypatch.setattr(backbone, "embed", lambda texts: (seen.extend(texts), embed(texts))[1])
    guide(backbone).states(views())
    assert "add a hat" in seen and not any("add a hat" in text for text in seen if text != "add a hat")
    fronts = [text for text in seen if text.endswith(", front view")]
    backs = [text for text in seen if text.endswith(", back view")]
    # Both descriptions are completed alike, so that an edit changes nothing that neither names.
    assert any("hat" in text for text in backs) and any("hat" not in text for text in fronts)
    assert all("elf" in text for text in fronts + backs)


def test_every_prediction_sees_the_reference_if_there_is_a_controlnet_for_it(backbone, monkeypatch):
    passed: list[dict] = []
    monkeypatch.setattr(EditDistillation, "strongest", lambda self: 1.0)
    whole = backbone.predict_noise

    def spy(latents, timesteps, text, controls=None):
        passed.append(controls)
        return whole(latents, timesteps, text, controls)

    monkeypatch.setattr(backbone, "predict_noise", spy)
    guide(backbone)(rendering(), views(), 0.5, torch.Generator().manual_seed(0))
    # Three texts for the mask, four for the blend, two views each; every row sees the source.
    assert [control["instruction"].image.shape[0] for control in passed] == [6, 8]
    assert all(bool(c["instruction"].rows.all()) and float(c["instruction"].image.mean()) == SOURCE for c in passed)
    passed.clear()
    with_landmarks = guide(backbone, mask=False)
    with_landmarks.base.stage = CoarseConfig(landmarks_guided=True, denoise_steps=1)
    with_landmarks.base.landmarks = lambda cameras: Control(torch.ones(2, 32, 32, 3), torch.tensor([True, False]))
    monkeypatch.setattr(
        backbone, "predict_noise", lambda z, t, text, controls=None: (passed.append(controls), torch.zeros_like(z))[1]
    )
    with_landmarks(rendering(), views(), 0.5, torch.Generator().manual_seed(0))
    # "none" once more for the view that has landmarks, without them.
    assert passed[0]["landmarks"].rows.tolist() == [True, False] * 4 + [False]
    passed.clear()
    monkeypatch.setattr(backbone, "predict_noise", spy)
    guide(backbone, instructed=False, mask=False)(rendering(), views(), 0.5, torch.Generator().manual_seed(0))
    assert passed == [{}]


def test_the_mask_is_where_the_two_predictions_differ(backbone, monkeypatch):
    monkeypatch.setattr(EditDistillation, "strongest", lambda self: 1.0)
    kept = torch.zeros(1, mini.LATENT_CHANNELS, 16, 16)
    changed = torch.zeros(1, mini.LATENT_CHANNELS, 16, 16)
    changed[..., 2:5, 6:10] = 2.0
    values = {"instruction": changed, "target": changed, "source": 0.0, "none": 0.0}
    mask = guide(backbone).mask(known(values), kept, torch.zeros_like(kept))
    assert mask.shape == (1, 1, 16, 16)
    assert (mask[..., 2:5, 6:10] == 1).all()
    assert not mask[..., 9:, :].any() and not mask[..., :3].any()
    agreed = guide(backbone).mask(known({**values, "source": changed}), kept, torch.zeros_like(kept))
    assert not agreed.any()


def test_the_mask_is_relative_to_the_edits_strongest_difference_in_any_view(backbone, monkeypatch):
    kept, weak = torch.zeros(1, mini.LATENT_CHANNELS, 16, 16), torch.zeros(1, mini.LATENT_CHANNELS, 16, 16)
    weak[..., 4:12, 4:12] = 0.01
    values = {"instruction": weak, "target": weak, "source": 0.0, "none": 0.0}
    editing = guide(backbone, mask_threshold=0.5)
    monkeypatch.setattr(editing, "predictions", lambda cameras, progress, shown: known(values))
    assert editing.mask(known(values), kept, torch.zeros_like(kept)).max() == 1
    hidden = {**values, "instruction": 0.1 * weak, "target": 0.1 * weak}  # another view hardly shows it
    assert not editing.mask(known(hidden), kept, torch.zeros_like(kept)).any()
    assert guide(backbone).strongest() == guide(backbone).strongest() > 0


def test_outside_the_mask_the_source_is_the_target_and_without_mask_it_is_not(backbone, monkeypatch):
    monkeypatch.setattr(EditDistillation, "mask", lambda self, predict, kept, noise: torch.zeros_like(kept[:, :1]))
    shown = rendering(0.5)
    loss, record = guide(backbone)(shown, views(), 0.5, torch.Generator().manual_seed(0))
    assert record.target is not None and torch.allclose(record.target, torch.tensor(SOURCE), atol=1e-5)
    loss.backward()
    assert shown.rgb.grad is not None and bool((shown.rgb.grad >= 0).all()) and float(shown.rgb.grad.sum()) > 0
    free, record = guide(backbone, mask=False)(rendering(0.5), views(), 0.5, torch.Generator().manual_seed(0))
    assert record.target is not None and float((record.target - SOURCE).abs().max()) > 0.02


def test_the_last_look_leaves_what_the_mask_misses_in_the_place_as_it_is(backbone, monkeypatch):
    monkeypatch.setattr(EditDistillation, "mask", lambda self, predict, kept, noise: torch.zeros_like(kept[:, :1]))
    editing = guide(backbone)
    left = torch.zeros(2, 1, 32, 32)
    left[..., :16] = 1
    editing.place, editing.holds = lambda cameras: left, False
    _, record = editing(rendering(0.5), views(), 0.5, torch.Generator().manual_seed(0))
    assert record.target is not None
    middle, edge = record.target.shape[2] // 2, record.target.shape[2] // 16
    assert torch.allclose(record.target[:, :, : middle - edge], torch.tensor(0.5), atol=1e-5)
    assert torch.allclose(record.target[:, :, middle + edge :], torch.tensor(SOURCE), atol=1e-5)
    editing.holds = True
    _, record = editing(rendering(0.5), views(), 0.5, torch.Generator().manual_seed(0))
    assert record.target is not None and torch.allclose(record.target, torch.tensor(SOURCE), atol=1e-5)


def test_what_is_drawn_inside_the_mask_sees_the_noised_source_outside_at_every_step(backbone, monkeypatch):
    half = torch.zeros(2, 1, 16, 16)
    half[..., :8] = 1
    monkeypatch.setattr(EditDistillation, "mask", lambda self, predict, kept, noise: half)
    editing, seen = guide(backbone), []
    editing.base.stage = CoarseConfig(denoise_steps=4)
    predict = backbone.predict_noise
    monkeypatch.setattr(
        backbone, "predict_noise", lambda z, t, *rest: (seen.append((z[:2], t[:2])), predict(z, t, *rest))[1]
    )
    editing(rendering(0.9), views(), 0.5, torch.Generator().manual_seed(0))
    kept = backbone.encode(grey(views(), torch.ones(2, 3)))
    noises = []
    for z, t in seen:
        a = backbone.alphas_cumprod[t].view(-1, 1, 1, 1)
        noises.append(((z - a.sqrt() * kept) / (1 - a).sqrt())[..., 8:])
    assert len(noises) == 4 and all(torch.allclose(noises[0], noise, atol=1e-3) for noise in noises)
    assert 0.8 < float(noises[0].std()) < 1.2


def test_the_latent_term_goes_to_the_source_too(backbone, monkeypatch):
    monkeypatch.setattr(EditDistillation, "mask", lambda self, predict, kept, noise: torch.zeros_like(kept[:, :1]))
    same = rendering(SOURCE)
    loss, _ = guide(backbone, weights=(1.0, 0.0))(same, views(), 0.5, torch.Generator().manual_seed(0))
    assert float(loss.detach()) < 1e-6
    loss, _ = guide(backbone, weights=(1.0, 0.0))(rendering(0.9), views(), 0.5, torch.Generator().manual_seed(0))
    assert float(loss.detach()) > 1e-3


def test_it_repeats_from_its_generator(backbone):
    losses = [
        guide(backbone)(rendering(), views(), 0.5, torch.Generator().manual_seed(3))[0].item() for _ in range(2)
    ]
    assert losses[0] == losses[1]


def test_a_rendering_without_background_is_refused(backbone):
    bare = rendering()
    bare.background = None
    with pytest.raises(ValueError, match="set rendering.background"):
        guide(backbone)(bare, views(), 0.5, torch.Generator())
