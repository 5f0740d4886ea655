"""Docker's log stream, whole, byte by byte and cut short."""

import pytest

from vzkubelet.errors import Error
from vzkubelet.ports import LogEntry, OutputStream
from vzkubelet.sidecars.log_frames import PART_BYTES, FramedEntries, TerminalEntries

TIME = b"2026-11-21T13:01:39.912392537Z"
TIME_NS = 1795266099912392537


def frame(stream: int, text: bytes) -> bytes:
    message = TIME + b" " + text
    return bytes([stream, 0, 0, 0]) + len(message).to_bytes(4, "big") + message


def entry(data: bytes, stream: OutputStream = OutputStream.STDOUT, partial: bool = False) -> LogEntry:
    return LogEntry(TIME_NS, stream, data, partial)


STREAM = frame(1, b"one\n") + frame(2, b"\n") + frame(1, b"x" * 100) + frame(1, b"y\n")
ENTRIES = [entry(b"one"), entry(b"", OutputStream.STDERR), entry(b"x" * 100, partial=True), entry(b"y")]


@pytest.mark.parametrize("step", [1, 7, len(STREAM)])
def test_frames(step: int) -> None:
    frames = FramedEntries()
    found = [e for i in range(0, len(STREAM), step) for e in frames.feed(STREAM[i : i + step])]
    assert found == ENTRIES
    assert not list(frames.end())


def test_cut_frame_is_not_an_entry() -> None:
    frames = FramedEntries()
    assert list(frames.feed(STREAM[:-1])) == ENTRIES[:-1]
    assert not list(frames.end())


@pytest.mark.parametrize("header", [b"\x07\0\0\0\0\0\0\1", b"\1\0\0\0\xff\xff\xff\xff"])
def test_header_that_is_none_is_refused(header: bytes) -> None:
    with pytest.raises(Error):
        list(FramedEntries().feed(header))


@pytest.mark.parametrize("step", [1, 7, 100_000])
def test_terminal(step: int) -> None:
    long_line = b"x" * PART_BYTES
    stream = b"".join(
        TIME + b" " + text for text in (b"one\r\n", long_line, b"y\r\n", b"a b 2026-11-21T13:01:39Z\n", b"end")
    )
    terminal = TerminalEntries()
    found = [e for i in range(0, len(stream), step) for e in terminal.feed(stream[i : i + step])]
    found += terminal.end()
    assert found == [
        entry(b"one\r"),
        entry(long_line, partial=True),
        entry(b"y\r"),
        entry(b"a b 2026-11-21T13:01:39Z"),
        entry(b"end", partial=True),
    ]
