"""How much an export loses against the field that it was baked from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from headsculpt.cameras import Cameras, framed
from headsculpt.export.view import render_mesh
from headsculpt.meshes import Mesh


@dataclass
class Fidelity:
    """Peak signal-to-noise ratio in dB, of all views together and of each."""

    psnr_db: float
    per_view_db: list[float]


def comparison_cameras(resolution: int = 512) -> Cameras:
    """Eight views around the head at two elevations."""
    azimuth = torch.arange(8) * 45.0
    elevation = torch.tensor([0.0, 20.0] * 4)
    return framed(azimuth, elevation, torch.full((8,), 1.0), height=resolution, width=resolution)


@torch.no_grad()
def texture_fidelity(
    mesh: Mesh,
    field_render: Callable[[Cameras, Tensor], Tensor],
    cameras: Cameras | None = None,
) -> Fidelity:
    """PSNR of a textured mesh against the field's own render: unlit colour, same views, same background.

    Args:
        mesh: the export, scene units.
        field_render: ``(cameras, background (B, 3)) -> (B, H, W, 3)`` unlit colour of the field.
        cameras: views; eight around the head at 512 pixels by default.
    """
    cameras = cameras or comparison_cameras()
    grey = 0.5
    ours = render_mesh(mesh, cameras, background=(grey, grey, grey), shaded=False, supersample=1).rgb
    views = []
    for index in range(len(cameras)):
        theirs = field_render(cameras[index : index + 1], torch.full((1, 3), grey)).cpu().clamp(0, 1)
        views.append((ours[index : index + 1] - theirs).square().mean())
    errors = torch.stack(views)
    return Fidelity(_psnr(errors.mean()), [_psnr(error) for error in errors])


def _psnr(mean_square: Tensor) -> float:
    return float(-10 * torch.log10(mean_square.clamp_min(1e-10)))
