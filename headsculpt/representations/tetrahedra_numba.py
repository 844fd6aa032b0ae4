"""The compiled pass of :func:`.tetrahedra.grid_crossings` over a regular grid."""

from __future__ import annotations

import numba
import numpy as np


@numba.njit(cache=True, fastmath=False, nogil=True)
def march(values, tetrahedra, table):  # noqa: ANN001, ANN201  (compiled; see below)
    """Crossed edges and triangles of ``values (X, Y, Z)`` float32, negative inside.

    Args:
        tetrahedra: ``(6, 4)`` corners of a cube as bits.
        table: ``(16, 2, 3, 2)`` edges of the triangles of each case.

    Returns:
        inside ``(E,)``, outside ``(E,)`` and faces ``(F, 3)``, all int64.

    A crossed edge is numbered by the first number of its lower vertex, plus how many crossed edges that
    vertex has in lower directions (a mask of seven bits), so the look-up takes 5 bytes a vertex.
    """
    nx, ny, nz = values.shape
    flat = values.reshape(-1)
    count = flat.shape[0]
    offsets = np.zeros(8, np.int64)
    for corner in range(8):
        offsets[corner] = (corner & 1) * ny * nz + ((corner >> 1) & 1) * nz + (corner >> 2)
    bits = np.zeros(128, np.int64)  # population count
    for i in range(128):
        bits[i] = bits[i >> 1] + (i & 1)

    first = np.empty(count, np.int32)
    mask = np.zeros(count, np.uint8)
    cells = np.empty(count, np.int32)
    edges = 0
    mixed = 0
    for x in range(nx):
        for y in range(ny):
            reach_xy = (1 if x + 1 < nx else 0) | (2 if y + 1 < ny else 0)
            for z in range(nz):
                v = (x * ny + y) * nz + z
                inside = flat[v] < 0
                reach = reach_xy | (4 if z + 1 < nz else 0)
                found = 0
                if reach == 7:
                    total = 0
                    for corner in range(1, 8):
                        differs = (flat[v + offsets[corner]] < 0) != inside
                        found |= differs << (corner - 1)
                        total += differs
                    if total > 0:
                        cells[mixed] = v
                        mixed += 1
                else:
                    for corner in range(1, 8):
                        if (corner & reach) == corner and (flat[v + offsets[corner]] < 0) != inside:
                            found |= 1 << (corner - 1)
                if found != 0:
                    first[v] = edges
                    mask[v] = found
                    edges += bits[found]

    ends = np.empty((2, edges), np.int64)
    edge = 0
    for v in range(count):
        if mask[v] != 0:
            for corner in range(1, 8):
                if mask[v] & (1 << (corner - 1)):
                    other = v + offsets[corner]
                    if flat[v] < 0:
                        ends[0, edge], ends[1, edge] = v, other
                    else:
                        ends[0, edge], ends[1, edge] = other, v
                    edge += 1

    faces = np.empty((mixed * 12, 3), np.int64)
    triangles = 0
    for i in range(mixed):
        v = cells[i]
        for tet in range(6):
            code = 0
            for corner in range(4):
                if flat[v + offsets[tetrahedra[tet, corner]]] < 0:
                    code |= 1 << corner
            for triangle in range(2):
                if table[code, triangle, 0, 0] < 0:
                    break
                for k in range(3):
                    one = tetrahedra[tet, table[code, triangle, k, 0]]
                    two = tetrahedra[tet, table[code, triangle, k, 1]]
                    base = v + offsets[min(one, two)]
                    direction = one ^ two
                    faces[triangles, k] = first[base] + bits[mask[base] & ((1 << (direction - 1)) - 1)]
                triangles += 1
    return ends[0], ends[1], faces[:triangles].copy()
