"""From visible triangles to images: barycentrics, interpolation, antialiasing. All gradients are here.

Plain torch on any device. Letters: B images, N vertices, F triangles, H rows, W columns, C channels,
P covered pixels, K crossings of a silhouette edge with the line between two pixel centres.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from headsculpt.devices import importable
from headsculpt.meshes import Topology

# How far behind the surface at the inner pixel a silhouette may lie, as a fraction of the view's depth range
# and times sqrt(pixels): a sphere of diameter d pixels has bent away by sqrt(d) pixels one pixel inside its
# outline. Twice that still tells a separate surface in front from the edge's own.
OCCLUDER_TOLERANCE = 2.0


@dataclass
class Covered:
    """The covered pixels of a batch, in row-major order.

    Attributes:
        index: ``(P,)`` int64 into the flattened ``B * H * W``.
        image: ``(P,)`` int64 which image.
        corners: ``(P, 3)`` int64 vertex indices of the visible triangle.
        weights: ``(P, 3)`` perspective-correct barycentrics, differentiable in the clip coordinates.
    """

    index: Tensor
    image: Tensor
    corners: Tensor
    weights: Tensor


def pixel_barycentrics(clip: Tensor, triangles: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Perspective-correct barycentrics of image points in homogeneous triangles.

    With v = (x, y, w), weight i is proportional to det(p, v_j, v_k) for p = (x, y, 1); translating v by -p
    first keeps it exact in float32 for triangles smaller than a pixel, and needs no clipping.

    Args:
        clip: unused rows aside, ``(M, 4)`` flattened clip coordinates.
        triangles: ``(P, 3)`` int64 into ``clip``.
        x, y: ``(P,)`` normalised device coordinates in [-1, 1].

    Returns:
        ``(P, 3)`` in [0, 1], sum 1; thirds without gradient where the triangle is seen exactly edge-on.
    """
    corner = clip.index_select(0, triangles.reshape(-1)).view(-1, 3, 4)
    w = corner[..., 3]
    rx = corner[..., 0] - x[:, None] * w
    ry = corner[..., 1] - y[:, None] * w
    u = torch.stack(
        [
            rx[:, 1] * ry[:, 2] - rx[:, 2] * ry[:, 1],
            rx[:, 2] * ry[:, 0] - rx[:, 0] * ry[:, 2],
            rx[:, 0] * ry[:, 1] - rx[:, 1] * ry[:, 0],
        ],
        -1,
    )
    total = u.sum(-1, keepdim=True)
    degenerate = total.abs() < torch.finfo(clip.dtype).tiny * 1e6
    u = torch.where(degenerate, torch.ones_like(u), u)
    total = torch.where(degenerate, torch.full_like(total, 3.0), total)
    # Vertices are snapped for visibility and not here: a centre may lie 1/512 pixel outside.
    weights = (u / total).clamp(0, 1)
    return weights / weights.sum(-1, keepdim=True)


def covered_pixels(clip: Tensor, faces: Tensor, triangle_id: Tensor) -> Covered:
    """The covered pixels and where in their triangle they lie; see :func:`barycentrics`."""
    batch, height, width = triangle_id.shape
    flat = triangle_id.reshape(-1)
    index = (flat >= 0).nonzero()[:, 0]
    corners = faces.long().index_select(0, flat.index_select(0, index).long())
    image = index // (height * width)
    row = (index // width) % height
    column = index % width
    x = (2 * column + 1).to(clip.dtype) / width - 1
    y = 1 - (2 * row + 1).to(clip.dtype) / height
    vertices = clip.shape[1]
    weights = pixel_barycentrics(clip.reshape(-1, 4), corners + image[:, None] * vertices, x, y)
    return Covered(index, image, corners, weights)


def barycentrics(clip: Tensor, faces: Tensor, triangle_id: Tensor, height: int, width: int) -> Tensor:
    """Perspective-correct barycentric coordinates of every pixel centre in its visible triangle.

    Args:
        clip: ``(B, N, 4)`` float clip coordinates; gradients flow into x, y and w.
        faces: ``(F, 3)`` integers.
        triangle_id: ``(B, H, W)`` integers, -1 where empty.
        height, width: pixels; must be those of ``triangle_id``.

    Returns:
        ``(B, H, W, 3)``: weights of the three corners, sum 1, and 0 where empty.
    """
    if tuple(triangle_id.shape[1:]) != (height, width):
        raise ValueError(f"triangle_id is {tuple(triangle_id.shape)}, not (B, {height}, {width})")
    covered = covered_pixels(clip, faces, triangle_id)
    return scatter(covered, covered.weights, triangle_id.shape)


def scatter(covered: Covered, values: Tensor, shape: torch.Size | tuple[int, ...]) -> Tensor:
    """Puts ``values (P, C)`` at the covered pixels of a ``(B, H, W, C)`` image that is 0 elsewhere."""
    pixels = shape[0] * shape[1] * shape[2]
    flat = values.new_zeros(pixels, values.shape[-1]).index_copy(0, covered.index, values)
    return flat.view(shape[0], shape[1], shape[2], -1)


def interpolate_covered(attributes: Tensor, covered: Covered) -> Tensor:
    """``(P, C)`` attributes ``(N, C)`` or ``(B, N, C)`` at the covered pixels."""
    corners = covered.corners
    if attributes.dim() == 3:
        corners = corners + covered.image[:, None] * attributes.shape[1]
        attributes = attributes.reshape(-1, attributes.shape[-1])
    values = attributes.index_select(0, corners.reshape(-1)).view(-1, 3, attributes.shape[-1])
    return (values * covered.weights[..., None]).sum(1)


def interpolate(
    attributes: Tensor, faces: Tensor, triangle_id: Tensor, weights: Tensor, *, backend: str = "auto"
) -> Tensor:
    """Vertex attributes at every pixel.

    Args:
        attributes: ``(N, C)`` or ``(B, N, C)`` float.
        faces: ``(F, 3)`` integers.
        triangle_id: ``(B, H, W)`` integers, -1 where empty.
        weights: ``(B, H, W, 3)`` from :func:`barycentrics`.
        backend: ``"torch"`` (any device), ``"nvdiffrast"`` (CUDA), or ``"auto"``, which is torch.

    Returns:
        ``(B, H, W, C)``, 0 where empty; differentiable in attributes and weights.
    """
    if attributes.dim() not in (2, 3):
        raise ValueError(f"attributes must be (N, C) or (B, N, C); got {tuple(attributes.shape)}")
    if _wants_nvdiffrast(backend):
        from headsculpt.representations.adapters import nvdiffrast_interpolate

        return nvdiffrast_interpolate(attributes, faces, triangle_id, weights)
    batch, height, width = triangle_id.shape
    flat = triangle_id.reshape(-1)
    index = (flat >= 0).nonzero()[:, 0]
    covered = Covered(
        index,
        index // (height * width),
        faces.long().index_select(0, flat.index_select(0, index).long()),
        weights.reshape(-1, 3).index_select(0, index),
    )
    return scatter(covered, interpolate_covered(attributes, covered), triangle_id.shape)


def _wants_nvdiffrast(backend: str) -> bool:
    if backend not in ("auto", "torch", "nvdiffrast"):
        raise ValueError(f"backend must be 'auto', 'torch' or 'nvdiffrast'; got {backend!r}")
    return backend == "nvdiffrast"


def antialias(
    image: Tensor,
    clip: Tensor,
    faces: Tensor,
    triangle_id: Tensor,
    topology: Topology,
    *,
    backend: str = "auto",
) -> Tensor:
    """Blends pixels across silhouettes by analytic coverage, which gives outlines a gradient.

    The idea is that of Laine et al. 2020 ("Modular primitives for high-performance differentiable
    rendering", section 3.6): where a silhouette edge crosses the line between two pixel centres, at a
    fraction t from the inner one, the inner pixel takes 1/2 - t of the outer colour if t < 1/2, and the
    outer pixel takes t - 1/2 of the inner one if t > 1/2. They look for the edge in the one triangle that
    the inner pixel shows and miss it where triangles are smaller than pixels; we go through the silhouette
    edges instead and find the pixel pairs that each one crosses.

    Args:
        image: ``(B, H, W, C)`` float.
        clip: ``(B, N, 4)`` float clip coordinates; gets the gradient of the outlines' positions.
        faces: ``(F, 3)`` integers.
        triangle_id: ``(B, H, W)`` integers, -1 where empty.
        topology: of ``faces``.
        backend: ``"torch"`` (any device), ``"nvdiffrast"`` (CUDA; theirs), or ``"auto"``, which is torch.

    Returns:
        ``(B, H, W, C)``; a pixel is a convex combination of itself and its four neighbours.
    """
    if _wants_nvdiffrast(backend):
        from headsculpt.representations.adapters import nvdiffrast_antialias

        return nvdiffrast_antialias(image, clip, faces, triangle_id)
    return blended(image, outlines(clip, faces, triangle_id, topology))


@dataclass
class Outlines:
    """The pairs of neighbouring pixels that outlines cross, K of them, of B images.

    Attributes:
        inner, outer: ``(K,)`` int64 pixels of the flattened B * H * W.
        target: ``(K,)`` int64, the one of the two that takes colour from the other.
        amount: ``(K,)`` how much of (outer - inner) it takes, -1/2 to 1/2; differentiable in the outlines.
    """

    inner: Tensor
    outer: Tensor
    target: Tensor
    amount: Tensor


def outlines(clip: Tensor, faces: Tensor, triangle_id: Tensor, topology: Topology) -> Outlines | None:
    """What :func:`antialias` blends, whatever the colours are; None where no outline is seen."""
    crossings = _crossings(clip, faces, triangle_id, topology)
    if crossings is None:
        return None
    inner, outer, t = crossings
    target = torch.where(t < 0.5, inner, outer)
    amount = 0.5 - t  # positive: outer colour into the inner pixel; negative: inner into the outer one
    with torch.no_grad():  # a thin corner may be crossed from several sides: stay convex
        total = torch.zeros(triangle_id.numel(), dtype=amount.dtype, device=amount.device)
        total.index_add_(0, target, amount.detach().abs())
        limit = 1 / total.index_select(0, target).clamp_min(1)
    return Outlines(inner, outer, target, amount * limit)


def blended(image: Tensor, seen: Outlines | None) -> Tensor:
    """``(B, H, W, C)`` with each pixel of an outline mixed with its neighbour beyond it."""
    if seen is None:
        return image
    flat = image.reshape(-1, image.shape[-1])
    difference = flat.index_select(0, seen.outer) - flat.index_select(0, seen.inner)
    change = difference * seen.amount[:, None].to(image.dtype)
    return flat.index_add(0, seen.target, change).view(image.shape)


def _silhouettes(clip: Tensor, topology: Topology) -> tuple[Tensor, Tensor, Tensor]:
    """Image, edge, and side (+1 or -1: sign of det(a, b, opposite)) of each silhouette edge of each image.

    An edge is one where both of its faces lie on the same side on the screen, or where it has one face.
    """
    if clip.device.type == "cpu" and importable("numba"):
        from headsculpt.representations.rasterise_numba import silhouettes

        arrays = silhouettes(
            clip.detach().contiguous().numpy(), topology.edges.numpy(), topology.opposite.numpy()
        )
        image, edge, positive = (torch.from_numpy(array) for array in arrays)
        return image, edge, torch.where(positive, 1.0, -1.0).to(clip)
    if clip.is_cuda and importable("triton"):
        from headsculpt.representations.rasterise_triton import silhouettes as folds

        return folds(clip, topology.edges, topology.opposite)
    return silhouettes_reference(clip, topology)


def silhouettes_reference(clip: Tensor, topology: Topology) -> tuple[Tensor, Tensor, Tensor]:
    """The same in plain torch, for any device."""
    x, y, w = clip.detach()[..., [0, 1, 3]].unbind(-1)
    first, second = topology.edges.unbind(-1)
    ax, ay, aw = (v[:, first] for v in (x, y, w))
    bx, by, bw = (v[:, second] for v in (x, y, w))
    normal = (ay * bw - aw * by, aw * bx - ax * bw, ax * by - ay * bx)

    def side(opposite: Tensor) -> tuple[Tensor, Tensor]:
        index = opposite.clamp_min(0)
        value = normal[0] * x[:, index] + normal[1] * y[:, index] + normal[2] * w[:, index]
        return value, w[:, index] > 0

    one, one_in_front = side(topology.opposite[:, 0])
    two, two_in_front = side(topology.opposite[:, 1])
    boundary = (topology.opposite[:, 1] < 0)[None]
    fold = boundary | ((one > 0) == (two > 0))
    fold &= (aw > 0) & (bw > 0) & one_in_front & (boundary | two_in_front)
    image, edge = fold.nonzero().unbind(-1)
    return image, edge, torch.where(one[image, edge] > 0, 1.0, -1.0).to(clip)


def _crossings(
    clip: Tensor, faces: Tensor, triangle_id: Tensor, topology: Topology
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Inner pixel, outer pixel ``(K,)`` and fraction t ``(K,)``, differentiable, of all visible crossings."""
    batch, height, width = triangle_id.shape
    vertices = clip.shape[1]
    image, edge, side = _silhouettes(clip, topology)
    ends = topology.edges.index_select(0, edge) + image[:, None] * vertices  # (S, 2)
    position = clip.reshape(-1, 4)
    a, b = position.index_select(0, ends[:, 0]), position.index_select(0, ends[:, 1])
    scale = torch.tensor([0.5 * width, -0.5 * height], dtype=clip.dtype, device=clip.device)
    shift = torch.tensor([0.5 * width - 0.5, 0.5 * height - 0.5], dtype=clip.dtype, device=clip.device)
    a2, b2 = (
        a[:, :2] / a[:, 3:] * scale + shift,
        b[:, :2] / b[:, 3:] * scale + shift,
    )  # pixel centres at integers

    # An edge nearer to vertical moves along rows, the others along columns: each counts once.
    with torch.no_grad():
        steep = ((b2 - a2)[:, 1].abs() >= (b2 - a2)[:, 0].abs()).long()
        along = steep[:, None]  # the axis on which whole lines are counted: y for steep edges, else x
        low_high = torch.cat([a2.gather(1, along), b2.gather(1, along)], 1)
        limit = torch.where(steep == 1, height - 1, width - 1)
        begin = low_high.amin(1).clamp(-1, 1e6).ceil().long().clamp_min(0)  # half open: [low, high)
        stop = torch.minimum(low_high.amax(1).clamp(-1, 1e6).ceil().long(), limit + 1)
        count = (stop - begin).clamp_min(0)
        which = torch.repeat_interleave(torch.arange(count.shape[0], device=clip.device), count)
        if which.numel() == 0:
            return None
        line = (
            begin[which] + torch.arange(which.shape[0], device=clip.device) - (count.cumsum(0) - count)[which]
        )
        steep, along, image, side = steep[which], along[which], image[which], side[which]
    a2, b2 = a2.index_select(0, which), b2.index_select(0, which)
    across = 1 - along
    a_line, b_line = a2.gather(1, along)[:, 0], b2.gather(1, along)[:, 0]
    a_cross, b_cross = a2.gather(1, across)[:, 0], b2.gather(1, across)[:, 0]
    fraction = (line.to(clip.dtype) - a_line) / (b_line - a_line)
    cross = a_cross + fraction * (b_cross - a_cross)

    with torch.no_grad():
        # Does the surface lie towards larger coordinates? det(a, b, o) has the sign of the screen's
        # (b - a) x (o - a) with y up, so of the opposite with our y down.
        towards = torch.where(steep == 1, side * (b_line - a_line), -side * (b_line - a_line)) > 0
        lower = cross.clamp(-2, 1e6).floor().long()
        inner_at = torch.where(towards, lower + 1, lower)
        outer_at = torch.where(towards, lower, lower + 1)
        size = torch.where(steep == 1, width, height)
        inside = (lower >= 0) & (lower + 1 < size)
        stride = torch.where(steep == 1, 1, width)
        base = image * (height * width) + line * torch.where(steep == 1, width, 1)
        keep = inside.nonzero()[:, 0]
        inner, outer = (base + inner_at * stride)[keep], (base + outer_at * stride)[keep]
        ids = triangle_id.reshape(-1)
        inner_id, outer_id = ids[inner].long(), ids[outer].long()
        differs = (inner_id >= 0) & (inner_id != outer_id)
        keep, inner, outer = keep[differs], inner[differs], outer[differs]
        inner_id, outer_id = inner_id[differs], outer_id[differs]
        w_a, w_b = a[:, 3].index_select(0, which[keep]), b[:, 3].index_select(0, which[keep])
        f = fraction[keep]
        edge_depth = 1 / ((1 - f) / w_a + f / w_b)
        w_range = clip[..., 3].amax(1) - clip[..., 3].clamp_min(0).amin(1)
        extent = torch.maximum(w_range[image[keep]], 0.01 * edge_depth)  # a flat mesh has no depth range
        inner_depth = _depth_at(clip, faces, inner, inner_id, triangle_id)
        outer_depth = _depth_at(clip, faces, outer, outer_id, triangle_id)
        visible = (outer_depth > edge_depth + 1e-5 * extent) & (
            inner_depth > edge_depth - OCCLUDER_TOLERANCE / min(height, width) ** 0.5 * extent
        )
        keep, inner, outer = keep[visible], inner[visible], outer[visible]
        if keep.numel() == 0:
            return None
        # Several edges of a jagged outline may cross one pair: the outermost is the outline.
        t = (cross[keep] - inner_at[keep].to(cross)).abs()
        pair = (torch.minimum(inner, outer) * 2 + steep[keep]) * 2 + towards[keep]
        order = torch.argsort(t, descending=True, stable=True)
        order = order[torch.argsort(pair[order], stable=True)]
        sorted_pair = pair[order]
        leader = torch.ones_like(sorted_pair, dtype=torch.bool)
        leader[1:] = sorted_pair[1:] != sorted_pair[:-1]
        chosen = order[leader]
        keep, inner, outer = keep[chosen], inner[chosen], outer[chosen]
        sign = torch.where(towards[keep], -1.0, 1.0).to(cross)
    t = sign * (cross.index_select(0, keep) - inner_at[keep].to(cross))
    return inner, outer, t


def _depth_at(clip: Tensor, faces: Tensor, pixel: Tensor, triangle: Tensor, triangle_id: Tensor) -> Tensor:
    """View depth w ``(K,)`` of the triangle at these flat pixels; infinite where there is none."""
    _, height, width = triangle_id.shape
    corners = faces.long()[triangle.clamp_min(0)] + (pixel // (height * width))[:, None] * clip.shape[1]
    x = (2 * (pixel % width) + 1).to(clip.dtype) / width - 1
    y = 1 - (2 * ((pixel // width) % height) + 1).to(clip.dtype) / height
    flat = clip.detach().reshape(-1, 4)
    weights = pixel_barycentrics(flat, corners, x, y)
    depth = (weights * flat[:, 3][corners]).sum(-1)
    return torch.where(triangle >= 0, depth, torch.full_like(depth, float("inf")))
