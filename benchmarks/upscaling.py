"""What the upscaler makes of decoded pictures, against interpolation.

    python benchmarks/upscaling.py [--prior mini] [--figures 16]

Portraits of the world at twice the prior's size, four of each figure, are halved and passed through the autoencoder;
what comes back is made as large again. Printed are how strong edges are (the root mean square of differences between
neighbouring pixels) for interpolation, the upscaler, and the portraits themselves, and PSNR against these.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
import torch
import torch.nn.functional as F

from headsculpt.guidance.backbone import LatentDiffusion
from headsculpt.priors.catalogue import load_prior
from headsculpt.priors.dataset import render_portraits
from headsculpt.priors.upscaler import FACTOR
from headsculpt.synthesis.captions import sample_attributes


@torch.no_grad()
def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--prior", default="mini")
    parser.add_argument("--figures", type=int, default=16)
    given = parser.parse_args(arguments)
    prior = load_prior(given.prior)
    if prior.upscaler is None:
        print(f"error: prior {given.prior!r} has no upscaler.safetensors", file=sys.stderr)
        return 1
    backbone, rng = LatentDiffusion(prior, autocast=True), np.random.default_rng(5)
    edges = {name: 0.0 for name in ("interpolation", "upscaler", "portraits")}
    errors = {name: 0.0 for name in ("interpolation", "upscaler")}
    for _ in range(given.figures):
        images, _, _ = render_portraits(sample_attributes(rng), rng, FACTOR * backbone.image_size)
        portraits = torch.from_numpy(images).float() / 255
        soft = backbone.decode(backbone.encode(F.avg_pool2d(portraits.permute(0, 3, 1, 2), FACTOR).permute(0, 2, 3, 1)))
        plain = F.interpolate(soft.permute(0, 3, 1, 2), scale_factor=FACTOR, mode="bicubic").permute(0, 2, 3, 1)
        shown = {"interpolation": plain, "upscaler": prior.upscaler.upscaled(soft), "portraits": portraits}
        for name, pictures in shown.items():
            edges[name] += float((pictures[:, :, 1:] - pictures[:, :, :-1]).square().mean()) / given.figures
            if name in errors:
                errors[name] += float((pictures - portraits).square().mean()) / given.figures
    for name, edge in edges.items():
        psnr = f"{-10 * np.log10(errors[name]):6.2f} dB" if name in errors else ""
        print(f"{name:14} edges {np.sqrt(edge):.4f}  {psnr}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
