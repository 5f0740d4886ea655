"""The machine identifier (ECID on a Mac) of a virtual machine: the image's, or one of its own that stays with it.

Two running guests with one identifier are undefined behaviour, says Apple; in practice they run, and their serial
numbers, iCloud and device management collide. What is to happen is the plan's `IdentityPolicy`.
"""

import contextlib
import fcntl
import hashlib
import os
from pathlib import Path
from typing import Any

from vzkubelet.errors import Exhausted
from vzkubelet.files import read_if_present, write_atomic
from vzkubelet.machines.directory import MachineDirectory, os_fault
from vzkubelet.machines.vz import apple, faults
from vzkubelet.machines.vz.plan import Identity, IdentityPolicy

_UNREADABLE = "push the image again, or run the agent with `--vz-machine-id random`"


def is_own(identity: Identity) -> bool:
    """Whether the machine has an identifier of its own instead of the image's."""
    return identity.policy is IdentityPolicy.RANDOM or not identity.machine_id


def machine_identifier(kind: Any, identity: Identity, directory: MachineDirectory) -> Any:
    """An instance of `kind` (VZMacMachineIdentifier, VZGenericMachineIdentifier), the same at every start.

    Raises InvalidInput (data that is no identifier), Exhausted, Unavailable (the file of it cannot be kept).
    """
    if not is_own(identity):
        return _from_data(kind, identity.machine_id)
    try:
        kept = read_if_present(directory.machine_id)
        if kept is not None:
            return _from_data(kind, kept)
        made = kind.alloc().init()
        write_atomic(directory.machine_id, bytes(made.dataRepresentation()))
    except OSError as exc:
        raise os_fault(exc, f"cannot keep the machine identifier in {directory.machine_id}") from exc
    return made


def _from_data(kind: Any, representation: bytes) -> Any:
    identifier = kind.alloc().initWithDataRepresentation_(apple.data(representation))
    if identifier is None:
        raise faults.unreadable("the machine identifier", _UNREADABLE)
    return identifier


class IdentityLock:
    """Held, shared, while a machine with the image's identifier runs, so that `FAIL_IF_RUNNING` can see it: that needs
    to have it exclusively for a moment at its start. The kernel drops it with the process."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._descriptor: int | None = None

    def take(self) -> None:
        """Raises Exhausted when the policy is `FAIL_IF_RUNNING` and another machine has the identifier, Unavailable."""
        if self._descriptor is not None or is_own(self._identity) or not self._identity.locks:
            return
        name = hashlib.sha256(self._identity.machine_id).hexdigest()[:32] + ".lock"
        path = Path(self._identity.locks) / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise os_fault(exc, f"cannot lock {path}") from exc
        try:
            if self._identity.policy is IdentityPolicy.FAIL_IF_RUNNING:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Between the two another may come first; then this one is refused.
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            else:
                fcntl.flock(descriptor, fcntl.LOCK_SH)  # waits for the moment of another at most
        except BlockingIOError:
            os.close(descriptor)
            raise Exhausted(
                "another machine made from the same image runs with the same machine identifier; delete it, or run "
                "the agent with `--vz-machine-id random` (or `keep`, if equal serial numbers do no harm)",
                reason="MachineIdentityInUse",
            ) from None
        except OSError as exc:
            os.close(descriptor)
            raise os_fault(exc, f"cannot lock {path}") from exc
        self._descriptor = descriptor

    def release(self) -> None:
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = None
