"""What running pulls rely on although no image refers to it yet, so that nothing of it is removed under their hands.

``claims/<random>`` has one name per line and is locked (flock) by the process that wrote it: after a ``kill -9`` it
says nothing any more. ``claims/lock`` is locked shared by who claims, exclusive by who looks for claims and removes. A
thing is claimed first and looked for then: whoever removes after that knows of the claim.
"""

import contextlib
import fcntl
import os
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path

_GATE = "lock"
_RESERVED_BYTES = 16 * 1024
"""Some two hundred names."""


class Claims:
    """The claims of one process; safe to use from several threads."""

    def __init__(self, directory: Path) -> None:
        """Touches nothing."""
        self._directory = directory
        self._lock = threading.Lock()
        self._holders = 0
        self._descriptor = -1
        self._path = directory
        self._names: set[str] = set()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """While one of these is open, what is claimed stays. Raises: OSError."""
        with self._lock:
            if not self._holders:
                self._open()
            self._holders += 1
        try:
            yield
        finally:
            with self._lock:
                self._holders -= 1
                if not self._holders:
                    self._path.unlink(missing_ok=True)
                    os.close(self._descriptor)

    def claim(self, *names: str) -> None:
        """Claim things, if a pull of this process runs: what is found afterwards stays until the pull ends.

        Raises: OSError.
        """
        with self._lock:
            new = [name for name in names if name not in self._names] if self._holders else []
        if not new:
            return
        with self._gate(fcntl.LOCK_SH), self._lock:
            if self._holders:
                os.write(self._descriptor, "".join(f"{name}\n" for name in new).encode())
                self._names.update(new)

    @contextlib.contextmanager
    def settled(self) -> Iterator[frozenset[str]]:
        """What is claimed in any process; nobody claims anything more in the block."""
        with self._gate(fcntl.LOCK_EX):
            yield frozenset(name for path in self._files() for name in self._read(path))

    def _open(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        self._names.clear()
        with self._gate(fcntl.LOCK_SH):  # or it could be taken for that of a dead process before it is locked
            self._path = self._directory / secrets.token_hex(8)
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            self._reserve()

    def _reserve(self) -> None:
        """Room for claims, so that a volume that is full later does not keep a pull from what frees it."""
        try:
            os.pwrite(self._descriptor, b"\n" * _RESERVED_BYTES, 0)
        except OSError:
            self._path.unlink(missing_ok=True)
            os.close(self._descriptor)
            raise

    def _files(self) -> list[Path]:
        return [path for path in sorted(self._directory.iterdir()) if path.name != _GATE]

    def _read(self, path: Path) -> list[str]:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:  # its pull has just ended
            return []
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return path.read_text().split()
        else:
            path.unlink(missing_ok=True)  # of a process that died
            return []
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def _gate(self, kind: int) -> Iterator[None]:
        self._directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._directory / _GATE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, kind)
            yield
        finally:
            os.close(descriptor)
