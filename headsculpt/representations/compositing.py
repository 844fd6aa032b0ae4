"""Alpha compositing of packed samples, and the distortion loss, with gradients."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor


THICKEST = 1e3  # optical depth of a sample, at most: exp(-1000) is 0 in every float type


class Composite(NamedTuple):
    """``total (R, C)``, ``opacity (R,)``, ``depth (R,)`` (not divided by the opacity), ``weights (N,)``."""

    total: Tensor
    opacity: Tensor
    depth: Tensor
    weights: Tensor


def composite(
    sigma: Tensor, dt: Tensor, t: Tensor, values: Tensor, offsets: Tensor, backend: str = "auto"
) -> Composite:
    """Emission and absorption along rays: weight_i = (1 - exp(-sigma_i dt_i)) exp(-sum_{j<i} sigma_j dt_j).

    So a ray's opacity is 1 - exp(-sum sigma dt). Deterministic on the CPU; on CUDA it repeats to rounding.

    Args:
        sigma: ``(N,)`` density per scene unit, not negative.
        dt, t: ``(N,)`` width and distance of each sample; no gradient.
        values: ``(N, C)`` what is summed.
        offsets: ``(R + 1,)`` int64; ray r owns the samples offsets[r] to offsets[r + 1], front to back.
        backend: "numba" (CPU), "torch" (any device, any float type), or "auto", which takes
            :func:`composite_packed` on CUDA.
    """
    if backend not in ("auto", "numba", "torch"):
        raise ValueError(f"backend must be 'auto', 'numba' or 'torch'; got {backend!r}")
    if backend == "numba" or (
        backend == "auto" and sigma.device.type == "cpu" and sigma.dtype == torch.float32
    ):
        return Composite(*_Composite.apply(sigma, dt, t, values, offsets))
    if backend == "auto" and sigma.device.type == "cuda" and sigma.shape[0] > 0:
        return composite_packed(sigma, dt, t, values, offsets)
    return composite_reference(sigma, dt, t, values, offsets)


def composite_packed(sigma: Tensor, dt: Tensor, t: Tensor, values: Tensor, offsets: Tensor) -> Composite:
    """:func:`composite` in plain torch without padding, whose memory grows with the longest ray; needs a sample.

    Sums run over all rays, in float64, and a ray's are differences of them. So are those of the gradient, which is
    written out: that of an indexing, which torch would take, sorts all samples.
    """
    return Composite(*_Packed.apply(sigma, dt, t, values, offsets))


def composite_reference(sigma: Tensor, dt: Tensor, t: Tensor, values: Tensor, offsets: Tensor) -> Composite:
    """:func:`composite` in plain torch: rays padded to the longest one, then cumulative sums."""
    counts = offsets[1:] - offsets[:-1]
    rays, longest = counts.shape[0], int(counts.max()) if counts.numel() else 0
    position = torch.arange(longest, device=sigma.device)
    valid = position[None] < counts[:, None]
    index = (offsets[:-1, None] + position[None]).clamp_max(max(0, sigma.shape[0] - 1))
    if sigma.shape[0] == 0:
        empty = sigma.new_zeros(rays)
        return Composite(values.new_zeros(rays, values.shape[1]), empty, empty, sigma)
    thickness = torch.where(valid, (sigma * dt)[index], sigma.new_zeros(()))
    before = torch.cumsum(thickness, 1) - thickness
    padded = torch.exp(-before) * (1 - torch.exp(-thickness))
    total = (padded[..., None] * values[index]).sum(1)
    return Composite(total, 1 - torch.exp(-thickness.sum(1)), (padded * t[index]).sum(1), padded[valid])


def _kernels() -> Any:
    from headsculpt.representations import march_kernels

    return march_kernels


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, sigma: Tensor, dt: Tensor, t: Tensor, values: Tensor, offsets: Tensor) -> tuple:
        kernels = _kernels()
        sigma, values = sigma.detach().contiguous(), values.detach().contiguous()
        rays, count = offsets.shape[0] - 1, sigma.shape[0]
        weights, through = torch.empty(count), torch.empty(count)
        total, opacity, depth = torch.empty(rays, values.shape[1]), torch.empty(rays), torch.empty(rays)
        inputs = (sigma, dt, t, values, offsets)
        outputs = (weights, through, total, opacity, depth)
        kernels.composite(*(a.numpy() for a in inputs + outputs))
        ctx.save_for_backward(dt, t, values, offsets, weights, through)
        return total, opacity, depth, weights

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g_total: Tensor, g_opacity: Tensor, g_depth: Tensor, g_weights: Tensor) -> tuple:  # type: ignore[override]
        kernels = _kernels()
        dt, t, values, offsets, weights, through = ctx.saved_tensors
        g_sigma, g_values = torch.empty_like(weights), torch.empty_like(values)
        inputs = (dt, t, values, offsets, weights, through, g_weights, g_total, g_opacity, g_depth)
        arrays = [a.contiguous().numpy() for a in inputs]
        kernels.composite_gradient(*arrays, g_sigma.numpy(), g_values.numpy())
        return g_sigma, None, None, g_values, None


class _Packed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, sigma: Tensor, dt: Tensor, t: Tensor, values: Tensor, offsets: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        ray = rays_of(offsets, sigma.shape[0])
        # One sample without bound would swallow the others' sums; THICKEST is opaque to the last bit.
        thickness = (sigma * dt).clamp_max(THICKEST)
        sums = running_sum(thickness)
        at_start = sums.index_select(0, offsets[:-1])
        before = (sums[:-1] - at_start.index_select(0, ray)).to(sigma.dtype)
        weights = torch.exp(-before) * -torch.expm1(-thickness)
        opacity = -torch.expm1(at_start - sums.index_select(0, offsets[1:])).to(sigma.dtype)
        summed = weights[:, None] * torch.cat([values, t[:, None]], 1)
        summed = torch.segment_reduce(summed, "sum", offsets=offsets, axis=0, unsafe=True, initial=0)
        ctx.save_for_backward(dt, t, values, offsets, ray, weights, torch.exp(-before - thickness))
        return summed[:, :-1].contiguous(), opacity, summed[:, -1].contiguous(), weights

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g_total: Tensor, g_opacity: Tensor, g_depth: Tensor, g_weights: Tensor) -> tuple:  # type: ignore[override]
        """As :func:`.march_kernels.composite_gradient`."""
        dt, t, values, offsets, ray, weights, through = ctx.saved_tensors
        of_total, of_ray = g_total.index_select(0, ray), torch.stack([g_opacity, g_depth], 1).index_select(0, ray)
        g = g_weights + of_ray[:, 0] + of_ray[:, 1] * t + (of_total * values).sum(1)
        sums = running_sum(weights * g)
        behind = sums.index_select(0, offsets[1:]).index_select(0, ray) - sums[1:]
        return dt * (through * g - behind.to(g.dtype)), None, None, weights[:, None] * of_total, None


def rays_of(offsets: Tensor, samples: int) -> Tensor:
    """``(N,)`` the ray of each sample."""
    ray = torch.arange(offsets.shape[0] - 1, device=offsets.device)
    return torch.repeat_interleave(ray, offsets.diff(), output_size=samples)


def running_sum(x: Tensor) -> Tensor:
    """``(N + 1,)`` float64, of the first n of ``x (N,)``."""
    return torch.cat([x.new_zeros(1, dtype=torch.float64), x.double().cumsum(0)])


class _Distortion(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weights: Tensor, t: Tensor, dt: Tensor, offsets: Tensor) -> Tensor:
        kernels = _kernels()
        loss, gradient = torch.empty(offsets.shape[0] - 1), torch.empty_like(weights)
        inputs = (weights.detach(), t, dt, offsets)
        kernels.distortion(*(a.numpy() for a in inputs), loss.numpy(), gradient.numpy())
        ctx.save_for_backward(gradient)
        ctx.rays = max(1, loss.shape[0])
        return loss.sum() / ctx.rays

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple:  # type: ignore[override]
        (gradient,) = ctx.saved_tensors
        return gradient * (grad / ctx.rays), None, None, None


def distortion_loss(weights: Tensor, t: Tensor, dt: Tensor, offsets: Tensor) -> Tensor:
    """Mean over rays of sum_ij w_i w_j |t_i - t_j| + sum_i w_i^2 dt_i / 3 (Barron et al. 2022, eq. 15)."""
    if weights.device.type == "cpu":
        return _Distortion.apply(weights, t, dt, offsets)
    return distortion_in_torch(weights, t, dt, offsets)


def distortion_in_torch(weights: Tensor, t: Tensor, dt: Tensor, offsets: Tensor) -> Tensor:
    """:func:`distortion_loss` in plain torch, on any device.

    Sums run over all rays, in float64, and a ray's are differences of them.
    """
    if weights.shape[0] == 0:
        return weights.sum()
    ray = rays_of(offsets, weights.shape[0])
    start = offsets.index_select(0, ray)
    w, at = weights.double(), t.double()
    mass, moment = running_sum(w)[:-1], running_sum(w * at)[:-1]  # of the samples before
    mass, moment = mass - mass.index_select(0, start), moment - moment.index_select(0, start)  # on the same ray
    total = (2 * w * (at * mass - moment)).sum() + (w * w * dt).sum() / 3
    return (total / max(1, offsets.shape[0] - 1)).to(weights.dtype)
