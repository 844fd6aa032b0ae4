"""The stages of a reconstruction: how each representation begins, and the two loops that train it.

Fields (NeRF, NeuS) learn from random pixels, surfaces (DMTet, a mesh with a texture) from whole images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import l1_loss, mse_loss

from headsculpt.fit_checkpoint import FitCheckpoint
from headsculpt.meshes import Mesh
from headsculpt.photographs import Photographs, RayColumn
from headsculpt.sculpting_stages import drop_bad_gradients, split_parameters, weighted_sum
from headsculpt.transforms import visual_hull

if TYPE_CHECKING:
    from headsculpt.representations.density_prior import DensityPrior
    from headsculpt.representations.dmtet import DMTet
    from headsculpt.representations.nerf import NeRF
    from headsculpt.representations.neus import NeuS
    from headsculpt.representations.textured_mesh import TexturedMesh

Report = Callable[[str, int, float], None]  # stage, steps done, loss


@dataclass(frozen=True)
class FitSettings:
    """Settings of :func:`headsculpt.fitting.fit`; the values are ours unless said.

    Attributes:
        rays: pixels per step of the NeRF or NeuS.
        near_share: of those, from pixels on or beside the object, where the images have opacity.
        samples, step: of their rays, see :class:`.nerf.NeRF`; step is in scene units.
        hash_levels, hash_finest, hash_log2_table, hidden: of the hash grids and networks.
        occupancy_resolution, hull_resolution: cells along an edge of the cube.
        lr_grid, lr_network, lr_geometry: learning rates of hash tables, networks, and the surface.
        lr_nerf_network: of a NeRF's network.
        opacity_weight: of the squared error of the opacity.
        distortion_weight: of Mip-NeRF 360's term, against fog; NeRF.
        neus_finest: hash resolution of the NeuS, at most ``hash_finest``: a cell of 512 is half a pixel at
            256 pixels an object, and finer ones only roughen the surface.
        deviation: start of the NeuS's v (s = exp(10 v)): 0.4 is a haze of 0.018, half a cell of the visual
            hull that it starts from; B.1's 0.3 is for a ball.
        lr_deviation: of v. Adam moves v by at most this a step, so s by 1 %: with the decay of the rates it
            can rise by a factor e^4 in 1500 steps, and stops by itself where the pixels are no sharper.
        eikonal_weight: beside an absolute error of the colours, as in B.1's own fit. B.2 has 0.1; Suzanne
            (16 views at 64 pixels, 300 steps) gave 28.4 dB and an error of 0.48 % of the diagonal with it,
            29.3 dB and 0.42 % with 0.03, 29.7 dB and 0.40 % with 0.01.
        curvature_weight: of Neuralangelo's term. Theirs is 5e-4; this is a fifth, as the hash tables
            here are smaller and the runs shorter.
        bands_until: share of the NeuS's steps after which all hash levels are open.
        mesh_share: of the steps of ``"dmtet"``, those on the surface.
        mesh_batch: images per step of a surface.
        tet_resolution: cells along the longest side of the object.
        laplacian_weight, normal_weight: smoothness of the surface.
        variation_weight: of the texture stage, smoothness of its colours.
    """

    rays: int = 4096
    near_share: float = 0.75
    samples: int = 128
    step: float = 0.0125
    hash_levels: int = 14
    hash_finest: int = 1024
    hash_log2_table: int = 17
    hidden: int = 48
    occupancy_resolution: int = 64
    hull_resolution: int = 72
    lr_grid: float = 1e-2
    lr_network: float = 5e-3
    lr_geometry: float = 1e-3
    lr_nerf_network: float = 3e-3
    opacity_weight: float = 0.2
    distortion_weight: float = 2e-3
    neus_finest: int = 512
    deviation: float = 0.4
    lr_deviation: float = 1e-3
    eikonal_weight: float = 0.01
    curvature_weight: float = 1e-4
    bands_until: float = 0.4
    mesh_share: float = 0.3
    mesh_batch: int = 2
    tet_resolution: int = 112
    laplacian_weight: float = 0.2
    normal_weight: float = 0.01
    variation_weight: float = 0.0


def new_nerf(photographs: Photographs, settings: FitSettings, generator: torch.Generator) -> NeRF:
    """A NeRF that starts as the visual hull, or as a ball where there are no silhouettes."""
    from headsculpt.representations.nerf import NeRF

    prior = hull_prior(photographs, settings.hull_resolution)
    nerf = NeRF(
        prior,
        levels=settings.hash_levels,
        finest_resolution=settings.hash_finest,
        log2_table=settings.hash_log2_table,
        hidden=settings.hidden,
        samples=settings.samples,
        step=settings.step,
        occupancy_resolution=settings.occupancy_resolution,
        reach=1.3 if prior.kind == "blob" else 0.1,  # from the ball to the cube's corners; hardly off the hull
        generator=generator,
    )
    return nerf.to(photographs.images.device)


def new_neus(photographs: Photographs, settings: FitSettings, generator: torch.Generator) -> NeuS:
    """A NeuS that starts as the visual hull, or as a ball where there are no silhouettes."""
    from headsculpt.representations.density_prior import DensityPrior
    from headsculpt.representations.neus import NeuS

    start = None
    if photographs.masks is not None:
        # Without the steps of the hull's cells, which would be creases of the start. Half a cell further
        # out, so that the blur takes no thin part away: what is too much is carved in the first steps.
        distance = hull_distance(photographs, settings.hull_resolution, blur_cells=0.7)
        start = DensityPrior(torch.from_numpy(distance - 1 / settings.hull_resolution))
    neus = NeuS(
        start,
        levels=settings.hash_levels,
        finest_resolution=min(settings.neus_finest, settings.hash_finest),
        log2_table=settings.hash_log2_table,
        hidden=settings.hidden,
        samples=settings.samples,
        step=settings.step,
        occupancy_resolution=settings.occupancy_resolution,
        deviation=settings.deviation,
        epsilon=0.5 * pixel_size(photographs),  # no image shows what is finer
        eikonal_points=max(16, settings.rays // 4),
        generator=generator,
    )
    return neus.to(photographs.images.device)


def pixel_size(photographs: Photographs) -> float:
    """Edge of a pixel at the middle of the scene, scene units, median over the views."""
    cameras = photographs.cameras
    height = 2 * cameras.origins.norm(dim=-1) * torch.tan(0.5 * cameras.fov_y_rad)
    return float(height.median()) / cameras.height


def hull_prior(photographs: Photographs, resolution: int) -> DensityPrior:
    """The visual hull as a density to start from: thin enough to be carved, and nothing lies outside it.

    A cell further out than the hull is found on its lattice, or the object's own edge must be learnt against it; then
    falling steeply, or what the network makes of places that no ray asks for shows as specks in empty space.
    """
    from headsculpt.representations.density_prior import DensityPrior

    if photographs.masks is None:
        return DensityPrior.blob(inside=2.0)
    distance = torch.from_numpy(hull_distance(photographs, resolution, blur_cells=0.7) - 2 / resolution)
    return DensityPrior(distance, inside=1.0, outside=40.0, slope=200.0)


def hull_distance(photographs: Photographs, resolution: int, blur_cells: float = 0.0) -> np.ndarray:
    """Signed distance to the visual hull, ``(resolution,) * 3`` over the cube, scene units."""
    from scipy.ndimage import distance_transform_edt, gaussian_filter

    if photographs.masks is None:
        raise ValueError("images without opacity have no visual hull")
    axis = torch.linspace(-1, 1, resolution, device=photographs.images.device)
    cell = 2 / (resolution - 1)
    points = torch.cartesian_prod(axis, axis, axis)
    hull = visual_hull(points, cell, photographs.cameras, photographs.masks)
    inside = hull.view((resolution,) * 3).cpu().numpy()
    # It counts to the nearest point of the other side; the surface lies half a cell before that.
    distance = distance_transform_edt(~inside) - distance_transform_edt(inside)
    distance = (distance - 0.5 * np.sign(distance)) * cell
    return gaussian_filter(distance, blur_cells, mode="nearest") if blur_cells > 0 else distance


def fit_field(
    field: NeRF | NeuS,
    photographs: Photographs,
    steps: int,
    settings: FitSettings,
    light: str,
    generator: torch.Generator,
    report: Report = lambda stage, step, loss: None,
    checkpoint: FitCheckpoint | None = None,
) -> None:
    """Trains a field on random pixels: a NeRF on squared errors, a NeuS on absolute ones (method B.1)."""
    from headsculpt.representations.neus import NeuS

    neus = field if isinstance(field, NeuS) else None
    grid, network = split_parameters(field)
    groups = [{"params": grid, "lr": settings.lr_grid}, {"params": network, "lr": settings.lr_nerf_network}]
    error, weights = mse_loss, {"distortion": settings.distortion_weight}
    if neus is not None:
        others = [p for p in network if p is not neus.deviation]
        groups = [{"params": grid, "lr": settings.lr_grid}, {"params": others, "lr": settings.lr_network}]
        groups.append({"params": [neus.deviation], "lr": settings.lr_deviation})
        error = l1_loss
        weights = {"eikonal": settings.eikonal_weight, "curvature": settings.curvature_weight}
    optimiser = torch.optim.Adam(groups, betas=(0.9, 0.99), eps=1e-15)
    stage, parts = "nerf" if neus is None else "neus", {"field": field, "optimiser": optimiser}
    checkpoint = checkpoint or FitCheckpoint(None)
    first, _ = checkpoint.restore(stage, parts, generator)
    if first == steps:
        return
    for step in range(first, steps):
        if neus is not None:
            neus.open_bands(step / steps, until=settings.bands_until)
        if step % 16 == 0:
            field.update_occupancy(step, generator)
        origins, directions, values = photographs.pixels(settings.rays, settings.near_share, generator)
        background = photographs.behind(len(values), generator)
        view = RayColumn(origins, directions)
        rendering = field.render(
            view, background=background[None, :, None], shaded=light == "studio", generator=generator
        )
        loss = error(rendering.rgb[0, :, 0], photographs.over(values, background))
        terms = field.regularisation(step / steps, distortion=weights.get("distortion", 0.0) > 0)
        total = loss + weighted_sum(terms, weights)
        if photographs.masks is not None:
            total = total + settings.opacity_weight * error(rendering.opacity[0, :, 0], values[:, 3:])
        _step(optimiser, total, field, step / steps)
        if step + 1 < steps:
            checkpoint.keep(stage, step + 1, parts, generator)
        report(stage, step + 1, float(loss.detach()))
    if neus is not None:
        neus.open_bands(1.0, until=settings.bands_until)
    field.update_occupancy(0, None)  # for renders: all cells, at their centres
    checkpoint.keep(stage, steps, parts, generator, done=True)


def new_textured_mesh(
    mesh: Mesh, photographs: Photographs, settings: FitSettings, generator: torch.Generator
) -> TexturedMesh:
    """The mesh with a grey colour field.

    Raises:
        ValueError: where there are silhouettes, and the mesh is not where the images show the object.
    """
    from headsculpt.representations.textured_mesh import TexturedMesh

    device = photographs.images.device
    textured = TexturedMesh.from_mesh(
        Mesh(mesh.vertices.to(device), mesh.faces.to(device)),
        levels=settings.hash_levels,
        finest_resolution=settings.hash_finest,
        log2_table=settings.hash_log2_table,
        hidden=settings.hidden,
        generator=generator,
    ).to(device)
    if photographs.masks is not None:
        some = list(range(0, len(photographs), max(1, len(photographs) // 4)))[:4]
        with torch.no_grad():
            drawn = textured.render(photographs.cameras[some], shaded=False).opacity[..., 0] > 0.5
        masks = photographs.masks[some]
        overlap = float((drawn & masks).sum() / (drawn | masks).sum().clamp_min(1))
        if overlap < 0.3:
            raise ValueError(
                f"the mesh is not where the images show the object: its outlines and the images' opacity share "
                f"{overlap:.0%} of their area, expected 30% or more; check the coordinates that it is given in"
            )
    return textured


def fit_surface(
    surface: DMTet | TexturedMesh,
    photographs: Photographs,
    steps: int,
    settings: FitSettings,
    light: str,
    generator: torch.Generator,
    report: Report = lambda stage, step, loss: None,
    checkpoint: FitCheckpoint | None = None,
) -> None:
    """Refines a surface and its colours on whole images; of a TexturedMesh the colours alone."""
    from headsculpt.representations.dmtet import DMTet

    shape = [surface.sdf, surface.deform] if isinstance(surface, DMTet) else []
    stage = "mesh" if shape else "texture"
    # Colours that are refined go at half the rate of colours that begin.
    share = 0.5 if shape else 1.0
    grid, network = split_parameters(surface.colour_field)
    groups = [
        {"params": grid, "lr": share * settings.lr_grid},
        {"params": network, "lr": share * settings.lr_network},
    ]
    if shape:
        groups.insert(0, {"params": shape, "lr": settings.lr_geometry})
    optimiser = torch.optim.Adam(groups, betas=(0.9, 0.99), eps=1e-15)
    weights = {
        "laplacian": settings.laplacian_weight,
        "normal": settings.normal_weight,
        "variation": settings.variation_weight,
    }
    parts = {"surface": surface, "optimiser": optimiser}
    checkpoint = checkpoint or FitCheckpoint(None)
    first, order = checkpoint.restore(stage, parts, generator)
    for step in range(first, steps):
        while len(order) < settings.mesh_batch:
            order += torch.randperm(len(photographs), generator=generator).tolist()
        chosen, order = order[: settings.mesh_batch], order[settings.mesh_batch :]
        values = photographs.images[chosen]
        background = photographs.behind(len(chosen), generator)
        rendering = surface.render(
            photographs.cameras[chosen], background=background, shaded=light == "studio"
        )
        loss = mse_loss(rendering.rgb, photographs.over(values, background[:, None, None]))
        total = loss + weighted_sum(surface.regularisation(), weights)
        if shape and photographs.masks is not None:
            total = total + settings.opacity_weight * mse_loss(rendering.opacity, values[..., 3:])
        _step(optimiser, total, surface, step / steps)
        checkpoint.keep(stage, step + 1, parts, generator, order)
        report(stage, step + 1, float(loss.detach()))


def _step(optimiser: torch.optim.Optimizer, loss: Tensor, module: nn.Module, progress: float) -> None:
    """One step; rates rise over the first 3 %, then fall exponentially to a thirtieth (ours)."""
    factor = min(1.0, 0.1 + progress / 0.03) * 0.033**progress
    for group in optimiser.param_groups:
        group.setdefault("base_lr", group["lr"])
        group["lr"] = group["base_lr"] * factor
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    drop_bad_gradients(module)
    optimiser.step()
