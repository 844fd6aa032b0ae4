"""Posed images on disk: the ``transforms.json`` of NeRF-synthetic and Blender, read into our scene.

The file's cameras are ours already (OpenGL: right, up, backwards); its world is Blender's, Z up. It is turned
to +Y up, so that Blender's front view (from -Y) sees our front (+Z), and then moved and scaled until the
object fits in [-1, 1]^3. Letters: N images, H rows, W columns, P points.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headsculpt.cameras import Cameras
from headsculpt.run_folder import write_atomically

log = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
Y_UP_FROM_Z_UP = torch.tensor(
    [[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]], dtype=torch.float64
)
REACH = 0.9  # half of the object's longest side after normalisation: leaves room in [-1, 1]^3 for an error


@dataclass
class PosedImages:
    """Pictures and where they were taken from.

    Attributes:
        images: ``(N, H, W, 3 or 4)`` float32 in [0, 1]; the fourth channel is the object's opacity, and the
            colour is not multiplied with it.
        cameras: N views in scene units.
        names: file paths as ``transforms.json`` has them.
        scene_from_file: ``(4, 4)`` float64 similarity from the file's world to the scene.
    """

    images: Tensor
    cameras: Cameras
    names: list[str]
    scene_from_file: Tensor


def read_posed_images(
    folder: str | Path,
    cameras_file: str | Path | None = None,
    *,
    resolution: int | None = 256,
    up: str = "z",
    normalise: bool = True,
) -> PosedImages:
    """Reads a folder of images and its camera file.

    Args:
        folder: holds the images. A frame's ``file_path`` is looked for there and beside the camera file,
            with and without its folders and with the usual suffixes where it has none.
        cameras_file: JSON with ``camera_angle_x`` (radians) and ``frames``, each with ``file_path`` and a
            ``transform_matrix``; ``transforms.json`` or ``transforms_train.json`` in the folder if None.
        resolution: images are made smaller until no side is longer; None keeps their size.
        up: the axis of the file's world that points up, "z" (Blender) or "y" (ours).
        normalise: move and scale the scene so that the object fits in [-1, 1]^3.

    Raises:
        FileNotFoundError: no camera file, or a frame's image is missing; names both.
        ValueError: anything else that is wrong; names the file and the entry.
    """
    if resolution is not None and resolution < 8:
        raise ValueError(f"resolution must be at least 8 pixels; got {resolution}")
    if up not in ("y", "z"):
        raise ValueError(f"up must be 'y' or 'z'; got {up!r}")
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    path = _camera_file(folder, cameras_file)
    content = _read_json(path)
    frames = content.get("frames")
    if not isinstance(frames, list) or not frames:
        raise ValueError(f"{path}: expected a list of one or more 'frames'; got {_short(frames)}")
    names, matrices, angles, files = [], [], [], []
    for number, frame in enumerate(frames):
        where = f"{path}: frame {number}"
        if not isinstance(frame, dict) or not isinstance(frame.get("file_path"), str):
            raise ValueError(f"{where} has no 'file_path'; got {_short(frame)}")
        where += f" ({frame['file_path']})"
        names.append(frame["file_path"])
        matrices.append(_pose(frame.get("transform_matrix"), where))
        angles.append(_angle(frame, content, path, where))
        files.append(_image_file(frame["file_path"], folder, path.parent, where))
    _warn_about_lens(content, path)
    images = _read_images(files, resolution)
    height, width = images.shape[1:3]
    fov_y = 2 * torch.atan(torch.tan(0.5 * torch.tensor(angles, dtype=torch.float64)) * height / width)
    turned = Y_UP_FROM_Z_UP if up == "z" else torch.eye(4, dtype=torch.float64)
    camera_to_world = turned @ torch.stack(matrices)
    placed = torch.eye(4, dtype=torch.float64)
    if normalise:
        try:
            placed = placement(_cameras(camera_to_world, fov_y, height, width), opacity_masks(images))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        scale = placed[0, 0]
        camera_to_world = placed @ camera_to_world
        camera_to_world[:, :3, :3] /= scale  # a camera is rigid; only its place is scaled
    cameras = _cameras(camera_to_world, fov_y, height, width)
    return PosedImages(images, cameras, names, placed @ turned)


def write_transforms(path: str | Path, cameras: Cameras, names: Sequence[str]) -> Path:
    """Writes cameras as Blender would: what :func:`read_posed_images` reads back.

    Args:
        path: JSON file to write.
        cameras: N views, all with one field of view.
        names: N image paths, relative to the file.
    """
    if len(names) != len(cameras):
        raise ValueError(f"expected one name per camera; got {len(names)} for {len(cameras)} cameras")
    fov_y = cameras.fov_y_rad.double()
    if (fov_y - fov_y[0]).abs().max() > 1e-6:
        raise ValueError(f"expected one field of view for all cameras; got {fov_y.tolist()} rad")
    angle_x = 2 * math.atan(math.tan(0.5 * float(fov_y[0])) * cameras.width / cameras.height)
    matrices = Y_UP_FROM_Z_UP.T @ cameras.camera_to_world.double().cpu()
    frames = [
        {"file_path": name, "transform_matrix": matrix.tolist()}
        for name, matrix in zip(names, matrices, strict=True)
    ]
    content = {"camera_angle_x": angle_x, "frames": frames}
    write_atomically(Path(path), (json.dumps(content, indent=1) + "\n").encode())
    return Path(path)


# ---------------------------------------------------------------- where the object is


def opacity_masks(images: Tensor) -> Tensor | None:
    """``(N, H, W)`` bool, opacity above a half; None where there is no fourth channel, or it says nothing."""
    if images.shape[-1] != 4:
        return None
    alpha = images[..., 3]
    return None if float(alpha.min()) > 0.99 else alpha > 0.5


def placement(cameras: Cameras, masks: Tensor | None) -> Tensor:
    """The similarity that brings the object into [-1, 1]^3, ``(4, 4)`` float64.

    With masks, the box of the visual hull gets the half size REACH. Without, the ball around the point that
    the cameras look at which fills their frames gets the radius 1.

    Raises:
        ValueError: cameras that look at no common point, or masks that agree nowhere.
    """
    centre, radius = looked_at(cameras)
    half = radius
    if masks is not None:
        axis = torch.linspace(-1.3 * radius, 1.3 * radius, 64)
        points = torch.cartesian_prod(axis, axis, axis) + centre.float()
        step = float(axis[1] - axis[0])
        hull = visual_hull(points, step, cameras, masks)
        kept = points[_large_parts(hull.view(64, 64, 64)).view(-1)].double()
        low, high = kept.amin(0) - 0.5 * step, kept.amax(0) + 0.5 * step
        centre, half = (low + high) / 2, float((high - low).max()) / 2 / REACH
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] /= half
    matrix[:3, 3] = -centre / half
    return matrix


def looked_at(cameras: Cameras) -> tuple[Tensor, float]:
    """The point nearest to all optical axes, ``(3,)`` float64, and the radius that fills the median frame."""
    pose = cameras.camera_to_world.double()
    origin, forward = pose[:, :3, 3], -pose[:, :3, 2]
    across = torch.eye(3, dtype=torch.float64) - forward[:, :, None] * forward[:, None]
    # A little pull to the cameras' mean decides where parallel axes leave the point open.
    pull = 1e-6 * torch.eye(3, dtype=torch.float64)
    right = (across @ origin[:, :, None]).sum(0)[:, 0] + pull @ origin.mean(0)
    point = torch.linalg.solve(across.sum(0) + pull, right)
    distance = ((point - origin) * forward).sum(-1)
    half_height = torch.tan(0.5 * cameras.fov_y_rad.double())
    radius = float((distance * half_height * min(1.0, cameras.width / cameras.height)).median())
    if not radius > 0:
        raise ValueError(
            "the cameras look at no common point in front of them; "
            "their axes must be OpenGL's (a camera looks along its own -Z)"
        )
    return point, radius


def visual_hull(points: Tensor, spacing: float, cameras: Cameras, masks: Tensor) -> Tensor:
    """Which points no silhouette excludes: ``(P,)`` bool.

    A view has no say on what lies outside its frame, and a point must be in the frames of half of the views
    (fewer leave pockets in front of neighbouring cameras, which no other one sees). A twentieth of the views
    may disagree, so that one bad mask cannot empty the hull.

    Args:
        points: ``(P, 3)`` scene units.
        spacing: of the points; masks are widened by it, so that a thin part between points is kept.
        cameras, masks: N views, ``(N, H, W)`` bool.

    Raises:
        ValueError: nothing is left.
    """
    height, width = masks.shape[1:]
    seen = torch.zeros(len(points), dtype=torch.int32, device=points.device)
    against = torch.zeros_like(seen)
    for index in range(len(cameras)):
        camera = cameras[index : index + 1]
        clip = camera.project(points)[0]
        distance = float((camera.origins[0] - points.mean(0)).norm())
        pixel = 2 * distance * math.tan(0.5 * float(camera.fov_y_rad[0])) / height
        wide = _widened(masks[index], math.ceil(0.87 * spacing / pixel))  # 0.87: half a cube's diagonal
        column = ((0.5 + 0.5 * clip[:, 0] / clip[:, 3]) * width).floor().long()
        row = ((0.5 - 0.5 * clip[:, 1] / clip[:, 3]) * height).floor().long()
        inside = (clip[:, 3] > 0) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
        hit = wide[row.clamp(0, height - 1), column.clamp(0, width - 1)]
        seen += inside
        against += inside & ~hit
    hull = (seen * 2 >= len(cameras)) & (seen > 0) & (against <= len(cameras) // 20)
    if not hull.any():
        raise ValueError(
            "the silhouettes of the views agree nowhere; check the camera axes (OpenGL: a camera looks along "
            "its own -Z), camera_angle_x (radians, horizontal) and the images' opacity"
        )
    return hull


def _large_parts(grid: Tensor) -> Tensor:
    """``(X, Y, Z)`` bool without parts under a twentieth of the largest: corners that too few views look into."""
    from scipy.ndimage import label

    number, parts = label(grid.cpu().numpy())
    size = np.bincount(number.reshape(-1), minlength=parts + 1)
    size[0] = 0
    return torch.from_numpy((size > 0.05 * size.max())[number])


def _widened(mask: Tensor, pixels: int) -> Tensor:
    """``(H, W)`` bool grown by that many pixels in each direction."""
    grown = torch.nn.functional.max_pool2d(mask[None, None].float(), 2 * pixels + 1, 1, pixels)
    return grown[0, 0] > 0


def _cameras(camera_to_world: Tensor, fov_y: Tensor, height: int, width: int) -> Cameras:
    backward = camera_to_world[:, :3, 2]
    azimuth = torch.rad2deg(torch.atan2(backward[:, 0], backward[:, 2]))
    elevation = torch.rad2deg(torch.asin(backward[:, 1].clamp(-1, 1)))
    wrapped = (azimuth + 180) % 360 - 180
    return Cameras(
        camera_to_world.float(), fov_y.float(), wrapped.float(), elevation.float(), height, width
    )


# ---------------------------------------------------------------- the parts of the file


def _camera_file(folder: Path, given: str | Path | None) -> Path:
    if given is not None:
        if not Path(given).is_file():
            raise FileNotFoundError(f"there is no camera file {given}")
        return Path(given)
    for name in ("transforms.json", "transforms_train.json"):
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"there is no transforms.json in {folder}; say with --cameras where it is")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object with 'frames'; got {_short(content)}")
    return content


def _pose(matrix: Any, where: str) -> Tensor:
    """``(4, 4)`` float64, rigid; the nearest rotation where rounding or a uniform scale spoiled it."""
    try:
        pose = torch.tensor(matrix, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{where}: transform_matrix must be 4x4 numbers; got {_short(matrix)}") from None
    if pose.shape != (4, 4):
        raise ValueError(f"{where}: transform_matrix must be 4x4; got {'x'.join(map(str, pose.shape)) or 'one'}")
    if not torch.isfinite(pose).all():
        raise ValueError(f"{where}: transform_matrix holds a number that is not finite")
    if (pose[3] - torch.tensor([0.0, 0, 0, 1], dtype=torch.float64)).abs().max() > 1e-4:
        raise ValueError(f"{where}: the last row of transform_matrix must be 0 0 0 1; got {pose[3].tolist()}")
    left, sizes, right = torch.linalg.svd(pose[:3, :3])
    if sizes[2] < 1e-6 * max(float(sizes[0]), 1e-30):
        raise ValueError(f"{where}: transform_matrix is singular")
    if sizes[0] - sizes[2] > 0.02 * sizes[0] or torch.linalg.det(pose[:3, :3]) < 0:
        raise ValueError(f"{where}: transform_matrix is no rotation with a translation (it shears or mirrors)")
    pose[:3, :3] = left @ right
    return pose


def _angle(frame: dict[str, Any], content: dict[str, Any], path: Path, where: str) -> float:
    """Horizontal field of view in radians; a frame's own, or the file's."""
    own = "camera_angle_x" in frame
    angle: Any = frame["camera_angle_x"] if own else content.get("camera_angle_x")
    number = isinstance(angle, (int, float)) and not isinstance(angle, bool)
    if not number or not 0 < angle < math.pi:
        raise ValueError(
            f"{where if own else path}: camera_angle_x must be an angle in radians between 0 and pi; "
            f"got {_short(angle)}"
        )
    return float(angle)


def _image_file(name: str, folder: Path, beside: Path, where: str) -> Path:
    for base in (folder / name, beside / name, folder / Path(name).name):
        for candidate in (base, *(base.with_name(base.name + suffix) for suffix in IMAGE_SUFFIXES)):
            if candidate.is_file():
                return candidate
    raise FileNotFoundError(f"{where}: there is no such image in {folder}")


def _read_images(files: list[Path], resolution: int | None) -> Tensor:
    from PIL import Image

    arrays: list[np.ndarray] = []
    size: tuple[int, int] = (0, 0)
    for path in files:
        try:
            with Image.open(path) as opened:
                transparent = "A" in opened.getbands() or "transparency" in opened.info
                image = opened.convert("RGBA" if transparent else "RGB")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            raise ValueError(f"{path} is no image, or damaged") from None
        if not arrays:
            size = image.size
        if image.size != size:
            raise ValueError(
                f"all images must have one size: {path} is {image.size[0]}x{image.size[1]}, "
                f"{files[0]} is {size[0]}x{size[1]}"
            )
        if resolution is not None and max(size) > resolution:
            scale = resolution / max(size)
            smaller = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
            image = image.resize(smaller, Image.Resampling.BOX)
        array = np.asarray(image)
        if arrays and array.shape != arrays[0].shape:
            with_alpha, without = (path, files[0]) if array.shape[2] == 4 else (files[0], path)
            raise ValueError(f"{with_alpha} has an opacity channel and {without} has none; give all or none one")
        if transparent and not array[..., 3].any():
            raise ValueError(f"{path} is transparent everywhere")
        arrays.append(array)
    return torch.from_numpy(np.stack(arrays).astype(np.float32) / 255)


def _warn_about_lens(content: dict[str, Any], path: Path) -> None:
    bent = [key for key in ("k1", "k2", "k3", "p1", "p2") if content.get(key)]
    for centre, side in (("cx", "w"), ("cy", "h")):
        place, size = content.get(centre), content.get(side)
        numbers = isinstance(place, (int, float)) and isinstance(size, (int, float)) and size > 0
        if numbers and abs(place / size - 0.5) > 0.01:  # type: ignore[operator]
            bent.append(centre)
    if bent:
        log.warning("%s: %s left out: cameras here are pinholes without distortion", path, ", ".join(bent))


def _short(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
