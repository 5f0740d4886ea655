"""MAC addresses of guests: one per machine slot of a user, the same for ever.

macOS leases an address for a day and its pool has about 250: a new MAC for every guest would use them up within hours
of CI jobs. A slot has one machine at a time among all agents of a user, so its address is never in use twice.
"""

import fcntl
import os
import secrets
from pathlib import Path

from vzkubelet import files
from vzkubelet.errors import Unavailable
from vzkubelet.machines.addresses import MacAddress
from vzkubelet.machines.directory import os_fault
from vzkubelet.machines.vz.slots import GuestKind, Slot

_FIRST = {GuestKind.MACOS: 0x00, GuestKind.LINUX: 0x10}
"""Last octet of the first slot of a kind."""
_PREFIX_OCTETS = 5


class MacPool:
    """The addresses below a directory that all agents of a user name (--vz-host-dir)."""

    def __init__(self, host_directory: Path) -> None:
        self._file = host_directory / "mac-prefix"

    def address(self, slot: Slot) -> MacAddress:
        """The slot's address: locally administered, unicast. Raises Unavailable."""
        return MacAddress(self._prefix() + bytes([_FIRST[slot.kind] + slot.index]))

    def _prefix(self) -> bytes:
        """Five octets, chosen once at random so that hosts on one bridged network differ."""
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(self._file.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                known = files.read_if_present(self._file)
                if known is None:
                    chosen = secrets.token_bytes(_PREFIX_OCTETS)
                    known = (bytes([(chosen[0] & 0xFC) | 0x02]) + chosen[1:]).hex(":").encode()
                    files.write_atomic(self._file, known)
            finally:
                os.close(descriptor)
        except OSError as exc:
            raise os_fault(exc, f"cannot use {self._file} (--vz-host-dir)") from exc
        prefix = MacAddress.parse(f"{known.decode(errors='replace').strip()}:00")
        if prefix is None or prefix.octets[0] & 3 != 2:
            raise Unavailable(f"{self._file} does not hold five octets of a local MAC address; remove it")
        return prefix.octets[:_PREFIX_OCTETS]
