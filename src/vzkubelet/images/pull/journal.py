"""What several threads have done of a content, told to its ledger and to whoever watches."""

import threading
from collections.abc import Callable

from vzkubelet.images.pull.ledger import Checkpoint, Ledger
from vzkubelet.images.pull.writer import RawFile

_SYNC_BYTES = 1024 * 1024 * 1024
"""Written between two syncs: what a loss of power costs at most. A kill costs nothing of it."""


class Journal:
    """Thread-safe. Records nothing that is not in the file yet: callers see to that."""

    def __init__(self, ledger: Ledger, file: RawFile) -> None:
        self._ledger = ledger
        self._file = file
        self._lock = threading.Lock()
        self._streams: dict[int, int] = {}
        self._chunk_bytes = 0
        self._unsynced_bytes = 0

    def begin(self, streams: dict[int, int], chunk_bytes: int = 0) -> None:
        """What is there already: compressed bytes by stream, and of chunks."""
        with self._lock:
            self._streams = dict(streams)
            self._chunk_bytes = chunk_bytes

    @property
    def done_bytes(self) -> int:
        return sum(self._streams.values()) + self._chunk_bytes

    def checkpoint(self, stream: int, at: Checkpoint) -> None:
        with self._lock:
            self._streams[stream] = at.compressed_bytes
            self._ledger.checkpoint(stream, at, self.done_bytes)

    def finished(self, stream: int, blob_bytes: int) -> None:
        with self._lock:
            self._streams[stream] = blob_bytes
            self._ledger.finished(stream, self.done_bytes)

    def forget(self, stream: int) -> None:
        """Begin a stream anew: an older position counts for less than this one."""
        self.checkpoint(stream, Checkpoint(0, 0))

    def chunks(self, first: int, count: int, stored_bytes: int) -> None:
        with self._lock:
            self._chunk_bytes += stored_bytes
            self._ledger.chunks(first, count, self.done_bytes)

    def wrote(self, size_bytes: int) -> None:
        """Sync once in a while, so that little is lost with the power."""
        with self._lock:
            self._unsynced_bytes += size_bytes
            if self._unsynced_bytes >= _SYNC_BYTES:
                self._unsynced_bytes = 0
                self._file.sync()
                self._ledger.synced(self.done_bytes)


Advanced = Callable[[int], None]
"""Hears how many bytes of the registry's are done in all. Called on the event loop."""
