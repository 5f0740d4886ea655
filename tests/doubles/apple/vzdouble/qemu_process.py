"""One running QEMU: a child of this process that dies with it, as the framework's XPC service does."""

import contextlib
import os
import secrets
import shlex
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from . import qemu_shares
from .description import GuestDescription
from .qemu_command_line import SHARED_NETWORKS, Invocation, command_line
from .qemu_monitor import Monitor, MonitorError
from .qemu_taps import tap

OWNER = "VZ_DOUBLE_GUEST"
"""Environment variable of every process of a guest: the directory of its first disk."""
_SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_MIGRATION_S = 120.0
_QUIT_S = 10.0
_DIE_WITH_PARENT = '[ "$PPID" = "$0" ] && exec "$@"'
"""Run under PR_SET_PDEATHSIG: a parent that was gone before that was set is not the parent any more."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What this Mac has for guests."""

    firmware: Path
    bridge: str


class StartFailed(Exception):
    """QEMU did not come to run the guest; its own words are in the text."""


class QemuProcess:
    """A guest from `start` to its end, of which `on_end` hears once, on a thread of its own.

    `on_end(None)`: the guest powered off. `on_end(text)`: QEMU crashed. It is not called for a guest that did not
    start, or after `quit` or `kill`.
    """

    def __init__(
        self, guest: GuestDescription, surroundings: Surroundings, on_end: Callable[[str | None], None]
    ) -> None:
        self._guest = guest
        self._surroundings = surroundings
        self._on_end = on_end
        self._incoming: Path | None = None
        self._started = threading.Event()
        self._ended = threading.Event()
        self._failure: str | None = None
        self._powered_off = False
        self._lock = threading.Lock()
        self._unwanted = False
        self._monitor: Monitor | None = None
        self._process: subprocess.Popen[bytes] | None = None
        # The thread that starts QEMU waits for it too: the death signal is bound to the life of that thread.
        self._thread = threading.Thread(target=self._run, name=f"QEMU {guest.mac}", daemon=True)

    def start(self, incoming: Path | None = None) -> None:
        """Block until the guest's processors run, or with `incoming` until the saved state is loaded, paused.

        Raises: StartFailed.
        """
        self._incoming = incoming
        self._thread.start()
        self._started.wait()
        if self._failure is not None:
            raise StartFailed(self._failure)

    def execute(self, command: str, **arguments: Any) -> Any:
        """A QMP command. Raises: MonitorError."""
        if self._monitor is None:
            raise MonitorError("QEMU does not run")
        return self._monitor.execute(command, **arguments)

    def quit(self) -> None:
        """Pull the plug; returns when QEMU is gone."""
        with self._lock:
            self._unwanted = True
        with contextlib.suppress(MonitorError):
            self.execute("quit")
        if not self._ended.wait(_QUIT_S):
            self.kill()
            self._ended.wait()

    def kill(self) -> None:
        """End at once, in any state."""
        with self._lock:
            self._unwanted = True
            if self._process is not None and not self._ended.is_set():
                self._process.kill()

    def save(self, target: Path) -> None:
        """Write the state of a paused guest. Raises: MonitorError (shares cannot be saved); `target` is gone then."""
        try:
            script = f"{{ echo {self._guest.digest()}; cat; }} > {shlex.quote(str(target))}"
            self.execute("migrate", uri=f"exec:{script}")
            self._wait_moved()
        except MonitorError:
            target.unlink(missing_ok=True)
            raise

    def _wait_moved(self) -> None:
        deadline = time.monotonic() + _MIGRATION_S
        while True:
            found = self.execute("query-migrate")
            match found.get("status"):
                case "completed":
                    return
                case "failed" | "cancelled":
                    raise MonitorError(f"the state was not moved: {found.get('error-desc', 'no reason given')}")
                case _ if time.monotonic() > deadline:
                    raise MonitorError(f"the state was not moved within {_MIGRATION_S:.0f} s")
            time.sleep(0.05)

    # --- The guest's own thread ----------------------------------------------------------------------------------

    def _run(self) -> None:
        with tempfile.TemporaryFile() as words:
            try:
                self._launch(words)
            except (OSError, ValueError, MonitorError, subprocess.SubprocessError) as exc:
                self.kill()
                if self._process is not None:
                    self._process.wait()
                self._failure = f"{exc}: {_text(words)}".rstrip(": ")
                self._ended.set()
                self._started.set()
                return
            self._started.set()
            assert self._process is not None
            assert self._monitor is not None
            status = self._process.wait()
            self._monitor.wait_closed(_QUIT_S)
            self._monitor.close()
            self._ended.set()
            with self._lock:
                unwanted = self._unwanted
            if not unwanted:
                self._on_end(None if self._powered_off else f"QEMU ended with status {status}: {_text(words)}")

    def _launch(self, words: IO[bytes]) -> None:
        if self._incoming is not None:
            self._check_saved(self._incoming)
        ours, its = socket.socketpair()
        with contextlib.ExitStack() as stack:
            stack.callback(its.close)
            taps = {
                index: stack.enter_context(tap(self._surroundings.bridge))
                for index, nic in enumerate(self._guest.nics)
                if nic.kind in SHARED_NETWORKS
            }
            datagrams = {
                index: nic.descriptor
                for index, nic in enumerate(self._guest.nics)
                if nic.kind == "file-handle" and nic.descriptor is not None
            }
            console = self._guest.serial_ports[0].write_descriptor if self._guest.serial_ports else None
            invocation = Invocation(
                self._surroundings.firmware,
                its.fileno(),
                taps,
                datagrams,
                tuple(self._serve(index, words) for index in range(len(self._guest.shares))),
                console,
                self._incoming is not None,
            )
            arguments = command_line(_program("qemu-system-x86_64"), self._guest, invocation)
            inherited = [its.fileno(), *taps.values(), *datagrams.values(), *([] if console is None else [console])]
            process = self._spawn(arguments, inherited, words)
        with self._lock:
            self._process = process
            if self._unwanted:
                process.kill()
        self._monitor = Monitor(ours, self._heard)
        self._monitor.open()
        if self._incoming is not None:
            self._monitor.execute("migrate-incoming", uri=f"exec:tail -n +2 {shlex.quote(str(self._incoming))}")
            self._wait_moved()

    def _check_saved(self, saved: Path) -> None:
        with saved.open("rb") as file:
            if file.readline(200).strip().decode(errors="replace") != self._guest.digest():
                raise ValueError("the state was saved by a machine of another configuration")

    def _serve(self, index: int, words: IO[bytes]) -> str:
        """Start the server of one share; it ends when QEMU's connection does, or with us."""
        name = f"vz-double-{os.getpid()}-{secrets.token_hex(6)}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(f"\0{name}")
            listener.listen(1)
            command = qemu_shares.command(_program("virtiofsd"), self._guest.shares[index], listener.fileno())
            server = self._spawn(command, [listener.fileno()], words)
        threading.Thread(target=server.wait, name=f"share {index}", daemon=True).start()
        return name

    def _spawn(self, command: Sequence[str], descriptors: Sequence[int], words: IO[bytes]) -> subprocess.Popen[bytes]:
        owner = next((path.parent for path in self._guest.paths()), Path("/"))
        return subprocess.Popen(
            ["setpriv", "--pdeathsig=KILL", "--", "sh", "-c", _DIE_WITH_PARENT, str(os.getpid()), *command],
            env={"PATH": _SEARCH_PATH, "LANG": "C.UTF-8", OWNER: str(owner)},
            stdin=subprocess.DEVNULL,
            stdout=words,
            stderr=words,
            pass_fds=tuple(descriptors),
            start_new_session=True,
        )

    def _heard(self, event: str, data: dict[str, Any]) -> None:
        if event == "SHUTDOWN":
            self._powered_off = bool(data.get("guest")) and data.get("reason") != "guest-panic"


def _program(name: str) -> str:
    found = shutil.which(name, path=f"/usr/libexec:/usr/lib/qemu:{_SEARCH_PATH}")
    if found is None:
        raise OSError(f"{name} is missing: apt-get install qemu-system-x86 qemu-system-common")
    return found


def _text(words: IO[bytes]) -> str:
    words.seek(0)
    return words.read().decode(errors="replace").strip()[-2000:]
