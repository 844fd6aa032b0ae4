"""The template: one fixed set of vertices and faces, shaped from :mod:`headsculpt.heads.solids`.

The skin is a grid: rows run from the crown to the cut through the chest, columns go around, column 0 in
front. Rows bend so that rims of lids and lips are rows of the grid; between the two rims of a lid pair or
of the lips the rows sink inwards and make a pocket. Ears, eyeballs, teeth and tongue are parts of their own.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from headsculpt.heads.parts import Part, ear, eyeball, teeth, tongue
from headsculpt.heads.solids import EYE_CENTRE, EYE_RADIUS, body, trace, trunk

# Columns: azimuth in degrees and how many columns lie between neighbouring knots (half a turn).
COLUMN_KNOTS = ((0, 11), (12, 15), (29, 10), (50, 8), (90, 11), (180, 0))
# Rows: (origin y in front, at the back, origin z, elevation in degrees in front, at the back), and how many
# rows until the next knot. Rays start at these origins on the spine. On the face they are level; over the
# crown they fan out; under the chin they dive, and from the neck's base on they come up from the chest, so
# that every ray meets the surface at a good angle.
ROW_KNOTS = (
    (0.200, 0.200, 0.00, 87.0, 87.0, 15),  # crown
    (0.200, 0.200, 0.00, 0.0, 0.0, 5),
    (0.145, 0.145, 0.00, 0.0, 0.0, 8),  # brow
    (0.088, 0.088, 0.00, 0.0, 0.0, 6),  # upper lid's rim
    (0.052, 0.052, 0.00, 0.0, 0.0, 6),  # lower lid's rim
    (0.005, 0.005, 0.00, 0.0, 0.0, 6),
    (-0.055, -0.055, 0.00, 0.0, 0.0, 10),
    (-0.140, -0.140, 0.00, 0.0, 0.0, 7),  # nose ends
    (-0.190, -0.190, 0.00, 0.0, 0.0, 8),  # upper lip's rim
    (-0.222, -0.222, 0.00, 0.0, 0.0, 8),  # lower lip's rim
    (-0.285, -0.270, 0.00, 0.0, 0.0, 5),
    (-0.335, -0.310, 0.00, 0.0, 0.0, 1),  # chin
    (-0.317, -0.325, 0.00, -6.0, 0.0, 1),
    (-0.290, -0.340, 0.00, -13.0, 0.0, 1),
    (-0.260, -0.352, 0.00, -21.0, 0.0, 1),  # under the chin
    (-0.240, -0.364, 0.00, -29.0, 0.0, 1),
    (-0.240, -0.376, 0.00, -38.0, 0.0, 1),
    (-0.275, -0.388, -0.01, -46.0, 0.0, 1),
    (-0.350, -0.430, -0.03, -40.0, 4.0, 2),
    (-0.450, -0.515, -0.06, -12.0, 18.0, 2),
    (-0.510, -0.600, -0.09, 0.0, 31.0, 1),
    (-0.620, -0.670, -0.10, 21.0, 39.0, 1),
    (-0.700, -0.730, -0.11, 33.0, 43.0, 1),
    (-0.770, -0.775, -0.12, 42.0, 43.0, 3),  # neck's base
    (-0.830, -0.830, -0.12, 43.0, 40.0, 5),
    (-0.860, -0.860, -0.12, 18.0, 18.0, 5),
    (-0.900, -0.900, -0.12, 3.0, 3.0, 2),
    (-1.000, -1.000, -0.12, 0.0, 0.0, 0),
)


def _first_row(y: float) -> int:
    return int(sum(k[5] for k in ROW_KNOTS[: [k[0] for k in ROW_KNOTS].index(y)]))


BROW_ROW = _first_row(0.145)
LID_ROWS = (_first_row(0.088), _first_row(0.052))
LIP_ROWS = (_first_row(-0.190), _first_row(-0.222))
CREASE_ROW = LID_ROWS[0] - 3
LIPS_OUTER_ROWS = (LIP_ROWS[0] - 4, LIP_ROWS[1] + 5)
CHIN_ROW = _first_row(-0.335)
TRUNK_ROW = _first_row(-0.620)
RELAXED_ROW = TRUNK_ROW - 2
NECK_BASE_ROW = _first_row(-0.770)
EYE_AZIMUTH_DEG, EYE_HALF_WIDTH_DEG = 20.5, 9.4
MOUTH_HALF_WIDTH_DEG = 16.2
MOUTH_Y = -0.204


def smoothstep(a: float | np.ndarray, b: float | np.ndarray, x: np.ndarray) -> np.ndarray:
    """0 below ``a``, 1 above ``b`` (``a`` may exceed ``b``), smooth between."""
    t = np.clip((x - a) / (b - a), 0.0, 1.0)
    return t * t * (3 - 2 * t)


@dataclass
class Template:
    """Geometry at rest and where every vertex belongs.

    Attributes:
        vertices: ``(V, 3)`` float64 scene units.
        surface: ``(V, 3)`` the same, but pockets of eyes and mouth are not sunk: fields are evaluated here.
        faces: ``(F, 3)`` int32, counter-clockwise from outside.
        uv: ``(V, 2)`` in [0, 1].
        grid: ``(R, C)`` int32, the skin.
        azimuth_deg: ``(R, C)`` in (-180, 180], of each skin vertex.
        parts: name -> vertex indices, for everything but the grid.
        rings: name -> ``(K,)`` float, ring number of each vertex of a part.
    """

    vertices: np.ndarray
    surface: np.ndarray
    faces: np.ndarray
    uv: np.ndarray
    grid: np.ndarray
    azimuth_deg: np.ndarray
    parts: dict[str, np.ndarray] = field(default_factory=dict)
    rings: dict[str, np.ndarray] = field(default_factory=dict)


def columns_deg() -> np.ndarray:
    """Azimuths of columns 0..C/2 in degrees, 0 to 180."""
    knots = [k[0] for k in COLUMN_KNOTS]
    counts = np.concatenate([[0], np.cumsum([k[1] for k in COLUMN_KNOTS[:-1]])])
    azimuth = np.interp(np.arange(counts[-1] + 1), counts, knots)
    for _ in range(2):  # neighbouring steps differ little
        azimuth[1:-1] = 0.25 * azimuth[:-2] + 0.5 * azimuth[1:-1] + 0.25 * azimuth[2:]
    return azimuth


def row_rays() -> np.ndarray:
    """``(R, 5)``: the columns of ROW_KNOTS at every row."""
    counts = np.concatenate([[0], np.cumsum([k[5] for k in ROW_KNOTS[:-1]])])
    rows = np.arange(counts[-1] + 1)
    return np.stack([np.interp(rows, counts, [k[i] for k in ROW_KNOTS]) for i in range(5)], 1)


def lid_curves(xi: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Heights of both lids' rims above the eye's centre; ``xi`` is -1 at the inner corner, 1 at the outer."""
    inside = np.clip(1 - np.abs(xi) ** 2.3, 0, None)
    tilt = 0.005 * np.clip(xi, -1.5, 1.5)
    return 0.0345 * inside * (1 - 0.12 * xi) + tilt + 0.0006, -0.0245 * inside * (
        1 + 0.15 * xi
    ) + tilt - 0.0006


def _bend(y: np.ndarray, knots: dict[int, np.ndarray], fade: int, blend: np.ndarray) -> np.ndarray:
    """Moves rows ``knots`` to the given heights, the rows between along, and fades out over ``fade`` rows."""
    rows = sorted(knots)
    shifts = np.stack([np.zeros_like(blend)] + [knots[r] - y[r] for r in rows] + [np.zeros_like(blend)])
    at = [rows[0] - fade] + rows + [rows[-1] + fade]
    out = y.copy()
    for i in range(at[0], at[-1] + 1):
        k = min(max(int(np.searchsorted(at, i, side="right")) - 1, 0), len(at) - 2)
        t = (i - at[k]) / (at[k + 1] - at[k])
        if k == 0 or k == len(at) - 2:
            t = t * t * (3 - 2 * t)
        out[i] += blend * (shifts[k] * (1 - t) + shifts[k + 1] * t)
    return out


def _skin() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Half the skin: positions and unsunk positions ``(R, C/2 + 1, 3)``, azimuths ``(C/2 + 1,)``."""
    azimuth, rays = columns_deg(), row_rays()
    frontness = np.clip(np.cos(np.deg2rad(azimuth)), 0, 1)[None]
    y = rays[:, 1:2] + (rays[:, :1] - rays[:, 1:2]) * frontness
    xi = (azimuth - EYE_AZIMUTH_DEG) / EYE_HALF_WIDTH_DEG
    upper, lower = lid_curves(xi)
    brow = 0.148 + 0.014 * np.exp(-(((azimuth - 25) / 10) ** 2)) - 0.012 * smoothstep(27, 40, azimuth)
    crease = np.maximum(upper + 0.013 * np.clip(1.15 - xi**2 / 1.6, 0, None), upper + 0.002)
    eye_y = EYE_CENTRE[1]
    y = _bend(y, {BROW_ROW: brow}, 5, smoothstep(52, 36, azimuth))
    y = _bend(
        y,
        {CREASE_ROW: eye_y + crease, LID_ROWS[0]: eye_y + upper, LID_ROWS[1]: eye_y + lower},
        5,
        smoothstep(2.1, 1.05, np.abs(xi)),
    )
    m = azimuth / MOUTH_HALF_WIDTH_DEG
    full = np.sqrt(np.clip(1 - m**2, 0, None))
    line = (
        MOUTH_Y
        + 0.004 * np.clip(m, 0, 1.2) ** 2
        - 0.004 * np.exp(-((m / 0.25) ** 2))
        + 0.003 * np.exp(-(((m - 0.45) / 0.25) ** 2))
    )
    top = line + (0.026 * full**0.8) * (1 - 0.16 * np.exp(-((m / 0.14) ** 2))) + 0.001
    bottom = line - 0.036 * full**1.1 - 0.001
    y = _bend(
        y,
        {
            LIPS_OUTER_ROWS[0]: top,
            LIP_ROWS[0]: line + 0.0008,
            LIP_ROWS[1]: line - 0.0008,
            LIPS_OUTER_ROWS[1]: bottom,
        },
        7,
        smoothstep(2.2, 1.1, m),
    )
    theta = np.deg2rad(azimuth)[None, :]
    elevation = np.deg2rad(rays[:, 4:5] + (rays[:, 3:4] - rays[:, 4:5]) * frontness)
    direction = np.stack(
        [np.sin(theta) * np.cos(elevation), np.sin(elevation) + 0 * theta, np.cos(theta) * np.cos(elevation)],
        -1,
    )
    origin = np.stack([np.zeros_like(y), y, np.repeat(rays[:, 2:3], y.shape[1], 1)], -1)
    surface = np.concatenate(
        [
            trace(origin[:TRUNK_ROW].reshape(-1, 3), direction[:TRUNK_ROW].reshape(-1, 3), body),
            trace(origin[TRUNK_ROW:].reshape(-1, 3), direction[TRUNK_ROW:].reshape(-1, 3), trunk),
        ]
    ).reshape(origin.shape)
    surface[-1, :, 1] = -1.0
    surface[:, 0, 0] = surface[:, -1, 0] = 0.0
    surface = _relaxed(surface)
    return _details(surface, direction, azimuth, xi, m), surface, azimuth


def _relaxed(surface: np.ndarray, passes: int = 6, fade: int = 4) -> np.ndarray:
    """Evens out the grid ``(R, C/2 + 1, 3)`` from the neck down, on the body's surface; its last row, the cut, stays.

    Rays from the spine graze the shoulder blades: neighbouring rows lie far apart there, and the long triangles
    between them show as slits.
    """
    rows = np.arange(len(surface))
    weight = np.clip((rows - RELAXED_ROW) / fade, 0, 1)[:, None, None]
    weight[-1] = 0
    p, steps = surface.copy(), 1e-3 * np.eye(3)
    mirror = np.array([-1.0, 1.0, 1.0])
    for _ in range(passes):
        left = np.concatenate([p[:, 1:2] * mirror, p[:, :-1]], 1)
        right = np.concatenate([p[:, 1:], p[:, -2:-1] * mirror], 1)
        up, down = np.roll(p, 1, 0), np.roll(p, -1, 0)  # the rows at the ends have no weight
        p = p + weight * (0.25 * (left + right + up + down) - p)
        moved = p[RELAXED_ROW:-1].reshape(-1, 3)
        for _ in range(2):
            slope = np.stack([body(moved + step) - body(moved - step) for step in steps], 1)
            moved = moved - body(moved)[:, None] * slope / np.linalg.norm(slope, axis=1, keepdims=True)
        p[RELAXED_ROW:-1] = moved.reshape(p[RELAXED_ROW:-1].shape)
        p[:, 0, 0] = p[:, -1, 0] = 0.0
    return p


def _details(
    surface: np.ndarray, direction: np.ndarray, azimuth: np.ndarray, xi: np.ndarray, m: np.ndarray
) -> np.ndarray:
    """Sinks the pockets of eyes and mouth and presses in creases, nostrils and philtrum."""
    p = surface.copy()
    rows = np.arange(len(p))[:, None]
    x, y = surface[..., 0], surface[..., 1]

    def press(depth: np.ndarray) -> None:
        p[...] -= depth[..., None] * direction

    press(0.006 * np.exp(-(((rows - CREASE_ROW) / 0.9) ** 2)) * smoothstep(1.25, 0.8, np.abs(xi))[None])
    centre_row = 0.5 * (LIP_ROWS[0] + LIP_ROWS[1])
    gap = np.clip(np.abs(rows - centre_row) - 0.5 * (LIP_ROWS[1] - LIP_ROWS[0]), 0, None)
    press(0.013 * np.exp(-((gap / 1.5) ** 2)) * smoothstep(1.06, 0.85, m)[None])
    corner = np.exp(-(((x - 0.106) / 0.014) ** 2) - ((y - MOUTH_Y) / 0.014) ** 2)
    press(0.008 * corner)
    philtrum = np.exp(-((x / 0.011) ** 2) - ((y + 0.160) / 0.018) ** 2)
    press(0.006 * philtrum)
    nostril = np.exp(-(((x - 0.024) / 0.012) ** 2) - ((y + 0.122) / 0.010) ** 2)
    press(0.026 * nostril * (surface[..., 2] > 0.38))
    # Mouth pocket: the rows between the rims run back along the upper jaw and forward along the lower.
    t = np.clip((rows - LIP_ROWS[0]) / (LIP_ROWS[1] - LIP_ROWS[0]), 0, 1)
    press(0.11 * np.sin(np.pi * t) ** 0.7 * np.sqrt(np.clip(1 - (m / 0.98) ** 2, 0, 1))[None])
    # Eye pocket: onto a sphere inside the eyeball, where nobody sees it.
    t = np.clip((rows - LID_ROWS[0]) / (LID_ROWS[1] - LID_ROWS[0]), 0, 1)
    inside = ((t > 0) & (t < 1)) & (np.abs(xi) < 1.0)[None]
    offset = p - EYE_CENTRE
    sunk = EYE_CENTRE + offset * (0.86 * EYE_RADIUS / np.linalg.norm(offset, axis=-1, keepdims=True))
    p[inside] = sunk[inside]
    return p


def _grid_faces(grid: np.ndarray) -> np.ndarray:
    """Two triangles a cell, diagonals mirrored between left and right."""
    a, b = grid[:-1], np.roll(grid[:-1], -1, 1)
    c, d = grid[1:], np.roll(grid[1:], -1, 1)
    left = np.arange(grid.shape[1]) < grid.shape[1] // 2
    first = np.where(left[None, :, None], np.stack([a, c, d], -1), np.stack([a, c, b], -1))
    second = np.where(left[None, :, None], np.stack([a, d, b], -1), np.stack([b, c, d], -1))
    return np.concatenate([first.reshape(-1, 3), second.reshape(-1, 3)])


def build_template() -> Template:
    """Makes the template; about half a second."""
    half, half_surface, azimuth = _skin()
    mirror = np.array([-1.0, 1.0, 1.0])
    skin = np.concatenate([half, half[:, -2:0:-1] * mirror], 1)
    surface = np.concatenate([half_surface, half_surface[:, -2:0:-1] * mirror], 1)
    degrees = np.concatenate([azimuth, -azimuth[-2:0:-1]])
    rows, columns = skin.shape[:2]
    grid = np.arange(rows * columns, dtype=np.int32).reshape(rows, columns)
    radius = 0.5 * (np.arange(rows) + 1.0) / rows
    angle = 2 * np.pi * np.arange(columns) / columns
    uv = 0.5 + radius[:, None, None] * np.stack([np.sin(angle), -np.cos(angle)], -1)[None] * 0.998
    vertices, surfaces, uvs = [skin.reshape(-1, 3)], [surface.reshape(-1, 3)], [uv.reshape(-1, 2)]
    faces = [_grid_faces(grid)]
    parts: dict[str, np.ndarray] = {}
    rings: dict[str, np.ndarray] = {}
    count = rows * columns

    def add(name: str, part: Part) -> None:
        nonlocal count
        parts[name] = np.arange(count, count + len(part.vertices))
        rings[name] = part.rings
        vertices.append(part.vertices)
        surfaces.append(part.vertices)
        uvs.append(part.uv)
        faces.append(part.faces + count)
        count += len(part.vertices)

    top = skin[0].mean(0) + [0, 0.001, 0]
    add("crown", Part(top[None], np.zeros((0, 3), int), np.array([[0.5, 0.5]]), np.zeros(1)))
    apex = parts["crown"][0]
    faces.append(np.stack([np.full(columns, apex), grid[0], np.roll(grid[0], -1)], 1))
    rim = skin[-1]
    hub = np.array([[0.0, -1.0, rim[:, 2].mean()]])
    loop = np.arange(columns)
    fan = np.stack([np.full(columns, columns), np.roll(loop, -1), loop], 1)
    add(
        "cut",
        Part(
            np.concatenate([rim, hub]), fan, np.concatenate([uv[-1], [[0.5, 0.001]]]), np.zeros(columns + 1)
        ),
    )
    for name, part in (("ear", ear()), ("eyeball", eyeball())):
        add(f"left_{name}", part.placed_uv(0.005, 0.005 if name == "ear" else 0.865))
        add(f"right_{name}", part.mirrored().placed_uv(0.865, 0.005 if name == "ear" else 0.865))
    add("upper_teeth", teeth(upper=True).placed_uv(0.14, 0.005, 0.03))
    add("lower_teeth", teeth(upper=False).placed_uv(0.14, 0.965, 0.03))
    add("tongue", tongue().placed_uv(0.83, 0.005, 0.03))
    return Template(
        np.concatenate(vertices),
        np.concatenate(surfaces),
        np.concatenate(faces).astype(np.int32),
        np.concatenate(uvs),
        grid,
        np.repeat(degrees[None], rows, 0),
        parts,
        rings,
    )
