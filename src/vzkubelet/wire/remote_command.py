"""Remote command protocol (exec and attach) over multiplexed streams, server side.

Protocols ``channel.k8s.io`` (v1) to ``v5.channel.k8s.io``: one stream per channel, named by the header ``streamtype``;
the outcome is the last word on the error stream, a JSON Status since v4 and plain text before.
Reference: k8s.io/cri-streaming remotecommand/httpstream.go, k8s.io/client-go tools/remotecommand.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Final, assert_never

import msgspec

from vzkubelet import errors
from vzkubelet.model.meta import Status, StatusCause, StatusDetails
from vzkubelet.wire import streams

PROTOCOL_HEADER: Final = "X-Stream-Protocol-Version"
ACCEPTED_PROTOCOLS_HEADER: Final = "X-Accepted-Stream-Protocol-Versions"

STREAM_TYPE: Final = "streamtype"
"""Go's canonical ``Streamtype`` travels in lower case over SPDY."""

MAX_RESIZE_BYTES: Final = 1024
"""Undecoded bytes kept of the resize stream; one message has about 30."""


class Protocol(IntEnum):
    V1 = 1
    V2 = 2
    V3 = 3
    V4 = 4
    V5 = 5


PROTOCOLS: Final[Mapping[str, Protocol]] = {
    "v4.channel.k8s.io": Protocol.V4,
    "v3.channel.k8s.io": Protocol.V3,
    "v2.channel.k8s.io": Protocol.V2,
    "channel.k8s.io": Protocol.V1,
}
"""Wire names over SPDY, best first. v5 is WebSocket's (`channels`); clients offer it over SPDY and expect v4 back."""


def negotiate(header_lines: Iterable[str]) -> tuple[str, Protocol]:
    """The first offered protocol that is spoken here; offers are header lines, each possibly comma-joined.

    Raises InvalidInput (400) when nothing is offered, Forbidden (403) when nothing fits.
    """
    offered = [name.strip() for line in header_lines for name in line.split(",") if name.strip()]
    if not offered:
        raise errors.InvalidInput(f"unable to upgrade: {PROTOCOL_HEADER} is required")
    for name in offered:
        if name in PROTOCOLS:
            return name, PROTOCOLS[name]
    raise errors.Forbidden(
        "unable to upgrade: unable to negotiate protocol: "
        f"client supports {_go_list(offered)}, server accepts {_go_list(list(PROTOCOLS))}"
    )


def _go_list(names: Sequence[str]) -> str:
    return errors.clip("[" + " ".join(names) + "]")


@dataclass(frozen=True, slots=True)
class Options:
    """Which channels the client asked for."""

    stdin: bool
    stdout: bool
    stderr: bool
    tty: bool

    @classmethod
    def of_query(cls, query: Mapping[str, str]) -> "Options":
        """From ``input``, ``output``, ``error`` and ``tty``: only the literal ``1`` counts; a terminal has no stderr.

        Raises InvalidInput when no channel is asked for.
        """
        tty = query.get("tty") == "1"
        options = cls(
            stdin=query.get("input") == "1",
            stdout=query.get("output") == "1",
            stderr=query.get("error") == "1" and not tty,
            tty=tty,
        )
        if not (options.stdin or options.stdout or options.stderr):
            raise errors.InvalidInput("you must specify at least 1 of stdin, stdout, stderr")
        return options


class Channel(StrEnum):
    """Values of the header ``streamtype``."""

    ERROR = "error"
    STDIN = "stdin"
    STDOUT = "stdout"
    STDERR = "stderr"
    RESIZE = "resize"


# --- Outcomes -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Exited:
    """The process ended; `code` 0-255. An attach that ended well is code 0."""

    code: int


@dataclass(frozen=True, slots=True)
class Failed:
    """There is no exit code: the command could not be run, or was lost on the way."""

    message: str


Outcome = Exited | Failed


def outcome_status(outcome: Outcome) -> Status:
    """As the kubelet words it; clients take the exit code from details.causes."""
    match outcome:
        case Exited(code=0):
            return Status(status="Success")
        case Exited(code=code):
            return Status(
                status="Failure",
                message=f"command terminated with non-zero exit code: exit status {code}",
                reason="NonZeroExitCode",
                details=StatusDetails(causes=[StatusCause(reason="ExitCode", message=str(code))]),
            )
        case Failed(message=message):
            return Status(
                status="Failure",
                message=f"Internal error occurred: {message}",
                reason="InternalError",
                details=StatusDetails(causes=[StatusCause(message=message)]),
                code=500,
            )
        case _:
            assert_never(outcome)


def encode_outcome(outcome: Outcome, protocol: Protocol) -> bytes:
    """The last word on the error stream; empty only for a success before v4, where silence means success."""
    status = outcome_status(outcome)
    if protocol >= Protocol.V4:
        return msgspec.json.encode(status)
    return b"" if status.status == "Success" else status.message.encode()


# --- The session --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ready:
    """All channels are open: the command may start."""


@dataclass(frozen=True, slots=True)
class StdinReceived:
    data: bytes


@dataclass(frozen=True, slots=True)
class StdinEnded:
    """End of file for the process."""


@dataclass(frozen=True, slots=True)
class Resized:
    columns: int
    rows: int


@dataclass(frozen=True, slots=True)
class PeerLeft:
    """Nobody is there any more. Before `Session.finish` that means: stop the command."""

    reason: str


Event = Ready | StdinReceived | StdinEnded | Resized | PeerLeft


class _TerminalSize(msgspec.Struct):
    columns: int = msgspec.field(name="Width")
    rows: int = msgspec.field(name="Height")


class Session:
    """One exec or attach on a connection that is its own.

    The end: `finish` ends stdout and stderr, writes the outcome and ends the rest, in this order, because clients wait
    for the end of both outputs before they read the outcome, and take silence for success. The connection then stays
    open and its input is read and dropped until the peer closes it: closing first, with input unread, makes TCP drop
    what the peer has not read yet.
    """

    def __init__(self, connection: streams.Connection, options: Options, protocol: Protocol) -> None:
        self._connection = connection
        self._protocol = protocol
        self._missing = set(expected_channels(options, protocol))
        self._ids: dict[Channel, int] = {}
        self._channels: dict[int, Channel] = {}
        self._events: list[Event] = []
        self._resize_buffer = b""
        self._stdin_ended = False
        self._finished = False
        self._peer_left = False
        self._handle_events()

    @property
    def ready(self) -> bool:
        return not self._missing

    @property
    def missing_channels(self) -> Sequence[Channel]:
        return sorted(self._missing)

    @property
    def finished(self) -> bool:
        return self._finished

    @property
    def peer_left(self) -> bool:
        return self._peer_left

    def receive_data(self, data: bytes) -> None:
        """Raises RemoteProtocolError; send what `data_to_send` holds, then close."""
        self._connection.receive_data(data)
        self._handle_events()

    def receive_eof(self) -> None:
        self._connection.receive_eof()
        self._handle_events()

    def events(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def data_to_send(self) -> bytes:
        return self._connection.data_to_send()

    def write_stdout(self, data: bytes) -> None:
        self._write(Channel.STDOUT, data)

    def write_stderr(self, data: bytes) -> None:
        self._write(Channel.STDERR, data)

    def ping(self) -> None:
        """Find out whether the peer is still there, where its input is not being read."""
        self._connection.ping()

    def finish(self, outcome: Outcome) -> None:
        """Say how it ended. May be called once; what is written afterwards is dropped."""
        if self._finished:
            raise errors.LocalProtocolError("the session has its outcome already")
        self._finished = True
        if self._peer_left:
            return
        for channel in (Channel.STDOUT, Channel.STDERR):
            self._end(channel)
        if Channel.ERROR in self._ids:
            self._connection.send_data(self._ids[Channel.ERROR], encode_outcome(outcome, self._protocol))
        for channel in (Channel.ERROR, Channel.STDIN, Channel.RESIZE):
            self._end(channel)

    def go_away(self) -> None:
        """Announce that we close the connection now."""
        self._connection.go_away()

    def _write(self, channel: Channel, data: bytes) -> None:
        if channel in self._ids and not self._finished and not self._peer_left:
            self._connection.send_data(self._ids[channel], data)

    def _end(self, channel: Channel) -> None:
        if channel in self._ids:
            self._connection.end_stream(self._ids[channel])

    def _handle_events(self) -> None:
        for event in self._connection.events():
            match event:
                case streams.StreamOpened(stream_id, headers):
                    self._open(stream_id, headers)
                case streams.DataReceived(stream_id, data):
                    self._receive(self._channels.get(stream_id), data)
                case streams.StreamEnded(stream_id) | streams.StreamReset(stream_id):
                    if self._channels.get(stream_id) is Channel.STDIN and not self._stdin_ended:
                        self._stdin_ended = True
                        self._emit(StdinEnded())
                case streams.GoAwayReceived():
                    self._leave("the client closed the session")
                case streams.ConnectionEnded(clean):
                    self._leave("the client closed the connection" if clean else "the connection was cut")
                case streams.PingReceived() | streams.PongReceived() | streams.StreamAccepted():
                    pass
                case _:
                    assert_never(event)

    def _open(self, stream_id: int, headers: Mapping[str, str]) -> None:
        try:
            channel = Channel(headers.get(STREAM_TYPE, ""))
        except ValueError:
            self._connection.refuse_stream(stream_id)
            return
        if channel in self._ids:
            self._connection.refuse_stream(stream_id)
            return
        self._connection.accept_stream(stream_id)
        if channel not in self._missing:
            # Asked for in no query (stderr beside a terminal): a working stream on which nothing ever comes.
            self._connection.end_stream(stream_id)
            return
        self._ids[channel] = stream_id
        self._channels[stream_id] = channel
        self._missing.discard(channel)
        if not self._missing:
            self._events.append(Ready())

    def _receive(self, channel: Channel | None, data: bytes) -> None:
        if channel is Channel.STDIN:
            self._emit(StdinReceived(data))
        elif channel is Channel.RESIZE:
            *messages, self._resize_buffer = (self._resize_buffer + data).split(b"}")
            if len(self._resize_buffer) > MAX_RESIZE_BYTES:
                self._resize_buffer = b""
            for message in messages:
                self._resize(message + b"}")

    def _resize(self, message: bytes) -> None:
        try:
            size = msgspec.json.decode(message, type=_TerminalSize)
        except msgspec.DecodeError:
            return  # one bad size is no reason to end a session; the next one counts
        if 0 < size.columns <= 0xFFFF and 0 < size.rows <= 0xFFFF:
            self._emit(Resized(size.columns, size.rows))

    def _emit(self, event: Event) -> None:
        if not self._finished:
            self._events.append(event)

    def _leave(self, reason: str) -> None:
        if not self._peer_left:
            self._peer_left = True
            self._events.append(PeerLeft(reason))


def expected_channels(options: Options, protocol: Protocol) -> frozenset[Channel]:
    """What the client opens for these options."""
    wanted = {
        Channel.ERROR: True,
        Channel.STDIN: options.stdin,
        Channel.STDOUT: options.stdout,
        Channel.STDERR: options.stderr,
        Channel.RESIZE: options.tty and protocol >= Protocol.V3,
    }
    return frozenset(channel for channel, is_wanted in wanted.items() if is_wanted)
