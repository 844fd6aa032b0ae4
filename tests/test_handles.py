"""Handles of a solid on a grid: counted, and the small ones removed without touching anything else."""

from __future__ import annotations

import numpy as np
import torch

from headsculpt.export.unwrap import shape_of_surface
from headsculpt.representations.dmtet import DMTet
from headsculpt.representations.handles import euler_number, without_handles
from headsculpt.representations.tetrahedra import grid_crossings


def axes(size: int = 24) -> tuple[np.ndarray, ...]:
    return np.meshgrid(*[np.arange(size, dtype=float)] * 3, indexing="ij")


def ball(radius: float, centre=(11.5, 11.5, 11.5)) -> np.ndarray:
    return sum((a - c) ** 2 for a, c in zip(axes(), centre, strict=True)) < radius**2


def drilled(width: int) -> np.ndarray:
    """A ball with a square hole along z."""
    solid = ball(9)
    solid[11 : 11 + width, 11 : 11 + width] = False
    return solid


def bridged() -> np.ndarray:
    """A ball with a thin arch far off its surface."""
    solid = ball(6)
    solid[11, 5:18, 20] = True
    solid[11, 5, 11:21] = solid[11, 17, 11:21] = True
    return solid


def test_the_euler_number_counts_pieces_less_handles_plus_cavities():
    hollow = ball(9) & ~ball(4)
    two = ball(4, (6, 6, 6)) | ball(4, (17, 17, 17))
    for solid, number in ((ball(9), 1), (drilled(2), 0), (bridged(), 0), (hollow, 2), (two, 2), (ball(0.1), 0)):
        assert euler_number(solid) == number
        if solid.any():  # the surface that bounds it has twice that
            values = torch.from_numpy(np.where(solid, -1.0, 1.0).astype(np.float32))
            assert shape_of_surface(grid_crossings(values).faces.numpy())[2] == 2 * number


def test_narrow_tunnels_are_filled_and_nothing_else_changes():
    solid = drilled(2)
    solid[20, 11, 11] = True  # a bump that opening would take
    found = without_handles(solid)
    assert euler_number(found) == 1
    assert found[11:13, 11:13, 4:19].all() and found[20, 11, 11]
    outside = np.ones_like(solid)
    outside[9:15, 9:15] = False
    assert np.array_equal(found[outside], solid[outside])


def test_a_thin_bridge_over_a_wide_gap_is_cut():
    found = without_handles(bridged())
    assert euler_number(found) == 1 and not (found & ~bridged()).any()
    assert found[ball(5)].all()


def test_wide_tunnels_stay():
    assert np.array_equal(without_handles(drilled(5), reach=1), drilled(5))


def test_a_dmtet_loses_its_handles_in_place():
    solid = drilled(2)
    distance = torch.from_numpy(np.where(solid, -0.05, 0.05).astype(np.float32))
    dmtet = DMTet(distance, torch.zeros(3), 0.05, torch.nn.Identity())
    dmtet.remove_handles()
    assert euler_number((dmtet.sdf.detach() < 0).numpy()) == 1
