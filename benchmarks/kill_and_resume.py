"""SIGKILL at three random moments of a run and `headsculpt resume`, against an undisturbed run.

    python benchmarks/kill_and_resume.py [--seed 0] [KEY=VALUE ...]

Prints whether the avatar folders are the same, bit for bit; exit status 1 where they are not.
"""

from __future__ import annotations

import argparse
import filecmp
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROMPT = "an old man with a white beard and round glasses"


def headsculpt(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "headsculpt", *arguments], stdout=subprocess.DEVNULL)


def main() -> int:
    parser = argparse.ArgumentParser(description="Kill a run three times, resume it, compare.")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--preset", default="draft")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    given = parser.parse_args()
    moments = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as scratch:
        whole, cut = Path(scratch) / "whole", Path(scratch) / "cut"
        begin = ["generate", PROMPT, *given.settings, "--preset", given.preset, "--out"]
        started = time.monotonic()
        if status := headsculpt(*begin, str(whole)).wait():
            return status
        seconds = time.monotonic() - started
        command = [*begin, str(cut)]
        for at in sorted(moments.uniform(0.15, 0.9) for _ in range(3)):
            process = headsculpt(*command)
            wait = at * seconds / 2
            try:
                process.wait(wait)
                print("the run ended before it could be killed")
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                log = cut / "progress.jsonl"
                steps = len(log.read_text().splitlines()) if log.exists() else 0
                print(f"killed {wait:.0f} s after its start, {steps} steps logged", flush=True)
            if (cut / "config.yaml").exists():
                command = ["resume", str(cut)]
        if status := headsculpt(*command).wait():
            return status
        names = sorted(p.name for p in (whole / "avatar").iterdir())
        _, different, missing = filecmp.cmpfiles(whole / "avatar", cut / "avatar", names, shallow=False)
        print("bit-identical" if not different and not missing else f"different: {different} missing: {missing}")
        return 1 if different or missing else 0


if __name__ == "__main__":
    sys.exit(main())
