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

from headsculpt.export.head_motion import ALONG, EYE, JOINTS, MOVES, OFF, SHAPES, SIDE, WEIGHTS, HeadMotion
from headsculpt.export.mouth import Mouth, line_of, lip_crossings, opened
from headsculpt.export.splitting import border, with_split_edges
from headsculpt.heads.builtin import checked_weights, rotation_matrix
from headsculpt.meshes import Mesh, unique_edges

log = logging.getLogger(__name__)

SKIN = 0.012  # scene units: what stands off by no more lies on the skin, and moves just as it does
NEAR = 0.08  # scene units: edges further off are not halved
ERROR = 0.0015  # scene units: edges are halved until no expression bends one by more
OPEN = 0.15  # weight of jawOpen at rest, from which on a mouth is open
SHORTEST = 0.008  # scene units: edges shorter than this are not halved


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


def rigged(
    mesh: Mesh, identity: Mapping[str, float], expression: Mapping[str, float], *, teeth: bool = True
) -> tuple[Mesh, Rig]:
    """A sculpture that can move: its mesh, finer where the face bends, and its rig.

    Args:
        mesh: scene units; UVs and texture are kept.
        identity, expression: weights of the built-in head that it was sculpted from.
        teeth: whether it has some; a mouth that is open at rest shows what is painted on it.

    Returns:
        the mesh, of the same surface, and the rig of its vertices.
    """
    motion = HeadMotion(identity, expression)
    mesh, values = halved(mesh, motion)
    mesh, values = _with_lids(mesh, values, motion)
    mesh, values, mouth = _with_mouth(mesh, values, motion, teeth and expression.get("jawOpen", 0.0) < OPEN)
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


def _with_mouth(
    mesh: Mesh, values: Tensor, motion: HeadMotion, teeth: bool
) -> tuple[Mesh, Tensor, Mouth | None]:
    """The mesh with a mouth that opens, where it has a line between its lips, and what its vertices do."""
    edges, share = lip_crossings(mesh, values, motion)
    if len(edges):
        count = len(mesh.vertices)
        split = with_split_edges(mesh, edges, share)
        more = torch.cat([values, motion.at(split.vertices[count:])])
        line = line_of(split, np.arange(count, len(split.vertices)), more[:, ALONG].numpy())
        made = None if line is None else opened(split, line, more[:, SIDE].numpy(), teeth=teeth)
        if made is not None:
            opened_mesh, mouth = made
            inner = mouth.upper[1:-1]
            more = torch.cat([more, more[inner], more[inner]])
            for lip, upper in ((mouth.upper[1:-1], True), (mouth.lower[1:-1], False)):
                more[lip, MOVES] = motion.lip(opened_mesh.vertices[lip], upper=upper)
            return opened_mesh, more, mouth
    log.info("the mouth cannot be cut open: the rig stretches it")
    return mesh, values, None


def _with_lids(mesh: Mesh, values: Tensor, motion: HeadMotion) -> tuple[Mesh, Tensor]:
    """The mesh with vertices along the rims of the eyelids, which move as lids do, so that lids have smooth edges."""
    edges = unique_edges(mesh.faces.cpu())
    eye = values[:, EYE] > 0.5
    ends = eye[edges]
    edges = edges[(ends[:, 0] != ends[:, 1]) & (values[edges, OFF] < NEAR).all(1)]
    if not len(edges):
        return mesh, values
    low, high = border(mesh, edges, eye, lambda points: motion.at(points)[:, EYE] > 0.5)
    skin = torch.where(eye[edges[:, 0]], high, low)
    vertices = mesh.vertices.detach().cpu().float()[edges]
    rim = motion.at(torch.lerp(vertices[:, 0], vertices[:, 1], skin[:, None]))
    return with_split_edges(mesh, edges, 0.5 * (low + high)), torch.cat([values, rim])


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
        ValueError: a name that the rig does not have (the nearest ones are suggested), a number that is not finite, or
            a turn that is not three numbers.
    """
    points = mesh.vertices.detach().cpu().double().numpy().copy()
    for name, weight in checked_weights("expression", expression or {}, rig.expressions).items():
        points += weight * rig.expressions[name]
    turns = {name: np.asarray(list(turn), float) for name, turn in (pose or {}).items()}
    checked_weights("joint", dict.fromkeys(turns, 0.0), rig.names)
    for name, turn in turns.items():
        if turn.shape != (3,) or not np.isfinite(turn).all():
            raise ValueError(f"joint {name!r} is turned by {turn.tolist()}; expected 3 finite numbers: x, y and z")
    transforms: list[NDArray] = []
    for name, parent, joint in zip(rig.names, rig.parents, rig.joints, strict=True):
        local = np.eye(4)
        local[:3, :3] = rotation_matrix(turns.get(name, np.zeros(3)))
        local[:3, 3] = joint - local[:3, :3] @ joint
        transforms.append(local if parent < 0 else transforms[parent] @ local)
    blended = np.einsum("vj,jab->vab", rig.weights, np.stack(transforms)[:, :3])
    points = np.einsum("vab,vb->va", blended[:, :, :3], points) + blended[:, :, 3]
    return Mesh(torch.from_numpy(points.astype(np.float32)), mesh.faces, mesh.colours, mesh.uv, mesh.texture)
