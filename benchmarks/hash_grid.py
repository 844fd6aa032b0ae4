"""Hash grid, forward and backward, all back ends side by side in one process.

    python benchmarks/hash_grid.py --points 131072 --levels 16 --log2-table 16

Prints milliseconds (the best of several runs in several rounds, in which the back ends take turns, so that what else
the machine does meets them alike), the processor's own milliseconds, the ratio of the first to eager torch, and the
peak memory that a run added. Points are spread evenly over the cube, which is the worst case for caches. The gradient
that goes back lies in memory as the features do, which is how a linear layer behind them gives it back.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from measuring import Measured, measured

from headsculpt.representations.encodings import HashGrid, hash_grid_reference


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
    parser.add_argument("--rounds", type=int, default=4)
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
        for name in ("torch", "numba", "triton", "tinycudann")
    }
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(options.points, 3, generator=generator).to(device)
    upstream = torch.randn(options.points, grids["torch"].width, generator=generator).to(device)

    def both_ways(encode: Callable[[torch.Tensor], torch.Tensor], table: torch.Tensor) -> Callable[[], None]:
        given: list[torch.Tensor] = []

        def run() -> None:
            table.grad = None
            out = encode(points)
            if not given:
                given.append(torch.empty_like(out).copy_(upstream))
            out.backward(given[0])

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
        candidates["triton"] = both_ways(grids["triton"], grids["triton"].table)
        candidates["tiny-cuda-nn"] = both_ways(grids["tinycudann"], grids["tinycudann"].table)

    print(
        f"{options.points} points, {options.levels} levels, 2^{options.log2_table} entries, {options.device},"
    )
    print(f"{torch.get_num_threads()} threads, {options.interpolation} interpolation, forward + backward\n")
    print(f"{'back end':<16}{'ms':>10}{'CPU ms':>10}{'times faster':>16}{'added peak MB':>16}")
    found: dict[str, Measured] = {}
    for turn in range(options.rounds):
        for name, run in candidates.items():
            if turn and name not in found:
                continue
            try:
                now = measured(run, device, options.repeats)
            except Exception as error:  # noqa: BLE001  (a back end that is missing is a line of the table)
                print(f"{name:<16}  not measured: {str(error).splitlines()[0]}")
                continue
            found[name] = min(now, found.get(name, now), key=lambda measured: measured.ms)
    eager = found["torch, eager"].ms
    for name, best in found.items():
        print(f"{name:<16}{best.ms:>10.1f}{best.cpu_ms:>10.1f}{eager / best.ms:>15.1f}x{best.peak_mb:>16.0f}")


if __name__ == "__main__":
    main()
