"""The surface of the head that a sculpture starts from, whose relief it takes (:mod:`.representations.relief`)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from headsculpt.cameras import framed
from headsculpt.config import SculptConfig

HeadSurface = Callable[[Tensor], Tensor]  # scene points (N, 3) to signed distances (N,), negative inside


def head_surface(
    config: SculptConfig, vertices: np.ndarray, faces: np.ndarray, device: torch.device
) -> HeadSurface | None:
    """Signed distances to the head that a sculpture starts from, as fine as the finest grid that is to take its relief.

    None where none is taken, as in a sculpture that starts from a ball.
    """
    from headsculpt.representations.density_prior import DensityPrior

    if config.fine.relief == 0 or config.coarse.prior_kind == "blob":
        return None
    finest = max(config.fine.tet_resolution, config.refine.tet_resolution if config.refine.steps else 0)
    # The grid spans the sculpture's longest side, these distances the cube, which is a little larger.
    solid = DensityPrior.from_mesh(vertices, faces, resolution=finest + 16, outer=seen_faces(vertices, faces))
    solid = solid.to(device)

    def distance(points: Tensor) -> Tensor:
        # The bust stands on the cube's floor: beyond that it does not go on, nor does the field of colours.
        return torch.maximum(solid.signed_distance(points), points.abs().amax(-1) - solid.bound)

    return distance


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
