"""A mouth that opens: a sculpture's face is one closed surface, which is cut here between the lips.

Behind the cut lies a pocket, so the surface stays closed. At rest its lips touch, and nothing of it is seen.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headsculpt.export.bake import texel_positions
from headsculpt.export.head_motion import ALONG, SIDE, HeadMotion
from headsculpt.export.splitting import border
from headsculpt.meshes import Mesh, unique_edges

DEEP = 0.13  # scene units: the pocket goes straight back, so that it shows nowhere until the lips part
APART = 2e-4  # scene units between the lips, so that programs that join vertices do not join these
CORNER = 0.95  # of the mouth's half width: as far as it is cut
PATCH = 4  # texels from the middle of the pocket's patch of texture to its edge
INSIDE = (0.30, 0.10)  # how bright the pocket is behind the lips and at its end; the lips are 1


@dataclass
class Mouth:
    """Where a mesh was cut.

    Attributes:
        upper, lower: ``(N,)`` int64, vertices of the lips from corner to corner; the first and last are the same ones.
        back: ``(N - 2,)`` int64, the pocket's own vertices, behind each of the others.
        outer: the faces that come before the pocket's.
    """

    upper: NDArray
    lower: NDArray
    back: NDArray
    outer: int


def lip_crossings(mesh: Mesh, values: Tensor, motion: HeadMotion) -> tuple[Tensor, Tensor]:
    """The edges that lie across the line between the lips.

    Args:
        mesh: V vertices.
        values: ``(V, K)``, what ``motion`` has there.
        motion: of the head that the mesh was sculpted from.

    Returns:
        ``(E, 2)`` vertices, and ``(E,)`` where along the edge the line is.
    """
    edges, below = unique_edges(mesh.faces.cpu()), values[:, SIDE] > 0
    ends = below[edges]
    edges = edges[(ends[:, 0] != ends[:, 1]) & (values[edges, ALONG].abs() < 1.5).all(1)]
    low, high = border(mesh, edges, below, lambda points: motion.at(points)[:, SIDE] > 0)
    share = 0.5 * (low + high)
    vertices = mesh.vertices.detach().cpu().float()[edges]
    middle = motion.at(torch.lerp(vertices[:, 0], vertices[:, 1], share[:, None]))
    between = middle[:, ALONG].abs() < CORNER
    return edges[between], share[between]


def line_of(mesh: Mesh, new: NDArray, across: NDArray) -> NDArray | None:
    """The vertices ``new`` in order from the head's right corner of the mouth to its left.

    Args:
        mesh: with a vertex wherever an edge crosses the line.
        new: those vertices.
        across: ``(V,)`` where along the mouth: 0 in its middle, -1 and 1 at its corners.

    Returns:
        ``(N,)``; None where they are not one line from about one corner to the other.
    """
    faces = mesh.faces.cpu().numpy()
    is_new = np.zeros(len(mesh.vertices), bool)
    is_new[new] = True
    sides = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    sides = np.unique(np.sort(sides[is_new[sides].all(1)], 1), axis=0)
    neighbours: dict[int, list[int]] = {int(v): [] for v in new}
    for a, b in sides.tolist():
        neighbours[a].append(b)
        neighbours[b].append(a)
    best: list[int] = []
    seen: set[int] = set()
    for start in sorted(v for v, near in neighbours.items() if len(near) == 1):
        if start in seen:
            continue
        line = [start]
        while True:
            seen.add(line[-1])
            onward = [v for v in neighbours[line[-1]] if v not in seen]
            if len(onward) != 1:
                break
            line.append(onward[0])
        # Where a line forks there is no telling the lips apart.
        if not onward and len(neighbours[line[-1]]) == 1 and len(line) > len(best):
            best = line
    if len(best) < 5 or abs(across[best[0]] - across[best[-1]]) < 1.2:
        return None
    return np.array(best if across[best[0]] < across[best[-1]] else best[::-1])


def opened(mesh: Mesh, line: NDArray, side: NDArray) -> tuple[Mesh, Mouth] | None:
    """The mesh with its lips parted along ``line`` and a pocket behind; None where its texture has no room for that.

    Args:
        mesh: closed.
        line: ``(N,)`` vertices from corner to corner, each joined to the next by an edge.
        side: ``(V,)`` below 0 above the line, above 0 below it; not read at its vertices.
    """
    vertices, faces = mesh.vertices.detach().cpu().float().numpy(), mesh.faces.cpu().numpy().copy()
    painted = _painted(mesh, line)
    if painted is None:
        return None
    texture, place = painted
    count, inner = len(vertices), line[1:-1]
    mouth = Mouth(line.copy(), line.copy(), count + len(inner) + np.arange(len(inner)), len(faces))
    mouth.lower[1:-1] = count + np.arange(len(inner))
    on_line = np.isin(faces, line)
    below = on_line.any(1) & (np.where(on_line, 0, side[faces]).sum(1) > 0)
    renamed = np.arange(count)
    renamed[inner] = mouth.lower[1:-1]
    faces[below] = renamed[faces[below]]

    # It has no room at the corners.
    wide = np.sqrt(1 - np.linspace(-1, 1, len(line))[1:-1, None] ** 2)
    lower, back = vertices[inner] - [0, APART, 0], vertices[inner] - wide * [0, 0, DEEP]
    pocket, depth = _pocket(mouth)
    if _runs(faces, line[0], line[1]) == _runs(pocket, line[0], line[1]):  # they would face each other's back
        pocket, depth = pocket[:, ::-1].copy(), depth[:, ::-1].copy()
    u, v, span = place
    uv = np.stack([np.full_like(depth, u), v + (depth - 0.5) * span], -1).astype(np.float32)
    colours = None if mesh.colours is None else mesh.colours.detach().cpu()
    made = Mesh(
        torch.from_numpy(np.concatenate([vertices, lower, back]).astype(np.float32)),
        torch.from_numpy(np.concatenate([faces, pocket])),
        None if colours is None else torch.cat([colours, colours[inner], colours[inner]]),
        None if mesh.uv is None else torch.cat([mesh.uv, torch.from_numpy(uv)]),
        texture,
    )
    return made, mouth


def _pocket(mouth: Mouth) -> tuple[NDArray, NDArray]:
    """Faces ``(P, 3)`` from the upper lip to the back and to the lower lip, and how deep their corners lie, 0 or 1."""
    back = np.concatenate([mouth.upper[:1], mouth.back, mouth.upper[-1:]])
    faces, depths = [], []
    for a, b, deep in ((mouth.upper, back, (0.0, 1.0)), (back, mouth.lower, (1.0, 0.0))):
        faces += [np.stack([a[:-1], b[:-1], b[1:]], 1), np.stack([a[:-1], b[1:], a[1:]], 1)]
        depths += [np.tile([deep[i] for i in ends], (len(a) - 1, 1)) for ends in ((0, 1, 1), (0, 1, 0))]
    made, depth = np.concatenate(faces), np.concatenate(depths)
    # At a corner a face of two points is none.
    whole = (made[:, 0] != made[:, 1]) & (made[:, 1] != made[:, 2]) & (made[:, 2] != made[:, 0])
    return made[whole], depth[whole]


def _runs(faces: NDArray, start: int, end: int) -> bool:
    """Whether a face has the edge from ``start`` to ``end``, in this direction."""
    return bool(((faces == start) & (np.roll(faces, -1, 1) == end)).any())


def _painted(mesh: Mesh, line: NDArray) -> tuple[NDArray | None, tuple[float, float, float]] | None:
    """The texture with the pocket's colours on it, and where: u and v in the middle, and how far v spans.

    None where the texture has no free place for them; a mesh without texture needs none.
    """
    from scipy.ndimage import distance_transform_cdt

    if mesh.texture is None or mesh.uv is None:
        return mesh.texture, (0.0, 0.0, 0.0)
    size, width = mesh.texture.shape[:2]
    if size != width:
        return None
    _, covered = texel_positions(mesh, size)
    free = distance_transform_cdt(np.pad(~covered.numpy(), 1), metric="chessboard")[1:-1, 1:-1]
    row, column = (int(i) for i in np.unravel_index(int(free.argmax()), free.shape))
    if free[row, column] <= PATCH + 2:
        return None
    at = torch.from_numpy(np.isin(mesh.faces.cpu().numpy(), line))
    uv = mesh.uv[at].numpy()
    lips = mesh.texture[
        np.clip(((1 - uv[:, 1]) * size).astype(int), 0, size - 1),
        np.clip((uv[:, 0] * size).astype(int), 0, size - 1),
    ]
    texture = mesh.texture.copy()
    # Darkest at the top of the patch, where v is highest: that is the back.
    shades = np.linspace(INSIDE[1], INSIDE[0], 2 * PATCH + 1)[:, None, None]
    rows, columns = slice(row - PATCH, row + PATCH + 1), slice(column - PATCH, column + PATCH + 1)
    texture[rows, columns] = (shades * np.median(lips.astype(np.float32), 0)).astype(np.uint8)
    return texture, ((column + 0.5) / size, 1 - (row + 0.5) / size, 2 * (PATCH - 1) / size)
