"""A head as the starting density of a NeRF.

Two forms. "shell" is HeadSculpt's (method A.3): a thin layer of density on the surface, and a blob in the
middle. "solid" is ours: everything under the skin is dense. A solid has no inside that a camera could get
lost in, early termination makes it cheap to march, and geometry outside it is free to grow.

The signed distance is computed once on a voxel grid and read by trilinear interpolation. The mesh may be a
union of parts that penetrate each other and are open where they are hidden or cut off at the bottom.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor, nn

KINDS = ("solid", "shell", "blob")


def softplus_inverse(y: Tensor) -> Tensor:
    """The x with softplus(x) = y > 0, without overflow for large y (log(exp(y) - 1) has it at 89)."""
    return y + torch.log(-torch.expm1(-y))


class DensityPrior(nn.Module):
    """Raw-density offset ``(N, 3) -> (N,)``: added before softplus; no parameters, no gradient.

    Args:
        distance: ``(R, R, R)`` float32 signed distance in scene units, negative inside, at the lattice
            ``linspace(-bound, bound, R)``, axes in the order x, y, z.
        kind: "solid": a ramp ``-distance * slope``, ``inside_slope`` in place of slope inside, cut to
            [-outside, inside]. "shell": method A.3.
            "blob": ``inside * (1 - |x| / 0.5)`` (E.4), for no head at all; reads no distance.
        bound: half edge of the grid's cube.
        inside, outside: largest and smallest offset of the solid; ours. softplus(-5) leaves a gradient
            of 0.7 % of what it is in full density, which Adam's normalisation restores, so hair can grow.
            Of a head that has to lose its shoulders and its nose, 300 steps on 32x32 images removed
            nothing at inside=8, a part at 5 (17 dB) and all at 3 (31 dB): lower is easier to carve,
            higher is harder to dissolve and takes fewer samples.
        slope, inside_slope: of the solid's ramp, offset per scene unit. A gentle rise outside leaves room to grow
            from; a steep one inside keeps what is thin. With 60 on both sides noses and chins dissolved, with 160 on
            both no hair grew.
        beta: of the shell (HeadSculpt: 1e-3).
    """

    distance: Tensor

    def __init__(
        self,
        distance: Tensor,
        *,
        kind: str = "solid",
        bound: float = 1.0,
        inside: float = 4.0,
        outside: float = 5.0,
        slope: float = 80.0,
        inside_slope: float | None = None,
        beta: float = 1e-3,
    ) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}; got {kind!r}")
        if distance.dim() != 3 or min(distance.shape) < 2:
            raise ValueError(f"expected a distance grid (R, R, R) with R >= 2; got {tuple(distance.shape)}")
        self.register_buffer("distance", distance.float().contiguous())
        self.kind, self.bound = kind, float(bound)
        self.inside, self.outside, self.slope, self.beta = inside, outside, slope, beta
        self.inside_slope = slope if inside_slope is None else inside_slope

    @staticmethod
    def from_mesh(
        vertices: np.ndarray | Tensor,
        faces: np.ndarray | Tensor,
        resolution: int = 96,
        bound: float = 1.0,
        kind: str = "solid",
        outer: np.ndarray | None = None,
        **settings: float,
    ) -> DensityPrior:
        """The prior of a triangle mesh ``(V, 3)``, ``(F, 3)``, counter-clockwise from outside.

        ``outer`` as in :func:`signed_distance_grid`.
        """
        grid = signed_distance_grid(np.asarray(vertices), np.asarray(faces), resolution, bound, outer)
        return DensityPrior(torch.from_numpy(grid), kind=kind, bound=bound, **settings)

    @staticmethod
    def blob(inside: float = 4.0) -> DensityPrior:
        """A ball of radius 0.5 that fades to its outside, where there is no head to start from."""
        return DensityPrior(torch.zeros(2, 2, 2), kind="blob", inside=inside)

    @torch.no_grad()
    def signed_distance(self, x: Tensor) -> Tensor:
        """``(N, 3)`` scene points to ``(N,)`` distances; outside the cube, of its nearest point."""
        if x.device.type == "cpu":
            out = torch.empty(x.shape[0])
            points = x.detach().float().contiguous().numpy()
            _interpolate(points, self.distance.numpy(), np.float32(self.bound), out.numpy())
            return out
        volume = self.distance.permute(2, 1, 0)[None, None]
        where = (x.detach() / self.bound).view(1, -1, 1, 1, 3)
        return nn.functional.grid_sample(volume, where, padding_mode="border", align_corners=True).view(-1)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Offsets ``(N,)`` of scene points ``(N, 3)``."""
        if self.kind == "blob":
            return (self.inside * (1 - x.detach().norm(dim=-1) / 0.5)).clamp_min(-self.outside)
        distance = self.signed_distance(x)
        if self.kind == "solid":
            slope = torch.where(distance < 0, self.inside_slope, self.slope)
            return (-slope * distance).clamp(-self.outside, self.inside)
        alpha = 1 / self.beta
        density = alpha * torch.sigmoid(-distance.abs() / 3**0.5 * alpha)
        prior = softplus_inverse(density.clamp_min(1e-6)).clamp_min(0)
        return prior + 5 * torch.exp(-x.detach().square().sum(-1) / (2 * 0.2**2))

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any, **kwargs: Any) -> None:
        """Takes on the size of the checkpoint's grid, which may be another than this object was made with."""
        saved = state_dict.get(prefix + "distance")
        if saved is not None and saved.shape != self.distance.shape:
            self.distance = torch.empty_like(saved, device=self.distance.device)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def signed_distance_grid(
    vertices: np.ndarray,
    faces: np.ndarray,
    resolution: int = 96,
    bound: float = 1.0,
    outer: np.ndarray | None = None,
) -> np.ndarray:
    """Signed distance to the union of a mesh's parts, ``(R, R, R)`` float32, negative inside.

    Near the surface it is exact, further than three cells away it is that of the voxels (error below half
    a cell). Inside is where the median of five winding numbers, one for each of the directions left,
    right, front, back and up, is positive: a part that is open on one side, or a bust that is open at the
    bottom, is still solid. Parts whose volume is negative are turned round first.

    Args:
        vertices, faces: ``(V, 3)`` and ``(F, 3)``.
        resolution, bound: of the lattice, ``linspace(-bound, bound, R)`` along each axis.
        outer: ``(K, 3)`` those faces that bound the union, where they are known: near the others, which it hides, the
            distance is then exact too, where without it is that of the voxels.

    Raises:
        ValueError: an empty mesh, a vertex that is not finite, an index out of range, resolution below 8.
    """
    from scipy.ndimage import distance_transform_edt

    vertices, faces = np.ascontiguousarray(vertices, np.float64), np.ascontiguousarray(faces, np.int64)
    if resolution < 8:
        raise ValueError(f"resolution must be at least 8; got {resolution}")
    if vertices.ndim != 2 or vertices.shape[1:] != (3,) or faces.ndim != 2 or faces.shape[1:] != (3,):
        raise ValueError(f"expected (V, 3) and (F, 3); got {vertices.shape} and {faces.shape}")
    if len(vertices) == 0 or len(faces) == 0:
        raise ValueError(f"the mesh is empty: {len(vertices)} vertices and {len(faces)} faces")
    if not np.isfinite(vertices).all():
        bad = int(np.flatnonzero(~np.isfinite(vertices).all(1))[0])
        raise ValueError(f"vertex {bad} is {vertices[bad].tolist()}; all coordinates must be finite")
    if faces.min() < 0 or faces.max() >= len(vertices):
        bad = int(np.flatnonzero(((faces < 0) | (faces >= len(vertices))).any(1))[0])
        raise ValueError(f"face {bad} is {faces[bad].tolist()}; indices must lie in 0..{len(vertices) - 1}")

    cell = 2 * bound / (resolution - 1)
    lattice = (vertices + bound) / cell  # the rest works in cells
    faces = _outward(lattice, faces)
    inside = _inside(lattice, faces, resolution)
    near = np.full((resolution,) * 3, np.float32(1e9))
    far = 1e3 * np.ones_like(near)
    outer = None if outer is None else np.ascontiguousarray(outer, np.int64)
    with ThreadPoolExecutor(2) as pool:  # none of them holds the interpreter's lock
        exact = pool.submit(_near_distance, lattice, faces if outer is None else outer, 3.0, near)
        if inside.any() and not inside.all():
            far = np.where(inside, *pool.map(distance_transform_edt, (inside, ~inside))) - 0.5
        exact.result()
    # Surfaces hidden inside the union (the back of an eyeball) lie much nearer than its boundary does.
    hidden = inside & (near < far - 0.75) if outer is None else np.zeros_like(inside)
    magnitude = np.where((near < 3.0) & ~hidden, near, far)
    return np.where(inside, -magnitude, magnitude).astype(np.float32) * np.float32(cell)


def _outward(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """The faces with every connected part of negative volume turned round."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    count = len(vertices)
    rows, columns = faces[:, [0, 1]].T.ravel(), faces[:, [1, 2]].T.ravel()
    ones = np.ones(len(rows), np.int8)
    _, label = connected_components(coo_matrix((ones, (rows, columns)), shape=(count, count)), directed=False)
    part = label[faces[:, 0]]
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    # About the part's own middle, so that an open part has about the volume of its closed twin.
    weight = np.bincount(part, minlength=part.max() + 1).clip(1)
    middle = np.stack([np.bincount(part, a[:, d], len(weight)) / weight for d in range(3)], 1)[part]
    volume = np.bincount(part, np.einsum("ni,ni->n", a - middle, np.cross(b - middle, c - middle)))
    flip = volume[part] < 0
    return np.where(flip[:, None], faces[:, ::-1], faces)


def _inside(vertices: np.ndarray, faces: np.ndarray, resolution: int) -> np.ndarray:
    votes = np.empty((5, resolution, resolution, resolution), np.int8)
    for axis, low, high in ((0, 0, 1), (2, 2, 3), (1, None, 4)):
        order = [axis, (axis + 1) % 3, (axis + 2) % 3]
        crossings = np.zeros((resolution, resolution, resolution + 1), np.int16)
        _crossings(np.ascontiguousarray(vertices[:, order]), faces, crossings)
        from_low = np.cumsum(crossings, -1)[..., :resolution]  # what a ray from -axis has entered
        from_high = (from_low - crossings.sum(-1, keepdims=True)).astype(np.int16)
        back = np.argsort(np.array([order[1], order[2], order[0]]))
        if low is not None:
            votes[low] = np.transpose(from_low, back)
        votes[high] = np.transpose(from_high, back)
    return _median_positive(votes)


@numba.njit(cache=True, nogil=True)
def _median_positive(votes):
    """Whether at least three of five votes are positive."""
    flat = votes.reshape(5, -1)
    out = np.zeros(flat.shape[1], np.bool_)
    for n in range(flat.shape[1]):
        count = 0
        for k in range(5):
            if flat[k, n] > 0:
                count += 1
        out[n] = count >= 3
    return out.reshape(votes.shape[1], votes.shape[2], votes.shape[3])


@numba.njit(cache=True, nogil=True)
def _crossings(vertices, faces, out):
    """Where lattice lines along the first axis enter (+1) and leave (-1); ``out[j, k, first point behind]``.

    The lines are moved by an irrational-looking fraction of a cell, so that none meets an edge exactly.
    """
    shift_y, shift_z = 0.00031713, 0.00057391
    size = out.shape[0]
    for n in range(faces.shape[0]):
        a, b, c = vertices[faces[n, 0]], vertices[faces[n, 1]], vertices[faces[n, 2]]
        area = (b[1] - a[1]) * (c[2] - a[2]) - (b[2] - a[2]) * (c[1] - a[1])
        if abs(area) < 1e-14:
            continue
        j0 = max(0, int(np.floor(min(a[1], b[1], c[1]))))
        j1 = min(size - 1, int(np.ceil(max(a[1], b[1], c[1]))))
        k0 = max(0, int(np.floor(min(a[2], b[2], c[2]))))
        k1 = min(size - 1, int(np.ceil(max(a[2], b[2], c[2]))))
        for j in range(j0, j1 + 1):
            y = j + shift_y
            for k in range(k0, k1 + 1):
                z = k + shift_z
                u = ((y - a[1]) * (c[2] - a[2]) - (z - a[2]) * (c[1] - a[1])) / area
                v = ((b[1] - a[1]) * (z - a[2]) - (b[2] - a[2]) * (y - a[1])) / area
                if u < 0 or v < 0 or u + v > 1:
                    continue
                x = a[0] + u * (b[0] - a[0]) + v * (c[0] - a[0])
                first = min(max(int(np.ceil(x)), 0), size)
                # A face whose normal points towards -x is entered by a ray that comes from there.
                out[j, k, first] += 1 if area < 0 else -1


@numba.njit(cache=True, nogil=True)
def _near_distance(vertices, faces, band, out):
    """Exact distance to the nearest triangle, for lattice points within ``band`` of its box; in cells."""
    for n in range(faces.shape[0]):
        a, b, c = vertices[faces[n, 0]], vertices[faces[n, 1]], vertices[faces[n, 2]]
        i0, j0, k0 = (
            max(0, int(np.ceil(min(a[0], b[0], c[0]) - band))),
            max(0, int(np.ceil(min(a[1], b[1], c[1]) - band))),
            max(0, int(np.ceil(min(a[2], b[2], c[2]) - band))),
        )
        i1 = min(out.shape[0] - 1, int(np.floor(max(a[0], b[0], c[0]) + band)))
        j1 = min(out.shape[1] - 1, int(np.floor(max(a[1], b[1], c[1]) + band)))
        k1 = min(out.shape[2] - 1, int(np.floor(max(a[2], b[2], c[2]) + band)))
        for i in range(i0, i1 + 1):
            for j in range(j0, j1 + 1):
                for k in range(k0, k1 + 1):
                    squared = _squared_distance(float(i), float(j), float(k), a, b, c)
                    if squared < out[i, j, k] * out[i, j, k]:
                        out[i, j, k] = np.sqrt(squared)


@numba.njit(cache=True, nogil=True)
def _squared_distance(x, y, z, a, b, c):
    """Squared distance of a point from a triangle (Ericson, Real-Time Collision Detection, 5.1.5)."""
    ux, uy, uz = b[0] - a[0], b[1] - a[1], b[2] - a[2]
    vx, vy, vz = c[0] - a[0], c[1] - a[1], c[2] - a[2]
    px, py, pz = x - a[0], y - a[1], z - a[2]
    uu, uv, vv = ux * ux + uy * uy + uz * uz, ux * vx + uy * vy + uz * vz, vx * vx + vy * vy + vz * vz
    pu, pv = px * ux + py * uy + pz * uz, px * vx + py * vy + pz * vz
    determinant = uu * vv - uv * uv
    if determinant > 1e-12 * uu * vv:  # a sliver is its edges
        s, t = (vv * pu - uv * pv) / determinant, (uu * pv - uv * pu) / determinant
        if s >= 0 and t >= 0 and s + t <= 1:
            dx, dy, dz = px - s * ux - t * vx, py - s * uy - t * vy, pz - s * uz - t * vz
            return dx * dx + dy * dy + dz * dz
    best = 1e30
    for edge in range(3):
        if edge == 0:
            o, d = a, b
        elif edge == 1:
            o, d = b, c
        else:
            o, d = c, a
        ex, ey, ez = d[0] - o[0], d[1] - o[1], d[2] - o[2]
        qx, qy, qz = x - o[0], y - o[1], z - o[2]
        length = ex * ex + ey * ey + ez * ez
        s = 0.0
        if length > 0:
            s = min(1.0, max(0.0, (qx * ex + qy * ey + qz * ez) / length))
        dx, dy, dz = qx - s * ex, qy - s * ey, qz - s * ez
        best = min(best, dx * dx + dy * dy + dz * dz)
    return best


@numba.njit(cache=True, nogil=True, parallel=True)
def _interpolate(points, grid, bound, out):
    """Trilinear values of a lattice over [-bound, bound]^3; NaN and points outside read its border."""
    size = grid.shape[0]
    scale = np.float32(size - 1) / (np.float32(2) * bound)
    last = np.float32(size - 1)
    one = np.float32(1)
    for n in numba.prange(points.shape[0]):
        x = (points[n, 0] + bound) * scale
        y = (points[n, 1] + bound) * scale
        z = (points[n, 2] + bound) * scale
        x = min(x, last) if x > 0 else np.float32(0)
        y = min(y, last) if y > 0 else np.float32(0)
        z = min(z, last) if z > 0 else np.float32(0)
        i, j, k = min(int(x), size - 2), min(int(y), size - 2), min(int(z), size - 2)
        x, y, z = x - np.float32(i), y - np.float32(j), z - np.float32(k)
        a = grid[i, j, k] * (one - z) + grid[i, j, k + 1] * z
        b = grid[i, j + 1, k] * (one - z) + grid[i, j + 1, k + 1] * z
        c = grid[i + 1, j, k] * (one - z) + grid[i + 1, j, k + 1] * z
        d = grid[i + 1, j + 1, k] * (one - z) + grid[i + 1, j + 1, k + 1] * z
        out[n] = (a * (one - y) + b * y) * (one - x) + (c * (one - y) + d * y) * x
