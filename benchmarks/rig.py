"""Rigs of finished heads: does each mouth open, does the surface stay whole, does the head at rest look as before.

    python benchmarks/rig.py runs/old-man [more runs, or saved avatars]

Prints a line a head: seconds that the rig took; triangles before and after; megabytes of the GLB; whether its surface
is one closed piece; PSNR of the rigged head at rest against the head itself, over four lit views; and how far the lips
part with jawOpen at 1, as a share of what the built-in head's do. A mouth that could not be cut parts by 0.
"""

from __future__ import annotations

import argparse
import logging
import math
import sys
import time
from pathlib import Path

import numpy as np

from headsculpt.avatar import Avatar
from headsculpt.cameras import framed
from headsculpt.export.gltf import glb_bytes
from headsculpt.export.head_motion import HeadMotion
from headsculpt.export.mouth import APART
from headsculpt.export.rig import Rig, posed
from headsculpt.export.unwrap import shape_of_surface
from headsculpt.export.view import render_mesh
from headsculpt.heads.builtin import builtin_head
from headsculpt.heads.template import LIP_ROWS
from headsculpt.meshes import Mesh

WANTED_PSNR_DB, WANTED_OPENING = 40.0, 0.6


def opening(mesh: Mesh, rig: Rig, identity: dict[str, float], expression: dict[str, float]) -> float:
    """How far the lips part in the middle of the mouth, against the built-in head's."""
    head, motion = builtin_head(), HeadMotion(identity, expression)
    middle = [head.skin_grid[row, 0] for row in LIP_ROWS]
    wanted = np.linalg.norm(head.expression_shapes["jawOpen"][middle[0]] - head.expression_shapes["jawOpen"][middle[1]])
    rest, wide = mesh.vertices.numpy(), posed(mesh, rig, {"jawOpen": 1.0}).vertices.numpy()
    # A cut leaves pairs of vertices that differ by APART in height alone.
    near = np.abs(rest - motion.vertices[middle].mean(0)).max(1) < 0.15
    place = np.flatnonzero(near)
    rounded = np.round(rest[place] / (0.1 * APART)).astype(np.int64)
    index = {tuple(row): vertex for row, vertex in zip(rounded.tolist(), place.tolist(), strict=True)}
    pairs = [(v, index[x, y - 10, z]) for (x, y, z), v in index.items() if (x, y - 10, z) in index]
    return max((float(np.linalg.norm(wide[a] - wide[b])) for a, b in pairs), default=0.0) / float(wanted)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    views = framed([0.0, 40.0, 90.0, 180.0], 5.0, 0.8, height=256, width=256)
    good, folders = 0, parser.parse_args().folders
    print(f"{'head':<36}{'s':>6}{'before':>9}{'after':>9}{'MB':>7}{'whole':>7}{'PSNR':>8}{'opens':>8}")
    for folder in folders:
        avatar = Avatar.load(folder)
        started = time.perf_counter()
        mesh, rig = avatar.rigged()
        seconds = time.perf_counter() - started
        whole = shape_of_surface(mesh.faces.numpy()) == shape_of_surface(avatar.mesh.faces.numpy())
        before, after = (render_mesh(m, views, background=(1, 1, 1)).rgb for m in (avatar.mesh, mesh))
        psnr = -10 * math.log10(float((before - after).square().mean()) + 1e-12)
        share = opening(mesh, rig, avatar.info.identity or {}, avatar.info.expression or {})
        size = len(glb_bytes(mesh, rig=rig)) / 1e6
        good += whole and psnr > WANTED_PSNR_DB and share > WANTED_OPENING
        print(
            f"{folder.name[:35]:<36}{seconds:>6.1f}{len(avatar.mesh.faces):>9}{len(mesh.faces):>9}{size:>7.1f}"
            f"{'yes' if whole else 'no':>7}{psnr:>8.1f}{share:>8.0%}",
            flush=True,
        )
    print(f"{good} of {len(folders)} are whole, over {WANTED_PSNR_DB:.0f} dB at rest, and open by {WANTED_OPENING:.0%}")
    return 0 if good == len(folders) else 1


if __name__ == "__main__":
    sys.exit(main())
