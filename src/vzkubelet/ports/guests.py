"""The channel into a guest, and the processes and mounts in it."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from vzkubelet.model.logs import OutputStream
from vzkubelet.ports.machines import GuestAddress
from vzkubelet.ports.streams import ExecRequest, ExitStatus, Streams


class OutputLog(Protocol):
    """A container log being written. It is its own ledger: what was appended is known after a crash, to the byte."""

    def received_bytes(self, stream: OutputStream) -> int:
        """Raw bytes of this stream that the log holds."""

    def append(self, stream: OutputStream, data: bytes) -> None:
        """Durable against a crash of this process (not of the host) when it returns."""


@dataclass(frozen=True, slots=True)
class GuestMount:
    """A share (or a directory in it) at its place in the guest."""

    tag: str
    mount_path: str
    sub_path: str = ""
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class GuestProcess:
    """The container's process in the guest. `id` names it in the guest and is unique per start."""

    id: str
    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = ()
    working_dir: str = ""
    user: str = ""
    """``user[:group]``, names or numbers, as in an OCI image config; empty = the login user."""
    stdin: bool = False


@dataclass(frozen=True, slots=True)
class GuestUsage:
    cpu_ns: int
    memory_total_bytes: int
    memory_available_bytes: int
    disk_total_bytes: int
    disk_used_bytes: int
    sampled_at: float


class Guest(Protocol):
    """The channel into one guest: one connection, many sessions; a lost connection is made again for the next call.

    - `prepare` sets the host name and mounts what is not mounted yet; repeating it does nothing.
    - `start` launches the process under a supervisor that outlives the connection; starting an id again returns the
      one that runs (nothing is launched twice). Raises NotFound / Forbidden with the runtime's text when the program
      cannot be executed, reason ``StartError`` in either case.
    - `follow` copies output from where the log ends (`OutputLog.received_bytes`) until the process has ended and all
      its output is in the log, then returns how it ended. It survives lost connections. Raises Unavailable only when
      the guest stays unreachable for `lost_after_s` of the guest's connect policy.
    - `signal` reaches the process alone, as a runtime's stop does: its children's signals are its own affair. SIGKILL
      ends its whole group. Never the supervisor; NotFound when the process has ended.
    - `exec` runs beside it with the given environment, directory and user. Back pressure holds from end to end.
      The session ends when the command ended, even if it left children that hold its output open.
    """

    async def prepare(self, hostname: str, mounts: Sequence[GuestMount]) -> None: ...

    async def start(self, process: GuestProcess) -> None: ...

    async def follow(self, process_id: str, log: OutputLog) -> ExitStatus: ...

    async def signal(self, process_id: str, signal: int) -> None: ...

    async def write_stdin(self, process_id: str, chunks: AsyncIterator[bytes]) -> None:
        """Feed the process's stdin (only where it was started with one); end of chunks does not close it."""

    async def exec(self, request: ExecRequest, process: GuestProcess | None, streams: Streams) -> ExitStatus:
        """`process` gives environment, directory and user; None = the login user's defaults."""

    async def usage(self) -> GuestUsage: ...

    async def shut_down(self) -> None:
        """Ask the guest's own system to power off; returns at once."""

    async def close(self) -> None: ...


class Guests(Protocol):
    """Makes channels. `connect` retries until the guest answers and lets us in, or `deadline_s` has passed.

    Raises DeadlineExceeded (naming the last reason), Unauthenticated (the guest answers and refuses the login).
    """

    async def connect(self, address: GuestAddress, host_key: Path, deadline_s: float) -> Guest: ...
