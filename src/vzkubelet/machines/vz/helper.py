"""The process that owns one virtual machine: ``python -m vzkubelet.machines.vz.helper DIRECTORY``.

A VZVirtualMachine dies with the process that made it, and an exception in a callback takes that process with it. So
each machine has a process of its own, which outlives the daemon and ends with its guest. It holds ``helper.lock`` for
its life, serves ``helper.sock``, logs to stderr, and writes ``end.json`` before it ends.

Exit codes: 0 the machine ended (``end.json`` tells how); otherwise that of the error in `vzkubelet.errors`, above all
4, another helper owns the directory.
"""

import argparse
import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from vzkubelet import aio
from vzkubelet.errors import AlreadyExists, Error, InvalidInput, NotFound
from vzkubelet.files import write_atomic
from vzkubelet.machines.directory import MachineDirectory, listen, os_fault
from vzkubelet.machines.vz import packet_filter, plan
from vzkubelet.machines.vz.connections import Server
from vzkubelet.machines.vz.packet_filter import PacketFilter
from vzkubelet.machines.vz.plan import FileHandleNetwork, MachinePlan
from vzkubelet.machines.vz.protocol import PROTOCOL_VERSION, End, Hello
from vzkubelet.machines.vz.session import Session

_log = logging.getLogger(__name__)

_IDLE_S = 60.0
"""A helper that nobody told to start and nobody is connected to is left over from a daemon that died."""
_POLL_S = 1.0
_DRAIN_S = 5.0

EXIT_ENDED = 0
EXIT_FAILED = 1


def own(directory: MachineDirectory) -> int:
    """Lock the directory for the life of this process; the descriptor is the lock.

    Raises AlreadyExists (another helper, named by its process ID), NotFound, Unavailable.
    """
    try:
        descriptor = os.open(directory.helper_lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        raise NotFound(f"there is no machine at {directory.path}") from None
    except OSError as exc:
        raise os_fault(exc, f"cannot open {directory.helper_lock}") from exc
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise AlreadyExists(
            f"machine {directory.uid} is run by another helper, process {owner}; end that one first (`kill {owner}`)"
        ) from None
    except OSError as exc:
        os.close(descriptor)
        raise os_fault(exc, f"cannot lock {directory.helper_lock}") from exc
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def read_plan(directory: MachineDirectory) -> tuple[MachinePlan, str]:
    """The plan and its digest. Raises NotFound, InvalidInput, Unavailable."""
    try:
        data = directory.plan.read_bytes()
    except FileNotFoundError:
        raise NotFound(f"{directory.plan} does not exist; delete the pod to remove the machine") from None
    except OSError as exc:
        raise os_fault(exc, f"cannot read {directory.plan}") from exc
    try:
        what = plan.decode(data)
    except msgspec.DecodeError as exc:
        raise InvalidInput(f"{directory.plan} is no plan of a machine: {exc}; delete the pod") from exc
    if what.version != plan.PLAN_VERSION:
        raise InvalidInput(
            f"{directory.plan} is of version {what.version} and this helper reads version {plan.PLAN_VERSION}: the "
            "agent was updated meanwhile; restart it"
        )
    return what, plan.digest(data)


def _listener(directory: MachineDirectory, descriptor: int | None) -> socket.socket:
    """Raises Unavailable, InvalidInput, Conflict (the path is too long)."""
    try:
        if descriptor is None:
            return listen(directory.helper_socket)
        os.set_inheritable(descriptor, False)
        return socket.socket(fileno=descriptor)
    except OSError as exc:
        raise os_fault(exc, f"cannot serve {directory.helper_socket}") from exc


class _Life:
    """What may end a helper besides its guest."""

    def __init__(self, session: Session, server: Server) -> None:
        self._session = session
        self._server = server
        self._idle: asyncio.TimerHandle | None = None
        self._killing: asyncio.Task[None] | None = None

    def kill(self, why: str) -> None:
        if self._killing is None:
            _log.info("ending the machine: %s", why)
            self._killing = aio.spawn(self._session.kill(), name="end the machine")

    def watch_idleness(self) -> None:
        """Called when clients come and go."""
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        if not self._server.clients:
            self._idle = asyncio.get_running_loop().call_later(_IDLE_S, self._give_up)

    def _give_up(self) -> None:
        if self._session.is_unused:
            self._session.abandon(f"nobody started the machine within {_IDLE_S:.0f} s; its daemon died meanwhile")
        else:
            self.watch_idleness()

    async def watch_parent(self, parent: int) -> None:
        while os.getppid() == parent:  # noqa: ASYNC110 - macOS has no signal for it
            await asyncio.sleep(_POLL_S)
        self.kill("its parent has ended")

    async def watch_filter(self, carrier: PacketFilter) -> None:
        while not (fault := carrier.fault()):  # noqa: ASYNC110 - a thread that waits would hold up our end
            await asyncio.sleep(_POLL_S)
        self._session.network_lost(fault)


async def _serve(
    session: Session, listener: socket.socket, plan_digest: str, parent: int | None, carrier: PacketFilter | None
) -> None:
    """Serve until the session has ended; with `parent`, until that process has."""

    def hello() -> Hello:
        return Hello(protocol=PROTOCOL_VERSION, pid=os.getpid(), plan_digest=plan_digest, status=session.status())

    server = Server(listener, hello, session.handle)
    life = _Life(session, server)
    session.on_event = server.broadcast
    server.on_client_change = life.watch_idleness
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, life.kill, signal.Signals(number).name)
    loop.add_signal_handler(signal.SIGHUP, lambda: None)
    server.start(lambda exc: life.kill(f"the socket cannot be served: {exc!r}"))
    life.watch_idleness()
    watches = []
    if parent is not None:
        watches.append(aio.spawn(life.watch_parent(parent), name="watch the parent"))
    if carrier is not None:
        watches.append(aio.spawn(life.watch_filter(carrier), name="watch the packet filter"))
    try:
        await session.ended.wait()
    finally:
        await aio.cancel(*watches)
        await server.close()
    await session.drain(_DRAIN_S)


def _write_end(directory: MachineDirectory, error: Error) -> None:
    """Tell why nothing was started, to a daemon that never got a connection."""
    end = End(at=time.time(), fault=error.message, reason=error.reason, pid=os.getpid())
    with contextlib.suppress(OSError):
        write_atomic(directory.end, msgspec.json.encode(end))


def run(path: Path, *, listen_descriptor: int | None = None, with_parent: bool = False) -> None:
    """Own the machine in `path` until it has ended.

    Raises AlreadyExists (another helper does), NotFound, InvalidInput, Unavailable, Conflict, MachineFault.
    """
    parent = os.getppid() if with_parent else None
    directory = MachineDirectory(path.resolve())
    lock = own(directory)
    directory.end.unlink(missing_ok=True)
    try:
        _run(directory, listen_descriptor, parent)
    except Error as exc:
        _write_end(directory, exc)
        raise
    finally:
        directory.helper_socket.unlink(missing_ok=True)
        os.close(lock)


def _run(directory: MachineDirectory, listen_descriptor: int | None, parent: int | None) -> None:
    what, digest = read_plan(directory)
    listener = _listener(directory, listen_descriptor)
    # A child is started before the frameworks are loaded: Objective-C does not survive a fork.
    carrier = packet_filter.start(what.network, what.mac) if isinstance(what.network, FileHandleNetwork) else None

    async def serve() -> None:
        session = Session(what, directory, None if carrier is None else carrier.descriptor)
        await _serve(session, listener, digest, parent, carrier)

    try:
        asyncio.run(serve())
    finally:
        if carrier is not None:
            carrier.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog="macos-vz-kubelet-helper", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("directory", type=Path, help="directory of the machine")
    parser.add_argument("--listen-fd", type=int, help="inherited listening socket of helper.sock")
    parser.add_argument("--with-parent", action="store_true", help="end the machine when the parent process ends")
    given = parser.parse_args(arguments)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.INFO, stream=sys.stderr)
    if not given.with_parent:
        with contextlib.suppress(PermissionError):  # the launcher made us a session's leader already
            os.setsid()
    try:
        run(given.directory, listen_descriptor=given.listen_fd, with_parent=given.with_parent)
    except Error as exc:
        _log.error("%s", exc)
        return exc.exit_code
    except Exception:  # noqa: BLE001 - the last place where it can be told
        _log.exception("the helper failed")
        return EXIT_FAILED
    return EXIT_ENDED


if __name__ == "__main__":
    code = main()
    logging.shutdown()
    sys.stderr.flush()
    # No interpreter shutdown: a callback of the framework that came in its midst would trap.
    os._exit(code)
