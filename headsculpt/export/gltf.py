"""Binary glTF 2.0: one mesh, one material with the albedo as base colour."""

from __future__ import annotations

from pathlib import Path

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

    Vertices stay split at the atlas' seams, so the surface is not closed.

    Raises:
        ValueError: the file holds no textured mesh.
    """
    import trimesh

    geometry = trimesh.load(str(path), force="mesh", process=False)
    material = getattr(geometry.visual, "material", None)
    image, uv = getattr(material, "baseColorTexture", None), getattr(geometry.visual, "uv", None)
    if image is None or uv is None:
        raise ValueError(f"{path} holds no mesh with a base colour texture")
    faces = torch.as_tensor(np.array(geometry.faces), dtype=torch.int64)
    vertices = torch.as_tensor(np.array(geometry.vertices) / METRES_PER_UNIT, dtype=torch.float32)
    corner_uv = torch.as_tensor(np.array(uv), dtype=torch.float32)[faces]
    return Mesh(vertices, faces, uv=corner_uv, texture=np.array(image.convert("RGB"))).checked(str(path))
