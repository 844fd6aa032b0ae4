"""The gradient of a silhouette against finite differences: how far the outlines' area follows each parameter.

    python benchmarks/silhouette_gradient.py [--device cpu] [--backend auto]

For a lumpy closed surface in two views: the derivatives of the outline's area and first moments (where its
centre lies) by scale, by three shifts, three turns and three stretches, analytic and by central differences.
Errors are given over the norm of all derivatives of the column's kind. The last column is the area's alone under
shifts: what it gains on one side it loses on the other, so that the errors of both sides are set against little.
"""

from __future__ import annotations

import argparse

import torch
from measuring import measured
from torch import Tensor
from visibility import bumpy_sphere

from headsculpt.cameras import orbit
from headsculpt.meshes import topology
from headsculpt.representations.rasterise import antialias, visibility

KINDS = {"scale": slice(0, 1), "shift": slice(1, 4), "turn": slice(4, 7), "stretch": slice(7, 10)}
STEP = 0.03


def moved(vertices: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
    """Vertices under scale, shift, turn and stretch, all 0 for the identity; ``by (10,)``."""
    zero = torch.zeros_like(by[0])
    x, y, z = by[4:7]
    turn = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero]).view(3, 3)
    return (vertices * (1 + by[7:10])) @ torch.matrix_exp(turn).T * (1 + by[0]) + by[1:4]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--backend", default="auto", help="auto, or nvdiffrast for its visibility and antialiasing")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 256, 512])
    parser.add_argument("--triangles", type=int, nargs="+", default=[2_000, 20_000])
    options = parser.parse_args()
    device = torch.device(options.device)
    smoothing = "nvdiffrast" if options.backend == "nvdiffrast" else "auto"
    print(f"{options.device}, back end {options.backend}; wanted: every error under 2 %\n")
    heads = "".join(f"{kind:>10}" for kind in KINDS)
    print(f"{'triangles':>9}{'pixels':>9}{heads}{'ms':>9}{'added peak MB':>15}{'area by shift':>15}")
    for triangles in options.triangles:
        vertices, faces = (t.to(device) for t in bumpy_sphere(triangles))
        edges = topology(faces)
        for size in options.sizes:
            cameras = orbit([20.0, 75.0], [12.0, 40.0], target=(0.01, 0.02, 0.03), height=size, width=size).to(device)

            axis = (torch.arange(size, device=device) + 0.5) * 2 / size - 1

            def moments(by: Tensor, cameras=cameras, vertices=vertices, faces=faces, edges=edges, axis=axis) -> Tensor:
                """Area, and area times the centre's column and row: ``(3,)``."""
                clip = cameras.project(moved(vertices, by))
                ids = visibility(clip, faces, len(axis), len(axis), backend=options.backend)
                mask = (ids >= 0).to(clip)[..., None]
                shown = antialias(mask, clip, faces, ids, edges, backend=smoothing)[..., 0]
                return torch.stack([shown.mean(), (shown * axis).mean(), (shown * axis[:, None]).mean()])

            by = torch.zeros(10, device=device, requires_grad=True)
            analytic = torch.stack([torch.autograd.grad(value, by, retain_graph=True)[0] for value in moments(by)], 1)
            unit = torch.eye(10, device=device) * STEP
            with torch.no_grad():
                numeric = torch.stack([(moments(step) - moments(-step)) / (2 * STEP) for step in unit])
            wrong = analytic - numeric  # (10, 3)
            norms = {kind: float(numeric[part].norm()) for kind, part in KINDS.items()}
            # A turn by itself moves this outline little; what it moves is compared with what a stretch does.
            norms["turn"] = max(norms["turn"], norms["stretch"])
            errors = [float(wrong[part].norm()) / norms[kind] for kind, part in KINDS.items()]
            by_shift = float(wrong[KINDS["shift"], 0].norm() / numeric[KINDS["shift"], 0].norm())
            found = measured(
                lambda moments=moments, by=by: torch.autograd.grad(moments(by)[0], by), device, options.repeats
            )
            shown = "".join(f"{100 * error:>8.2f} %" for error in errors)
            print(
                f"{faces.shape[0]:>9}{size:>7}^2{shown}{found.median_ms:>9.1f}{found.peak_mb:>15.1f}"
                f"{100 * by_shift:>13.2f} %",
                flush=True,
            )


if __name__ == "__main__":
    main()
