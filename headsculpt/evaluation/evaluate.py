"""Sculpts every prompt of a file, has the judge read the heads, and writes tables and a contact sheet.

``DIR/NN-slug`` is the run folder of a prompt, ``DIR/edit-NN-slug`` of an edit. What is finished is not
sculpted again; it is read again, in seconds, so that the tables always come from the judge at hand.
"""

from __future__ import annotations

import difflib
import json
import logging
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from headsculpt.avatar import Avatar
from headsculpt.evaluation.contact_sheet import contact_sheet
from headsculpt.evaluation.evaluate_prior import evaluate_landmarks, evaluate_prior
from headsculpt.evaluation.judge import Judge, load_judge
from headsculpt.evaluation.metrics import janus_rate
from headsculpt.run_folder import RunFolder, write_atomically
from headsculpt.synthesis.attributes import VALUES
from headsculpt.synthesis.visibility import families_shown

__all__ = ["evaluate_landmarks", "evaluate_prior", "evaluate_prompts", "janus_check", "read_prompts"]

log = logging.getLogger(__name__)

BACKGROUND = (0.95, 0.95, 0.95)
ELEVATION_DEG = 5.0
# (azimuth, half height): front, three-quarter, side and back of the bust, and the face from nearer.
READ_VIEWS = (
    (0.0, 1.0), (35.0, 1.0), (-35.0, 1.0), (80.0, 1.0), (-80.0, 1.0), (140.0, 1.0), (-140.0, 1.0), (180.0, 1.0),
    (0.0, 0.7), (25.0, 0.7), (-25.0, 0.7), (0.0, 0.5), (30.0, 0.5), (-30.0, 0.5),
)  # fmt: skip
SHEET_VIEWS = (0, 1, 3, 7)  # of READ_VIEWS: front, three-quarter, side, back
JANUS_BACK_DEG = (150.0, 165.0, 180.0, 195.0, 210.0)
JANUS_SIDE_DEG = (100.0, 115.0, 130.0, 145.0, -100.0, -115.0, -130.0, -145.0)
FACES_ALLOWED = (10_000, 100_000)
CLEAR = 0.6
JUDGED = "judged.json"

Sculpt = Callable[[str, Path], Avatar]
Edit = Callable[[Avatar, str, Path], Avatar]


@dataclass(frozen=True)
class Task:
    """A prompt, or an edit of a prompt's head, with what the result must show."""

    prompt: str
    expects: dict[str, object]
    instruction: str = ""

    @property
    def text(self) -> str:
        return f"{self.prompt} -> {self.instruction}" if self.instruction else self.prompt


@dataclass
class Judgement:
    """What was found on one head.

    Attributes:
        read: family to the value read and its probability, of all families.
        right: family to whether the reading is what was expected; of the expected families.
        janus: the highest probabilities of a second face, and ``found``.
        mesh: the checks of :func:`mesh_check`.
        minutes: of sculpting, or None where it was not measured in one go.
        error: why there is no head, or "".
        kept: of an edit, family to whether it reads as it did on the source; of the families that the
            instruction leaves alone and that can be seen.
        clear: those of ``kept`` that are read on the source with a probability of :data:`CLEAR` or more; of the
            others the judge is unsure before and after.
    """

    text: str
    expects: dict[str, object]
    folder: str
    read: dict[str, tuple[object, float]] = field(default_factory=dict)
    right: dict[str, bool] = field(default_factory=dict)
    janus: dict[str, Any] = field(default_factory=dict)
    mesh: dict[str, Any] = field(default_factory=dict)
    minutes: float | None = None
    error: str = ""
    is_edit: bool = False
    kept: dict[str, bool] = field(default_factory=dict)
    clear: dict[str, bool] = field(default_factory=dict)


def read_prompts(path: str | Path) -> tuple[list[Task], list[Task]]:
    """Prompts and edits of a file: ``{"prompts": [{"prompt", "expects"}], "edits": [{..., "instruction"}]}``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no JSON, or an entry that lacks something or expects what does not exist; names the entry.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no prompts file {path}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(content, dict) or not isinstance(content.get("prompts"), list):
        raise ValueError(f'{path} should hold {{"prompts": [{{"prompt": ..., "expects": {{...}}}}, ...]}}')
    tasks: dict[str, list[Task]] = {}
    for part, wanted in (("prompts", ("prompt",)), ("edits", ("prompt", "instruction"))):
        entries = content.get(part, [])
        if not isinstance(entries, list):
            raise ValueError(f"{path}: {part} should be a list; got {type(entries).__name__}")
        tasks[part] = [_task(entry, wanted, f"{path}: {part}[{n}]") for n, entry in enumerate(entries)]
    return tasks["prompts"], tasks["edits"]


def _task(entry: Any, wanted: tuple[str, ...], where: str) -> Task:
    if not isinstance(entry, dict):
        raise ValueError(f"{where} should be an object with {' and '.join(wanted)}; got {entry!r}")
    for key in wanted:
        if not isinstance(entry.get(key), str) or not entry[key].strip():
            raise ValueError(f"{where} has no {key!r} (a sentence); it has {sorted(entry) or 'nothing'}")
    if unknown := sorted(set(entry) - {"prompt", "instruction", "expects"}):
        log.warning("%s: %s is not read; what should be seen goes under expects", where, ", ".join(unknown))
    expects = entry.get("expects", {})
    if not isinstance(expects, dict):
        raise ValueError(f"{where}: expects should be an object of family: value; got {expects!r}")
    for family, value in expects.items():
        if family not in VALUES:
            near = difflib.get_close_matches(str(family), VALUES, 1)
            raise ValueError(
                f"{where} expects {family!r}, which is no attribute; "
                + (f"did you mean {near[0]!r}?" if near else f"there are {', '.join(VALUES)}")
            )
        # By type as well: True == 1, and 1 is no value of any family.
        if not any(value == known and type(value) is type(known) for known in VALUES[family]):
            raise ValueError(
                f"{where} expects {family} {value!r}; it can be {', '.join(map(str, VALUES[family]))}"
            )
    return Task(
        entry["prompt"], dict(expects), entry.get("instruction", "") if "instruction" in wanted else ""
    )


def slug(text: str, words: int = 6) -> str:
    """A folder name from a sentence."""
    return "-".join(re.findall(r"[a-z0-9]+", text.lower())[:words]) or "head"


def views_of(avatar: Avatar, places: Iterable[tuple[float, float]], resolution: int = 256) -> Tensor:
    """``(V, 3, R, R)`` pictures in [0, 1] from (azimuth, half height) pairs, on a light background."""
    pictures = [
        avatar.render(a, ELEVATION_DEG, resolution, half_height=half, background=BACKGROUND)
        for a, half in places
    ]
    stacked = np.stack([np.asarray(picture.convert("RGB")) for picture in pictures])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).float() / 255


def janus_check(avatar: Avatar, judge: Judge) -> dict[str, Any]:
    """Looks for a second face.

    From 150 to 210 degrees no face may be seen at all (probability of ``face_seen`` below 0.5). From 100 to
    150 degrees to either side, where the true face may still show its profile, no frontal face may be seen
    (``frontal`` below 0.5): there a frontal face is another one. The judge was trained for this on heads
    with a face pasted on the back.

    Returns:
        ``back`` and ``side``, the highest probabilities, and ``found``.
    """
    back = judge.face_seen(views_of(avatar, [(a, 0.9) for a in JANUS_BACK_DEG])).max()
    side = judge.frontal(views_of(avatar, [(a, 0.9) for a in JANUS_SIDE_DEG])).max()
    return {
        "back": round(float(back), 3),
        "side": round(float(side), 3),
        "found": bool(back >= 0.5 or side >= 0.5),
    }


def mesh_check(avatar: Avatar) -> dict[str, Any]:
    """Whether the mesh is finite, closed and in one part, its number of faces, and ``ok`` for all of it."""
    from headsculpt.export.unwrap import shape_of_surface

    finite = bool(torch.isfinite(avatar.mesh.vertices).all())
    closed, parts, _ = shape_of_surface(avatar.mesh.faces.cpu().numpy())
    faces = len(avatar.mesh.faces)
    ok = finite and closed and parts == 1 and FACES_ALLOWED[0] <= faces <= FACES_ALLOWED[1]
    return {"finite": finite, "watertight": bool(closed), "parts": int(parts), "faces": faces, "ok": ok}


def judged(task: Task, avatar: Avatar, judge: Judge, folder: Path) -> tuple[Judgement, list[Image.Image]]:
    """Reads one head; also gives the four pictures for the contact sheet."""
    images = views_of(avatar, READ_VIEWS)
    readings = judge.read_views(images, [a for a, _ in READ_VIEWS], [half for _, half in READ_VIEWS])
    read = {family: (value, round(float(p.max()), 3)) for family, (value, p) in readings.items()}
    right = {family: family in read and read[family][0] == value for family, value in task.expects.items()}
    shown = (images[list(SHEET_VIEWS)].permute(0, 2, 3, 1) * 255).round().byte().numpy()
    result = Judgement(task.text, task.expects, folder.name, read, right, janus_check(avatar, judge))
    result.mesh, result.is_edit = mesh_check(avatar), bool(task.instruction)
    return result, [Image.fromarray(picture) for picture in shown]


def sculpted(
    prompt: str, folder: Path, *, preset: str, seed: int, device: str, overrides: Iterable[str]
) -> Avatar:
    """The head of a prompt; goes on with a run that was interrupted, and refuses one of other settings."""
    from headsculpt.config import load_config
    from headsculpt.outputs import sculpt_run

    overrides = list(overrides)
    if not (folder / "config.yaml").is_file():
        return Avatar.from_prompt(
            prompt, preset=preset, seed=seed, out=folder, device=device, overrides=overrides
        )
    run = RunFolder.open(folder)
    config = run.config()
    if config != load_config(preset, overrides, prompt=prompt, seed=seed, device=device):
        raise ValueError(
            f"{folder} holds a run of another prompt or of other settings; give --out another folder"
        )
    if (folder / "avatar" / "avatar.json").is_file():
        return Avatar.load(folder)
    return sculpt_run(config, run)


def edited(
    source: Avatar, instruction: str, folder: Path, *, seed: int, device: str, overrides: Iterable[str]
) -> Avatar:
    """The edit of a head; goes on with one that was interrupted, and refuses one of other settings."""
    from headsculpt.editing import edit_config
    from headsculpt.outputs import sculpt_run

    overrides = list(overrides)
    if not (folder / "config.yaml").is_file():
        return source.edit(instruction, seed=seed, out=folder, device=device, overrides=overrides)
    run = RunFolder.open(folder)
    config = run.config()
    if config != edit_config(source, instruction, seed=seed, device=device, overrides=overrides):
        raise ValueError(f"{folder} holds an edit of other settings; give --out another folder")
    if (folder / "avatar" / "avatar.json").is_file():
        return Avatar.load(folder)
    return sculpt_run(config, run)


def kept_families(
    source: Mapping[str, tuple[object, float]], after: Mapping[str, tuple[object, float]], task: Task
) -> dict[str, bool]:
    """Of the families that an edit leaves alone, whether the judge reads on the result what it read before.

    What cannot be seen before or after is left out (:func:`headsculpt.synthesis.visibility.families_shown`): the
    hair under a hat, the colour of a hat that is not there, of anything on marble, of no hair.
    """
    from headsculpt.synthesis.reading import edited_prompt

    changed = {*edited_prompt(task.prompt, task.instruction, nearest=True).changes, *task.expects}
    if "subject" in changed:  # species bring their skin and ears, ages their faces
        changed |= {"skin", "ears", "face", "nose"}
    if changed & {"headwear", "clothing"}:
        changed |= {f"{family}_colour" for family in changed & {"headwear", "clothing"}}
    value = {family: read[0] for family, read in source.items()}
    later = {family: read[0] for family, read in after.items()}
    shown = families_shown(value) & families_shown(later)
    return {f: later.get(f) == v for f, v in value.items() if f in shown and f not in changed}


def evaluate_prompts(
    prompts_file: str | Path,
    preset: str,
    out: str | Path,
    *,
    limit: int | None = None,
    seed: int = 0,
    device: str = "auto",
    overrides: Iterable[str] = (),
    judge: Judge | None = None,
    sculpt: Sculpt | None = None,
    edit: Edit | None = None,
) -> dict[str, Any]:
    """Sculpts and judges; writes ``results.json``, ``results.md`` and ``contact_sheet.png`` after every head, and
    ``edits.png``, two views before and after each edit.

    Args:
        prompts_file: see :func:`read_prompts`. Its edits run on the heads of their prompts.
        preset, seed, device, overrides: as in :meth:`headsculpt.avatar.Avatar.from_prompt`.
        out: folder; the same folder goes on where it was.
        limit: only the first so many prompts; None takes all.
        judge: None loads the one of the package.
        sculpt: (prompt, run folder) to avatar; None sculpts by score distillation.
        edit: (source, instruction, run folder) to avatar; None edits by score distillation. Of ``overrides``
            edits take what concerns all stages: ``prior``, ``guidance``, ``edit`` and ``output``.

    Returns:
        what ``results.json`` holds.

    Raises:
        FileNotFoundError, ValueError: a prompts file, preset, setting or limit that cannot be used.
    """
    tasks, edits = read_prompts(prompts_file)
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1; got {limit}")
    tasks = tasks[:limit]
    overrides = list(overrides)
    judge = judge or load_judge()
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    if sculpt is None:

        def sculpt(prompt: str, folder: Path) -> Avatar:
            return sculpted(prompt, folder, preset=preset, seed=seed, device=device, overrides=overrides)

    if edit is None:
        of_edits = [o for o in overrides if o.partition(".")[0] in ("prior", "guidance", "edit", "output")]

        def edit(source: Avatar, instruction: str, folder: Path) -> Avatar:
            return edited(source, instruction, folder, seed=seed, device=device, overrides=of_edits)

    settings = {
        "preset": preset,
        "seed": seed,
        "overrides": overrides,
        "judge_accuracy": judge.accuracy.get("all"),
    }
    found: list[Judgement] = []
    pictures: list[tuple[str, list[Image.Image]]] = []
    compared: list[tuple[str, list[Image.Image]]] = []
    before: dict[str, list[Image.Image]] = {}
    results: dict[str, Any] = {}
    heads: dict[str, Avatar] = {}
    jobs: list[tuple[Task, Path]] = [
        (task, out / f"{number:02d}-{slug(task.prompt)}") for number, task in enumerate(tasks, 1)
    ]
    known = {task.prompt for task in tasks}
    jobs += [
        (task, out / f"edit-{number:02d}-{slug(task.instruction)}")
        for number, task in enumerate(edits, 1)
        if task.prompt in known
    ]
    read_before: dict[str, Judgement] = {}
    for task, folder in jobs:
        log.info("%s", task.text)
        judgement, shown, avatar = _one(task, folder, judge, sculpt, edit, heads)
        if avatar is not None and not task.instruction:
            heads[task.prompt] = avatar
            read_before[task.prompt], before[task.prompt] = judgement, shown
        elif avatar is not None:
            source = read_before[task.prompt].read
            judgement.kept = kept_families(source, judgement.read, task)
            judgement.clear = {f: kept for f, kept in judgement.kept.items() if source[f][1] >= CLEAR}
            compared.append((task.text, [*before[task.prompt][:2], *shown[:2]]))
        found.append(judgement)
        pictures.append((f"{folder.name.split('-')[0]}. {task.text}: {_verdict(judgement)}", shown))
        results = summary(settings, found)
        write_atomically(
            out / "results.json", (json.dumps(results, indent=1, ensure_ascii=False) + "\n").encode()
        )
        write_atomically(out / "results.md", markdown(results).encode())
        contact_sheet(pictures, out / "contact_sheet.png")
        if compared:
            contact_sheet(compared, out / "edits.png")
    log.info("%s", headline(results))
    return results


def headline(results: Mapping[str, Any]) -> str:
    """The totals in a line or two."""
    lines = []
    for part in ("prompts", "edits"):
        total = results.get(part, {"count": 0})
        if total["count"]:
            share = "" if total["percent"] is None else f" ({total['percent']} %)"
            kept, of = total.get("kept", (0, 0))
            stayed = f"; left as they were: {kept} of {of} ({100 * kept / of:.1f} %)" if of else ""
            kept, of = total.get("clear", (0, 0))
            stayed += f", of what was clear before: {kept} of {of} ({100 * kept / of:.1f} %)" if of else ""
            lines.append(
                f"{part.capitalize()}: {total['right']} of {total['asked']} attributes right{share}{stayed}; second "
                f"faces on {total['janus']} of {total['count']} heads; meshes in order: {total['meshes_ok']}"
            )
    return "\n".join(lines)


def _one(
    task: Task, folder: Path, judge: Judge, sculpt: Sculpt, edit: Edit, heads: Mapping[str, Avatar]
) -> tuple[Judgement, list[Image.Image], Avatar | None]:
    """Makes or loads one head and reads it. A head that fails counts as wrong and does not stop the others."""
    note = folder / JUDGED
    minutes: float | None = None
    try:
        if note.is_file():
            minutes = json.loads(note.read_text(encoding="utf-8")).get("minutes")
            avatar = Avatar.load(folder)
        else:
            fresh, started = not folder.exists(), time.monotonic()
            if task.instruction:
                if task.prompt not in heads:
                    raise RuntimeError("its prompt gave no head to edit")
                avatar = edit(heads[task.prompt], task.instruction, folder)
            else:
                avatar = sculpt(task.prompt, folder)
            minutes = round((time.monotonic() - started) / 60, 2) if fresh else None
        judgement, shown = judged(task, avatar, judge, folder)
    except (RuntimeError, FloatingPointError, KeyError) as error:
        log.warning("%s: %s", task.text, error)
        failed = Judgement(task.text, task.expects, folder.name, right=dict.fromkeys(task.expects, False))
        failed.error, failed.is_edit = f"{type(error).__name__}: {error}", bool(task.instruction)
        return failed, [], None
    judgement.minutes = minutes
    write_atomically(note, (json.dumps(asdict(judgement), indent=1, ensure_ascii=False) + "\n").encode())
    return judgement, shown, avatar


def _verdict(judgement: Judgement) -> str:
    wrong = [
        f"{family} {judgement.read[family][0]} for {judgement.expects[family]}"
        if family in judgement.read
        else family
        for family, right in judgement.right.items()
        if not right
    ]
    words = ["wrong: " + ", ".join(wrong)] if wrong else ["all right"]
    if judgement.janus.get("found"):
        words.append("SECOND FACE")
    return "; ".join([judgement.error] if judgement.error else words)


def summary(settings: Mapping[str, Any], found: list[Judgement]) -> dict[str, Any]:
    """Totals over prompts and over edits, by family and together."""
    result: dict[str, Any] = dict(settings)
    for part, members in (
        ("prompts", [j for j in found if not j.is_edit]),
        ("edits", [j for j in found if j.is_edit]),
    ):
        families: dict[str, list[int]] = {}
        for judgement in members:
            for family, right in judgement.right.items():
                entry = families.setdefault(family, [0, 0])
                entry[0] += int(right)
                entry[1] += 1
        right_all, asked = (sum(entry[i] for entry in families.values()) for i in (0, 1))
        stayed = [kept for j in members for kept in j.kept.values()]
        clear = [kept for j in members for kept in j.clear.values()]
        second = [bool(j.janus.get("found")) for j in members]
        timed = [j.minutes for j in members if j.minutes is not None]
        result[part] = {
            "count": len(members),
            "right": right_all,
            "asked": asked,
            "percent": round(100 * right_all / asked, 1) if asked else None,
            "families": {name: families[name] for name in VALUES if name in families},
            "kept": [sum(stayed), len(stayed)],
            "clear": [sum(clear), len(clear)],
            "janus": sum(second),
            "janus_rate": janus_rate(second),
            "meshes_ok": sum(bool(j.mesh.get("ok")) for j in members),
            "mean_minutes": round(sum(timed) / len(timed), 2) if timed else None,
            "heads": [asdict(j) for j in members],
        }
    return result


def markdown(results: Mapping[str, Any]) -> str:
    """The tables of ``results.md``."""
    settings = ", ".join(f"{key} {results[key]}" for key in ("preset", "seed", "overrides") if key in results)
    lines = [
        "# Prompts sculpted and judged",
        "",
        f"{settings}. Each cell: what was asked, and what the judge read.",
    ]
    for part in ("prompts", "edits"):
        total = results[part]
        if not total["count"]:
            continue
        lines += ["", f"## {part.capitalize()}", "", headline({part: total}) + ".", ""]
        lines += ["| head | right | wrong | second face | mesh | minutes |", "|---|---|---|---|---|---|"]
        for head in total["heads"]:
            lines.append(_row(head))
        lines += ["", "| family | right | asked | % |", "|---|---|---|---|"]
        lines += [f"| {name} | {r} | {n} | {100 * r / n:.0f} |" for name, (r, n) in total["families"].items()]
    return "\n".join(lines) + "\n"


def _row(head: Mapping[str, Any]) -> str:
    right = [f"{f}: {head['expects'][f]}" for f, ok in head["right"].items() if ok]
    wrong = [
        f"{f}: {head['expects'][f]} (read {head['read'][f][0]})"
        if f in head["read"]
        else f"{f}: {head['expects'][f]}"
        for f, ok in head["right"].items()
        if not ok
    ]
    mesh, janus = head["mesh"], head["janus"]
    shape = "none"
    if mesh:
        closed = "watertight" if mesh["watertight"] else "not watertight"
        shape = f"{mesh['faces']} faces, {closed}, parts: {mesh['parts']}"
    minutes = "" if head["minutes"] is None else f"{head['minutes']:.1f}"
    text = head["text"].replace("|", "/")
    face = ("yes" if janus["found"] else "no") if janus else ""
    error = head["error"].replace("|", "/").replace("\n", " ")
    return f"| {text} | {', '.join(right)} | {error or ', '.join(wrong)} | {face} | {shape} | {minutes} |"
