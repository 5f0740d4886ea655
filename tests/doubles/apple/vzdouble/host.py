"""The directory that is one Mac: settings, and files that processes share."""

import fcntl
import functools
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import msgspec

HOST_VARIABLE = "VZ_DOUBLE_HOST"


class Interface(msgspec.Struct, frozen=True):
    identifier: str
    name: str = ""


class Limits(msgspec.Struct, frozen=True):
    macos_guests: int = 2
    cpus: int = 8
    minimum_cpus: int = 1
    memory_bytes: int = 16 << 30
    minimum_memory_bytes: int = 4 << 20


class LatestRestoreImage(msgspec.Struct, frozen=True):
    url: str
    version: tuple[int, ...]
    build: str


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """host.json; the README explains each."""

    version: tuple[int, ...] = (15, 1)
    arch: Literal["arm64", "x86_64"] = "arm64"
    reported_version: tuple[int, ...] | None = None
    guests: str = "instant"
    on_abort: Literal["abort", "record"] = "abort"
    supported: bool = True
    entitlements: tuple[str, ...] = ("com.apple.security.virtualization",)
    keychain: Literal["unlocked", "locked"] = "unlocked"
    root: bool = False
    interfaces: tuple[Interface, ...] = (Interface("en0", "Ethernet"),)
    limits: Limits = Limits()
    nested: bool = False
    rosetta: Literal["installed", "not-installed", "not-supported"] = "installed"
    lease_network: str = "192.168.64.0/24"
    lease_duration_s: int = 86400
    operation_delay_s: float = 0.0
    latest_restore_image: LatestRestoreImage | None = None

    @property
    def release(self) -> tuple[int, int]:
        """Major and minor version."""
        return (*self.version, 0)[:2]  # type: ignore[return-value]


class Host:
    def __init__(self, directory: Path) -> None:
        self.directory = directory.absolute()
        for name in ("running", "guests", "faults"):
            (self.directory / name).mkdir(parents=True, exist_ok=True)
        self._lock = threading.RLock()

    def settings(self) -> Settings:
        path = self.directory / "host.json"
        return msgspec.json.decode(path.read_bytes(), type=Settings) if path.exists() else Settings()

    def append(self, name: str, line: str) -> None:
        """A whole line, whoever else writes."""
        descriptor = os.open(self.directory / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            os.write(descriptor, line.encode() + b"\n")
        finally:
            os.close(descriptor)

    def log_call(self, **fields: Any) -> None:
        self.append("calls.jsonl", msgspec.json.encode({"pid": os.getpid()} | fields).decode())

    @contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """Alone with `name`.lock, among all threads and processes of this Mac."""
        with self._lock:
            descriptor = os.open(self.directory / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                yield
            finally:
                os.close(descriptor)


@functools.cache
def current_host() -> Host:
    """The Mac of this process. Raises: ImportError when none is named, so that nobody gets the double by accident."""
    directory = os.environ.get(HOST_VARIABLE)
    if not directory:
        raise ImportError(f"the double of PyObjC needs {HOST_VARIABLE}, the directory of a Mac; see its README")
    return Host(Path(directory))


@functools.cache
def boot_settings() -> Settings:
    """The settings at the process's first look: version and architecture do not change under a process."""
    return current_host().settings()
