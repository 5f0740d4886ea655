"""The private serial queue of one virtual machine, as asyncio sees it.

Everything that belongs to a VZVirtualMachine happens on its queue, on threads that are not ours. What PyObjC calls
there must return None and raise nothing: an exception that leaves a block or a delegate aborts the process. So every
function that crosses over is wrapped here, and results come back through `Mailbox`, which a closed loop cannot hurt.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from vzkubelet.machines.vz import apple, faults
from vzkubelet.machines.vz.apple import AppleError, Frameworks
from vzkubelet.machines.vz.faults import Operation

_log = logging.getLogger(__name__)
T = TypeVar("T")

WORK_TIMEOUT_S = 30.0
"""For work that only the queue itself can delay."""

ErrorHandler = Callable[[Any], None]
ValueHandler = Callable[[Any, Any], None]


class Mailbox:
    """Hands calls from any thread to one event loop; once that is closed they vanish, as the process soon will."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def post(self, function: Callable[..., None], *args: object) -> None:
        """Never raises."""
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:  # the loop is closed: the helper is about to end
            return


class _Outcome(Generic[T]):
    """A future that any thread may settle, any number of times; the first time counts."""

    def __init__(self, mailbox: Mailbox, discard: Callable[[T], None] | None = None) -> None:
        self._discard = discard
        self.future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._mailbox = mailbox

    def succeed(self, value: T) -> None:
        self._mailbox.post(self._settle, value, None)

    def fail(self, error: BaseException) -> None:
        self._mailbox.post(self._settle, None, error)

    def _settle(self, value: T, error: BaseException | None) -> None:
        if self.future.done():
            if error is None and self._discard is not None:
                self._discard(value)
        elif error is None:
            self.future.set_result(value)
        else:
            self.future.set_exception(error)


class Queue:
    """One serial dispatch queue. Create it in the event loop that awaits its work."""

    def __init__(self, label: str) -> None:
        self.frameworks: Frameworks = apple.frameworks()
        self.mailbox = Mailbox(asyncio.get_running_loop())
        # The label is C text, so bytes; no attribute makes the queue serial, which the framework insists on.
        self.native = self.frameworks.dispatch.dispatch_queue_create(label.encode(), None)

    def _dispatch(self, outcome: _Outcome[T], work: Callable[[], None]) -> None:
        def guarded() -> None:
            try:
                with apple.autorelease_pool():
                    work()
            except BaseException as exc:  # noqa: BLE001 - what leaves a block ends the process
                outcome.fail(_told(exc))

        self.frameworks.dispatch.dispatch_async(self.native, guarded)

    def post(self, work: Callable[[], None]) -> None:
        """Run `work` on the queue some time; what it raises is logged, for nobody waits."""

        def guarded() -> None:
            try:
                with apple.autorelease_pool():
                    work()
            except BaseException as exc:  # noqa: BLE001 - what leaves a block ends the process
                self.mailbox.post(_log.error, "work on the queue of a virtual machine failed: %r", exc)

        self.frameworks.dispatch.dispatch_async(self.native, guarded)

    async def run(self, work: Callable[[], T], operation: Operation, timeout_s: float = WORK_TIMEOUT_S) -> T:
        """Run `work` on the queue. On cancellation or time-out it still runs, and nobody learns what came of it.

        Raises AppleError (the framework raised), DeadlineExceeded, and what `work` raises.
        """
        outcome: _Outcome[T] = _Outcome(self.mailbox)
        self._dispatch(outcome, lambda: outcome.succeed(work()))
        return await _bounded(outcome.future, operation, timeout_s)

    async def completed(
        self, call: Callable[[ErrorHandler], None], operation: Operation, timeout_s: float = WORK_TIMEOUT_S
    ) -> None:
        """Make a call on the queue that takes a completion handler ``(error)``, and wait for the handler.

        Raises AppleError (the handler's, or the call's exception), DeadlineExceeded when it is never called.
        """
        outcome: _Outcome[None] = _Outcome(self.mailbox)

        def handler(error: Any) -> None:
            try:
                if error is None:
                    outcome.succeed(None)
                else:
                    outcome.fail(apple.apple_error(error))
            except BaseException as exc:  # noqa: BLE001 - as above
                outcome.fail(_told(exc))

        self._dispatch(outcome, lambda: call(handler))
        await _bounded(outcome.future, operation, timeout_s)

    async def completed_with(
        self,
        call: Callable[[ValueHandler], None],
        take: Callable[[Any], T],
        operation: Operation,
        timeout_s: float = WORK_TIMEOUT_S,
        discard: Callable[[T], None] | None = None,
    ) -> T:
        """As `completed`, for handlers ``(value, error)``; `take` turns the value into ours, inside the handler.

        `discard` gets what `take` returned when nobody waits for it any more.
        """
        outcome: _Outcome[T] = _Outcome(self.mailbox, discard)

        def handler(value: Any, error: Any) -> None:
            try:
                if value is None:
                    outcome.fail(apple.apple_error(error))
                else:
                    outcome.succeed(take(value))
            except BaseException as exc:  # noqa: BLE001 - as above
                outcome.fail(_told(exc))

        self._dispatch(outcome, lambda: call(handler))
        return await _bounded(outcome.future, operation, timeout_s)


def _told(exc: BaseException) -> BaseException:
    """Foreign exceptions as AppleError; ours as they are. A future takes no StopIteration."""
    if isinstance(exc, AppleError) or type(exc).__module__.startswith("vzkubelet."):
        return exc
    _log.debug("exception on the queue", exc_info=exc)
    translated = faults.exception(exc)
    translated.__cause__ = exc
    return translated


async def _bounded(future: asyncio.Future[T], operation: Operation, timeout_s: float) -> T:
    try:
        async with asyncio.timeout(timeout_s):
            return await future
    except TimeoutError:
        raise faults.timed_out(operation, timeout_s) from None
