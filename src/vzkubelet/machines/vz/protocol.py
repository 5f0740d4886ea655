"""What the daemon and a helper say to each other: one JSON object per line over the unix socket ``helper.sock``. Pure.

- The helper speaks first on every connection: `Hello`. A daemon that does not know its `protocol` says no more.
- Requests carry an `id` chosen by the client; each gets exactly one reply with that id, in any order: `Done`,
  `StatusReply` or `Failed`. A request of an unknown type is answered with `Failed` (Unsupported), so that a newer
  daemon can talk to an older helper. Unknown fields are ignored.
- Events have no id and go to every connection, from the moment it was accepted.
- The reply to `VsockConnect` carries the connected descriptor as SCM_RIGHTS with its first byte: a client that sends
  this request reads its connection with recvmsg. One connection may be open per such request, or one for all.
- When the helper ends it closes its connections after the last event (`Stopped`); ``end.json`` was written before.
"""

from enum import StrEnum
from typing import Generic, TypeVar

import msgspec

from vzkubelet import errors
from vzkubelet.errors import Error, MachineFault, RemoteProtocolError, clip
from vzkubelet.machines.vz.plan import SharedDirectory

PROTOCOL_VERSION = 1
MAX_LINE_BYTES = 1024 * 1024


class Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", omit_defaults=True):
    """Base of every line."""


class VMState(StrEnum):
    """VZVirtualMachineState, by name."""

    STOPPED = "stopped"
    RUNNING = "running"
    PAUSED = "paused"
    ERROR = "error"
    STARTING = "starting"
    PAUSING = "pausing"
    RESUMING = "resuming"
    STOPPING = "stopping"
    SAVING = "saving"
    RESTORING = "restoring"


# --- Requests --------------------------------------------------------------------------------------------------------


class Start(Message, tag="start", frozen=True, kw_only=True):
    """Build the configuration, validate it and start the guest. A helper starts its machine once; a failure ends it."""

    id: int


class RequestStop(Message, tag="request-stop", frozen=True, kw_only=True):
    """Press the guest's power button; done when pressed."""

    id: int


class Kill(Message, tag="kill", frozen=True, kw_only=True):
    """Stop the VM destructively and end the helper; done when the VM has stopped. Before `Start` it ends the helper."""

    id: int


class Pause(Message, tag="pause", frozen=True, kw_only=True):
    id: int


class Resume(Message, tag="resume", frozen=True, kw_only=True):
    id: int


class Save(Message, tag="save", frozen=True, kw_only=True):
    """Save the paused machine to a file (macOS 14); it stays paused."""

    id: int
    path: str


class Restore(Message, tag="restore", frozen=True, kw_only=True):
    """Instead of `Start`: restore from a file (macOS 14); the machine is then paused. On failure nothing was started
    and `Start` may follow."""

    id: int
    path: str


class SetShare(Message, tag="set-share", frozen=True, kw_only=True):
    """Replace what a virtio-fs device of the running machine shows."""

    id: int
    tag: str
    directories: tuple[SharedDirectory, ...] = ()


class SetBalloon(Message, tag="set-balloon", frozen=True, kw_only=True):
    """Memory that the guest should be left with; rounded to MiB and clamped by the framework."""

    id: int
    target_bytes: int


class VsockConnect(Message, tag="vsock-connect", frozen=True, kw_only=True):
    """Connect to a port in the guest; the descriptor comes with the reply."""

    id: int
    port: int


class GetStatus(Message, tag="status", frozen=True, kw_only=True):
    id: int


Request = (
    Start | RequestStop | Kill | Pause | Resume | Save | Restore | SetShare | SetBalloon | VsockConnect | GetStatus
)


class AnyRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What even an unknown request has, and without the number an unknown event."""

    type: str
    id: int = 0


# --- Replies ---------------------------------------------------------------------------------------------------------


class Status(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`started_at` in seconds since the epoch, None before the guest runs."""

    state: VMState
    pid: int
    started_at: float | None = None
    network_fault: str = ""
    """Why the guest's network is gone at present."""


class Fault(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One of `vzkubelet.errors` as JSON."""

    kind: str
    """Name of the class."""
    message: str
    reason: str = ""
    code: int | None = None
    """The framework's own code, where the error came from it."""

    @classmethod
    def of(cls, error: Error, code: int | None = None) -> "Fault":
        if isinstance(error, MachineFault) and code is None:
            code = error.code
        return cls(kind=type(error).__name__, message=error.message, reason=error.reason, code=code)

    def error(self) -> Error:
        """The error to raise on the daemon's side; an unknown class becomes a MachineFault."""
        kind = getattr(errors, self.kind, MachineFault)
        if not (isinstance(kind, type) and issubclass(kind, Error)) or kind is MachineFault:
            return MachineFault(self.message, code=self.code, reason=self.reason or None)
        return kind(self.message, reason=self.reason or None)


class Done(Message, tag="done", frozen=True, kw_only=True):
    id: int


class StatusReply(Message, tag="status-reply", frozen=True, kw_only=True):
    id: int
    status: Status


class Failed(Message, tag="failed", frozen=True, kw_only=True):
    id: int
    fault: Fault


Reply = Done | StatusReply | Failed


# --- Hello and events ------------------------------------------------------------------------------------------------


class End(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a machine ended (``end.json``)."""

    at: float
    """Seconds since the epoch."""
    fault: str = ""
    """Empty when the guest powered off by itself or was stopped on request."""
    code: int | None = None
    reason: str = ""
    """CamelCase reason of the fault."""
    killed: bool = False
    """The end was asked for: `Kill`, or a signal to the helper."""
    pid: int = 0


class Hello(Message, tag="hello", frozen=True, kw_only=True):
    protocol: int
    pid: int
    plan_digest: str
    status: Status


class NetworkChanged(Message, tag="network-changed", frozen=True, kw_only=True):
    """Why the guest has no network any more; `fault` is empty when the helper has attached it again. What it was when
    the client came is in `Hello`."""

    fault: str
    at: float


FromHelper = Hello | NetworkChanged | Done | StatusReply | Failed

# --- Lines -----------------------------------------------------------------------------------------------------------

MessageT = TypeVar("MessageT")


def encode(message: Message) -> bytes:
    return msgspec.json.encode(message) + b"\n"


class LineDecoder(Generic[MessageT]):
    """Bytes in, messages out, whatever the chunks. `LineDecoder(Request)` at the helper, `FromHelper` at the daemon."""

    def __init__(self, kind: object) -> None:
        self._decoder: msgspec.json.Decoder[MessageT] = msgspec.json.Decoder(kind)
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[MessageT | AnyRequest]:
        """Messages completed by `data`; `AnyRequest` for a well-formed line whose type is not known.

        Raises RemoteProtocolError for what is no message; nothing can be read after it.
        """
        self._buffer += data
        *lines, rest = self._buffer.split(b"\n")
        if max(map(len, (*lines, rest))) > MAX_LINE_BYTES:
            raise RemoteProtocolError(f"a line of more than {MAX_LINE_BYTES} bytes on a helper's socket")
        self._buffer = rest
        return [self._decode(bytes(line)) for line in lines if line.strip()]

    def _decode(self, line: bytes) -> MessageT | AnyRequest:
        try:
            return self._decoder.decode(line)
        except msgspec.DecodeError as exc:
            try:
                unknown = msgspec.json.decode(line, type=AnyRequest)
            except msgspec.DecodeError:
                unknown = None
            if unknown is not None and "Invalid value" in str(exc):
                return unknown
            raise RemoteProtocolError(
                f"no message of a helper's socket: {clip(line.decode(errors='replace'))}"
            ) from exc
