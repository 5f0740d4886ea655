"""A host that is not there: what it would answer, read from a directory.

``facts.json`` holds what `Facts` and the simple questions answer, ``commands.json`` an object from a command line to
``{"status", "stdout", "stderr"}`` (a text alone is stdout), ``files/`` the files of the host by their path. A command
that is not recorded is one that the host does not have. Tests change single answers to plant what is wrong.
"""

import json
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vzkubelet.errors import Error
from vzkubelet.host.probe import (
    COMMAND_TIMEOUT_S,
    NO_SUCH_PROGRAM,
    DiskRoom,
    Facts,
    FileStatus,
    OpenFiles,
    Output,
)


class RecordedHost:
    """A probe that answers from `directory`, and remembers the commands that were run."""

    def __init__(self, directory: Path) -> None:
        answers: dict[str, Any] = json.loads((directory / "facts.json").read_text())
        facts = answers.pop("facts")
        self.facts = Facts(**{**facts, "home": Path(facts["home"])})
        self.sysctls: dict[str, str] = answers.pop("sysctl", {})
        self.packages: dict[str, str] = answers.pop("packages", {})
        self.programs: dict[str, str] = answers.pop("programs", {})
        self.modes: dict[Path, tuple[int, int]] = {
            Path(path): (int(mode, 8), uid) for path, (mode, uid) in answers.pop("modes", {}).items()
        }
        """Mode and owner of files whose content does not matter."""
        self.now: float = answers.pop("time")
        self.disk_room = DiskRoom(**answers.pop("room"))
        self.limits = OpenFiles(**answers.pop("open_files"))
        self.usable: set[Path] = set(map(Path, answers.pop("usable", [])))
        assert not answers, f"unknown answers: {sorted(answers)}"
        self.commands: dict[str, Output] = {
            line: Output(0, said) if isinstance(said, str) else Output(**said)
            for line, said in json.loads((directory / "commands.json").read_text()).items()
        }
        root = directory / "files"
        self.files: dict[Path, bytes] = {
            Path("/") / file.relative_to(root): file.read_bytes() for file in root.rglob("*") if file.is_file()
        }
        self.taken_port = ""
        self.server_clock: float | Error = self.now
        self.docker: str | Error = "29.0.1"
        self.processes = {612}
        self.ran: list[str] = []

    def say(self, line: str, stdout: str = "", status: int = 0, stderr: str = "") -> None:
        """Change one command's answer."""
        self.commands[line] = Output(status, stdout, stderr)

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float = COMMAND_TIMEOUT_S,
        environment: Mapping[str, str] | None = None,
    ) -> Output:
        line = " ".join([*(f"{name}={value}" for name, value in (environment or {}).items()), *argv])
        self.ran.append(line)
        return self.commands.get(line, Output(NO_SUCH_PROGRAM, "", f"{argv[0]}: no such program"))

    def which(self, program: str) -> Path | None:
        found = self.programs.get(program)
        return Path(found) if found else None

    def read(self, path: Path) -> bytes:
        if path not in self.files:
            raise FileNotFoundError(2, "No such file or directory", str(path))
        return self.files[path]

    def status(self, path: Path) -> FileStatus | None:
        if path in self.modes:
            return FileStatus(*self.modes[path])
        if path in self.files:
            return FileStatus(stat.S_IFREG | 0o644, self.facts.uid)
        if any(path in file.parents for file in (*self.files, *self.modes)):
            return FileStatus(stat.S_IFDIR | 0o755, self.facts.uid)
        return None

    def can_use(self, path: Path) -> bool:
        return path in self.usable

    def sysctl(self, name: str) -> str | None:
        return self.sysctls.get(name)

    def room(self, path: Path) -> DiskRoom:
        return self.disk_room

    def open_files(self) -> OpenFiles:
        return self.limits

    def process_runs(self, pid: int) -> bool:
        return pid in self.processes

    def package(self, name: str) -> str | None:
        return self.packages.get(name)

    def time(self) -> float:
        return self.now

    def port_taken(self, address: str, port: int) -> str:
        return self.taken_port

    def server_time(self, url: str) -> float:
        if isinstance(self.server_clock, Error):
            raise self.server_clock
        return self.server_clock

    def docker_version(self, docker_host: str) -> str:
        if isinstance(self.docker, Error):
            raise self.docker
        return self.docker
