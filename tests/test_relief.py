"""The relief of one surface on another: taken where the two nearly coincide, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from headsculpt.config import config_from_yaml, load_config, to_yaml
from headsculpt.head_surface import HeadSurface, head_surface, seen_faces
from headsculpt.heads.builtin import builtin_head
from headsculpt.representations.dmtet import DMTet
from headsculpt.representations.relief import fill_pockets, take_relief
from headsculpt.representations.tetrahedra import grid_vertices
from headsculpt.sculpting_stages import FineStage, settled

CELL, HALF = 0.05, 1.0


class Grey(nn.Module):
    def forward(self, points):
        return torch.full_like(points, 0.5)


def grid(distance) -> DMTet:
    count = int(2 * HALF / CELL) + 1
    points = grid_vertices((count,) * 3, torch.full((3,), -HALF), CELL)
    return DMTet(distance(points).view((count,) * 3).clamp(-2 * CELL, 2 * CELL), torch.full((3,), -HALF), CELL, Grey())


def ball(radius: float, centre=(0.0, 0.0, 0.0)):
    return lambda points: (points - torch.tensor(centre)).norm(dim=-1) - radius


def lumpy(points):
    """A ball of 0.5 with lumps 0.02 high, and on its top a hat: another ball that stands off by 0.25."""
    lumps = 0.02 * torch.sin(40 * points[:, 0]) * torch.sin(40 * points[:, 2])
    return torch.minimum(ball(0.5)(points) + lumps, ball(0.25, (0.0, 0.5, 0.0))(points))


def radii(dmtet: DMTet, below: float = 0.15) -> torch.Tensor:
    vertices = dmtet.mesh().vertices
    return vertices[vertices[:, 1] < below].norm(dim=-1)


def test_lumps_go_and_what_stands_off_stays():
    dmtet = grid(lumpy)
    assert (radii(dmtet) - 0.5).abs().max() > 0.01
    take_relief(dmtet, ball(0.5), within=0.06)
    assert (radii(dmtet) - 0.5).abs().max() < 0.004
    assert dmtet.mesh().vertices[:, 1].max() == pytest.approx(0.75, abs=0.015)


def test_what_was_carved_below_is_filled_again():
    dmtet = grid(lambda points: torch.maximum(ball(0.5)(points), -ball(0.3, (0.5, 0.0, 0.0))(points)))
    assert radii(dmtet).min() < 0.3
    take_relief(dmtet, ball(0.5), within=0.03)
    assert (radii(dmtet) - 0.5).abs().max() < 0.004


def test_a_thick_shell_gets_no_cavity_where_the_other_surface_lies_inside():
    dmtet = grid(ball(0.7))
    take_relief(dmtet, ball(0.5), within=0.1)
    assert (radii(dmtet) - 0.7).abs().max() < 0.01
    assert dmtet.mesh().checked("the shell").vertices.norm(dim=-1).min() > 0.68


def test_within_0_changes_nothing_and_less_is_refused():
    dmtet = grid(lumpy)
    before = dmtet.sdf.detach().clone()
    take_relief(dmtet, ball(0.5), within=0.0)
    assert torch.equal(dmtet.sdf, before)
    with pytest.raises(ValueError, match="within must be 0 or more scene units; got -0.1"):
        take_relief(dmtet, ball(0.5), within=-0.1)


def box(low, high):
    middle, half = (torch.tensor(low) + torch.tensor(high)) / 2, (torch.tensor(high) - torch.tensor(low)) / 2
    return lambda points: ((points - middle).abs() - half).amax(-1)


NECK = box((-0.3, -0.9, -0.3), (0.3, 0.5, 0.1))
LID = box((-0.3, 0.0, 0.1), (0.3, 0.2, 0.3))


def hanging(*parts):
    return grid(lambda points: torch.stack([part(points) for part in (NECK, *parts)]).amin(0))


def solid_at(dmtet: DMTet, y: float, z: float) -> bool:
    where = ((torch.tensor([0.0, y, z]) + HALF) / CELL).round().long()
    return bool(dmtet.sdf[tuple(where)] < 0)


def test_a_slab_before_the_neck_is_filled_up_to_it():
    dmtet = hanging(LID, box((-0.3, -0.3, 0.2), (0.3, 0.2, 0.3)))
    assert not solid_at(dmtet, -0.1, 0.15)
    fill_pockets(dmtet, NECK, below=0.5)
    assert solid_at(dmtet, -0.1, 0.15)
    assert not solid_at(dmtet, -0.4, 0.15)  # below the slab
    dmtet.mesh().checked("the beard")


def test_pockets_above_the_chin_stay():
    dmtet = hanging(LID, box((-0.3, -0.3, 0.2), (0.3, 0.2, 0.3)))
    fill_pockets(dmtet, NECK, below=-0.2)
    assert not solid_at(dmtet, -0.1, 0.15)


def test_a_tail_behind_keeps_its_gap():
    dmtet = hanging(box((-0.1, 0.0, -0.5), (0.1, 0.2, -0.3)), box((-0.1, -0.5, -0.5), (0.1, 0.2, -0.4)))
    fill_pockets(dmtet, NECK, below=0.5)
    assert not solid_at(dmtet, -0.2, -0.35)


def test_a_collar_under_the_heads_own_chin_keeps_its_gap():
    def head(points):
        return torch.minimum(NECK(points), LID(points))

    dmtet = hanging(LID, box((-0.3, -0.9, 0.2), (0.3, -0.1, 0.3)))
    fill_pockets(dmtet, head, below=0.5)
    assert not solid_at(dmtet, -0.2, 0.15)


def test_a_deformed_grid_is_refused():
    dmtet = grid(lumpy)
    with torch.no_grad():
        dmtet.deform[3, 3, 3, 0] = 0.01
    with pytest.raises(ValueError, match=r"undeformed grid; call regridded\(\) first"):
        take_relief(dmtet, ball(0.5), within=0.06)
    with pytest.raises(ValueError, match=r"undeformed grid; call regridded\(\) first"):
        fill_pockets(dmtet, ball(0.5), below=0.0)


def test_before_the_last_look_the_shape_moves_to_a_finer_grid_with_the_relief():
    config = load_config("draft", ["fine.relief=0.06", "refine.tet_resolution=64"], prompt="an egg")
    head = HeadSurface(ball(0.5), lambda points: torch.full_like(points[:, 0], 0.06), chin=-0.4)
    fine = settled(config, FineStage(grid(lumpy), config), head)
    assert float(fine.dmtet.cell) < 0.6 * CELL
    assert (radii(fine.dmtet) - 0.5).abs().max() < 0.002


def test_a_run_of_before_keeps_its_shape():
    old = to_yaml(load_config("draft", prompt="an egg"))
    kept = [line for line in old.splitlines() if "relief" not in line]
    config = config_from_yaml("\n".join(kept), "config.yaml")
    assert config.fine.relief == 0 and config.refine.tet_resolution == config.fine.tet_resolution
    fine = FineStage(grid(lumpy), config)
    assert settled(config, fine, None) is fine


def test_the_faces_of_a_head_that_are_seen_are_its_outside():
    head = builtin_head()
    vertices = head.vertices({}, {})
    seen = seen_faces(vertices, head.faces)
    used = np.zeros(len(vertices), bool)
    used[seen.ravel()] = True
    assert used[head.regions["tongue"] > 0.5].mean() < 0.1
    assert 0.75 * len(head.faces) < len(seen) < 0.95 * len(head.faces)


def test_how_far_off_relief_is_taken_may_depend_on_the_place():
    dmtet = grid(ball(0.56))
    take_relief(dmtet, ball(0.5), within=lambda points: torch.where(points[:, 1] < 0, 0.2, 0.01))
    vertices = dmtet.mesh().vertices
    below, above = vertices[vertices[:, 1] < -0.2], vertices[vertices[:, 1] > 0.2]
    assert below.norm(dim=-1).mean() == pytest.approx(0.5, abs=0.005)
    assert above.norm(dim=-1).mean() == pytest.approx(0.56, abs=0.005)


def test_what_stands_off_a_little_is_smoothed_more_than_what_stands_off_far():
    def bumpy(radius):
        return lambda points: ball(radius)(points) + 0.03 * torch.sin(25 * points[:, 0]) * torch.sin(25 * points[:, 2])

    spread = []
    for radius in (0.57, 0.75):
        dmtet = grid(bumpy(radius))
        before = radii(dmtet, 1.0).std()
        take_relief(dmtet, ball(0.5), within=0.01)
        assert radii(dmtet, 1.0).mean() == pytest.approx(radius, abs=0.01)
        spread.append(float(radii(dmtet, 1.0).std() / before))
    assert spread[0] < 0.8 * spread[1] < 0.8


def test_no_surface_where_no_relief_is_taken():
    head = builtin_head()
    vertices = head.vertices({}, {})

    def surface(*settings):
        config = load_config("draft", settings, prompt="x")
        return head_surface(config, vertices, head.faces, dict(head.landmarks), torch.device("cpu"))

    assert surface("fine.relief=0") is None and surface("coarse.prior_kind=blob") is None
    found = surface("fine.tet_resolution=24", "refine.views=0")
    inside, above, under = found.distance(torch.tensor([[0.0, 0.2, 0.0], [0.0, 0.9, 0.0], [0.0, -1.05, 0.0]]))
    assert inside < 0 < above and under == pytest.approx(0.05)  # the bust ends on the cube's floor


def test_shoulders_take_relief_from_further_off_than_faces():
    head = builtin_head()
    config = load_config("draft", ["fine.tet_resolution=24", "refine.views=0"], prompt="x")
    found = head_surface(config, head.vertices({}, {}), head.faces, dict(head.landmarks), torch.device("cpu"))
    face, chest = found.within(torch.tensor([[0.0, 0.0, 0.4], [0.0, -0.9, 0.2]]))
    assert face == pytest.approx(config.fine.relief) and chest == pytest.approx(2.2 * config.fine.relief)
