"""What running VMs hold on the Mac: a place among them, and locks on their disks. Ends with the process."""

import contextlib
import fcntl
import itertools
import os
from pathlib import Path

import msgspec

from .backing import GuestFault
from .description import GuestDescription
from .errors import INTERNAL, INVALID_CONFIGURATION, LIMIT_EXCEEDED
from .host import Host

_numbers = itertools.count(1)


class Slot:
    """Held while a VM runs."""

    def __init__(self) -> None:
        self._descriptors: list[int] = []
        self._path: Path | None = None

    def release(self) -> None:
        """Twice is fine."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            self._path = None
        while self._descriptors:
            os.close(self._descriptors.pop())

    def take(self, host: Host, description: GuestDescription) -> GuestFault | None:
        """Whether this VM may run now, by everything that the host decides. Nothing is held after a fault."""
        with host.locked("running/"):
            fault = self._take(host, description)
        if fault is not None:
            self.release()
        return fault

    def _take(self, host: Host, description: GuestDescription) -> GuestFault | None:
        if description.kind == "macos":
            others = [entry for entry in running(host) if entry.get("kind") == "macos"]
            if len(others) >= host.settings().limits.macos_guests:
                return GuestFault(LIMIT_EXCEEDED)
            fault = _session_fault(host)
            if fault is not None:
                return fault
            if not self._lock(Path(description.boot.auxiliary_storage), read_only=False):
                return GuestFault(
                    INVALID_CONFIGURATION, "Invalid virtual machine configuration. Failed to lock auxiliary storage."
                )
        for disk in description.disks:
            if disk.path and not self._lock(Path(disk.path), read_only=disk.read_only):
                return GuestFault(
                    INVALID_CONFIGURATION,
                    "Invalid virtual machine configuration. The storage device attachment is invalid.",
                )
        self._register(host, description)
        return None

    def _register(self, host: Host, description: GuestDescription) -> None:
        path = host.directory / "running" / f"{os.getpid()}-{next(_numbers)}.json"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        entry = {
            "pid": os.getpid(),
            "kind": description.kind,
            "mac": description.mac,
            "disks": [disk.path for disk in description.disks],
            "machine_id": description.machine_id,
        }
        os.write(descriptor, msgspec.json.encode(entry))
        self._descriptors.append(descriptor)
        self._path = path

    def _lock(self, path: Path, *, read_only: bool) -> bool:
        try:
            descriptor = os.open(path, (os.O_RDONLY if read_only else os.O_RDWR) | os.O_CLOEXEC)
        except OSError:
            return False
        self._descriptors.append(descriptor)
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if read_only else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def _session_fault(host: Host) -> GuestFault | None:
    """macOS 15 makes a key for each VM: not as root, not with a locked keychain."""
    settings = host.settings()
    if settings.release < (15, 0):
        return None
    if settings.root:
        return GuestFault(INTERNAL, "Internal Virtualization error. The virtual machine failed to start.")
    if settings.keychain == "locked":
        return GuestFault(
            INTERNAL,
            "Internal Virtualization error. The virtual machine failed to start. Failed to generate keypair: "
            "SecKeyCreateRandomKey_ios failed (-25308), interaction is not allowed.",
        )
    return None


def running(host: Host) -> list[dict[str, object]]:
    """The VMs that run on this Mac, of all processes; files of processes that died are removed."""
    found = []
    for path in sorted((host.directory / "running").glob("*.json")):
        with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                found.append(msgspec.json.decode(file.read() or b"{}"))
            else:
                path.unlink(missing_ok=True)
    return found
