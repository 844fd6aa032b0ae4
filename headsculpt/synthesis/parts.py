"""Coloured triangle parts that figures are assembled from, and the shapes they start as.

Letters: R rows, C columns, V vertices, F faces, N points of a path. Lengths are scene units.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numba
import numpy as np
from numpy.typing import ArrayLike

Array = np.ndarray


@dataclass
class Part:
    """One coloured piece of a figure.

    Attributes:
        vertices: ``(V, 3)`` float32 scene units.
        faces: ``(F, 3)`` int32, counter-clockwise seen from outside.
        colours: ``(V, 3)`` float32 albedo, [0, 1].
        specular: ``(V,)`` float32 strength of the highlight, [0, 1].
        kind: what it is made of, for the materials: skin, eye, hair, cloth, metal, glass, line.
    """

    vertices: Array
    faces: Array
    colours: Array
    specular: Array
    kind: str = "cloth"


def part(
    vertices: Array, faces: Array, colour: ArrayLike, specular: float = 0.0, kind: str = "cloth"
) -> Part:
    """A part from a mesh and one colour ``(3,)`` or colours ``(V, 3)``."""
    vertices = np.ascontiguousarray(vertices, np.float32)
    colours = np.empty((len(vertices), 3), np.float32)
    colours[:] = colour
    return Part(
        vertices,
        np.ascontiguousarray(faces, np.int32),
        colours,
        np.full(len(vertices), specular, np.float32),
        kind,
    )


def joined(parts: Iterable[Part], kind: str | None = None) -> Part:
    """All parts as one; the kind is that of the first unless given."""
    parts = list(parts)
    offsets = np.cumsum([0] + [len(p.vertices) for p in parts[:-1]])
    return Part(
        np.concatenate([p.vertices for p in parts]),
        np.concatenate([p.faces + np.int32(o) for p, o in zip(parts, offsets, strict=True)]),
        np.concatenate([p.colours for p in parts]),
        np.concatenate([p.specular for p in parts]),
        kind or parts[0].kind,
    )


@lru_cache(maxsize=64)
def grid_faces(rows: int, columns: int, wrap: bool) -> Array:
    """``(F, 3)`` faces of a grid of vertices in row-major order; ``wrap`` joins last and first column."""
    last = columns if wrap else columns - 1
    r, c = np.meshgrid(np.arange(rows - 1), np.arange(last), indexing="ij")
    here, below = r.ravel() * columns, (r.ravel() + 1) * columns
    this, following = c.ravel(), (c.ravel() + 1) % columns
    a, b, e, f = here + this, here + following, below + this, below + following
    faces = np.concatenate([np.stack([a, e, b], 1), np.stack([b, e, f], 1)]).astype(np.int32)
    faces.setflags(write=False)
    return faces


@numba.njit(cache=True, nogil=True)
def _signed_volume(vertices: Array, faces: Array) -> float:
    total = 0.0
    for i in range(faces.shape[0]):
        a, b, c = vertices[faces[i, 0]], vertices[faces[i, 1]], vertices[faces[i, 2]]
        total += (
            a[0] * (b[1] * c[2] - b[2] * c[1])
            - a[1] * (b[0] * c[2] - b[2] * c[0])
            + a[2] * (b[0] * c[1] - b[1] * c[0])
        )
    return total


def outward(vertices: Array, faces: Array) -> Array:
    """Faces of a (nearly) closed mesh, turned so that they are counter-clockwise from outside."""
    centred = np.ascontiguousarray(vertices - vertices.mean(0), np.float32)
    return faces if _signed_volume(centred, faces) >= 0 else np.ascontiguousarray(faces[:, ::-1])


def loft(rings: Array, *, caps: bool = True) -> tuple[Array, Array]:
    """Surface through closed rings.

    Args:
        rings: ``(R, C, 3)`` closed cross-sections.
        caps: close both ends with a fan to the mean of the ring.

    Returns:
        vertices ``(V, 3)`` and outward faces ``(F, 3)``.
    """
    rows, columns = rings.shape[:2]
    vertices = rings.reshape(-1, 3).astype(np.float32)
    faces = grid_faces(rows, columns, True)
    if caps:
        vertices = np.concatenate([vertices, rings[0].mean(0)[None], rings[-1].mean(0)[None]])
        c = np.arange(columns)
        d = (c + 1) % columns
        n = rows * columns
        first = np.stack([np.full(columns, n), c, d], 1)
        last = np.stack([np.full(columns, n + 1), n - columns + d, n - columns + c], 1)
        faces = np.concatenate([faces, first, last]).astype(np.int32)
    vertices = np.ascontiguousarray(vertices, np.float32)
    return vertices, outward(vertices, faces)


def tube(
    path: Array, radius: Array | float, *, sides: int = 8, flat: Array | float = 1.0, closed: bool = False,
    up: tuple[float, float, float] = (0.0, 1.0, 0.0), ridges: Array | None = None,
) -> tuple[Array, Array]:  # fmt: skip
    """A tube along a path.

    Args:
        path: ``(N, 3)`` centre line.
        radius: scalar or ``(N,)`` radius across ``up``.
        flat: radius along ``up`` as a multiple of ``radius``.
        closed: the path is a loop.
        up: a direction that the path never runs along for long.
        ridges: ``(sides,)`` or ``(N, sides)`` factors on the radius.
    """
    path = np.asarray(path, np.float64)
    if closed:
        tangent = np.roll(path, -1, 0) - np.roll(path, 1, 0)
    else:
        tangent = np.gradient(path, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True) + 1e-12
    side = np.cross(tangent, np.asarray(up))
    side /= np.linalg.norm(side, axis=1, keepdims=True) + 1e-9
    other = np.cross(side, tangent)
    angle = np.linspace(0, 2 * np.pi, sides, endpoint=False)
    width = np.broadcast_to(np.asarray(radius, np.float64), (len(path),))[:, None]
    if ridges is not None:
        width = width * ridges
    cos = (np.cos(angle)[None] * width)[..., None]
    flatness = np.broadcast_to(np.asarray(flat, np.float64), (len(path),))[:, None]
    sin = (np.sin(angle)[None] * width * flatness)[..., None]
    rings = path[:, None] + cos * side[:, None] + sin * other[:, None]
    if closed:
        return loft(np.concatenate([rings, rings[:1]]), caps=False)
    return loft(rings)


def revolve(profile: Array, scale_x: float, scale_z: float, columns: int = 40) -> tuple[Array, Array]:
    """A turned shape around +Y.

    Args:
        profile: ``(N, 2)`` radius and height, from the top outside downwards.
        scale_x, scale_z: make the circle an ellipse.

    Returns:
        ``(N, columns, 3)`` points; column 0 in front (+Z), then towards +X; and open grid faces.
    """
    angle = np.linspace(0, 2 * np.pi, columns, endpoint=False)
    radius, height = profile[:, :1], profile[:, 1:]
    points = np.stack(
        [
            radius * np.sin(angle) * scale_x,
            np.broadcast_to(height, (len(profile), columns)),
            radius * np.cos(angle) * scale_z,
        ],
        -1,
    )
    return points, grid_faces(len(profile), columns, True)


def sphere(centre: Array, radii: Array | float, rows: int = 10, columns: int = 16) -> tuple[Array, Array]:
    """An ellipsoid with its poles on the Y axis."""
    theta = np.linspace(0, np.pi, rows)
    profile = np.stack([np.sin(theta), np.cos(theta)], 1)
    points, faces = revolve(profile, 1.0, 1.0, columns)
    vertices = (points.reshape(-1, 3) * np.asarray(radii) + np.asarray(centre)).astype(np.float32)
    return vertices, outward(vertices, faces)


@numba.njit(cache=True, nogil=True)
def vertex_normals(vertices: Array, faces: Array) -> Array:
    """``(V, 3)`` float32 unit normals, faces weighted by area; +Y where there is no area."""
    total = np.zeros((vertices.shape[0], 3), np.float32)
    for i in range(faces.shape[0]):
        a, b, c = faces[i, 0], faces[i, 1], faces[i, 2]
        ux, uy, uz = (
            vertices[b, 0] - vertices[a, 0], vertices[b, 1] - vertices[a, 1], vertices[b, 2] - vertices[a, 2],
        )  # fmt: skip
        vx, vy, vz = (
            vertices[c, 0] - vertices[a, 0], vertices[c, 1] - vertices[a, 1], vertices[c, 2] - vertices[a, 2],
        )  # fmt: skip
        x, y, z = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        for j in (a, b, c):
            total[j, 0] += x
            total[j, 1] += y
            total[j, 2] += z
    for i in range(total.shape[0]):
        length = np.sqrt(total[i, 0] ** 2 + total[i, 1] ** 2 + total[i, 2] ** 2)
        if length > 1e-12:
            total[i] /= length
        else:
            total[i, 1] = 1.0
    return total


@numba.njit(cache=True, nogil=True)
def _hash(x: int, y: int, z: int, seed: int) -> float:
    h = (x * 374761393 + y * 668265263 + z * 2147483647 + seed * 1274126177) & 0xFFFFFFFF
    h = ((h ^ (h >> 13)) * 1274126177) & 0xFFFFFFFF
    h = h ^ (h >> 16)
    return (h & 0xFFFFFF) / 16777215.0


@numba.njit(cache=True, nogil=True)
def noise(points: Array, seed: int) -> Array:
    """``(N,)`` smooth value noise in [0, 1] with one cell per unit of ``points`` ``(N, 3)``."""
    out = np.empty(points.shape[0], np.float32)
    for i in range(points.shape[0]):
        fx, fy, fz = np.floor(points[i, 0]), np.floor(points[i, 1]), np.floor(points[i, 2])
        x, y, z = int(fx), int(fy), int(fz)
        u, v, w = points[i, 0] - fx, points[i, 1] - fy, points[i, 2] - fz
        u, v, w = u * u * (3 - 2 * u), v * v * (3 - 2 * v), w * w * (3 - 2 * w)
        total = 0.0
        for dx in range(2):
            for dy in range(2):
                for dz in range(2):
                    weight = (u if dx else 1 - u) * (v if dy else 1 - v) * (w if dz else 1 - w)
                    total += weight * _hash(x + dx, y + dy, z + dz, seed)
        out[i] = total
    return out


@numba.njit(cache=True, nogil=True)
def cells(points: Array, seed: int) -> Array:
    """``(N, 2)`` distance to the nearest random point of a jittered unit lattice, and its random value."""
    out = np.empty((points.shape[0], 2), np.float32)
    for i in range(points.shape[0]):
        x, y, z = int(np.floor(points[i, 0])), int(np.floor(points[i, 1])), int(np.floor(points[i, 2]))
        best, value = 1e9, 0.0
        for a in range(x - 1, x + 2):
            for b in range(y - 1, y + 2):
                for c in range(z - 1, z + 2):
                    px, py, pz = _hash(a, b, c, seed), _hash(a, b, c, seed + 7), _hash(a, b, c, seed + 13)
                    d = (a + px - points[i, 0]) ** 2 + (b + py - points[i, 1]) ** 2
                    d += (c + pz - points[i, 2]) ** 2
                    if d < best:
                        best, value = d, px
        out[i, 0], out[i, 1] = np.sqrt(best), value
    return out


def smoothstep(low: float | Array, high: float | Array, value: Array) -> Array:
    """0 below ``low``, 1 above ``high``, smooth between; ``low`` may exceed ``high``."""
    t = np.clip((value - low) / (np.asarray(high) - low), 0.0, 1.0)
    return t * t * (3 - 2 * t)


def unit(vectors: Array) -> Array:
    """Vectors ``(..., 3)`` of length one."""
    return vectors / (np.linalg.norm(vectors, axis=-1, keepdims=True) + 1e-9)
