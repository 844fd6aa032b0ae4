"""Triton kernels against the CPU's: run by test_triton.py in its interpreter, and on a GPU where there is one."""

from __future__ import annotations

import os

import pytest
import torch

from headsculpt.cameras import orbit
from headsculpt.meshes import topology
from headsculpt.representations import march_kernels
from headsculpt.representations.encodings import HashGrid
from headsculpt.representations.occupancy import OccupancyGrid
from headsculpt.representations.rasterise import visibility
from headsculpt.representations.shading_ops import silhouettes_reference

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
if not INTERPRETED and not torch.cuda.is_available():
    pytest.skip("needs a CUDA device, or TRITON_INTERPRET=1", allow_module_level=True)
pytest.importorskip("triton", reason="triton is not installed: pip install triton")

from headsculpt.representations.rasterise_triton import silhouettes  # noqa: E402


def grid(backend: str, interpolation: str = "smoothstep", features: int = 2) -> HashGrid:
    made = HashGrid(
        levels=4, features=features, base_resolution=4, finest_resolution=40, log2_table=9,
        interpolation=interpolation, backend=backend,
    )  # fmt: skip
    made.table.data.copy_(torch.randn(made.table.shape, generator=torch.Generator().manual_seed(0)))
    return made.to(DEVICE if backend == "triton" else "cpu")


def points(borders: bool) -> torch.Tensor:
    x = torch.rand(260, 3, generator=torch.Generator().manual_seed(1))
    outside = torch.tensor([[-0.5, 0.3, 2.0], [1.2, 0.51, 0.52]])
    if not borders:
        return torch.cat([x, outside])
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3)
    cell_borders = (torch.tensor([[0, 1, 2], [1, 1, 1], [2, 0, 1]]) + 0.5) / 3
    return torch.cat([corners, cell_borders, outside, torch.tensor([[1e9, -1e9, 0.2], [float("nan"), 0.5, 0.1]])])


def encoded(backend: str, x: torch.Tensor, interpolation: str, features: int, active: int = 4):
    encoding = grid(backend, interpolation, features)
    encoding.active_levels = active
    x = x.to(encoding.table.device, copy=True).requires_grad_()
    out = encoding(x)
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(2)).to(out.device)
    out.backward(upstream)
    return [t.detach().cpu() for t in (out, encoding.table.grad, x.grad)]


@pytest.mark.parametrize(
    ("interpolation", "features", "active"), [("linear", 2, 4), ("smoothstep", 2, 2), ("smoothstep", 1, 4)]
)
def test_the_hash_grid_and_both_gradients_are_those_of_numba(interpolation, features, active):
    x = points(borders=False)
    for found, expected in zip(
        encoded("triton", x, interpolation, features, active),
        encoded("numba", x, interpolation, features, active),
        strict=True,
    ):
        torch.testing.assert_close(found, expected, rtol=2e-4, atol=2e-4)


def test_the_hash_grid_on_borders_outside_and_for_nan():
    x = points(borders=True)
    with torch.no_grad():
        torch.testing.assert_close(
            grid("triton")(x.to(DEVICE)).cpu(), grid("numba")(x), rtol=1e-5, atol=1e-5
        )
        assert grid("triton")(torch.zeros(0, 3, device=DEVICE)).shape == (0, 8)


@pytest.mark.parametrize("interpolation", ["linear", "smoothstep"])
def test_the_second_derivative_is_that_of_numba(interpolation):
    found = []
    for backend in ("triton", "numba"):
        encoding = grid(backend, interpolation)
        x = points(borders=False).to(encoding.table.device).requires_grad_()
        weight = torch.linspace(-1, 1, encoding.width).to(x.device).requires_grad_()
        (slope,) = torch.autograd.grad((encoding(x) * weight).sum(), x, create_graph=True)
        slope.square().sum().backward()
        found.append((encoding.table.grad.cpu(), weight.grad.cpu()))
    for triton, numba in zip(*found, strict=True):
        torch.testing.assert_close(triton, numba, rtol=1e-3, atol=1e-3 * float(numba.abs().max()))


def test_a_checkpoint_moves_between_numba_and_triton():
    ours, theirs = grid("triton"), grid("numba")
    theirs.table.data.zero_()
    theirs.load_state_dict(ours.state_dict())
    assert torch.equal(theirs.table, ours.table.cpu())


def same(clip: torch.Tensor, faces: torch.Tensor, height: int, width: int, cull_back: bool = False) -> int:
    """Checks that both back ends see the same triangles, to the bit; returns how many pixels are covered."""
    expected = visibility(clip.cpu(), faces, height, width, backend="numba", cull_back=cull_back)
    found = visibility(clip.to(DEVICE), faces.to(DEVICE), height, width, backend="triton", cull_back=cull_back)
    assert found.dtype == torch.int32 and found.device.type == DEVICE.type
    assert torch.equal(found.cpu(), expected)
    return int((expected >= 0).sum())


@pytest.mark.parametrize("cull_back", [False, True])
def test_a_closed_surface_in_a_batch(cull_back):
    u, v = torch.meshgrid(torch.linspace(0, 6.2832, 9)[:-1], torch.linspace(0, 6.2832, 6)[:-1], indexing="ij")
    ring = 0.6 + 0.25 * v.cos()
    vertices = torch.stack([ring * u.cos(), 0.25 * v.sin(), ring * u.sin()], -1).reshape(-1, 3)
    i, j = torch.meshgrid(torch.arange(8), torch.arange(5), indexing="ij")
    a, b = i * 5 + j, i * 5 + (j + 1) % 5
    c, d = (i + 1) % 8 * 5 + j, (i + 1) % 8 * 5 + (j + 1) % 5
    faces = torch.cat([torch.stack([a, b, c], -1).view(-1, 3), torch.stack([c, b, d], -1).view(-1, 3)])
    clip = orbit([20.0, 200.0], [50.0, -10.0], height=20, width=23).project(vertices)
    assert same(clip, faces, 20, 23, cull_back) > 50


def test_triangles_around_the_camera_some_behind_it_and_some_not_finite():
    generator = torch.Generator().manual_seed(3)
    clip = torch.randn(1, 60, 4, generator=generator)
    clip[0, 4, 1] = float("nan")
    clip[0, 7] = torch.tensor([1e30, 0.0, 0.0, 1e-8])
    assert same(clip, torch.arange(60).view(-1, 3), 14, 11) > 60


def test_silhouettes_are_those_of_plain_torch():
    generator = torch.Generator().manual_seed(8)
    clip = torch.randn(2, 40, 4, generator=generator)
    clip[..., 3] += 1.0  # some behind the camera
    table = topology(torch.randint(0, 40, (300, 3), generator=generator))
    assert (table.opposite[:, 1] < 0).any()
    expected = silhouettes_reference(clip, table)
    found = silhouettes(clip.to(DEVICE), table.edges.to(DEVICE), table.opposite.to(DEVICE))
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours.cpu(), theirs) and ours.dtype == theirs.dtype
    assert len(expected[0]) > 50


def test_ties_zero_areas_and_the_far_plane():
    square = torch.tensor([[-0.8, -0.8], [0.8, -0.8], [0.8, 0.8], [-0.8, 0.8]])
    z = torch.tensor([[-0.0], [0.0], [1.0], [1.1]])  # negative zero ties with zero; beyond 1 is not seen
    corners = torch.cat([torch.cat([square, value.expand(4, 1), torch.ones(4, 1)], -1) for value in z])
    quad = torch.tensor([[0, 1, 2], [2, 3, 0], [0, 1, 1], [0, 2, 1]])
    for order in ([0, 1], [1, 0], [2, 3], [3, 2], [3, 3]):
        faces = torch.cat([quad + 4 * layer for layer in order])
        same(corners[None], faces, 9, 12)


def test_nothing_to_draw():
    empty = torch.zeros(0, 3, dtype=torch.int64, device=DEVICE)
    assert (visibility(torch.zeros(2, 3, 4, device=DEVICE), empty, 4, 5, backend="triton") == -1).all()
    assert same(torch.full((1, 3, 4), 5.0), torch.tensor([[0, 1, 2]]), 4, 4) == 0


def test_a_wide_picture_of_one_triangle_takes_several_launches(monkeypatch):
    from headsculpt.representations import rasterise_triton

    monkeypatch.setattr(rasterise_triton, "LAUNCH", 5)
    clip = torch.tensor([[[-1.0, -1, 0, 1], [3, -1, 0, 1], [-1, 3, 0, 1]]])
    assert same(clip, torch.tensor([[0, 1, 2]]), 20, 40) == 800


def occupancy(kind: str) -> OccupancyGrid:
    grid = OccupancyGrid(8)
    if kind != "full":
        grid.density.copy_(50 * torch.rand(grid.density.shape, generator=torch.Generator().manual_seed(4)).pow(40))
    if kind == "some":  # and a half that is only explored
        grid.threshold = 20.0
        grid.flags[:4] = march_kernels.REACH
        grid.flags[4:] = 0
        grid._rebuild()
    if kind == "nothing":
        grid.flags.zero_()
        grid._changed()
    return grid


def rays(count: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    """From around the cube towards it, from within it, along axes through it and past it, and on its borders."""
    generator = torch.Generator().manual_seed(5)
    origins = torch.randn(count, 3, generator=generator) * 1.5
    aims = torch.rand(count, 3, generator=generator) * 3 - 1.5
    axes = torch.eye(3).repeat(6, 1)
    starts = torch.tensor([[0.1, 0.2, -0.3], [2.0, 2.0, 2.0], [-1.0, -1.0, -1.0]]).repeat_interleave(6, 0)
    signs = torch.tensor([1.0, -1.0]).repeat_interleave(3).repeat(3)[:, None]
    directions = torch.nn.functional.normalize(aims - origins, dim=-1)
    return torch.cat([origins, starts - 2 * signs * axes]), torch.cat([directions, signs * axes])


@pytest.mark.parametrize(
    ("kind", "cap", "explore", "seeded"),
    [
        ("full", 64, 0.0, False),
        ("full", 7, 0.0, True),
        ("some", 64, 0.0, False),
        ("some", 64, 0.2, True),
        ("nothing", 64, 0.2, True),
    ],
)
def test_rays_get_the_samples_of_numba(kind, cap, explore, seeded):
    found = []
    for backend, device in (("triton", DEVICE), ("numba", torch.device("cpu"))):
        generator = torch.Generator().manual_seed(6) if seeded else None
        settings = {"step": 0.08, "cap": cap, "explore": explore, "generator": generator, "backend": backend}
        found.append(occupancy(kind).to(device).march(*(a.to(device) for a in rays()), **settings))
    ours, theirs = found
    assert torch.equal(ours.offsets.cpu(), theirs.offsets)
    for name in ("points", "t", "dt"):
        torch.testing.assert_close(getattr(ours, name).cpu(), getattr(theirs, name), rtol=1e-6, atol=1e-6)
    assert (len(ours.t) == 0) == (kind == "nothing") and int(theirs.offsets.diff().max()) <= cap


def test_no_rays_at_all():
    grid, none = OccupancyGrid(8).to(DEVICE), torch.zeros(0, 3, device=DEVICE)
    samples = grid.march(none, none, step=0.1, cap=9, backend="triton")
    assert samples.points.shape == (0, 3) and samples.offsets.tolist() == [0]
