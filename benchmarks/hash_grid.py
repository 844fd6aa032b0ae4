"""Hash grid, forward and backward, all back ends side by side in one process.

    python benchmarks/hash_grid.py --points 131072 --levels 16 --log2-table 16

Prints milliseconds (the best of several runs), the processor's own milliseconds (all threads together, which
other programs disturb less), the ratio of the first to eager torch, and the peak memory that a run added.
Points are spread evenly over the cube, which is the worst case for caches.
"""

from __future__ import annotations

import argparse
import ctypes
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch

from headsculpt.representations.encodings import HashGrid, hash_grid_reference


def resident_mb() -> float:
    """Memory of this process, MB; 0 where the system does not say."""
    status = Path("/proc/self/statm")
    return int(status.read_text().split()[1]) * 4096 / 1e6 if status.exists() else 0.0


def peak_mb(run: Callable[[], object]) -> float:
    """Largest memory during ``run`` over that before it, MB, sampled each millisecond."""
    if sys.platform == "linux":  # else freed memory of earlier runs is used again and nothing is added
        ctypes.CDLL(None).malloc_trim(0)
    before, highest, done = resident_mb(), [0.0], threading.Event()

    def watch() -> None:
        while not done.is_set():
            highest[0] = max(highest[0], resident_mb())
            time.sleep(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    run()
    done.set()
    watcher.join()
    return max(0.0, highest[0] - before)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--points", type=int, default=131072)
    parser.add_argument("--levels", type=int, default=16)
    parser.add_argument("--finest", type=int, default=512)
    parser.add_argument("--log2-table", type=int, default=16)
    parser.add_argument("--interpolation", choices=["linear", "smoothstep"], default="linear")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--no-compile", action="store_true", help="leave torch.compile out (it takes a minute)"
    )
    options = parser.parse_args()
    device = torch.device(options.device)

    grids = {
        name: HashGrid(
            levels=options.levels,
            finest_resolution=options.finest,
            log2_table=options.log2_table,
            interpolation=options.interpolation,
            backend=name,
        ).to(device)
        for name in ("torch", "numba", "tinycudann")
    }
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(options.points, 3, generator=generator).to(device)
    upstream = torch.randn(options.points, grids["torch"].width, generator=generator).to(device)

    def both_ways(encode: Callable[[torch.Tensor], torch.Tensor], table: torch.Tensor) -> Callable[[], None]:
        def run() -> None:
            table.grad = None
            encode(points).backward(upstream)
            if device.type == "cuda":
                torch.cuda.synchronize()

        return run

    reference = grids["torch"]
    candidates = {"torch, eager": both_ways(reference, reference.table)}
    if not options.no_compile:
        compiled = torch.compile(hash_grid_reference, dynamic=False)
        candidates["torch.compile"] = both_ways(
            lambda x: compiled(x, reference.table, reference.geometry, reference.active_levels),
            reference.table,
        )
    if device.type == "cpu":
        candidates["numba"] = both_ways(grids["numba"], grids["numba"].table)
    else:
        candidates["tiny-cuda-nn"] = both_ways(grids["tinycudann"], grids["tinycudann"].table)

    print(
        f"{options.points} points, {options.levels} levels, 2^{options.log2_table} entries, {options.device},"
    )
    print(f"{torch.get_num_threads()} threads, {options.interpolation} interpolation, forward + backward\n")
    print(f"{'back end':<16}{'ms':>10}{'CPU ms':>10}{'times faster':>16}{'added peak MB':>16}")
    eager = None
    for name, run in candidates.items():
        try:
            run()  # compiles
            run()
        except Exception as error:  # noqa: BLE001  (a back end that is missing is a line of the table)
            print(f"{name:<16}  not measured: {str(error).splitlines()[0]}")
            continue
        times, busy = [], []
        for _ in range(options.repeats):
            started, worked = time.perf_counter(), time.process_time()
            run()
            times.append(time.perf_counter() - started)
            busy.append(time.process_time() - worked)
        best = min(times) * 1e3
        eager = eager or best
        print(f"{name:<16}{best:>10.1f}{min(busy) * 1e3:>10.1f}{eager / best:>15.1f}x{peak_mb(run):>16.0f}")


if __name__ == "__main__":
    main()
