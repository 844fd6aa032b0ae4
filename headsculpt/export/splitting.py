"""A surface gets vertices where they are wanted, and stays the same surface."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from headsculpt.meshes import Mesh

HALVINGS = 5  # of an edge, until it is known where a border crosses it
NEAREST = 0.05  # of an edge: as near to its ends as it is split, since a triangle without area has no normal


def border(mesh: Mesh, edges: Tensor, inside: Tensor, inside_at: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Where the border of a region of space crosses edges, by bisection.

    Args:
        mesh: V vertices.
        edges: ``(E, 2)`` int64, each with one end inside.
        inside: ``(V,)`` bool.
        inside_at: the same for any points ``(N, 3)``.

    Returns:
        ``(E,)`` twice, float32: where along the edge, 0 at its first end, the last point is that is known to be on that
        end's side, and the first known to be on the other's.
    """
    first = inside[edges[:, 0]]
    ends = mesh.vertices.detach().cpu().float()[edges]
    low, high = torch.zeros(len(edges)), torch.ones(len(edges))
    for _ in range(HALVINGS if len(edges) else 0):
        middle = 0.5 * (low + high)
        before = inside_at(torch.lerp(ends[:, 0], ends[:, 1], middle[:, None])) == first
        low, high = torch.where(before, middle, low), torch.where(before, high, middle)
    return low, high


def with_split_edges(mesh: Mesh, edges: Tensor, share: Tensor | None = None) -> Mesh:
    """The same surface with a vertex on each of some edges; closed where it was closed.

    A triangle becomes two, three or four, and its corners' UVs are divided alike.

    Args:
        mesh: V vertices.
        edges: ``(E, 2)`` int64, each once; the new vertices are V to V + E in this order.
        share: ``(E,)`` where along the edge, 0 at its first end and 1 at its second; None halves it. Not nearer to
            an end than NEAREST.
    """
    share = torch.full((len(edges),), 0.5) if share is None else share.clamp(NEAREST, 1 - NEAREST)
    vertices, faces = mesh.vertices.detach().cpu().float(), mesh.faces.cpu()
    count = len(vertices)
    ends = torch.sort(edges, 1).values
    key, order = torch.sort(ends[:, 0] * count + ends[:, 1])
    # Which of the new vertices lies on the edge that faces corner i, -1 where none does.
    start, end = faces[:, [1, 2, 0]], faces[:, [2, 0, 1]]
    wanted = torch.minimum(start, end) * count + torch.maximum(start, end)
    place = torch.searchsorted(key, wanted.reshape(-1)).clamp_max(len(key) - 1).reshape(wanted.shape)
    new = torch.where(key[place] == wanted, count + order[place], -1)
    # As seen from the edge's end that comes first around the triangle.
    found = order[place]
    along = torch.where(edges[found, 0] == start, share[found], 1 - share[found])[..., None]
    uv = torch.zeros(len(faces), 3, 2) if mesh.uv is None else mesh.uv
    # Corners 0 to 2 are a triangle's own, 3 to 5 the middles of the edges that face them.
    corner = torch.cat([faces, new], 1)
    corner_uv = torch.cat([uv, torch.lerp(uv[:, [1, 2, 0]], uv[:, [2, 0, 1]], along)], 1)
    pieces, piece_uv = [], []
    number = (new >= 0).long() @ torch.tensor([1, 2, 4])
    for code in range(8):
        rows = (number == code).nonzero()[:, 0]
        for piece in _PIECES[code]:
            pieces.append(corner[rows][:, list(piece)])
            piece_uv.append(corner_uv[rows][:, list(piece)])

    def extended(values: Tensor) -> Tensor:
        return torch.cat([values, torch.lerp(values[edges[:, 0]], values[edges[:, 1]], share[:, None])])

    return Mesh(
        extended(vertices),
        torch.cat(pieces),
        None if mesh.colours is None else extended(mesh.colours.detach().cpu()),
        None if mesh.uv is None else torch.cat(piece_uv),
        mesh.texture,
    )


def _pieces() -> list[list[tuple[int, int, int]]]:
    """Triangles that remain of one, by which of its edges are halved: bit i for the edge that faces corner i."""
    out: list[list[tuple[int, int, int]]] = []
    for code in range(8):
        halved_edges = [i for i in range(3) if code >> i & 1]
        if not halved_edges:
            out.append([(0, 1, 2)])
        elif len(halved_edges) == 1:
            a = halved_edges[0]
            b, c = (a + 1) % 3, (a + 2) % 3
            out.append([(a, b, a + 3), (a, a + 3, c)])
        elif len(halved_edges) == 2:
            a = next(i for i in range(3) if i not in halved_edges)
            b, c = (a + 1) % 3, (a + 2) % 3
            # The edge from b to c is whole; a's corner goes, and the four points that are left are halved.
            out.append([(a, c + 3, b + 3), (c + 3, b, c), (c + 3, c, b + 3)])
        else:
            out.append([(0, 5, 4), (5, 1, 3), (4, 3, 2), (3, 4, 5)])
    return out


_PIECES = _pieces()
