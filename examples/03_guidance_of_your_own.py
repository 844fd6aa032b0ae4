"""Guidance is any function from a rendering to a loss; nothing is registered anywhere.

This one knows no words: it wants the face warm and the back of the head cold.

    python examples/03_guidance_of_your_own.py two-faced.png
"""

from __future__ import annotations

import sys

import torch

from headsculpt import Avatar


def warm_face_cold_back(rendering, cameras, progress, generator):  # noqa: ANN001, ANN201
    warm = torch.tensor([0.95, 0.55, 0.30], device=rendering.rgb.device)
    cold = torch.tensor([0.25, 0.45, 0.90], device=rendering.rgb.device)
    facing = torch.cos(torch.deg2rad(cameras.azimuth_deg))[:, None, None, None]  # 1 in front, -1 behind
    wanted = cold + (warm - cold) * (0.5 + 0.5 * facing)
    seen = rendering.opacity.detach()
    return (seen * (rendering.rgb - wanted).square()).mean() * len(cameras)


def main(path: str = "two-faced.png", *overrides: str) -> None:
    avatar = Avatar.from_prompt(
        "no words are read here",
        preset="draft",
        guidance=warm_face_cold_back,
        overrides=overrides or ["coarse.steps=80", "fine.steps=40"],
    )
    avatar.render(azimuth_deg=60, elevation_deg=5, resolution=384).save(path)
    print(f"wrote {path}")


if __name__ == "__main__":
    main(*sys.argv[1:])
