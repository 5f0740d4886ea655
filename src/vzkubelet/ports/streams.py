"""What flows to and from a command: the far end of an exec or attach."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class TerminalSize:
    columns: int
    rows: int


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """How a process ended: `code` 0-255 (128 + n for signal n, as a shell reports it)."""

    code: int
    signal: int = 0


class Streams(Protocol):
    """The far end of an exec or attach. Writes apply back pressure: they return when the peer has room."""

    def stdin(self) -> AsyncIterator[bytes] | None:
        """Input chunks until end of file; None when the session has no stdin."""

    def resizes(self) -> AsyncIterator[TerminalSize] | None:
        """Terminal sizes; the first one comes before any input. None without a terminal."""

    async def write_stdout(self, data: bytes) -> None:
        """Raises Unavailable when the peer has gone."""

    async def write_stderr(self, data: bytes) -> None:
        """As `write_stdout`; never called when the session has a terminal."""


@dataclass(frozen=True, slots=True)
class ExecRequest:
    """A command beside the container's process; it gets the container's environment, directory and user."""

    argv: tuple[str, ...]
    tty: bool = False
