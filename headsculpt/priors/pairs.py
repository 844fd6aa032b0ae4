"""Pairs of portraits, before and after an edit: what the instruction ControlNet learns from.

Both pictures of a pair show the same individual from the same camera before the same background; they differ
in what the instruction says. Shards are functions of (seed, shard number) alone, as those of
:mod:`headsculpt.priors.dataset`, whose loop renders them:

    00000/before.npy    (N, 128, 128, 3) uint8
    00000/after.npy     (N, 128, 128, 3) uint8
    00000/views.npy     (N, 3) float32: azimuth and elevation in degrees, half height in scene units
    00000/figures.json  of each of the N // 4 figures the instruction, the kind of edit and the attributes
                        before and after; of each picture the captions before and after
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headsculpt.priors import dataset
from headsculpt.priors.dataset import CAPTION_STYLES, DONE, VIEWS_PER_FIGURE
from headsculpt.priors.resident import gather
from headsculpt.synthesis.attributes import Attributes

FIGURES_PER_SHARD = 64  # 256 pairs: 25 MB, and little lost when a run is stopped


@dataclass
class PairedFigure:
    """One figure before and after an edit, from :data:`VIEWS_PER_FIGURE` sides.

    Attributes:
        before, after: ``(4, S, S, 3)`` uint8.
        views: ``(4, 3)`` float32 azimuth_deg, elevation_deg, half_height.
        instruction, kind: what was asked, and which of ``EDIT_KINDS`` it is.
        attributes: before and after.
    """

    before: NDArray
    after: NDArray
    views: NDArray
    instruction: str
    kind: str
    attributes: tuple[Attributes, Attributes]


def render_pair(rng: np.random.Generator, *, kind: str | None = None, image_size: int = 128) -> PairedFigure:
    """A random figure and a random edit of it, which is of this kind if the figure has one of it."""
    from headsculpt.synthesis.captions import sample_attributes
    from headsculpt.synthesis.figure import build_figure, part_generators
    from headsculpt.synthesis.instructions import EDIT_KINDS, sample_edit
    from headsculpt.synthesis.render import render_figure

    person = sample_attributes(rng)
    tried = [kind] if kind else []
    for name in [*tried, *(EDIT_KINDS[i] for i in rng.permutation(len(EDIT_KINDS)))]:
        try:
            changed, instruction = sample_edit(person, rng, kind=name)
        except ValueError:  # this figure has nothing of that kind, such as a beard to shave
            continue
        kind = name
        break
    individual = part_generators(int(rng.integers(1 << 62)))
    cameras, views = dataset.sample_views(VIEWS_PER_FIGURE, rng, image_size)
    background = dataset.sample_backgrounds(VIEWS_PER_FIGURE, rng)
    before, after = (
        np.asarray(render_figure(build_figure(a, individual), cameras, background=background)["rgb"])
        for a in (person, changed)
    )
    return PairedFigure(before, after, views, instruction, kind or "", (person, changed))


def write_pair_shard(folder: Path, seed: int, shard: int, figures: int, image_size: int) -> int:
    """Renders one shard; kinds of edits take turns. Returns its number."""
    import torch

    from headsculpt.synthesis.captions import caption
    from headsculpt.synthesis.instructions import EDIT_KINDS

    torch.set_num_threads(1)
    rng = np.random.default_rng([seed, shard, 1])  # the 1 keeps it apart from the portraits' stream
    before, after, views, notes, captions = [], [], [], [], []
    for number in range(figures):
        made = render_pair(rng, kind=EDIT_KINDS[number % len(EDIT_KINDS)], image_size=image_size)
        before.append(made.before)
        after.append(made.after)
        views.append(made.views)
        persons = [asdict(a) for a in made.attributes]
        notes.append({"instruction": made.instruction, "kind": made.kind, "attributes": persons})
        for azimuth, elevation, half in made.views.tolist():
            say = partial(caption, azimuth_deg=azimuth, elevation_deg=elevation, half_height=half)
            captions.append(
                [[say(a, rng, **style).text for style in CAPTION_STYLES] for a in made.attributes]
            )
    dataset.commit_shard(
        folder,
        shard,
        {"before": before, "after": after, "views": views},
        {"seed": seed, "figures": notes, "captions": captions},
    )
    return shard


def render_pairs(
    folder: Path,
    count: int,
    seed: int = 0,
    workers: int = 1,
    *,
    image_size: int = 128,
    report: Callable[[int, int], None] | None = None,
) -> None:
    """Render pairs until ``folder`` holds ``count`` of them; see :func:`headsculpt.priors.dataset.render_dataset`."""
    dataset.render_dataset(
        folder,
        count,
        seed,
        workers,
        image_size=image_size,
        report=report,
        write_shard=write_pair_shard,
        figures_per_shard=FIGURES_PER_SHARD,
    )


@dataclass
class Pairs:
    """Rendered pairs, their pictures mapped from disk.

    Attributes:
        before, after: pictures of each shard, ``(N, S, S, 3)`` uint8.
        views: ``(total, 3)`` float32 azimuth_deg, elevation_deg, half_height.
        instructions, kinds: of each figure; pair i shows figure ``i // VIEWS_PER_FIGURE``.
        captions_before, captions_after: several of each picture.
    """

    before: list[NDArray]
    after: list[NDArray]
    views: NDArray
    instructions: list[str]
    kinds: list[str]
    captions_before: list[list[str]]
    captions_after: list[list[str]]

    def __len__(self) -> int:
        return sum(len(shard) for shard in self.before)

    def images(self, which: str, indices: NDArray) -> NDArray:
        """Pictures ``(B, S, S, 3)`` uint8; ``which`` is "before" or "after"."""
        return gather({"before": self.before, "after": self.after}[which], indices)


def open_pairs(folder: Path) -> Pairs:
    """Open what :func:`render_pairs` wrote (whole shards only).

    Raises:
        FileNotFoundError: there is no whole shard.
    """
    folders = sorted(path.parent for path in folder.glob(f"[0-9]*/{DONE}") if "tmp" not in path.parent.name)
    if not folders:
        raise FileNotFoundError(
            f"no pairs of portraits in {folder}; render them first: headsculpt train-prior pairs --work "
            f"{folder.parent}"
        )
    notes = [json.loads((shard / DONE).read_text(encoding="utf-8")) for shard in folders]
    return Pairs(
        before=[np.load(shard / "before.npy", mmap_mode="r") for shard in folders],
        after=[np.load(shard / "after.npy", mmap_mode="r") for shard in folders],
        views=np.concatenate([np.load(shard / "views.npy") for shard in folders]),
        instructions=[figure["instruction"] for note in notes for figure in note["figures"]],
        kinds=[figure["kind"] for note in notes for figure in note["figures"]],
        captions_before=[entry[0] for note in notes for entry in note["captions"]],
        captions_after=[entry[1] for note in notes for entry in note["captions"]],
    )
