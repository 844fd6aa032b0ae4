"""The judge: a small network that reads attributes off pictures of heads, and never guides the sculpting.

Letters: B images, V views of one head, K landmark points, n values of a family. Pictures are
``(B, 3, H, W)`` float in [0, 1]. Azimuths as in :mod:`headsculpt.cameras`: 0 = front, 180 = back.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headsculpt.synthesis.attributes import VALUES, Attributes
from headsculpt.synthesis.visibility import visible_families

SIZE = 128  # pixels that the judge sees, both ways
WEIGHTS = Path(__file__).parent / "weights"

# A face is seen up to 85 degrees and not beyond 120; it is frontal up to 35 and not beyond 65. Between the
# two bounds the answer is a matter of taste, so the judge is neither trained nor asked there.
FACE_SEEN_DEG = (85.0, 120.0)
FRONTAL_DEG = (35.0, 65.0)


def band_label(azimuth_deg: Tensor, band: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """(label in {0, 1}, weight in {0, 1}) of a yes-no question that holds up to one angle, not beyond another."""
    azimuth = ((azimuth_deg + 180.0) % 360.0 - 180.0).abs()
    yes, no = azimuth <= band[0], azimuth >= band[1]
    return yes.float(), (yes | no).float()


@dataclass(frozen=True)
class JudgeConfig:
    """Shape of the network.

    Attributes:
        widths: channels at 32x32, 16x16 and 8x8 of the whole picture.
        depths: residual blocks there.
        face_widths, face_depths: the same of the second look, at the face alone; none without landmarks.
        contours: landmark contours in order, name to number of points; empty trains no landmarks.
    """

    widths: tuple[int, ...] = (48, 112, 208)
    depths: tuple[int, ...] = (2, 2, 2)
    face_widths: tuple[int, ...] = (48, 96, 192)
    face_depths: tuple[int, ...] = (2, 2, 2)
    contours: dict[str, int] = field(default_factory=dict)

    @property
    def landmark_count(self) -> int:
        return sum(self.contours.values())


class Block(nn.Module):
    """Residual block (He et al. 2016, arXiv 1512.03385); the shortcut averages where the block strides."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(channels_out)
        self.second = nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False)
        self.second_norm = nn.BatchNorm2d(channels_out)
        self.stride = stride
        self.shortcut: nn.Module = nn.Identity()
        if channels_in != channels_out:
            self.shortcut = nn.Conv2d(channels_in, channels_out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.first_norm(self.first(x)), inplace=True)
        y = self.second_norm(self.second(y))
        if self.stride > 1:
            x = F.avg_pool2d(x, self.stride)
        return F.relu(y + self.shortcut(x), inplace=True)


class Trunk(nn.Module):
    """Pictures ``(B, 3, S, S)`` in [0, 1] to features ``(B, C, s, s)``; residual blocks behind a stem.

    s is S / (2 stride) after the stem, and half of that for each level after the first.

    Args:
        widths, depths: channels and residual blocks of each level; every level after the first strides.
        stride: of the stem's second convolution.
    """

    def __init__(self, widths: tuple[int, ...], depths: tuple[int, ...], stride: int) -> None:
        super().__init__()
        first = widths[0]
        # Two by two pixels become channels, so that the full-resolution convolution costs a quarter and
        # still sees a rim or a pupil that is two pixels wide.
        self.stem = nn.Sequential(
            nn.PixelUnshuffle(2),
            nn.Conv2d(12, 32, 3, 1, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU(inplace=True),
            nn.Conv2d(32, first, 3, stride, 1, bias=False), nn.BatchNorm2d(first), nn.ReLU(inplace=True),
        )  # fmt: skip
        blocks, channels = [], first
        for level, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            for index in range(depth):
                blocks.append(Block(channels, width, 2 if level > 0 and index == 0 else 1))
                channels = width
        self.blocks = nn.Sequential(*blocks)
        self.channels = channels

    def forward(self, images: Tensor) -> Tensor:
        return self.blocks(self.stem((images - 0.5) * 4.0))


def pooled(features: Tensor) -> Tensor:
    """``(B, C, h, w)`` to ``(B, 2C)``: the mean tells colours and materials, the maximum finds an earring."""
    return torch.cat([features.mean((2, 3)), features.amax((2, 3))], 1)


def face_crops(images: Tensor, points: Tensor, size: int = SIZE // 2) -> Tensor:
    """The square around each picture's landmarks, a quarter wider than they are.

    Args:
        images: ``(B, 3, H, W)``.
        points: ``(B, K, 2)`` in [-1, 1] as (column, row).
        size: pixels of a crop.

    Returns:
        ``(B, 3, size, size)``; what lies outside the picture repeats its border.
    """
    low, high = points.amin(1), points.amax(1)
    centre = 0.5 * (low + high)
    half = (0.625 * (high - low).amax(1)).clamp(0.1, 1.0)
    place = torch.eye(2, device=images.device)[None] * half[:, None, None]
    theta = torch.cat([place, centre[:, :, None]], 2)
    where = F.affine_grid(theta, [len(images), 3, size, size], align_corners=False)
    return F.grid_sample(images.float(), where, padding_mode="border", align_corners=False)


class JudgeNetwork(nn.Module):
    """Picture to logits of every family, of the two questions about the face, and to landmarks.

    It looks twice: at the whole picture, then at the face that its own landmarks point out, so that a frown is as
    large in a bust as in a portrait (a spatial transformer without its gradient, Jaderberg et al. 2015,
    arXiv 1506.02025).
    """

    def __init__(self, config: JudgeConfig) -> None:
        super().__init__()
        self.config = config
        self.whole = Trunk(config.widths, config.depths, 2)
        channels = self.whole.channels
        self.sizes = {name: len(values) for name, values in VALUES.items()}
        self.sizes |= {"face_seen": 1, "frontal": 1, "half_height": 1}
        features = 2 * channels
        k = config.landmark_count
        if k:
            self.squeeze = nn.Conv2d(channels, 32, 1)
            cells = (SIZE // 4 // 2 ** (len(config.widths) - 1)) ** 2
            self.landmark_hidden = nn.Linear(32 * cells, 192)
            self.landmark_out = nn.Linear(192, 3 * k)
            self.face = Trunk(config.face_widths, config.face_depths, 1)
            features += 2 * self.face.channels
        self.heads = nn.Linear(features, sum(self.sizes.values()))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """``(B, 3, 128, 128)`` in [0, 1] to logits ``(B, n)`` by family, ``face_seen``, ``frontal`` and
        ``half_height`` (less 0.8, scene units) ``(B, 1)``, ``points`` ``(B, K, 2)`` in [-1, 1] as (column,
        row), ``points_visible`` ``(B, K)``."""
        x = self.whole(images)
        features, out = [pooled(x)], {}
        k = self.config.landmark_count
        if k:
            # contiguous(): flatten must give one order under every memory format.
            cells = self.squeeze(x).contiguous().flatten(1)
            flat = self.landmark_out(F.relu(self.landmark_hidden(F.relu(cells)))).float()
            out["points"] = flat[:, : 2 * k].unflatten(1, (k, 2))
            out["points_visible"] = flat[:, 2 * k :]
            crops = face_crops(images, out["points"].detach())
            features.append(pooled(self.face(crops.contiguous(memory_format=torch.channels_last))))
        read = self.heads(torch.cat(features, 1)).float().split(list(self.sizes.values()), 1)
        return dict(zip(self.sizes, read, strict=True)) | out


class Judge:
    """A trained network with its vocabulary.

    Args:
        network: as trained; it is put into evaluation mode.
        accuracy: held-out accuracy by family, 0 to 1, as measured after training.
    """

    def __init__(self, network: JudgeNetwork, accuracy: Mapping[str, float] | None = None) -> None:
        self.network = network.eval()
        self.accuracy = dict(accuracy or {})

    @torch.no_grad()
    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """Outputs of the network for pictures of any size, 64 at a time.

        Every picture is read twice, as it is and in a mirror, which changes nothing that the judge is asked about; all
        but the landmarks is the mean of the two readings.
        """
        if images.dim() != 4 or images.shape[1] != 3:
            raise ValueError(f"the judge reads images (B, 3, H, W); got {tuple(images.shape)}")
        device = next(self.network.parameters()).device
        images = images.to(device=device, dtype=torch.float32)
        if images.shape[2:] != (SIZE, SIZE):
            images = F.interpolate(images, (SIZE, SIZE), mode="bilinear", antialias=True, align_corners=False)
        parts = []
        for part in images.split(64):
            plain, mirrored = self.network(part), self.network(part.flip(-1))
            means = {name: 0.5 * (plain[name] + mirrored[name]) for name in self.network.sizes}
            parts.append(plain | means)
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def read(self, images: Tensor) -> dict[str, tuple[list, Tensor]]:
        """Reads every family off every picture, whether the view shows it or not.

        Args:
            images: ``(B, 3, H, W)`` in [0, 1], resized to 128x128.

        Returns:
            family to (the B likeliest values, probabilities ``(B, n)`` in the order of ``VALUES``).
        """
        outputs = self.outputs(images)
        result = {}
        for family, values in VALUES.items():
            probabilities = outputs[family].softmax(-1)
            result[family] = ([values[i] for i in probabilities.argmax(-1).tolist()], probabilities)
        return result

    def read_views(
        self,
        images: Tensor,
        azimuth_deg: Sequence[float],
        half_height: Sequence[float] | float = 1.0,
    ) -> dict[str, tuple[object, Tensor]]:
        """Reads one head off several views: the mean log-probability over the views that show a family.

        A first reading goes by the angles alone. A second leaves out the views where the head that was read
        hides a family: the back of a bald man says nothing about the colour of his beard.

        Args:
            images: ``(V, 3, H, W)`` in [0, 1].
            azimuth_deg: V angles.
            half_height: V framings, or one for all.

        Returns:
            family to (value, probabilities ``(n,)``); families that no view shows are left out.

        Raises:
            ValueError: the numbers of images and angles differ.
        """
        framings = (
            [float(half_height)] * len(azimuth_deg) if isinstance(half_height, (int, float)) else half_height
        )
        if not len(images) == len(azimuth_deg) == len(framings):
            raise ValueError(
                f"got {len(images)} images, {len(azimuth_deg)} azimuths and {len(framings)} framings; "
                "they must be equally many"
            )
        outputs = self.outputs(images)
        places = list(zip(azimuth_deg, framings, strict=True))
        shown = [visible_families(None, a, h) for a, h in places]
        result: dict[str, tuple[object, Tensor]] = {}
        for again in (False, True):
            if again:
                # A family that no view shows leaves its default, which decides no visibility it could.
                read = Attributes(**{family: value for family, (value, _) in result.items()})  # type: ignore[arg-type]
                fewer = [visible_families(read, a, h) for a, h in places]
            for family, values in VALUES.items():
                views = [index for index, names in enumerate(shown) if family in names]
                if again:
                    views = [index for index, names in enumerate(fewer) if family in names] or views
                if views:
                    logs = outputs[family][views].log_softmax(-1).mean(0)
                    result[family] = (values[int(logs.argmax())], logs.softmax(-1))
        return result

    def face_seen(self, images: Tensor) -> Tensor:
        """``(B,)`` probability that a face is seen, from any angle up to a profile."""
        return self.outputs(images)["face_seen"][:, 0].sigmoid()

    def frontal(self, images: Tensor) -> Tensor:
        """``(B,)`` probability that a face is seen from the front."""
        return self.outputs(images)["frontal"][:, 0].sigmoid()

    def half_height(self, images: Tensor) -> Tensor:
        """``(B,)`` estimated framing in scene units, see :func:`headsculpt.cameras.framed`."""
        return 0.8 + self.outputs(images)["half_height"][:, 0]

    def landmarks(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Points of the face contours.

        Returns:
            ``(B, K, 2)`` as (column, row) fractions of the picture's size, and ``(B, K)`` probabilities
            that they are seen; the order is ``network.config.contours``.

        Raises:
            ValueError: this judge was trained without landmarks.
        """
        if not self.network.config.landmark_count:
            raise ValueError("this judge was trained without landmarks")
        outputs = self.outputs(images)
        return 0.5 + 0.5 * outputs["points"], outputs["points_visible"].sigmoid()

    def save(self, folder: str | Path = WEIGHTS) -> Path:
        """Writes ``judge.safetensors`` (float16) and ``judge.json``; returns the folder."""
        from safetensors.torch import save as to_safetensors

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        state = {
            name: (value.half() if value.is_floating_point() else value).contiguous().cpu()
            for name, value in self.network.state_dict().items()
        }
        (folder / "judge.safetensors").write_bytes(to_safetensors(state))
        described = {
            "network": asdict(self.network.config),
            "families": {name: list(values) for name, values in VALUES.items()},
            "accuracy": {name: round(value, 4) for name, value in self.accuracy.items()},
        }
        (folder / "judge.json").write_text(json.dumps(described, indent=1) + "\n")
        return folder


def load_judge(folder: str | Path = WEIGHTS, device: str | torch.device = "cpu") -> Judge:
    """The judge that ships with the package, or one from another folder.

    Raises:
        FileNotFoundError: no weights there; says how to train them.
        ValueError: the weights read another vocabulary than this package's.
    """
    from safetensors.torch import load_file

    folder = Path(folder)
    for name in ("judge.json", "judge.safetensors"):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"the judge's {name} is missing from {folder}; train it with "
                "`python -m headsculpt.evaluation.train_judge --data DIR --work DIR`"
            )
    described = json.loads((folder / "judge.json").read_text())
    for family, values in VALUES.items():
        if described["families"].get(family) != list(values):
            raise ValueError(
                f"the judge in {folder} reads {family} as {described['families'].get(family)}, but the "
                f"package's values are {list(values)}; train it again"
            )
    shape: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in described["network"].items()}
    network = JudgeNetwork(JudgeConfig(**shape))
    state = load_file(folder / "judge.safetensors")
    network.load_state_dict({name: v.float() if v.is_floating_point() else v for name, v in state.items()})
    return Judge(network.to(device), described["accuracy"])
