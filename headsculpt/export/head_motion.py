"""How the built-in head moves, and which of its parts are near, at any point of space."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headsculpt.heads import template as layout
from headsculpt.heads.builtin import Head, builtin_head
from headsculpt.heads.expressions import EXPRESSION_NAMES

SUNK = 0.02  # scene units: eyes go back by as much behind shut lids
HIDDEN = ("upper_teeth", "lower_teeth", "tongue")
JOINTS = ("root", "neck", "jaw")  # eyes are painted on the surface, and look around by expressions
FAR = 9.0  # SIDE and ALONG of what is not skin
# What the head's points do, column by column: displacements by the expressions, weights of the joints; on which side
# of the line between the lips they lie (below 0 above it) and where along it (-1 and 1 are the corners); whether they
# are of an eye (1, else 0); how far off they are.
_ENDS = (3 * len(EXPRESSION_NAMES), 3 * len(EXPRESSION_NAMES) + len(JOINTS))
SHAPES, WEIGHTS, MOVES = slice(0, _ENDS[0]), slice(*_ENDS), slice(0, _ENDS[1])
SIDE, ALONG, EYE, OFF = range(_ENDS[1], _ENDS[1] + 4)


class HeadMotion:
    """How the head moves that a sculpture was made from, at any point of space.

    Args:
        identity, expression: weights of the built-in head.
    """

    def __init__(self, identity: Mapping[str, float], expression: Mapping[str, float]) -> None:
        self.head: Head = builtin_head()
        self.vertices = self.head.vertices(identity, expression)
        shapes = np.stack([self.head.expression_shapes[name] for name in self.head.expression_names], 1)
        for side in ("Left", "Right"):
            # A sculpture's painted eye may stand a little before the eyeball, and would show through the lid.
            eye, blink = self.head.parts[f"{side.lower()}_eyeball"], EXPRESSION_NAMES.index(f"eyeBlink{side}")
            shapes[eye, blink, 2] -= SUNK
        weights = self.head.skinning_weights.copy()
        eyes = [self.head.joint_names.index(name) for name in ("left_eye", "right_eye")]
        weights[:, self.head.joint_names.index("neck")] += weights[:, eyes].sum(1)
        weights = weights[:, [self.head.joint_names.index(name) for name in JOINTS]]
        self._values = torch.from_numpy(
            np.concatenate([shapes.reshape(len(shapes), -1), weights, self._places()], 1)
        )
        # Not of what no sculpture shows: behind parted lips teeth are nearer than these, and behind the corners of the
        # eyes their sockets.
        half = np.abs(layout.columns_deg() - layout.EYE_AZIMUTH_DEG) < layout.EYE_HALF_WIDTH_DEG
        sockets = self.head.skin_grid[layout.LID_ROWS[0] + 1 : layout.LID_ROWS[1]]
        sockets = sockets[:, np.concatenate([half, half[-2:0:-1]])]
        hidden = np.concatenate([sockets.ravel(), *(self.head.parts[name] for name in HIDDEN)])
        faces = self.head.faces[~np.isin(self.head.faces, hidden).any(1)]
        self._vertices, self._faces = torch.from_numpy(self.vertices), torch.from_numpy(faces).long()

    def at(self, points: Tensor) -> Tensor:
        """What the head's points do that are nearest to ``points (N, 3)``.

        Returns:
            ``(N, K)`` float32, in the columns SHAPES, WEIGHTS, SIDE, ALONG, EYE and OFF.
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
        edge = edge[np.abs(self._values[edge, ALONG].numpy()) <= 1]
        edge = edge[np.argsort(self.vertices[edge, 0])]
        x, values = self.vertices[edge, 0], self._values[edge, MOVES].numpy()
        wanted = points[:, 0].numpy()
        after = np.clip(np.searchsorted(x, wanted), 1, len(x) - 1)
        share = np.clip((wanted - x[after - 1]) / (x[after] - x[after - 1]), 0, 1)[:, None]
        return torch.from_numpy(((1 - share) * values[after - 1] + share * values[after]).astype(np.float32))

    def _places(self) -> NDArray:
        """``(V, 3)`` float32: SIDE in rows of the skin, ALONG, EYE."""
        places = np.full((len(self.vertices), 3), FAR, np.float32)
        grid = self.head.skin_grid
        places[grid, 0] = np.arange(len(grid))[:, None] - 0.5 * sum(layout.LIP_ROWS)
        half = layout.columns_deg()
        places[grid, 1] = np.concatenate([half, -half[-2:0:-1]])[None] / layout.MOUTH_HALF_WIDTH_DEG
        places[:, 2] = 0.0
        for side in ("left", "right"):
            places[self.head.parts[f"{side}_eyeball"], 2] = 1.0
        return places
