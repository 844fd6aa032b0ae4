"""The built-in parametric head, drawn in a few lines: no diffusion model, no sculpting, one picture.

    python examples/01_draw_a_head.py head.png
"""

from __future__ import annotations

import sys

import torch
from PIL import Image

from headsculpt.cameras import framed
from headsculpt.export.view import render_mesh, to_uint8
from headsculpt.heads.builtin import builtin_head
from headsculpt.meshes import Mesh


def main(path: str = "head.png", size: int = 384) -> None:
    head = builtin_head()
    smile = {"mouthSmileLeft": 1.0, "mouthSmileRight": 1.0}
    vertices = torch.from_numpy(head.vertices({}, smile))
    faces = torch.from_numpy(head.faces).long()
    cameras = framed([0.0, 45.0, 90.0, 180.0], 5.0, 1.0, height=size, width=size)
    views = render_mesh(Mesh(vertices, faces), cameras).rgb
    Image.fromarray(to_uint8(torch.cat(list(views), 1))).save(path)
    print(f"wrote {path}: front, three-quarter, side and back")


if __name__ == "__main__":
    main(*sys.argv[1:2])
