"""The mini UNet in float32, channels-first and -last, and in bfloat16 on this processor, and what a run takes.

    python benchmarks/precision.py [--batch 2]
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from headsculpt.devices import describe_device, fast_bfloat16
from headsculpt.priors.catalogue import load_prior


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    unet = load_prior("mini", controls=()).unet
    size, width = unet.config.sample_size, unet.config.cross_attention_dim
    latents = torch.randn(given.batch, unet.config.in_channels, size, size)
    timesteps, text = torch.full((given.batch,), 500), torch.randn(given.batch, 64, width)

    def seconds(bfloat16: bool) -> float:
        taken = []
        for _ in range(given.repeats + 1):
            started = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                unet(latents, timesteps, text)
            taken.append(time.perf_counter() - started)
        return statistics.median(taken[1:])

    first = seconds(False)
    unet.to(memory_format=torch.channels_last)  # as runs have it on a CPU
    full, half = seconds(False), seconds(True)
    print(f"{describe_device(torch.device('cpu'))}, {given.batch} pictures")
    print(f"float32, channels first  {1000 * first:8.1f} ms")
    print(f"float32   {1000 * full:8.1f} ms, {first / full:.2f} times as fast")
    print(f"bfloat16  {1000 * half:8.1f} ms, {full / half:.2f} times as fast")
    print(f"a run takes {'bfloat16' if fast_bfloat16('cpu') else 'float32'}")


if __name__ == "__main__":
    main()
