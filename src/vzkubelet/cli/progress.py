"""Progress of long transfers on stderr: bars on a terminal, a line now and then where there is none."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Protocol

from vzkubelet.cli import sizes
from vzkubelet.model import transfer


class Report(Protocol):
    """Hears the stage's name, bytes done and bytes in all (0: not known), and a word about what is being done."""

    def __call__(self, name: str, done_bytes: int, total_bytes: int, note: str = "", /) -> None: ...


_LINE_INTERVAL_S = 5.0
"""Between two lines of one stage: seldom enough for the log of a build, often enough to see that it is alive."""
_REDRAW_INTERVAL_S = 0.1


@contextlib.contextmanager
def bytes_bar(*, quiet: bool = False) -> Iterator[Report]:
    """Stages follow each other; each gets a line of its own that stays. With `quiet` nothing is shown."""
    if quiet or sys.stderr is None:
        yield lambda _name, _done, _total, _note="": None
    elif sys.stderr.isatty():
        with _bars() as report:
            yield report
    else:
        yield Lines(lambda line: print(line, file=sys.stderr, flush=True), time.monotonic).report


class _Stage:
    def __init__(self, due: float) -> None:
        self.speed = transfer.Speed()
        self.due = due
        self.is_shown = False
        self.is_over = False

    def text(self, done_bytes: int, total_bytes: int, now: float, note: str) -> str:
        if total_bytes:
            text = transfer.text(done_bytes, total_bytes, self.speed.bytes_per_s(now))
        else:
            text = sizes.size(done_bytes)
        return f"{text}, {note}" if note else text


class Lines:
    """Stages as lines: nothing of a stage that is over at once, else one line in a while and one at its end."""

    def __init__(self, write: Callable[[str], None], clock: Callable[[], float]) -> None:
        self._write = write
        self._clock = clock
        self._stages: dict[str, _Stage] = {}

    def report(self, name: str, done_bytes: int, total_bytes: int, note: str = "", /) -> None:
        now = self._clock()
        stage = self._stages.setdefault(name, _Stage(now + _LINE_INTERVAL_S))
        stage.speed.add(now, done_bytes)
        is_end = 0 < total_bytes <= done_bytes
        if stage.is_over or not (now >= stage.due or (is_end and stage.is_shown)):
            return
        stage.due, stage.is_shown, stage.is_over = now + _LINE_INTERVAL_S, True, is_end
        self._write(f"{name}: {stage.text(done_bytes, total_bytes, now, note)}")


@contextlib.contextmanager
def _bars() -> Iterator[Report]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[pace]}"))
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, tuple[TaskID, _Stage]] = {}

        def report(name: str, done_bytes: int, total_bytes: int, note: str = "", /) -> None:
            now = time.monotonic()
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=total_bytes or None, pace=""), _Stage(now)
            task, stage = tasks[name]
            stage.speed.add(now, done_bytes)
            if now >= stage.due or done_bytes >= total_bytes:
                stage.due = now + _REDRAW_INTERVAL_S
                text = stage.text(done_bytes, total_bytes, now, note)
                bars.update(task, completed=done_bytes, total=total_bytes or None, pace=text)

        yield report
