"""Guests without a guest: up at once, a lease, lines on the console, and a socket by which a test plays the guest."""

import contextlib
import itertools
import json
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .backing import Accept, Connected, Done, GuestEvents, GuestFault
from .description import GuestDescription, Nic, SerialPort, Share
from .errors import INTERNAL, NETWORK, RESTORE, SAVE
from .host import Host
from .leases import take_lease, write_lease

_numbers = itertools.count(1)
_LEASING = ("nat", "vmnet", "bridged")
_CONNECTION_RESET = 54
"""ECONNRESET of macOS."""


def open_backing(host: Host) -> "InstantBacking":
    return InstantBacking(host)


class InstantBacking:
    def __init__(self, host: Host) -> None:
        self._host = host

    def guest(self, description: GuestDescription, events: GuestEvents) -> "InstantGuest":
        return InstantGuest(self._host, description, events)


class InstantGuest:
    def __init__(self, host: Host, description: GuestDescription, events: GuestEvents) -> None:
        self._host = host
        self._description = description
        self._events = events
        self.name = description.mac or f"none-{os.getpid()}-{next(_numbers)}"
        self._lock = threading.RLock()
        self._ignores_requests = False
        self._network = {index: nic for index, nic in enumerate(description.nics)}  # noqa: C416
        self._shares = {share.tag: share for share in description.shares}
        self._target_bytes = description.memory_bytes
        self._listeners: dict[int, Accept] = {}
        self._state = "new"
        self._door: Door | None = None

    # --- operations --------------------------------------------------------------------------------------------------

    def start(self, done: Done) -> None:
        self._open("running")
        for nic in self._description.nics:
            if nic.kind in _LEASING:
                take_lease(self._host, nic.mac)
        kind = "from recovery" if self._description.boot.recovery else "up"
        self.write_console(f"guest {self.name} is {kind}: {self._description.kind}, {self._description.cpus} CPUs\n")
        self.write_console("login: ")
        done(None)

    def pause(self, done: Done) -> None:
        self._set("paused")
        done(None)

    def resume(self, done: Done) -> None:
        self._set("running")
        done(None)

    def stop(self, done: Done) -> None:
        self.kill()
        done(None)

    def save(self, path: Path, done: Done) -> None:
        try:
            path.write_text(json.dumps({"saved-by": "instant", "configuration": self._description.digest()}))
        except OSError as exc:
            done(GuestFault(SAVE, f"The virtual machine's state could not be saved. {exc.strerror}"))
            return
        done(None)

    def restore(self, path: Path, done: Done) -> None:
        try:
            saved = json.loads(path.read_text())
        except (OSError, ValueError):
            saved = None
        if not isinstance(saved, dict) or saved.get("configuration") != self._description.digest():
            done(GuestFault(RESTORE))
            return
        self._open("paused")
        done(None)

    def request_stop(self) -> GuestFault | None:
        if not self._ignores_requests:
            self.power_off()
        return None

    def kill(self) -> None:
        with self._lock:
            door, self._door = self._door, None
            self._state = "gone"
        if door is not None:
            door.close()
            self._file.unlink(missing_ok=True)

    # --- changes while it runs ---------------------------------------------------------------------------------------

    def share_changed(self, tag: str, share: Share | None) -> None:
        self._shares[tag] = share if share is not None else Share(tag, {})
        self._describe()

    def network_changed(self, device: int, nic: Nic) -> None:
        self._network[device] = nic
        if nic.kind in _LEASING:
            take_lease(self._host, nic.mac)
        self._describe()

    def memory_target_changed(self, target_bytes: int) -> None:
        self._target_bytes = target_bytes
        self._describe()

    def connect(self, port: int, done: Connected) -> None:
        """To the Unix socket that a test bound for this port, in place of the guest."""
        directory = self._host.directory / "guests" / f"{self.name}.vsock"
        try:
            done(connect_unix(directory, str(port)).detach(), None)
        except OSError as exc:
            text = f"The guest does not listen on port {port}: {exc.strerror}"
            done(None, GuestFault(_CONNECTION_RESET, text, domain="NSPOSIXErrorDomain"))

    def listen(self, port: int, accept: Accept | None) -> None:
        if accept is None:
            self._listeners.pop(port, None)
        else:
            self._listeners[port] = accept

    # --- what a test does --------------------------------------------------------------------------------------------

    def power_off(self) -> None:
        self.kill()
        self._events.guest_stopped()

    def crash(self, code: int = INTERNAL, text: str = "") -> None:
        self.kill()
        self._events.stopped_with_error(GuestFault(code, text))

    def disconnect(self, times: int = 1, device: int = 0) -> None:
        for _ in range(times):
            self._events.network_disconnected(device, GuestFault(NETWORK))

    def change_address(self, address: str) -> None:
        write_lease(self._host, self._description.mac, address)

    def ignore_requests(self) -> None:
        self._ignores_requests = True

    def dial(self, port: int) -> str:
        """Open a connection to the host's vsock port; what comes through it is echoed. Returns nothing to say."""
        accept = self._listeners.get(port)
        if accept is None:
            raise ValueError(f"nobody listens on port {port}")
        ours, theirs = socket.socketpair()
        accept(theirs.detach(), 1024 + next(_numbers))
        threading.Thread(target=_echo, args=(ours,), daemon=True, name=f"guest-dial-{port}").start()
        return ""

    def status(self) -> dict[str, Any]:
        with self._lock:
            described = self._description.as_json()
            described["nics"] = [self._as_json(nic) for _, nic in sorted(self._network.items())]
            described["shares"] = [self._as_json(share) for share in self._shares.values()]
            return described | {"state": self._state, "memory_target_bytes": self._target_bytes}

    def write_console(self, text: str) -> None:
        for port in self._description.serial_ports:
            with contextlib.suppress(OSError):
                _write_serial(port, text.encode())

    # --- helpers -----------------------------------------------------------------------------------------------------

    @property
    def _file(self) -> Path:
        return self._host.directory / "guests" / f"{self.name}.json"

    def _open(self, state: str) -> None:
        with self._lock:
            self._state = state
            self._door = Door(self, self._host.directory / "guests")
        self._describe()

    def _set(self, state: str) -> None:
        self._state = state
        self._describe()

    def _describe(self) -> None:
        with self._lock:
            if self._state == "gone":
                return
            staged = self._file.with_suffix(f".{os.getpid()}")
            staged.write_text(json.dumps(self.status()))
            staged.replace(self._file)

    @staticmethod
    def _as_json(part: Nic | Share) -> dict[str, Any]:
        import dataclasses

        return dataclasses.asdict(part)


class Door:
    """The socket ``guests/NAME.sock``; serves until it is closed."""

    def __init__(self, guest: InstantGuest, directory: Path) -> None:
        self._guest = guest
        self._path = directory / f"{guest.name}.sock"
        self._path.unlink(missing_ok=True)
        self._listener = listen_unix(directory, self._path.name)
        threading.Thread(target=self._serve, name=f"guest-{guest.name}", daemon=True).start()

    def close(self) -> None:
        self._path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)

    def _serve(self) -> None:
        with self._listener:
            while True:
                try:
                    connection, _ = self._listener.accept()
                except OSError:
                    return
                with connection, contextlib.suppress(OSError), connection.makefile("rw") as stream:
                    connection.settimeout(5.0)
                    stream.write(json.dumps(self._answer(stream.readline())) + "\n")
                    stream.flush()

    def _answer(self, line: str) -> dict[str, Any]:
        verb, *words = line.split() or [""]
        guest = self._guest
        acts: dict[str, Callable[[], object]] = {
            "power-off": guest.power_off,
            "crash": lambda: guest.crash(int(words[0]) if words else INTERNAL, " ".join(words[1:])),
            "disconnect": lambda: guest.disconnect(*(int(word) for word in words)),
            "console": lambda: guest.write_console(line.partition(" ")[2]),
            "address": lambda: guest.change_address(words[0]),
            "ignore-requests": guest.ignore_requests,
            "dial": lambda: guest.dial(int(words[0])),
            "status": guest.status,
        }
        try:
            result = acts[verb]()
        except (KeyError, ValueError, IndexError, TypeError, OSError) as exc:
            return {"error": f"{line.strip()!r}: {exc!r}"}
        return {"ok": True} | (result if isinstance(result, dict) else {})


def _write_serial(port: SerialPort, data: bytes) -> None:
    if port.path:
        with Path(port.path).open("ab") as file:
            file.write(data)
    elif port.write_descriptor is not None:
        os.write(port.write_descriptor, data)


def _echo(connection: socket.socket) -> None:
    with connection, contextlib.suppress(OSError):
        while data := connection.recv(65536):
            connection.sendall(data)


def connect_unix(directory: Path, name: str) -> socket.socket:
    """Through the directory's descriptor: socket paths are short, temporary directories are not."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(f"/proc/self/fd/{descriptor}/{name}")
    except OSError:
        connection.close()
        raise
    finally:
        os.close(descriptor)
    return connection


def listen_unix(directory: Path, name: str) -> socket.socket:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(f"/proc/self/fd/{descriptor}/{name}")
        listener.listen()
    except OSError:
        listener.close()
        raise
    finally:
        os.close(descriptor)
    return listener
