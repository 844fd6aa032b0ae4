"""Binary glTF 2.0: one mesh, one material with the albedo as base colour."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from headsculpt.cameras import METRES_PER_UNIT
from headsculpt.export.files import split_at_seams
from headsculpt.meshes import Mesh


def glb_bytes(mesh: Mesh, name: str = "head") -> bytes:
    """A textured mesh as GLB, in metres, +Y up, facing +Z as glTF asks.

    Args:
        mesh: scene units, with ``uv`` and ``texture``.
        name: of the mesh in the scene.

    Raises:
        ValueError: the mesh has no UVs or no texture.
    """
    import trimesh
    from PIL import Image
    from trimesh.visual import TextureVisuals
    from trimesh.visual.material import PBRMaterial

    if mesh.texture is None:
        raise ValueError("this mesh has no texture; bake it first")
    split = split_at_seams(mesh)
    material = PBRMaterial(
        name=f"{name}-skin",
        baseColorTexture=Image.fromarray(mesh.texture),
        metallicFactor=0.0,
        roughnessFactor=0.9,
    )
    geometry = trimesh.Trimesh(
        split.vertices,
        split.faces,
        vertex_normals=split.normals,
        visual=TextureVisuals(uv=split.uv, material=material),
        process=False,
    )
    scene = trimesh.Scene()
    scene.add_geometry(geometry, node_name=name, geom_name=name)
    return bytes(scene.export(file_type="glb", include_normals=True))


def read_glb(path: str | Path) -> Mesh:
    """A textured GLB of one mesh, as other programs would see it, in scene units.

    Vertices that the atlas' seams split are joined again, so a closed surface is closed.

    Raises:
        ValueError: the file holds no textured mesh.
    """
    import trimesh

    geometry: Any = trimesh.load(str(path), force="mesh", process=False)
    material = getattr(geometry.visual, "material", None)
    image, uv = getattr(material, "baseColorTexture", None), getattr(geometry.visual, "uv", None)
    if image is None or uv is None:
        raise ValueError(f"{path} holds no mesh with a base colour texture")
    split = np.array(geometry.faces, np.int64)
    points, joined = np.unique(np.array(geometry.vertices, np.float32), axis=0, return_inverse=True)
    return Mesh(
        torch.from_numpy(points / np.float32(METRES_PER_UNIT)),
        torch.from_numpy(joined.reshape(-1)[split]),
        uv=torch.from_numpy(np.array(uv, np.float32)[split]),
        texture=np.array(image.convert("RGB")),
    ).checked(str(path))
