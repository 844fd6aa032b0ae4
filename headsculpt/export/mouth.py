"""A mouth that opens: a sculpture's face is one closed surface, which is cut here between the lips.

Behind the cut lies a pocket, so the surface stays closed. At rest its lips touch, and nothing of it is seen. Teeth and
tongue are painted in it.
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
PATCH = (4, 16)  # texels from the middle of the pocket's patch of texture to its edge, at least and at most
INSIDE = (0.30, 0.10)  # how bright the pocket is behind the lips and at its end; the lips are 1
IVORY, TONGUE = (216.0, 206.0, 186.0), (126.0, 58.0, 58.0)
TEETH = (0.0, 0.62), (0.10, 0.26)  # where they begin and end on the way in, above and below: of those little is seen
TOOTH = 0.19  # of the mouth's half width


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


def opened(mesh: Mesh, line: NDArray, side: NDArray, *, teeth: bool = True) -> tuple[Mesh, Mouth] | None:
    """The mesh with its lips parted along ``line`` and a pocket behind; None where its texture has no room for that.

    Args:
        mesh: closed.
        line: ``(N,)`` vertices from corner to corner, each joined to the next by an edge.
        side: ``(V,)`` below 0 above the line, above 0 below it; not read at its vertices.
        teeth: whether teeth and a tongue are painted in the pocket.
    """
    vertices, faces = mesh.vertices.detach().cpu().float().numpy(), mesh.faces.cpu().numpy().copy()
    painted = _painted(mesh, line, teeth)
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
    pocket, along, depth = _pocket(mouth)
    if _runs(faces, line[0], line[1]) == _runs(pocket, line[0], line[1]):  # they would face each other's back
        pocket, along, depth = (part[:, ::-1].copy() for part in (pocket, along, depth))
    u, v, reach = place
    uv = np.stack([u + along * reach, v + depth * reach], -1).astype(np.float32)
    colours = None if mesh.colours is None else mesh.colours.detach().cpu()
    made = Mesh(
        torch.from_numpy(np.concatenate([vertices, lower, back]).astype(np.float32)),
        torch.from_numpy(np.concatenate([faces, pocket])),
        None if colours is None else torch.cat([colours, colours[inner], colours[inner]]),
        None if mesh.uv is None else torch.cat([mesh.uv, torch.from_numpy(uv)]),
        texture,
    )
    return made, mouth


def _pocket(mouth: Mouth) -> tuple[NDArray, NDArray, NDArray]:
    """Faces ``(P, 3)`` from the upper lip to the back and to the lower lip; where along the mouth their corners lie, -1
    to 1; and how deep, 0 at the lips, 1 at the back above, -1 at the back below."""
    back = np.concatenate([mouth.upper[:1], mouth.back, mouth.upper[-1:]])
    at = np.linspace(-1, 1, len(back))
    faces, alongs, depths = [], [], []
    for a, b, deep in ((mouth.upper, back, (0.0, 1.0)), (back, mouth.lower, (-1.0, 0.0))):
        faces += [np.stack([a[:-1], b[:-1], b[1:]], 1), np.stack([a[:-1], b[1:], a[1:]], 1)]
        alongs += [np.stack([at[:-1], at[:-1], at[1:]], 1), np.stack([at[:-1], at[1:], at[1:]], 1)]
        depths += [np.tile([deep[i] for i in ends], (len(at) - 1, 1)) for ends in ((0, 1, 1), (0, 1, 0))]
    made, along, depth = np.concatenate(faces), np.concatenate(alongs), np.concatenate(depths)
    # At a corner a face of two points is none.
    whole = (made[:, 0] != made[:, 1]) & (made[:, 1] != made[:, 2]) & (made[:, 2] != made[:, 0])
    return made[whole], along[whole], depth[whole]


def _runs(faces: NDArray, start: int, end: int) -> bool:
    """Whether a face has the edge from ``start`` to ``end``, in this direction."""
    return bool(((faces == start) & (np.roll(faces, -1, 1) == end)).any())


def _painted(mesh: Mesh, line: NDArray, teeth: bool) -> tuple[NDArray | None, tuple[float, float, float]] | None:
    """The texture with the pocket's colours on it, and where: u and v in the middle, and how far from there they reach.

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
    patch = min(int(free[row, column]) - 3, PATCH[1])
    if patch < PATCH[0]:
        return None
    at = torch.from_numpy(np.isin(mesh.faces.cpu().numpy(), line))
    uv = mesh.uv[at].numpy()
    lips = mesh.texture[
        np.clip(((1 - uv[:, 1]) * size).astype(int), 0, size - 1),
        np.clip((uv[:, 0] * size).astype(int), 0, size - 1),
    ]
    texture = mesh.texture.copy()
    rows, columns = slice(row - patch, row + patch + 1), slice(column - patch, column + patch + 1)
    texture[rows, columns] = _inside(patch, np.median(lips.astype(np.float32), 0), teeth).astype(np.uint8)
    return texture, ((column + 0.5) / size, 1 - (row + 0.5) / size, (patch - 1) / size)


def _inside(patch: int, lips: NDArray, teeth: bool) -> NDArray:
    """``(2 patch + 1, 2 patch + 1, 3)`` in [0, 255]: the pocket, spread out. The lips are its middle row, the back of
    its upper half is at the top, that of its lower half at the bottom; the mouth's corners are left and right."""
    places = np.clip(np.linspace(-1, 1, 2 * patch + 1) * patch / (patch - 1), -1, 1)  # as far as UVs reach
    along, deep = places[None, :, None], np.abs(places)[:, None, None]
    above = places[:, None, None] < 0
    colours = (INSIDE[0] + (INSIDE[1] - INSIDE[0]) * deep) * lips + 0 * along
    if not teeth:
        return colours
    # It lies on the floor, behind the lower teeth, and darkens towards its root.
    lies = np.clip(4 * (deep - TEETH[1][1]), 0, 1) * np.clip(3 - 4 * np.abs(along), 0, 1) * ~above
    colours = colours + lies * ((1.15 - 0.8 * deep) * np.array(TONGUE) - colours)
    begin, end = (np.where(above, *(row[i] for row in TEETH)) for i in (0, 1))
    arch = 1 - 0.5 * along**2  # molars are seen less
    texel = 1 / patch
    row = np.clip((deep - begin) / texel + 0.5, 0, 1) * np.clip((end * arch - deep) / texel + 0.5, 0, 1)
    row = row * np.clip((0.92 - np.abs(along)) / texel, 0, 1)
    gap = 1.0 - 0.22 * (np.abs((along / TOOTH + 0.5) % 1 - 0.5) < 0.5 * texel / TOOTH) * (TOOTH > 3 * texel)
    shade = np.where(above, 1.0, 0.55) * (1 - 0.45 * along**2) * gap
    return colours + row * (shade * np.array(IVORY) - colours)
