"""Cameras around a head, and the samplers that place them.

Scene: right-handed, +Y up, the face looks along +Z, so the head's own left is +X. One scene unit is
0.25 m; an adult head spans about 0.92 units from chin to crown and a bust fits in [-1, 1]^3. Azimuth 0
sees the face, 90 the head's left side, 180 the back. A camera looks along its own -Z with +Y up (OpenGL).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

METRES_PER_UNIT = 0.25


@dataclass
class Cameras:
    """A batch of pinhole cameras with square pixels.

    Attributes:
        camera_to_world: ``(B, 4, 4)`` float32, rigid.
        fov_y_rad: ``(B,)`` full vertical field of view.
        azimuth_deg: ``(B,)`` in [-180, 180).
        elevation_deg: ``(B,)`` positive looks down on the head.
        height: pixels.
        width: pixels.
    """

    camera_to_world: Tensor
    fov_y_rad: Tensor
    azimuth_deg: Tensor
    elevation_deg: Tensor
    height: int
    width: int

    near: float = 0.1
    far: float = 20.0

    def __len__(self) -> int:
        return self.camera_to_world.shape[0]

    def __getitem__(self, index: slice | Tensor | list[int]) -> Cameras:
        return Cameras(
            self.camera_to_world[index],
            self.fov_y_rad[index],
            self.azimuth_deg[index],
            self.elevation_deg[index],
            self.height,
            self.width,
        )

    def to(self, device: torch.device | str) -> Cameras:
        return Cameras(
            self.camera_to_world.to(device),
            self.fov_y_rad.to(device),
            self.azimuth_deg.to(device),
            self.elevation_deg.to(device),
            self.height,
            self.width,
        )

    def resized(self, height: int, width: int) -> Cameras:
        """The same views with another number of pixels."""
        return Cameras(
            self.camera_to_world, self.fov_y_rad, self.azimuth_deg, self.elevation_deg, height, width
        )

    @property
    def origins(self) -> Tensor:
        """``(B, 3)`` camera centres in scene units."""
        return self.camera_to_world[:, :3, 3]

    @property
    def half_height(self) -> Tensor:
        """``(B,)`` scene units that the frame shows above and below its middle, where the head's axis is nearest."""
        forward, origins = -self.camera_to_world[:, (0, 2), 2], self.origins[:, (0, 2)]
        # A camera that looks straight down never comes nearer to the axis.
        along = -(origins * forward).sum(1) / forward.square().sum(1).clamp_min(1e-6)
        return along * torch.tan(0.5 * self.fov_y_rad)

    @property
    def world_to_clip(self) -> Tensor:
        """``(B, 4, 4)`` OpenGL view-projection: clip = matrix @ (x, y, z, 1); w is the depth in units."""
        world_to_camera = torch.linalg.inv(self.camera_to_world)
        focal = 1.0 / torch.tan(0.5 * self.fov_y_rad)
        n, f = self.near, self.far
        projection = torch.zeros_like(self.camera_to_world)
        projection[:, 0, 0] = focal * (self.height / self.width)
        projection[:, 1, 1] = focal
        projection[:, 2, 2] = -(f + n) / (f - n)
        projection[:, 2, 3] = -2 * f * n / (f - n)
        projection[:, 3, 2] = -1.0
        return projection @ world_to_camera

    def project(self, points: Tensor) -> Tensor:
        """Clip coordinates of points.

        Args:
            points: ``(N, 3)`` or ``(B, N, 3)`` scene coordinates.

        Returns:
            ``(B, N, 4)`` homogeneous clip coordinates; x/w is right, y/w is up, both [-1, 1] in view.
        """
        if points.dim() == 2:
            points = points[None].expand(len(self), -1, -1)
        ones = torch.ones_like(points[..., :1])
        return torch.cat([points, ones], -1) @ self.world_to_clip.to(points).transpose(1, 2)

    def pixels(self, points: Tensor) -> Tensor:
        """Pixel positions of points: ``(B, N, 2)`` as (column, row); a pixel's centre lies at +0.5."""
        clip = self.project(points)
        ndc = clip[..., :2] / clip[..., 3:]
        column = (0.5 + 0.5 * ndc[..., 0]) * self.width
        row = (0.5 - 0.5 * ndc[..., 1]) * self.height
        return torch.stack([column, row], -1)

    def rays(self) -> tuple[Tensor, Tensor]:
        """Rays through all pixel centres.

        Returns:
            origins and unit directions, each ``(B, H, W, 3)`` in scene coordinates; row 0 is the top.
        """
        device, dtype = self.camera_to_world.device, self.camera_to_world.dtype
        rows = (torch.arange(self.height, device=device, dtype=dtype) + 0.5) / self.height
        columns = (torch.arange(self.width, device=device, dtype=dtype) + 0.5) / self.width
        half = torch.tan(0.5 * self.fov_y_rad)[:, None, None]
        y = (1 - 2 * rows)[None, :, None] * half
        x = (2 * columns - 1)[None, None, :] * half * (self.width / self.height)
        y, x = torch.broadcast_tensors(y, x)
        directions = torch.stack([x, y, -torch.ones_like(x)], -1)
        directions = torch.einsum("bij,bhwj->bhwi", self.camera_to_world[:, :3, :3], directions)
        directions = torch.nn.functional.normalize(directions, dim=-1)
        return self.origins[:, None, None].expand_as(directions), directions


def orbit(
    azimuth_deg: Sequence[float] | Tensor,
    elevation_deg: Sequence[float] | Tensor | float = 0.0,
    *,
    target: Sequence[float] | Tensor = (0.0, 0.0, 0.0),
    distance: Sequence[float] | Tensor | float = 4.0,
    fov_y_deg: Sequence[float] | Tensor | float = 30.0,
    height: int = 128,
    width: int = 128,
) -> Cameras:
    """Cameras on a sphere around ``target``, looking at it, upright.

    Args:
        azimuth_deg: ``(B,)``; 0 = front, 90 = the head's left side.
        elevation_deg: scalar or ``(B,)``, in (-90, 90).
        target: ``(3,)`` or ``(B, 3)`` scene units.
        distance: scalar or ``(B,)`` scene units.
        fov_y_deg: scalar or ``(B,)`` full vertical field of view.
        height, width: pixels.

    Returns:
        Cameras of batch size B, float32 on the CPU.

    Raises:
        ValueError: height or width below 1, or an elevation at or beyond the poles.
    """
    if height < 1 or width < 1:
        raise ValueError(f"a camera needs at least 1x1 pixels; got height={height}, width={width}")
    azimuth = torch.as_tensor(azimuth_deg, dtype=torch.float32).reshape(-1)
    batch = azimuth.shape[0]

    def per_camera(value: Sequence[float] | Tensor | float) -> Tensor:
        return torch.as_tensor(value, dtype=torch.float32).reshape(-1).expand(batch)

    elevation = per_camera(elevation_deg)
    if (elevation.abs() >= 90).any():
        raise ValueError(f"elevation_deg must lie in (-90, 90); got {elevation.tolist()}")
    radius, fov = per_camera(distance), torch.deg2rad(per_camera(fov_y_deg))
    centre = torch.as_tensor(target, dtype=torch.float32).expand(batch, 3)
    a, e = torch.deg2rad(azimuth), torch.deg2rad(elevation)
    backward = torch.stack([a.sin() * e.cos(), e.sin(), a.cos() * e.cos()], -1)
    up = torch.tensor([0.0, 1.0, 0.0]).expand(batch, 3)
    right = torch.nn.functional.normalize(torch.linalg.cross(up, backward), dim=-1)
    camera_to_world = torch.eye(4).repeat(batch, 1, 1)
    camera_to_world[:, :3, 0] = right
    camera_to_world[:, :3, 1] = torch.linalg.cross(backward, right)
    camera_to_world[:, :3, 2] = backward
    camera_to_world[:, :3, 3] = centre + radius[:, None] * backward
    wrapped = (azimuth + 180) % 360 - 180
    return Cameras(camera_to_world, fov, wrapped, elevation.clone(), height, width)


# How far the frame reaches above and below its centre, in scene units at the head: the widest shows the whole
# bust, the head's the head alone, the closest brows to lips: there an eye is a quarter of the picture. The portrait
# world and the sculpting loop draw from the same range, so the prior is never asked about a framing that it has
# not seen. The values are ours.
WIDEST_HALF_HEIGHT = 1.05
HEAD_HALF_HEIGHT = 0.50
CLOSEST_HALF_HEIGHT = 0.36
CLOSE_UP_HALF_HEIGHT = 0.62  # below this a caption may say "close-up"


def framing_target(half_height: Tensor) -> Tensor:
    """Height ``(B,)`` at which a camera of this framing looks: the middle of the bust, the head or the face."""
    to_head = (WIDEST_HALF_HEIGHT - half_height) / (WIDEST_HALF_HEIGHT - HEAD_HALF_HEIGHT)
    to_face = (HEAD_HALF_HEIGHT - half_height) / (HEAD_HALF_HEIGHT - CLOSEST_HALF_HEIGHT)
    return 0.08 * to_head.clamp(0, 1) - 0.10 * to_face.clamp(0, 1)


def framed(
    azimuth_deg: Tensor | Sequence[float],
    elevation_deg: Tensor | Sequence[float] | float,
    half_height: Tensor | Sequence[float] | float,
    *,
    fov_y_deg: Tensor | float = 25.0,
    offset: Tensor | None = None,
    height: int = 128,
    width: int = 128,
) -> Cameras:
    """Orbit cameras whose frame shows ``half_height`` units above and below its centre.

    Args:
        azimuth_deg, elevation_deg: as in :func:`orbit`.
        half_height: scalar or ``(B,)`` scene units, CLOSEST_HALF_HEIGHT to WIDEST_HALF_HEIGHT.
        fov_y_deg: scalar or ``(B,)``; the distance follows from it.
        offset: ``(B, 3)`` added to the target, scene units; or None.
        height, width: pixels.
    """
    azimuth = torch.as_tensor(azimuth_deg, dtype=torch.float32).reshape(-1)
    batch = azimuth.shape[0]
    half = torch.as_tensor(half_height, dtype=torch.float32).reshape(-1).expand(batch)
    fov = torch.as_tensor(fov_y_deg, dtype=torch.float32).reshape(-1).expand(batch)
    target = torch.zeros(batch, 3)
    target[:, 1] = framing_target(half)
    if offset is not None:
        target = target + offset
    distance = half / torch.tan(torch.deg2rad(0.5 * fov))
    return orbit(
        azimuth, elevation_deg, target=target, distance=distance, fov_y_deg=fov, height=height, width=width
    )


def sample_head_cameras(
    batch: int,
    generator: torch.Generator,
    *,
    height: int = 128,
    width: int = 128,
    elevation_deg: tuple[float, float] = (-15.0, 35.0),
    half_height: tuple[float, float] = (HEAD_HALF_HEIGHT, WIDEST_HALF_HEIGHT),
    fov_y_deg: tuple[float, float] = (20.0, 32.0),
    jitter: float = 0.04,
    face_share: float = 0.0,
    face_half_height: tuple[float, float] = (CLOSEST_HALF_HEIGHT, CLOSE_UP_HALF_HEIGHT),
) -> Cameras:
    """Random cameras around a head, balanced over the azimuth.

    The circle is cut into ``batch`` equal parts, turned by one random angle, with one camera in each
    part, so that no batch looks at one side only (threestudio's ``batch_uniform_azimuth``).

    Args:
        batch: number of cameras.
        generator: the only source of randomness.
        height, width: pixels.
        elevation_deg: range, uniform.
        half_height: range of the framing, uniform; see :func:`framed`.
        fov_y_deg: range, uniform.
        jitter: standard deviation of the target's offset, as a fraction of the half height.
        face_share: chance of a camera to be replaced by a close-up of the face, within 60 degrees of the front:
            a face covers a sixth of the circle and holds most of what a prompt describes (ours; AvatarBooth
            has head cameras beside those of the body for the same reason).
        face_half_height: range of the framing of those, uniform.
    """

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(batch, generator=generator)

    part = 360.0 / batch
    turn = 360.0 * torch.rand(1, generator=generator)
    azimuth = (torch.arange(batch) + torch.rand(batch, generator=generator)) * part + turn
    half = uniform(*half_height)
    elevation = uniform(*elevation_deg)
    if face_share > 0:
        face = torch.rand(batch, generator=generator) < face_share
        azimuth = torch.where(face, uniform(-60.0, 60.0), azimuth)
        half = torch.where(face, uniform(*face_half_height), half)
        elevation = torch.where(
            face, uniform(max(elevation_deg[0], -10.0), min(elevation_deg[1], 15.0)), elevation
        )
    offset = torch.randn(batch, 3, generator=generator) * jitter * half[:, None]
    return framed(
        azimuth,
        elevation,
        half,
        fov_y_deg=uniform(*fov_y_deg),
        offset=offset,
        height=height,
        width=width,
    )
