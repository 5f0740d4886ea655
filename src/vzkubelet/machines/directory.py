"""The directory of one machine: every file of it named once, written staged, fsynced and renamed.

A machine exists when ``<root>/<pod uid>/`` exists. It is made as ``.staging-…`` beside it and renamed, and unmade by a
rename to ``.removing-…``, so that no reader ever sees half of one. Each of these is locked by who works on it: what is
not locked was left by a process that died.
"""

import contextlib
import errno
import fcntl
import logging
import os
import re
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from vzkubelet.errors import AlreadyExists, Error, Exhausted, InvalidInput, NotFound, Unavailable
from vzkubelet.files import STAGING_PREFIX, sync, sync_directory, write_atomic
from vzkubelet.machines import image_use
from vzkubelet.ports import MachinePhase, MachineSpec, MachineStatus, Share

_log = logging.getLogger(__name__)

_REMOVING = ".removing-"
_UID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_SOCKET_PATH_LIMIT = 104
"""Bytes of a unix socket's path that every system takes: 108 on Linux, 104 on a Mac, with the final zero."""

_DESCRIPTORS = Path("/proc/self/fd")
_SHORT_DIRECTORY = "/tmp"  # noqa: S108 - TMPDIR of a Mac is half a socket's name long; what is made there is private

StateT = TypeVar("StateT", bound="MachineState")
StructT = TypeVar("StructT", bound=msgspec.Struct)


class ShareRecord(msgspec.Struct, frozen=True):
    tag: str
    path: str
    read_only: bool = False


class MachineRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What a machine was created as (``machine.json``); never changed afterwards."""

    driver: str
    namespace: str
    name: str
    uid: str
    image: str
    image_id: str
    os: str
    architecture: str
    cpus: int
    memory_bytes: int
    shares: tuple[ShareRecord, ...] = ()
    disk_format: str = "raw"
    """``raw`` (a whole file of its own) or ``qcow2`` (an overlay on `MachineDirectory.base`)."""
    hardware_model: bytes = b""
    machine_id: bytes = b""
    """Of a macOS image: data representations of its VZMacHardwareModel and VZMacMachineIdentifier."""

    @classmethod
    def of(cls, spec: MachineSpec, driver: str, disk_format: str = "raw") -> "MachineRecord":
        return cls(
            driver=driver,
            namespace=spec.pod.namespace,
            name=spec.pod.name,
            uid=spec.pod.uid,
            image=spec.image.reference,
            image_id=spec.image.image_id,
            os=spec.image.os,
            architecture=spec.image.architecture,
            cpus=spec.cpus,
            memory_bytes=spec.memory_bytes,
            shares=tuple(ShareRecord(share.tag, str(share.path), share.read_only) for share in spec.shares),
            disk_format=disk_format,
            hardware_model=spec.image.hardware_model,
            machine_id=spec.image.machine_id,
        )

    def shared(self) -> tuple[Share, ...]:
        return tuple(Share(share.tag, Path(share.path), share.read_only) for share in self.shares)


class MachineState(msgspec.Struct, kw_only=True):
    """What a machine does (``state.json``). Drivers add fields of their own by subclassing."""

    phase: MachinePhase = MachinePhase.CREATED
    started_at: float | None = None
    stopped_at: float | None = None
    fault: str = ""

    def status(self) -> MachineStatus:
        return MachineStatus(self.phase, self.started_at, self.stopped_at, self.fault)


def os_fault(exc: OSError, what: str) -> Error:
    """An operating system error as one of ours: a full disk is to be waited for, anything else is the host's fault."""
    reason = exc.strerror or str(exc)
    if exc.errno in (errno.ENOSPC, errno.EDQUOT):
        return Exhausted(
            f"{what}: {reason}; free space in the cache directory (`df -h`, `macos-vz-kubelet image rm REFERENCE`)",
            reason="DiskFull",
        )
    if exc.errno in (errno.EMFILE, errno.ENFILE):
        return Exhausted(f"{what}: {reason}; raise the limit of open files")
    return Unavailable(f"{what}: {reason}")


class MachineDirectory:
    """The files of one machine. Creating the object touches nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.record_file = path / "machine.json"
        self.state_file = path / "state.json"
        self.lock_file = path / "lock"
        self.disk_raw = path / "disk.img"
        self.disk_overlay = path / "disk.qcow2"
        self.base = path / "base.img"
        """Leads to the image's disk under an overlay: a symbolic link to where the store of images keeps it while it
        has users or, of machines of before and of images that lie elsewhere, a hard link."""
        self.aux = path / "aux.img"
        self.console = path / "console.log"
        self.host_key = path / "host_key"
        self.monitor_socket = path / "qmp.sock"
        self.events = path / "events.log"
        """QMP events of the newest start, written by QEMU itself: known even if no daemon ran."""
        self.hypervisor_log = path / "hypervisor.log"
        self.plan = path / "vz.json"
        """What the vz helper builds its virtual machine from (`machines.vz.plan`)."""
        self.helper_socket = path / "helper.sock"
        self.helper_lock = path / "helper.lock"
        """Locked by the vz helper for its life; holds its process ID."""
        self.helper_log = path / "helper.log"
        self.end = path / "end.json"
        """How the virtual machine ended, written by the vz helper before it does (`machines.vz.protocol.End`)."""
        self.machine_id = path / "machine-id"
        """The machine identifier that the vz helper made, where the image's is not to be used."""
        self.processes = path / "processes.json"
        """Simulated guest processes (synthetic driver)."""

    @property
    def uid(self) -> str:
        return self.path.name

    @property
    def disk_files(self) -> tuple[Path, ...]:
        """What the clone occupies; the base of an overlay belongs to the image."""
        return (self.disk_raw, self.disk_overlay, self.aux)

    def share_socket(self, tag: str) -> Path:
        return self.path / f"share-{tag}.sock"

    def share_log(self, tag: str) -> Path:
        return self.path / f"share-{tag}.log"

    def exists(self) -> bool:
        return self.record_file.exists()

    def read_record(self) -> MachineRecord:
        """Raises NotFound, Unavailable (unreadable)."""
        return self._read(self.record_file, MachineRecord)

    def read_state(self, kind: type[StateT]) -> StateT:
        """Raises NotFound, Unavailable (unreadable)."""
        return self._read(self.state_file, kind)

    def _read(self, path: Path, kind: type[StructT]) -> StructT:
        try:
            return msgspec.json.decode(path.read_bytes(), type=kind)
        except FileNotFoundError:
            raise NotFound(f"machine {self.uid} does not exist") from None
        except OSError as exc:
            raise os_fault(exc, f"cannot read {path}") from exc
        except msgspec.DecodeError as exc:
            raise Unavailable(f"{path} is damaged: {exc}; delete the pod to remove the machine") from exc

    def write_record(self, record: MachineRecord) -> None:
        write_atomic(self.record_file, msgspec.json.format(msgspec.json.encode(record), indent=2))

    def write_state(self, state: MachineState) -> None:
        try:
            write_atomic(self.state_file, msgspec.json.encode(state))
        except OSError as exc:
            raise os_fault(exc, f"cannot write {self.state_file}") from exc

    def try_lock(self) -> int | None:
        """Lock this machine against every other process and object; the descriptor is the lock, closing it unlocks.

        None when somebody else holds it. Raises NotFound when the machine does not exist (any more).
        """
        try:
            descriptor = os.open(self.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            raise NotFound(f"machine {self.uid} does not exist") from None
        except OSError as exc:
            raise os_fault(exc, f"cannot lock {self.lock_file}") from exc
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held, named = os.fstat(descriptor), self.lock_file.stat()
        except BlockingIOError:
            os.close(descriptor)
            return None
        except FileNotFoundError:  # deleted while we waited for it
            os.close(descriptor)
            raise NotFound(f"machine {self.uid} does not exist") from None
        except OSError as exc:
            os.close(descriptor)
            raise os_fault(exc, f"cannot lock {self.lock_file}") from exc
        if held.st_ino != named.st_ino:  # deleted and made anew while we waited for it
            os.close(descriptor)
            return None
        return descriptor


class MachineRoot:
    """All machines of one driver on this host: ``<cache>/machines``."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    def machine(self, uid: str) -> MachineDirectory:
        """Raises InvalidInput when the UID cannot be a directory's name."""
        if not _UID.fullmatch(uid):
            raise InvalidInput(f"{uid[:130]!r} is no pod UID: letters, digits, '.', '_' and '-' only")
        return MachineDirectory(self.path / uid)

    def uids(self) -> list[str]:
        if not self.path.exists():
            return []
        return sorted(
            entry.name
            for entry in self.path.iterdir()
            if _UID.fullmatch(entry.name) and (entry / "machine.json").exists()
        )

    @contextlib.contextmanager
    def staged(self, uid: str) -> Iterator[MachineDirectory]:
        """A locked staging directory that becomes the machine when the block ends, and vanishes when it fails.

        Raises AlreadyExists when the machine exists, also if it came to exist meanwhile.
        """
        final = self.machine(uid).path
        if final.exists():
            raise AlreadyExists(f"machine {uid} exists already")
        staging = self.path / f"{STAGING_PREFIX}{uid}-{secrets.token_hex(4)}"
        try:
            staging.mkdir(mode=0o700, parents=True)
        except OSError as exc:
            raise os_fault(exc, f"cannot create {staging}") from exc
        directory = MachineDirectory(staging)
        lock = directory.try_lock()
        try:
            yield directory
            for path in staging.iterdir():
                _sync_file(path)
            sync_directory(staging)
            staging.rename(final)
            image_use.forget(final, staging)
            sync_directory(self.path)
        except OSError as exc:
            _unmake(staging)
            if exc.errno in (errno.EEXIST, errno.ENOTEMPTY):
                raise AlreadyExists(f"machine {uid} exists already") from exc
            raise os_fault(exc, f"cannot create machine {uid}") from exc
        except BaseException:
            _unmake(staging)
            raise
        finally:
            if lock is not None:
                os.close(lock)

    def remove(self, uid: str) -> None:
        """Unmake a machine; the caller holds its lock. Repeating it does nothing."""
        final = self.machine(uid).path
        removing = self.path / f"{_REMOVING}{uid}-{secrets.token_hex(4)}"
        image_use.forget(final, final)  # not after the rename: then there may be another machine of that name
        try:
            final.rename(removing)
        except FileNotFoundError:
            return
        except OSError as exc:
            raise os_fault(exc, f"cannot remove machine {uid}") from exc
        try:
            shutil.rmtree(removing)
        except OSError as exc:
            raise os_fault(exc, f"cannot remove {removing}") from exc

    def remove_leftovers(self) -> list[str]:
        """Remove what a dead process left half made or half removed; names of what was removed."""
        removed = []
        for entry in self.path.iterdir() if self.path.exists() else ():
            if not entry.name.startswith((STAGING_PREFIX, _REMOVING)):
                continue
            directory = MachineDirectory(entry)
            try:
                lock = directory.try_lock()
            except NotFound:
                continue
            if lock is None:
                continue  # a living process works on it
            try:
                image_use.forget(entry, entry)
                shutil.rmtree(entry)
                removed.append(entry.name)
            except OSError as exc:
                _log.warning("cannot remove %s, which an earlier daemon left: %s", entry, exc)
            finally:
                os.close(lock)
        return removed


def _unmake(staging: Path) -> None:
    image_use.forget(staging, staging)
    shutil.rmtree(staging, ignore_errors=True)


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def reachable_socket_path(path: Path) -> Iterator[str]:
    """A name of the unix socket `path` that is short enough to bind or connect, while the block lasts.

    A socket address holds about a hundred bytes, and the default cache directory of a Mac is deeper already. Linux
    reaches the directory through ``/proc/self/fd``; elsewhere a link in a private directory of ``/tmp`` leads to it.
    """
    if len(os.fsencode(path)) < _SOCKET_PATH_LIMIT:
        yield str(path)
    elif _DESCRIPTORS.is_dir():
        descriptor = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
        try:
            yield f"{_DESCRIPTORS}/{descriptor}/{path.name}"
        finally:
            os.close(descriptor)
    else:
        short = Path(tempfile.mkdtemp(prefix="vz-", dir=_SHORT_DIRECTORY))
        try:
            (short / "m").symlink_to(path.parent.absolute())
            yield str(short / "m" / path.name)
        finally:
            (short / "m").unlink(missing_ok=True)
            short.rmdir()


def listen(path: Path, backlog: int = 8) -> socket.socket:
    """A listening unix socket at `path` (which is replaced), to be handed to the process that will serve it."""
    path.unlink(missing_ok=True)
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with reachable_socket_path(path) as name:
            server.bind(name)
        path.chmod(0o600)
        server.listen(backlog)
    except BaseException:
        server.close()
        raise
    return server
