"""Colours of a surface that pictures of it were painted on.

Fitting a colour field to pictures from all around makes it their mean: what they do not agree on to the pixel, a
pupil or a rim of spectacles, blurs, and what belongs to the background next to an outline comes along. Here each
point takes its colour from the pictures that see it best (projective texturing, Debevec et al. 1998, "Efficient
view-dependent image-based rendering", section 3; on a diffusion model's pictures TEXTure, Richardson et al. 2023,
arXiv 2302.01721). Weights and numbers are ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from scipy.spatial import cKDTree
from torch import Tensor, nn

from headsculpt.cameras import Cameras
from headsculpt.rendering import shading
from headsculpt.representations.surface_image import SeenSurface

# A picture counts with this power of its sharpness: the cosine at which it sees a point over half its height in scene
# units there. High powers take the best picture, low ones a mean, in which rims and pupils are doubled; from 10 on, seams
# between pictures show on smooth skin.
POWER = 7.0
BARE = 0.56**POWER  # counted less than this in all, the colours beneath come in
GROUND = BARE / 99  # what those count
SOFTENED = 0.02  # scene units around a point, over which they are averaged: no view has smoothed their specks
# Pixels that were drawn next to an outline, of the head or of a nose before a cheek, that do not count: a picture and
# the surface do not agree on outlines to the pixel, and a model that works on latents blurs them.
RIM = 3.0
# They take the colour of the nearest point that counts, for points that no other picture shows, so much less sharp.
FILLED = 0.4
STEP = 0.03  # scene units by which a pixel's depth departs from its neighbours' mean at an outline, twice
HIDDEN = 0.02  # scene units behind what a picture shows, from which on a point is in it less and less, to twice as many
BORDER = 0.14  # share of the picture's width, from its border on, over which it comes to count in full
CARRIED = 16  # nearest points whose mean goes on where no picture shows anything
FAR = 1e3  # depth where nothing is


@dataclass
class _Picture:
    camera: Cameras
    depth: Tensor  # (1, 1, H, W) scene units along the axis of the view
    weighted: Tensor  # (1, 4, H, W): albedo times weight, weight


class PaintedColours(nn.Module):
    """A colour field, ``(N, 3)`` scene points to ``(N, 3)`` albedo in [0, 1]. No gradient reaches the pictures.

    Args:
        ground: colours beneath, a field of the same kind.
    """

    def __init__(self, ground: nn.Module) -> None:
        super().__init__()
        self.ground = ground
        self._pictures: list[_Picture] = []
        self._carried: tuple[cKDTree, Tensor] | None = None  # points that are shown well, and their colours (N, 3)

    @torch.no_grad()
    def paint(self, camera: Cameras, seen: SeenSurface, picture: Tensor, *, drawn: int | None = None) -> None:
        """Adds a picture.

        Args:
            camera: one view.
            seen: what that view shows of the surface.
            picture: ``(1, h, w, 3)`` in [0, 1], of any size, under the light of :func:`headsculpt.rendering.shading`.
            drawn: rows in which it was drawn, where it has been made larger since; h where None.

        Raises:
            ValueError: more than one view, or a picture of another form.
        """
        batch, height, width = seen.shape
        if batch != 1 or picture.dim() != 4 or picture.shape[0] != 1 or picture.shape[3] != 3:
            raise ValueError(
                f"one view takes one picture (1, h, w, 3); got {tuple(picture.shape)} for {batch} views"
            )
        lit = F.interpolate(picture.permute(0, 3, 1, 2).float(), (height, width), mode="bicubic", align_corners=False)
        lit = lit[0].flatten(1).T[seen.index]
        depth = seen.depth.new_full((1, 1, height, width), FAR)
        depth.view(-1)[seen.index] = seen.depth[:, 0]
        off = _off_outlines(depth, RIM * height / (drawn or picture.shape[1])).view(-1)[seen.index]
        towards = F.normalize(camera.origins - seen.point, dim=-1)
        facing = (seen.normal * towards).sum(-1).clamp(0, 1)
        sharpness = facing / (torch.tan(0.5 * camera.fov_y_rad) * seen.depth[:, 0])
        within = _off_border(height, width).to(depth).flatten()[seen.index]
        albedo = _filled((lit / shading(seen.normal)).clamp(0, 1), seen.point, off > 0)
        weight = ((sharpness * off.clamp_min(FILLED) * within) ** POWER)[:, None]
        weighted = albedo.new_zeros(height * width, 4)
        weighted[seen.index] = torch.cat([albedo * weight, weight], -1)
        self._pictures.append(_Picture(camera, depth, weighted.T.reshape(1, 4, height, width)))

    @torch.no_grad()
    def carry_on(self, points: Tensor) -> None:
        """From now on, points that no picture shows well have the colours of the nearest ones that are shown well.

        The colours beneath, which they would have, have learnt little in such places: the rim of a bust, at the border
        of most pictures, is green or purple where its cloth is grey.

        Args:
            points: ``(N, 3)`` of the surface, such as its vertices.
        """
        shown = points[self._summed(points)[1][:, 0] >= BARE]
        if len(shown):
            self._carried = cKDTree(shown.detach().cpu().numpy()), self(shown)

    def forward(self, points: Tensor) -> Tensor:
        painted, counted = self._summed(points)
        bare = counted[:, 0] < BARE
        if bool(bare.any()):
            beneath = self._beneath(points[bare])
            painted = painted.to(beneath.dtype).index_add(0, bare.nonzero()[:, 0], GROUND * beneath)
            counted = counted + GROUND * bare[:, None].to(counted)
        return painted / counted

    def _beneath(self, points: Tensor) -> Tensor:
        if self._carried is None:
            return self._softened(points)
        tree, known = self._carried
        nearest = tree.query(points.detach().cpu().numpy(), min(CARRIED, len(known)))[1]
        return known[torch.from_numpy(nearest.reshape(len(points), -1)).to(known.device)].mean(1)

    def _summed(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """``(N, 3)`` colours of all pictures by what they count, and ``(N, 1)`` what they count in all."""
        painted, counted = torch.zeros_like(points), torch.zeros_like(points[:, :1])
        for picture in self._pictures:
            clip = picture.camera.project(points.detach().float())[0]
            place = clip[:, :2] / clip[:, 3:] * clip.new_tensor([1.0, -1.0])  # rows go down
            behind = clip[:, 3:] - _looked_up(picture.depth, place, "nearest")
            near = (2 - behind / HIDDEN).clamp(0, 1)
            found = (_looked_up(picture.weighted, place) * near).to(painted)
            painted, counted = painted + found[:, :3], counted + found[:, 3:]
        return painted, counted

    def _softened(self, points: Tensor) -> Tensor:
        """The ground without its specks, a mean over :data:`SOFTENED`, once there are pictures; as it is before."""
        if not self._pictures:
            return self.ground(points)
        corners = torch.cartesian_prod(*[points.new_tensor([-SOFTENED, SOFTENED])] * 3)
        return torch.stack([self.ground(points + corner) for corner in corners]).mean(0)


def _looked_up(image: Tensor, place: Tensor, mode: str = "bilinear") -> Tensor:
    """``(N, C)`` of an image ``(1, C, H, W)`` at places ``(N, 2)``, [-1, 1] from left to right and top to bottom."""
    found = F.grid_sample(image, place[None, None], mode=mode, padding_mode="border", align_corners=False)
    return found[0, :, 0].T


def _filled(colours: Tensor, points: Tensor, counts: Tensor) -> Tensor:
    """``colours (P, 3)`` where those that do not count have that of the nearest point which does, if there is one."""
    if bool(counts.all()) or not bool(counts.any()):
        return colours
    known, unknown = points[counts].cpu().numpy(), points[~counts].cpu().numpy()
    nearest = torch.from_numpy(cKDTree(known).query(unknown)[1]).to(colours.device)
    filled = colours.clone()
    filled[~counts] = colours[counts][nearest]
    return filled


def _off_outlines(depth: Tensor, rim: float) -> Tensor:
    """``(1, 1, H, W)``: 0 within ``rim`` pixels of a step in depth, 1 from twice as far on."""
    padded = F.pad(depth, (1, 1, 1, 1), mode="replicate")
    middle, rows, columns = 2 * depth, padded[..., 1:-1], padded[..., 1:-1, :]
    # Second differences, which slopes do not have.
    down, across = rows[..., 2:, :] + rows[..., :-2, :] - middle, columns[..., 2:] + columns[..., :-2] - middle
    reach = max(1, round(rim))
    outline = torch.maximum(down.abs(), across.abs()) > STEP
    off = 1 - F.max_pool2d(outline.float(), 2 * reach + 1, 1, reach)
    return off * F.avg_pool2d(off, 2 * reach + 1, 1, reach, count_include_pad=False)


def _off_border(height: int, width: int) -> Tensor:
    """``(height, width)``: 0 at the border of a picture, where its surroundings end, 1 further in."""
    rows, columns = ((torch.arange(n) + 0.5) / n for n in (height, width))
    inside = torch.minimum(torch.minimum(rows, 1 - rows)[:, None], torch.minimum(columns, 1 - columns))
    return (inside / BORDER).clamp(0, 1)
