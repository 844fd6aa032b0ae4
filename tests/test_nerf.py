"""NeRF: marching, compositing, occupancy, the density prior, and that it learns from images."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from headsculpt.cameras import framed, orbit
from headsculpt.representations import march_kernels
from headsculpt.representations.compositing import (
    composite,
    composite_packed,
    composite_reference,
    distortion_in_torch,
    distortion_loss,
)
from headsculpt.representations.density_prior import DensityPrior, signed_distance_grid, softplus_inverse
from headsculpt.representations.nerf import NeRF
from headsculpt.representations.occupancy import OccupancyGrid

SMALL = {"levels": 6, "finest_resolution": 64, "log2_table": 12, "hidden": 16, "occupancy_resolution": 32}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sphere(
    radius: float = 0.5, centre: tuple[float, float, float] = (0, 0, 0)
) -> tuple[np.ndarray, np.ndarray]:
    trimesh = pytest.importorskip("trimesh")
    mesh = trimesh.creation.icosphere(3, radius)
    return np.asarray(mesh.vertices) + np.asarray(centre), np.asarray(mesh.faces)


def sphere_prior(resolution: int = 32, **settings: float) -> DensityPrior:
    axis = torch.linspace(-1, 1, resolution)
    points = torch.cartesian_prod(axis, axis, axis)
    return DensityPrior((points.norm(dim=-1) - 0.5).view((resolution,) * 3), **settings)


def small_nerf(prior: DensityPrior | None = None, **changes) -> NeRF:
    return NeRF(prior or sphere_prior(), generator=seeded(), **{**SMALL, **changes})


# ---------------------------------------------------------------- compositing


def packed(counts: list[int]) -> tuple[torch.Tensor, ...]:
    offsets = torch.tensor([0, *np.cumsum(counts)])
    n = int(offsets[-1])
    g = seeded(3)
    sigma, dt = torch.rand(n, generator=g) * 20, torch.rand(n, generator=g) * 0.1
    t = torch.cat([torch.sort(torch.rand(c, generator=g))[0] for c in counts]) if n else torch.zeros(0)
    return sigma, dt, t, torch.rand(n, 3, generator=g), offsets


@pytest.mark.parametrize("counts", [[3, 0, 5, 1], [0, 0], [40]])
def test_composite_agrees_with_double_loop(counts: list[int]) -> None:
    sigma, dt, t, values, offsets = packed(counts)
    for backend in ("numba", "torch"):
        out = composite(sigma, dt, t, values, offsets, backend)
        for r in range(len(counts)):
            clear, total, depth = 1.0, torch.zeros(3), 0.0
            for n in range(int(offsets[r]), int(offsets[r + 1])):
                alpha = 1 - math.exp(-float(sigma[n] * dt[n]))
                assert float(out.weights[n]) == pytest.approx(clear * alpha, abs=1e-5)
                total, depth = total + clear * alpha * values[n], depth + clear * alpha * float(t[n])
                clear *= 1 - alpha
            torch.testing.assert_close(out.total[r], total, atol=1e-5, rtol=1e-4)
            assert float(out.depth[r]) == pytest.approx(depth, abs=1e-5)
            assert float(out.opacity[r]) == pytest.approx(1 - clear, abs=1e-5)


def test_opacity_is_one_minus_exp_of_optical_depth() -> None:
    sigma, dt, t, values, offsets = packed([7, 2, 0, 30])
    out = composite(sigma, dt, t, values, offsets)
    thickness = torch.stack([(sigma * dt)[a:b].sum() for a, b in zip(offsets[:-1], offsets[1:], strict=True)])
    torch.testing.assert_close(out.opacity, 1 - torch.exp(-thickness))


def test_composite_gradient_agrees_with_torch_and_differences() -> None:
    sigma, dt, t, values, offsets = packed([4, 0, 6, 1])
    grads = []
    for backend in ("numba", "torch"):
        s, v = sigma.clone().requires_grad_(), values.clone().requires_grad_()
        out = composite(s, dt, t, v, offsets, backend)
        loss = (
            out.total.square().sum()
            + (out.opacity * 2).sin().sum()
            + out.depth.sum()
            + out.weights.pow(3).sum()
        )
        loss.backward()
        grads.append((s.grad, v.grad))
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-4, atol=1e-5)
    doubles = [a.double() for a in (sigma, dt, t, values)]
    assert torch.autograd.gradcheck(
        lambda s, v: tuple(composite(s, doubles[1], doubles[2], v, offsets)),
        (doubles[0].requires_grad_(), doubles[3].requires_grad_()),
    )


def test_distortion_agrees_with_double_loop() -> None:
    weights, dt, t, _, offsets = packed([5, 0, 3])
    weights = (weights / 20).requires_grad_()
    loss = distortion_loss(weights, t, dt, offsets)
    expected = torch.zeros(())
    for a, b in ((0, 5), (5, 8)):
        w, s = weights[a:b], t[a:b]
        expected = expected + (w[:, None] * w[None] * (s[:, None] - s[None]).abs()).sum()
        expected = expected + (w.square() * dt[a:b]).sum() / 3
    expected = expected / 3
    torch.testing.assert_close(loss, expected)
    (mine,) = torch.autograd.grad(loss, weights)
    (reference,) = torch.autograd.grad(expected, weights)
    torch.testing.assert_close(mine, reference)


EMPTY_AMONG = [[3, 0, 5, 1], [0, 7, 0, 0, 2, 40, 0], [40]]


@pytest.mark.parametrize("counts", EMPTY_AMONG)
def test_distortion_for_cuda_is_that_of_the_kernel(counts: list[int]) -> None:
    weights, dt, t, _, offsets = packed(counts)
    found = []
    for loss_of in (distortion_loss, distortion_in_torch):
        w = (weights / 20).requires_grad_()
        loss = loss_of(w, t, dt, offsets)
        found.append((loss.detach(), *torch.autograd.grad(3 * loss, w)))
    torch.testing.assert_close(found[1], found[0])


def test_distortion_for_cuda_of_nothing_is_zero() -> None:
    _, dt, t, _, offsets = packed([0, 0])
    weights = torch.zeros(0, requires_grad=True)
    loss = distortion_in_torch(weights, t, dt, offsets)
    loss.backward()
    assert float(loss.detach()) == 0 and weights.grad is not None


@pytest.mark.parametrize("counts", EMPTY_AMONG)
def test_packed_composite_for_cuda_is_the_padded_one(counts: list[int]) -> None:
    sigma, dt, t, values, offsets = packed(counts)
    found = []
    for form in (composite_reference, composite_packed):
        s, v = sigma.clone().requires_grad_(), values.clone().requires_grad_()
        out = form(s, dt, t, v, offsets)
        upstream = seeded(4)
        loss = sum((x * torch.randn(x.shape, generator=upstream)).sum() for x in out)
        found.append((*(x.detach() for x in out), *torch.autograd.grad(loss, (s, v))))
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)
    assert found[1][0].dtype == torch.float32


def test_packed_composite_has_the_gradient_of_differences() -> None:
    sigma, dt, t, values, offsets = (a.double() if a.is_floating_point() else a for a in packed([4, 0, 6, 1]))
    assert torch.autograd.gradcheck(
        lambda s, v: tuple(composite_packed(s, dt, t, v, offsets)), (sigma.requires_grad_(), values.requires_grad_())
    )


@pytest.mark.parametrize("extreme", [1e30, math.inf])
def test_one_extreme_sample_leaves_the_other_rays_of_a_packed_composite_alone(extreme: float) -> None:
    sigma, dt, t, values, offsets = packed([5, 3, 4])
    sigma[1] = extreme
    found = []
    for form in (composite, composite_packed):
        s = sigma.clone().requires_grad_()
        out = form(s, dt, t, values, offsets)
        found.append((*(x.detach() for x in out), *torch.autograd.grad(out.total.sum(), s)))
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------- occupancy and marching


def test_full_occupancy_covers_each_ray_with_its_length() -> None:
    grid = OccupancyGrid(16)
    cameras = framed([20.0], 10.0, 1.0, height=8, width=8)
    origins, directions = (a.reshape(-1, 3) for a in cameras.rays())
    samples = grid.march(origins, directions, step=0.02, cap=200)
    assert (samples.points.abs() <= 1.02).all()
    for r in range(64):
        o, d = origins[r].double().numpy(), directions[r].double().numpy()
        with np.errstate(divide="ignore"):
            planes = np.sort(np.stack([(-1 - o) / d, (1 - o) / d]), 0)
        length = max(0.0, planes[1].min() - planes[0].max())
        a, b = int(samples.offsets[r]), int(samples.offsets[r + 1])
        assert float(samples.dt[a:b].sum()) == pytest.approx(length, abs=0.021)
        assert (samples.t[a:b].diff() > 0).all()


def test_empty_occupancy_gives_no_samples_and_the_background() -> None:
    nerf = small_nerf()
    nerf.occupancy.update(lambda x: torch.zeros(len(x)))
    background = torch.tensor([[0.2, 0.4, 0.6]])
    rendering = nerf.render(framed([0.0], 0.0, 1.0, height=8, width=8), background=background)
    assert torch.equal(rendering.rgb, background.view(1, 1, 1, 3).expand(1, 8, 8, 3))
    assert (rendering.opacity == 0).all() and (rendering.depth == 0).all()
    terms = nerf.regularisation(0.5)
    assert all(torch.isfinite(value) for value in terms.values())
    assert terms.keys() - nerf.regularisation(0.5, distortion=False).keys() == {"distortion"}


def test_skipping_empty_cells_loses_nothing() -> None:
    """The same image from the culled grid as from marching everywhere."""
    nerf = small_nerf(sphere_prior(outside=12.0), samples=256)  # no fog, which culling does remove
    cameras = framed([30.0], 10.0, 0.8, height=16, width=16)
    with torch.no_grad():
        full = nerf.render(cameras)
        nerf.update_occupancy(0)
        culled = nerf.render(cameras)
    assert nerf._last is not None
    assert (culled.opacity - full.opacity).abs().max() < 0.05
    assert (culled.rgb - full.rgb).abs().mean() < 0.01


def test_a_ray_along_an_axis_and_one_that_misses() -> None:
    grid = OccupancyGrid(8)
    origins = torch.tensor([[0.0, 0.0, 3.0], [0.0, 3.0, 3.0], [0.0, 0.0, 0.0]])
    directions = torch.tensor([[0.0, 0.0, -1.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]])
    samples = grid.march(origins, directions, step=0.1, cap=64)
    assert samples.offsets.diff().tolist() == [20, 0, 10]
    assert (samples.points[20:, 0] > 0).all()  # nothing behind a camera that stands inside


def test_exploring_is_right_on_average() -> None:
    """Sparse wide samples of empty space have the same expected optical depth as dense ones."""
    grid = OccupancyGrid(8)
    grid.flags.fill_(march_kernels.REACH)
    origins = torch.tensor([[0.0, 0.0, 3.0]]).repeat(2000, 1)
    directions = torch.tensor([[0.0, 0.0, -1.0]]).repeat(2000, 1)
    samples = grid.march(origins, directions, step=0.05, cap=64, explore=0.1, generator=seeded())
    assert float(samples.dt.sum()) / 2000 == pytest.approx(2.0, rel=0.05)
    assert grid.march(origins, directions, step=0.05, cap=64).t.numel() == 0


def test_cap_limits_samples() -> None:
    samples = OccupancyGrid(8).march(
        torch.tensor([[0.0, 0.0, 3.0]]), torch.tensor([[0.0, 0.0, -1.0]]), step=0.01, cap=7
    )
    assert samples.t.numel() == 7


# ---------------------------------------------------------------- the density prior


def test_softplus_inverse_is_stable() -> None:
    y = torch.tensor([1e-4, 0.1, 1.0, 50.0, 500.0])
    x = softplus_inverse(y)
    assert torch.isfinite(x).all()
    torch.testing.assert_close(torch.nn.functional.softplus(x), y, rtol=1e-3, atol=1e-6)


def test_signed_distance_of_interpenetrating_and_open_parts() -> None:
    """Two spheres, the second turned inside out and with a hole on the side that lies in the first."""
    v1, f1 = sphere(0.5)
    v2, f2 = sphere(0.3, (0.4, 0, 0))
    f2 = f2[(v2[f2].mean(1)[:, 0] > 0.2)][:, ::-1]
    grid = signed_distance_grid(np.concatenate([v1, v2]), np.concatenate([f1, f2 + len(v1)]), 48)
    axis = np.linspace(-1, 1, 48)
    x = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1)
    true = np.minimum(np.linalg.norm(x, axis=-1) - 0.5, np.linalg.norm(x - [0.4, 0, 0], axis=-1) - 0.3)
    clear = np.abs(true) > 0.01
    assert ((grid < 0) == (true < 0))[clear].mean() > 0.9995
    outside = (true > 0.01) & (true < 0.1)
    assert np.abs(grid - true)[outside].max() < 0.01
    assert grid[24, 24, 24] < -0.2  # no cavity where surfaces are hidden inside the union


def test_bust_open_at_the_bottom_is_solid() -> None:
    v, f = sphere(0.8, (0, -1.0, 0))
    f = f[v[f][:, :, 1].min(1) > -1.0]
    grid = signed_distance_grid(v, f, 40)
    assert grid[20, 5, 20] < -0.1 and grid[20, 30, 20] > 0 and grid[1, 5, 20] > 0


def test_empty_mesh_and_bad_index_are_named() -> None:
    with pytest.raises(ValueError, match="empty"):
        signed_distance_grid(np.zeros((0, 3)), np.zeros((0, 3), int))
    with pytest.raises(ValueError, match="face 0"):
        signed_distance_grid(np.zeros((3, 3)), np.array([[0, 1, 3]]))
    with pytest.raises(ValueError, match="vertex 1"):
        signed_distance_grid(np.array([[0, 0, 0], [np.nan, 0, 0], [1, 0, 0]]), np.array([[0, 1, 2]]))


def test_solid_and_shell() -> None:
    points = torch.tensor([[0.0, 0, 0], [0.3, 0, 0], [0.501, 0, 0], [0.8, 0, 0]])
    assert sphere_prior()(points).tolist()[::3] == [4.0, -5.0]
    shell = sphere_prior(kind="shell")(points)
    assert torch.isfinite(shell).all()
    assert shell[2] > 100 and shell[3] < 0.01 and shell[0] == pytest.approx(5.0)


# ---------------------------------------------------------------- the whole


def test_render_and_gradient_repeat_to_the_bit() -> None:
    results = []
    for _ in range(2):
        nerf, generator = small_nerf(), seeded(7)
        for step in range(2):
            nerf.update_occupancy(step, generator)
        rendering = nerf.render(framed([0.0, 90.0], 5.0, 0.9, height=12, width=12), generator=generator)
        loss = rendering.rgb.square().mean() + sum(nerf.regularisation(0.5).values())
        loss.backward()
        results.append([rendering.rgb.detach(), *(p.grad for p in nerf.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_sphere_has_its_depth_and_normals() -> None:
    nerf = small_nerf(sphere_prior(inside=8.0, slope=200.0), step=0.01, samples=128)
    nerf.update_occupancy(0)
    cameras = orbit([0.0], 0.0, distance=4.0, fov_y_deg=20.0, height=33, width=33)
    for kind, limit in (("surface", 0.97), ("analytic", 0.97), ("grid", 0.95)):
        nerf.normals = kind
        with torch.no_grad():
            rendering = nerf.render(cameras)
        assert rendering.depth is not None and rendering.normal is not None
        assert float(rendering.depth[0, 16, 16]) == pytest.approx(3.5, abs=0.04)
        _, directions = cameras.rays()
        points = cameras.origins[:, None, None] + directions * rendering.depth
        cosine = (rendering.normal * torch.nn.functional.normalize(points, dim=-1)).sum(-1)
        inner = (points.norm(dim=-1) < 0.53) & (rendering.opacity[..., 0] > 0.99)
        assert inner.sum() > 100 and cosine[inner].mean() > limit


@pytest.mark.parametrize("kind", ["surface", "analytic"])
def test_normals_train_the_field(kind: str) -> None:
    nerf = small_nerf(normals=kind)
    nerf.normal(torch.rand(20, 3, generator=seeded()) * 0.5, kind)[:, 0].sum().backward()
    grad = nerf.field.encoding.table.grad
    assert grad is not None and grad.abs().sum() > 0


def test_state_is_complete() -> None:
    nerf, generator = small_nerf(), seeded(1)
    nerf.update_occupancy(0, generator)
    with torch.no_grad():
        for p in nerf.parameters():
            p.add_(torch.randn(p.shape, generator=generator) * 0.1)
    other = NeRF(DensityPrior(torch.zeros(2, 2, 2)), generator=seeded(5), **SMALL)
    other.render(framed([0.0], 0.0, 1.0, height=4, width=4))  # caches must not survive loading
    other.load_state_dict(nerf.state_dict())
    cameras = framed([40.0], 0.0, 1.0, height=10, width=10)
    assert torch.equal(nerf.render(cameras).opacity, other.render(cameras).opacity)


def test_colour_field_shares_parameters() -> None:
    nerf = small_nerf()
    x = torch.rand(10, 3, generator=seeded()) * 2 - 1
    assert torch.equal(nerf.colour_field(x), nerf.albedo(x))
    assert {id(p) for p in nerf.colour_field.parameters()} == {id(p) for p in nerf.parameters()}


def test_mesh_of_the_start_is_the_prior() -> None:
    mesh = small_nerf().mesh(40)
    assert (mesh.vertices.norm(dim=-1) - 0.5).abs().max() < 0.05
    assert mesh.colours is not None and mesh.colours.shape == mesh.vertices.shape
    assert mesh.to_trimesh().is_watertight


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="normals must be one of"):
        NeRF(normals="best", **SMALL)
    with pytest.raises(ValueError, match="samples=0"):
        NeRF(samples=0, **SMALL)
    nerf = small_nerf()
    with pytest.raises(RuntimeError, match="call render"):
        nerf.regularisation(0.0)
    with pytest.raises(ValueError, match=r"background of shape \(1, 3\)"):
        nerf.render(framed([0.0], 0.0, 1.0, height=4, width=4), background=torch.ones(2, 3))


def coloured_ellipsoid(cameras, background: torch.Tensor) -> torch.Tensor:
    """Exact unlit images of an ellipsoid with a smooth colour, (B, H, W, 3)."""
    radii = torch.tensor([0.45, 0.6, 0.5])
    origins, directions = cameras.rays()
    o, d = origins / radii, directions / radii
    a, b, c = d.square().sum(-1), (o * d).sum(-1), o.square().sum(-1) - 1
    root = b.square() - a * c
    t = (-b - root.clamp_min(0).sqrt()) / a
    points = origins + t[..., None] * directions
    colour = 0.5 + 0.4 * torch.sin(points * 4 + torch.tensor([0.0, 1.0, 2.0]))
    return torch.where(root[..., None] > 0, colour, background[:, None, None])


def test_learns_an_object_from_its_images() -> None:
    """From a ball of another shape to held-out views above 25 dB in a few hundred small steps."""
    nerf, generator = NeRF(generator=seeded(), normals="none", **{**SMALL, "levels": 8}), seeded(1)
    optimiser = torch.optim.Adam(
        [
            {"params": nerf.field.encoding.parameters(), "lr": 2e-2},
            {"params": nerf.field.network.parameters(), "lr": 5e-3},
        ],
        betas=(0.9, 0.99),
        eps=1e-15,
    )
    for step in range(200):
        if step % 16 == 0:
            nerf.update_occupancy(step, generator)
        azimuth = torch.rand(2, generator=generator) * 360
        elevation = torch.rand(2, generator=generator) * 50 - 20
        cameras = framed(azimuth, elevation, 0.8, height=20, width=20)
        background = torch.rand(2, 3, generator=generator)
        rendering = nerf.render(cameras, background=background, generator=generator, shaded=False)
        loss = (rendering.rgb - coloured_ellipsoid(cameras, background)).square().mean()
        loss = loss + 1e-3 * nerf.regularisation(step / 200)["entropy"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    nerf.update_occupancy(200)
    cameras = framed([10.0, 100.0, 190.0, 280.0], 12.0, 0.8, height=48, width=48)
    background = torch.full((4, 3), 0.9)
    with torch.no_grad():
        error = nerf.render(cameras, background=background).rgb - coloured_ellipsoid(cameras, background)
    assert -10 * math.log10(float(error.square().mean())) > 25


def test_the_solid_rises_gently_outside_and_steeply_inside() -> None:
    axis = torch.linspace(-1, 1, 41)
    plane = DensityPrior(axis[:, None, None].expand(41, 41, 41), inside=6.0, slope=60.0, inside_slope=160.0)
    x = torch.tensor([-0.5, -0.02, 0.0, 0.02, 0.5])
    points = torch.stack([x, torch.zeros(5), torch.zeros(5)], 1)
    expected = torch.tensor([6.0, 3.2, 0.0, -1.2, -5.0])
    torch.testing.assert_close(plane(points), expected, atol=1e-3, rtol=0)


def test_a_ray_that_grazes_something_dense_goes_on_to_what_lies_behind() -> None:
    """The first cell that the ray meets is half full of something opaque, which the ray passes beside."""

    def density(x: torch.Tensor) -> torch.Tensor:
        beside = (x[:, 0] < 0.02) & (x[:, 2] > 0.4)
        wall = x[:, 2] < -0.5
        return 1e4 * (beside | wall).float()

    grid = OccupancyGrid(16)  # cells of 0.125, so the edge at 0.02 runs through the cells from 0 to 0.125
    generator = torch.Generator().manual_seed(0)
    for _ in range(40):
        grid.update(density, generator)
    assert grid.density[8, 8, 12] > 1e3
    origin, direction = torch.tensor([[0.08, 0.03, 2.0]]), torch.tensor([[0.0, 0.0, -1.0]])
    samples = grid.march(origin, direction, step=0.02, cap=200)
    assert samples.points[:, 2].min() < -0.5
    assert samples.points[:, 2].min() > -0.85  # and ends in the wall, not far behind its face


def test_distances_are_exact_beside_what_the_union_hides_where_the_outer_faces_are_known() -> None:
    (v1, outer), (v2, f2) = sphere(0.6), sphere(0.57)
    vertices, faces = np.concatenate([v1, v2]), np.concatenate([outer, f2 + len(v1)])
    axis = np.linspace(-1, 1, 48)
    radius = np.linalg.norm(np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1), axis=-1)
    near = (np.abs(radius - 0.6) < 0.06) & (radius < 0.6)
    errors = [
        np.abs(signed_distance_grid(vertices, faces, 48, outer=known) - (radius - 0.6))[near].max()
        for known in (None, outer)
    ]
    assert errors[1] < 0.003 < 0.01 < errors[0]
