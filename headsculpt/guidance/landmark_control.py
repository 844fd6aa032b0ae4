"""Landmark control: the map of facial contours that the ControlNet sees (HeadSculpt, method A.4)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from headsculpt.cameras import Cameras
from headsculpt.guidance.backbone import Control


HATS = ("baseball cap", "beanie", "cowboy hat", "top hat", "crown")


def covered(vertices: np.ndarray, contours: dict[str, np.ndarray], wears: Iterable[str]) -> dict[str, np.ndarray]:
    """Landmarks that a figure's hat, beard or dark glasses hide (ours).

    Landmarks are those of a bare head. A ControlNet that learned from figures as they are seen takes a hairline for "no
    hat" and a jaw for "no beard", whatever the text says. In 2,172 views of the portrait world from the front, no hat
    leaves one in ten foreheads to be seen, a full beard no jaw, and sunglasses one eye in twenty; brows and lips
    stay visible more often than not under all of them.

    Args:
        vertices: ``(V, 3)`` the head; +Y is up.
        contours: name -> ``(K,)`` vertex indices; what is missing covers nothing.
        wears: values of attributes (:data:`headsculpt.synthesis.attributes.VALUES`); others cover nothing.

    Returns:
        name -> ``(K,)`` bool, of the contours of which a part is covered.
    """
    wears = set(wears)
    heights = {name: vertices[index, 1] for name, index in contours.items()}
    eyes = [name for name in ("left_eye", "right_eye") if name in heights]
    brows = [name for name in ("left_brow", "right_brow") if name in heights]
    hidden: dict[str, np.ndarray] = {}
    if "sunglasses" in wears:
        hidden |= {name: np.ones(len(heights[name]), bool) for name in eyes}
    if "oval" in heights:
        oval = np.zeros(len(heights["oval"]), bool)
        if brows and wears.intersection(HATS):
            oval |= heights["oval"] > max(heights[name].max() for name in brows)
        if eyes and "lips_outer" in heights and "full beard" in wears:
            oval |= heights["oval"] < (min(heights[name].min() for name in eyes) + heights["lips_outer"].max()) / 2
        if oval.any():
            hidden["oval"] = oval
    return hidden


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
        wears: values of attributes of the figure, such as "top hat"; under ``"visible"``, the landmarks that they cover
            (:func:`covered`) are not drawn.
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
        wears: Iterable[str] = (),
    ) -> None:
        self.vertices, self.faces, self.contours = vertices, faces, contours
        self.size, self.rule, self.drawing, self.scale = size, rule, drawing, scale
        self.covered = covered(vertices, contours, wears) if rule == "visible" else {}

    def maps(self, cameras: Cameras) -> np.ndarray:
        """``(B, size, size, 3)`` uint8 maps; black where no face is seen."""
        from headsculpt.heads.landmarks import draw_landmarks, project_landmarks

        views = cameras.resized(self.size, self.size)
        drawn = []
        for points, visible in project_landmarks(
            self.vertices, self.faces, self.contours, views, rule=self.rule
        ):
            visible = {name: seen & ~self.covered.get(name, False) for name, seen in visible.items()}
            drawn.append(
                draw_landmarks(points, self.size, self.size, visible=visible, drawing=self.drawing)
            )
        return np.stack(drawn)

    def __call__(self, cameras: Cameras) -> Control:
        maps = torch.from_numpy(self.maps(cameras)).float() / 255
        rows: Tensor = maps.flatten(1).amax(1) > 0
        return Control(maps, rows, self.scale)
