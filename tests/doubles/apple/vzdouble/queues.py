"""libdispatch: serial queues as threads that live as long as there is work, the main queue, timers.

As with Grand Central Dispatch no queue has a thread of its own: a worker starts with the first block and ends with the
last, so that code which relies on one thread per queue fails here too.
"""

import contextlib
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable

from .aborts import Aborted, abort

Work = Callable[[], None]

_current = threading.local()
_live = threading.Condition()
_unfinished = 0
_numbers = itertools.count(1)


class DispatchQueue:
    """A dispatch_queue_t."""

    def __init__(self, label: bytes, *, concurrent: bool = False, main: bool = False) -> None:
        self.label = label
        self.is_concurrent = concurrent
        self.is_main = main
        self._work: deque[Work] = deque()
        self._lock = threading.Condition()
        self._working = False
        self._suspended = False

    def __repr__(self) -> str:
        return f"<OS_dispatch_queue: {self.label.decode()}>"

    def submit(self, work: Work) -> None:
        """dispatch_async. Work that leaves with `Aborted` is dropped; it was recorded."""
        _count(+1)
        with self._lock:
            self._work.append(work)
            self._lock.notify_all()
            if self.is_main or self._suspended or (self._working and not self.is_concurrent):
                return
            self._working = True
        name = f"{self.label.decode() or 'queue'}-{next(_numbers)}"
        threading.Thread(target=self._drain, name=name, daemon=True).start()

    def submit_and_wait(self, work: Work) -> None:
        """dispatch_sync."""
        if current_queue() is self and not self.is_concurrent:
            raise abort("deadlock", f"dispatch_sync on {self!r} from itself")
        done = threading.Event()

        def whole() -> None:
            try:
                work()
            finally:
                done.set()

        self.submit(whole)
        if self.is_main and threading.current_thread() is threading.main_thread():
            self.run_pending()
        done.wait()

    def submit_after(self, delay_s: float, work: Work) -> None:
        """dispatch_after; at once for no delay."""
        if delay_s <= 0:
            self.submit(work)
            return
        timer = threading.Timer(delay_s, self.submit, (work,))
        timer.daemon = True
        timer.start()

    def run_pending(self) -> bool:
        """Run what is queued, in this thread; for the main queue. Returns whether there was anything."""
        ran = False
        while (work := self._next()) is not None:
            ran = True
            self._run(work)
        return ran

    def wait_for_work(self, deadline: float) -> None:
        with self._lock:
            self._lock.wait_for(lambda: bool(self._work), max(0.0, deadline - time.monotonic()))

    def suspend(self) -> None:
        with self._lock:
            self._suspended = True

    def resume(self) -> None:
        with self._lock:
            self._suspended = False
            waiting = bool(self._work)
        if waiting:
            self.submit(lambda: None)

    def _drain(self) -> None:
        while (work := self._next()) is not None:
            self._run(work)

    def _next(self) -> Work | None:
        with self._lock:
            if self._work and not self._suspended:
                return self._work.popleft()
            self._working = False
            return None

    def _run(self, work: Work) -> None:
        before, _current.queue = current_queue(), self
        try:
            with contextlib.suppress(Aborted):
                work()
        finally:
            _current.queue = before
            _count(-1)


MAIN_QUEUE = DispatchQueue(b"com.apple.main-thread", main=True)


def current_queue() -> DispatchQueue | None:
    return getattr(_current, "queue", None)


def is_on(queue: DispatchQueue) -> bool:
    """Whether this code runs on `queue`; the main thread is always on the main queue."""
    if queue.is_main and threading.current_thread() is threading.main_thread():
        return current_queue() in (None, queue)
    return current_queue() is queue


def run_main_queue(seconds: float) -> None:
    """What a run loop on the main thread does for so long."""
    if threading.current_thread() is not threading.main_thread():
        time.sleep(max(0.0, seconds))
        return
    deadline = time.monotonic() + seconds
    while True:
        MAIN_QUEUE.run_pending()
        if time.monotonic() >= deadline:
            return
        MAIN_QUEUE.wait_for_work(deadline)


def unfinished_work() -> int:
    """Blocks that are queued or run, on all queues."""
    with _live:
        return _unfinished


def wait_until_idle(timeout_s: float) -> bool:
    with _live:
        return _live.wait_for(lambda: _unfinished == 0, timeout_s)


def _count(change: int) -> None:
    global _unfinished
    with _live:
        _unfinished += change
        _live.notify_all()
