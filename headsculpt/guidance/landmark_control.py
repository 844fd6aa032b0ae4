"""Landmark control: the map of facial contours that the ControlNet sees (HeadSculpt, method A.4)."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from headsculpt.cameras import Cameras
from headsculpt.guidance.backbone import Control


class LandmarkControl:
    """Draws the landmarks of a head as each camera sees them.

    Args:
        vertices: ``(V, 3)`` float32 head in scene coordinates.
        faces: ``(F, 3)`` its triangles; used for the visibility test.
        contours: name -> ``(K,)`` vertex indices, as :class:`headsculpt.heads.builtin.Head` names them.
        size: pixels of the square map.
        rule: ``"published"`` draws every contour unless the camera is behind (HeadSculpt); ``"visible"``
            drops contour parts that the head itself hides (ours).
        drawing: ``"headsculpt"`` draws lines alone, ``"annotator"`` all that CrucibleAI's annotator draws; see
            :func:`headsculpt.heads.landmarks.draw_landmarks`.
        scale: ControlNet conditioning scale.
    """

    def __init__(
        self,
        vertices: np.ndarray,
        faces: np.ndarray,
        contours: dict[str, np.ndarray],
        *,
        size: int,
        rule: Literal["published", "visible"] = "visible",
        drawing: Literal["headsculpt", "annotator"] = "headsculpt",
        scale: float = 1.0,
    ) -> None:
        self.vertices, self.faces, self.contours = vertices, faces, contours
        self.size, self.rule, self.drawing, self.scale = size, rule, drawing, scale

    def maps(self, cameras: Cameras) -> np.ndarray:
        """``(B, size, size, 3)`` uint8 maps; black where no face is seen."""
        from headsculpt.heads.landmarks import draw_landmarks, project_landmarks

        views = cameras.resized(self.size, self.size)
        drawn = []
        for points, visible in project_landmarks(
            self.vertices, self.faces, self.contours, views, rule=self.rule
        ):
            drawn.append(
                draw_landmarks(points, self.size, self.size, visible=visible, drawing=self.drawing)
            )
        return np.stack(drawn)

    def __call__(self, cameras: Cameras) -> Control:
        maps = torch.from_numpy(self.maps(cameras)).float() / 255
        rows: Tensor = maps.flatten(1).amax(1) > 0
        return Control(maps, rows, self.scale)
