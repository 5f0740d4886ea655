"""libdispatch, as pyobjc-framework-libdispatch exposes it: the functions that hosts of virtual machines use."""

import time
from collections.abc import Callable

from vzdouble.aborts import abort
from vzdouble.callbacks import Block
from vzdouble.queues import MAIN_QUEUE, DispatchQueue, is_on

DISPATCH_QUEUE_SERIAL = None
DISPATCH_QUEUE_CONCURRENT = object()
DISPATCH_TARGET_QUEUE_DEFAULT = None
DISPATCH_TIME_NOW = 0
DISPATCH_TIME_FOREVER = 2**64 - 1
DISPATCH_QUEUE_PRIORITY_DEFAULT = 0
NSEC_PER_SEC = 1_000_000_000
NSEC_PER_MSEC = 1_000_000

_GLOBAL = DispatchQueue(b"com.apple.root.default-qos", concurrent=True)


def dispatch_queue_create(label: bytes | None, attr: object) -> DispatchQueue:
    if label is not None and not isinstance(label, bytes):
        raise ValueError(f"depythonifying 'charptr', got {type(label).__name__!r}: a label is bytes")
    if attr not in (None, DISPATCH_QUEUE_CONCURRENT):
        raise TypeError(f"{attr!r} is no attribute of a queue")
    return DispatchQueue(label or b"", concurrent=attr is DISPATCH_QUEUE_CONCURRENT)


def dispatch_get_main_queue() -> DispatchQueue:
    return MAIN_QUEUE


def dispatch_get_global_queue(identifier: int, flags: int) -> DispatchQueue:
    return _GLOBAL


def dispatch_queue_get_label(queue: DispatchQueue) -> bytes:
    return _queue(queue).label


def dispatch_async(queue: DispatchQueue, block: Callable[[], object]) -> None:
    _queue(queue).submit(_block(block, "dispatch_async"))


def dispatch_barrier_async(queue: DispatchQueue, block: Callable[[], object]) -> None:
    _queue(queue).submit(_block(block, "dispatch_barrier_async"))


def dispatch_sync(queue: DispatchQueue, block: Callable[[], object]) -> None:
    _queue(queue).submit_and_wait(_block(block, "dispatch_sync"))


def dispatch_async_and_wait(queue: DispatchQueue, block: Callable[[], object]) -> None:
    dispatch_sync(queue, block)


def dispatch_time(when: int, delta_ns: int) -> int:
    return (time.monotonic_ns() if when == DISPATCH_TIME_NOW else when) + delta_ns


def dispatch_after(when: int, queue: DispatchQueue, block: Callable[[], object]) -> None:
    delay_s = (when - time.monotonic_ns()) / NSEC_PER_SEC
    _queue(queue).submit_after(delay_s, _block(block, "dispatch_after"))


def dispatch_assert_queue(queue: DispatchQueue) -> None:
    if not is_on(_queue(queue)):
        raise abort("wrong-queue", f"dispatch_assert_queue: this is not {queue!r}")


def dispatch_assert_queue_not(queue: DispatchQueue) -> None:
    if is_on(_queue(queue)):
        raise abort("wrong-queue", f"dispatch_assert_queue_not: this is {queue!r}")


def dispatch_suspend(queue: DispatchQueue) -> None:
    _queue(queue).suspend()


def dispatch_resume(queue: DispatchQueue) -> None:
    _queue(queue).resume()


def _queue(queue: object) -> DispatchQueue:
    if not isinstance(queue, DispatchQueue):
        raise TypeError(f"{queue!r} is no dispatch queue")
    return queue


def _block(block: Callable[[], object] | None, where: str) -> Block:
    if block is None:
        raise abort("nil-block", f"{where}: None for a block")
    return Block(block, 0, where)
