"""Container logs as every room speaks of them: entries, the two output streams, and what a reader asks for."""

from dataclasses import dataclass
from enum import StrEnum


class OutputStream(StrEnum):
    STDOUT = "stdout"
    STDERR = "stderr"


@dataclass(frozen=True, slots=True)
class LogOptions:
    """``containerLogs`` query, parsed. Times are nanoseconds since the epoch; None = not asked."""

    follow: bool = False
    tail_lines: int | None = None
    since_ns: int | None = None
    limit_bytes: int | None = None
    timestamps: bool = False


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One line, or a part of one (`partial`: no newline follows yet). `data` carries no newline."""

    time_ns: int
    stream: OutputStream
    data: bytes
    partial: bool = False
