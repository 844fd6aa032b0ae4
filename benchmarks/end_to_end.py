"""Time and peak memory of `headsculpt generate`, from start to exit, as a user runs it.

    python benchmarks/end_to_end.py [draft mini]
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROMPT = "an old man with a white beard and round glasses"


def main() -> int:
    with tempfile.TemporaryDirectory() as scratch:
        for preset in sys.argv[1:] or ["draft", "mini"]:
            out = Path(scratch) / preset
            command = [sys.executable, "-m", "headsculpt", "generate", PROMPT, "--preset", preset, "--out", str(out)]
            started = time.perf_counter()
            done = subprocess.run(command, check=False, stdout=subprocess.DEVNULL)
            seconds = time.perf_counter() - started
            if done.returncode:
                return done.returncode
            disk = sum(p.stat().st_size for p in out.rglob("*") if p.is_file()) / 2**20
            peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20  # of the largest run so far
            print(f"{preset}: {seconds:.0f} s, peak {peak:.1f} GB, {disk:.0f} MB on disk", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
