"""Albedo textures from a colour field."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headsculpt.meshes import Mesh
from headsculpt.representations.rasterise import interpolate, rasterise


@torch.no_grad()
def bake(
    mesh: Mesh,
    colour_field: Callable[[Tensor], Tensor],
    size: int = 1024,
    *,
    device: torch.device | str = "cpu",
    chunk: int = 1 << 16,
) -> Mesh:
    """Queries a field at the surface point of each texel.

    Args:
        mesh: with ``uv``, as from :func:`headsculpt.export.unwrap.unwrap`.
        colour_field: ``(N, 3)`` scene points on ``device`` -> ``(N, 3)`` albedo in [0, 1].
        size: rows and columns of the texture.
        device: where the field lives.
        chunk: points per query.

    Returns:
        the mesh with ``texture (size, size, 3)`` uint8. Texels outside all charts take the nearest chart's
        colour, so that bilinear look-ups at a seam never meet an unset one.

    Raises:
        ValueError: the mesh has no UVs.
    """
    if mesh.uv is None:
        raise ValueError("bake needs a mesh with UVs; unwrap it first")
    position, covered = texel_positions(mesh, size)
    points = position[covered]
    colours = [colour_field(part.to(device)).float().cpu() for part in points.split(chunk)]
    image = np.zeros((size, size, 3), np.float32)
    image[covered.numpy()] = torch.cat(colours).numpy() if colours else 0.0
    image = fill_from_nearest(image, covered.numpy())
    texture = (np.nan_to_num(image).clip(0, 1) * 255 + 0.5).astype(np.uint8)
    return Mesh(mesh.vertices, mesh.faces, mesh.colours, mesh.uv, texture)


def texel_positions(mesh: Mesh, size: int) -> tuple[Tensor, Tensor]:
    """Surface point of each texel's centre: ``(size, size, 3)`` scene units, and which texels have one."""
    if mesh.uv is None:
        raise ValueError("the mesh has no UVs")
    # The atlas drawn as a flat picture: each triangle has its own three corners, at z = 0 and w = 1.
    corners = mesh.uv.reshape(-1, 2)
    clip = torch.cat([2 * corners - 1, torch.zeros_like(corners[:, :1]), torch.ones_like(corners[:, :1])], -1)
    faces = torch.arange(len(corners)).reshape(-1, 3)
    flat = rasterise(clip[None], faces, size, size)
    surface = mesh.vertices.detach().cpu()[mesh.faces.cpu().reshape(-1)]
    position = interpolate(surface, faces, flat.triangle_id, flat.weights)[0]
    return position, flat.triangle_id[0] >= 0


def fill_from_nearest(image: NDArray, covered: NDArray) -> NDArray:
    """``(H, W, C)`` where each pixel outside ``covered (H, W)`` takes the nearest covered pixel's value."""
    from scipy.ndimage import distance_transform_edt

    if not covered.any() or covered.all():
        return image
    rows, columns = distance_transform_edt(~covered, return_distances=False, return_indices=True)
    return image[rows, columns]
