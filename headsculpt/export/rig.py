"""A rig for a sculpture: it moves as the built-in head moves that it was sculpted from.

A sculpture's face lies on that head, and hair, hats and beards stand off from it. So each point takes the joints'
weights and the 52 ARKit expressions of the head's nearest point, and these are then evened out along the sculpture's
own surface, by as much as a point stands off: a beard follows the jaw as a whole, and a brim no eyelid. The method is
ours; none of the papers rigs its heads.

Letters: V vertices and F faces of a mesh, J joints.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headsculpt.export.mouth import Mouth, crossing, line_of, opened
from headsculpt.heads import template as layout
from headsculpt.heads.builtin import Head, builtin_head, rotation_matrix
from headsculpt.heads.expressions import EXPRESSION_NAMES
from headsculpt.meshes import Mesh, unique_edges

log = logging.getLogger(__name__)

SKIN = 0.012  # scene units: what stands off by no more lies on the skin, and moves just as it does
NEAR = 0.08  # scene units: edges further off are not halved
ERROR = 0.0015  # scene units: edges are halved until no expression bends one by more
SHORTEST = 0.008  # scene units: edges shorter than this are not halved
HIDDEN = ("upper_teeth", "lower_teeth", "tongue")
JOINTS = ("root", "neck", "jaw")  # eyes are painted on the surface, and look around by expressions
# What the head's points do, column by column: displacements by the expressions, weights of the joints; on which side
# of the line between the lips they lie (below 0 above it) and where along it (-1 and 1 are the corners); how far off
# they are.
_ENDS = (3 * len(EXPRESSION_NAMES), 3 * len(EXPRESSION_NAMES) + len(JOINTS))
SHAPES, WEIGHTS, MOVES = slice(0, _ENDS[0]), slice(*_ENDS), slice(0, _ENDS[1])
PLACE, OFF = slice(_ENDS[1], _ENDS[1] + 2), _ENDS[1] + 2


@dataclass
class Rig:
    """How a mesh moves.

    Attributes:
        names: of the joints, J.
        parents: index of each joint's parent, -1 for the first.
        joints: ``(J, 3)`` float32 scene units, at rest; all unturned.
        weights: ``(V, J)`` float32, how far a vertex follows each joint; rows sum to 1 (linear blend skinning).
        expressions: ARKit's 52 names -> ``(V, 3)`` float32 scene units, displacement at weight 1.
    """

    names: tuple[str, ...]
    parents: tuple[int, ...]
    joints: NDArray
    weights: NDArray
    expressions: dict[str, NDArray]


class HeadMotion:
    """How the head moves that a sculpture was made from, at any point of space.

    Args:
        identity, expression: weights of the built-in head.
    """

    def __init__(self, identity: Mapping[str, float], expression: Mapping[str, float]) -> None:
        self.head: Head = builtin_head()
        self.vertices = self.head.vertices(identity, expression)
        shapes = np.stack([self.head.expression_shapes[name] for name in self.head.expression_names], 1)
        weights = self.head.skinning_weights.copy()
        eyes = [self.head.joint_names.index(name) for name in ("left_eye", "right_eye")]
        weights[:, self.head.joint_names.index("neck")] += weights[:, eyes].sum(1)
        weights = weights[:, [self.head.joint_names.index(name) for name in JOINTS]]
        self._values = torch.from_numpy(
            np.concatenate([shapes.reshape(len(shapes), -1), weights, self._mouth()], 1)
        )
        # Not of what no sculpture shows: behind parted lips, teeth are nearer than these.
        hidden = np.concatenate([self.head.parts[name] for name in HIDDEN])
        faces = self.head.faces[~np.isin(self.head.faces, hidden).any(1)]
        self._vertices, self._faces = torch.from_numpy(self.vertices), torch.from_numpy(faces).long()

    def at(self, points: Tensor) -> Tensor:
        """What the head's points do that are nearest to ``points (N, 3)``.

        Returns:
            ``(N, K)`` float32, in the columns SHAPES, WEIGHTS, PLACE and OFF.
        """
        from headsculpt.representations.mesh_distance import closest_weights, nearest_face

        face = self._faces[nearest_face(points, self._vertices, self._faces)]
        corners = self._vertices[face]
        share = closest_weights(points, corners)[..., None]
        off = (points - (share * corners).sum(1)).norm(dim=-1, keepdim=True)
        return torch.cat([(share * self._values[face]).sum(1), off], 1)

    def lip(self, points: Tensor, *, upper: bool) -> Tensor:
        """What the edge of a lip does that is as far to the side as ``points``: ``(N, ...)``, in SHAPES and WEIGHTS."""
        edge = self.head.skin_grid[layout.LIP_ROWS[0 if upper else 1]]
        edge = edge[np.abs(self._values[edge, PLACE][:, 1].numpy()) <= 1]
        edge = edge[np.argsort(self.vertices[edge, 0])]
        x, values = self.vertices[edge, 0], self._values[edge, MOVES].numpy()
        wanted = points[:, 0].numpy()
        after = np.clip(np.searchsorted(x, wanted), 1, len(x) - 1)
        share = np.clip((wanted - x[after - 1]) / (x[after] - x[after - 1]), 0, 1)[:, None]
        return torch.from_numpy(((1 - share) * values[after - 1] + share * values[after]).astype(np.float32))

    def _mouth(self) -> NDArray:
        """``(V, 2)`` float32: rows of the skin below the line between the lips, and where along the mouth."""
        places = np.full((len(self.vertices), 2), 9.0, np.float32)
        grid = self.head.skin_grid
        places[grid, 0] = np.arange(len(grid))[:, None] - 0.5 * sum(layout.LIP_ROWS)
        half = layout.columns_deg()
        places[grid, 1] = np.concatenate([half, -half[-2:0:-1]])[None] / layout.MOUTH_HALF_WIDTH_DEG
        return places


def rigged(mesh: Mesh, identity: Mapping[str, float], expression: Mapping[str, float]) -> tuple[Mesh, Rig]:
    """A sculpture that can move: its mesh, finer where the face bends, and its rig.

    Args:
        mesh: scene units; UVs and texture are kept.
        identity, expression: weights of the built-in head that it was sculpted from.

    Returns:
        the mesh, of the same surface, and the rig of its vertices.
    """
    motion = HeadMotion(identity, expression)
    mesh, values = halved(mesh, motion)
    mesh, values, mouth = _with_mouth(mesh, values, motion)
    reach = np.maximum(values[:, OFF].numpy() - SKIN, 0)
    if mouth is None:
        moves = evened_out(mesh, values[:, MOVES].numpy(), reach)
    else:
        # Not through the pocket, which would join the lips.
        surface = Mesh(mesh.vertices, mesh.faces[: mouth.outer])
        moves = evened_out(surface, values[:, MOVES].numpy(), reach)
        moves[mouth.back] = 0.5 * (moves[mouth.upper[1:-1]] + moves[mouth.lower[1:-1]])
    names = motion.head.expression_names
    shapes = moves[:, SHAPES].reshape(len(moves), len(names), 3)
    weights = np.clip(moves[:, WEIGHTS], 0, 1)
    joints = motion.head.joints(motion.vertices)
    return mesh, Rig(
        JOINTS,
        tuple(range(-1, len(JOINTS) - 1)),
        np.stack([joints[name] for name in JOINTS]).astype(np.float32),
        (weights / weights.sum(1, keepdims=True)).astype(np.float32),
        {name: np.ascontiguousarray(shapes[:, i], np.float32) for i, name in enumerate(names)},
    )


def _with_mouth(mesh: Mesh, values: Tensor, motion: HeadMotion) -> tuple[Mesh, Tensor, Mouth | None]:
    """The mesh with a mouth that opens, where it has a line between its lips, and what its vertices do."""
    edges, share = crossing(mesh, values[:, PLACE], lambda points: motion.at(points)[:, PLACE])
    if len(edges):
        count = len(mesh.vertices)
        split = with_split_edges(mesh, edges, share)
        more = torch.cat([values, motion.at(split.vertices[count:])])
        line = line_of(split, np.arange(count, len(split.vertices)), more[:, PLACE][:, 1].numpy())
        made = None if line is None else opened(split, line, more[:, PLACE][:, 0].numpy())
        if made is not None:
            opened_mesh, mouth = made
            inner = mouth.upper[1:-1]
            more = torch.cat([more, more[inner], more[inner]])
            for lip, upper in ((mouth.upper[1:-1], True), (mouth.lower[1:-1], False)):
                more[lip, MOVES] = motion.lip(opened_mesh.vertices[lip], upper=upper)
            return opened_mesh, more, mouth
    log.info("the mouth cannot be cut open: the rig stretches it")
    return mesh, values, None


def halved(mesh: Mesh, motion: HeadMotion, rounds: int = 4) -> tuple[Mesh, Tensor]:
    """The same surface with edges halved where an expression bends them, until ERROR or SHORTEST is reached.

    Returns:
        the mesh, and what ``motion`` has at its vertices.
    """
    values = motion.at(mesh.vertices.detach().cpu().float())
    for _ in range(rounds):
        vertices, edges = mesh.vertices.detach().cpu().float(), unique_edges(mesh.faces.cpu())
        ends = vertices[edges]
        long = (ends[:, 0] - ends[:, 1]).norm(dim=-1) > SHORTEST
        edges = edges[long & (values[edges, OFF] < NEAR).any(1)]
        middle = motion.at(vertices[edges].mean(1))
        between = 0.5 * (values[edges[:, 0], SHAPES] + values[edges[:, 1], SHAPES])
        bends = (middle[:, SHAPES] - between).unflatten(1, (-1, 3)).norm(dim=-1).amax(1) > ERROR
        if not bends.any():
            break
        mesh, values = with_split_edges(mesh, edges[bends]), torch.cat([values, middle[bends]])
    return mesh, values


def with_split_edges(mesh: Mesh, edges: Tensor, share: Tensor | None = None) -> Mesh:
    """The same surface with a vertex on each of some edges; closed where it was closed.

    A triangle becomes two, three or four, and its corners' UVs are divided alike.

    Args:
        mesh: V vertices.
        edges: ``(E, 2)`` int64, each once; the new vertices are V to V + E in this order.
        share: ``(E,)`` where along the edge, 0 at its first end and 1 at its second; None halves it.
    """
    share = torch.full((len(edges),), 0.5) if share is None else share
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


def evened_out(mesh: Mesh, values: NDArray, reach: NDArray) -> NDArray:
    """Values spread along a surface, by as far as is wanted at each vertex.

    One implicit step of heat: ``(A + L) u = A values`` with the vertices' areas A and the cotangent Laplacian L, whose
    edges are weighted by the square of the reach; so a step from one value to another becomes about as wide as that.

    Args:
        mesh: V vertices.
        values: ``(V, K)``.
        reach: ``(V,)`` scene units; where it is 0 all around, values stay.

    Returns:
        ``(V, K)`` float32.
    """
    from scipy.sparse import coo_matrix, diags
    from scipy.sparse.linalg import splu

    points = mesh.vertices.detach().cpu().double().numpy()
    faces = mesh.faces.cpu().numpy()
    count = len(points)
    corners = points[faces]
    double_area = np.linalg.norm(
        np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1
    )
    area = np.bincount(faces.ravel(), np.repeat(double_area / 6, 3), count) + 1e-12
    laplacian = coo_matrix((count, count)).tocsr()
    for i in range(3):
        j, k = (i + 1) % 3, (i + 2) % 3
        one, other = corners[:, j] - corners[:, i], corners[:, k] - corners[:, i]
        # Never negative, so that no value leaves the range of those around it.
        cotangent = np.clip((one * other).sum(1) / np.maximum(double_area, 1e-12), 0.0, 50.0)
        squared = 0.5 * (reach[faces[:, j]] ** 2 + reach[faces[:, k]] ** 2)
        weight = 0.5 * cotangent * squared
        rows = np.concatenate([faces[:, j], faces[:, k]])
        columns = np.concatenate([faces[:, k], faces[:, j]])
        edge = coo_matrix((np.concatenate([weight, weight]), (rows, columns)), shape=(count, count)).tocsr()
        laplacian = laplacian + diags(np.asarray(edge.sum(1)).ravel()) - edge
    solver = splu((diags(area) + laplacian).tocsc())
    return solver.solve(area[:, None] * values.astype(np.float64)).astype(np.float32)


def posed(
    mesh: Mesh,
    rig: Rig,
    expression: Mapping[str, float] | None = None,
    pose: Mapping[str, Iterable[float]] | None = None,
) -> Mesh:
    """The mesh with an expression and a pose, as programs that read its GLB would show it.

    Args:
        mesh, rig: as :func:`rigged` gives them.
        expression: ARKit name -> weight in [0, 1].
        pose: joint name -> ``(3,)`` rotation vector in radians (axis times angle).

    Raises:
        ValueError: a name that the rig does not have (the nearest ones are suggested), or a number that is not finite.
    """
    from headsculpt.heads.builtin import checked_weights

    points = mesh.vertices.detach().cpu().double().numpy().copy()
    for name, weight in checked_weights("expression", expression or {}, rig.expressions).items():
        points += weight * rig.expressions[name]
    turns = {name: np.asarray(list(turn), float) for name, turn in (pose or {}).items()}
    checked_weights("joint", {name: float(turn.sum()) for name, turn in turns.items()}, rig.names)
    transforms: list[NDArray] = []
    for name, parent, joint in zip(rig.names, rig.parents, rig.joints, strict=True):
        local = np.eye(4)
        local[:3, :3] = rotation_matrix(turns.get(name, np.zeros(3)))
        local[:3, 3] = joint - local[:3, :3] @ joint
        transforms.append(local if parent < 0 else transforms[parent] @ local)
    blended = np.einsum("vj,jab->vab", rig.weights, np.stack(transforms)[:, :3])
    points = np.einsum("vab,vb->va", blended[:, :, :3], points) + blended[:, :, 3]
    return Mesh(torch.from_numpy(points.astype(np.float32)), mesh.faces, mesh.colours, mesh.uv, mesh.texture)
