"""Trains the judge on the portrait world: ``python -m headsculpt.evaluation.train_judge --data DIR --work DIR``.

The loop is that of the priors (:mod:`headsculpt.priors.training`): a killed run goes on where it last saved,
and under ``--steps`` it ends bit for bit where an undisturbed run ends. What only the judge has is here: which
labels a picture can show, what is done to the pictures, the loss, and the held-out accuracy.
"""

from __future__ import annotations

import argparse
import logging
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headsculpt.cameras import framed
from headsculpt.devices import mixed
from headsculpt.evaluation.evaluate import BACKGROUND, ELEVATION_DEG, READ_VIEWS
from headsculpt.evaluation.judge import (
    FACE_SEEN_DEG,
    FRONTAL_DEG,
    SIZE,
    WEIGHTS,
    Judge,
    JudgeConfig,
    JudgeNetwork,
    band_label,
    load_judge,
)  # fmt: skip
from headsculpt.priors.dataset import VIEWS_PER_FIGURE, Portraits, open_dataset
from headsculpt.priors.resident import Rows, as_images, normal_like
from headsculpt.priors.training import Budget, Stage, train
from headsculpt.synthesis.attributes import VALUES
from headsculpt.synthesis.captions import sample_attributes
from headsculpt.synthesis.figure import build_figure
from headsculpt.synthesis.render import render_figure
from headsculpt.synthesis.visibility import IGNORED, visible_families, visible_labels

LANDMARK_LIMIT_DEG = 100.0
BATCH = 64
STATISTICS_BATCHES = 60


@dataclass
class Batch:
    """Pictures with their truth.

    Attributes:
        images: ``(B, 3, 128, 128)`` float32 in [0, 1].
        labels: ``(B, F)`` int64, index into each family's values; -100 where the picture cannot show it.
        azimuth_deg, half_height: ``(B,)``.
        points: ``(B, K, 2)`` landmarks as (column, row) in pixels; K may be 0.
        points_visible: ``(B, K)`` 0 or 1.
        face_pasted: ``(B,)`` 1 where a face, 0 where something else was pasted on the back of a head, else -1.
    """

    images: Tensor
    labels: Tensor
    azimuth_deg: Tensor
    half_height: Tensor
    points: Tensor
    points_visible: Tensor
    face_pasted: Tensor


class Examples:
    """The pictures of a data set with their truth, by row; on a GPU all pictures lie in its memory."""

    def __init__(self, portraits: Portraits, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.images = Rows(portraits.shards, device)
        self.landmarks = Rows([portraits.landmarks], device)
        self.views = Rows([portraits.views], device)
        people = (portraits.attributes[row // VIEWS_PER_FIGURE] for row in range(len(portraits)))
        seen = [visible_labels(a, *v) for a, v in zip(people, portraits.views.tolist(), strict=True)]
        self.labels = Rows([np.array(seen, np.int64)], device)

    def __getitem__(self, rows: np.ndarray) -> Batch:
        views, landmarks = self.views[rows], self.landmarks[rows]
        return Batch(
            as_images(self.images[rows]),
            self.labels[rows],
            views[:, 0],
            views[:, 2],
            landmarks[..., :2],
            landmarks[..., 2],
            torch.full((len(rows),), -1.0, device=self.device),
        )


def paste_faces(batch: Batch, generator: torch.Generator, share: float = 0.3) -> Batch:
    """Pastes faces on the backs of some heads, so that the judge knows a second face when it sees one.

    The world has no two-faced heads, but the Janus check asks about them. As many backs get a piece of
    another back, so that the seam alone tells nothing. Ours.
    """
    azimuth = ((batch.azimuth_deg + 180) % 360 - 180).abs()
    fronts, backs = (azimuth <= FRONTAL_DEG[0]).nonzero()[:, 0], (azimuth >= 120).nonzero()[:, 0]
    if batch.points.shape[1] == 0 or len(fronts) == 0 or len(backs) < 2:
        return batch
    draws = torch.rand(len(backs), generator=generator).to(backs.device)
    rows = backs[draws < share]
    with_face = draws[draws < share] < 0.5 * share

    def nearest(donors: Tensor) -> Tensor:
        """For each row the donor whose framing is nearest, so that what is pasted has about the head's size."""
        apart = (batch.half_height[donors] - batch.half_height[rows, None]).abs()
        return donors[apart.masked_fill(donors == rows[:, None], torch.inf).argmin(1)]

    donor = torch.where(with_face, nearest(fronts), nearest(backs))
    low, high = batch.points[donor].amin(1), batch.points[donor].amax(1)
    centre, radius = 0.5 * (low + high), (0.5 * (high - low)).clamp_min(4.0)
    pixel = torch.arange(SIZE, device=rows.device) + 0.5
    across = ((pixel - centre[:, :1]) / radius[:, :1])[:, None, :]
    down = ((pixel - centre[:, 1:]) / radius[:, 1:])[:, :, None]
    alpha = ((1.15 - across**2 - down**2) / 0.35).clamp(0, 1)[:, None]
    pasted = torch.lerp(batch.images[rows], batch.images[donor], alpha)
    batch.images, batch.labels = batch.images.clone(), batch.labels.clone()
    batch.images[rows], batch.labels[rows] = pasted, IGNORED
    batch.face_pasted[rows] = with_face.float()
    return batch


def augmented(batch: Batch, generator: torch.Generator) -> Batch:
    """Light, blotches, blur, lost resolution and noise: what sculpted renders have and the world has not."""
    x, count, device = batch.images, len(batch.images), batch.images.device

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, 1, 1, 1, generator=generator).to(device)

    def some(share: float) -> Tensor:
        return (torch.rand(count, generator=generator) < share).nonzero()[:, 0].to(device)

    grey = x.mean(1, keepdim=True)
    x = grey + (x - grey) * uniform(0.85, 1.15)
    x = 0.5 + (x - 0.5) * uniform(0.85, 1.15) + uniform(-0.05, 0.05)
    # Colours that come and go over an eighth of the picture, as on a sculpture whose views disagreed.
    blotchy = some(0.4)
    if len(blotchy):
        coarse = 0.05 * normal_like(x.new_empty(len(blotchy), 3, 16, 16), generator)
        smooth = F.interpolate(coarse, (SIZE, SIZE), mode="bilinear", align_corners=False)
        x[blotchy] = x[blotchy] + smooth * uniform(0.2, 1.6)[blotchy]
    # A 3x3 mean in two passes: avg_pool2d takes five times as long on a CPU.
    soft = F.pad(x, (1, 1, 1, 1), mode="replicate")
    soft = soft[:, :, :-2] + soft[:, :, 1:-1] + soft[:, :, 2:]
    soft = (soft[..., :-2] + soft[..., 1:-1] + soft[..., 2:]) / 9
    x = torch.lerp(x, soft, uniform(-0.7, 1.0).clamp_min(0))
    size = int(torch.randint(60, 112, (), generator=generator))
    few = some(0.25)
    if len(few):
        small = F.interpolate(x[few], (size, size), mode="bilinear", antialias=True, align_corners=False)
        x[few] = F.interpolate(small, (SIZE, SIZE), mode="bilinear", align_corners=False)
    loud = some(0.35)  # normal numbers cost as much as all else here
    x[loud] += normal_like(x[loud], generator) * uniform(0.0, 0.035)[loud]
    batch.images = x.clamp(0, 1)
    return batch


def judge_loss(outputs: dict[str, Tensor], batch: Batch, smoothing: float = 0.03) -> Tensor:
    """Cross-entropy over what each picture shows, the two questions about the face, and landmarks."""
    total = outputs["face_seen"].new_zeros(())
    for index, family in enumerate(VALUES):
        labels = batch.labels[:, index]
        wrong = F.cross_entropy(outputs[family], labels, reduction="sum", label_smoothing=smoothing)
        total = total + wrong / (labels != IGNORED).sum().clamp_min(1)
    pasted = batch.face_pasted
    for name, band in (("face_seen", FACE_SEEN_DEG), ("frontal", FRONTAL_DEG)):
        label, weight = band_label(batch.azimuth_deg, band)
        label, weight = torch.where(pasted < 0, label, pasted), torch.where(pasted < 0, weight, 1.0)
        loss = F.binary_cross_entropy_with_logits(outputs[name][:, 0], label, weight, reduction="sum")
        total = total + loss / weight.sum().clamp_min(1)
    framing = F.smooth_l1_loss(outputs["half_height"][:, 0], batch.half_height - 0.8, beta=0.05)
    total = total + 2.0 * framing
    if "points" in outputs:
        azimuth = ((batch.azimuth_deg + 180) % 360 - 180).abs()
        shown = ((azimuth <= LANDMARK_LIMIT_DEG) & (pasted < 0)).float()[:, None]
        weight = shown * (0.3 + 0.7 * batch.points_visible)
        target = batch.points / (0.5 * SIZE) - 1
        # Beta 0.03 is two pixels: squared below, absolute above. The factor makes one pixel count like
        # a tenth of a wrong family.
        distance = F.smooth_l1_loss(outputs["points"], target, beta=0.03, reduction="none").sum(-1)
        total = total + 8.0 * (weight * distance).sum() / weight.sum().clamp_min(1)
        seen = F.binary_cross_entropy_with_logits(
            outputs["points_visible"], batch.points_visible, shown.expand_as(weight), reduction="sum"
        )
        total = total + 0.2 * seen / (shown.sum() * weight.shape[1]).clamp_min(1)
    return total


def judge_stage(
    network: JudgeNetwork, portraits: Portraits, rows: np.ndarray, folder: Path, size: int = BATCH
) -> Stage:
    """The judge as a stage of the common training loop.

    Args:
        network: trained in place.
        portraits: the data set.
        rows: images of it to train on; the others stay held out.
        folder: gets the finished weights.
        size: pictures a step.
    """
    device = next(network.parameters()).device
    examples = Examples(portraits, device)

    def batch_at(step: int, generator: torch.Generator) -> Batch:
        # Without replacement within an epoch, and a function of the step alone.
        per_epoch = max(len(rows) // size, 1)
        epoch, place = divmod(step, per_epoch)
        order = np.random.default_rng((17, epoch)).permutation(len(rows))[place * size : (place + 1) * size]
        batch = augmented(paste_faces(examples[rows[np.sort(order)]], generator), generator)
        batch.images = batch.images.contiguous(memory_format=torch.channels_last)
        return batch

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        batch = batch_at(step, generator)
        with mixed(device):
            outputs = network(batch.images)
        return judge_loss(outputs, batch), {}

    def export(model: nn.Module) -> None:
        # The loop averages weights, and averaged weights have statistics of their own: measure them
        # (Izmailov et al. 2018, arXiv 1803.05407, section 3.2).
        norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
        generator = torch.Generator().manual_seed(1)
        model.train()
        with torch.no_grad():
            for step in range(STATISTICS_BATCHES):
                model(batch_at(step, generator).images)
        for norm in norms:
            norm.momentum = 0.1
        Judge(network).save(folder)

    return Stage(
        "judge", network, loss, export, size, learning_rate=2e-3, weight_decay=0.02, betas=(0.9, 0.98),
        ema_decay=0.998, clip_norm=5.0, muon=True,
    )  # fmt: skip


def begin_with(network: JudgeNetwork, folder: Path) -> None:
    """Copies the weights of a trained judge.

    Raises:
        FileNotFoundError: no judge there.
        ValueError: it has another shape.
    """
    trained = load_judge(folder).network
    if trained.config != network.config:
        raise ValueError(f"the judge in {folder} is {trained.config}; the one to train is {network.config}")
    network.load_state_dict(trained.state_dict())


def split_rows(portraits: Portraits, share: float = 0.03) -> tuple[np.ndarray, np.ndarray]:
    """Images to train on, and the last figures' images (at least one figure's), which nothing trains on."""
    figures = len(portraits) // VIEWS_PER_FIGURE
    first = VIEWS_PER_FIGURE * (figures - max(1, round(share * figures)))
    return np.arange(first), np.arange(first, len(portraits))


@torch.no_grad()
def held_out_accuracy(judge: Judge, portraits: Portraits, rows: np.ndarray) -> dict[str, float]:
    """Accuracy by family over the pictures that show it, their mean ``all`` (every reading counts once), of the
    two face questions, and ``landmark_error``: mean distance of visible points as a fraction of the width."""
    right: dict[str, list[np.ndarray]] = {name: [] for name in (*VALUES, "face_seen", "frontal")}
    distances: list[np.ndarray] = []
    examples = Examples(portraits)
    for start in range(0, len(rows), 256):
        batch = examples[rows[start : start + 256]]
        outputs = {name: value.cpu() for name, value in judge.outputs(batch.images).items()}
        for index, family in enumerate(VALUES):
            label = batch.labels[:, index]
            right[family].append((outputs[family].argmax(-1) == label)[label != IGNORED].numpy())
        for name, band in (("face_seen", FACE_SEEN_DEG), ("frontal", FRONTAL_DEG)):
            label, weight = band_label(batch.azimuth_deg, band)
            right[name].append(((outputs[name][:, 0] > 0) == (label > 0))[weight > 0].numpy())
        if "points" in outputs:
            front = (((batch.azimuth_deg + 180) % 360 - 180).abs() <= 60)[:, None] & (
                batch.points_visible > 0
            )
            found = (0.5 + 0.5 * outputs["points"]) * SIZE
            distances.append(((found - batch.points).norm(dim=-1)[front] / SIZE).numpy())
    joined = {name: np.concatenate(parts) for name, parts in right.items()}
    result = {name: float(hits.mean()) for name, hits in joined.items() if len(hits)}
    readings = np.concatenate([joined[name] for name in VALUES])
    result["all"] = float(readings.mean()) if len(readings) else 0.0
    if distances and sum(map(len, distances)):
        result["landmark_error"] = float(np.concatenate(distances).mean())
    return result


def figure_accuracy(judge: Judge, count: int = 160, seed: int = 123) -> dict[str, float]:
    """Accuracy by family over whole figures of the world, read from many views as sculpted heads are.

    Args:
        judge: to measure.
        count: of figures; none of them is in a data set.
        seed: of the figures.

    Returns:
        the share of right readings of each family that some view shows, and of all together as ``all``.
    """
    rng = np.random.default_rng((99, seed))
    azimuths, framings = (list(column) for column in zip(*READ_VIEWS, strict=True))
    cameras = framed(azimuths, [ELEVATION_DEG] * len(azimuths), framings, height=SIZE, width=SIZE)
    right: dict[str, list[bool]] = {family: [] for family in VALUES}
    for _ in range(count):
        person = sample_attributes(rng)
        pictures = render_figure(build_figure(person, rng), cameras, background=np.array(BACKGROUND))["rgb"]
        images = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
        read = judge.read_views(images, azimuths, framings)
        places = zip(azimuths, framings, strict=True)
        for family in set().union(*(visible_families(person, a, h, ELEVATION_DEG) for a, h in places)):
            right[family].append(family in read and read[family][0] == getattr(person, family))
    result = {family: float(np.mean(hits)) for family, hits in right.items() if hits}
    result["all"] = float(np.mean(sum(right.values(), [])))
    return result


def accuracy_table(accuracy: dict[str, float]) -> str:
    """Lines to print."""
    lines = [f"{name:18s} {100 * value:6.2f} %" for name, value in accuracy.items() if name != "all"]
    return "\n".join([*lines, f"{'all attributes':18s} {100 * accuracy.get('all', 0.0):6.2f} %"])


def main(arguments: list[str] | None = None) -> int:
    """Command line; exit status 0 when the judge is written, 1 when interrupted, 2 for bad usage."""
    parser = argparse.ArgumentParser(prog="python -m headsculpt.evaluation.train_judge", description=__doc__)
    parser.add_argument(
        "--data", type=Path, required=True, help="folder of portraits (headsculpt train-prior data)"
    )
    parser.add_argument(
        "--work", type=Path, required=True, help="folder of the run's state; the same folder resumes"
    )
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="folder that gets the finished weights")
    parser.add_argument("--start", type=Path, help="folder of a judge to begin with, rather than afresh")
    parser.add_argument("--held-out", type=Path, help="portraits of another seed; default: 3%% of --data")
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--minutes", type=float, default=12.0)
    budget.add_argument("--steps", type=int)
    parser.add_argument("--batch", type=int, default=BATCH, help="pictures a step")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--figures", type=int, default=160, help="read from all sides as well, after the pictures")
    parser.add_argument("--only-measure", action="store_true", help="measure the weights that are there")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if given.threads:
        torch.set_num_threads(given.threads)
    try:
        if given.batch < 1:
            raise ValueError(f"--batch must be at least 1; got {given.batch}")
        portraits = open_dataset(given.data)
        rows, held_rows = split_rows(portraits)
        held_out = portraits
        if given.held_out is not None:
            rows, held_out = np.arange(len(portraits)), open_dataset(given.held_out)
            held_rows = np.arange(len(held_out))
        if not given.only_measure:
            torch.manual_seed(given.seed)
            contours = {name: int(part.stop - part.start) for name, part in portraits.contours.items()}
            network = JudgeNetwork(JudgeConfig(contours=contours))
            network = network.to(device=given.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            if given.start is not None:
                begin_with(network, given.start)
            stage = judge_stage(network, portraits, rows, given.weights, given.batch)
            end = Budget(None if given.steps else given.minutes, given.steps)
            if not train(stage, given.work, end, seed=given.seed):
                print(
                    f"stopped; the same command goes on from what is saved in {given.work}", file=sys.stderr
                )
                return 1
        judge = load_judge(given.weights, given.device)
        judge.accuracy = held_out_accuracy(judge, held_out, held_rows)
        judge.save(given.weights)
    except (FileNotFoundError, ValueError, OSError) as error:
        print(f"train_judge: {error}", file=sys.stderr)
        return 1
    print(accuracy_table(judge.accuracy))
    print(f"read off {len(held_rows)} held-out pictures; weights in {given.weights}")
    if given.figures > 0:
        print("\n" + accuracy_table(figure_accuracy(judge, given.figures)))
        print(f"read off {given.figures} new figures, each from {len(READ_VIEWS)} views, as sculpted heads are")
    return 0


if __name__ == "__main__":
    sys.exit(main())
