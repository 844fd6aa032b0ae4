"""What each part of the method is worth: the same prompts and edits without it, judged in the same way.

    python -m benchmarks.ablations                      # all rows on the prompts of benchmarks/ablations.json
    python -m benchmarks.ablations --limit 2 --preset draft --rows full no-landmarks
    python -m benchmarks.ablations --prompts my.json --clip openai/clip-vit-base-patch32

Every head is kept in ``--work`` and is not sculpted again; a run that was stopped goes on where it was. Tables
and the contact sheet are written after every head, to ``docs/ablations.md`` and ``docs/images/ablations.jpg``.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from headsculpt.config import EditConfig

log = logging.getLogger("headsculpt.ablations")

STRENGTHS = (0.2, 0.4, 0.6, 0.8, 1.0)
USUAL = EditConfig().strength


@dataclass(frozen=True)
class Row:
    """One variant of the method.

    Attributes:
        name: for ``--rows`` and folders.
        title: in the table.
        overrides: settings beside the preset's; ``{total}`` is the preset's steps of both stages together.
        strength: w_e of an edit; None for rows that are no edit.
        where_known: settings that are left out where this headsculpt does not have them.
    """

    name: str
    title: str
    overrides: tuple[str, ...] = ()
    strength: float | None = None
    where_known: tuple[str, ...] = ()

    @property
    def is_edit(self) -> bool:
        return self.strength is not None


ROWS = (
    Row("full", "full"),
    Row("no-landmarks", "without landmark control", ("prior.controls=[]",)),
    Row("no-token", "without back-view token", ("guidance.back_token=false",)),
    # Nor the head's colours, which would say where its face is.
    Row(
        "no-density-prior", "without density prior", ("coarse.prior_kind=blob",),
        where_known=("coarse.paint_steps=0", "guidance.text_to_head=false"),
    ),
    # The same number of steps in all, so that what is missing is the other stage and not its time.
    Row("nerf-only", "NeRF only", ("coarse.steps={total}", "fine.steps=0", "refine.views=0")),
    Row("dmtet-only", "DMTet only", ("coarse.steps=0", "fine.steps={total}")),
    Row("no-relief", "without the head's relief", ("fine.relief=0",)),
    Row("no-busts-first", "close looks at the face from the first step", ("cameras.busts_first=0",)),
    Row("no-replay", "each picture learnt once", ("coarse.replay=0", "fine.replay=0")),
    Row("no-refinement", "without the last look", ("refine.views=0",)),
    Row("unguided-landmarks", "last look not guided to landmarks", ("refine.landmarks_guided=false",)),
    Row("nothing-kept-off", "moustaches not kept off", ("guidance.keep_off=false",)),
    Row("not-carried-on", "last look not carried on to what it does not show", ("refine.carry_on=false",)),
    *(Row(f"edit-{w}", f"edit, w_e = {w}", (), w) for w in STRENGTHS),
    # At the default strength: where an edit hardly begins, it does not matter what holds it.
    Row("edit", f"edit, w_e = {USUAL}", (), USUAL),
    Row("edit-no-mask", f"edit, w_e = {USUAL}, without mask", ("edit.mask=false",), USUAL),
    Row("edit-no-place", f"edit, w_e = {USUAL}, places not held", ("edit.place=false",), USUAL),
    # w_e = 1 leaves nothing of the prediction for the source's description; the reference goes as well.
    Row(
        "edit-no-identity", "edit without identity term, mask and places",
        ("edit.reference=false", "edit.mask=false", "edit.place=false"), 1.0,
    ),
)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--preset", default="mini")
    parser.add_argument("--limit", type=int, help="only the first N prompts, and the first N edits")
    parser.add_argument("--rows", nargs="*", default=[row.name for row in ROWS], choices=[row.name for row in ROWS])
    parser.add_argument("--work", type=Path, default=Path("runs/ablations"))
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    parser.add_argument("--clip", default="mini", help="mini, a folder, or an id of the hub's cache")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of every row")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        run(given)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def run(given: argparse.Namespace, sculpt: Callable[..., Any] | None = None, judge: Any = None) -> list[dict[str, Any]]:
    """All rows; returns the finished lines of the table. ``sculpt`` and ``judge`` are replaced by tests."""
    from headsculpt.avatar import Avatar
    from headsculpt.evaluation import evaluate, metrics
    from headsculpt.evaluation.judge import load_judge

    tasks, edits = evaluate.read_prompts(given.prompts)
    if given.limit is not None and given.limit < 1:
        raise ValueError(f"--limit is {given.limit}; expected 1 or more")
    tasks, edits = tasks[: given.limit], edits[: given.limit]
    judge = judge or load_judge()
    try:
        clip = metrics.load_clip(given.clip, "cpu")
    except FileNotFoundError as error:
        print(f"without CLIP's columns: {error}")
        clip = None
    sculpt = sculpt or evaluate.sculpted
    bench = Bench(given, judge, clip, sculpt, [task.prompt for task in tasks])
    lines: list[dict[str, Any]] = []
    sheet: list[tuple[str, list[Image.Image]]] = []
    for row in ROWS:
        if row.name not in given.rows:
            continue
        reason = skipped(row, given, Avatar, edits)
        if reason:
            print(f"skipped: {row.title}: {reason}")
            continue
        found, pictures = [], []
        for number, task in enumerate(edits if row.is_edit else tasks, 1):
            log.info("%s: %s", row.title, task.text)
            figures, shown = bench.one(row, task, number)
            found.append(figures)
            pictures += shown[:2] if number <= 4 else []  # front and three-quarter of the first four
            done = [*lines, {"name": row.name, "title": row.title, "edit": row.is_edit, **summed(found)}]
            write(given, done, [*sheet, (row.title, pictures)])
        if found:
            lines.append({"name": row.name, "title": row.title, "edit": row.is_edit, **summed(found)})
            sheet.append((row.title, pictures))
    return lines


def skipped(row: Row, given: argparse.Namespace, avatar: type, edits: Sequence[Any]) -> str:
    """Why a row cannot run, or an empty text."""
    from headsculpt.config import keys, load_config

    if row.is_edit and not hasattr(avatar, "edit"):
        return "this headsculpt cannot edit yet"
    if row.is_edit and not edits:
        return "the prompts file has no edits"
    unknown = [o for o in row.overrides if o.partition("=")[0] not in keys()]
    if unknown:
        return f"this headsculpt has no setting {unknown[0].partition('=')[0]}"
    config = load_config(given.preset, given.set)
    if row.name == "no-token" and not has_token(config.prior.name, config.prior.tokens):
        return f"prior '{config.prior.name}' has no learned back-view token; headsculpt learn-token makes it"
    return ""


def has_token(prior: str, files: Sequence[str]) -> bool:
    """Whether view prompts of this prior have a token that could be left out."""
    from headsculpt.priors.catalogue import MINI_FOLDER

    folder = MINI_FOLDER if prior == "mini" else Path(prior)
    return bool(files) or (folder / "tokens" / "back-view.safetensors").is_file()


@dataclass
class Bench:
    """What all rows share."""

    given: argparse.Namespace
    judge: Any
    clip: tuple[Any, Any] | None
    sculpt: Callable[..., Any]
    prompts: list[str]

    def one(self, row: Row, task: Any, number: int) -> tuple[dict[str, Any], list[Image.Image]]:
        """The figures and pictures of one head of a row; sculpts it where that is not done."""
        from headsculpt.avatar import Avatar
        from headsculpt.evaluation.evaluate import judged, slug
        from headsculpt.evaluation.evaluate_clip import edit_figures, head_figures

        folder = self.given.work / row.name / f"{number:02d}-{slug(task.instruction or task.prompt)}"
        note = folder / "minutes.json"
        if note.is_file():
            minutes, avatar = json.loads(note.read_text())["minutes"], Avatar.load(folder)
            source = self.source(task) if row.is_edit else None
        else:
            # Before the clock starts: the source of an edit is not part of its time.
            source = self.source(task) if row.is_edit else None
            fresh, started = not folder.exists(), time.monotonic()
            avatar = self.edited(row, task, source, folder) if row.is_edit else self.head(row, task.prompt, folder)
            minutes = (time.monotonic() - started) / 60 if fresh else None
            note.write_text(json.dumps({"minutes": minutes}))
        judgement, shown = judged(task, avatar, self.judge, folder)
        figures = {
            "right": sum(judgement.right.values()), "asked": len(judgement.right),
            "seen": bool(judgement.right) and all(judgement.right.values()),
            "janus": bool(judgement.janus["found"]), "mesh": bool(judgement.mesh["ok"]), "minutes": minutes,
        }  # fmt: skip
        if self.clip is not None and source is None:
            figures |= head_figures(self.clip, avatar, task.prompt, self.prompts)
        elif self.clip is not None:
            figures |= edit_figures(self.clip, source, avatar)
        if source is not None:
            from headsculpt.evaluation.preservation import identity_preservation

            figures |= identity_preservation(source, avatar, self.judge, set(task.expects))
        return figures, shown

    def head(self, row: Row, prompt: str, folder: Path) -> Any:
        from headsculpt.config import keys, load_config

        config = load_config(self.given.preset, self.given.set)
        known = [override for override in row.where_known if override.partition("=")[0] in keys()]
        total = config.coarse.steps + config.fine.steps
        overrides = [*self.given.set, *(override.format(total=total) for override in row.overrides), *known]
        return self.sculpt(
            prompt, folder, preset=self.given.preset, seed=self.given.seed, device=self.given.device,
            overrides=overrides,
        )  # fmt: skip

    def source(self, task: Any) -> Any:
        """The head that an edit starts from: that of the row "full", sculpted for it where it is not there."""
        from headsculpt.avatar import Avatar
        from headsculpt.evaluation.evaluate import slug

        known = sorted((self.given.work / "full").glob(f"[0-9]*-{slug(task.prompt)}/avatar/avatar.json"))
        if known:
            return Avatar.load(known[0].parent.parent)
        return self.head(ROWS[0], task.prompt, self.given.work / "sources" / slug(task.prompt))

    def edited(self, row: Row, task: Any, source: Any, folder: Path) -> Any:
        """An edit is short: one that was interrupted begins again."""
        import shutil

        shutil.rmtree(folder, ignore_errors=True)
        avatar = source.edit(
            task.instruction, strength=row.strength, seed=self.given.seed, device=self.given.device,
            overrides=list(row.overrides),
        )  # fmt: skip
        avatar.save(folder / "avatar")
        return avatar


def summed(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Totals and means of the heads of a row; None where nothing was measured."""

    def mean(key: str) -> float | None:
        values = [f[key] for f in found if f.get(key) is not None]
        return sum(values) / len(values) if values else None

    def total(key: str) -> int:
        return sum(f.get(key) or 0 for f in found)

    result: dict[str, Any] = {"heads": len(found)}
    result |= {key: total(key) for key in ("right", "asked", "seen", "janus", "mesh", "kept", "kept_of")}
    means = ("minutes", "clip_s", "clip_r", "clip_ds", "outside_difference", "landmark_drift")
    return result | {key: mean(key) for key in means}


def percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.0f} % ({part:.0f} of {whole:.0f})" if whole else ""


def number(value: float | None, form: str = ".3f") -> str:
    return "" if value is None else format(value, form)


def markdown(given: argparse.Namespace, lines: Sequence[dict[str, Any]]) -> str:
    """The tables of ``docs/ablations.md``."""
    processor = platform.processor() or platform.machine()
    machine = f"{processor}, torch {torch.__version__}, {torch.get_num_threads()} threads"
    text = [
        "# Ablations", "",
        "What each part is worth: the same prompts and seed without it, read by the judge "
        "(`headsculpt/evaluation`). Written by", "", "```console",
        f"python -m benchmarks.ablations --preset {given.preset}" + (f" --limit {given.limit}" if given.limit else ""),
        "```", "", f"on {machine}.", "",
        "![front and three-quarter view of the first heads of each row](images/ablations.jpg)",
    ]  # fmt: skip
    heads = [line for line in lines if not line["edit"]]
    if heads:
        text += [
            "", "## Heads", "",
            "| variant | heads | attributes right | second faces | meshes in order | CLIP score | CLIP R-precision | "
            "minutes |", "|---|---|---|---|---|---|---|---|",
        ]  # fmt: skip
        text += [
            f"| {h['title']} | {h['heads']} | {percent(h['right'], h['asked'])} | {h['janus']} | {h['mesh']} | "
            f"{number(h['clip_s'])} | {number(h['clip_r'], '.2f')} | {number(h['minutes'], '.1f')} |"
            for h in heads
        ]
    edits = [line for line in lines if line["edit"]]
    if edits:
        text += [
            "", "## Edits", "",
            "The change that was asked for is seen; the other attributes stay; mean difference of pixels outside the "
            "edited region (0 to 1); drift of the landmarks as a share of the picture's width.", "",
            "| variant | edits | change seen | others kept | outside | landmark drift | CLIP direction | minutes |",
            "|---|---|---|---|---|---|---|---|",
        ]  # fmt: skip
        text += [
            f"| {e['title']} | {e['heads']} | {percent(e['seen'], e['heads'])} | {percent(e['kept'], e['kept_of'])} | "
            f"{number(e['outside_difference'])} | {number(e['landmark_drift'])} | {number(e['clip_ds'])} | "
            f"{number(e['minutes'], '.1f')} |"
            for e in edits
        ]
    return "\n".join(text) + "\n"


def write(
    given: argparse.Namespace, lines: Sequence[dict[str, Any]], sheet: list[tuple[str, list[Image.Image]]]
) -> None:
    from headsculpt.evaluation.contact_sheet import contact_sheet
    from headsculpt.run_folder import write_atomically

    given.docs.mkdir(parents=True, exist_ok=True)
    write_atomically(given.docs / "ablations.md", markdown(given, lines).encode())
    write_atomically(given.work / "ablations.json", (json.dumps(list(lines), indent=1) + "\n").encode())
    contact_sheet(sheet, given.docs / "images" / "ablations.jpg", columns=1)


if __name__ == "__main__":
    sys.exit(main())
