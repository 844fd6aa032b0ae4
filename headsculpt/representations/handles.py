"""Handles of a solid on a regular grid, and how to be rid of the small ones.

Hair that touches a shoulder, or spectacles that stand off a nose by a cell, make tunnels of a cell's width. Nobody sees
them, but a mesh cannot be thinned out across them without tearing, nor put on a skeleton. A tunnel can be filled, and
the bridge over it cut; whatever is the smaller change comes first here.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Solid = NDArray[np.bool_]

# The simplices of the Freudenthal grid (see :mod:`.tetrahedra`) that start at a vertex: chains of corners of its cube.
_CORNERS = [np.array([bits & 1, bits >> 1 & 1, bits >> 2]) for bits in range(1, 8)]
_CHAINS = [
    chain
    for length in (1, 2, 3)
    for chain in combinations(_CORNERS, length)
    if all((a <= b).all() for a, b in zip(chain, chain[1:], strict=False))
]


def euler_number(solid: Solid) -> int:
    """Of the tetrahedra, and their parts, whose corners all lie in ``solid (X, Y, Z)``: pieces less handles plus cavities.

    The surface that marching tetrahedra finds has twice that.
    """
    padded = np.pad(solid, (0, 1))
    low = padded[:-1, :-1, :-1]
    total = int(low.sum())
    for chain in _CHAINS:
        full = low
        for x, y, z in chain:
            full = full & padded[x : x + low.shape[0], y : y + low.shape[1], z : z + low.shape[2]]
        total += (-1) ** len(chain) * int(full.sum())
    return total


def without_handles(solid: Solid, reach: int = 3) -> Solid:
    """The solid with tunnels filled, and bridges cut, that are up to ``2 * reach`` cells wide.

    Nothing else changes: of the places where the solid would be filled or cut, only those count that leave it with
    fewer handles, and neither more pieces nor cavities (a closed solid of one piece stays one).

    Args:
        solid: ``(X, Y, Z)`` bool, one piece without cavities, False on the border.
        reach: cells.
    """
    from scipy import ndimage

    solid = solid.copy()
    whole = np.ones((3, 3, 3), bool)
    ball = ndimage.generate_binary_structure(3, 1)
    for width in range(1, reach + 1):
        for fill in (True, False):
            if euler_number(solid) >= 1:
                return solid
            if fill:
                changed = ndimage.binary_closing(solid, ball, width) & ~solid
            else:
                changed = solid & ~ndimage.binary_opening(solid, ball, width)
            labels, _ = ndimage.label(changed, whole)
            for number, box in enumerate(ndimage.find_objects(labels), 1):
                # The change of the Euler number is that of the surroundings.
                wide = tuple(slice(max(s.start - 1, 0), s.stop + 1) for s in box)
                before, mine = solid[wide], labels[wide] == number
                after = before | mine if fill else before & ~mine
                if euler_number(after) > euler_number(before) and _one_piece(solid, wide, after):
                    solid[wide] = after
    return solid


def _one_piece(solid: Solid, box: tuple[slice, ...], after: Solid) -> bool:
    """Whether the solid with ``after`` in this box is still one piece, and so is what lies around it."""
    from scipy import ndimage

    from headsculpt.representations.tetrahedra import NEIGHBOURHOOD

    tried = solid.copy()
    tried[box] = after
    return ndimage.label(tried, NEIGHBOURHOOD)[1] == 1 and ndimage.label(~tried, NEIGHBOURHOOD)[1] == 1
