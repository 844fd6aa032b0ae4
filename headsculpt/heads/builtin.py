"""The built-in parametric head: identity, expression, pose, regions, landmarks and a rig. Made by code alone.

>>> head = builtin_head()
>>> vertices = head.vertices({"nose_size": 0.8}, {"jawOpen": 0.5})
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from headsculpt.heads.expressions import EXPRESSION_NAMES, build_expressions
from headsculpt.heads.identity import IDENTITY_NAMES, build_identity
from headsculpt.heads.regions import (
    JOINT_NAMES,
    JOINT_PARENTS,
    build_anchor_indices,
    build_landmarks,
    build_regions,
    build_skinning,
)
from headsculpt.heads.template import build_template

EMPTY: Mapping[str, float] = {}


@dataclass(frozen=True, eq=False)
class Head:
    """A parametric head with fixed topology, in scene units (see :mod:`headsculpt.cameras`).

    Attributes:
        template: ``(V, 3)`` float32, at rest.
        faces: ``(F, 3)`` int32, counter-clockwise from outside.
        uv: ``(V, 2)`` float32 in [0, 1]; the skin is a disc around the crown, without a seam.
        identity_shapes: name -> ``(V, 3)`` float32, displacement at weight 1.
        expression_shapes: name -> ``(V, 3)`` float32, displacement at weight 1.
        skin_grid: ``(R, C)`` int32; rows crown to cut, columns around, column 0 in front, then the left side.
        parts: name -> vertex indices of crown, cut, ears, eyeballs, teeth, tongue.
        regions: name -> ``(V,)`` float32 soft mask in [0, 1].
        landmarks: name -> ``(K,)`` int32 vertex indices, ordered; left is the head's own (+X).
        skinning_weights: ``(V, J)`` float32 over ``joint_names``; rows sum to 1.
    """

    template: np.ndarray
    faces: np.ndarray
    uv: np.ndarray
    identity_shapes: dict[str, np.ndarray]
    expression_shapes: dict[str, np.ndarray]
    skin_grid: np.ndarray
    parts: dict[str, np.ndarray]
    regions: dict[str, np.ndarray]
    landmarks: dict[str, np.ndarray]
    anchor_indices: dict[str, np.ndarray]
    skinning_weights: np.ndarray
    identity_names: tuple[str, ...] = IDENTITY_NAMES
    expression_names: tuple[str, ...] = EXPRESSION_NAMES
    joint_names: tuple[str, ...] = JOINT_NAMES
    joint_parents: tuple[int, ...] = JOINT_PARENTS

    def vertices(
        self,
        identity: Mapping[str, float] = EMPTY,
        expression: Mapping[str, float] = EMPTY,
        pose: Mapping[str, Iterable[float]] | None = None,
    ) -> np.ndarray:
        """Shaped vertices.

        Args:
            identity: name -> weight, about [-1, 1].
            expression: ARKit name -> weight in [0, 1].
            pose: joint name -> ``(3,)`` rotation vector in radians (axis times angle); linear blend skinning.

        Returns:
            ``(V, 3)`` float32 scene units.

        Raises:
            ValueError: a name that the head does not have (the nearest ones are suggested), or a weight
                that is not finite.
        """
        out = self.template.copy()
        for kind, weights, shapes in (
            ("identity", identity, self.identity_shapes),
            ("expression", expression, self.expression_shapes),
        ):
            for name, weight in checked_weights(kind, weights, shapes).items():
                if weight:
                    out += np.float32(weight) * shapes[name]
        return self._posed(out, pose) if pose else out

    def anchors(self, vertices: np.ndarray) -> dict[str, Any]:
        """Places that hair, glasses and hats hang on.

        Args:
            vertices: ``(V, 3)`` of this head.

        Returns:
            Points ``(3,)``: nose_bridge, nose_tip, chin, crown, forehead, back, mouth, neck_base (inside the
            neck) and, each with left_ or right_: eye (the eyeball's centre), cornea, ear, ear_lobe,
            ear_tip, temple, mouth_corner. Numbers in scene units: brow_height (y), head_half_width
            (at the temples), head_depth (forehead to back), eye_radius.
        """
        out: dict[str, Any] = {
            name: vertices[indices].mean(0) for name, indices in self.anchor_indices.items() if name != "brow"
        }
        eye = vertices[self.parts["left_eyeball"]]
        skull = vertices[self.skin_grid[:30]]
        out["brow_height"] = float(vertices[self.anchor_indices["brow"]][0, 1])
        out["head_half_width"] = float(np.abs(skull[..., 0]).max())
        out["head_depth"] = float(skull[..., 2].max() - skull[..., 2].min())
        out["eye_radius"] = float(0.5 * (eye[:, 0].max() - eye[:, 0].min()))
        return out

    def joints(self, vertices: np.ndarray) -> dict[str, np.ndarray]:
        """Joint name -> ``(3,)`` position for these vertices, in the order of ``joint_names``."""
        grid, ears = self.skin_grid, [self.anchor_indices[f"{s}_ear"] for s in ("left", "right")]
        base = vertices[self.anchor_indices["neck_base"]].mean(0)
        middle = 0.5 * (vertices[ears[0]].mean(0) + vertices[ears[1]].mean(0))
        return {
            "root": np.array([0.0, vertices[grid[-1], 1].mean(), base[2]], np.float32),
            "neck": base.astype(np.float32),
            "jaw": (middle + np.array([0.0, -0.07, 0.06])).astype(np.float32),
            "left_eye": vertices[self.anchor_indices["left_eye"]].mean(0),
            "right_eye": vertices[self.anchor_indices["right_eye"]].mean(0),
        }

    def _posed(self, vertices: np.ndarray, pose: Mapping[str, Iterable[float]]) -> np.ndarray:
        positions = self.joints(vertices)
        for name in pose:
            if name not in positions:
                raise ValueError(_unknown("joint", name, positions))
        transforms: list[np.ndarray] = []
        for joint, parent in zip(self.joint_names, self.joint_parents, strict=True):
            local = np.eye(4)
            rotation = rotation_matrix(np.asarray(list(pose.get(joint, (0.0, 0.0, 0.0))), float))
            local[:3, :3] = rotation
            local[:3, 3] = positions[joint] - rotation @ positions[joint]
            transforms.append(local if parent < 0 else transforms[parent] @ local)
        stacked = np.stack(transforms)[:, :3].astype(np.float32)
        blended = np.einsum("vj,jab->vab", self.skinning_weights, stacked)
        return np.einsum("vab,vb->va", blended[:, :, :3], vertices) + blended[:, :, 3]


def rotation_matrix(vector: np.ndarray) -> np.ndarray:
    """``(3, 3)`` rotation of a rotation vector ``(3,)`` in radians (Rodrigues)."""
    angle = float(np.linalg.norm(vector))
    if angle < 1e-9:
        return np.eye(3)
    x, y, z = vector / angle
    k = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * k + (1 - np.cos(angle)) * (k @ k)


def checked_weights(kind: str, weights: Mapping[str, float], known: Iterable[str]) -> Mapping[str, float]:
    """The weights themselves; ValueError for an unknown name (the nearest ones are suggested) or one not finite."""
    names = set(known)
    for name, weight in weights.items():
        if name not in names:
            raise ValueError(_unknown(kind, name, names))
        if not np.isfinite(weight):
            raise ValueError(f"{kind} {name!r} has weight {weight}; expected a finite number")
    return weights


def _unknown(kind: str, name: str, known: Iterable[str]) -> str:
    names = sorted(known)
    by_lower = {n.lower(): n for n in names}
    close = [by_lower[n] for n in difflib.get_close_matches(str(name).lower(), by_lower, n=3, cutoff=0.5)]
    hint = (
        f"did you mean {' or '.join(repr(n) for n in close)}?"
        if close
        else f"expected one of {', '.join(names)}"
    )
    return f"the built-in head has no {kind} named {name!r}; {hint}"


@lru_cache(maxsize=1)
def builtin_head() -> Head:
    """The head, built once per process (about half a second)."""
    template = build_template()
    return Head(
        template=template.vertices.astype(np.float32),
        faces=template.faces,
        uv=template.uv.astype(np.float32),
        identity_shapes=build_identity(template),
        expression_shapes=build_expressions(template),
        skin_grid=template.grid,
        parts=template.parts,
        regions=build_regions(template),
        landmarks=build_landmarks(template),
        anchor_indices=build_anchor_indices(template),
        skinning_weights=build_skinning(template),
    )
