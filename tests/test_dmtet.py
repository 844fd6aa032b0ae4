"""Marching tetrahedra and DMTet: closed, oriented, differentiable, one piece."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from headsculpt.cameras import orbit
from headsculpt.meshes import topology
from headsculpt.representations.dmtet import DMTet
from headsculpt.representations.tetrahedra import (
    grid_crossings,
    grid_tetrahedra,
    grid_vertices,
    largest_solid,
    marching_tetrahedra,
    surface_points,
)

SHAPE = (13, 12, 14)
CELL = 2.2 / 12
LOWER = torch.tensor([-1.1, -1.0, -1.2])


def ball(x):
    return (x - torch.tensor([0.05, 0.02, -0.03]).to(x)).norm(dim=-1) - 0.7


def torus(x):
    return ((x[:, :2].norm(dim=-1) - 0.6).square() + x[:, 2].square()).sqrt() - 0.3


def volume(points, faces):
    a, b, c = (points[faces[:, i]] for i in range(3))
    return (a * torch.linalg.cross(b, c)).sum() / 6


class Colour(nn.Module):
    """A colour field of twelve parameters."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, points):
        return self.linear(points).sigmoid()


class BallField(nn.Module):
    """A steep ball with a cavity, and a crumb beside it."""

    def __init__(self):
        super().__init__()
        self.colour_field = Colour()

    def density(self, points):
        solid = torch.maximum(ball(points), 0.25 - points.norm(dim=-1))
        crumb = (points - torch.tensor([0.9, 0.9, 0.9])).norm(dim=-1) - 0.12
        return 80 * torch.sigmoid(-25 * torch.minimum(solid, crumb))


def small(gradient_smoothing=0):
    values = ball(grid_vertices(SHAPE, LOWER, CELL)).view(SHAPE)
    torch.manual_seed(0)
    return DMTet(values, LOWER, CELL, Colour(), gradient_smoothing=gradient_smoothing)


def pieces(faces, count):
    label = torch.arange(count)
    while True:
        least = label.clone()
        for i in range(3):
            for j in range(3):
                least.scatter_reduce_(0, faces[:, i], label[faces[:, j]], "amin")
        if torch.equal(least, label):
            return label[faces].unique().numel()
        label = least


# Tetrahedra


@pytest.mark.parametrize("shape", [(2, 2, 2), (3, 4, 2), (5, 3, 4)])
def test_the_tetrahedra_fill_the_box_without_overlap_and_match_at_their_faces(shape):
    vertices = grid_vertices(shape, torch.zeros(3), 1.0)
    tets = grid_tetrahedra(shape)
    a, b, c, d = (vertices[tets[:, i]] for i in range(4))
    volumes = (torch.linalg.cross(b - a, c - a) * (d - a)).sum(-1) / 6
    assert torch.allclose(volumes, torch.full_like(volumes, 1 / 6))
    cells = (shape[0] - 1) * (shape[1] - 1) * (shape[2] - 1)
    assert tets.shape == (6 * cells, 4)
    faces = torch.cat([tets[:, [1, 2, 3]], tets[:, [0, 2, 3]], tets[:, [0, 1, 3]], tets[:, [0, 1, 2]]])
    unique, count = torch.unique(faces.sort(-1).values, dim=0, return_counts=True)
    middles = vertices[unique[count == 1]]
    size = torch.tensor(shape) - 1.0
    on_border = (((middles == 0) | (middles == size)).all(1)).any(-1)
    assert int(count.max()) == 2 and on_border.all()  # only faces on the box's sides belong to one


def test_a_grid_of_one_layer_is_refused():
    with pytest.raises(ValueError, match="at least 2 vertices"):
        grid_tetrahedra((1, 3, 3))


@pytest.mark.parametrize("backend", ["numba", "torch"])
@pytest.mark.parametrize(("field", "euler"), [(ball, 2), (torus, 0)])
def test_surfaces_are_closed_and_oriented_outwards(backend, field, euler):
    x = grid_vertices(SHAPE, LOWER, CELL)
    found = grid_crossings(field(x).view(SHAPE), backend=backend)
    ends = torch.stack([found.inside, found.outside], -1)
    points = surface_points(field(x)[ends], x[ends])
    table = topology(found.faces)
    assert table.closed
    assert points.shape[0] - table.edges.shape[0] + found.faces.shape[0] == euler
    half_edges = torch.cat([found.faces[:, [0, 1]], found.faces[:, [1, 2]], found.faces[:, [2, 0]]])
    assert torch.unique(half_edges, dim=0).shape[0] == half_edges.shape[0]  # consistent winding
    expected = 4 / 3 * torch.pi * 0.7**3 if field is ball else 2 * torch.pi**2 * 0.6 * 0.3**2
    assert float(volume(points, found.faces)) == pytest.approx(expected, rel=0.1)
    assert float(field(points).abs().max()) < 0.2 * CELL


def test_back_ends_find_the_same_surface_on_noise():
    values = torch.randn(6, 7, 5, generator=torch.Generator().manual_seed(0))
    values[0, 0, 0] = 0.0
    x = grid_vertices((6, 7, 5), torch.zeros(3), 1.0)
    every = marching_tetrahedra(x, grid_tetrahedra((6, 7, 5)), values.reshape(-1))
    surfaces = []
    for backend in ("numba", "torch"):
        found = grid_crossings(values, backend=backend)
        ends = torch.stack([found.inside, found.outside], -1)
        surfaces.append((surface_points(values.reshape(-1)[ends], x[ends]), found.faces))

    def triangles(points, faces):
        return sorted(map(tuple, (points[faces].view(-1, 9) * 1000).round().tolist()))

    for points, faces in surfaces:
        assert triangles(points, faces) == triangles(*every)


class WithoutWholeProducts(TorchDispatchMode):
    """CUDA multiplies no matrices of whole numbers; neither does what runs under this."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.__name__.split(".")[0]
        if name in ("mm", "mv", "addmm", "addmv", "bmm", "baddbmm", "dot") and not args[-1].is_floating_point():
            raise NotImplementedError(f'"{name}" is not implemented for whole numbers')
        return func(*args, **(kwargs or {}))


def test_the_surface_is_found_without_products_that_cuda_lacks():
    with WithoutWholeProducts():
        with pytest.raises(NotImplementedError, match='"mv" is not implemented'):
            torch.ones(2, 2, dtype=torch.int64) @ torch.ones(2, dtype=torch.int64)
        found = grid_crossings(ball(grid_vertices(SHAPE, LOWER, CELL)).view(SHAPE), backend="torch")
    assert topology(found.faces).closed


def test_a_field_that_is_nowhere_negative_has_no_surface():
    for backend in ("numba", "torch"):
        found = grid_crossings(torch.ones(3, 3, 3), backend=backend)
        assert found.faces.shape == (0, 3) and found.inside.shape == (0,)


def test_gradients_of_marching_are_those_of_finite_differences():
    shape = (4, 4, 4)
    x = grid_vertices(shape, torch.full((3,), -1.0, dtype=torch.float64), 2 / 3)
    values = (x - 0.05).norm(dim=-1) - 0.8
    tets = grid_tetrahedra(shape)
    assert torch.autograd.gradcheck(
        lambda v, p: marching_tetrahedra(p, tets, v)[0], (values.requires_grad_(), x.requires_grad_())
    )


def test_the_largest_solid_is_one_piece_without_cavities():
    inside = torch.zeros(9, 9, 9, dtype=torch.bool)
    inside[1:6, 1:6, 1:6] = True
    inside[3, 3, 3] = False  # a cavity
    inside[7, 7, 7] = True  # a crumb
    solid = torch.from_numpy(largest_solid(inside.numpy()))
    assert int(solid.sum()) == 125 and bool(solid[3, 3, 3]) and not bool(solid[7, 7, 7])


# DMTet


@pytest.mark.parametrize("resolution", [16, 33])
def test_from_a_density_comes_one_closed_ball(resolution):
    dmtet = DMTet.from_field(BallField(), resolution=resolution, threshold=40.0)
    mesh = dmtet.mesh().checked()
    assert topology(mesh.faces).closed
    assert pieces(mesh.faces, mesh.vertices.shape[0]) == 1
    assert float(ball(mesh.vertices).abs().max()) < 0.3 * float(dmtet.cell)
    assert float(volume(mesh.vertices, mesh.faces)) == pytest.approx(4 / 3 * torch.pi * 0.7**3, rel=0.03)
    assert mesh.colours is not None and mesh.colours.shape == mesh.vertices.shape


def test_distances_are_in_scene_units_next_to_the_surface():
    dmtet = DMTet.from_field(BallField(), resolution=24, threshold=40.0)
    truth = ball(grid_vertices(tuple(dmtet.sdf.shape), dmtet.lower, float(dmtet.cell))).view(dmtet.sdf.shape)
    near = truth.abs() < float(dmtet.cell)
    assert float((dmtet.sdf.detach() - truth)[near].abs().mean()) < 0.15 * float(dmtet.cell)


def test_an_empty_density_and_a_missing_colour_field_are_named():
    with pytest.raises(ValueError, match="density reaches 0"):
        DMTet.from_field(lambda x: 0 * x[:, 0], colour_field=Colour())
    with pytest.raises(ValueError, match="colour_field"):
        DMTet.from_field(lambda x: 1 - x.norm(dim=-1))
    with pytest.raises(ValueError, match="at least 8"):
        DMTet.from_field(BallField(), resolution=4)


def test_images_show_the_ball_over_its_background():
    dmtet = small()
    cameras = orbit([0.0, 90.0], 10.0, height=32, width=32)
    background = torch.tensor([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])
    image = dmtet.render(cameras, background=background, with_albedo=True)
    assert torch.allclose(image.rgb[:, 0, 0], background) and image.opacity[:, 0, 0].abs().max() == 0
    assert (image.opacity[:, 16, 16] == 1).all()
    assert torch.allclose(image.depth[:, 16, 16, 0], torch.full((2,), 4 - 0.7), atol=0.1)
    assert torch.allclose(image.normal[0, 16, 16], torch.tensor([0.0, 0.17, 0.98]), atol=0.2)
    plain = dmtet.render(cameras, background=background[:, None, None].expand(2, 32, 32, 3), shaded=False)
    assert torch.allclose(plain.rgb, image.albedo)
    assert 0 <= image.rgb.min() and image.rgb.max() <= 1


def test_a_background_of_another_shape_is_named():
    with pytest.raises(ValueError, match=r"background must be \(1, 3\)"):
        small().render(orbit([0.0], height=8, width=8), background=torch.zeros(3))


def test_the_area_follows_the_distances_as_finite_differences_say():
    """Raising all signed distances by e shrinks the ball by e, and its silhouette with it."""
    cameras = orbit([30.0, 100.0], [20.0, -30.0], height=96, width=96)

    def area(e):
        dmtet = small()
        dmtet.sdf.data += e
        return dmtet.render(cameras).opacity.mean(), dmtet

    value, dmtet = area(0.0)
    value.backward()
    analytic = dmtet.sdf.grad.sum().item()
    numeric = (area(0.02)[0] - area(-0.02)[0]).item() / 0.04
    assert analytic == pytest.approx(numeric, rel=0.03)


def test_all_parameters_learn_and_the_surface_stays_closed():
    dmtet = small(gradient_smoothing=2)
    cameras = orbit([0.0, 120.0], height=24, width=24)
    optimiser = torch.optim.Adam(dmtet.parameters(), lr=1e-2)
    losses = []
    for _ in range(6):
        image = dmtet.render(cameras, background=torch.zeros(2, 3))
        terms = dmtet.regularisation()
        loss = image.opacity.mean() + 0.1 * image.rgb.mean() + 0.01 * sum(terms.values())
        optimiser.zero_grad()
        loss.backward()
        assert all(torch.isfinite(p.grad).all() and p.grad.abs().max() > 0 for p in dmtet.parameters())
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert topology(dmtet.mesh().faces).closed


def test_smoothed_gradients_keep_their_sum():
    sums = []
    for passes in (0, 2):
        dmtet = small(passes)
        dmtet.render(orbit([0.0], height=24, width=24)).opacity.mean().backward()
        sums.append(float(dmtet.sdf.grad.sum()))
    assert sums[0] == pytest.approx(sums[1], rel=1e-2)


def test_the_surface_never_leaves_the_grid():
    dmtet = small()
    dmtet.sdf.data.fill_(-1.0)
    mesh = dmtet.mesh()
    assert topology(mesh.faces).closed


def test_a_surface_that_has_vanished_is_reported():
    dmtet = small()
    dmtet.sdf.data.fill_(1.0)
    with pytest.raises(RuntimeError, match="vanished"):
        dmtet.surface()


def test_a_checkpoint_brings_its_own_grid(tmp_path):
    dmtet = DMTet.from_field(BallField(), resolution=17, threshold=40.0)
    torch.save(dmtet.state_dict(), tmp_path / "fine.pt")
    other = small()
    other.load_state_dict(torch.load(tmp_path / "fine.pt", weights_only=True))
    assert torch.equal(other.mesh().vertices, dmtet.mesh().vertices)


def test_a_finer_grid_holds_the_same_surface():
    dmtet = DMTet.from_field(BallField(), resolution=16, threshold=40.0)
    dmtet.deform.data.normal_(0, 0.01, generator=torch.Generator().manual_seed(0))
    fine = dmtet.regridded(32)
    mesh = fine.mesh()
    assert topology(mesh.faces).closed and float(fine.cell) < 0.7 * float(dmtet.cell)
    assert float(ball(mesh.vertices).abs().mean()) < 0.2 * float(dmtet.cell)


def test_a_shape_that_was_seen_once_is_coloured_as_if_it_were_drawn_again():
    dmtet = small()
    cameras = orbit([0.0, 60.0], 5.0, height=40, width=40)
    background = torch.tensor([[0.9, 0.9, 0.9], [0.1, 0.2, 0.3]])
    with torch.no_grad():
        seen = dmtet.see(cameras)

    class Painted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hue = nn.Parameter(torch.tensor([0.2, 0.5, 0.8]))

        def forward(self, points):
            return self.hue.expand(len(points), 3)

    dmtet.colour_field = Painted()
    drawn = dmtet.render(cameras, background=background, with_albedo=True)
    coloured, _ = seen.coloured(dmtet.colour_field, background=background, with_albedo=True)
    for name in ("rgb", "opacity", "depth", "normal", "albedo"):
        torch.testing.assert_close(getattr(coloured, name), getattr(drawn, name).detach())
    coloured.rgb.sum().backward()
    assert dmtet.colour_field.hue.grad.abs().min() > 0
