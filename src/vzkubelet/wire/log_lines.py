"""Container log lines in the format of the container runtime interface, and what a log query makes of them.

One line on disk is ``<time> stdout|stderr F|P <data>\\n``: F ends a line of output, P is a part of one (no newline in
the output yet). Data is raw bytes without newlines. Format: cri-client pkg/logs, kubelet design doc "CRI log format".
"""

from collections import deque
from collections.abc import Iterable, Iterator
from datetime import datetime
from functools import lru_cache
from typing import Final

from vzkubelet.model.logs import LogEntry, OutputStream
from vzkubelet.model.timestamp import rfc3339_nano

MAX_DATA_BYTES: Final = 16 * 1024
"""Data of one line on disk; longer lines of output are split into parts (containerd's max_container_log_line_size)."""
MAX_LINE_BYTES: Final = 1024 * 1024
"""A line on disk beyond this is skipped as damaged: foreign writers may split later than we do."""

_STREAMS: Final = {stream.value.encode(): stream for stream in OutputStream}
_NANOSECONDS: Final = 1_000_000_000


# --- Writing ------------------------------------------------------------------------------------------------------


def encode(stream: OutputStream, data: bytes, time_ns: int) -> bytes:
    """Lines on disk for some output: F for each line it completes, P for what is left without a newline."""
    head = f"{_timestamp(time_ns)} {stream.value} ".encode("ascii")
    *complete, rest = data.split(b"\n")
    parts: list[bytes] = []
    for line in complete:
        *split, last = _split(line)
        parts.extend(b"%sP %s\n" % (head, piece) for piece in split)
        parts.append(b"%sF %s\n" % (head, last))
    if rest:
        parts.extend(b"%sP %s\n" % (head, piece) for piece in _split(rest))
    return b"".join(parts)


def _split(line: bytes) -> list[bytes]:
    return [line[start : start + MAX_DATA_BYTES] for start in range(0, len(line), MAX_DATA_BYTES)] or [b""]


def _timestamp(time_ns: int) -> str:
    seconds, fraction = divmod(time_ns, _NANOSECONDS)
    return f"{_second_text(seconds)}{fraction:09d}Z"


@lru_cache(maxsize=64)
def _second_text(seconds: int) -> str:
    """``2026-11-21T12:00:00.``: lines come in bursts of the same second."""
    return rfc3339_nano(seconds * _NANOSECONDS)[:20]


# --- Reading ------------------------------------------------------------------------------------------------------


class Decoder:
    """Bytes of a log to entries, however they are cut. A last line without its newline waits for the rest."""

    def __init__(self) -> None:
        self._rest = b""
        self._skipping = False
        self.damaged_lines = 0

    def feed(self, data: bytes) -> list[LogEntry]:
        """Entries that are complete now. Lines that are no log lines are counted and skipped, as the kubelet does."""
        *lines, self._rest = (self._rest + data).split(b"\n") if self._rest else data.split(b"\n")
        entries: list[LogEntry] = []
        for line in lines:
            if self._skipping:
                self._skipping = False
                continue
            entry = decode_line(line)
            if entry is None:
                self.damaged_lines += 1
            else:
                entries.append(entry)
        if len(self._rest) > MAX_LINE_BYTES:
            self._rest = b""
            if not self._skipping:
                self._skipping = True
                self.damaged_lines += 1
        return entries

    @property
    def torn_bytes(self) -> int:
        """Length of the last line as far as it is there: after a crash, cut this off before writing on."""
        return len(self._rest)


def decode_line(line: bytes) -> LogEntry | None:
    """One line on disk without its newline; None when it is none. Tags may carry further words after a colon."""
    parts = line.split(b" ", 3)
    if len(parts) != 4:
        return None
    stamp, stream_name, tags, data = parts
    stream = _STREAMS.get(stream_name)
    time_ns = _parse_timestamp(stamp)
    tag = tags.split(b":", 1)[0]
    if stream is None or time_ns is None or tag not in (b"F", b"P"):
        return None
    return LogEntry(time_ns, stream, data, partial=tag == b"P")


def _parse_timestamp(stamp: bytes) -> int | None:
    """RFC 3339 with any number of fraction digits and any zone, as other runtimes write it."""
    if len(stamp) < 20 or len(stamp) > 35:
        return None
    try:
        text = stamp.decode("ascii")
        if len(text) == 30 and text[19] == "." and text[29] == "Z" and text[20:29].isdigit():  # as we write it
            return _parse_seconds(text[:19], "Z") * _NANOSECONDS + int(text[20:29])
        zone_at = 19
        fraction = 0
        if text[19] == ".":
            zone_at = 20
            while zone_at < len(text) and text[zone_at].isdigit():
                zone_at += 1
            digits = text[20:zone_at]
            if not 1 <= len(digits) <= 9:
                return None
            fraction = int(digits.ljust(9, "0"))
        return _parse_seconds(text[:19], text[zone_at:]) * _NANOSECONDS + fraction
    except ValueError:
        return None


@lru_cache(maxsize=64)
def _parse_seconds(text: str, zone: str) -> int:
    moment = datetime.fromisoformat(text + zone)
    if moment.tzinfo is None:
        raise ValueError("time stamp without a zone")
    return int(moment.timestamp())


class Ledger:
    """What a log holds, learnt from its bytes: raw output per stream, and where a torn last line begins.

    The log is its own record of what was received, so that a writer that comes back after a crash goes on at the exact
    byte: feed it the whole file, truncate the file to `complete_bytes`, continue each stream at `received_bytes`.
    """

    def __init__(self) -> None:
        self._decoder = Decoder()
        self._received = dict.fromkeys(OutputStream, 0)
        self._fed_bytes = 0

    def feed(self, data: bytes) -> None:
        self._fed_bytes += len(data)
        self.add(self._decoder.feed(data))

    def add(self, entries: Iterable[LogEntry]) -> None:
        """Entries known already, where the bytes are decoded elsewhere too."""
        for entry in entries:
            self._received[entry.stream] += len(entry.data) + (0 if entry.partial else 1)

    def received_bytes(self, stream: OutputStream) -> int:
        return self._received[stream]

    @property
    def complete_bytes(self) -> int:
        """Offset after the last whole line of what was fed."""
        return self._fed_bytes - self._decoder.torn_bytes


# --- Queries ------------------------------------------------------------------------------------------------------


def since(entries: Iterable[LogEntry], since_ns: int | None) -> Iterator[LogEntry]:
    """Entries of that time or later, as the kubelet's `since`."""
    return (entry for entry in entries if since_ns is None or entry.time_ns >= since_ns)


def tail(entries: Iterable[LogEntry], lines: int | None) -> list[LogEntry]:
    """The last `lines` lines of output with all their parts; None = all. An unfinished last line counts as one.

    The kubelet counts lines on disk, so that its tail begins in the middle of a long line. Only where the two streams
    interleave within a line may this one do so too.
    """
    if lines is None:
        return list(entries)
    kept: deque[LogEntry] = deque()
    ends = 0
    for entry in entries:
        kept.append(entry)
        ends += not entry.partial
        while kept and ends + entry.partial > lines:
            ends -= not kept.popleft().partial
    return list(kept)


def tail_offset(block: bytes, lines: int, *, from_start: bool) -> int | None:
    """Where in `block`, the end of a log, `tail` begins; None when it takes a larger block to tell.

    `from_start` says that the block begins where the log does. Lets a reader find the tail of a large log from its end.
    """
    first = 0 if from_start else block.find(b"\n") + 1
    if not from_start and first == 0:
        return None
    ends: list[int] = []
    unfinished = False
    offset = first
    for line in block[first:].split(b"\n")[:-1]:
        offset += len(line) + 1
        entry = decode_line(line)
        if entry is not None:
            unfinished = entry.partial
            if not unfinished:
                ends.append(offset)
    if lines == 0:
        return offset
    before = lines - unfinished + 1
    if len(ends) >= before:
        return ends[-before]
    return first if from_start else None


class Formatter:
    """Entries to the bytes a client of ``containerLogs`` reads: time stamps per line, a limit to the byte."""

    def __init__(self, *, timestamps: bool = False, limit_bytes: int | None = None) -> None:
        self._timestamps = timestamps
        self._left = limit_bytes
        self._line_start = True

    @property
    def exhausted(self) -> bool:
        """The limit is reached: nothing more will come."""
        return self._left == 0

    def format(self, entry: LogEntry) -> bytes:
        text = entry.data if entry.partial else entry.data + b"\n"
        if self._timestamps and self._line_start:
            text = f"{_timestamp(entry.time_ns)} ".encode("ascii") + text
        self._line_start = not entry.partial
        if self._left is not None:
            text = text[: self._left]
            self._left -= len(text)
        return text
