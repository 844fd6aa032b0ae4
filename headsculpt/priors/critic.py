"""A critic for networks that make pictures sharp: it tells theirs from portraits, and so says what they lack.

Squared and absolute errors are least for the mean of all that a latent may stand for, and that mean is blurred. Latent
diffusion (Rombach et al. 2022, arXiv 2112.10752) has a critic of patches (Isola et al. 2017, arXiv 1611.07004) beside
them. This one compares each picture with the portrait that it should be (the hinge of Jolicoeur-Martineau 2018, arXiv
1807.00734, in pairs), and how far its own features of the two are apart is a second measure (feature matching, Salimans
et al. 2016, arXiv 1606.03498), so no network that was trained on photographs is needed. Size and weights are ours.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

CHANNELS = (32, 64, 128, 128)  # the last layer keeps the size, those before halve it


class Critic(nn.Module):
    """How much like portraits the patches of pictures are."""

    def __init__(self) -> None:
        super().__init__()
        layers, width = [], 3
        for number, channels in enumerate(CHANNELS):
            kernel, stride = (3, 1) if number == len(CHANNELS) - 1 else (4, 2)
            norm = nn.GroupNorm(8, channels) if number else nn.Identity()
            layers.append(nn.Sequential(nn.Conv2d(width, channels, kernel, stride, 1), norm, nn.LeakyReLU(0.2)))
            width = channels
        self.layers = nn.ModuleList(layers)
        self.conv_out = nn.Conv2d(width, 1, 3, 1, 1)

    def forward(self, pictures: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Scores ``(B, 1, H/8, W/8)``, higher for portraits, and the features of every layer.

        Args:
            pictures: ``(B, 3, H, W)`` in [-1, 1].
        """
        features = []
        for layer in self.layers:
            pictures = layer(pictures)
            features.append(pictures)
        return self.conv_out(pictures), features


def criticised(
    critic: Critic,
    pictures: Tensor,
    portraits: Tensor,
    reconstruction: Tensor,
    *,
    features_weight: float = 1.0,
    patches_weight: float = 0.5,
) -> tuple[Tensor, dict[str, float]]:
    """One loss for the decoder and for its critic, to be minimised by both at once.

    Each measure's gradient at the pictures is brought to its share of the norm of the reconstruction's (the adaptive
    weight of Esser et al. 2021, arXiv 2012.09841, at the pictures in place of the last layer), so a weight means the
    same however sure the critic is.

    Args:
        critic: learns to score the portraits higher than the pictures.
        pictures: ``(B, 3, H, W)`` in [-1, 1], as decoded, with gradient.
        portraits: ``(B, 3, H, W)`` in [-1, 1], what they should be.
        reconstruction: scalar, another loss of the pictures.
        features_weight, patches_weight: how strongly the critic's features, and its scores, pull at the pictures, as
            parts of the reconstruction's pull.

    Returns:
        the loss, and the two measures and the critic's own loss for the log.
    """
    fixed = {name: parameter.detach() for name, parameter in critic.named_parameters()}
    judged = pictures.detach().requires_grad_()
    with torch.no_grad():
        wanted_score, wanted = functional_call(critic, fixed, (portraits,))
    score, features = functional_call(critic, fixed, (judged,))
    matching = torch.stack([F.l1_loss(a, b) for a, b in zip(features, wanted, strict=True)]).sum()
    patches = F.relu(1 + wanted_score - score).mean()
    (gradient,) = torch.autograd.grad(reconstruction, pictures, retain_graph=True)
    norm = gradient.norm()
    for weight, measure in ((features_weight, matching), (patches_weight, patches)):
        (pull,) = torch.autograd.grad(measure, judged, retain_graph=True)
        gradient = gradient + weight * norm * pull / pull.norm().clamp_min(1e-12)
    own = F.relu(1 - critic(portraits)[0] + critic(pictures.detach())[0]).mean()
    # This is 0, and its gradient at the pictures is the one above.
    pulled = (gradient * (pictures - pictures.detach())).sum()
    figures = {"matching": matching, "patches": patches, "critic": own}
    return reconstruction.detach() + pulled + own, {name: float(value.detach()) for name, value in figures.items()}
