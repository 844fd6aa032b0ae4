"""Wavefront OBJ with MTL and PNG, and PLY with vertex colours."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from headsculpt.export.files import metres, split_at_seams
from headsculpt.export.view import sample_texture
from headsculpt.meshes import Mesh


def obj_files(mesh: Mesh, stem: str) -> dict[str, bytes]:
    """Contents of ``STEM.obj``, ``STEM.mtl`` and ``STEM.png`` for a textured mesh, in metres.

    Raises:
        ValueError: the mesh has no UVs or no texture.
    """
    from PIL import Image

    if mesh.texture is None:
        raise ValueError("this mesh has no texture; bake it first")
    split = split_at_seams(mesh)
    lines = ["# metres, +Y up, facing +Z", f"mtllib {stem}.mtl", "o head", "usemtl skin"]
    lines += [f"v {x:.7g} {y:.7g} {z:.7g}" for x, y, z in split.vertices]
    lines += [f"vt {u:.6f} {v:.6f}" for u, v in split.uv]
    lines += [f"vn {x:.5f} {y:.5f} {z:.5f}" for x, y, z in split.normals]
    lines += [f"f {a}/{a}/{a} {b}/{b}/{b} {c}/{c}/{c}" for a, b, c in split.faces + 1]
    material = f"newmtl skin\nKa 0 0 0\nKd 1 1 1\nKs 0 0 0\nd 1\nillum 1\nmap_Kd {stem}.png\n"
    png = io.BytesIO()
    Image.fromarray(mesh.texture).save(png, "PNG")
    return {
        f"{stem}.obj": ("\n".join(lines) + "\n").encode(),
        f"{stem}.mtl": material.encode(),
        f"{stem}.png": png.getvalue(),
    }


def vertex_colours(mesh: Mesh) -> NDArray:
    """``(V, 3)`` uint8 albedo at the vertices: the texture's, averaged over corners, or the mesh's own."""
    count = len(mesh.vertices)
    if mesh.texture is not None and mesh.uv is not None:
        texture = torch.from_numpy(mesh.texture.astype(np.float32) / 255).permute(2, 0, 1)[None]
        corners = sample_texture(texture, mesh.uv.reshape(-1, 2))
        index = mesh.faces.cpu().reshape(-1)
        total = torch.zeros(count, 3).index_add(0, index, corners)
        colours = total / torch.bincount(index, minlength=count).clamp_min(1)[:, None]
    elif mesh.colours is not None:
        colours = mesh.colours.detach().cpu()
    else:
        colours = torch.full((count, 3), 0.7)
    return (colours.clamp(0, 1) * 255 + 0.5).to(torch.uint8).numpy()


def ply_bytes(mesh: Mesh) -> bytes:
    """Binary PLY with vertex colours, in metres; one vertex per surface point, so the mesh stays closed."""
    vertices, faces = metres(mesh), mesh.faces.cpu().numpy()
    header = (
        "ply\nformat binary_little_endian 1.0\ncomment metres, +Y up, facing +Z\n"
        f"element vertex {len(vertices)}\nproperty float x\nproperty float y\nproperty float z\n"
        "property uchar red\nproperty uchar green\nproperty uchar blue\n"
        f"element face {len(faces)}\nproperty list uchar int vertex_indices\nend_header\n"
    )
    points = np.zeros(len(vertices), dtype=[("p", "<f4", 3), ("c", "u1", 3)])
    points["p"], points["c"] = vertices, vertex_colours(mesh)
    triangles = np.zeros(len(faces), dtype=[("n", "u1"), ("i", "<i4", 3)])
    triangles["n"], triangles["i"] = 3, faces
    return header.encode() + points.tobytes() + triangles.tobytes()


def obj_paths(path: Path) -> list[Path]:
    """The three files that an OBJ export at ``path`` consists of."""
    return [path, path.with_suffix(".mtl"), path.with_suffix(".png")]
