"""What the volume representations, NeRF and NeuS, share around their samples.

A pixel's colour is the composited albedo times the light at the surface it sees (one normal a ray, not one
a sample): for a head, whose rays end within a few steps of the skin, the two agree, and it costs a fifth.

Letters: B images, H rows, W columns, R = B H W rays, N samples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from headsculpt.cameras import Cameras
from headsculpt.meshes import Mesh
from headsculpt.rendering import Rendering, shading
from headsculpt.representations.compositing import Composite, distortion_loss
from headsculpt.representations.occupancy import Samples

# Values at four points give a gradient (Quilez, "normals for an SDF"); the offsets' products sum to 4 I.
TETRAHEDRON = ((1.0, -1.0, -1.0), (-1.0, -1.0, 1.0), (-1.0, 1.0, -1.0), (1.0, 1.0, 1.0))


@dataclass
class RayStatistics:
    """What a render leaves for the regularisers.

    Attributes:
        opacity: ``(R,)``.
        weights: ``(N,)`` of the samples.
        normal: ``(R, 3)``, 0 where a ray sees nothing; or None.
        directions: ``(R, 3)`` unit.
        samples: of the rays.
    """

    opacity: Tensor
    weights: Tensor
    normal: Tensor | None
    directions: Tensor
    samples: Samples


def background_image(background: Tensor | None, cameras: Cameras) -> Tensor:
    """``(B, H, W, 3)`` of ``background (B, 3)`` or ``(B, H, W, 3)``; white for None.

    Raises:
        ValueError: another shape.
    """
    batch, height, width = len(cameras), cameras.height, cameras.width
    if background is None:
        background = torch.ones(batch, 3, device=cameras.camera_to_world.device)
    if background.shape == (batch, 3):
        background = background[:, None, None].expand(batch, height, width, 3)
    if background.shape != (batch, height, width, 3):
        raise ValueError(
            f"expected a background of shape ({batch}, 3) or ({batch}, {height}, {width}, 3); "
            f"got {tuple(background.shape)}"
        )
    return background


def lit_rendering(
    cameras: Cameras,
    rays: tuple[Tensor, Tensor],
    composited: Composite,
    samples: Samples,
    behind: Tensor,
    normal_of: Callable[[Tensor], Tensor] | None,
    ambient: float,
) -> tuple[Rendering, RayStatistics]:
    """Images of composited rays, under the light of :func:`headsculpt.rendering.shading`.

    Args:
        cameras: B views.
        rays: their origins and unit directions, each ``(R, 3)``.
        composited: of the samples' albedo; depth is the sum of weight times distance.
        samples: that were composited; kept for the regularisers.
        behind: ``(B, H, W, 3)``.
        normal_of: surface points ``(P, 3)`` to unit normals ``(P, 3)``; None leaves the light out.
        ambient: share of the light that is even, 0 to 1.
    """
    (origins, directions), (total, opacity, depth, weights) = rays, composited
    batch, height, width = behind.shape[:3]
    distance = depth / opacity.clamp_min(1e-6)
    normal = None
    light = torch.ones_like(opacity[:, None])
    if normal_of is not None:
        hit = (opacity.detach() > 0.1).nonzero()[:, 0]
        points = origins[hit] + distance.detach()[hit, None] * directions[hit]
        normal_hit = normal_of(points)
        normal = torch.zeros_like(origins).index_copy(0, hit, normal_hit)
        light_hit = ambient + (1 - ambient) * shading(normal_hit)
        # Where there is hardly anything, the light of a surface that faces sideways.
        light = torch.full_like(light, 0.7).index_copy(0, hit, light_hit)

    def image(x: Tensor) -> Tensor:
        return x.view(batch, height, width, -1)

    clear = image(1 - opacity)
    forward = -cameras.camera_to_world[:, :3, 2]
    along = (directions.view(batch, -1, 3) @ forward[:, :, None]).reshape(-1)
    seen = (opacity > 1e-3).to(depth)
    rendering = Rendering(
        rgb=image(total * light).clamp(0, 1) + clear * behind,
        opacity=image(opacity),
        depth=image(distance * along * seen),
        normal=None if normal is None else image(normal),
        albedo=image(total) + clear * behind,
    )
    return rendering, RayStatistics(opacity, weights, normal, directions, samples)


def ray_terms(last: RayStatistics | None, distortion: bool = True) -> dict[str, Tensor]:
    """Regularisers of the last render's rays, unweighted scalars.

    * entropy: mean binary entropy (bits) of the rays' opacities (A.8's formula; over rays);
    * weight_entropy: the same of the samples' weights, as HeadSculpt's code has it;
    * opacity: mean opacity. sparsity: mean sqrt(opacity^2 + 0.01). opaque: BCE(o, o) (E.5);
    * orientation: mean over rays of opacity * max(0, n.d)^2, opacity detached (A.8, E.5);
    * distortion: Mip-NeRF 360's, where it is asked for, as it costs more than the others.

    Raises:
        RuntimeError: nothing was rendered yet.
    """
    if last is None:
        raise RuntimeError("regularisation() describes the last render; call render() first")
    opacity = last.opacity
    terms = {
        "entropy": _entropy(opacity),
        "weight_entropy": _entropy(last.weights) if last.weights.numel() else opacity.sum() * 0,
        "opacity": opacity.mean(),
        "sparsity": (opacity.square() + 0.01).sqrt().mean(),
        "opaque": nn.functional.binary_cross_entropy(o := opacity.clamp(1e-3, 1 - 1e-3), o.detach()),
    }
    if distortion:
        samples = last.samples
        terms["distortion"] = distortion_loss(last.weights, samples.t, samples.dt, samples.offsets)
    if last.normal is not None:
        away = (last.normal * last.directions).sum(-1).clamp_min(0).square()
        terms["orientation"] = (opacity.detach() * away).mean()
    return terms


@torch.no_grad()
def on_lattice(
    field: Callable[[Tensor], Tensor], bound: float, resolution: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """A field ``(n, 3) -> (n,)`` on the cube [-bound, bound]^3 of that many cells, and one cell beyond it.

    Returns:
        points ``(V, 3)``, and values ``(G, G, G)`` with G = resolution + 3.
    """
    from headsculpt.representations.tetrahedra import grid_vertices

    count, cell = resolution + 3, 2 * bound / resolution
    points = grid_vertices((count,) * 3, torch.full((3,), -bound - cell, device=device), cell)
    return points, torch.cat([field(part) for part in points.split(1 << 17)]).view((count,) * 3)


@torch.no_grad()
def lattice_mesh(points: Tensor, values: Tensor, albedo: Callable[[Tensor], Tensor], name: str) -> Mesh:
    """The surface where ``values`` of :func:`on_lattice` are zero (negative inside), with vertex colours.

    It is closed if they are not negative on the lattice's border. ``name`` is the mesh's, in error messages.
    """
    from headsculpt.representations.tetrahedra import grid_crossings, surface_points

    found = grid_crossings(values)
    ends = torch.stack([found.inside, found.outside], -1)
    vertices = surface_points(values.view(-1)[ends], points[ends])
    return Mesh(vertices, found.faces, albedo(vertices)).checked(name)


def _entropy(a: Tensor) -> Tensor:
    a = a.clamp(1e-5, 1 - 1e-5)
    return (-a * torch.log2(a) - (1 - a) * torch.log2(1 - a)).mean()
