"""The backing with real guests: each virtual machine is a QEMU of its own.

The Mac's ``qemu.json`` names firmware and bridge. Operations are deeds on a worker thread of the guest's own.
"""

import queue
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec

from .backing import Accept, Backing, Connected, Done, Guest, GuestEvents, GuestFault
from .description import GuestDescription, Nic, Share
from .host import Host
from .qemu_monitor import MonitorError
from .qemu_process import QemuProcess, StartFailed, Surroundings

_INTERNAL, _SAVE, _RESTORE = 1, 11, 12  # VZErrorCode
_CONNECTION_RESET = 54
"""ECONNRESET of macOS: nobody in the guest listens on vsock."""


class _QemuSettings(msgspec.Struct, frozen=True):
    """``qemu.json``"""

    firmware: str
    bridge: str


def open_backing(host: Host) -> Backing:
    return QemuBacking(host)


class QemuBacking:
    def __init__(self, host: Host) -> None:
        self._host = host

    def guest(self, description: GuestDescription, events: GuestEvents) -> Guest:
        found = msgspec.json.decode((self._host.directory / "qemu.json").read_bytes(), type=_QemuSettings)
        return QemuGuest(description, events, Surroundings(Path(found.firmware), found.bridge))


class QemuGuest:
    """One VM. Shares and vsock are fixed at start: QEMU's guests cannot have them changed while they run."""

    def __init__(self, description: GuestDescription, events: GuestEvents, surroundings: Surroundings) -> None:
        self._events = events
        self._process = QemuProcess(description, surroundings, self._ended)
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        threading.Thread(target=self._worker, name=f"guest {description.mac}", daemon=True).start()

    def start(self, done: Done) -> None:
        self._submit(self._process.start, _INTERNAL, done)

    def pause(self, done: Done) -> None:
        self._submit(lambda: self._process.execute("stop"), _INTERNAL, done)

    def resume(self, done: Done) -> None:
        self._submit(lambda: self._process.execute("cont"), _INTERNAL, done)

    def stop(self, done: Done) -> None:
        self._submit(self._process.quit, _INTERNAL, done)

    def save(self, path: Path, done: Done) -> None:
        self._submit(lambda: self._process.save(path), _SAVE, done)

    def restore(self, path: Path, done: Done) -> None:
        self._submit(lambda: self._process.start(path), _RESTORE, done)

    def request_stop(self) -> GuestFault | None:
        try:
            self._process.execute("system_powerdown")
        except MonitorError as exc:
            return GuestFault(_INTERNAL, str(exc))
        return None

    def kill(self) -> None:
        self._process.kill()
        self._work.put(None)

    def share_changed(self, tag: str, share: Share | None) -> None:
        return

    def network_changed(self, device: int, nic: Nic) -> None:
        self._submit(
            lambda: self._process.execute("set_link", name=f"nic{device}", up=nic.kind != "none"), 0, lambda _: None
        )

    def memory_target_changed(self, target_bytes: int) -> None:
        self._submit(lambda: self._process.execute("balloon", value=target_bytes), 0, lambda _: None)

    def connect(self, port: int, done: Connected) -> None:
        done(None, GuestFault(_CONNECTION_RESET, "Connection reset by peer", "NSPOSIXErrorDomain"))

    def listen(self, port: int, accept: Accept | None) -> None:
        return

    def _submit(self, deed: Callable[[], object], code: int, done: Done) -> None:
        def do() -> None:
            try:
                deed()
            except (MonitorError, StartFailed) as exc:
                done(GuestFault(code, str(exc)))
            else:
                done(None)

        self._work.put(do)

    def _worker(self) -> None:
        while (deed := self._work.get()) is not None:
            deed()

    def _ended(self, fault: str | None) -> None:
        if fault is None:
            self._events.guest_stopped()
        else:
            self._events.stopped_with_error(GuestFault(_INTERNAL, fault))
        self._work.put(None)
