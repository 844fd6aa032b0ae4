"""Where a sculpting step's time goes, with a random-weight prior of Stable Diffusion 1.5's shape.

    python benchmarks/step_breakdown.py --device cuda [--batch 4] [--packages] [key=value ...]

The step is the loop's own (headsculpt.sculpting), cut at the image: the prior's time is the guidance, forward
and back to the image; the loop's is everything else. `--packages` draws with nvdiffrast and encodes with
tiny-cuda-nn, to be compared with a run without. Settings are those of --preset sd15 at 512x512, batch 4;
key=value changes them. `--prior tiny` with small sizes shows on any machine that it runs, and measures nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import resource
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from measuring import wait_for

from headsculpt.config import load_config
from headsculpt.priors.catalogue import random_prior
from headsculpt.representations.encodings import HashGrid
from headsculpt.sculpting import diffusion_guides, learning_rate_factor, starting_head
from headsculpt.sculpting_stages import (
    CoarseStage,
    FineStage,
    drop_bad_gradients,
    new_dmtet,
    new_nerf,
    random_background,
)

OWN = ("occupancy and cameras", "render", "regularise", "render, backward", "optimise")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--prior", choices=("sd15", "mini", "tiny"), default="sd15")
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), help="float16 on CUDA by default")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--size", type=int, default=512, help="pixels of the image, in both stages")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--stages", nargs="+", choices=("coarse", "fine"), default=["coarse", "fine"])
    parser.add_argument("--packages", action="store_true", help="nvdiffrast and tiny-cuda-nn instead of ours")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    options = parser.parse_args()
    device = torch.device(options.device)
    keys = (f"render_size={options.size}", f"batch={options.batch}")
    sizes = [f"{stage}.{key}" for stage in ("coarse", "fine") for key in keys]
    config = load_config("sd15", [*sizes, *options.overrides], prompt="an old man with a white beard")
    dtype = getattr(torch, options.dtype or ("float16" if device.type == "cuda" else "float32"))
    prior = random_prior(options.prior, device=device, dtype=dtype, controls=tuple(config.prior.controls))
    vertices, faces, contours = starting_head(config, None)
    guides = diffusion_guides(config, prior, vertices, faces, contours)
    nerf = new_nerf(config, vertices, faces).to(device)
    who = "nvdiffrast and tiny-cuda-nn" if options.packages else "our own back ends"
    print(f"{options.device}, random prior {options.prior} in {dtype}, {who}")
    print(f"{options.size}x{options.size}, batch {options.batch}, {options.steps} steps")
    for name in options.stages:
        if name == "coarse":
            stage: CoarseStage | FineStage = CoarseStage(nerf, config)
        else:
            stage = FineStage(new_dmtet(config, nerf).to(device), config)
        if options.packages:
            for module in stage.module.modules():
                if isinstance(module, HashGrid):
                    module.backend = "tinycudann"
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        report(name, run(stage, guides[name], options, device), device)


def run(stage, guide, options, device: torch.device) -> dict[str, list[float]]:
    """Milliseconds of each phase of each step; the first three steps compile and are left out."""
    phases: dict[str, list[float]] = defaultdict(list)

    @contextmanager
    def phase(name: str) -> Iterator[None]:
        wait_for(device)
        started = time.perf_counter()
        yield
        wait_for(device)
        phases[name].append(1e3 * (time.perf_counter() - started))

    generator, optimiser = torch.Generator().manual_seed(0), stage.optimiser()
    rates = [group["lr"] for group in optimiser.param_groups]
    drawing = {"backend": "nvdiffrast"} if options.packages and stage.name == "fine" else {}
    for step in range(options.steps + 3):
        # The loop's first steps, with its warm-up: without it, a random prior tears the surface into a foam of eight
        # times as many triangles.
        for group, rate in zip(optimiser.param_groups, rates, strict=True):
            group["lr"] = rate * learning_rate_factor(step / stage.steps)
        with phase(OWN[0]):
            stage.before_step(step, generator)
            cameras = stage.cameras(0.5, generator).to(device)
            background = random_background(len(cameras), generator).to(device)
        with phase(OWN[1]):
            rendering = stage.module.render(cameras, background=background, generator=generator, **drawing)
        image = rendering.rgb.detach().requires_grad_()
        with phase("prior"):
            loss, _ = guide(dataclasses.replace(rendering, rgb=image), cameras, 0.5, generator)
        with phase("prior, backward"):
            loss.backward()
        with phase(OWN[2]):
            extra = stage.regularisation(0.5)
        with phase(OWN[3]):
            optimiser.zero_grad(set_to_none=True)
            roots = [rendering.rgb] + [extra] * extra.requires_grad  # a constant where all weights are 0
            torch.autograd.backward(roots, [image.grad, None][: len(roots)])
        with phase(OWN[4]):
            drop_bad_gradients(stage.module)
            optimiser.step()
    return {name: times[3:] for name, times in phases.items()}


def report(name: str, phases: dict[str, list[float]], device: torch.device) -> None:
    medians = {phase: statistics.median(times) for phase, times in phases.items()}
    own = sum(medians[phase] for phase in OWN)
    prior = medians["prior"] + medians["prior, backward"]
    print(f"\n{name:<26}{'ms':>9}{'of the step':>14}")
    for phase, ms in medians.items():
        print(f"  {phase:<24}{ms:>9.1f}{100 * ms / (own + prior):>12.0f} %")
    print(f"  the loop's own over the prior's: {own / prior:.3f} (wanted: under 0.15 on a GPU)")
    print(f"  peak memory of the process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GB")
    if device.type == "cuda":
        print(f"  peak memory of the device:  {torch.cuda.max_memory_allocated(device) / 2**30:.2f} GB")


if __name__ == "__main__":
    main()
