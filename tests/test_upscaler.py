"""The upscaler: what it is before and after training, and its file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from headsculpt.priors.catalogue import load_prior
from headsculpt.priors.upscaler import FILE, Upscaler


def test_a_fresh_one_interpolates():
    pictures = torch.rand(2, 3, 12, 8)
    wanted = F.interpolate(pictures, scale_factor=2, mode="bilinear")
    torch.testing.assert_close(Upscaler(channels=4, blocks=1)(pictures), wanted)


def test_pictures_stay_within_their_range():
    torch.manual_seed(0)
    upscaler = Upscaler(channels=4, blocks=1)
    torch.nn.init.normal_(upscaler.conv_out.weight)
    larger = upscaler.upscaled(torch.rand(1, 8, 8, 3))
    assert larger.shape == (1, 16, 16, 3) and larger.min() == 0 and larger.max() == 1 and not larger.requires_grad


def test_it_is_the_same_from_its_file(tmp_path: Path):
    torch.manual_seed(0)
    upscaler = Upscaler(channels=4, blocks=3).half().float()
    torch.nn.init.ones_(upscaler.conv_out.weight)
    upscaler.save(tmp_path)
    again = Upscaler.load(tmp_path)
    assert again is not None and not again.training
    pictures = torch.rand(1, 8, 8, 3)
    assert torch.equal(again.upscaled(pictures), upscaler.upscaled(pictures))
    assert Upscaler.load(tmp_path / "none") is None


@pytest.mark.parametrize("tensors", [{"weight": torch.ones(3)}, {"conv_in.bias": torch.ones(4)}])
def test_another_file_is_refused(tensors: dict[str, torch.Tensor], tmp_path: Path):
    save_file(tensors, tmp_path / FILE)
    with pytest.raises(ValueError, match="upscaler.safetensors holds no upscaler of headsculpt; fetch or export"):
        Upscaler.load(tmp_path)


def test_the_shipped_one_makes_decoded_portraits_more_like_large_ones():
    """The portrait world at 256x256, through the shipped autoencoder at 128x128 and back."""
    import numpy as np

    from headsculpt.priors.dataset import render_portraits
    from headsculpt.priors.sampling import decode
    from headsculpt.synthesis.captions import sample_attributes

    prior = load_prior("mini")
    assert prior.upscaler is not None
    rng = np.random.default_rng(5)
    found: dict[str, list[torch.Tensor]] = {"portrait": [], "interpolated": [], "upscaled": []}
    errors: dict[str, list[torch.Tensor]] = {"interpolated": [], "upscaled": []}
    for _ in range(3):
        images = torch.from_numpy(render_portraits(sample_attributes(rng), rng, 256)[0]).float() / 255
        small = F.avg_pool2d(images.permute(0, 3, 1, 2), 2)
        with torch.no_grad():
            soft = decode(prior.vae, prior.vae.encode(2 * small - 1).latent_dist.mean)  # its latents are unit-scaled
        plain = F.interpolate(soft.permute(0, 3, 1, 2), scale_factor=2, mode="bicubic").permute(0, 2, 3, 1)
        shown = {"portrait": images, "interpolated": plain, "upscaled": prior.upscaler.upscaled(soft)}
        for name, pictures in shown.items():
            found[name].append((pictures[:, :, 1:] - pictures[:, :, :-1]).square().mean())
            if name in errors:
                errors[name].append((pictures - images).square().mean())
    edges = {name: float(torch.stack(values).mean().sqrt()) for name, values in found.items()}
    # More than half of the way from interpolation's edges to a portrait's, and nearer to it in all.
    assert edges["upscaled"] > 0.5 * (edges["interpolated"] + edges["portrait"])
    assert torch.stack(errors["upscaled"]).mean() < torch.stack(errors["interpolated"]).mean()
