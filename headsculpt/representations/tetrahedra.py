"""Tetrahedral grids, and the surfaces that marching tetrahedra finds in them.

Every cube of a regular grid is cut into the six tetrahedra around its main diagonal (Freudenthal and
Kuhn). All cubes are cut alike, so neighbours agree on their common faces, an edge is named by its lower
vertex and one of seven directions, and no table of tetrahedra has to be stored: grids of any size cost
only their vertices.

The field is negative inside. The surface crosses the edges between a negative and a non-negative vertex,
at the zero of the linear interpolant, which is differentiable in both values and both positions
(Doi and Koide 1991; Shen et al. 2021, "Deep marching tetrahedra").

Letters: V grid vertices, T tetrahedra, E crossed edges (= surface vertices), F triangles.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np
import torch
from torch import Tensor

from headsculpt.devices import importable

Shape = tuple[int, int, int]


def _cube_tetrahedra() -> np.ndarray:
    """``(6, 4)`` corners of a cube (bit 0: +x, bit 1: +y, bit 2: +z) of each tetrahedron, positive volume."""
    found = []
    for i, j, k in permutations(range(3)):
        path = [0, 1 << i, (1 << i) | (1 << j), 7]
        even = (i, j, k) in ((0, 1, 2), (1, 2, 0), (2, 0, 1))
        found.append(path if even else [path[0], path[2], path[1], path[3]])
    return np.array(found, dtype=np.int64)


def _triangle_table() -> np.ndarray:
    """``(16, 2, 3, 2)`` the crossed edges of up to two triangles for each set of inside vertices, else -1.

    Bit i of the first index says that vertex i is inside. Triangles are counter-clockwise seen from outside.
    """
    table = np.full((16, 2, 3, 2), -1, dtype=np.int64)
    even = [(0, 1, 2, 3), (1, 0, 3, 2), (2, 3, 0, 1), (3, 2, 1, 0)]
    for i, j, k, m in even:  # vertex i alone on its side
        triangle = [(i, j), (i, k), (i, m)]
        table[1 << i, 0] = triangle
        table[15 ^ (1 << i), 0] = triangle[::-1]
    for i, j, k, m in [(0, 1, 2, 3), (0, 2, 3, 1), (0, 3, 1, 2), (1, 2, 0, 3), (1, 3, 2, 0), (2, 3, 0, 1)]:
        table[(1 << i) | (1 << j), 0] = [(i, k), (i, m), (j, m)]
        table[(1 << i) | (1 << j), 1] = [(i, k), (j, m), (j, k)]
    return table


CUBE_TETRAHEDRA = _cube_tetrahedra()
DIRECTIONS = (4, 2, 6, 1, 5, 3, 7)  # corners of a cube from its first, in the order of the grid's vertices
TRIANGLE_TABLE = _triangle_table()


@dataclass
class Crossings:
    """A surface as topology only: where it lies along the edges is for :func:`surface_points` to say.

    Attributes:
        inside: ``(E,)`` int64 grid vertex with a negative value.
        outside: ``(E,)`` int64 the other end of the crossed edge.
        faces: ``(F, 3)`` int64 into the E surface vertices, counter-clockwise seen from outside.
    """

    inside: Tensor
    outside: Tensor
    faces: Tensor


def grid_vertices(shape: Shape, lower: Tensor, cell: float) -> Tensor:
    """``(V, 3)`` positions of a grid of ``shape`` vertices; the last axis (z) runs fastest."""
    axes = [
        lower[i] + cell * torch.arange(n, dtype=lower.dtype, device=lower.device) for i, n in enumerate(shape)
    ]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)


def grid_tetrahedra(shape: Shape, cells: Tensor | None = None) -> Tensor:
    """``(T, 4)`` int64 vertices of all tetrahedra, or of those of the cells whose lowest vertex is listed.

    Args:
        shape: vertices along x, y, z; at least 2 each.
        cells: ``(C,)`` int64, or None for all cells.

    Raises:
        ValueError: fewer than two vertices along an axis.
    """
    if min(shape) < 2:
        raise ValueError(f"a tetrahedral grid needs at least 2 vertices along each axis; got {shape}")
    if cells is None:
        index = torch.arange(shape[0] * shape[1] * shape[2]).view(shape)
        cells = index[:-1, :-1, :-1].reshape(-1)
    corner = torch.from_numpy(CUBE_TETRAHEDRA).to(cells.device)
    offset = (corner & 1) * (shape[1] * shape[2]) + ((corner >> 1) & 1) * shape[2] + ((corner >> 2) & 1)
    return (cells[:, None, None] + offset[None]).reshape(-1, 4)


def find_crossings(values: Tensor, tetrahedra: Tensor) -> Crossings:
    """The surface of a field on any tetrahedra, in plain torch.

    Args:
        values: ``(V,)`` float, negative inside.
        tetrahedra: ``(T, 4)`` int64, positive volume, so that the surface is oriented outwards.
    """
    inside = values.detach() < 0
    code = (inside[tetrahedra].long() << torch.arange(4, device=values.device)).sum(-1)
    mixed = ((code > 0) & (code < 15)).nonzero()[:, 0]
    table = torch.from_numpy(TRIANGLE_TABLE).to(values.device)[code[mixed]]  # (M, 2, 3, 2)
    valid = table[:, :, 0, 0] >= 0
    local = table[valid]  # (F, 3, 2)
    owner = mixed[valid.nonzero()[:, 0]]
    ends = torch.gather(tetrahedra[owner], 1, local.reshape(-1, 6)).view(-1, 3, 2)
    low, high = ends.amin(-1), ends.amax(-1)
    key, faces = torch.unique(low * values.shape[0] + high, return_inverse=True)
    low, high = key // values.shape[0], key % values.shape[0]
    swap = ~inside[low]
    return Crossings(torch.where(swap, high, low), torch.where(swap, low, high), faces)


def surface_points(values: Tensor, positions: Tensor) -> Tensor:
    """Where the linear interpolant is zero.

    Args:
        values: ``(E, 2)`` field at the inside (negative) and the outside (not negative) end.
        positions: ``(E, 2, 3)`` of those ends.

    Returns:
        ``(E, 3)``, differentiable in both.
    """
    fraction = values[:, :1] / (values[:, :1] - values[:, 1:])
    return positions[:, 0] + fraction * (positions[:, 1] - positions[:, 0])


def marching_tetrahedra(
    vertices: Tensor, tetrahedra: Tensor, values: Tensor, *, backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    """The zero surface of a field on tetrahedra.

    It is closed wherever the field is not negative on the border of the tetrahedra, and oriented outwards.

    Args:
        vertices: ``(V, 3)`` float.
        tetrahedra: ``(T, 4)`` int64, positive volume.
        values: ``(V,)`` float, negative inside.
        backend: ``"torch"`` (any device), ``"kaolin"`` (CUDA; the same surface, numbered differently), or
            ``"auto"``, which is torch.

    Returns:
        points ``(E, 3)``, differentiable in vertices and values, and faces ``(F, 3)`` int64.

    Example:
        >>> corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
        >>> points, faces = marching_tetrahedra(corners, torch.tensor([[0, 1, 2, 3]]), torch.tensor([-1.0, 1, 1, 1]))
        >>> points.tolist()
        [[0.5, 0.0, 0.0], [0.0, 0.5, 0.0], [0.0, 0.0, 0.5]]
    """
    if backend not in ("auto", "torch", "kaolin"):
        raise ValueError(f"backend must be 'auto', 'torch' or 'kaolin'; got {backend!r}")
    if backend == "kaolin":
        from headsculpt.representations.adapters import kaolin_marching_tetrahedra

        return kaolin_marching_tetrahedra(vertices, tetrahedra, values)
    found = find_crossings(values, tetrahedra)
    ends = torch.stack([found.inside, found.outside], -1)
    flat = ends.reshape(-1)
    return (
        surface_points(
            values.index_select(0, flat).view(-1, 2), vertices.index_select(0, flat).view(-1, 2, 3)
        ),
        found.faces,
    )


def grid_crossings(values: Tensor, *, backend: str = "auto") -> Crossings:
    """The surface of a field on a regular grid; see :func:`find_crossings`.

    Args:
        values: ``(X, Y, Z)`` float at the grid's vertices, negative inside.
        backend: ``"numba"`` (CPU; one pass over the grid), ``"torch"`` (any device), or ``"auto"``. Both
            give the same surface, numbered differently.

    Raises:
        ValueError: an unknown back end, or fewer than two vertices along an axis.
        ImportError: numba is missing; says how to install it.
    """
    if backend not in ("auto", "numba", "torch"):
        raise ValueError(f"backend must be 'auto', 'numba' or 'torch'; got {backend!r}")
    if values.dim() != 3 or min(values.shape) < 2:
        raise ValueError(f"values must be (X, Y, Z), at least 2 each; got {tuple(values.shape)}")
    has_numba = importable("numba")
    if backend == "numba" and not has_numba:
        raise ImportError("numba is not installed: pip install numba")
    if backend == "numba" or (backend == "auto" and has_numba and values.device.type == "cpu"):
        from headsculpt.representations.tetrahedra_numba import march

        field = values.detach().float().cpu().contiguous().numpy()
        arrays = march(field, CUBE_TETRAHEDRA, TRIANGLE_TABLE)
        return Crossings(*(torch.from_numpy(array).to(values.device) for array in arrays))
    return _grid_crossings_in_torch(values.detach())


def _grid_crossings_in_torch(values: Tensor) -> Crossings:
    """As :func:`find_crossings` numbers it, without a sort.

    A crossed edge is numbered by how many there are at lower vertices and, at its own lower vertex, in lower directions:
    a mask of seven bits and a sum for each vertex. Passes over the grid read bytes; the rest is near the surface.
    """
    shape, device = values.shape, values.device
    inside = values < 0
    mask = torch.zeros(shape, dtype=torch.uint8, device=device)
    for place, corner in enumerate(DIRECTIONS):
        steps = [(corner >> axis) & 1 for axis in range(3)]
        lower = tuple(slice(0, n - step) for n, step in zip(shape, steps, strict=True))
        upper = tuple(slice(step, None) for step in steps)
        mask[lower] += (inside[lower] != inside[upper]).to(torch.uint8) << place
    inside, mask = inside.view(-1), mask.view(-1)
    near = mask.nonzero()[:, 0]
    stride = torch.tensor([shape[1] * shape[2], shape[2], 1], device=device)
    # A sum, not a product of matrices: CUDA has none of whole numbers.
    offset = (((torch.arange(8, device=device)[:, None] >> torch.arange(3, device=device)) & 1) * stride).sum(-1)
    ones = torch.tensor([number.bit_count() for number in range(128)], device=device)
    crossed = ((mask[near, None] >> torch.arange(7, device=device)) & 1).bool()
    count = ones[mask[near].long()]
    first = torch.zeros(len(mask), dtype=torch.int64, device=device)
    first[near] = count.cumsum(0) - count
    row, bit = crossed.nonzero().unbind(-1)
    low = near[row]
    high = low + offset[torch.tensor(DIRECTIONS, device=device)[bit]]
    begins = inside[low]

    # Cells are named by their lowest vertex; those on the upper sides of the grid name none.
    x, y, z = near // (shape[1] * shape[2]), near // shape[2] % shape[1], near % shape[2]
    cells = near[(x < shape[0] - 1) & (y < shape[1] - 1) & (z < shape[2] - 1)]
    corners = torch.from_numpy(CUBE_TETRAHEDRA).to(device)
    signs = inside[cells[:, None] + offset]  # (C, 8)
    code = (signs[:, corners].long() << torch.arange(4, device=device)).sum(-1)  # (C, 6)
    cell, tetrahedron = ((code > 0) & (code < 15)).nonzero().unbind(-1)
    table = torch.from_numpy(TRIANGLE_TABLE).to(device)[code[cell, tetrahedron]]  # (M, 2, 3, 2)
    owner, which = (table[:, :, 0, 0] >= 0).nonzero().unbind(-1)
    local = table[owner, which].view(-1, 6)
    ends = corners[tetrahedron[owner]].gather(1, local).view(-1, 3, 2)  # corners of the cube
    base, direction = ends[..., 0] & ends[..., 1], ends[..., 0] ^ ends[..., 1]
    at = cells[cell[owner], None] + offset[base]
    bit = torch.tensor([0, *map(DIRECTIONS.index, range(1, 8))], device=device)[direction]
    faces = first[at] + ones[mask[at].long() & ((1 << bit) - 1)]
    return Crossings(torch.where(begins, low, high), torch.where(begins, high, low), faces)


# Grid vertices that share an edge differ by one of seven directions or its opposite. Pieces of the inside
# (and of the outside) under this neighbourhood are exactly the pieces that the surface separates.
NEIGHBOURHOOD = np.zeros((3, 3, 3), dtype=bool)
for _bits in range(8):
    _step = (_bits & 1, (_bits >> 1) & 1, _bits >> 2)
    NEIGHBOURHOOD[1 + _step[0], 1 + _step[1], 1 + _step[2]] = True
    NEIGHBOURHOOD[1 - _step[0], 1 - _step[1], 1 - _step[2]] = True


def largest_solid(inside: np.ndarray) -> np.ndarray:
    """The largest connected piece of ``inside (X, Y, Z)`` bool, cavities filled, border cleared.

    Its surface under marching tetrahedra is one connected closed surface.
    """
    from scipy import ndimage

    inside = inside.copy()
    for axis in range(3):
        for end in (0, -1):
            inside[(slice(None),) * axis + (end,)] = False
    labels, count = ndimage.label(inside, NEIGHBOURHOOD)
    if count == 0:
        return inside
    largest = labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])
    labels, _ = ndimage.label(~largest, NEIGHBOURHOOD)
    return labels != labels[0, 0, 0]  # the border is all outside, hence one piece
