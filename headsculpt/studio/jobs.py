"""The runs in the studio's folder, and the one process that is at work on them.

A run is a process of the command line's own, so that the page shows what `headsculpt generate` would, a stop keeps the
work as Ctrl-C does, and a crash takes nothing else with it. One runs at a time, as two would only slow each other down.
"""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from headsculpt.config import SculptConfig, load_config, read_config
from headsculpt.console import INTERRUPTED
from headsculpt.prompts import check_prompt
from headsculpt.run_folder import RunFolder, named_after

PRESETS = ("draft", "mini", "sd15-fast", "sd15", "sd21")
STOP_S = 60.0  # that a run has to finish its step and keep its work
_TIME = re.compile(r"(?P<gone>[\d:]+) gone, (?P<left>[\d:]+) left")


@dataclass
class Job:
    """One call of the command line.

    Attributes:
        name: of the run's folder.
        words: its prompt or instruction, until the folder says it.
        arguments: of ``headsculpt``.
        lines: what it has said, the last few.
        process: once it runs.
        status: exit status, once it is done.
        stopping: whether it was asked to stop.
    """

    name: str
    words: str
    arguments: Sequence[str]
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=20))
    process: subprocess.Popen[str] | None = None
    status: int | None = None
    stopping: bool = False

    @property
    def state(self) -> str:
        if self.status is None:
            return "waiting" if self.process is None else "stopping" if self.stopping else "running"
        if self.status == 0:
            return "finished"
        return "stopped" if self.stopping or self.status == INTERRUPTED else "failed"

    @property
    def share(self) -> float:
        """How much of its time is over, 0 to 1, by what it says itself."""
        for line in reversed(list(self.lines)):  # it may be adding one
            if found := _TIME.search(line):
                gone, left = (_seconds(found[part]) for part in ("gone", "left"))
                return gone / max(1, gone + left)
        return 0.0


class Jobs:
    """Begins runs, one after the other, in a folder, and tells what became of them.

    Args:
        folder: of run folders; made if needed.
        program: the command line; its arguments follow.
    """

    def __init__(self, folder: str | Path, program: Sequence[str] = (sys.executable, "-m", "headsculpt")) -> None:
        self.folder, self.program = Path(folder), list(program)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._jobs: dict[str, Job] = {}  # by name, the last of each
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._worker = threading.Thread(target=self._work, daemon=True)
        self._worker.start()

    def generate(self, prompt: str, preset: str = "mini", seed: int = 0) -> str:
        """Begins a head; gives its run's name.

        Raises:
            ValueError: the prompt is empty or too long, or there is no such preset.
        """
        prompt = check_prompt(prompt)
        if preset not in PRESETS:
            raise ValueError(f"unknown preset {preset!r}; expected one of {', '.join(PRESETS)}")
        load_config(preset, prompt=prompt, seed=seed)
        with self._changed:
            name = self._free_name(prompt)
            asked = ["generate", f"--preset={preset}", f"--seed={seed}", f"--out={self.folder / name}", "--", prompt]
            return self._queue(Job(name, prompt, asked))

    def edit(self, source: str, instruction: str, strength: float | None = None) -> str:
        """Begins an edit of a finished head; gives the new run's name.

        Raises:
            ValueError: no such head, it is not finished, or the instruction is empty or too long.
        """
        instruction = check_prompt(instruction, what="instruction")
        if not self.run(source).finished:
            raise ValueError(f"{source!r} is not finished, so it cannot be edited yet")
        if strength is not None and not 0 <= strength <= 2:
            raise ValueError(f"strength is {strength:g}; expected 0 to 2")
        chosen = [] if strength is None else [f"--strength={strength}"]
        with self._changed:
            name = self._free_name(instruction)
            asked = ["edit", *chosen, f"--out={self.folder / name}", "--", str(self.folder / source), instruction]
            return self._queue(Job(name, instruction, asked))

    def resume(self, name: str) -> None:
        """Goes on with a run that was stopped.

        Raises:
            ValueError: no such run, it is finished, or it is at work already.
        """
        run = self.run(name)
        if run.finished:
            raise ValueError(f"{name!r} is finished: nothing is left to do")
        if run.busy:
            raise ValueError(f"{name!r} is at work already")
        with self._changed:
            job = self._jobs.get(name)
            if job is not None and job.status is None:
                raise ValueError(f"{name!r} is at work already")
            self._queue(Job(name, "", ["resume", "--", str(run.path)]))

    def stop(self, name: str) -> None:
        """Stops a run, which keeps its work, or takes it out of the queue.

        Raises:
            ValueError: it neither runs nor waits.
        """
        with self._changed:
            job = self._jobs.get(name)
            if job is None or job.status is not None:
                raise ValueError(f"{name!r} is not at work")
            if job.stopping:
                return  # a second signal would not wait for the end of the step
            job.stopping = True
            if job.process is not None:
                job.process.terminate()  # the command line takes it as it takes Ctrl-C
            else:
                self._waiting.remove(job)
                job.status = INTERRUPTED

    def exported(self, name: str, suffix: str) -> bytes:
        """A finished head as `headsculpt export` writes it: a ``.ply``, or a zip of an ``.obj`` with what it names.

        Raises:
            ValueError: no such head, it is not finished, or it could not be exported.
        """
        run = self.run(name)
        if not run.finished:
            raise ValueError(f"{name!r} is not finished, so it cannot be exported yet")
        with tempfile.TemporaryDirectory() as scratch:
            out = Path(scratch) / f"avatar{suffix}"
            command = [*self.program, "export", "--", str(run.path), str(out)]
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, check=False, env=_environment()
            )
            if done.returncode or not out.is_file():
                said = done.stderr.decode("utf-8", "replace").strip().splitlines()
                raise ValueError(said[-1].removeprefix("error: ") if said else f"exit status {done.returncode}")
            if suffix != ".obj":
                return out.read_bytes()
            packed = io.BytesIO()
            with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
                for path in sorted(Path(scratch).iterdir()):
                    archive.write(path, path.name)
            return packed.getvalue()

    def run(self, name: str) -> RunFolder:
        """The run folder of this name; ValueError where there is none."""
        if name not in (path.name for path in self.folder.iterdir()) or not (self.folder / name).is_dir():
            raise ValueError(f"there is no head {name!r} in {self.folder}")
        return RunFolder(self.folder / name)

    def heads(self) -> list[dict[str, Any]]:
        """What the page shows of each run, the newest first: ``name``, ``prompt``, ``instruction``, ``preset``,
        ``seed``, ``lineage``, ``state`` (waiting, running, stopping, finished, stopped, failed, or busy: in another
        program), ``share`` of its time, ``note`` (what it said last) and ``picture`` (a number that changes with its
        newest picture, 0 for none)."""
        with self._changed:
            jobs = dict(self._jobs)
            # Waiting, or refused before there was a folder; of others without one it was deleted.
            shown = {name for name, job in jobs.items() if job.status is None or job.state == "failed"}
        found = []
        for path in self.folder.iterdir():
            try:
                if (path / "config.yaml").is_file():
                    found.append((path.stat().st_mtime, _shown(RunFolder(path), jobs.pop(path.name, None))))
            except OSError:
                continue  # not ours to read, or just deleted
        ordered = [head for _, head in sorted(found, key=lambda entry: (entry[0], entry[1]["name"]), reverse=True)]
        return [_without_folder(job) for name, job in jobs.items() if name in shown] + ordered

    def close(self) -> None:
        """Stops what runs, which keeps its work, and takes nothing new."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            running = [job for job in self._jobs.values() if job.process is not None and job.status is None]
            for job in running:
                job.stopping = True
                job.process.terminate()  # type: ignore[union-attr]
            self._changed.notify_all()
        self._worker.join(STOP_S)
        for job in running:
            if job.status is None:
                job.process.kill()  # type: ignore[union-attr]

    def _queue(self, job: Job) -> str:
        if self._closed:
            raise ValueError("the studio is closing")
        self._jobs[job.name] = job
        self._waiting.append(job)
        self._changed.notify_all()
        return job.name

    def _free_name(self, words: str) -> str:
        base, number = named_after(words), 1
        name = base
        while name in self._jobs or (self.folder / name).exists():
            number += 1
            name = f"{base}-{number}"
        return name

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._waiting)
                if self._closed:
                    return
                job = self._waiting.popleft()
                try:
                    # In a session of its own: Ctrl-C in the terminal is for the studio, which then stops the run.
                    job.process = subprocess.Popen(
                        [*self.program, *job.arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                        stdin=subprocess.DEVNULL, text=True, encoding="utf-8", errors="replace", start_new_session=True,
                        env=_environment(),
                    )  # fmt: skip
                except (OSError, ValueError) as error:
                    job.lines.append(f"error: {error}")
                    job.status = 1
                    continue
            with job.process:
                for line in job.process.stdout or ():
                    if line.strip():
                        job.lines.append(line.strip())
            job.status = job.process.returncode


def _shown(run: RunFolder, job: Job | None) -> dict[str, Any]:
    note, state, share = "", "stopped", 0.0
    try:
        config = _config(run.config_path, _stamp(run.config_path))
    except ValueError as error:  # a folder of another version, or half copied
        config, state, note = SculptConfig(prompt=run.path.name), "failed", str(error)
    if job is not None and not (run.finished and job.status is not None):
        state, share, note = job.state, job.share, _last_words(job)
    elif run.finished:
        state, share = "finished", 1.0
    elif run.busy:
        state = "busy"
    picture = newest_picture(run)
    return {
        "name": run.path.name,
        "prompt": config.prompt,
        "instruction": config.edit.instruction,
        "preset": config.preset,
        "seed": config.seed,
        "lineage": _lineage(run),
        "state": state,
        "share": round(share, 3),
        "note": note,
        "picture": 0 if picture is None else picture.stat().st_mtime_ns // 1_000_000,
    }


def _without_folder(job: Job) -> dict[str, Any]:
    return {
        "name": job.name, "prompt": job.words, "instruction": "", "preset": "", "seed": 0, "lineage": [],
        "state": job.state, "share": 0.0, "note": _last_words(job), "picture": 0,
    }  # fmt: skip


def newest_picture(run: RunFolder) -> Path | None:
    """The finished strip of four views, or the newest of those made on the way; None where there is none yet."""
    done = run.path / "preview.png"
    if done.is_file():
        return done
    pictures = list(run.previews.glob("*.png")) if run.previews.is_dir() else []
    return max(pictures, key=lambda path: path.stat().st_mtime_ns, default=None)


def _lineage(run: RunFolder) -> list[str]:
    about = run.avatar / "avatar.json"
    try:
        return list(_lineage_in(about, _stamp(about)))
    except (OSError, ValueError, KeyError, TypeError):
        return []


# The page asks every second, and reading all settings of all heads anew keeps a core busy.
@lru_cache(maxsize=4096)
def _config(path: Path, stamp: tuple[int, int]) -> SculptConfig:
    return read_config(path)


@lru_cache(maxsize=4096)
def _lineage_in(path: Path, stamp: tuple[int, int]) -> tuple[str, ...]:
    return tuple(str(words) for words in json.loads(path.read_text("utf-8"))["lineage"])


def _stamp(path: Path) -> tuple[int, int]:
    """Differs where a file was written anew."""
    about = path.stat()
    return about.st_mtime_ns, about.st_size


def _environment() -> dict[str, str]:
    """Of a run: it prints UTF-8, whatever the locale, and no colours."""
    return {**{k: v for k, v in os.environ.items() if k != "FORCE_COLOR"}, "PYTHONIOENCODING": "utf-8"}


def _last_words(job: Job) -> str:
    """The last line that it said; of a failure, the error."""
    lines = list(job.lines)
    if job.state == "failed":
        errors = [line for line in lines if line.startswith("error: ")]
        return errors[-1].removeprefix("error: ") if errors else f"ended with exit status {job.status}"
    return lines[-1] if lines else ""


def _seconds(text: str) -> float:
    """``1:15`` as 75."""
    total = 0
    for part in text.split(":"):
        total = 60 * total + int(part or 0)
    return float(total)
