"""A first state for the autoencoder that already passes colours.

From random weights the mini VAE reconstructed grey-brown shapes for thousands of steps before it found
colour. Here it starts as a plain 16x16 mean of the image: three channels carry red, green and blue through
every layer, residual branches begin at zero (Zhang et al. 2019, "Fixup initialization"), and training only
has to add detail. Group normalisation would take away what is the same everywhere, so each colour travels
with its negative and with two constants that dominate the group's variance; SiLU(x) - SiLU(-x) = x then
makes the layer linear in them. Only first weights are set: the class and its config stay standard.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

CONSTANT = 2.0
CARRIED = 12  # channels: (+colour, -colour, +constant, -constant) for red, green and blue
LATENT_LOG_VARIANCE = -6.0  # nearly noiseless: a fresh posterior would drown what is encoded


@torch.no_grad()
def start_as_downsampling(vae: Any) -> None:
    """Sets the weights of a fresh ``AutoencoderKL`` in place.

    Args:
        vae: with at least 12 channels at every level, groups of 4 channels or more at the finest level, at
            least 3 latent channels, and no attention.
    """
    convolutions: list[tuple[str, Any]] = [
        (name, module) for name, module in vae.named_modules() if isinstance(module, nn.Conv2d)
    ]
    for name, module in convolutions:
        nn.init.zeros_(module.bias)
        if name.endswith("conv2"):
            nn.init.zeros_(module.weight)
        elif name.endswith("conv_shortcut") or ".upsamplers." in name:
            _carry(module)
        elif ".downsamplers." in name:
            _carry(module)
            for channel in range(CARRIED):
                module.weight[channel, channel] = 0
                module.weight[channel, channel, :2, :2] = 0.25
    _begin(vae.encoder.conv_in)
    _begin(vae.decoder.conv_in)
    latents = vae.config.latent_channels
    _end(vae.encoder.conv_out, 1.0)
    vae.encoder.conv_out.weight[latents:] = 0
    _end(vae.decoder.conv_out, 1.5)
    for convolution in (vae.quant_conv, vae.post_quant_conv):
        convolution.weight.copy_(torch.eye(len(convolution.weight))[:, :, None, None])
    vae.quant_conv.bias[latents:] = LATENT_LOG_VARIANCE


def _carry(convolution: Any) -> None:
    """The first channels pass through; the rest stay random."""
    middle = convolution.kernel_size[0] // 2
    convolution.weight[:CARRIED] = 0
    for channel in range(CARRIED):
        convolution.weight[channel, channel, middle, middle] = 1


def _begin(convolution: Any) -> None:
    """Colours, their negatives, and constants, from the first three channels."""
    convolution.weight[:CARRIED] = 0
    for colour in range(3):
        row = 4 * colour
        convolution.weight[row, colour, 1, 1] = 1
        convolution.weight[row + 1, colour, 1, 1] = -1
        convolution.bias[row + 2] = CONSTANT
        convolution.bias[row + 3] = -CONSTANT


def _end(convolution: Any, gain: float) -> None:
    """Colours back from the pairs behind normalisation and SiLU."""
    for colour in range(3):
        row = 4 * colour
        convolution.weight[colour] = 0
        convolution.weight[colour, row, 1, 1] = gain
        convolution.weight[colour, row + 1, 1, 1] = -gain
