"""A program that carries a guest's Ethernet frames and decides about them, such as softnet: its socket and its life.

softnet is started as tart starts it: the socket is its standard input, since sudo, through which it gains its rights,
closes every other descriptor; SIGINT ends it. Without the set-user-ID bit softnet starts itself again by ``sudo -n``,
so that a sudo without a password is enough; a command may also have sudo in front.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Sequence

from vzkubelet.config.packet_filter import FilterCommand
from vzkubelet.errors import InvalidInput, MachineFault, NotFound, clip
from vzkubelet.machines.vz.plan import FileHandleNetwork

SEND_BUFFER_BYTES = 1024 * 1024
RECEIVE_BUFFER_BYTES = 4 * SEND_BUFFER_BYTES
"""At least twice, best four times the send buffer (VZFileHandleNetworkDeviceAttachment.h)."""
_STARTUP_S = 0.3
"""A filter without its rights, or that does not know an option, ends at once."""
_GRACE_S = 3.0
_WORDS_BYTES = 4096
_ENDS_WITH_US = """
( exec <&1 >&2; read -r _; kill -INT -$$; sleep 3; kill -KILL -$$ ) &
exec "$@" >&2
"""
"""The program, and beside it a watcher that ends it when the pipe on descriptor 1 closes, also when this process was
killed. The process group that it signals cannot be another's by then: it is in it."""


class PacketFilter:
    """Our end of a guest's frames, and the program at the other end. Lives as long as the virtual machine."""

    def __init__(
        self, frames: socket.socket, process: "subprocess.Popen[bytes]", program: str, words: int, life: int
    ) -> None:
        self._frames = frames
        self._process = process
        self._program = program
        self._words = words
        self._life = life

    @property
    def descriptor(self) -> int:
        """For the attachment; closed by `close`."""
        return self._frames.fileno()

    @property
    def pid(self) -> int:
        return self._process.pid

    def fault(self) -> str:
        """Empty while it runs; then how it ended, and what it said last."""
        status = self._process.poll()
        if status is None:
            return ""
        end = f"exit status {status}" if status >= 0 else f"signal {-status}"
        return f"the packet filter {self._program} ended ({end}): {self._said() or 'it said nothing'}"

    def _said(self) -> str:
        with contextlib.suppress(OSError):
            size = os.fstat(self._words).st_size
            return clip(os.pread(self._words, _WORDS_BYTES, max(size - _WORDS_BYTES, 0)).decode(errors="replace"))
        return ""

    def wait(self, timeout_s: float | None = None) -> str:
        """Block until it has ended, or for so long: `fault`. For a thread of its own."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout_s)
        return self.fault()

    def close(self) -> None:
        """End it and close the frames' socket; repeating it does nothing. Blocks for up to a few seconds."""
        if self._life < 0:
            return
        self._frames.close()
        for number in (signal.SIGINT, signal.SIGTERM):
            if self._process.poll() is None and self._signal(number):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(_GRACE_S)
        self._signal(signal.SIGKILL)  # the watcher as well
        # One under sudo is not ours to kill. Its end is not waited for: the guest's has to be told.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE_S)
        for descriptor in (self._life, self._words):
            os.close(descriptor)
        self._life = self._words = -1

    def _signal(self, number: int) -> bool:
        """Whether anybody was there that we may signal; one that kept root ends with its socket."""
        try:
            os.killpg(self._process.pid, number)
        except (ProcessLookupError, PermissionError):
            return False
        return True


def frame_sockets() -> tuple[socket.socket, socket.socket]:
    """A connected pair of datagram sockets with the buffers that the framework wants. Raises OSError."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
    except OSError:
        ours.close()
        theirs.close()
        raise
    return ours, theirs


def command_line(command: Sequence[str], mac: str) -> list[str]:
    """``{fd}`` and ``{mac}`` replaced; ``softnet …``, also behind sudo, gets the two options that it needs. Pure.

    Raises: InvalidInput.
    """
    if not command or not command[0]:
        raise InvalidInput("a network over a file handle needs a packet filter's command or an inherited descriptor")
    words = [word.replace("{fd}", "0").replace("{mac}", mac) for word in command]
    found = FilterCommand.of(words)
    if not found.program:
        raise InvalidInput(f"the packet filter's command {' '.join(command)!r} names no program for sudo to start")
    if found.is_softnet and not any(word.startswith("--vm-fd") for word in words):
        words += ["--vm-fd", "0", "--vm-mac-address", mac]
    return words


def start(network: FileHandleNetwork, mac: str) -> PacketFilter:
    """Start the program of `network` for the guest with `mac`. Before the frameworks are loaded: it forks.

    Raises: InvalidInput, NotFound, MachineFault with the program's own words when it ends at once.
    """
    command = command_line(network.command, mac)
    parts = FilterCommand.of(command)
    name = parts.program[0]
    program = shutil.which(name)
    for needed in (*parts.sudo[:1], name):
        if shutil.which(needed) is None:
            raise NotFound(
                f"the packet filter {needed} is not installed or not executable; softnet is installed by "
                "`brew install cirruslabs/cli/softnet`",
                reason="PacketFilterNotFound",
            )
    if parts.sudo and program is not None:  # sudo may search elsewhere
        command = [*parts.sudo, program, *parts.program[1:]]
    try:
        found = _launched(command, name)
    except OSError as exc:
        raise MachineFault(
            f"the packet filter {name} does not start: {exc.strerror}", reason="PacketFilterFailed"
        ) from exc
    fault = found.wait(_STARTUP_S)
    if not fault:
        return found
    found.close()
    raise MachineFault(f"{fault}{_rights(parts)}", reason="PacketFilterFailed")


def _launched(command: list[str], name: str) -> PacketFilter:
    with contextlib.ExitStack() as undo:
        ours, theirs = frame_sockets()
        undo.callback(ours.close)
        with theirs, tempfile.TemporaryFile(buffering=0) as file:
            words = os.dup(file.fileno())  # a file, not a pipe, so that nobody has to read it
            undo.callback(os.close, words)
            watched, life = os.pipe()
            undo.callback(os.close, life)
            try:
                process = subprocess.Popen(
                    ["/bin/sh", "-c", _ENDS_WITH_US, "packet-filter", *command],
                    stdin=theirs.fileno(), stdout=watched, stderr=words, start_new_session=True,
                )  # fmt: skip
            finally:
                os.close(watched)
        undo.pop_all()
        return PacketFilter(ours, process, name, words, life)


def _rights(parts: FilterCommand) -> str:
    if not parts.is_softnet:
        return ""
    program = shutil.which(parts.program[0])
    return (
        f"; softnet needs root for vmnet: `sudo chown root {program} && sudo chmod u+s {program}`, or a sudo that does "
        f"not ask for a password for {program}"
    )
