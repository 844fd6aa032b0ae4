"""How near the loop's samplers come to many steps, for how many predictions.

    python benchmarks/samplers.py [--prior mini] [--pictures 16]

Portraits of the world are noised to three timesteps and denoised under captions of other portraits, as the loop does
with renders that are not yet what the prompt says. PSNR of the decoded pictures against 40 steps of DPM-Solver++.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
import torch

from headsculpt.guidance.backbone import LatentDiffusion
from headsculpt.guidance.classifier_free import classifier_free_guidance
from headsculpt.guidance.samplers import SAMPLERS, add_noise
from headsculpt.priors.catalogue import load_prior
from headsculpt.priors.dataset import render_portraits
from headsculpt.synthesis.captions import caption, sample_attributes, view_phrase

TIMESTEPS = (930, 700, 400)
TRIED = (("ddim", (4, 6, 8, 12)), ("dpm", (3, 4, 5, 6)))
REFERENCE_STEPS, GUIDANCE_SCALE = 40, 3.0


@torch.no_grad()
def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--prior", default="mini")
    parser.add_argument("--pictures", type=int, default=16)
    parser.add_argument("--reference-steps", type=int, default=REFERENCE_STEPS)
    given = parser.parse_args(arguments)

    backbone = LatentDiffusion(load_prior(given.prior), autocast=True)
    rng, pictures, texts = np.random.default_rng(5), [], []
    for _ in range(given.pictures):
        images, views, _ = render_portraits(sample_attributes(rng), rng, backbone.image_size)
        pictures.append(torch.from_numpy(images[0]))
        said = caption(sample_attributes(rng), rng).text.rstrip(".")
        texts.append(f"{said}, {view_phrase(float(views[0, 0]))}")
    latents = backbone.encode(torch.stack(pictures).float() / 255)
    both = torch.cat([backbone.embed(texts), backbone.embed([""] * len(texts))])
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))

    def guided(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        found = backbone.predict_noise(torch.cat([z, z]), torch.cat([t, t]), both)
        return classifier_free_guidance(*found.chunk(2), GUIDANCE_SCALE)

    print(f"PSNR, dB, of {given.pictures} pictures from timesteps " + ", ".join(map(str, TIMESTEPS)))
    steps = {(name, n): [] for name, counts in TRIED for n in counts}
    for timestep in TIMESTEPS:
        at = torch.full((len(latents),), timestep)
        noisy = add_noise(latents, noise, backbone.alphas_cumprod, at)

        def sampled(name: str, n: int, noisy: torch.Tensor = noisy, at: torch.Tensor = at) -> torch.Tensor:
            return backbone.decode(SAMPLERS[name](guided, noisy, at, backbone.alphas_cumprod, n))

        reference = sampled("dpm", given.reference_steps)
        for (name, n), row in steps.items():
            row.append(float(-10 * (sampled(name, n) - reference).square().mean().log10()))
    for (name, n), row in steps.items():
        print(f"{name:5} {n:3} steps  " + "  ".join(f"{value:5.1f}" for value in row))
    return 0


if __name__ == "__main__":
    sys.exit(main())
