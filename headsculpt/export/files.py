"""What all file formats share: metres, and vertices split where the atlas has seams."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headsculpt.cameras import METRES_PER_UNIT
from headsculpt.meshes import Mesh, vertex_normals


@dataclass
class SplitMesh:
    """A mesh with one UV per vertex, in metres, +Y up, facing +Z.

    Attributes:
        vertices: ``(M, 3)`` float32 metres.
        normals: ``(M, 3)`` float32, smooth across the atlas' seams.
        uv: ``(M, 2)`` float32, v up.
        faces: ``(F, 3)`` int64.
        source: ``(M,)`` int64, the vertex of the mesh that each is.
    """

    vertices: NDArray
    normals: NDArray
    uv: NDArray
    faces: NDArray
    source: NDArray


def split_at_seams(mesh: Mesh) -> SplitMesh:
    """Duplicates the vertices that have several UVs; ValueError when the mesh has no UVs."""
    if mesh.uv is None:
        raise ValueError("this mesh has no UVs; unwrap and bake it first")
    vertices = mesh.vertices.detach().cpu().float()
    faces = mesh.faces.cpu()
    normals = vertex_normals(vertices, faces).numpy()
    uv = mesh.uv.numpy().reshape(-1, 2)
    corner = np.concatenate([faces.numpy().reshape(-1, 1).astype(np.float64), uv.astype(np.float64)], 1)
    unique, inverse = np.unique(corner, axis=0, return_inverse=True)
    source = unique[:, 0].astype(np.int64)
    return SplitMesh(
        metres(mesh)[source],
        normals[source],
        unique[:, 1:].astype(np.float32),
        inverse.reshape(-1, 3).astype(np.int64),
        source,
    )


def metres(mesh: Mesh) -> NDArray:
    """``(V, 3)`` float32 vertices in metres."""
    return (mesh.vertices.detach().cpu().double() * METRES_PER_UNIT).float().numpy()
