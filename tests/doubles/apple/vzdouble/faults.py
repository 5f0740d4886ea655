"""Injected faults: files of the host's faults/ directory, each consumed so many times."""

import os
from pathlib import Path

import msgspec

from .backing import GuestFault
from .host import Host


class Underlying(msgspec.Struct, frozen=True):
    domain: str
    code: int
    text: str = ""


class Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of faults/; the README explains each field."""

    operation: str
    times: int = 1
    skip: int = 0
    mac: str | None = None
    delay_s: float = 0.0
    never: bool = False
    code: int | None = None
    domain: str = "VZErrorDomain"
    text: str = ""
    reason: str = ""
    underlying: Underlying | None = None
    event: str | None = None
    event_when: str = "before"
    event_times: int = 1
    event_code: int = 1
    event_text: str = ""

    @property
    def event_fault(self) -> GuestFault:
        return GuestFault(self.event_code, self.event_text)


NO_FAULT = Fault(operation="")


def take_fault(host: Host, operation: str, mac: str = "") -> Fault:
    """The first fault for this operation, once less from now on; `NO_FAULT` if there is none."""
    directory = host.directory / "faults"
    if not any(directory.glob("*.json")):  # the rule: spare every call the lock
        return NO_FAULT
    with host.locked("faults/"):
        for path in sorted(directory.glob("*.json")):
            fault = msgspec.json.decode(path.read_bytes(), type=Fault)
            if fault.operation != operation or (fault.mac is not None and fault.mac != mac):
                continue
            if fault.skip:
                _replace(path, msgspec.structs.replace(fault, skip=fault.skip - 1))
                continue
            if fault.times == 1:
                path.unlink()
            elif fault.times:
                _replace(path, msgspec.structs.replace(fault, times=fault.times - 1))
            return fault
    return NO_FAULT


def _replace(path: Path, fault: Fault) -> None:
    staged = path.with_suffix(f".{os.getpid()}")
    staged.write_bytes(msgspec.json.encode(fault))
    staged.replace(path)
