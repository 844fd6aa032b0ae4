"""The compiled loop of :func:`headsculpt.meshes.topology`."""

from __future__ import annotations

import numba
import numpy as np


@numba.njit(cache=True, fastmath=False, nogil=True)
def edge_table(faces, vertices):  # noqa: ANN001, ANN201
    """Edges of ``faces (F, 3)`` int64 by counting sort over the smaller end; see ``meshes.topology``.

    Returns:
        edges (E, 2), opposite (E, 2), faces (E, 2), count (E,), all int64.
    """
    start = np.zeros(vertices + 1, np.int64)
    for f in range(faces.shape[0]):
        for k in range(3):
            start[min(faces[f, k], faces[f, (k + 1) % 3]) + 1] += 1
    for v in range(vertices):
        start[v + 1] += start[v]
    fill = start[:-1].copy()
    half = np.empty(3 * faces.shape[0], np.int64)  # half edges 3 f + k, in the bucket of their smaller end
    for f in range(faces.shape[0]):
        for k in range(3):
            low = min(faces[f, k], faces[f, (k + 1) % 3])
            half[fill[low]] = 3 * f + k
            fill[low] += 1
    edges = np.empty((half.shape[0], 2), np.int64)
    opposite = np.full((half.shape[0], 2), -1, np.int64)
    owners = np.full((half.shape[0], 2), -1, np.int64)
    count = np.zeros(half.shape[0], np.int64)
    used = 0
    for low in range(vertices):
        begin = used
        for i in range(start[low], start[low + 1]):
            f, k = half[i] // 3, half[i] % 3
            high = max(faces[f, k], faces[f, (k + 1) % 3])
            at = begin
            while at < used and edges[at, 1] != high:
                at += 1
            if at == used:
                edges[used, 0], edges[used, 1] = low, high
                used += 1
            if count[at] < 2:
                opposite[at, count[at]] = faces[f, (k + 2) % 3]
                owners[at, count[at]] = f
            count[at] += 1
    return edges[:used].copy(), opposite[:used].copy(), owners[:used].copy(), count[:used].copy()
