"""Images of a triangle surface with a colour field: what DMTet and the texture stage share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from headsculpt.cameras import Cameras
from headsculpt.meshes import Topology, vertex_normals
from headsculpt.rendering import Rendering, shading
from headsculpt.representations.rasterise import visibility
from headsculpt.representations.shading_ops import (
    antialias,
    blended,
    covered_pixels,
    interpolate_covered,
    outlines,
)


@dataclass
class SeenColours:
    """The unlit colours of an image, before antialiasing.

    Attributes:
        index: ``(P,)`` int64, covered pixels of the flattened B * H * W.
        albedo: ``(P, 3)``.
        shape: B, H, W.
    """

    index: Tensor
    albedo: Tensor
    shape: tuple[int, int, int]


@dataclass
class SeenSurface:
    """What views show of a surface, before its colours: a shape that stays need be looked at only once.

    Attributes:
        shape: B, H, W.
        index: ``(P,)`` int64, covered pixels of the flattened B * H * W.
        point, normal: ``(P, 3)`` scene units, and unit vectors.
        depth: ``(P, 1)`` along the axis of the view.
        antialiased: blends images ``(B, H, W, C)`` across the outlines.
    """

    shape: tuple[int, int, int]
    index: Tensor
    point: Tensor
    normal: Tensor
    depth: Tensor
    antialiased: Callable[[Tensor], Tensor]

    def coloured(
        self,
        colour_field: nn.Module,
        *,
        background: Tensor | None = None,
        shaded: bool = True,
        with_albedo: bool = False,
    ) -> tuple[Rendering, SeenColours]:
        """Antialiased images; see :func:`render_surface`."""
        point, normal = self.point, self.normal
        behind = _background_image(background, self.shape, point)
        # Without the gradient from colour to position: it moves the surface along the texture's noise.
        albedo = colour_field(point.detach()).to(point.dtype)
        colour = (albedo * shading(normal)).clamp(0, 1) if shaded else albedo
        layers = [colour, torch.ones_like(colour[:, :1])] + ([albedo] if with_albedo else [])
        empty = [behind, torch.zeros_like(behind[:, :1])] + ([behind] if with_albedo else [])
        image = torch.cat(empty, -1).index_copy(0, self.index, torch.cat(layers, -1))
        image = self.antialiased(image.view(*self.shape, -1))
        extra = image.new_zeros(behind.shape[0], 4)
        extra = extra.index_copy(0, self.index, torch.cat([self.depth, normal], -1)).view(*self.shape, 4)
        rendering = Rendering(
            rgb=image[..., :3],
            opacity=image[..., 3:4],
            depth=extra[..., :1],
            normal=extra[..., 1:],
            albedo=image[..., 4:] if with_albedo else None,
        )
        return rendering, SeenColours(self.index, albedo, self.shape)


def see_surface(
    vertices: Tensor,
    faces: Tensor,
    edges: Topology,
    cameras: Cameras,
    *,
    backend: str = "auto",
    cull_back: bool = True,
) -> SeenSurface:
    """What B views show of a surface, differentiable in the vertices; arguments as of :func:`render_surface`."""
    clip = cameras.project(vertices)
    ids = visibility(clip, faces, cameras.height, cameras.width, backend=backend, cull_back=cull_back)
    covered = covered_pixels(clip, faces, ids)
    attributes = torch.cat([vertices, vertex_normals(vertices, faces)], -1)
    point, normal = interpolate_covered(attributes, covered).split(3, -1)
    view = cameras.world_to_clip.to(vertices)[:, 3]  # the row that gives w, the depth along the axis
    row = view[covered.image]
    depth = (point * row[:, :3]).sum(-1, keepdim=True) + row[:, 3:]
    if backend == "nvdiffrast":
        smooth = partial(_nvdiffrast, clip=clip, faces=faces, triangle_id=ids, topology=edges)
    else:
        smooth = partial(blended, seen=outlines(clip, faces, ids, edges))
    normal = nn.functional.normalize(normal, dim=-1)
    return SeenSurface((len(cameras), cameras.height, cameras.width), covered.index, point, normal, depth, smooth)


def render_surface(
    vertices: Tensor,
    faces: Tensor,
    edges: Topology,
    colour_field: nn.Module,
    cameras: Cameras,
    *,
    background: Tensor | None = None,
    shaded: bool = True,
    with_albedo: bool = False,
    backend: str = "auto",
    cull_back: bool = True,
) -> tuple[Rendering, SeenColours]:
    """Antialiased images, differentiable in the vertices and the colour field.

    Args:
        vertices, faces: ``(V, 3)`` scene units, and ``(F, 3)``.
        edges: of the faces.
        colour_field: ``(N, 3)`` scene points to ``(N, 3)`` albedo in [0, 1].
        cameras: B views.
        background: ``(B, 3)`` or ``(B, H, W, 3)``; white if None.
        shaded: under the light of :func:`headsculpt.rendering.shading`; otherwise rgb is the albedo.
        with_albedo: return the unlit colour as well.
        backend: of :func:`.rasterise.visibility`.
        cull_back: leave out what faces away; right for a closed surface seen from outside.

    Raises:
        ValueError: a background of another shape.
    """
    seen = see_surface(vertices, faces, edges, cameras, backend=backend, cull_back=cull_back)
    return seen.coloured(colour_field, background=background, shaded=shaded, with_albedo=with_albedo)


def _nvdiffrast(image: Tensor, **surface: Any) -> Tensor:
    return antialias(image, **surface, backend="nvdiffrast")


def _background_image(background: Tensor | None, shape: tuple[int, int, int], like: Tensor) -> Tensor:
    """``(B * H * W, 3)`` of what lies behind."""
    if background is None:
        return torch.ones(shape[0] * shape[1] * shape[2], 3, dtype=like.dtype, device=like.device)
    background = background.to(like)
    if background.shape == (shape[0], 3):
        background = background[:, None, None].expand(*shape, 3)
    if background.shape != (*shape, 3):
        raise ValueError(
            f"background must be ({shape[0]}, 3) or {(*shape, 3)}; got {tuple(background.shape)}"
        )
    return background.reshape(-1, 3)
