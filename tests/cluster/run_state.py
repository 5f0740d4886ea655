"""What the make verbs started and must stop again, kept in a state directory."""

import contextlib
import fcntl
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psutil

from tests.cluster.bridges import delete_bridge
from tests.cluster.processes import ProcessRecord, start_identity, stop_recorded


class Leftovers(msgspec.Struct, frozen=True, kw_only=True):
    """Things besides processes that a component leaves on the machine.

    `shims_of` is the address of a containerd whose shims outlive it when it is killed.
    """

    bridges: tuple[str, ...] = ()
    mounts_below: tuple[str, ...] = ()
    directories: tuple[str, ...] = ()
    shims_of: str = ""


class _Content(msgspec.Struct, kw_only=True):
    processes: list[ProcessRecord] = []
    leftovers: list[Leftovers] = []
    environment: dict[str, str] = {}


class RunState:
    """The state directory of one set of daemons; each change is on disk before the call returns.

    Hold `locked()` around a start or a stop, so that two of them do not interleave.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory.absolute()
        self.directory.mkdir(parents=True, exist_ok=True)
        self._file = self.directory / "state.json"
        self._content = _Content()
        self.reload()

    @property
    def processes(self) -> tuple[ProcessRecord, ...]:
        """Everything recorded, oldest first, whether it still runs or not."""
        return tuple(self._content.processes)

    @property
    def environment(self) -> dict[str, str]:
        return dict(self._content.environment)

    @property
    def environment_file(self) -> Path:
        """A file that a shell can source."""
        return self.directory / "env"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Wait until no other process starts or stops things here, and read what it left."""
        with (self.directory / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.reload()
            yield

    def reload(self) -> None:
        if self._file.exists():
            self._content = msgspec.json.decode(self._file.read_bytes(), type=_Content)

    def is_alive(self, name: str) -> bool:
        """Whether the process recorded last under `name` runs."""
        return any(record.is_alive() for record in self._content.processes if record.name == name)

    def record(self, process: ProcessRecord) -> None:
        """Remember a process to stop; one of the same name that is dead is forgotten."""
        self._content.processes = [p for p in self._content.processes if p.name != process.name or p.is_alive()]
        self._content.processes.append(process)
        self._write()

    def record_leftovers(self, leftovers: Leftovers) -> None:
        self._content.leftovers.append(leftovers)
        self._write()

    def set_environment(self, **variables: str) -> None:
        """Merge variables into the environment file."""
        self._content.environment |= variables
        self._write()
        lines = [f"export {name}={shlex.quote(value)}\n" for name, value in sorted(self._content.environment.items())]
        _replace(self.environment_file, "".join(lines).encode())

    def stop(self, *names: str) -> list[ProcessRecord]:
        """Stop the named processes, or all, last started first; returns those that were running.

        Without names the leftovers go too, and the environment file.
        """
        chosen = [p for p in reversed(self._content.processes) if not names or p.name in names]
        stopped = []
        for process in chosen:
            if process.is_alive():
                stop_recorded(process)
                stopped.append(process)
            self._content.processes.remove(process)
            self._write()
        if not names:
            while self._content.leftovers:
                remove_leftovers(self._content.leftovers[-1])
                self._content.leftovers.pop()
                self._write()
            self._content.environment.clear()
            self.environment_file.unlink(missing_ok=True)
            self._file.unlink(missing_ok=True)
        return stopped

    def _write(self) -> None:
        _replace(self._file, msgspec.json.format(msgspec.json.encode(self._content), indent=2))


def remove_leftovers(leftovers: Leftovers) -> None:
    """Kill orphaned shims, unmount, delete bridges and directories. What is gone already is fine."""
    if leftovers.shims_of:
        for record in _shims(leftovers.shims_of):
            stop_recorded(record)
    for top in leftovers.mounts_below:
        for mount_point in _mount_points_below(Path(top)):
            subprocess.run(["umount", "--lazy", mount_point], check=True, capture_output=True)
    for bridge in leftovers.bridges:
        delete_bridge(bridge)
    for directory in leftovers.directories:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(directory)


def _shims(address: str) -> list[ProcessRecord]:
    """Processes that were started with `-address <socket>`, containerd's shims, each after the container it runs.

    A container outlives the death of its shim, so it is named here too.
    """
    found = []
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if ["-address", address] in [command[i : i + 2] for i in range(len(command))]:
            with contextlib.suppress(psutil.NoSuchProcess):
                found += [*process.children(recursive=True), process]
    return [
        ProcessRecord(name="container", pid=process.pid, start_identity=identity, log=os.devnull, stop_grace_s=0)
        for process in found
        if (identity := start_identity(process.pid))
    ]


def _mount_points_below(top: Path) -> list[str]:
    """Deepest first. Spaces and such come as octal escapes in mountinfo (proc(5))."""
    points = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = line.split()[4].encode().decode("unicode_escape")
        if Path(point).is_relative_to(top):
            points.append(point)
    return sorted(points, key=len, reverse=True)


def _replace(path: Path, content: bytes) -> None:
    staged = path.with_name(f".{path.name}.new")
    staged.touch(mode=0o600)
    staged.write_bytes(content)
    staged.replace(path)
