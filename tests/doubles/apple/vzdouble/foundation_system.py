"""Foundation's objects with a life of their own: file handles, pipes, progress, the process, dates and run loops."""

import contextlib
import os
import socket
import threading
import time
import weakref
from typing import Any, NamedTuple

from .conversion import bridge
from .generation import behaviour
from .host import boot_settings
from .objects import Nil, construct, invalid_argument
from .observing import notify
from .queues import MAIN_QUEUE, run_main_queue


class NSOperatingSystemVersion(NamedTuple):
    """The struct, as PyObjC wraps it."""

    majorVersion: int  # noqa: N815 - Apple's names
    minorVersion: int  # noqa: N815
    patchVersion: int  # noqa: N815


class CGSize(NamedTuple):
    width: float
    height: float


@behaviour("NSFileHandle")
class _FileHandle:
    _descriptor: int = -1

    def initWithFileDescriptor_(self: Any, descriptor: int) -> None:
        self._descriptor = descriptor

    def initWithFileDescriptor_closeOnDealloc_(self: Any, descriptor: int, close: bool) -> None:
        self._descriptor = descriptor
        if close:
            self._closing = weakref.finalize(self, _close, descriptor)
            self._closing.atexit = False

    @classmethod
    def fileHandleForReadingAtPath_(cls: Any, path: str) -> Any:
        return _opened(path, os.O_RDONLY)

    @classmethod
    def fileHandleForWritingAtPath_(cls: Any, path: str) -> Any:
        return _opened(path, os.O_WRONLY)

    @classmethod
    def fileHandleForUpdatingAtPath_(cls: Any, path: str) -> Any:
        return _opened(path, os.O_RDWR)

    @classmethod
    def fileHandleWithNullDevice(cls: Any) -> Any:
        return _opened(os.devnull, os.O_RDWR)

    @classmethod
    def fileHandleWithStandardInput(cls: Any) -> Any:
        return construct("NSFileHandle", _descriptor=0)

    @classmethod
    def fileHandleWithStandardOutput(cls: Any) -> Any:
        return construct("NSFileHandle", _descriptor=1)

    def fileDescriptor(self: Any) -> int:
        if self._descriptor < 0:
            raise invalid_argument("NSFileHandle: the file is closed")
        return int(self._descriptor)

    def closeFile(self: Any) -> None:
        closing = self.__dict__.get("_closing")
        if closing is not None:
            closing()
        else:
            _close(self._descriptor)
        self._descriptor = -1

    def closeAndReturnError_(self: Any) -> None:
        _FileHandle.closeFile(self)

    def writeData_(self: Any, data: Any) -> None:
        os.write(self._descriptor, bytes(data))

    def availableData(self: Any) -> Any:
        return bridge(os.read(self._descriptor, 65536))


def _opened(path: str, flags: int) -> Any:
    try:
        descriptor = os.open(path, flags | os.O_CLOEXEC)
    except OSError as exc:
        raise Nil from exc
    handle = construct("NSFileHandle")
    _FileHandle.initWithFileDescriptor_closeOnDealloc_(handle, descriptor, True)
    return handle


def _close(descriptor: int) -> None:
    with contextlib.suppress(OSError):
        os.close(descriptor)


@behaviour("NSPipe")
class _Pipe:
    @classmethod
    def pipe(cls: Any) -> Any:
        made = construct("NSPipe")
        _Pipe.init(made)
        return made

    def init(self: Any) -> None:
        ends = []
        for descriptor in os.pipe():
            handle = construct("NSFileHandle")
            _FileHandle.initWithFileDescriptor_closeOnDealloc_(handle, descriptor, True)
            ends.append(handle)
        self._ends = tuple(ends)

    def fileHandleForReading(self: Any) -> Any:
        return self._ends[0]

    def fileHandleForWriting(self: Any) -> Any:
        return self._ends[1]


@behaviour("NSProgress")
class _Progress:
    """Readable from any thread, as the real one."""

    _total: int = 100
    _completed: int = 0
    _cancelled: bool = False
    _on_cancel: Any = None

    @classmethod
    def progressWithTotalUnitCount_(cls: Any, total: int) -> Any:
        return construct("NSProgress", _total=total)

    def fractionCompleted(self: Any) -> float:
        return float(self._completed / self._total)

    def completedUnitCount(self: Any) -> int:
        return int(self._completed)

    def totalUnitCount(self: Any) -> int:
        return int(self._total)

    def isCancelled(self: Any) -> bool:
        return bool(self._cancelled)

    def isCancellable(self: Any) -> bool:
        return True

    def isFinished(self: Any) -> bool:
        return bool(self._completed >= self._total)

    def isIndeterminate(self: Any) -> bool:
        return False

    def cancel(self: Any) -> None:
        self._cancelled = True
        if self._on_cancel is not None:
            self._on_cancel()


def advance(progress: Any, completed: int) -> None:
    """Set how far a progress is, and tell its observers."""
    before = progress._completed / progress._total
    progress._completed = completed
    notify(progress, "fractionCompleted", before, completed / progress._total)


@behaviour("NSProcessInfo")
class _ProcessInfo:
    @classmethod
    def processInfo(cls: Any) -> Any:
        return construct("NSProcessInfo")

    def operatingSystemVersion(self: Any) -> NSOperatingSystemVersion:
        settings = boot_settings()
        version = (*(settings.reported_version or settings.version), 0, 0)[:3]
        return NSOperatingSystemVersion(*version)

    def isOperatingSystemAtLeastVersion_(self: Any, version: tuple[int, ...]) -> bool:
        return _ProcessInfo.operatingSystemVersion(self) >= tuple(version)

    def operatingSystemVersionString(self: Any) -> str:
        version = _ProcessInfo.operatingSystemVersion(self)
        return f"Version {version[0]}.{version[1]} (Build 24B83)"

    def processorCount(self: Any) -> int:
        return boot_settings().limits.cpus

    def activeProcessorCount(self: Any) -> int:
        return boot_settings().limits.cpus

    def physicalMemory(self: Any) -> int:
        return boot_settings().limits.memory_bytes

    def processIdentifier(self: Any) -> int:
        return os.getpid()

    def processName(self: Any) -> str:
        return "python3"

    def hostName(self: Any) -> str:
        return socket.gethostname()


@behaviour("NSDate")
class _Date:
    _at: float = 0.0

    @classmethod
    def date(cls: Any) -> Any:
        return construct("NSDate", _at=time.time())

    @classmethod
    def dateWithTimeIntervalSinceNow_(cls: Any, seconds: float) -> Any:
        return construct("NSDate", _at=time.time() + seconds)

    @classmethod
    def distantFuture(cls: Any) -> Any:
        return construct("NSDate", _at=64092211200.0)

    def timeIntervalSinceNow(self: Any) -> float:
        return float(self._at - time.time())

    def timeIntervalSince1970(self: Any) -> float:
        return float(self._at)


@behaviour("NSRunLoop")
class _RunLoop:
    @classmethod
    def currentRunLoop(cls: Any) -> Any:
        return construct("NSRunLoop", _is_main=threading.current_thread() is threading.main_thread())

    @classmethod
    def mainRunLoop(cls: Any) -> Any:
        return construct("NSRunLoop", _is_main=True)

    def runUntilDate_(self: Any, date: Any) -> None:
        run_main_queue(date.timeIntervalSinceNow())

    def runMode_beforeDate_(self: Any, mode: str, date: Any) -> bool:
        if not MAIN_QUEUE.run_pending():
            run_main_queue(date.timeIntervalSinceNow())
        return True


@behaviour("NSThread")
class _Thread:
    @classmethod
    def isMainThread(cls: Any) -> bool:
        return threading.current_thread() is threading.main_thread()


@behaviour("NSOperationQueue")
class _OperationQueue:
    """Here to be mistaken for a dispatch queue."""

    @classmethod
    def mainQueue(cls: Any) -> Any:
        return construct("NSOperationQueue")
