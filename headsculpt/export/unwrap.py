"""Fewer triangles, and a UV atlas for them."""

from __future__ import annotations

import logging

import numpy as np
import torch
from numpy.typing import NDArray

from headsculpt.meshes import Mesh

log = logging.getLogger(__name__)


def decimate(mesh: Mesh, max_faces: int) -> Mesh:
    """At most ``max_faces`` triangles by edge collapse (quadric error), if the surface stays whole.

    Edge collapse without a link test now and then folds two triangles onto each other or pinches an edge.
    Folds are removed; if the surface then still is not closed where the original was, or falls into other
    numbers of parts or handles, more triangles are kept, in the worst case all.

    Args:
        mesh: scene units; its colours, UVs and texture are not carried over.
        max_faces: at least 4.

    Returns:
        a mesh of vertices and faces only.
    """
    import fast_simplification

    vertices = mesh.vertices.detach().cpu().numpy().astype(np.float32)
    faces = mesh.faces.cpu().numpy().astype(np.int32)
    wanted = shape_of_surface(faces)
    # agg is the library's greed, 7 by default: on rough surfaces 4 folds far less often (our measurement).
    tries = (
        (4, 1.0), (3, 1.0), (4, 1.15), (4, 1.35), (4, 1.7), (4, 2.2), (3, 2.2), (4, 3.0), (4, 4.0), (4, 5.0), (4, 8.0),
    )  # fmt: skip
    for greed, share in tries:
        target = int(max_faces * share)
        if target >= len(faces):
            break
        v, f = fast_simplification.simplify(vertices, faces, target_count=target, agg=greed)
        v, f = without_folds(np.asarray(v, np.float32), np.asarray(f, np.int64))
        if wanted[1] == 1:
            v, f = without_crumbs(v, f)
        if np.isfinite(v).all() and len(f) <= target * 1.02 and shape_of_surface(f) == wanted:
            return Mesh(torch.from_numpy(v), torch.from_numpy(f))
    if len(faces) > max_faces:
        log.warning("kept %d triangles: with %d the surface would not stay whole", len(faces), max_faces)
    return Mesh(torch.from_numpy(vertices), torch.from_numpy(faces.astype(np.int64)))


def without_folds(vertices: NDArray, faces: NDArray) -> tuple[NDArray, NDArray]:
    """Removes triangles without area in the mesh's graph, and pairs that lie on the same three vertices."""
    while True:
        distinct = (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])
        faces = faces[distinct]
        if not len(faces):
            return vertices, faces
        _, inverse, count = np.unique(np.sort(faces, 1), axis=0, return_inverse=True, return_counts=True)
        single = count[inverse.reshape(-1)] != 2
        if single.all():
            break
        faces = faces[single]
    used = np.unique(faces)
    renumbered = np.full(len(vertices), -1, np.int64)
    renumbered[used] = np.arange(len(used))
    return vertices[used], renumbered[faces]


def without_crumbs(vertices: NDArray, faces: NDArray) -> tuple[NDArray, NDArray]:
    """The largest piece, where pieces that meet in a single vertex are two: edge collapse can pinch a bump off.

    Faces around a vertex are one piece where they share its edges.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    count = len(faces)
    if not count:
        return vertices, faces
    # Corners of the faces: two are one vertex where an edge with that end joins their faces.
    corner = np.arange(3 * count).reshape(count, 3)
    edges = np.concatenate([np.stack([faces[:, i], faces[:, j]], 1) for i, j in ((0, 1), (1, 2), (2, 0))])
    ends = np.concatenate([np.stack([corner[:, i], corner[:, j]], 1) for i, j in ((0, 1), (1, 2), (2, 0))])
    turned = edges[:, 0] > edges[:, 1]
    edges[turned], ends[turned] = edges[turned][:, ::-1], ends[turned][:, ::-1]
    order = np.lexsort((edges[:, 1], edges[:, 0]))
    edges, ends = edges[order], ends[order]
    same = (edges[1:] == edges[:-1]).all(1)
    joined = np.concatenate([np.stack([ends[:-1][same, k], ends[1:][same, k]], 1) for k in (0, 1)])
    graph = coo_matrix((np.ones(len(joined)), (joined[:, 0], joined[:, 1])), shape=(3 * count,) * 2)
    _, fan = connected_components(graph, directed=False)
    split = fan.reshape(count, 3)
    sides = np.concatenate([split[:, [0, 1]], split[:, [1, 2]]])
    graph = coo_matrix((np.ones(len(sides)), (sides[:, 0], sides[:, 1])), shape=(split.max() + 1,) * 2)
    _, piece = connected_components(graph, directed=False)
    size = np.bincount(piece[split[:, 0]])
    kept = split[piece[split[:, 0]] == size.argmax()]
    place = np.empty(split.max() + 1, np.int64)
    place[split.ravel()] = faces.ravel()
    used, renumbered = np.unique(kept, return_inverse=True)
    return vertices[place[used]], renumbered.reshape(-1, 3)


def shape_of_surface(faces: NDArray) -> tuple[bool, int, int]:
    """Whether a mesh is closed and consistently wound, its number of parts, and its Euler number."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    if not len(faces):
        return False, 0, 0
    used, renumbered = np.unique(faces, return_inverse=True)
    faces = renumbered.reshape(-1, 3)
    size = len(used)
    directed = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).astype(np.int64)
    key, reverse = directed[:, 0] * size + directed[:, 1], directed[:, 1] * size + directed[:, 0]
    unique_key, count = np.unique(key, return_counts=True)
    closed = bool((count == 1).all() and np.array_equal(unique_key, np.unique(reverse)))
    edges = len(np.unique(np.minimum(key, reverse)))
    graph = coo_matrix((np.ones(len(directed)), (directed[:, 0], directed[:, 1])), shape=(size, size))
    parts = connected_components(graph, directed=False)[0]
    return closed, int(parts), size - edges + len(faces)


def unwrap(mesh: Mesh, texture_size: int = 1024, *, padding: int = 2) -> Mesh:
    """The same surface with a UV atlas (xatlas) without overlaps.

    Args:
        mesh: vertices and faces; 20k triangles take about a second.
        texture_size: pixels that the charts are spaced for.
        padding: pixels between charts.

    Returns:
        the mesh with ``uv (F, 3, 2)`` in [0, 1]; vertices and faces are the same.

    Raises:
        RuntimeError: xatlas left out triangles (degenerate geometry).
    """
    import xatlas

    faces = mesh.faces.cpu().numpy()
    atlas = xatlas.Atlas()
    atlas.add_mesh(mesh.vertices.detach().cpu().numpy().astype(np.float32), faces.astype(np.uint32))
    charts, packing = xatlas.ChartOptions(), xatlas.PackOptions()
    charts.max_iterations = 1  # 4 is no tighter on heads, and four times the time
    packing.resolution, packing.padding, packing.bilinear = texture_size, padding, True
    atlas.generate(charts, packing)
    original, indices, uv = atlas[0]
    if indices.shape != faces.shape or not np.array_equal(original[indices], faces):
        raise RuntimeError(f"xatlas returned {len(indices)} triangles in another order for {len(faces)}")
    corner_uv = torch.from_numpy(np.clip(uv[indices], 0, 1).astype(np.float32))
    return Mesh(mesh.vertices, mesh.faces, mesh.colours, uv=corner_uv)
