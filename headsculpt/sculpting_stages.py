"""What the loop optimises: a NeRF, then the mesh made from it; each stage is an object made from the one before."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from headsculpt.cameras import Cameras, sample_head_cameras
from headsculpt.config import CameraConfig, SculptConfig
from headsculpt.rendering import Rendering

if TYPE_CHECKING:
    from headsculpt.head_surface import HeadSurface
    from headsculpt.kept_source import KeptSource
    from headsculpt.representations.dmtet import DMTet
    from headsculpt.representations.nerf import NeRF


UNDER_LIP = 0.05  # above the chin's lowest point, scene units
MATCHED = 12  # sets of cameras in which a mesh is matched to its NeRF


class Stage(Protocol):
    """What :func:`run_stage` needs of a stage."""

    name: str
    steps: int
    replay: int

    @property
    def module(self) -> nn.Module: ...

    def cameras(self, progress: float, generator: torch.Generator) -> Cameras: ...

    def render(
        self, cameras: Cameras, background: Tensor, generator: torch.Generator | None
    ) -> Rendering: ...

    def regularisation(self, progress: float) -> Tensor: ...

    def optimiser(self) -> torch.optim.Optimizer: ...

    def before_step(self, step: int, generator: torch.Generator) -> None: ...


class CoarseStage:
    """A NeRF with the head as density prior (HeadSculpt, method A.2 and A.3)."""

    name = "coarse"

    def __init__(self, nerf: NeRF, config: SculptConfig) -> None:
        self.nerf, self.config = nerf, config
        self.steps, self.replay = config.coarse.steps, config.coarse.replay

    @property
    def module(self) -> NeRF:
        return self.nerf

    def cameras(self, progress: float, generator: torch.Generator) -> Cameras:
        coarse, c = self.config.coarse, self.config.cameras
        if progress < c.busts_first:
            c = replace(c, half_height_min=max(c.half_height_min, c.bust_half_height_min), face_share=0.0)
        else:  # half of what the face has missed: with all of it a black hat turns brown
            missed = c.face_share * c.busts_first / (1 - c.busts_first)
            c = replace(c, face_share=min(1.0, c.face_share + 0.5 * missed))
        return training_cameras(c, coarse.batch, coarse.render_size, generator)

    def render(self, cameras: Cameras, background: Tensor, generator: torch.Generator | None) -> Rendering:
        return self.nerf.render(cameras, background=background, generator=generator)

    def regularisation(self, progress: float) -> Tensor:
        coarse = self.config.coarse
        terms = self.nerf.regularisation(progress, distortion=False)
        # Late: what grows is half transparent at first.
        ramp = min(1.0, max(0.0, 2 * progress - 0.8))
        weights = {
            "entropy": coarse.entropy_weight * ramp,
            "opacity": coarse.opacity_weight,
            "orientation": coarse.orientation_weight,
        }
        return weighted_sum(terms, weights)

    def optimiser(self) -> torch.optim.Optimizer:
        coarse = self.config.coarse
        grid, network = split_parameters(self.nerf)
        groups = [{"params": grid, "lr": coarse.lr_grid}, {"params": network, "lr": coarse.lr_network}]
        return torch.optim.Adam(groups, betas=(0.9, 0.99), eps=1e-15)

    def before_step(self, step: int, generator: torch.Generator) -> None:
        # The occupancy follows the density every sixteen steps or so, those on replayed pictures included.
        if step % max(1, 16 // (1 + self.replay)) == 0:
            self.nerf.update_occupancy(step, generator)


class FineStage:
    """A DMTet made from the NeRF; its colour field goes on training (HeadSculpt, method A.9)."""

    name = "fine"

    def __init__(self, dmtet: DMTet, config: SculptConfig) -> None:
        self.dmtet, self.config = dmtet, config
        self.steps, self.replay = config.fine.steps, config.fine.replay

    @property
    def module(self) -> DMTet:
        return self.dmtet

    def cameras(self, progress: float, generator: torch.Generator) -> Cameras:
        fine = self.config.fine
        return training_cameras(self.config.cameras, fine.batch, fine.render_size, generator)

    def render(self, cameras: Cameras, background: Tensor, generator: torch.Generator | None) -> Rendering:
        return self.dmtet.render(cameras, background=background, generator=generator)

    def regularisation(self, progress: float) -> Tensor:
        fine = self.config.fine
        weights = {"laplacian": fine.laplacian_weight, "normal": fine.normal_weight, "sign": fine.sign_weight}
        return weighted_sum(self.dmtet.regularisation(), weights)

    def optimiser(self) -> torch.optim.Optimizer:
        fine = self.config.fine
        colour = set(self.dmtet.colour_field.parameters())
        geometry = [p for p in self.dmtet.parameters() if p.requires_grad and p not in colour]
        grid, network = split_parameters(self.dmtet.colour_field)
        groups = [
            {"params": geometry, "lr": fine.lr_geometry},
            {"params": grid, "lr": fine.lr_grid},
            {"params": network, "lr": fine.lr_network},
        ]
        return torch.optim.Adam(groups, betas=(0.9, 0.99), eps=1e-15)

    def before_step(self, step: int, generator: torch.Generator) -> None:
        pass


def training_cameras(c: CameraConfig, batch: int, size: int, generator: torch.Generator) -> Cameras:
    """Balanced cameras around the head, in the ranges of the configuration."""
    return sample_head_cameras(
        batch,
        generator,
        height=size,
        width=size,
        elevation_deg=(c.elevation_min_deg, c.elevation_max_deg),
        half_height=(c.half_height_min, c.half_height_max),
        fov_y_deg=(c.fov_min_deg, c.fov_max_deg),
        jitter=c.jitter,
        face_share=c.face_share,
        face_half_height=(c.face_half_height_min, c.face_half_height_max),
    )


def random_background(batch: int, generator: torch.Generator) -> Tensor:
    """Plain colours ``(batch, 3)``, a new one each step, so that fog never blends in (ours).

    Half are light, half any colour: white hair before a light background leaves its outline without a gradient.
    """
    grey = 0.55 + 0.42 * torch.rand(batch, 1, generator=generator)
    tint = 0.12 * (torch.rand(batch, 3, generator=generator) - 0.5)
    colour = torch.rand(batch, 3, generator=generator)
    light = torch.rand(batch, 1, generator=generator) < 0.5
    return torch.where(light, grey + tint, colour).clamp(0, 1)


def weighted_sum(terms: dict[str, Tensor], weights: dict[str, float]) -> Tensor:
    """Sum of the terms that have a weight; a term that is missing counts as 0."""
    total = torch.zeros(())
    for name, weight in weights.items():
        if weight > 0 and name in terms:
            total = total + weight * terms[name]
    return total


def split_parameters(module: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Parameters of hash grids, and all others; the two learn at different rates (method A.7)."""
    from headsculpt.representations.encodings import HashGrid

    grid = [p for m in module.modules() if isinstance(m, HashGrid) for p in m.parameters()]
    ids = {id(p) for p in grid}
    return grid, [p for p in module.parameters() if p.requires_grad and id(p) not in ids]


def drop_bad_gradients(module: nn.Module) -> None:
    """Zeros gradient elements that are not finite, so that one bad sample cannot end a run."""
    for parameter in module.parameters():
        if parameter.grad is not None:
            torch.nan_to_num_(parameter.grad, nan=0.0, posinf=0.0, neginf=0.0)


def new_nerf(config: SculptConfig, vertices: np.ndarray, faces: np.ndarray) -> NeRF:
    """The coarse representation before its first step."""
    from headsculpt.representations.density_prior import DensityPrior
    from headsculpt.representations.nerf import NeRF

    coarse = config.coarse
    if coarse.prior_kind == "blob":
        prior = DensityPrior.blob(inside=coarse.prior_inside)
    else:
        prior = DensityPrior.from_mesh(
            vertices,
            faces,
            kind=coarse.prior_kind,
            inside=coarse.prior_inside,
            slope=coarse.prior_slope,
            inside_slope=coarse.prior_inside_slope,
        )
    return NeRF(
        density_prior=prior,
        levels=coarse.hash_levels,
        finest_resolution=coarse.hash_finest,
        log2_table=coarse.hash_log2_table,
        samples=coarse.samples,
    )


def paint_start(config: SculptConfig, nerf: NeRF, vertices: np.ndarray) -> None:
    """Gives the field the plain colours of the head that it starts from."""
    from headsculpt.heads.builtin import builtin_head
    from headsculpt.heads.colours import outer_faces, plain_colours
    from headsculpt.representations.fields import paint

    device, head = next(nerf.parameters()).device, builtin_head()
    paint(
        nerf.field,
        torch.from_numpy(vertices).float().to(device),
        torch.from_numpy(outer_faces(head, vertices)).long().to(device),
        torch.from_numpy(plain_colours(head)).to(device),
        torch.Generator().manual_seed(config.seed),
        steps=config.coarse.paint_steps,
    )


def new_dmtet(
    config: SculptConfig, nerf: NeRF, head: HeadSurface | None = None, kept: KeptSource | None = None
) -> DMTet:
    """The fine representation, from the coarse one, with the relief of the head where nothing has grown on it, and the
    shape of an edit's source where the edit may not act."""
    from headsculpt.representations.dmtet import DMTet

    dmtet = DMTet.from_field(nerf, resolution=config.fine.tet_resolution)
    if head is not None:
        on_head(dmtet, head)
    if kept is not None:
        kept.keep_shape(dmtet)
    return dmtet


def on_head(dmtet: DMTet, head: HeadSurface) -> None:
    """Gives a sculpture the head's relief where nothing has grown on it, and fills what hangs before its neck."""
    from headsculpt.representations.relief import fill_pockets, take_relief

    fill_pockets(dmtet, head.distance, head.chin + UNDER_LIP)
    take_relief(dmtet, head.distance, head.within)


def settled(
    config: SculptConfig, fine: FineStage, head: HeadSurface | None, kept: KeptSource | None = None
) -> FineStage:
    """The shape for the last look: on a finer grid, once more with the relief of the head and what an edit keeps,
    without small handles."""
    if config.refine.tet_resolution == config.fine.tet_resolution and head is None and kept is None:
        return fine
    dmtet = fine.dmtet.regridded(config.refine.tet_resolution)
    if head is not None:
        on_head(dmtet, head)
    if kept is not None:
        kept.keep_shape(dmtet)
    dmtet.remove_handles()
    return FineStage(dmtet, config)


def match_appearance(config: SculptConfig, nerf: NeRF, fine: FineStage, batch: int = 4) -> None:
    """Trains a fresh mesh until it looks as the NeRF does that it was made from.

    The NeRF is drawn from :data:`MATCHED` sets of cameras, which the mesh learns again and again: as good as new ones
    in every step, in half the time.
    """
    optimiser = fine.optimiser()
    device = next(nerf.parameters()).device
    generator = torch.Generator().manual_seed(config.seed)
    seen: list[tuple[Cameras, Tensor, Tensor]] = []
    for _ in range(min(MATCHED, config.fine.match_steps)):  # before the first step: the mesh trains the NeRF's colours
        cameras = training_cameras(config.cameras, batch, config.coarse.render_size, generator).to(device)
        background = random_background(batch, generator).to(device)
        with torch.no_grad():
            seen.append((cameras, background, nerf.render(cameras, background=background).rgb))
    for step in range(config.fine.match_steps):
        cameras, background, target = seen[step % len(seen)]
        own = fine.dmtet.render(cameras, background=background)
        loss = (own.rgb - target).abs().mean() + fine.regularisation(0.0)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        drop_bad_gradients(fine.module)
        for group in optimiser.param_groups:
            group["lr"] *= 0.97
        optimiser.step()
