"""Texture look-up with bilinear filtering and mipmaps, in plain torch on any device."""

from __future__ import annotations

import torch
from torch import Tensor


def mipmaps(texture: Tensor) -> list[Tensor]:
    """The texture and its halvings by 2x2 means, down to one texel along the shorter side.

    Args:
        texture: ``(H, W, C)`` float.

    Returns:
        Levels ``(H >> i, W >> i, C)``; differentiable. An odd last row or column is left out of the mean.
    """
    levels = [texture]
    while min(levels[-1].shape[:2]) > 1:
        image = levels[-1].permute(2, 0, 1)[None]
        levels.append(torch.nn.functional.avg_pool2d(image, 2)[0].permute(1, 2, 0))
    return levels


def texture_lod(uv: Tensor, height: int, width: int) -> Tensor:
    """Mipmap level at which a texel is about a pixel, from the differences between neighbouring pixels.

    Args:
        uv: ``(..., H, W, 2)`` an image of texture coordinates.
        height, width: of the texture, texels.

    Returns:
        ``(..., H, W)``, 0 or more; binary logarithm of texels per pixel along the steeper image axis.
    """
    texels = uv.detach() * torch.tensor([width, height], dtype=uv.dtype, device=uv.device)
    largest = torch.zeros_like(texels[..., 0])
    for axis in (-2, -3):
        if texels.shape[axis] > 1:
            step = torch.diff(texels, dim=axis).norm(dim=-1)
            step = torch.cat([step, step.narrow(axis + 1, step.shape[axis + 1] - 1, 1)], axis + 1)
            largest = torch.maximum(largest, step)
    return largest.clamp_min(1).log2()


def sample_texture(texture: Tensor, uv: Tensor, *, lod: Tensor | float | None = None) -> Tensor:
    """Filtered colours of a texture.

    Args:
        texture: ``(H, W, C)`` float, row 0 at v = 1; texel centres lie half a texel inside.
        uv: ``(..., 2)`` in [0, 1], v up; clamped to the border.
        lod: mipmap level, scalar or ``(...)``: 0 is the texture, 1 the halved one; between two levels the
            colours are blended (trilinear). None means 0.

    Returns:
        ``(..., C)``, differentiable in texture and uv.

    Raises:
        ValueError: shapes that do not fit.

    Example:
        >>> sample_texture(torch.tensor([[[0.0], [1.0]]]), torch.tensor([0.5, 0.5])).tolist()
        [0.5]
    """
    if texture.dim() != 3 or min(texture.shape) < 1:
        raise ValueError(f"texture must be (H, W, C), at least 1 each; got {tuple(texture.shape)}")
    if uv.shape[-1] != 2:
        raise ValueError(f"uv must be (..., 2); got {tuple(uv.shape)}")
    flat = uv.reshape(-1, 2)
    if lod is None:
        return _bilinear(texture, flat).view(*uv.shape[:-1], -1)
    levels = mipmaps(texture)
    level = torch.as_tensor(lod, dtype=uv.dtype, device=uv.device).expand(uv.shape[:-1]).reshape(-1)
    level = level.clamp(0, len(levels) - 1)
    total = torch.zeros(flat.shape[0], texture.shape[-1], dtype=texture.dtype, device=texture.device)
    for i, image in enumerate(levels):
        weight = (1 - (level - i).abs()).clamp_min(0)
        index = (weight > 0).nonzero()[:, 0]
        if index.numel():
            colour = _bilinear(image, flat.index_select(0, index))
            total = total.index_add(0, index, colour * weight.index_select(0, index)[:, None])
    return total.view(*uv.shape[:-1], -1)


def _bilinear(texture: Tensor, uv: Tensor) -> Tensor:
    grid = torch.stack([2 * uv[:, 0] - 1, 1 - 2 * uv[:, 1]], -1)[None, :, None].to(texture.dtype)
    image = texture.permute(2, 0, 1)[None]
    found = torch.nn.functional.grid_sample(image, grid, padding_mode="border", align_corners=False)
    return found[0, :, :, 0].T
