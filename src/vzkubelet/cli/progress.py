"""Progress of long transfers on stderr: a bar on a terminal, nothing otherwise."""

import contextlib
import sys
from collections.abc import Callable, Iterator

Report = Callable[[str, int, int], None]
"""Hears the stage's name, bytes done and bytes in all."""


@contextlib.contextmanager
def bytes_bar() -> Iterator[Report]:
    """Stages follow each other; each gets a line of its own that stays."""
    if not sys.stderr.isatty():
        yield lambda _stage, _done, _total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks = {}

        def report(stage: str, done_bytes: int, total_bytes: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total_bytes)
            bars.update(tasks[stage], completed=done_bytes, total=total_bytes)

        yield report
