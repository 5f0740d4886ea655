"""Lines of progress for logs: seldom, and none for what is over at once."""

import sys

import pytest

from vzkubelet.cli import sizes
from vzkubelet.cli.progress import Lines, bytes_bar

GIB = 2**30


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_stage_that_is_over_at_once_is_not_told(clock: Clock) -> None:
    told: list[str] = []
    lines = Lines(told.append, clock)
    lines.report("pull", 0, GIB)
    clock.now += 1
    lines.report("pull", GIB, GIB)
    assert told == []


def test_lines_come_in_an_interval_and_once_at_the_end(clock: Clock) -> None:
    """Hazard: a line for each block fills the log of a build."""
    told: list[str] = []
    lines = Lines(told.append, clock)
    for step in range(1001):
        lines.report("pull", step * GIB // 1000, GIB)
        clock.now += 0.02
    lines.report("pull", GIB, GIB)
    assert len(told) == 4
    assert told[0].startswith("pull: 0.3 of 1.0 GiB, 51 MiB/s, 15s left")
    assert told[-1].startswith("pull: 1.0 of 1.0 GiB")


def test_stages_are_told_apart(clock: Clock) -> None:
    told: list[str] = []
    lines = Lines(told.append, clock)
    lines.report("compress", 1, 10)
    lines.report("upload", 1, 10)
    clock.now += 6
    lines.report("compress", 2, 10)
    lines.report("upload", 2, 10)
    assert [line.partition(":")[0] for line in told] == ["compress", "upload"]


def test_a_total_that_is_not_known_is_left_out(clock: Clock) -> None:
    told: list[str] = []
    lines = Lines(told.append, clock)
    lines.report("hash", 0, 0)
    clock.now += 6
    lines.report("hash", 3 * GIB, 0)
    assert told == ["hash: 3.0 GiB"]


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with bytes_bar(quiet=True) as report:
        report("pull", 1, 1)
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_bars(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with bytes_bar() as report:
        report("pull", 0, 2 * GIB)
        report("pull", 2 * GIB, 2 * GIB)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "pull" in shown.err
    assert "2.0 of 2.0 GiB" in shown.err


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (137438953472, "128.0 GiB"), (2**50, "1024.0 TiB")],
)
def test_sizes(size_bytes: int, text: str) -> None:
    assert sizes.size(size_bytes) == text


def test_what_is_being_done_is_said_behind_the_figures(clock: Clock) -> None:
    told: list[str] = []
    lines = Lines(told.append, clock)
    lines.report("pull", 0, GIB)
    clock.now += 6
    lines.report("pull", 0, GIB, "waiting for another process")
    assert told == ["pull: 0.0 of 1.0 GiB, waiting for another process"]
