"""How a guest ended, read from the QMP events that QEMU itself wrote. Pure.

QEMU's second monitor writes to a file (its input holds only ``qmp_capabilities``), so the end of a guest is on record
even when no daemon was there to hear of it.
"""

from dataclasses import dataclass

import msgspec

from vzkubelet.errors import clip


class _Moment(msgspec.Struct):
    seconds: int
    microseconds: int = 0


class _Data(msgspec.Struct):
    guest: bool = False
    reason: str = ""


class _Message(msgspec.Struct):
    event: str = ""
    timestamp: _Moment | None = None
    data: _Data = msgspec.field(default_factory=_Data)


@dataclass(frozen=True, slots=True)
class Shutdown:
    """A SHUTDOWN event (qapi/run-state.json). `reason` is a ShutdownCause such as ``guest-shutdown``."""

    reason: str
    by_guest: bool
    at: float


def last_shutdown(log: bytes) -> Shutdown | None:
    """The newest SHUTDOWN event of the log; lines that are damaged (a crash while writing) are left out."""
    found = None
    for line in log.splitlines():
        if b'"SHUTDOWN"' not in line:
            continue
        try:
            message = msgspec.json.decode(line, type=_Message)
        except msgspec.DecodeError:
            continue
        if message.event == "SHUTDOWN" and message.timestamp is not None:
            at = message.timestamp.seconds + message.timestamp.microseconds / 1e6
            found = Shutdown(message.data.reason, message.data.guest, at)
    return found


def fault_text(shutdown: Shutdown | None, *, killed: bool, exit_status: int | None, last_words: str) -> str:
    """What to tell people about the end of a guest; empty when it powered off by itself or on request."""
    match shutdown:
        case Shutdown(reason="guest-panic"):
            return "the guest's kernel panicked"
        case Shutdown(by_guest=True):
            return ""
        case _ if killed:
            return "the machine was killed on request"
        case Shutdown(reason=reason):
            cause = f"QEMU was told to end ({reason})"
        case None if exit_status is not None and exit_status < 0:
            cause = f"QEMU was killed by signal {-exit_status}"
        case None if exit_status:
            cause = f"QEMU failed with exit status {exit_status}"
        case _:
            cause = "QEMU ended without a shutdown of the guest: it crashed or was killed"
    return f"{cause}: {clip(last_words)}" if last_words else cause
