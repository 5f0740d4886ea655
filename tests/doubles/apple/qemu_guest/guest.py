"""One running QEMU: a child of this process that dies with it, as the framework's XPC service does."""

import contextlib
import fcntl
import os
import secrets
import shlex
import shutil
import socket
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from . import shares
from .command_line import Description, Invocation, Tap, command_line
from .monitor import Monitor, MonitorError

OWNER = "VZ_DOUBLE_GUEST"
"""Environment variable of every process of a guest: the directory of its first disk."""
_SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_TUN = "/dev/net/tun"
_TUNSETIFF = 0x400454CA  # linux/if_tun.h
_TAP_FLAGS = 0x0002 | 0x1000 | 0x4000  # IFF_TAP, IFF_NO_PI (bare frames), IFF_VNET_HDR (offloads)
_MIGRATION_S = 120.0
_DIE_WITH_PARENT = '[ "$PPID" = "$0" ] && exec "$@"'
"""Run under PR_SET_PDEATHSIG: a parent that was gone before that was set is not the parent any more."""


class StartFailed(Exception):
    """QEMU did not come to run the guest; its own words are in the text."""


class QemuGuest:
    """A guest from `start` to its end, of which `on_end` hears once, on a thread of its own.

    `on_end(None)`: the guest powered off. `on_end(text)`: QEMU crashed. After `stop` it is not called.
    """

    def __init__(self, description: Description, on_end: Callable[[str | None], None]) -> None:
        self._description = description
        self._on_end = on_end
        self._started = threading.Event()
        self._failure: str | None = None
        self._powered_off = False
        self._stopping = False
        self._monitor: Monitor | None = None
        self._process: subprocess.Popen[bytes] | None = None
        # The thread that starts QEMU waits for it too: the death signal is bound to the life of that thread.
        self._thread = threading.Thread(target=self._run, name=f"guest {description.name}", daemon=True)
        self._incoming: Path | None = None
        self.ended = threading.Event()

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def start(self, incoming: Path | None = None) -> None:
        """Block until the guest's processors run, or with `incoming` until the saved state is loaded, paused.

        Raises: StartFailed.
        """
        self._incoming = incoming
        self._thread.start()
        self._started.wait()
        if self._failure is not None:
            raise StartFailed(self._failure)

    def press_power_button(self) -> None:
        """Raises: MonitorError."""
        self._execute("system_powerdown")

    def pause(self) -> None:
        """Raises: MonitorError."""
        self._execute("stop")

    def resume(self) -> None:
        """Raises: MonitorError."""
        self._execute("cont")

    def stop(self) -> None:
        """Pull the plug; returns when QEMU is gone."""
        self._stopping = True
        with contextlib.suppress(MonitorError):
            self._execute("quit")
        if not self.ended.wait(10) and self._process is not None:
            self._process.kill()
            self.ended.wait()

    def save(self, target: Path) -> None:
        """Write the state of a paused guest. Raises: MonitorError (shares cannot be saved), `target` is gone then."""
        try:
            self._execute("migrate", uri=f"exec:cat > {shlex.quote(str(target))}")
            self._migrated()
        except MonitorError:
            target.unlink(missing_ok=True)
            raise

    def set_balloon(self, target_bytes: int) -> None:
        """Raises: MonitorError."""
        self._execute("balloon", value=target_bytes)

    def _execute(self, command: str, **arguments: Any) -> Any:
        if self._monitor is None:
            raise MonitorError("QEMU does not run")
        return self._monitor.execute(command, **arguments)

    def _migrated(self) -> None:
        deadline = time.monotonic() + _MIGRATION_S
        while True:
            found = self._execute("query-migrate")
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
            except (OSError, ValueError, MonitorError, subprocess.CalledProcessError) as exc:
                if self._process is not None:
                    self._process.kill()
                    self._process.wait()
                self._failure = f"{exc}: {_text(words)}".rstrip(": ")
                self.ended.set()
                self._started.set()
                return
            self._started.set()
            assert self._process is not None
            assert self._monitor is not None
            status = self._process.wait()
            self._monitor.wait_closed(5)
            self._monitor.close()
            self.ended.set()
            if not self._stopping:
                self._on_end(None if self._powered_off else f"QEMU ended with status {status}: {_text(words)}")

    def _launch(self, words: IO[bytes]) -> None:
        guest = self._description
        ours, its = socket.socketpair()
        with contextlib.ExitStack() as stack:
            stack.callback(its.close)
            taps = [stack.enter_context(_tap(i.attachment.bridge)) for i in guest.interfaces if _is_tap(i.attachment)]
            sockets = tuple(self._serve(index, words) for index in range(len(guest.shares)))
            invocation = Invocation(its.fileno(), tuple(taps), sockets, self._incoming)
            arguments = command_line(_program("qemu-system-x86_64"), guest, invocation)
            datagrams = [getattr(i.attachment, "descriptor", None) for i in guest.interfaces]
            inherited = [its.fileno(), *taps, *(descriptor for descriptor in datagrams if descriptor is not None)]
            self._process = self._spawn(arguments, inherited, words)
        self._monitor = Monitor(ours, self._heard)
        self._monitor.open()
        if self._incoming is not None:
            self._monitor.execute("migrate-incoming", uri=f"exec:cat {shlex.quote(str(self._incoming))}")
            self._migrated()

    def _serve(self, index: int, words: IO[bytes]) -> str:
        """Start the server of one share; it ends when QEMU's connection does, or with us."""
        name = f"vz-double-{os.getpid()}-{secrets.token_hex(6)}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(f"\0{name}")
            listener.listen(1)
            command = shares.command(_program("virtiofsd"), self._description.shares[index], listener.fileno())
            server = self._spawn(command, [listener.fileno()], words)
        threading.Thread(target=server.wait, name=f"share {index}", daemon=True).start()
        return name

    def _spawn(self, command: Sequence[str], descriptors: Sequence[int], words: IO[bytes]) -> subprocess.Popen[bytes]:
        owner = self._description.disks[0].path.parent if self._description.disks else self._description.variables
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


def _is_tap(attachment: object) -> bool:
    return isinstance(attachment, Tap)


@contextlib.contextmanager
def _tap(bridge: str) -> Iterator[int]:
    """A tap on the bridge that lives as long as somebody holds its descriptor: QEMU, after this block."""
    name = f"vzd{secrets.token_hex(5)}"
    descriptor = os.open(_TUN, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _TAP_FLAGS))
        link = ["ip", "link", "set", "dev", name, "master", bridge, "up"]
        subprocess.run(link, check=True, capture_output=True, env={"PATH": _SEARCH_PATH})
        yield descriptor
    finally:
        os.close(descriptor)


def _program(name: str) -> str:
    found = shutil.which(name, path=f"/usr/libexec:/usr/lib/qemu:{_SEARCH_PATH}")
    if found is None:
        raise OSError(f"{name} is missing: apt-get install qemu-system-x86 qemu-system-common")
    return found


def _text(words: IO[bytes]) -> str:
    words.seek(0)
    return words.read().decode(errors="replace").strip()[-2000:]
