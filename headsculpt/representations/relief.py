"""Relief: a surface takes over another one where the two nearly coincide (ours).

Diffusion at 128 pixels says where hair, beards and hats are, but not what an eyelid is: after some hundred of its
requests the face of the head that a sculpture starts from is a lumpy one. Where nothing has grown on that head, and so
the sculpture lies within a few hundredths of it, the head's own surface is the better one: lids, nostrils, lips and
ears, exact to the grid.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from headsculpt.representations.dmtet import BAND_CELLS, DMTet, evaluate
from headsculpt.representations.tetrahedra import grid_vertices

WHOLE = 0.5  # up to this share of the distance the other surface is taken whole, from there on less and less
BLUR = 0.025  # scene units, standard deviation, over which the surface's height is averaged, or its lumps decide
SMOOTHING = 0.01  # scene units, standard deviation, of what stays: it came from a coarser grid


@torch.no_grad()
def take_relief(dmtet: DMTet, distance: Callable[[Tensor], Tensor], within: float) -> None:
    """Gives a DMTet the surface of ``distance`` wherever its own stands off less from it, in place.

    What stands off further (hair, spectacles, a hat) stays, and whatever the other surface encloses is filled: nothing
    is carved below it. Floating pieces and cavities are removed.

    Args:
        dmtet: not yet deformed.
        distance: ``(N, 3)`` scene points to ``(N,)`` signed distances, negative inside.
        within: scene units; 0 changes nothing.

    Raises:
        ValueError: ``within`` is negative, or the grid has been deformed.
    """
    if within < 0:
        raise ValueError(f"within must be 0 or more scene units; got {within:g}")
    if within == 0:
        return
    if dmtet.deform.any():
        raise ValueError("relief is taken on an undeformed grid; call regridded() first")
    cell, shape = float(dmtet.cell), dmtet.sdf.shape
    points = grid_vertices((shape[0], shape[1], shape[2]), dmtet.lower, cell)
    other = evaluate(distance, points).view(shape)
    own = _unclamped(dmtet.sdf.detach(), cell)
    height = _near_mean(other - own, own, cell)
    share = ((within - height) / ((1 - WHOLE) * within)).clamp(0, 1)
    share = share * share * (3 - 2 * share)
    own = _gaussian(own, SMOOTHING / cell)
    band = BAND_CELLS * cell
    dmtet.sdf.copy_(torch.lerp(own, other, share).clamp(-band, band))
    dmtet.prune()


def _unclamped(sdf: Tensor, cell: float) -> Tensor:
    """The distances, those beyond the band around the surface from the grid itself (exact to half a cell)."""
    from scipy.ndimage import distance_transform_edt

    inside = (sdf < 0).cpu().numpy()
    far = distance_transform_edt(~inside) - distance_transform_edt(inside)
    far = torch.from_numpy(far).to(sdf)
    far = (far - 0.5 * far.sign()) * cell
    return torch.where(sdf.abs() < 0.9 * BAND_CELLS * cell, sdf, far)


def _near_mean(height: Tensor, own: Tensor, cell: float) -> Tensor:
    """Mean height, around every grid vertex, of the surface that is nearest there.

    A vertex says how high the surface near it stands above the other one, where their normals agree: the difference of
    its distances. Those within two cells of the surface count.
    """
    weight = (1 - own.abs() / (2 * cell)).clamp_min(0)
    mean, total = _gaussian(height * weight, BLUR / cell), _gaussian(weight, BLUR / cell)
    return torch.where(total > 1e-3, mean / total.clamp_min(1e-3), height)


def _gaussian(values: Tensor, cells: float) -> Tensor:
    from scipy.ndimage import gaussian_filter

    return torch.from_numpy(gaussian_filter(values.cpu().numpy(), cells, mode="nearest")).to(values)
