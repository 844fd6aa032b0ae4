"""The critic: who gets which gradient, and that a blurred picture becomes sharp by it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from headsculpt.priors.critic import Critic, criticised


def stripes(count: int = 4, size: int = 32) -> Tensor:
    """``(count, 3, size, size)`` in [-1, 1]: stripes of several colours and phases."""
    g = torch.Generator().manual_seed(0)
    phase, colour = torch.rand(count, 1, 1, 1, generator=g), torch.rand(count, 3, 1, 1, generator=g)
    wave = torch.sign(torch.sin(torch.arange(size) * 0.8 + 6 * phase))
    return (wave * (0.3 + 0.7 * colour)).expand(count, 3, size, size).contiguous()


def blurred(pictures: Tensor) -> Tensor:
    return F.avg_pool2d(F.pad(pictures, (2, 2, 2, 2), mode="replicate"), 5, 1)


def test_the_pictures_get_the_reconstruction_and_both_measures_by_their_weights():
    torch.manual_seed(0)
    critic, portraits = Critic(), stripes()
    pictures = blurred(portraits).requires_grad_()

    def gradient(features: float, patches: float) -> Tensor:
        error = (pictures - portraits).square().mean()
        loss, _ = criticised(critic, pictures, portraits, error, features_weight=features, patches_weight=patches)
        return torch.autograd.grad(loss, pictures)[0]

    plain = gradient(0, 0)
    assert torch.allclose(plain, 2 * (pictures.detach() - portraits) / portraits.numel())
    for weights in ((0.7, 0.0), (0.0, 0.3)):
        pull = gradient(*weights) - plain
        assert torch.isclose(pull.norm(), sum(weights) * plain.norm(), rtol=1e-4)
    both = gradient(0.7, 0.3)
    assert torch.allclose(both, gradient(0.7, 0) + gradient(0, 0.3) - plain, atol=1e-8)


def test_the_critic_learns_from_its_own_loss_alone():
    torch.manual_seed(0)
    critic, portraits = Critic(), stripes()
    pictures = blurred(portraits).requires_grad_()
    loss, figures = criticised(critic, pictures, portraits, (pictures - portraits).square().mean())
    got = torch.autograd.grad(loss, list(critic.parameters()))
    own = F.relu(1 - critic(portraits)[0] + critic(pictures.detach())[0]).mean()
    wanted = torch.autograd.grad(own, list(critic.parameters()))
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(got, wanted, strict=True))
    assert figures["critic"] == float(own.detach()) and figures["matching"] > 0


def test_a_perfect_picture_is_left_alone_by_pixels_and_features():
    torch.manual_seed(0)
    critic, portraits = Critic(), stripes()
    pictures = portraits.clone().requires_grad_()
    loss, figures = criticised(critic, pictures, portraits, (pictures - portraits).abs().mean())
    assert figures["matching"] == 0 and figures["patches"] == figures["critic"] == 1
    assert torch.isfinite(torch.autograd.grad(loss, pictures)[0]).all()


def test_what_cannot_be_told_comes_out_sharp_with_a_critic_and_as_the_mean_without():
    """Stripes in one of two phases, and an answer that is not told which: the mean of both is grey."""

    def answer(with_critic: bool) -> Tensor:
        torch.manual_seed(0)
        wave = torch.sign(torch.sin(torch.arange(32) * 0.8)).expand(1, 3, 32, 32)
        portraits = torch.cat([wave, -wave])
        picture, critic = torch.nn.Parameter(0.01 * torch.randn(1, 3, 32, 32)), Critic()
        optimiser = torch.optim.Adam([{"params": [picture], "lr": 0.02}, {"params": critic.parameters(), "lr": 1e-3}])
        for _ in range(60):
            pictures = picture.expand(2, -1, -1, -1) + 0
            loss = (pictures - portraits).square().mean()
            if with_critic:
                loss, _ = criticised(critic, pictures, portraits, loss)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        return picture.detach()

    assert answer(False).abs().mean() < 0.1
    assert answer(True).abs().mean() > 0.2
