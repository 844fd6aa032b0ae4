"""The one training loop of all priors: resumable, with a time budget, a loss log and sample sheets.

``python -m headsculpt.priors.training STAGE --work DIR --minutes M`` trains one stage. A stage killed at
any moment goes on where it last saved; run with ``--steps`` in one process it ends bit for bit where an undisturbed
run ends (with ``--minutes`` the learning rate follows the clock, so it ends near it).
"""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from headsculpt.priors import parallel
from headsculpt.priors.optimiser import MuonAdamW

if TYPE_CHECKING:
    from PIL.Image import Image

log = logging.getLogger(__name__)

STATE_FILE = "state.pt"
LOSS_FILE = "losses.jsonl"


@dataclass
class Stage:
    """One model to train.

    Attributes:
        name: of its folder under the work folder, and of its module folder.
        model: the trainable module; only parameters with ``requires_grad`` are trained and averaged.
        loss: one batch's loss from (step, generator), with further figures for the log. The generator is
            the only source of randomness and is part of the saved state.
        export: writes the averaged weights (given as a state dict of ``model``) to ``work/modules``.
        sheet: a picture to judge by eye from the averaged model, or None.
        batch: images a step, for the log.
        ema_decay: the last decay of the averaged weights.
        muon: train matrices with Muon rather than AdamW.
        modules: parts of the model by their folder in a family, for :func:`start_from`.
    """

    name: str
    model: nn.Module
    loss: Callable[[int, torch.Generator], tuple[Tensor, Mapping[str, float | Tensor]]]
    export: Callable[[Any], None]
    batch: int
    sheet: Callable[[Any], Image] | None = None
    learning_rate: float = 6e-4
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.99)
    ema_decay: float = 0.999
    warm_up_steps: int = 100
    clip_norm: float = 1.0
    muon: bool = False
    modules: dict[str, nn.Module] = field(default_factory=dict)


@dataclass
class Budget:
    """When a stage ends: after this much time used over all its runs, or after this many steps."""

    minutes: float | None = None
    steps: int | None = None

    def progress(self, step: int, seconds: float) -> float:
        """Part of the budget that is used, in [0, 1]."""
        if self.steps is not None:
            return min(1.0, step / max(self.steps, 1))
        return min(1.0, seconds / max(60.0 * (self.minutes or 0.0), 1e-9))


@dataclass
class _State:
    step: int = 0
    seconds: float = 0.0
    generator: torch.Generator = field(default_factory=torch.Generator)


def train(
    stage: Stage,
    work: Path,
    budget: Budget,
    *,
    seed: int = 0,
    save_every_s: float = 120.0,
    sheet_every_s: float = 480.0,
    log_every: int = 20,
    pause_after: int | None = None,
) -> bool:
    """Train a stage within its budget, going on from its last saved state if there is one.

    SIGINT and SIGTERM save and stop. The learning rate warms up and then falls to zero on a cosine over
    the budget; the exported weights are an exponential moving average.

    Args:
        stage: what to train.
        work: folder; the state goes to ``work/<stage>/``.
        budget: a stage whose budget is used up is only exported.
        seed: of the stage's generator, when it starts afresh.
        save_every_s, sheet_every_s: seconds between saved states and between sample sheets.
        log_every: steps between lines of the loss log.
        pause_after: stop as if interrupted after this many steps of this call.

    Returns:
        True if the budget is used up and the weights are exported; False if interrupted.

    Raises:
        FloatingPointError: the loss is not finite; the last saved state stays.
    """
    folder = work / stage.name
    folder.mkdir(parents=True, exist_ok=True)
    parameters = [p for p in stage.model.parameters() if p.requires_grad]
    optimiser: Any
    if stage.muon:
        optimiser = MuonAdamW(stage.model, stage.learning_rate, stage.betas, stage.weight_decay)
    else:
        optimiser = torch.optim.AdamW(
            parameters,
            lr=stage.learning_rate,
            betas=stage.betas,
            weight_decay=stage.weight_decay,
            foreach=True,
        )
    ema = [p.detach().clone() for p in parameters]
    state = _State()
    state.generator.manual_seed(seed)
    _load(folder / STATE_FILE, parameters, ema, optimiser, state)
    chief = parallel.rank() == 0
    if chief:
        _trim_log(folder / LOSS_FILE, state.step)
    else:  # other batches than process 0 draws; its generator alone is saved
        state.generator.manual_seed(seed + 1_000_003 * parallel.rank() + state.step)
    started_step, since = state.step, time.monotonic()
    saved = sheeted = since
    window: list[Tensor] = []
    figures: Mapping[str, float | Tensor] = {}
    window_start, window_step = since, state.step
    finished = True

    with _stop_signals() as stopped, _ProgressLine(stage.name) as line:
        while True:
            (progress,) = parallel.agreed(budget.progress(state.step, state.seconds))
            if progress >= 1.0:
                break
            rate = stage.learning_rate * min(1.0, (state.step + 1) / stage.warm_up_steps)
            rate *= max(0.5 * (1.0 + math.cos(math.pi * progress)), 0.01)
            for group in optimiser.param_groups:
                group["lr"] = rate
            loss, figures = stage.loss(state.step, state.generator)
            window.append(loss.detach())
            if loss.device.type == "cpu":  # elsewhere, to read a loss is to wait for it
                _check_finite(window, state.step, stage, folder)
            loss.backward()
            parallel.average_gradients(parameters)
            nn.utils.clip_grad_norm_(parameters, stage.clip_norm)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            with torch.no_grad():
                decay = min(stage.ema_decay, (1 + state.step) / (10 + state.step))
                torch._foreach_lerp_(ema, [p.detach() for p in parameters], 1.0 - decay)
            state.step += 1
            now = time.monotonic()
            state.seconds += now - since
            since = now
            if state.step % log_every == 0:
                _check_finite(window, state.step - 1, stage, folder)
            if chief and state.step % log_every == 0:
                speed = (
                    (state.step - window_step)
                    * stage.batch
                    * parallel.world_size()
                    / max(now - window_start, 1e-9)
                )
                mean = float(torch.stack(window).mean())
                record = {"step": state.step, "seconds": round(state.seconds, 1), "loss": round(mean, 6)}
                record |= {"rate": rate, "images_per_s": round(speed, 1)}
                record |= {name: round(float(figure), 5) for name, figure in figures.items()}
                with open(folder / LOSS_FILE, "a", encoding="utf-8") as file:
                    file.write(json.dumps(record) + "\n")
                line.show(progress, budget, record)
                window_start, window_step = now, state.step
            if state.step % log_every == 0:
                window = []
            stop = stopped() or (pause_after is not None and state.step - started_step >= pause_after)
            stop = bool(parallel.agreed(float(stop))[0])
            if chief and (stop or now - saved > save_every_s):
                _check_finite(window, state.step - 1, stage, folder)
                _save(folder / STATE_FILE, parameters, ema, optimiser, state)
                saved = now
            if stop:
                finished = budget.progress(state.step, state.seconds) >= 1.0
                break
            if chief and now - sheeted > sheet_every_s:
                _write_pictures(stage, folder, parameters, ema, state.step)
                sheeted = time.monotonic()
    if not finished:
        return False
    if not chief:
        return True
    _check_finite(window, state.step - 1, stage, folder)
    _save(folder / STATE_FILE, parameters, ema, optimiser, state)
    _write_pictures(stage, folder, parameters, ema, state.step)
    with _averaged(parameters, ema):
        stage.model.eval()
        stage.export(stage.model)
        stage.model.train()
    return True


@torch.no_grad()
def start_from(stage: Stage, family: Path) -> int:
    """Copy a family's weights into a fresh stage, wherever name and shape agree; returns how many tensors.

    Raises:
        FileNotFoundError: the family has none of the stage's modules.
    """
    copied = 0
    for name, module in stage.modules.items():
        files = list((family / name).glob("*.safetensors"))
        if not files:
            log.info("%s: no weights in %s; this part starts afresh", stage.name, family / name)
            continue
        tensors = load_file(files[0])
        for key, own in module.state_dict().items():
            if key in tensors and tensors[key].shape == own.shape:
                own.copy_(tensors[key])
                copied += 1
            else:
                log.info("%s: %s.%s starts afresh", stage.name, name, key)
    if not copied:
        raise FileNotFoundError(
            f"{family} has no weights to start stage '{stage.name}' from; expected a prior folder with "
            f"{' or '.join(sorted(stage.modules)) or 'this stage in it (it has no such module)'}"
        )
    return copied


def export_unfinished(stage: Stage, work: Path) -> int:
    """Export the averaged weights of the last saved state; returns its step.

    Raises:
        FileNotFoundError: the stage has not saved yet.
    """
    path = work / stage.name / STATE_FILE
    if not path.exists():
        raise FileNotFoundError(f"stage '{stage.name}' has saved no state at {path}; train it first")
    parameters = [p for p in stage.model.parameters() if p.requires_grad]
    ema = [p.detach().clone() for p in parameters]
    state = _State()
    _load(path, parameters, ema, None, state)
    with _averaged(parameters, ema):
        stage.model.eval()
        stage.export(stage.model)
    return state.step


def _check_finite(window: Sequence[Tensor], step: int, stage: Stage, folder: Path) -> None:
    """FloatingPointError if one of the losses up to that of ``step`` is not finite."""
    for back, value in enumerate(reversed(torch.stack([*window]).tolist() if window else [])):
        if not math.isfinite(value):
            raise FloatingPointError(
                f"the loss of stage '{stage.name}' became {value} at step {step - back}; its last saved "
                f"state is kept in {folder}: run again to go on from there, or lower the learning rate"
            )


def _save(
    path: Path,
    parameters: Sequence[Tensor],
    ema: list[Tensor],
    optimiser: Any,
    state: _State,
) -> None:
    content = {
        "parameters": [p.detach() for p in parameters],
        "ema": ema,
        "optimiser": optimiser.state_dict(),
        "step": state.step,
        "seconds": state.seconds,
        "generator": state.generator.get_state(),
    }
    temporary = path.with_suffix(".tmp")
    torch.save(content, temporary)
    os.replace(temporary, path)


def _load(
    path: Path,
    parameters: list[nn.Parameter],
    ema: list[Tensor],
    optimiser: Any | None,
    state: _State,
) -> None:
    if not path.exists():
        return
    content = torch.load(path, map_location="cpu", weights_only=True)
    shapes = [tuple(p.shape) for p in parameters]
    if [tuple(p.shape) for p in content["parameters"]] != shapes:
        raise ValueError(
            f"{path} holds another model than the one to train (its parameters have other shapes); "
            f"use another work folder, or delete {path.parent} to start this stage afresh"
        )
    with torch.no_grad():
        for ours, average, p, e in zip(parameters, ema, content["parameters"], content["ema"], strict=True):
            ours.copy_(p)
            average.copy_(e)
    if optimiser is not None:
        optimiser.load_state_dict(content["optimiser"])
    state.step, state.seconds = content["step"], content["seconds"]
    state.generator.set_state(content["generator"])


@contextmanager
def _averaged(parameters: list[nn.Parameter], ema: list[Tensor]) -> Iterator[None]:
    """The model with its averaged weights, for as long as the block lasts."""
    with torch.no_grad():
        own = [p.detach().clone() for p in parameters]
        for p, e in zip(parameters, ema, strict=True):
            p.copy_(e)
        try:
            yield
        finally:
            for p, o in zip(parameters, own, strict=True):
                p.copy_(o)


@contextmanager
def _stop_signals() -> Iterator[Callable[[], bool]]:
    """Turns SIGINT and SIGTERM into a question that the loop asks after each step."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = {
        number: signal.signal(number, lambda *_: asked.set()) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _trim_log(path: Path, step: int) -> None:
    """Drop the lines after the step that a run goes on from."""
    if not path.exists():
        return
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
    kept = [line for line in lines if json.loads(line)["step"] <= step]
    path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")


def _write_pictures(
    stage: Stage, folder: Path, parameters: list[nn.Parameter], ema: list[Tensor], step: int
) -> None:
    curve = loss_curve(folder / LOSS_FILE)
    if curve is not None:
        curve.save(folder / "losses.png")
    if stage.sheet is None:
        return
    with _averaged(parameters, ema):
        stage.model.eval()
        picture = stage.sheet(stage.model)
        stage.model.train()
    picture.save(folder / f"sheet-{step:06d}.png")
    picture.save(folder / "sheet.png")


def loss_curve(path: Path, width: int = 640, height: int = 320) -> Image | None:
    """The loss log as a picture with logarithmic axes for the loss, or None while it has two lines or fewer."""
    from PIL import Image, ImageDraw

    if not path.exists():
        return None
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if len(records) < 3:
        return None
    values = [math.log10(max(record["loss"], 1e-9)) for record in records]
    low, high = min(values), max(values)
    picture = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(picture)
    points = []
    for record, value in zip(records, values, strict=True):
        x = 50 + (width - 60) * record["step"] / max(records[-1]["step"], 1)
        points.append((x, 20 + (height - 50) * (high - value) / max(high - low, 1e-9)))
    draw.line(points, fill=(30, 90, 200), width=2)
    draw.text((4, 14), f"{10**high:.3g}", fill="black")
    draw.text((4, height - 36), f"{10**low:.3g}", fill="black")
    last = records[-1]
    draw.text((50, height - 18), f"step {last['step']}, {last['seconds'] / 60:.1f} min", fill="black")
    return picture


class _ProgressLine:
    """One live line on a terminal; elsewhere a log record about once a minute."""

    def __init__(self, name: str) -> None:
        self.name, self.terminal, self.last = name, sys.stderr.isatty(), 0.0

    def __enter__(self) -> _ProgressLine:
        if self.terminal:
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            self.bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f}%  {task.fields[note]}"),
                TimeRemainingColumn(),
            )
            self.bar.start()
            self.task = self.bar.add_task(self.name, total=1.0, note="")
        return self

    def __exit__(self, *_: object) -> None:
        if self.terminal:
            self.bar.stop()

    def show(self, progress: float, budget: Budget, record: dict[str, Any]) -> None:
        note = f"step {record['step']}  loss {record['loss']:.4f}  {record['images_per_s']:.0f}/s"
        if self.terminal:
            self.bar.update(self.task, completed=progress, note=note)
        elif time.monotonic() - self.last > 60:
            self.last = time.monotonic()
            log.info("%s %.0f%%  %s", self.name, 100 * progress, note)


def train_prior(stage: str, work: Path, **keywords: Any) -> bool:
    """Train one stage of the mini family, or "all"; see :func:`headsculpt.priors.stages.train_prior`."""
    from headsculpt.priors import stages

    return stages.train_prior(stage, work, **keywords)


if __name__ == "__main__":
    from headsculpt.priors.stages import main

    sys.exit(main())
