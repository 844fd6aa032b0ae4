"""Portraits a second that the world renders on one core, building each figure included.

    python benchmarks/portraits.py [figures]
"""

from __future__ import annotations

import sys
import time

import numpy as np

from headsculpt.priors.dataset import render_portraits
from headsculpt.synthesis.captions import sample_attributes


def main() -> int:
    figures = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    rng = np.random.default_rng(0)
    for _ in range(3):  # kernels compile
        render_portraits(sample_attributes(rng), rng, 128)
    started, count = time.perf_counter(), 0
    for _ in range(figures):
        count += len(render_portraits(sample_attributes(rng), rng, 128)[0])
    print(f"{count / (time.perf_counter() - started):.0f} images/s at 128x128, wanted 40")
    return 0


if __name__ == "__main__":
    sys.exit(main())
