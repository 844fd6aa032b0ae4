"""How the command line speaks: one sentence for an error, one live line for progress."""

from __future__ import annotations

import functools
import logging
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

if TYPE_CHECKING:
    from types import FrameType

    from headsculpt.sculpting import Progress

USAGE, FAILURE, INTERRUPTED = 2, 1, 130
debug = False  # set by --debug: show tracebacks

Command = TypeVar("Command", bound=Callable[..., Any])


class UsageError(Exception):
    """What was asked for cannot be done as asked; exit status 2."""


@contextmanager
def usage() -> Iterator[None]:
    """Errors of checking what the user gave are usage errors."""
    try:
        yield
    except (ValueError, FileExistsError) as error:
        raise UsageError(str(error)) from error


def command(function: Command) -> Command:
    """Wraps a command: errors become one sentence on stderr and an exit status, unless ``--debug`` is on."""

    @functools.wraps(function)
    def wrapped(*arguments: Any, **keywords: Any) -> Any:
        try:
            return function(*arguments, **keywords)
        except UsageError as error:
            leave(str(error), USAGE)
        except KeyboardInterrupt:
            leave("interrupted", INTERRUPTED)
        except Exception as error:
            if isinstance(error, _exit_types()):
                raise
            leave(sentence(error), FAILURE)

    return wrapped  # type: ignore[return-value]


def leave(message: str, status: int) -> NoReturn:
    """Prints the message and exits; with ``--debug`` the exception that is being handled goes on instead."""
    import typer

    if debug and sys.exc_info()[1] is not None:
        raise  # noqa: PLE0704  (the one being handled)
    print(f"error: {message}", file=sys.stderr)
    raise typer.Exit(status) from None


def sentence(error: BaseException) -> str:
    """An exception in one sentence that says what to do."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    lowered = str(error).lower()
    if isinstance(error, MemoryError) or "out of memory" in lowered or "can't allocate memory" in lowered:
        return (
            "out of memory; make the work smaller, for instance coarse.batch=1 fine.batch=1 fine.render_size=128, "
            "or close other programs; 'headsculpt resume' then goes on"
        )
    if isinstance(error, (ValueError, OSError, ImportError, RuntimeError)) and text:
        return text
    return f"{type(error).__name__}: {text or 'no message'} (a defect of headsculpt; --debug shows where)"


def _exit_types() -> tuple[type[BaseException], ...]:
    import typer

    return (typer.Exit, typer.Abort, typer.BadParameter)


class Interrupts:
    """Ctrl-C (and SIGTERM) during a run: between steps the loop is stopped in good order.

    While the loop runs, the first signal is remembered and :meth:`check` raises KeyboardInterrupt where the
    loop can keep its work; a second one, or one outside the loop, raises at once.
    """

    def __init__(self) -> None:
        self.requested = False
        self.in_loop = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._before[number] = signal.signal(number, self._handle)
            except ValueError:  # not in the main thread, as in some tests and notebooks
                pass
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested or not self.in_loop:
            raise KeyboardInterrupt
        self.requested = True

    def check(self) -> None:
        """Raises KeyboardInterrupt when a signal came since the last step."""
        if self.requested:
            raise KeyboardInterrupt


class ProgressLine:
    """One live line on a terminal; elsewhere a plain line every quarter of a minute."""

    PLAIN_EVERY_S = 15.0

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bars

        console = Console(stderr=False)
        self.live = console.is_terminal
        self.bars = Bars(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[note]}"),
            console=console,
            disable=not self.live,
            transient=False,
        )
        self.task = self.bars.add_task("starting", total=1, note="")
        self.last_plain = 0.0

    def __enter__(self) -> ProgressLine:
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def show(self, progress: Progress) -> None:
        """Draws one step."""
        elapsed, left = minutes(progress.seconds), minutes(progress.eta_s)
        loss = "" if progress.loss is None else f"loss {progress.loss:.4g}  "
        note = f"{loss}{elapsed} gone, {left} left"
        last = progress.step == progress.steps
        if self.live:
            self.bars.update(
                self.task, description=progress.stage, completed=progress.step, total=progress.steps, note=note
            )
        elif last or time.monotonic() - self.last_plain > self.PLAIN_EVERY_S:
            self.last_plain = time.monotonic()
            print(f"{progress.stage} {progress.step}/{progress.steps}  {note}", flush=True)

    def say(self, words: str) -> None:
        """What is being done after the loop."""
        if self.live:
            self.bars.update(self.task, description=words, note="")
        else:
            print(words, flush=True)


def minutes(seconds: float) -> str:
    """``75`` as ``1:15``."""
    whole = max(0, round(seconds))
    if whole >= 3600:
        return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
    return f"{whole // 60}:{whole % 60:02d}"


def set_up_logging() -> None:
    """Notes of this package go to stderr; those of other packages stay quiet unless ``--debug`` is on."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s" if debug else "note: %(message)s"))
    logger = logging.getLogger("headsculpt")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.DEBUG if debug else logging.WARNING)
    logger.propagate = False
    if not debug:
        warnings.filterwarnings("ignore")
        # Read when these packages are first imported.
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
