"""The folder of one run: what it did, where it is, and what it made.

Everything that a later command reads is written beside its place and then moved there, so a kill at any
moment leaves either the old file or the new one.
"""

from __future__ import annotations

import errno
import io
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from headsculpt.config import SculptConfig, read_config, to_yaml

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

CHECKPOINT_FORMAT = 1
KEEP_CHECKPOINTS = 2
# What a run writes; --overwrite removes these names and no others.
CONTENTS = (
    "config.yaml",
    "progress.jsonl",
    "previews",
    "checkpoints",
    "avatar",
    "avatar.partial",
    "source",
    "source.partial",
    "avatar.glb",
    "preview.png",
    "turntable.webp",
)


class BusyError(RuntimeError):
    """A run that another process is at work on."""


class RunFolder:
    """A run's folder on disk. ``create`` begins one, ``open`` returns to one."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.warnings: list[str] = []

    @classmethod
    def create(cls, path: str | Path, config: SculptConfig, *, overwrite: bool = False) -> RunFolder:
        """Makes the folder and writes ``config.yaml``.

        Args:
            path: made if needed, with its parents.
            config: written with all values.
            overwrite: remove the run that is there first.

        Raises:
            FileExistsError: the folder holds something and ``overwrite`` is off, or what it holds is no run.
            OSError: it cannot be written; the message says why.
        """
        cls.check_free(path, overwrite=overwrite)
        run = cls(path)
        if run.config_path.is_file():
            run._clear()
        try:
            run.path.mkdir(parents=True, exist_ok=True)
            for folder in (run.previews, run.checkpoints):
                folder.mkdir(exist_ok=True)
        except OSError as error:
            raise _explained(error, run.path) from None
        write_atomically(run.config_path, to_yaml(config).encode())
        return run

    @classmethod
    def check_free(cls, path: str | Path, *, overwrite: bool = False) -> None:
        """FileExistsError unless a run may begin here; a run that has done nothing yet is no hindrance."""
        run = cls(path)
        if run.path.exists() and not run.path.is_dir():
            raise FileExistsError(f"{run.path} is a file; give --out a folder")
        if not run.path.is_dir() or not any(run.path.iterdir()):
            return
        if not run.config_path.is_file():
            raise FileExistsError(
                f"{run.path} holds files that are no run of headsculpt; give --out an empty or a new folder"
            )
        begun = run._checkpoint_files() or run.progress_path.is_file() or run.avatar.exists()
        if begun and not overwrite:
            raise FileExistsError(
                f"{run.path} holds another run; continue it with 'headsculpt resume {run.path}', "
                f"replace it with --overwrite, or give --out a new folder"
            )

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """The folder of a run that exists; FileNotFoundError with what is missing otherwise."""
        run = cls(path)
        if not run.path.is_dir():
            raise FileNotFoundError(f"there is no folder {run.path}; 'headsculpt generate' makes one")
        if not run.config_path.is_file():
            raise FileNotFoundError(f"{run.path} is no run folder: it has no config.yaml")
        for folder in (run.previews, run.checkpoints):
            folder.mkdir(exist_ok=True)
        return run

    def config(self) -> SculptConfig:
        """The settings that this run was begun with."""
        return read_config(self.config_path)

    @property
    def config_path(self) -> Path:
        return self.path / "config.yaml"

    @property
    def progress_path(self) -> Path:
        return self.path / "progress.jsonl"

    @property
    def previews(self) -> Path:
        return self.path / "previews"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def avatar(self) -> Path:
        return self.path / "avatar"

    @property
    def finished(self) -> bool:
        """Whether all outputs are there; the turntable is written last."""
        names = ("avatar/avatar.json", "avatar.glb", "preview.png", "turntable.webp")
        return all((self.path / name).is_file() for name in names)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Keeps the run from other processes, as long as this one is at work on it or until it ends.

        Raises:
            BusyError: another one is.
        """
        with self.config_path.open("rb") as file:
            if not _locked(file):
                raise BusyError(f"{self.path} is at work already, in another process")
            yield

    @property
    def busy(self) -> bool:
        """Whether a process is at work on it."""
        try:
            with self.at_work():
                return False
        except BusyError:
            return True
        except OSError:
            return False

    def log(self, record: Mapping[str, Any]) -> None:
        """Appends one line of JSON to ``progress.jsonl``."""
        try:
            with self.progress_path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(dict(record)) + "\n")
        except OSError as error:
            raise _explained(error, self.progress_path) from None

    def save_preview(self, name: str, image: np.ndarray) -> Path:
        """Writes ``previews/NAME.png`` from ``(H, W, 3)`` uint8."""
        from PIL import Image

        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG", compress_level=1)
        path = self.previews / f"{name}.png"
        write_atomically(path, buffer.getvalue(), durable=False)
        return path

    def save_checkpoint(self, stage: str, step: int, state: Mapping[str, Any]) -> Path:
        """Keeps all that is needed to go on, with the state of the global random generators.

        Args:
            stage: name of the stage.
            step: steps of this stage that are done.
            state: tensors, numbers, strings, lists and dicts, nothing else (it is read without pickle).

        Returns:
            the file; only the last two are kept.
        """
        import torch

        number = 1 + max((int(p.stem) for p in self._checkpoint_files()), default=0)
        content = {
            "format": CHECKPOINT_FORMAT,
            "stage": stage,
            "step": step,
            "random": random_state(),
            "state": dict(state),
        }
        buffer = io.BytesIO()
        torch.save(content, buffer)
        path = self.checkpoints / f"{number:06d}.pt"
        write_atomically(path, buffer.getbuffer())
        for old in self._checkpoint_files()[:-KEEP_CHECKPOINTS]:
            old.unlink(missing_ok=True)
        return path

    def load_checkpoint(self, *, restore_random: bool = True) -> dict[str, Any] | None:
        """The newest checkpoint that can be read: a dict with ``stage``, ``step`` and ``state``.

        A file that cannot be read is skipped, with a sentence in ``warnings``; None where there is none.
        Unless ``restore_random`` is off, the global random generators are set as they were.

        Raises:
            ValueError: the newest readable file comes from a newer headsculpt.
        """
        import torch

        for path in reversed(self._checkpoint_files()):
            try:
                content = torch.load(path, map_location="cpu", weights_only=True)
                complete = isinstance(content, dict) and {"format", "stage", "step", "state"} <= set(content)
            except Exception:  # torch raises a dozen kinds for damaged files
                complete = False
            if not complete:
                self.warnings.append(f"checkpoint {path.name} is damaged; going back to the one before it")
                continue
            if content["format"] > CHECKPOINT_FORMAT:
                raise ValueError(
                    f"{path} has format {content['format']}; this headsculpt reads up to {CHECKPOINT_FORMAT}: "
                    "update headsculpt"
                )
            if restore_random:
                set_random_state(content["random"])
            return content
        return None

    def _checkpoint_files(self) -> list[Path]:
        if not self.checkpoints.is_dir():
            return []
        return sorted(p for p in self.checkpoints.glob("*.pt") if p.stem.isdigit())

    def _clear(self) -> None:
        try:
            for name in CONTENTS:
                path = self.path / name
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
        except OSError as error:
            raise _explained(error, self.path) from None


def named_after(words: str) -> str:
    """A folder's name from the first words of a prompt that say something.

    Example:
        >>> named_after("an old man with a white beard and round glasses")
        'old-man-white-beard-round-glasses'
    """
    found = re.findall(r"[a-z0-9]+", words.lower())
    short = [w for w in found if w not in ("a", "an", "the", "with", "and", "of", "in", "wearing")]
    return ("-".join(short[:6] or found[:6]) or "head")[:60]


def write_image(path: Path, image: Image) -> None:
    """Writes a PIL image in the format of the suffix, atomically; makes its folder."""
    buffer = io.BytesIO()
    image.save(buffer, {".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}.get(path.suffix.lower(), "PNG"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _explained(error, path) from None
    write_atomically(path, buffer.getvalue())


def write_atomically(path: Path, content: bytes | memoryview, *, durable: bool = True) -> None:
    """Writes a file so that at every moment it is absent, as before, or complete.

    ``durable`` waits for the disk, so that the new name cannot outlive its content in a power cut.
    OSError says in one sentence what could not be written and why.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        try:
            partial.unlink(missing_ok=True)
        except OSError:
            pass
        raise _explained(error, path) from None


def _locked(file: BinaryIO) -> bool:
    """Takes the lock that ends with the file or with the process; whether it could be had."""
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(1 << 30)  # nothing is there: others may go on reading
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        # Other errors mean a file system without locks.
        return error.errno not in (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
    return True


def random_state() -> dict[str, Any]:
    """State of the global generators of torch (CPU, CUDA) and numpy, in types that need no pickle."""
    import numpy as np
    import torch

    name, key, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002  (others may draw from it)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [name, torch.from_numpy(np.asarray(key).astype(np.int64)), position, has_gauss, float(gauss)],
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Puts back what :func:`random_state` returned."""
    import numpy as np
    import torch

    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
    name, key, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((name, key.numpy().astype(np.uint32), position, has_gauss, gauss))  # noqa: NPY002


def _explained(error: OSError, path: Path) -> OSError:
    """The same error as one sentence that says what to do."""
    advice = {
        errno.ENOSPC: "the disk is full: free some space; 'headsculpt resume' then goes on",
        errno.EACCES: "permission denied: choose a folder that you may write to",
        errno.EROFS: "the file system is read-only: choose another folder",
        errno.ENOTDIR: "a part of the path is a file, not a folder: choose another folder",
        errno.EEXIST: "there is a file of that name: choose another folder",
    }.get(error.errno or 0, error.strerror or str(error))
    return type(error)(f"cannot write {path}: {advice}")
