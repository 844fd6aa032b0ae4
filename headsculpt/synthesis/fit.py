"""The bare head as the accessories see it: its skin grid, and questions about where the surface is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numba
import numpy as np

from headsculpt.synthesis.parts import Array, Part, grid_faces, part


@numba.njit(cache=True, nogil=True)
def _height_map(vertices: Array, faces: Array, low: Array, scale: float, out: Array) -> None:
    """Largest z of triangles over a grid of (row = y, column = x)."""
    rows, columns = out.shape
    out[:] = -9.0
    for f in range(faces.shape[0]):
        a, b, c = vertices[faces[f, 0]], vertices[faces[f, 1]], vertices[faces[f, 2]]
        x0, y0 = (a[0] - low[0]) * scale, (a[1] - low[1]) * scale
        x1, y1 = (b[0] - low[0]) * scale, (b[1] - low[1]) * scale
        x2, y2 = (c[0] - low[0]) * scale, (c[1] - low[1]) * scale
        area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
        if area < 1e-9:
            continue
        for row in range(max(int(np.ceil(min(y0, y1, y2))), 0), min(int(max(y0, y1, y2)) + 1, rows)):
            for column in range(
                max(int(np.ceil(min(x0, x1, x2))), 0), min(int(max(x0, x1, x2)) + 1, columns)
            ):
                u = ((x1 - column) * (y2 - row) - (x2 - column) * (y1 - row)) / area
                v = ((x2 - column) * (y0 - row) - (x0 - column) * (y2 - row)) / area
                w = 1.0 - u - v
                if u >= -1e-6 and v >= -1e-6 and w >= -1e-6:
                    out[row, column] = max(out[row, column], u * a[2] + v * b[2] + w * c[2])


@dataclass
class Fit:
    """A head without anything on.

    Attributes:
        skin: ``(R, C, 3)`` the skin grid, rows from the crown down, column 0 in front, then towards +X.
        normals: ``(R, C, 3)`` unit, outward.
        regions: soft masks ``(R, C)`` of the skin grid.
        anchors: named points ``(3,)`` and sizes of this head.
    """

    skin: Array
    normals: Array
    regions: dict[str, Array]
    anchors: Mapping[str, Array | float]

    @cached_property
    def azimuth(self) -> Array:
        """``(R, C)`` angle around the head's axis: 0 front, positive towards +X, radians."""
        return np.arctan2(self.skin[..., 0], self.skin[..., 2] + 0.04)

    @cached_property
    def _front(self) -> Array:
        rows, columns = self.skin.shape[:2]
        out = np.empty((200, 200), np.float32)
        vertices = np.ascontiguousarray(self.skin.reshape(-1, 3))
        faces = grid_faces(rows, columns, True)
        flip = self.flipped
        _height_map(vertices, faces[:, ::-1].copy() if flip else faces, np.array([-1.0, -1.05]), 100.0, out)
        return out

    @cached_property
    def _back(self) -> Array:
        mirrored = self.skin * np.array([1, 1, -1], np.float32)
        out = np.empty((200, 200), np.float32)
        faces = grid_faces(*self.skin.shape[:2], True)
        vertices = np.ascontiguousarray(mirrored.reshape(-1, 3))
        turned = faces.copy() if self.flipped else faces[:, ::-1].copy()
        _height_map(vertices, turned, np.array([-1.0, -1.05]), 100.0, out)
        return -out

    @cached_property
    def flipped(self) -> bool:
        """Whether the faces of :func:`grid_faces` look inwards on this grid."""
        r, c = self.skin.shape[0] // 2, 0
        p = self.skin
        normal = np.cross(p[r, c + 1] - p[r, c], p[r + 1, c] - p[r, c])
        return bool(normal @ self.normals[r, c] > 0)

    def front(self, x: Array, y: Array) -> Array:
        """Height z of the skin's front over (x, y); bilinear, clamped to the bust."""
        return self._sampled(self._front, x, y)

    def back(self, x: Array, y: Array) -> Array:
        """Height z of the skin's back over (x, y); +9 beside the bust."""
        return self._sampled(self._back, x, y)

    @staticmethod
    def _sampled(m: Array, x: Array, y: Array) -> Array:
        column = np.clip((np.asarray(x) + 1.0) * 100.0, 0, 198.99)
        row = np.clip((np.asarray(y) + 1.05) * 100.0, 7.0, 198.99)  # the bust ends at y = -1
        c, r = column.astype(int), row.astype(int)
        u, v = column - c, row - r
        return (m[r, c] * (1 - u) + m[r, c + 1] * u) * (1 - v) + (
            m[r + 1, c] * (1 - u) + m[r + 1, c + 1] * u
        ) * v

    def band(self, height: float, thickness: float = 0.035) -> tuple[float, float, float]:
        """Half width, back z and front z of the skin around a height."""
        near = np.abs(self.skin[..., 1] - height) < thickness
        points = self.skin[near]
        if not len(points):
            return 0.3, -0.4, 0.35
        return float(np.abs(points[:, 0]).max()), float(points[:, 2].min()), float(points[:, 2].max())

    def shell(self, offset: Array, colours: Array, *, kind: str, specular: float = 0.0, floor: float = -0.02,
              displaced: Array | None = None) -> Part:  # fmt: skip
        """The part of the skin grid raised by ``offset``; where that is negative it dives under the skin.

        The border of hair, beards and clothes is therefore the line where the offset is zero, finer than
        the grid. Faces with all corners below are left out.

        Args:
            offset: ``(R, C)`` along the normals.
            colours: ``(3,)`` or ``(R, C, 3)``.
            displaced: ``(R, C, 3)`` added on top.
        """
        rows, columns = self.skin.shape[:2]
        clipped = np.maximum(offset, floor)
        points = self.skin + clipped[..., None] * self.normals
        if displaced is not None:
            points = points + displaced
        faces = grid_faces(rows, columns, True)
        if self.flipped:
            faces = faces[:, ::-1]
        keep = (offset.ravel()[faces] > 0).any(1)
        faces = faces[keep]
        used = np.zeros(rows * columns, bool)
        used[faces.ravel()] = True
        renumbered = np.cumsum(used) - 1
        tint = np.broadcast_to(colours, (rows, columns, 3)).reshape(-1, 3)
        return part(points.reshape(-1, 3)[used], renumbered[faces], tint[used], specular, kind)

    def ribbon(self, points_xy: Array, widths: Array | float, lift: float = 0.006) -> tuple[Array, Array]:
        """A thin strip on the front of the head along ``(N, 2)`` points: sub-grid lines such as wrinkles."""
        p = np.asarray(points_xy, np.float64)
        tangent = np.gradient(p, axis=0)
        tangent /= np.linalg.norm(tangent, axis=1, keepdims=True) + 1e-9
        side = np.stack([-tangent[:, 1], tangent[:, 0]], 1)
        half = 0.5 * np.broadcast_to(np.asarray(widths, np.float64), (len(p),))[:, None]
        xy = np.stack([p + side * half, p, p - side * half])
        z = self.front(xy[..., 0], xy[..., 1]) + lift * np.array([0.3, 1.0, 0.3])[:, None]
        vertices = np.concatenate([xy, z[..., None]], -1).reshape(-1, 3)
        faces = grid_faces(3, len(p), False)
        return vertices, faces[:, ::-1]
