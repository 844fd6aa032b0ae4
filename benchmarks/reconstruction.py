"""Held-out PSNR and surface error of NeRF, NeuS and DMTet on meshes whose shape is known.

    python benchmarks/reconstruction.py ../shared/meshes [--quick] [--device cpu] [--light studio] [--kinds neus]

A row "texture" is the texture stage on the true mesh: what its colours alone can reach.

Each mesh is drawn by our own rasteriser from 32 views at 256x256, with a procedural colour under
`headsculpt.rendering.shading`, and found again from the pictures alone; every eighth picture is held out.
Surface error: distances of 100k random points of each surface to the other one, the mean of the two means,
over the bounding diagonal. "seen" counts only those points of the true surface that some view shows, since
parts inside an object (Suzanne's eyes go on behind her face) are in no picture.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from headsculpt.cameras import Cameras, orbit
from headsculpt.export.view import render_mesh
from headsculpt.fitting import REPRESENTATIONS, FitSettings, fit
from headsculpt.meshes import Mesh, topology

NAMES = ("igea.ply", "suzanne.obj", "spot.obj")
RADIUS = 0.95  # of the ball that the mesh is scaled to
QUICK = FitSettings(
    rays=1024,
    samples=64,
    step=0.025,
    hash_levels=10,
    hash_finest=256,
    hash_log2_table=15,
    hidden=32,
    occupancy_resolution=48,
    hull_resolution=48,
    tet_resolution=48,
)


def read_mesh(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Vertices ``(V, 3)`` float64 and faces ``(F, 3)``, corners at one place joined."""
    if path.read_bytes()[:400].find(b"element tristrips") >= 0:
        vertices, faces = read_triangle_strips(path)
    else:
        import trimesh

        loaded = trimesh.load(path, force="mesh", process=False)
        vertices, faces = np.asarray(loaded.vertices, np.float64), np.asarray(loaded.faces, np.int64)
    vertices, joined = np.unique(vertices, axis=0, return_inverse=True)
    faces = joined.reshape(-1)[faces]
    distinct = (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])
    return vertices, faces[distinct]


def read_triangle_strips(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """A binary PLY of float positions and one list of triangle strips, which trimesh does not read."""
    content = path.read_bytes()
    end = content.index(b"end_header\n") + len(b"end_header\n")
    lines = content[:end].decode("ascii").splitlines()
    if "format binary_little_endian 1.0" not in lines or "element tristrips 1" not in lines:
        raise ValueError(f"{path}: expected a little-endian PLY with one list of triangle strips")
    elements = [line.split() for line in lines if line.startswith("element")]
    vertex = next(int(count) for _, name, count in elements if name == "vertex")
    first = next(i for i, line in enumerate(lines) if line.startswith("element vertex"))
    properties = [line for line in lines[first + 1 :] if line.startswith("property")]
    columns = sum(not line.startswith("property list") for line in properties)
    points = np.frombuffer(content, "<f4", vertex * columns, end).reshape(vertex, columns)[:, :3]
    length = int(np.frombuffer(content, "<i4", 1, end + 4 * vertex * columns)[0])
    strip = np.frombuffer(content, "<i4", length, end + 4 * vertex * columns + 4).astype(np.int64)
    triples = np.stack([strip[:-2], strip[1:-1], strip[2:]], -1)
    # A strip ends with -1; every other triangle of it is wound the other way.
    position = np.arange(length)
    begin = np.maximum.accumulate(np.where(strip < 0, position + 1, 0))
    turned = (position[:-2] - begin[:-2]) % 2 == 1
    triples[turned] = triples[turned][:, [1, 0, 2]]
    return points.astype(np.float64), triples[(triples >= 0).all(1)]


def reference(path: Path) -> Mesh:
    """The mesh, scaled to the ball, upright, cut fine enough for its colours, with those colours."""
    import trimesh

    vertices, faces = read_mesh(path)
    vertices = vertices - 0.5 * (vertices.min(0) + vertices.max(0))
    vertices *= RADIUS / np.linalg.norm(vertices, axis=1).max()
    while len(vertices) < 20_000:
        vertices, faces = trimesh.remesh.subdivide(vertices, faces)
    points = torch.from_numpy(np.asarray(vertices, np.float32))
    mesh = Mesh(points, torch.from_numpy(np.asarray(faces, np.int64)), colours(points))
    return mesh.checked(str(path))


def colours(points: Tensor) -> Tensor:
    """Smooth stripes with a fifth of finer grain: nothing repeats between neighbouring surfaces."""
    waves = torch.sin(7 * points + 2 * points.roll(1, -1)) + 0.25 * torch.sin(31 * points.roll(2, -1))
    return (0.55 + 0.28 * waves).clamp(0.05, 0.95)


def views(count: int, size: int) -> Cameras:
    """Cameras evenly over the sphere between 60 degrees below and above the horizon."""
    number = torch.arange(count)
    height = ((number + 0.5) / count * 2 - 1) * 0.87
    elevation = torch.rad2deg(torch.asin(height))
    return orbit(137.508 * number, elevation, distance=4.0, fov_y_deg=28.0, height=size, width=size)


def photographs(mesh: Mesh, cameras: Cameras) -> Tensor:
    """``(N, H, W, 4)`` pictures with straight opacity."""
    rendering = render_mesh(mesh, cameras, background=(0.0, 0.0, 0.0))
    straight = rendering.rgb / rendering.opacity.clamp_min(1e-3)
    return torch.cat([straight, rendering.opacity], -1).clamp(0, 1)


def sample(mesh: Mesh, count: int, seed: int) -> np.ndarray:
    """``(count, 3)`` points, uniform over the surface."""
    import trimesh

    points, _ = trimesh.sample.sample_surface(mesh.to_trimesh(), count, seed=seed)
    return np.asarray(points, np.float32)


def distances(points: np.ndarray, mesh: Mesh, *, dense: int = 200_000, near: int = 12) -> np.ndarray:
    """From points to a surface: exact to the triangles of the nearest centroids and random surface points."""
    import trimesh
    from scipy.spatial import cKDTree

    solid = mesh.to_trimesh()
    cloud, owner = trimesh.sample.sample_surface(solid, dense, seed=1)  # for triangles larger than the rest
    cloud = np.concatenate([solid.triangles_center, cloud])
    owner = np.concatenate([np.arange(len(solid.faces)), owner])
    _, index = cKDTree(cloud).query(points, k=near)
    best = np.full(len(points), np.inf)
    for k in range(near):
        triangles = np.asarray(solid.triangles)[owner[index[:, k]]]
        foot = trimesh.triangles.closest_point(triangles, points)
        best = np.minimum(best, np.linalg.norm(foot - points, axis=1))
    return best


@torch.no_grad()
def seen(points: np.ndarray, mesh: Mesh, cameras: Cameras) -> np.ndarray:
    """Which points of the mesh some view shows, by its depth at 512 pixels; ``(P,)`` bool."""
    from headsculpt.representations.rasterise import interpolate, rasterise

    found = torch.zeros(len(points), dtype=torch.bool)
    where = torch.from_numpy(points)
    for index in range(len(cameras)):
        view = cameras[index : index + 1].resized(512, 512)
        clip = view.project(mesh.vertices)
        raster = rasterise(clip, mesh.faces, 512, 512)
        depth = interpolate(clip[0, :, 3:], mesh.faces, raster.triangle_id, raster.weights)[0, ..., 0]
        column, row = view.pixels(where)[0].floor().long().clamp(0, 511).T
        found |= view.project(where)[0, :, 3] < depth[row, column] + 0.01
    return found.numpy()


def surface_error(found: Mesh, truth: Mesh, cameras: Cameras, count: int) -> tuple[float, float]:
    """Two-way distance over the truth's bounding diagonal, in per cent: of what is seen, and of all."""
    diagonal = float((truth.vertices.amax(0) - truth.vertices.amin(0)).norm())
    there = distances(sample(found, count, 2), truth).mean()
    points = sample(truth, count, 3)
    back = distances(points, found)
    shown = back[seen(points, truth, cameras)].mean()
    return float(50 * (there + shown) / diagonal), float(50 * (there + back.mean()) / diagonal)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("meshes", type=Path, nargs="?", default=Path("../shared/meshes"), help="folder or a file")
    parser.add_argument("--quick", action="store_true", help="16 views at 64x64, 300 steps, small fields")
    parser.add_argument("--steps", type=int, help="1200 by default")
    parser.add_argument("--light", choices=("baked", "studio"), default="baked")
    parser.add_argument("--kinds", nargs="+", choices=REPRESENTATIONS, default=("nerf", "neus", "dmtet"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    given = arguments.meshes
    paths = [given] if given.is_file() else [p for p in (given / name for name in NAMES) if p.is_file()]
    if not paths:
        parser.error(f"{given} holds none of {', '.join(NAMES)}")
    count, size, steps, points = (16, 64, 300, 20_000) if arguments.quick else (32, 256, 1200, 100_000)
    settings = QUICK if arguments.quick else FitSettings()
    steps = arguments.steps or steps
    print(f"{count} views at {size}x{size}, every 8th held out; {steps} steps; light {arguments.light}; "
          f"{arguments.device}, {torch.get_num_threads()} threads\n")  # fmt: skip
    columns = ("PSNR", "error, seen", "error, all")
    print(f"{'mesh':<10}{'':<8}" + "".join(f"{c:>13}" for c in columns) + "  watertight  seconds", flush=True)
    for path in paths:
        truth = reference(path)
        cameras = views(count, size)
        images = photographs(truth, cameras).to(arguments.device)
        for kind in arguments.kinds:
            begin = time.perf_counter()
            found = fit(
                images,
                cameras.to(arguments.device),
                representation=kind,
                steps=steps,
                seed=arguments.seed,
                light=arguments.light,
                mesh=truth if kind == "texture" else None,
                settings=settings,
            )
            seconds = time.perf_counter() - begin
            mesh = Mesh(found.mesh.vertices.cpu(), found.mesh.faces.cpu())
            shown, everything = surface_error(mesh, truth, cameras, points)
            figures = f"{found.psnr[kind]:>10.2f} dB{shown:>11.3f} %{everything:>11.3f} %"
            closed = "yes" if topology(mesh.faces).closed else "no"
            print(f"{path.stem:<10}{kind:<8}{figures}  {closed:>10}  {seconds:>7.0f}", flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"\npeak memory of the process: {peak:.2f} GB")
    if torch.device(arguments.device).type == "cuda":
        print(f"peak memory of the device:  {torch.cuda.max_memory_allocated() / 2**30:.2f} GB")


if __name__ == "__main__":
    main()
