"""The surface of the head that a sculpture starts from, whose relief it takes (:mod:`.representations.relief`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from headsculpt.cameras import framed
from headsculpt.config import SculptConfig
from headsculpt.representations.relief import smooth_step

# A shirt stands off from the shoulders by more than lumps do from a face, and a head's own shoulders are better than
# either: from NECK below the chin to CHEST below it (scene units) the relief is taken from further off.
NECK, CHEST, LOOSER = 0.08, 0.38, 2.2

# Scene units: longer edges of the head, those of its shoulders and of its back, are seen as facets.
LONGEST_EDGE = 0.03


@dataclass
class HeadSurface:
    """The surface of a head.

    Attributes:
        distance: ``(N, 3)`` scene points to ``(N,)`` signed distances, negative inside.
        within: ``(N, 3)`` to ``(N,)``: how far off, in scene units, a sculpture may stand and still take its relief.
        chin: its height (y), scene units.
    """

    distance: Callable[[Tensor], Tensor]
    within: Callable[[Tensor], Tensor]
    chin: float


def head_surface(
    config: SculptConfig,
    vertices: np.ndarray,
    faces: np.ndarray,
    contours: dict[str, np.ndarray],
    device: torch.device,
) -> HeadSurface | None:
    """The head that a sculpture starts from, as fine as the finest grid that is to take its relief.

    None where none is taken, as in a sculpture that starts from a ball.

    Args:
        config: ``fine.relief`` is how far off a sculpture may stand above the chin.
        vertices, faces: of the head.
        contours: vertices of the face's contours, the lowest of which is the chin.
        device: of the distances.
    """
    from headsculpt.representations.density_prior import DensityPrior
    from headsculpt.representations.tessellation import tessellated

    relief = config.fine.relief
    if relief == 0 or config.coarse.prior_kind == "blob":
        return None
    vertices, faces = tessellated(vertices, faces, LONGEST_EDGE)
    # The grid spans the sculpture's longest side, these distances the cube, which is a little larger.
    resolution = finest_grid(config) + 16
    solid = DensityPrior.from_mesh(vertices, faces, resolution, outer=seen_faces(vertices, faces)).to(device)
    chin = min(float(vertices[line][:, 1].min()) for line in contours.values())

    def distance(points: Tensor) -> Tensor:
        # The bust stands on the cube's floor: beyond that it does not go on, nor does the field of colours.
        return torch.maximum(solid.signed_distance(points), points.abs().amax(-1) - solid.bound)

    def within(points: Tensor) -> Tensor:
        return relief * (1 + (LOOSER - 1) * smooth_step((chin - NECK - points[:, 1]) / (CHEST - NECK)))

    return HeadSurface(distance, within, chin)


def finest_grid(config: SculptConfig) -> int:
    """Cells along the longest side of the finest tetrahedral grid of a run."""
    return max(config.fine.tet_resolution, config.refine.tet_resolution if config.refine.views else 0)


@torch.no_grad()
def seen_faces(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """The faces ``(K, 3)`` of a head that views from all around show: no eye sockets, no tongue."""
    from headsculpt.representations.rasterise import visibility

    azimuths = torch.arange(0.0, 360.0, 30.0)
    seen = torch.zeros(len(faces), dtype=torch.bool)
    corners, triangles = torch.from_numpy(vertices).float(), torch.from_numpy(faces).long()
    for elevation in (-35.0, 0.0, 35.0, 70.0):
        for azimuth in azimuths:
            camera = framed([float(azimuth)], elevation, 0.65, height=512, width=512)
            ids = visibility(camera.project(corners), triangles, 512, 512)
            seen[ids[ids >= 0].long()] = True
    return faces[seen.numpy()]
