"""Hash grid: the kernels against the reference, the reference against float64 differences, the borders."""

from __future__ import annotations

import numba
import pytest
import torch

from headsculpt.representations.encodings import HashGrid


def grid(backend: str, interpolation: str = "smoothstep", features: int = 2, spread: float = 1.0) -> HashGrid:
    """A small grid with dense and hashed levels and a table large enough to matter."""
    made = HashGrid(
        levels=5,
        features=features,
        base_resolution=4,
        finest_resolution=40,
        log2_table=9,
        interpolation=interpolation,
        backend=backend,
    )
    values = torch.randn(made.table.shape, generator=torch.Generator().manual_seed(0)) * spread
    made.table.data.copy_(values)
    return made


def points(count: int = 300) -> torch.Tensor:
    """Random ones, the cube's corners, cell borders of the coarsest level, and some outside."""
    x = torch.rand(count, 3, generator=torch.Generator().manual_seed(1))
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3)
    borders = (torch.tensor([[0, 1, 2], [1, 1, 1], [2, 0, 1]]) + 0.5) / 3
    outside = torch.tensor([[-0.5, 0.3, 2.0], [1.0001, 0.5, 0.5], [1e9, -1e9, 0.2]])
    return torch.cat([x, corners, borders, outside])


@pytest.mark.parametrize("interpolation", ["linear", "smoothstep"])
@pytest.mark.parametrize("features", [1, 2, 4])
def test_numba_agrees_with_torch_forward_and_gradient(interpolation: str, features: int) -> None:
    upstream = None
    results = []
    for backend in ("torch", "numba"):
        encoding = grid(backend, interpolation, features)
        # Away from cell borders, where the derivative of linear interpolation jumps.
        x = torch.cat([points()[:300], torch.tensor([[-0.5, 0.3, 2.0], [1.2, 0.51, 0.52]])]).requires_grad_()
        out = encoding(x)
        upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(2))
        out.backward(upstream)
        results.append((out.detach(), encoding.table.grad, x.grad))
    for reference, kernel in zip(*results, strict=True):
        torch.testing.assert_close(kernel, reference, rtol=2e-4, atol=2e-4)


def test_numba_agrees_with_torch_on_borders_and_outside() -> None:
    x = points()
    torch.testing.assert_close(grid("numba")(x), grid("torch")(x), rtol=1e-5, atol=1e-5)
    inside = grid("numba")(x.clamp(0, 1))
    assert torch.equal(grid("numba")(x), inside)


def test_nan_points_stay_in_bounds() -> None:
    x = torch.tensor([[float("nan"), 0.5, 0.5], [float("inf"), 0.1, -float("inf")]])
    assert torch.isfinite(grid("numba")(x)).all()
    torch.testing.assert_close(grid("numba")(x)[1], grid("torch")(x)[1])


@pytest.mark.parametrize("interpolation", ["linear", "smoothstep"])
def test_second_derivative_agrees_with_torch(interpolation: str) -> None:
    """A loss on the gradient of a field (a normal) reaches the table and the layer behind it."""
    results = []
    for backend in ("torch", "numba"):
        encoding = grid(backend, interpolation)
        weight = torch.randn(10, 1, generator=torch.Generator().manual_seed(3)).requires_grad_()
        x = points()[:200].requires_grad_()
        field = (encoding(x) @ weight).tanh().sum()
        (slope,) = torch.autograd.grad(field, x, create_graph=True)
        slope.square().mean().backward()
        results.append((slope.detach(), encoding.table.grad, weight.grad))
    for reference, kernel in zip(*results, strict=True):
        torch.testing.assert_close(kernel, reference, rtol=1e-3, atol=1e-3)


def test_reference_against_finite_differences_in_double() -> None:
    encoding = grid("torch").double()
    x = (points()[:6].double() * 0.9 + 0.05).requires_grad_()
    assert torch.autograd.gradcheck(encoding, (x,), eps=1e-7, atol=1e-5)

    def of_table(values: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(encoding, {"table": values}, (x.detach(),))

    table = encoding.table.detach().requires_grad_()
    assert torch.autograd.gradcheck(of_table, (table,), eps=1e-6, atol=1e-6, fast_mode=True)


def test_backward_does_not_depend_on_threads() -> None:
    x = points(5000)
    tables = []
    before = numba.get_num_threads()
    try:
        for threads in (1, before):
            numba.set_num_threads(threads)
            encoding = grid("numba")
            encoding(x).sin().sum().backward()
            tables.append(encoding.table.grad)
    finally:
        numba.set_num_threads(before)
    assert torch.equal(tables[0], tables[1])


def test_how_a_gradient_lies_in_memory_does_not_matter() -> None:
    grid = HashGrid(levels=6, finest_resolution=64, log2_table=10, backend="numba")
    x = torch.rand(700, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    out = grid(x)
    by_point = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    by_feature = by_point.t().contiguous().t()
    assert by_point.stride() != by_feature.stride()
    first, second = (torch.autograd.grad(out, (x, grid.table), g, retain_graph=True) for g in (by_point, by_feature))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_linear_layer_gives_gradients_back_as_the_kernels_read_them() -> None:
    """Else each step would turn them: a tenth of the encoding's time."""
    grid = HashGrid(levels=6, finest_resolution=64, log2_table=10, backend="numba")
    out = grid(torch.rand(700, 3))
    layouts: list[bool] = []
    out.register_hook(lambda grad: layouts.append(grad.t().is_contiguous()))
    torch.nn.functional.linear(out, torch.randn(8, grid.width)).sum().backward()
    assert layouts == [True]


@pytest.mark.parametrize("backend", ["torch", "numba"])
def test_closed_bands_give_zero_and_no_gradient(backend: str) -> None:
    encoding = grid(backend)
    encoding.active_levels = 2
    out = encoding(points())
    assert (out[:, 4:] == 0).all() and (out[:, :4] != 0).any()
    out.sum().backward()
    first_closed = int(encoding.geometry.offsets[2])
    assert encoding.table.grad is not None and (encoding.table.grad[first_closed:] == 0).all()
    copy = grid(backend)
    copy.load_state_dict(encoding.state_dict())
    assert copy.active_levels == 2


def test_bands_open_with_the_steps() -> None:
    encoding = grid("torch")
    seen = []
    for step in (0, 10, 20, 30, 1000):
        encoding.set_bands(step, start_level=2, start_step=10, every=10)
        seen.append(encoding.active_levels)
    assert seen == [2, 2, 3, 4, 5]


def test_checkpoint_is_the_same_for_each_backend() -> None:
    states = [grid(backend).state_dict() for backend in ("torch", "numba", "auto")]
    assert all(state.keys() == states[0].keys() for state in states)
    assert all(state["table"].shape == states[0]["table"].shape for state in states)


def test_no_points() -> None:
    assert grid("numba")(torch.zeros(0, 3)).shape == (0, 10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backend": "cuda"}, "backend must be one of"),
        ({"interpolation": "cubic"}, "interpolation must be"),
        ({"log2_table": 40}, "log2_table must lie in"),
        ({"levels": 0}, "levels >= 1"),
    ],
)
def test_bad_arguments_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HashGrid(**arguments)


def test_bad_shape_is_named() -> None:
    with pytest.raises(ValueError, match=r"\(N, 3\); got \(4, 2\)"):
        grid("numba")(torch.zeros(4, 2))


def test_missing_tinycudann_says_how_to_install() -> None:
    pytest.importorskip("torch")
    try:
        import tinycudann  # noqa: F401
    except ImportError:
        with pytest.raises(ImportError, match="pip install"):
            grid("tinycudann")(torch.rand(4, 3))
    else:
        pytest.skip("tiny-cuda-nn is installed")


def test_a_point_has_the_same_features_alone_as_among_others():
    """To the bit: the CPU's kernel reads four points at a time, and what is left over one by one."""
    grid = HashGrid(levels=4, finest_resolution=64, log2_table=10, backend="numba")
    points = torch.rand(71, 3, generator=torch.Generator().manual_seed(3))
    together = grid(points)
    assert all(torch.equal(grid(points[i : i + 1])[0], together[i]) for i in range(len(points)))
