"""How a guest ended is told apart by QEMU's own record."""

import pytest

from vzkubelet.machines.qemu.events import Shutdown, fault_text, last_shutdown

GREETING = b'{"QMP": {"version": {}, "capabilities": ["oob"]}}\n{"return": {}}\n'


def event(reason: str, guest: bool, seconds: int = 100) -> bytes:
    flag = b"true" if guest else b"false"
    moment = b'"timestamp": {"seconds": %d, "microseconds": 500000}' % seconds
    data = b'"data": {"guest": %s, "reason": "%s"}' % (flag, reason.encode())
    return b'{%s, "event": "SHUTDOWN", %s}\n' % (moment, data)


def test_the_newest_shutdown_counts() -> None:
    log = GREETING + event("guest-reset", True, 50) + event("guest-shutdown", True)
    assert last_shutdown(log) == Shutdown("guest-shutdown", True, 100.5)


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_an_event_cut_off_by_a_crash_is_no_shutdown(cut: int) -> None:
    assert last_shutdown(GREETING + event("guest-shutdown", True)[:-cut]) is None or cut == 1


def test_other_events_are_no_shutdown() -> None:
    log = (
        GREETING
        + b'{"timestamp": {"seconds": 1}, "event": "POWERDOWN"}\n{"event": "X", "data": {"n": "\\"SHUTDOWN\\""}}\n'
    )
    assert last_shutdown(log) is None


@pytest.mark.parametrize(
    ("shutdown", "killed", "status", "words", "expected"),
    [
        (Shutdown("guest-shutdown", True, 1), False, 0, "", ""),
        (Shutdown("guest-shutdown", True, 1), True, 0, "", ""),
        (Shutdown("guest-panic", True, 1), False, 0, "", "the guest's kernel panicked"),
        (None, True, -9, "", "the machine was killed on request"),
        (Shutdown("host-signal", False, 1), False, 0, "signal 15", "QEMU was told to end (host-signal): signal 15"),
        (None, False, -9, "", "QEMU was killed by signal 9"),
        (None, False, 1, "no memory", "QEMU failed with exit status 1: no memory"),
        (None, False, None, "", "QEMU ended without a shutdown of the guest: it crashed or was killed"),
        (None, False, 0, "", "QEMU ended without a shutdown of the guest: it crashed or was killed"),
    ],
)  # fmt: skip
def test_only_the_guests_own_end_is_without_fault(
    shutdown: Shutdown | None, killed: bool, status: int | None, words: str, expected: str
) -> None:
    assert fault_text(shutdown, killed=killed, exit_status=status, last_words=words) == expected
