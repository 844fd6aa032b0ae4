"""The loop's own time a step over the diffusion model's, from a run's progress.jsonl.

    python benchmarks/loop_share.py runs/old-man

The loop's own time is everything but guidance: rendering, all gradients, regularisers, bookkeeping.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

SKIPPED = 5  # first steps of a stage: kernels compile and caches fill


def main() -> int:
    if len(sys.argv) != 2:
        print("usage: python benchmarks/loop_share.py RUN", file=sys.stderr)
        return 2
    lines = [json.loads(line) for line in (Path(sys.argv[1]) / "progress.jsonl").read_text().splitlines()]
    worst = 0.0
    for stage in dict.fromkeys(line["stage"] for line in lines):
        steps = [line for line in lines if line["stage"] == stage and "guidance_seconds" in line][SKIPPED:]
        if not steps:
            continue
        guidance = statistics.median(line["guidance_seconds"] for line in steps)
        own = statistics.median(line["seconds"] - line["guidance_seconds"] for line in steps)
        ratio = own / guidance
        print(f"{stage}: {own * 1e3:.0f} ms of its own, {guidance * 1e3:.0f} ms of guidance, ratio {ratio:.2f}")
        worst = max(worst, ratio)
    return 0 if 0 < worst < 1 else 1


if __name__ == "__main__":
    sys.exit(main())
