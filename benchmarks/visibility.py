"""Triangle visibility against Embree's primary rays, and how its cost grows.

    python benchmarks/visibility.py [--threads 2] [--repeats 7]

Embree is timed on ray casting alone (its tree is built beforehand); ours on the whole call.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable

import numpy as np
import torch

from headsculpt.cameras import orbit
from headsculpt.representations.rasterise import visibility


def bumpy_sphere(triangles: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A closed lumpy surface of about this many triangles, on a latitude-longitude grid."""
    rows = max(4, round((triangles / 4) ** 0.5))
    columns = 2 * rows
    latitude = np.linspace(0.02, np.pi - 0.02, rows + 1)[:, None]
    longitude = np.linspace(0, 2 * np.pi, columns, endpoint=False)[None]
    radius = 0.8 + 0.05 * np.sin(7 * longitude) * np.sin(9 * latitude)
    points = radius[..., None] * np.stack(
        [
            np.sin(latitude) * np.sin(longitude),
            np.cos(latitude) + 0 * longitude,
            np.sin(latitude) * np.cos(longitude),
        ],
        -1,
    )
    i, j = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    a, b = i * columns + j, i * columns + (j + 1) % columns
    c, d = a + columns, b + columns
    faces = np.concatenate([np.stack([a, c, b], -1).reshape(-1, 3), np.stack([b, c, d], -1).reshape(-1, 3)])
    return torch.as_tensor(points.reshape(-1, 3), dtype=torch.float32), torch.as_tensor(
        faces, dtype=torch.int32
    )


def median_ms(call: Callable[[], object], repeats: int) -> float:
    call()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return 1e3 * sorted(times)[len(times) // 2]


def embree_ms(vertices: torch.Tensor, faces: torch.Tensor, resolution: int, repeats: int) -> float | None:
    try:
        from embreex import rtcore_scene
        from embreex.mesh_construction import TriangleMesh
    except ImportError:
        return None
    scene = rtcore_scene.EmbreeScene()
    TriangleMesh(scene, vertices.numpy(), faces.numpy())
    origins, directions = orbit([20.0], [10.0], height=resolution, width=resolution).rays()
    o = np.ascontiguousarray(origins.reshape(-1, 3).numpy())
    d = np.ascontiguousarray(directions.reshape(-1, 3).numpy())
    return median_ms(lambda: scene.run(o, d, query="INTERSECT"), repeats)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    def ours_ms(triangles: int, resolution: int, cull_back: bool = False) -> tuple[float, int]:
        vertices, faces = bumpy_sphere(triangles)
        clip = orbit([20.0], [10.0], height=resolution, width=resolution).project(vertices)
        call = lambda: visibility(clip, faces, resolution, resolution, cull_back=cull_back)  # noqa: E731
        return median_ms(call, arguments.repeats), faces.shape[0]

    ours, count = ours_ms(80_000, 512)
    print(f"threads {arguments.threads}; median of {arguments.repeats} calls")
    culled, _ = ours_ms(80_000, 512, True)
    print(f"{count} triangles at 512x512: {ours:.2f} ms; {culled:.2f} ms with cull_back")
    embree = embree_ms(*bumpy_sphere(80_000), 512, arguments.repeats)
    if embree is None:
        print("Embree: not installed (pip install embreex)")
    else:
        print(
            f"Embree primary rays, same view:  {embree:.2f} ms   ratio {embree / ours:.1f}x, {embree / culled:.1f}x"
        )
    print("\ntriangles  pixels      ms   ns/(triangle+pixel)")
    rows = [
        (5_000, 512),
        (20_000, 512),
        (80_000, 512),
        (500_000, 512),
        (80_000, 128),
        (80_000, 256),
        (80_000, 1024),
    ]
    for triangles, resolution in rows:
        ms, count = ours_ms(triangles, resolution)
        per_item = 1e6 * ms / (count + resolution**2)
        print(f"{count:9d}  {resolution:4d}^2  {ms:7.2f}  {per_item:6.1f}")
    print(f"\npeak memory of the process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    main()
