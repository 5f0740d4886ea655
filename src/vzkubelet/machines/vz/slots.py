"""Machine slots, shared by all agents of a user: a slot is held by a lock that lives as long as the machine.

Apple's framework runs two macOS guests per host, whoever starts them; Linux guests go by CPU and memory, and have slots
because each slot has a MAC address of its own (`mac_pool`). The lock belongs to an open file that the daemon takes and
the machine's helper inherits, so it is free exactly when the helper has ended, whatever became of the daemon.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from vzkubelet.errors import MACHINE_LIMIT_REASON, Exhausted
from vzkubelet.machines.directory import os_fault

MACOS_SLOTS = 2
"""hv_apple_isa_vm_quota of the kernel, and section 2B(iii) of macOS' licence."""
LINUX_SLOTS = 200
"""More than a subnet of vmnet has addresses for is of no use."""


class GuestKind(StrEnum):
    MACOS = "macos"
    LINUX = "linux"

    @classmethod
    def of(cls, system: str) -> "GuestKind":
        """By the system of an image, ``darwin`` or ``linux``."""
        return cls.MACOS if system == "darwin" else cls.LINUX


_NUMBER = {GuestKind.MACOS: MACOS_SLOTS, GuestKind.LINUX: LINUX_SLOTS}


@dataclass(frozen=True, slots=True)
class Slot:
    """A slot that is held as long as `descriptor`, or a copy of it in another process, is open."""

    kind: GuestKind
    index: int
    descriptor: int


class Slots:
    """The slots below a directory that agents share (--vz-host-dir). Everything here blocks for a moment."""

    def __init__(self, host_directory: Path) -> None:
        self._directory = host_directory / "slots"

    @contextlib.contextmanager
    def taken(self, kind: GuestKind, owner: str) -> Iterator[Slot]:
        """A free slot, the lowest, while the block lasts and in whatever inherits it; `owner` is written into it.

        Raises: Exhausted (reason VirtualMachineLimit), Unavailable (the directory cannot be written).
        """
        slot = self._take(kind, owner)
        try:
            yield slot
        finally:
            os.close(slot.descriptor)

    def _take(self, kind: GuestKind, owner: str) -> Slot:
        owners: list[str] = []
        with self._alone():
            for index in range(_NUMBER[kind]):
                descriptor = self._lock(kind, index)
                if descriptor is not None:
                    os.ftruncate(descriptor, 0)
                    os.pwrite(descriptor, owner.encode(), 0)
                    return Slot(kind, index, descriptor)
                owners.append(self._file(kind, index).read_text(errors="replace"))
        if kind is GuestKind.LINUX:
            raise Exhausted(f"{LINUX_SLOTS} Linux guests run on this host already", reason=MACHINE_LIMIT_REASON)
        raise Exhausted(
            f"this host runs {MACOS_SLOTS} macOS guests already, which is Apple's limit ({', '.join(owners)}); "
            "the machine starts when one of them has ended",
            reason=MACHINE_LIMIT_REASON,
        )

    def held(self, kind: GuestKind) -> int:
        """How many machines of this kind run, of all agents. Raises Unavailable."""
        with self._alone():
            free = 0
            for index in range(_NUMBER[kind]):
                if not self._file(kind, index).exists():
                    free += 1
                elif (descriptor := self._lock(kind, index)) is not None:
                    os.close(descriptor)
                    free += 1
            return _NUMBER[kind] - free

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Alone among all processes: whoever looks whether a slot is free holds it for that moment."""
        try:
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise os_fault(exc, f"cannot use {self._directory} (--vz-host-dir)") from exc
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        except OSError as exc:
            raise os_fault(exc, f"cannot use {self._directory} (--vz-host-dir)") from exc
        finally:
            os.close(descriptor)

    def _file(self, kind: GuestKind, index: int) -> Path:
        return self._directory / f"{kind}-{index}"

    def _lock(self, kind: GuestKind, index: int) -> int | None:
        """The slot's descriptor; None when somebody holds it."""
        descriptor = os.open(self._file(kind, index), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor


def refusal_explained(message: str, ours: int) -> str:
    """Apple's refusal of one more macOS guest (code 6) while `ours` run, with who has the slots."""
    if ours >= MACOS_SLOTS:
        return f"{message}; {ours} are run by agents of this host, and the machine starts when one of them has ended"
    return (
        f"{message}; agents of this host run {ours}, so another program has "
        f"{'a slot' if ours else 'both slots'}, or macOS has leaked {'one' if ours else 'them'}"
    )
