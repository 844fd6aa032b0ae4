"""Phong tessellation (Boubekeur and Alexa 2008): a triangle mesh between its vertices as its normals say it bends.

Letters: V vertices, F faces.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ROUNDNESS = 0.5  # share of the way to the tangent planes: where the circle through both ends passes (the paper has 0.75)


def tessellated(
    vertices: np.ndarray, faces: np.ndarray, longest: float
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The mesh with every edge longer than ``longest`` halved, again and again, and its halves bent.

    The vertices stay where they are; an edge's middle goes towards the mean of its places in the tangent planes of its
    two ends. Faces on both sides of an edge share its middle, so a closed mesh stays closed.

    Args:
        vertices: ``(V, 3)``.
        faces: ``(F, 3)``, all turned the same way.
        longest: in units of the vertices.

    Returns:
        ``(V', 3)``, of which the first V are the given ones, and ``(F', 3)``.

    Raises:
        ValueError: ``longest`` is not positive.
    """
    if not longest > 0:
        raise ValueError(f"longest must be positive; got {longest}")
    v, f = np.asarray(vertices, np.float64), np.asarray(faces, np.int64)
    while True:
        ends = np.sort(np.stack([f, np.roll(f, -1, 1)], -1).reshape(-1, 2), 1)
        edges, of_corner = np.unique(ends, axis=0, return_inverse=True)
        a, b = v[edges[:, 0]], v[edges[:, 1]]
        long = np.linalg.norm(b - a, axis=1) > longest
        if not long.any():
            return v, f
        number = np.full(len(edges), -1)
        number[long] = len(v) + np.arange(long.sum())
        normals = _normals(v, f)
        na, nb = normals[edges[long, 0]], normals[edges[long, 1]]
        v = np.concatenate([v, _bent_middles(a[long], b[long], na, nb)])
        f = _split(f, number[of_corner].reshape(-1, 3))


def _normals(v: np.ndarray, f: np.ndarray) -> NDArray[np.float64]:
    total = np.zeros_like(v)
    across = np.cross(v[f[:, 1]] - v[f[:, 0]], v[f[:, 2]] - v[f[:, 0]])
    for corner in range(3):
        np.add.at(total, f[:, corner], across)
    return total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12)


def _bent_middles(a: np.ndarray, b: np.ndarray, na: np.ndarray, nb: np.ndarray) -> NDArray[np.float64]:
    middle = 0.5 * (a + b)
    above_a, above_b = ((middle - a) * na).sum(1, keepdims=True), ((middle - b) * nb).sum(1, keepdims=True)
    return middle - ROUNDNESS * 0.5 * (above_a * na + above_b * nb)


def _split(f: np.ndarray, middles: np.ndarray) -> NDArray[np.int64]:
    """Faces after the edge behind each corner got the vertex ``middles`` ``(F, 3)``, or none where that is -1."""
    parts = []
    for count in range(4):
        some = (middles >= 0).sum(1) == count
        corners, new = f[some], middles[some]
        # Turned so that the halved edges come first, or, of two, the whole edge comes last.
        turn = np.argmax(new >= 0, 1) if count == 1 else (np.argmin(new >= 0, 1) + 1) % 3 if count == 2 else 0
        order = (np.arange(3)[None] + np.reshape(turn, (-1, 1))) % 3
        (a, b, c), (m, n, o) = np.take_along_axis(corners, order, 1).T, np.take_along_axis(new, order, 1).T
        parts += {
            0: [(a, b, c)],
            1: [(a, m, c), (m, b, c)],
            2: [(m, b, n), (a, m, n), (a, n, c)],
            3: [(a, m, o), (m, b, n), (o, n, c), (m, n, o)],
        }[count]
    return np.concatenate([np.stack(part, 1) for part in parts])
