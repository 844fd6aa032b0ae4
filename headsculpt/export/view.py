"""Pictures of a textured mesh: single views, strips of views, turntables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headsculpt.cameras import Cameras, framed, framing_target
from headsculpt.meshes import Mesh, topology, vertex_normals
from headsculpt.rendering import Rendering, shading
from headsculpt.representations.rasterise import antialias, rasterise

BACKGROUND = (0.92, 0.92, 0.93)
STRIP_AZIMUTHS_DEG = (0.0, 45.0, 90.0, 180.0)  # front, three-quarter, side, back
FOV_Y_DEG = 25.0
MOVIE_SUFFIXES = (".webp", ".gif", ".mp4", ".png")


@torch.no_grad()
def render_mesh(
    mesh: Mesh,
    cameras: Cameras,
    *,
    background: tuple[float, float, float] = BACKGROUND,
    shaded: bool = True,
    supersample: int = 2,
) -> Rendering:
    """Draws a mesh with its texture, or its vertex colours, or plain grey.

    Args:
        mesh: scene units.
        cameras: B views.
        background: colour behind, [0, 1].
        shaded: under the light of :func:`headsculpt.rendering.shading`; otherwise albedo.
        supersample: samples per pixel along each axis.

    Returns:
        ``rgb`` and ``opacity``, float32 on the CPU; a view at a time, so memory does not grow with B.
    """
    vertices, faces = mesh.vertices.detach().cpu().float(), mesh.faces.cpu()
    normals, edges = vertex_normals(vertices, faces), topology(faces)
    texture = None
    if mesh.texture is not None and mesh.uv is not None:
        texture = torch.from_numpy(mesh.texture.astype(np.float32) / 255).permute(2, 0, 1)[None]
    behind = torch.tensor(background)
    height, width = cameras.height * supersample, cameras.width * supersample
    images, opacities = [], []
    for index in range(len(cameras)):
        view = cameras[index : index + 1].to("cpu").resized(height, width)
        clip = view.project(vertices)
        raster = rasterise(clip, faces, height, width)
        covered = raster.triangle_id[0] >= 0
        triangle, weights = raster.triangle_id[0][covered].long(), raster.weights[0][covered][..., None]
        corners = faces[triangle]
        if texture is not None and mesh.uv is not None:
            colour = sample_texture(texture, (mesh.uv[triangle] * weights).sum(1))
        elif mesh.colours is not None:
            colour = (mesh.colours.detach().cpu()[corners] * weights).sum(1)
        else:
            colour = torch.full((len(triangle), 3), 0.7)
        if shaded:
            normal = torch.nn.functional.normalize((normals[corners] * weights).sum(1), dim=-1)
            colour = (colour * shading(normal)).clamp(0, 1)
        image = torch.cat([behind, torch.zeros(1)]).repeat(height, width, 1)
        image[covered] = torch.cat([colour, torch.ones(len(colour), 1)], -1)
        image = antialias(image[None], clip, faces, raster.triangle_id, edges)
        image = torch.nn.functional.avg_pool2d(image.permute(0, 3, 1, 2), supersample)[0].permute(1, 2, 0)
        images.append(image[..., :3])
        opacities.append(image[..., 3:])
    return Rendering(torch.stack(images), torch.stack(opacities))


def sample_texture(texture: Tensor, uv: Tensor) -> Tensor:
    """``(P, 3)`` bilinear samples of ``texture (1, 3, H, W)``, row 0 at v = 1, at ``uv (P, 2)``, v up."""
    grid = torch.stack([2 * uv[:, 0] - 1, 1 - 2 * uv[:, 1]], -1)[None, :, None]
    sampled = torch.nn.functional.grid_sample(texture, grid, padding_mode="border", align_corners=False)
    return sampled[0, :, :, 0].T


def to_uint8(rgb: Tensor) -> NDArray:
    """``(..., 3)`` float [0, 1] to uint8, rounded."""
    return (rgb.clamp(0, 1) * 255 + 0.5).to(torch.uint8).numpy()


def around(mesh: Mesh, azimuth_deg: Sequence[float] | Tensor, elevation_deg: float, size: int) -> Cameras:
    """Cameras that show the whole mesh from these sides, in the middle of the picture and equally large."""
    vertices = mesh.vertices.detach().cpu()
    middle = 0.5 * (vertices[:, 1].min() + vertices[:, 1].max())
    height, reach = vertices[:, 1] - middle, vertices[:, [0, 2]].norm(dim=-1)
    # On its way around, a vertex comes nearest to the frame's edge when it faces the camera, or when it looks away.
    turn, slope = math.radians(elevation_deg), math.tan(math.radians(0.5 * FOV_Y_DEG))
    needed = [
        (height * math.cos(turn) - r * math.sin(turn)).abs() + (r * math.cos(turn) + height * math.sin(turn)) * slope
        for r in (reach, -reach)
    ]
    half = 1.03 * torch.maximum(torch.cat(needed).max(), 1.03 * reach.max()).reshape(1)
    middle = middle.reshape(1) - framing_target(half)
    offset = torch.stack([torch.zeros(1), middle, torch.zeros(1)], -1).float()
    return framed(azimuth_deg, elevation_deg, half, fov_y_deg=FOV_Y_DEG, offset=offset, height=size, width=size)


def strip(mesh: Mesh, size: int = 384) -> NDArray:
    """Front, three-quarter, side and back in one picture, ``(size, 4 size, 3)`` uint8."""
    cameras = around(mesh, STRIP_AZIMUTHS_DEG, 6.0, size)
    return np.concatenate(list(to_uint8(render_mesh(mesh, cameras).rgb)), 1)


def turntable_frames(mesh: Mesh, frames: int, size: int, elevation_deg: float = 8.0) -> list[NDArray]:
    """``frames`` pictures ``(size, size, 3)`` uint8 around the head, from the front."""
    cameras = around(mesh, torch.arange(frames) * (360.0 / frames), elevation_deg, size)
    return list(to_uint8(render_mesh(mesh, cameras).rgb))


def check_movie_path(path: str | Path) -> Path:
    """ValueError unless the suffix is one that :func:`write_movie` writes."""
    path = Path(path)
    if path.suffix.lower() not in MOVIE_SUFFIXES:
        raise ValueError(f"a turntable can be written as {', '.join(MOVIE_SUFFIXES)}; got {str(path)!r}")
    return path


def write_movie(path: str | Path, frames: list[NDArray], *, frames_per_second: float = 15.0) -> Path:
    """Writes pictures as an animation; the suffix chooses: .webp, .gif, .png (animated) or .mp4.

    Args:
        path: where to; its folder must exist.
        frames: ``(H, W, 3)`` uint8, all of one size.
        frames_per_second: pace.

    Raises:
        ValueError: an unknown suffix.
        ImportError: .mp4 without imageio-ffmpeg.
    """
    from PIL import Image

    path = check_movie_path(path)
    partial = path.with_name(f".partial-{path.name}")
    try:
        if path.suffix.lower() == ".mp4":
            _write_mp4(partial, frames, frames_per_second)
        else:
            first, *rest = [Image.fromarray(frame) for frame in frames]
            options: dict = {"quality": 80, "method": 2} if path.suffix.lower() == ".webp" else {}
            duration = round(1000 / frames_per_second)
            first.save(partial, save_all=True, append_images=rest, duration=duration, loop=0, **options)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def _write_mp4(path: Path, frames: list[NDArray], frames_per_second: float) -> None:
    try:
        import imageio_ffmpeg
    except ImportError:
        raise ImportError("writing .mp4 needs imageio-ffmpeg: pip install imageio-ffmpeg") from None
    height, width = frames[0].shape[:2]
    size = (width - width % 2, height - height % 2)  # yuv420p halves the colour planes
    writer = imageio_ffmpeg.write_frames(
        str(path), size, fps=frames_per_second, codec="libx264", quality=8, macro_block_size=2
    )
    writer.send(None)
    for frame in frames:
        writer.send(np.ascontiguousarray(frame[: size[1], : size[0]]).tobytes())
    writer.close()
