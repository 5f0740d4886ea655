"""What may be asked of a host. `local` asks this one; tests answer from a directory of recorded answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

NO_SUCH_PROGRAM = 127
TIMED_OUT = 124
"""Statuses that a shell and timeout(1) use; a host that lacks a program is an answer, not an error."""
COMMAND_TIMEOUT_S = 15.0


@dataclass(frozen=True, slots=True)
class Facts:
    """What does not change while a check runs."""

    system: str
    """``darwin`` or ``linux``."""
    machine: str
    """As uname has it for this process: ``x86_64`` also in a translated one on Apple silicon."""
    uid: int
    user: str
    home: Path
    python: str
    """Version of the interpreter, ``3.12.4``."""
    search_path: str = ""
    """PATH of this process."""
    over_ssh: bool = False


@dataclass(frozen=True, slots=True)
class Output:
    status: int
    stdout: str = ""
    stderr: str = ""

    @property
    def ok(self) -> bool:
        return self.status == 0

    @property
    def text(self) -> str:
        """Everything that was said, for programs that mix their channels."""
        return f"{self.stdout}\n{self.stderr}".strip()


@dataclass(frozen=True, slots=True)
class FileStatus:
    mode: int
    """st_mode."""
    uid: int


@dataclass(frozen=True, slots=True)
class DiskRoom:
    capacity_bytes: int
    available_bytes: int
    """What an ordinary user may still fill."""


@dataclass(frozen=True, slots=True)
class OpenFiles:
    soft: int
    hard: int
    """-1 = unlimited."""


class Probe(Protocol):
    """Blocks for milliseconds, `run` and the network for up to their timeouts. Only `run` can change the host."""

    @property
    def facts(self) -> Facts: ...

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float = COMMAND_TIMEOUT_S,
        environment: Mapping[str, str] | None = None,
    ) -> Output:
        """Run a program to its end without any input; `environment` is added to the process's own. Never raises."""

    def which(self, program: str) -> Path | None:
        """Where the program is, on PATH or in the system's directories for administrators."""

    def read(self, path: Path) -> bytes:
        """Raises: OSError."""

    def status(self, path: Path) -> FileStatus | None:
        """Of the file itself or what a link points to; None when there is none or it cannot be seen."""

    def can_use(self, path: Path) -> bool:
        """Whether this process may open the file for reading and writing."""

    def sysctl(self, name: str) -> str | None:
        """A value of the kernel's (macOS), as this very process sees it; None when there is no such name."""

    def room(self, path: Path) -> DiskRoom:
        """Of the file system of `path`, or of the nearest directory above that exists. Raises: OSError."""

    def open_files(self) -> OpenFiles:
        """RLIMIT_NOFILE of this process."""

    def process_runs(self, pid: int) -> bool: ...

    def package(self, name: str) -> str | None:
        """Version of an installed Python distribution."""

    def time(self) -> float:
        """Seconds since the epoch."""

    def port_taken(self, address: str, port: int) -> str:
        """Why one cannot listen there; empty when one can."""

    def server_time(self, url: str) -> float:
        """What the Date header of any answer of the server says. Sends no credential, and trusts any certificate: with
        a wrong clock none would seem valid. Raises: Unavailable."""

    def docker_version(self, docker_host: str) -> str:
        """Version of the engine. Raises: Unavailable, Forbidden (the socket is not ours to use)."""
