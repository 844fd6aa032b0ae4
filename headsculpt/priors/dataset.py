"""The portrait data set on disk: random figures of the procedural world, seen from all around.

A folder of shards, each a function of (seed, shard number) alone, so that an interrupted run goes on with
the shards that are missing and any number of workers writes the same bytes:

    00000/images.npy     (N, 128, 128, 3) uint8
    00000/views.npy      (N, 3) float32: azimuth and elevation in degrees, half height in scene units
    00000/landmarks.npy  (N, K, 3) float32: column, row in pixels, and 1 where visible
    00000/figures.json   attributes of N // 4 figures, the captions of every image, and the contours
                         (name: number of points) that the K landmarks are, in order
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from headsculpt.cameras import (
    CLOSE_UP_HALF_HEIGHT,
    CLOSEST_HALF_HEIGHT,
    HEAD_HALF_HEIGHT,
    WIDEST_HALF_HEIGHT,
    Cameras,
    framed,
)
from headsculpt.priors.resident import gather
from headsculpt.synthesis.attributes import Attributes

VIEWS_PER_FIGURE = 4
FIGURES_PER_SHARD = 256
FACE_SHARE = 0.4  # of the views are close-ups: an eye in a picture of the head is two latents wide, here four
# Three captions of an image say nearly all that it shows, which teaches more than a few words do, and makes
# what goes unsaid mean "none"; the fourth is as short as users write. Nearly all name the view, as the loop does.
CAPTION_STYLES: tuple[dict[str, float], ...] = (
    *({"drop": 0.0, "most": 0.35, "view_share": 0.95},) * 3,
    {"drop": 0.35, "most": 1.0, "view_share": 0.9},
)
DONE = "figures.json"  # written last, so a shard that has it is whole


def sample_views(count: int, rng: np.random.Generator, image_size: int = 128) -> tuple[Cameras, NDArray]:
    """Cameras as the sculpting loop places them: two in five look closely at a face.

    Returns:
        ``count`` cameras, and ``(count, 3)`` float32 azimuth_deg, elevation_deg, half_height.
    """
    azimuth = rng.uniform(-180, 180, count)
    level = np.clip(rng.normal(5, 7, count), -15, 35)
    elevation = np.where(rng.random(count) < 0.5, level, rng.uniform(-15, 35, count))
    half = np.where(
        rng.random(count) < 0.6,
        rng.uniform(0.7, 1.0, count),
        rng.uniform(HEAD_HALF_HEIGHT, WIDEST_HALF_HEIGHT, count),
    )
    face = rng.random(count) < FACE_SHARE
    azimuth = np.where(face, rng.uniform(-80, 80, count), azimuth)
    elevation = np.where(face, level, elevation)
    half = np.where(face, rng.uniform(CLOSEST_HALF_HEIGHT, CLOSE_UP_HALF_HEIGHT, count), half)
    offset = rng.normal(0, 0.04, (count, 3)) * half[:, None]
    fov = rng.uniform(20, 32, count)
    views = np.stack([azimuth, elevation, half], 1).astype(np.float32)
    cameras = framed(
        torch.from_numpy(views[:, 0]),
        torch.from_numpy(views[:, 1]),
        torch.from_numpy(views[:, 2]),
        fov_y_deg=torch.from_numpy(fov.astype(np.float32)),
        offset=torch.from_numpy(offset.astype(np.float32)),
        height=image_size,
        width=image_size,
    )
    return cameras, views


def sample_backgrounds(count: int, rng: np.random.Generator) -> NDArray:
    """Plain colours ``(count, 3)`` float32: three in five are light greys and pastels."""
    grey = rng.uniform(0.75, 1.0, (count, 1)) + rng.uniform(-0.06, 0.0, (count, 3))
    colour = rng.uniform(0, 1, (count, 3))
    light = rng.random((count, 1)) < 0.6
    return np.where(light, grey, colour).clip(0, 1).astype(np.float32)


def render_portraits(
    attributes: Attributes, rng: np.random.Generator, image_size: int
) -> tuple[NDArray, NDArray, NDArray]:
    """One figure from :data:`VIEWS_PER_FIGURE` sides.

    Returns:
        images ``(4, S, S, 3)`` uint8, views ``(4, 3)``, landmarks ``(4, K, 3)``: column, row, visible.
    """
    from headsculpt.synthesis.figure import build_figure
    from headsculpt.synthesis.render import render_figure

    cameras, views = sample_views(VIEWS_PER_FIGURE, rng, image_size)
    shown = render_figure(
        build_figure(attributes, rng), cameras, background=sample_backgrounds(VIEWS_PER_FIGURE, rng)
    )
    visible = np.asarray(shown["landmark_visible"], np.float32)[..., None]
    landmarks = np.concatenate([np.asarray(shown["landmarks"], np.float32), visible], -1)
    return np.asarray(shown["rgb"]), views, landmarks


def _write_shard(folder: Path, seed: int, shard: int, figures: int, image_size: int) -> int:
    from headsculpt.heads.builtin import builtin_head
    from headsculpt.synthesis.captions import caption, sample_attributes

    torch.set_num_threads(1)
    rng = np.random.default_rng([seed, shard])
    images, views, landmarks, attributes, captions = [], [], [], [], []
    for _ in range(figures):
        person = sample_attributes(rng)
        rgb, seen_from, points = render_portraits(person, rng, image_size)
        images.append(rgb)
        views.append(seen_from)
        landmarks.append(points)
        attributes.append(asdict(person))
        for azimuth, elevation, half in seen_from.tolist():
            where = {"azimuth_deg": azimuth, "elevation_deg": elevation, "half_height": half}
            captions.append([caption(person, rng, **where, **style).text for style in CAPTION_STYLES])
    contours = {name: len(points) for name, points in builtin_head().landmarks.items()}
    notes = {"seed": seed, "contours": contours, "attributes": attributes, "captions": captions}
    commit_shard(folder, shard, {"images": images, "views": views, "landmarks": landmarks}, notes)
    return shard


def commit_shard(folder: Path, shard: int, arrays: dict[str, list[NDArray]], notes: dict) -> None:
    """Write one shard, whole or not at all: each list of arrays joined into ``NAME.npy``, and the notes."""
    temporary = folder / f"{shard:05d}.tmp{os.getpid()}"
    temporary.mkdir(parents=True, exist_ok=True)
    for name, parts in arrays.items():
        np.save(temporary / f"{name}.npy", np.concatenate(parts))
    (temporary / DONE).write_text(json.dumps(notes), encoding="utf-8")
    target = folder / f"{shard:05d}"
    if target.exists():
        shutil.rmtree(target)
    os.replace(temporary, target)


def render_dataset(
    folder: Path,
    count: int,
    seed: int = 0,
    workers: int = 1,
    *,
    image_size: int = 128,
    report: Callable[[int, int], None] | None = None,
    write_shard: Callable[[Path, int, int, int, int], int] | None = None,
    figures_per_shard: int | None = None,
) -> None:
    """Render portraits until ``folder`` holds ``count`` images (rounded up to whole shards).

    Args:
        folder: of the data set; shards that are there already are kept.
        count: number of images.
        seed: the world; shard k of one seed is always the same.
        workers: processes.
        image_size: pixels, both ways.
        report: called with (images done, images wanted) after each shard.
        write_shard: (folder, seed, shard, figures, image_size) -> shard; single portraits where None.
        figures_per_shard: :data:`FIGURES_PER_SHARD` where None.

    Raises:
        ValueError: count or workers below 1, or the folder holds shards of another seed.
    """
    if count < 1 or workers < 1:
        raise ValueError(f"count and workers must be at least 1; got count={count}, workers={workers}")
    folder.mkdir(parents=True, exist_ok=True)
    for left_over in folder.glob("*.tmp*"):
        shutil.rmtree(left_over)
    write = write_shard or _write_shard
    figures = min(figures_per_shard or FIGURES_PER_SHARD, math.ceil(count / VIEWS_PER_FIGURE))
    per_shard = figures * VIEWS_PER_FIGURE
    shards = math.ceil(count / per_shard)
    done = {int(path.parent.name) for path in folder.glob(f"[0-9]*/{DONE}")}
    for shard in sorted(done)[:1]:
        there = json.loads((folder / f"{shard:05d}" / DONE).read_text(encoding="utf-8"))["seed"]
        if there != seed:
            raise ValueError(
                f"{folder} holds a data set of seed {there}, not {seed}; use another folder or that seed"
            )
    missing = [shard for shard in range(shards) if shard not in done]
    finished = shards - len(missing)
    if workers == 1 or len(missing) <= 1:
        for shard in missing:
            write(folder, seed, shard, figures, image_size)
            finished += 1
            if report is not None:
                report(finished * per_shard, shards * per_shard)
        return
    with ProcessPoolExecutor(min(workers, len(missing)), mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(write, folder, seed, shard, figures, image_size) for shard in missing]
        try:
            for job in as_completed(jobs):
                job.result()
                finished += 1
                if report is not None:
                    report(finished * per_shard, shards * per_shard)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@dataclass
class Portraits:
    """A rendered data set, its arrays mapped from disk.

    Attributes:
        shards: images of each shard, ``(N, S, S, 3)`` uint8.
        views: ``(total, 3)`` float32 azimuth_deg, elevation_deg, half_height.
        landmarks: ``(total, K, 3)`` float32 column, row, visible.
        attributes: of each figure; image i shows figure ``i // VIEWS_PER_FIGURE``.
        captions: several of each image.
        contours: where each contour lies along the landmarks' axis K.
    """

    shards: list[NDArray]
    views: NDArray
    landmarks: NDArray
    attributes: list[Attributes]
    captions: list[list[str]]
    contours: dict[str, slice]

    def __len__(self) -> int:
        return sum(len(shard) for shard in self.shards)

    def landmark_maps(self, indices: NDArray, size: int, workers: int = 1) -> NDArray:
        """Landmark drawings ``(B, size, size, 3)`` uint8; black where no landmark is visible."""
        scale = size / self.shards[0].shape[1]
        points = self.landmarks[indices]
        if workers == 1:
            return _draw(points, self.contours, scale, size)
        parts = np.array_split(points, max(1, min(workers, len(points) // 64)))
        with ProcessPoolExecutor(len(parts), mp_context=get_context("spawn")) as pool:
            jobs = [pool.submit(_draw, part, self.contours, scale, size) for part in parts]
            return np.concatenate([job.result() for job in jobs])

    def images(self, indices: NDArray) -> NDArray:
        """Images ``(B, S, S, 3)`` uint8."""
        return gather(self.shards, indices)


def _draw(points: NDArray, contours: dict[str, slice], scale: float, size: int) -> NDArray:
    from headsculpt.heads.landmarks import draw_landmarks

    maps = np.zeros((len(points), size, size, 3), np.uint8)
    for row, of_head in zip(maps, points, strict=True):
        drawn = {name: of_head[part, :2] * scale for name, part in contours.items()}
        seen = {name: of_head[part, 2] > 0.5 for name, part in contours.items()}
        row[:] = draw_landmarks(drawn, size, size, visible=seen)
    return maps


def open_dataset(folder: Path) -> Portraits:
    """Open what :func:`render_dataset` wrote (whole shards only).

    Raises:
        FileNotFoundError: there is no whole shard.
    """
    folders = sorted(path.parent for path in folder.glob(f"[0-9]*/{DONE}") if "tmp" not in path.parent.name)
    if not folders:
        raise FileNotFoundError(
            f"no portraits in {folder}; render them first: headsculpt train-prior data --work {folder.parent}"
        )
    notes = [json.loads((shard / DONE).read_text(encoding="utf-8")) for shard in folders]
    return Portraits(
        shards=[np.load(shard / "images.npy", mmap_mode="r") for shard in folders],
        views=np.concatenate([np.load(shard / "views.npy") for shard in folders]),
        landmarks=np.concatenate([np.load(shard / "landmarks.npy") for shard in folders]),
        attributes=[Attributes(**entry) for note in notes for entry in note["attributes"]],
        captions=[entry for note in notes for entry in note["captions"]],
        contours=_slices(notes[0]["contours"]),
    )


def _slices(lengths: dict[str, int]) -> dict[str, slice]:
    ends = np.cumsum(list(lengths.values())).tolist()
    return {name: slice(end - lengths[name], end) for name, end in zip(lengths, ends, strict=True)}
