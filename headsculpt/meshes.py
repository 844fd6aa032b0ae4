"""The mesh value object, and the regularisers of meshes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headsculpt.devices import importable


@dataclass
class Mesh:
    """A triangle mesh in scene units (see :mod:`headsculpt.cameras`).

    Attributes:
        vertices: ``(V, 3)`` float32.
        faces: ``(F, 3)`` int64, counter-clockwise seen from outside.
        colours: ``(V, 3)`` float32 albedo in [0, 1], or None.
        uv: ``(F, 3, 2)`` float32 per corner in [0, 1], v up, or None.
        texture: ``(H, W, 3)`` uint8 albedo, row 0 at v = 1, or None.
    """

    vertices: Tensor
    faces: Tensor
    colours: Tensor | None = None
    uv: Tensor | None = None
    texture: np.ndarray | None = None

    def checked(self, name: str = "mesh") -> Mesh:
        """Returns itself; raises ValueError naming the first bad entry (empty, NaN, index out of range)."""
        v, f = self.vertices, self.faces
        if v.dim() != 2 or v.shape[1] != 3 or f.dim() != 2 or f.shape[1] != 3:
            raise ValueError(
                f"{name}: expected vertices (V, 3) and faces (F, 3); got {tuple(v.shape)} and {tuple(f.shape)}"
            )
        if v.shape[0] == 0 or f.shape[0] == 0:
            raise ValueError(f"{name} is empty: {v.shape[0]} vertices and {f.shape[0]} faces")
        finite = torch.isfinite(v).all(-1)
        if not finite.all():
            bad = int((~finite).nonzero()[0])
            raise ValueError(f"{name}: vertex {bad} is {v[bad].tolist()}; all coordinates must be finite")
        outside = ((f < 0) | (f >= v.shape[0])).any(-1)
        if outside.any():
            bad = int(outside.nonzero()[0])
            raise ValueError(
                f"{name}: face {bad} is {f[bad].tolist()}; its indices must lie in 0..{v.shape[0] - 1}"
            )
        return self

    def to_trimesh(self):  # noqa: ANN201  (trimesh is imported only where it is used)
        """The same mesh as ``trimesh.Trimesh``, without texture."""
        import trimesh

        return trimesh.Trimesh(self.vertices.detach().cpu().numpy(), self.faces.cpu().numpy(), process=False)

    @staticmethod
    def read(path: str | Path) -> Mesh:
        """Reads geometry (and vertex colours) from any file that trimesh reads without executing code."""
        import trimesh

        loaded: Any = trimesh.load(str(path), force="mesh", process=False)
        mesh = Mesh(
            torch.as_tensor(np.asarray(loaded.vertices), dtype=torch.float32),
            torch.as_tensor(np.asarray(loaded.faces), dtype=torch.int64),
        )
        return mesh.checked(str(path))


def face_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """``(F, 3)`` unit normals; 0 for faces without area."""
    a, b, c = (vertices.index_select(0, faces[:, i]) for i in range(3))
    return torch.nn.functional.normalize(torch.linalg.cross(b - a, c - a), dim=-1, eps=1e-12)


def vertex_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """``(V, 3)`` unit normals, faces weighted by area."""
    a, b, c = (vertices.index_select(0, faces[:, i]) for i in range(3))
    weighted = torch.linalg.cross(b - a, c - a)
    total = torch.zeros_like(vertices)
    for corner in range(3):
        total = total.index_add(0, faces[:, corner], weighted)
    return torch.nn.functional.normalize(total, dim=-1, eps=1e-12)


@dataclass
class Topology:
    """The edges of a list of triangles; made once per list by :func:`topology` and passed along.

    Attributes:
        edges: ``(E, 2)`` int64, each undirected edge once, smaller index first.
        opposite: ``(E, 2)`` int64, the third vertex of the edge's first and second face; -1 where it has
            one face only. Third and further faces of an edge that is not manifold are left out.
        faces: ``(E, 2)`` int64 indices of those faces, or -1.
        count: ``(E,)`` int64 how many faces meet there: 2 everywhere on a closed manifold.
    """

    edges: Tensor
    opposite: Tensor
    faces: Tensor
    count: Tensor

    @property
    def closed(self) -> bool:
        """Whether every edge has exactly two faces."""
        return bool((self.count == 2).all())


def topology(faces: Tensor) -> Topology:
    """The edges of ``faces (F, 3)`` and what lies on either side of them.

    With numba on the CPU linear in F and ordered by the smaller end; otherwise by sorting, ordered by both.
    """
    if faces.device.type == "cpu" and faces.shape[0] and importable("numba"):
        from headsculpt.mesh_kernels import edge_table

        index = faces.long().contiguous()
        return Topology(
            *(torch.from_numpy(array) for array in edge_table(index.numpy(), int(index.max()) + 1))
        )
    return topology_reference(faces)


def topology_reference(faces: Tensor) -> Topology:
    """:func:`topology` in plain torch, for any device."""
    corner = faces.long()
    start = torch.cat([corner[:, 0], corner[:, 1], corner[:, 2]])
    end = torch.cat([corner[:, 1], corner[:, 2], corner[:, 0]])
    third = torch.cat([corner[:, 2], corner[:, 0], corner[:, 1]])
    low, high = torch.minimum(start, end), torch.maximum(start, end)
    vertices = int(corner.max()) + 1 if corner.numel() else 1
    key, order = torch.sort(low * vertices + high, stable=True)
    first = torch.ones_like(key, dtype=torch.bool)
    first[1:] = key[1:] != key[:-1]
    begin = first.nonzero()[:, 0]
    count = torch.diff(begin, append=begin.new_tensor([key.shape[0]]))
    one = order[begin]
    two = order[(begin + 1).clamp_max(max(key.shape[0] - 1, 0))]
    single = count < 2
    size = max(corner.shape[0], 1)
    missing = torch.full_like(one, -1)
    return Topology(
        torch.stack([low[one], high[one]], -1),
        torch.stack([third[one], torch.where(single, missing, third[two])], -1),
        torch.stack([one % size, torch.where(single, missing, two % size)], -1),
        count,
    )


def unique_edges(faces: Tensor) -> Tensor:
    """``(E, 2)`` undirected edges, each once, smaller index first."""
    return topology(faces).edges


def laplacian_loss(vertices: Tensor, faces: Tensor, edges: Tensor | None = None) -> Tensor:
    """Mean squared distance of a vertex from the mean of its neighbours (uniform Laplacian, method A.9).

    Args:
        vertices: ``(V, 3)`` float.
        faces: ``(F, 3)`` integers; read only where ``edges`` is not given.
        edges: ``(E, 2)`` from :func:`topology`, if at hand.
    """
    if edges is None:
        edges = unique_edges(faces)
    both = torch.cat([edges, edges.flip(-1)])
    total = torch.zeros_like(vertices).index_add(0, both[:, 0], vertices.index_select(0, both[:, 1]))
    count = torch.bincount(both[:, 0], minlength=vertices.shape[0]).to(vertices)
    mean = total / count.clamp_min(1)[:, None]
    offset = torch.where((count > 0)[:, None], mean - vertices, torch.zeros_like(vertices))
    return offset.square().sum(-1).mean()


def normal_consistency_loss(
    vertices: Tensor, faces: Tensor, edges: Tensor | None = None, normals: Tensor | None = None
) -> Tensor:
    """Mean of 1 - cos between the normals at the two ends of each edge (threestudio, method E.7).

    Args:
        vertices: ``(V, 3)`` float.
        faces: ``(F, 3)`` integers.
        edges: ``(E, 2)`` from :func:`topology`, if at hand.
        normals: ``(V, 3)`` from :func:`vertex_normals`, if at hand.
    """
    if normals is None:
        normals = vertex_normals(vertices, faces)
    if edges is None:
        edges = unique_edges(faces)
    one, two = normals.index_select(0, edges[:, 0]), normals.index_select(0, edges[:, 1])
    return (1 - (one * two).sum(-1)).mean()
