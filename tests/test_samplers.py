"""Laws of the samplers, on a diffusion model that is known in closed form: a Gaussian."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from headsculpt.config import CoarseConfig, GuidanceConfig
from headsculpt.guidance.samplers import (
    LAST_SHARE,
    LAST_TIMESTEP,
    SAMPLERS,
    clean_latents,
    dpm_clean_latents,
)
from headsculpt.guidance.score_distillation import named_score

ABAR = torch.cos((torch.arange(1000) + 1) / 1001 * torch.pi / 2).square()
MEAN, SPREAD = 2.0, 0.5


def predict(z: Tensor, t: Tensor) -> Tensor:
    """E[eps | z_t] where clean latents are N(MEAN, SPREAD^2)."""
    abar = ABAR[t].view(-1, 1, 1, 1)
    return (1 - abar).sqrt() * (z - abar.sqrt() * MEAN) / (abar * SPREAD**2 + 1 - abar)


def noisy(rows: int = 1, size: int = 16) -> Tensor:
    return torch.randn(rows, 1, size, size, generator=torch.Generator().manual_seed(0))


def exact_down_to(z: Tensor, t: Tensor, last: Tensor) -> Tensor:
    """The clean estimate where the probability flow of the Gaussian has come down to ``last``."""
    a, b = (ABAR[i].view(-1, 1, 1, 1) for i in (t, last))
    spread = ((b * SPREAD**2 + 1 - b) / (a * SPREAD**2 + 1 - a)).sqrt()
    there = b.sqrt() * MEAN + spread * (z - a.sqrt() * MEAN)
    return clean_latents(there, predict(there, last), ABAR, last)


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_many_steps_sample_the_distribution_where_one_step_gives_its_mean(sampler):
    z, t = noisy(size=64), torch.tensor([999])
    one, many = (sampler(predict, z, t, ABAR, steps) for steps in (1, 50))
    assert abs(float(many.mean()) - MEAN) < 0.1
    assert float(one.std()) < 0.1 < 0.35 < float(many.std())


def test_dpm_converges_in_second_order():
    z, t = noisy(), torch.tensor([930])
    exact = exact_down_to(z, t, torch.tensor([int(LAST_TIMESTEP * 1000)]))
    errors = [float((dpm_clean_latents(predict, z, t, ABAR, n + 1) - exact).abs().max()) for n in (4, 8, 16)]
    assert errors[0] > 3 * errors[1] > 9 * errors[2]


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_each_row_goes_down_from_its_own_timestep(sampler):
    z, t = noisy(4), torch.tensor([980, 500, 40, 1])
    together = sampler(predict, z, t, ABAR, 4)
    alone = [sampler(predict, z[i : i + 1], t[i : i + 1], ABAR, 4) for i in range(4)]
    assert torch.isfinite(together).all()
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)


def test_dpm_asks_last_where_it_says():
    asked = []

    def watched(z: Tensor, t: Tensor) -> Tensor:
        asked.append(t.tolist())
        return predict(z, t)

    dpm_clean_latents(watched, noisy(2), torch.tensor([980, 200]), ABAR, 4)
    assert len(asked) == 4 and asked[0] == [980, 200]
    assert asked[-1] == pytest.approx([1000 * LAST_TIMESTEP, 200 * LAST_SHARE], abs=1)
    assert all(a > b for row in zip(*asked, strict=True) for a, b in zip(row, row[1:], strict=False))


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_no_step_is_refused(sampler):
    with pytest.raises(ValueError, match="steps must be at least 1; got 0"):
        sampler(predict, noisy(), torch.tensor([500]), ABAR, 0)


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_setting_names_the_sampler(name):
    score = named_score(GuidanceConfig(sampler=name), CoarseConfig())
    assert score.keywords["sampler"] is SAMPLERS[name]
