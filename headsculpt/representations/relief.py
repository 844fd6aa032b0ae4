"""Relief: a surface takes over another one where the two nearly coincide (ours).

Diffusion at 128 pixels says where hair, beards and hats are, but not what an eyelid is: after some hundred of its
requests the face of the head that a sculpture starts from is a lumpy one. Where nothing has grown on that head, and so
the sculpture lies within a few hundredths of it, the head's own surface is the better one: lids, nostrils, lips and
ears, exact to the grid.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headsculpt.representations.dmtet import BAND_CELLS, DMTet, evaluate
from headsculpt.representations.tetrahedra import grid_vertices

WHOLE = 0.5  # up to this share of the distance the other surface is taken whole, from there on less and less
# Scene units. Heights are averaged over BLUR (a standard deviation), or the surface's lumps would decide.
BLUR = 0.05
# What stays is smoothed: what is lower than NEAR (spectacles, thin hair) has the same lumps as the face beside it; what
# is higher than FAR (hats, beards, a mohawk) has edges, which a wide blur would round off.
NEAR, FAR = 0.10, 0.16
SMOOTHING_NEAR, SMOOTHING_FAR = 0.03, 0.018  # standard deviations

# Scene units: how far apart the two sides of a pocket may be, and how far above it its lid; what stands off by less
# than GROWN from the head is the head.
POCKET, GROWN = 0.2, 0.02


@torch.no_grad()
def fill_pockets(dmtet: DMTet, distance: Callable[[Tensor], Tensor], below: float) -> None:
    """Fills what is enclosed from the front, from behind and from above by what has grown on a head, in place.

    So a beard is full up to the neck. Distillation leaves a slab that hangs from the chin: no view looks up behind it.
    What has grown behind the head, such as a ponytail, keeps its gap, and so does a collar, above which is a chin.

    Args:
        dmtet: in scene units, y up and z to the front, not deformed.
        distance: of the head that it grew on, as in :func:`take_relief`.
        below: height (y) up to which pockets are filled, scene units; the chin's.

    Raises:
        ValueError: the grid has been deformed.
    """
    _check_undeformed(dmtet)
    cell, shape = float(dmtet.cell), dmtet.sdf.shape
    points = grid_vertices((shape[0], shape[1], shape[2]), dmtet.lower, cell)
    solid = (dmtet.sdf < 0).cpu().numpy()
    grown = solid & (evaluate(distance, points).view(shape) > GROWN).cpu().numpy()
    low = (points[:, 1].view(shape) < below).cpu().numpy()
    reach = round(POCKET / cell)
    before, behind, lid = _ahead(grown, 2, reach), _ahead(solid, 2, -reach), _ahead(grown, 1, reach)
    pocket = torch.from_numpy(~solid & low & before & behind & lid).to(dmtet.sdf.device)
    dmtet.sdf[pocket] = -0.5 * cell


def _ahead(mask: NDArray[np.bool_], axis: int, reach: int) -> NDArray[np.bool_]:
    """Where a cell of the mask lies up to ``reach`` cells further along an axis, or back where that is negative."""
    mask = np.moveaxis(mask, axis, 0)
    found = np.zeros_like(mask)
    for step in range(1, min(abs(reach), len(mask) - 1) + 1):
        if reach > 0:
            found[:-step] |= mask[step:]
        else:
            found[step:] |= mask[:-step]
    return np.moveaxis(found, 0, axis)


def _check_undeformed(dmtet: DMTet) -> None:
    if dmtet.deform.any():
        raise ValueError("relief is taken on an undeformed grid; call regridded() first")


@torch.no_grad()
def take_relief(
    dmtet: DMTet, distance: Callable[[Tensor], Tensor], within: float | Callable[[Tensor], Tensor]
) -> None:
    """Gives a DMTet the surface of ``distance`` wherever its own stands off less from it than ``within``, in place.

    What stands off further (hair, spectacles, a hat) stays, smoothed, and whatever the other surface encloses is
    filled: nothing is carved below it. Floating pieces and cavities are removed.

    Args:
        dmtet: not yet deformed.
        distance: ``(N, 3)`` scene points to ``(N,)`` signed distances, negative inside.
        within: scene units, for all or as a function of the points, of the form of ``distance`` and above 0; the
            number 0 changes nothing.

    Raises:
        ValueError: ``within`` is a negative number, or the grid has been deformed.
    """
    if not callable(within) and within < 0:
        raise ValueError(f"within must be 0 or more scene units; got {within:g}")
    if within == 0:
        return
    _check_undeformed(dmtet)
    cell, shape = float(dmtet.cell), dmtet.sdf.shape
    points = grid_vertices((shape[0], shape[1], shape[2]), dmtet.lower, cell)
    other = evaluate(distance, points).view(shape)
    own = _unclamped(dmtet.sdf.detach(), cell)
    limit = evaluate(within, points).view(shape) if callable(within) else torch.full_like(own, within)
    height = _near_mean(other - own, own, cell)
    share = smooth_step((limit - height) / ((1 - WHOLE) * limit))
    far = smooth_step((height - NEAR) / (FAR - NEAR))
    own = torch.lerp(_gaussian(own, SMOOTHING_NEAR / cell), _gaussian(own, SMOOTHING_FAR / cell), far)
    band = BAND_CELLS * cell
    dmtet.sdf.copy_(torch.lerp(own, other, share).clamp(-band, band))
    dmtet.prune()


def smooth_step(x: Tensor) -> Tensor:
    """0 up to 0, 1 from 1 on, level at both ends."""
    x = x.clamp(0, 1)
    return x * x * (3 - 2 * x)


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
