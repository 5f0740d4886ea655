"""Streams multiplexed over one connection: the events and the contract that every such connection shares."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class StreamOpened:
    """The peer opened a stream and waits for `accept_stream` or `refuse_stream`. Header names are lowercase."""

    stream_id: int
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class StreamAccepted:
    """The peer accepted a stream that we opened."""

    stream_id: int


@dataclass(frozen=True, slots=True)
class DataReceived:
    """Some bytes of a stream. Boundaries mean nothing."""

    stream_id: int
    data: bytes


@dataclass(frozen=True, slots=True)
class StreamEnded:
    """The peer sends no more on this stream; it may still read."""

    stream_id: int


@dataclass(frozen=True, slots=True)
class StreamReset:
    """The peer dropped the stream in both directions. What is still sent on it goes nowhere, quietly."""

    stream_id: int
    status: int


@dataclass(frozen=True, slots=True)
class PingReceived:
    """The peer asked for a sign of life; the answer is queued already."""

    ping_id: int


@dataclass(frozen=True, slots=True)
class PongReceived:
    """The peer answered our ping."""

    ping_id: int


@dataclass(frozen=True, slots=True)
class GoAwayReceived:
    """The peer closes the connection: it will neither open nor accept further streams."""

    status: int


@dataclass(frozen=True, slots=True)
class ConnectionEnded:
    """The peer closed its side; nothing follows. `clean` is False when that cut a message in two."""

    clean: bool


Event = (
    StreamOpened
    | StreamAccepted
    | DataReceived
    | StreamEnded
    | StreamReset
    | PingReceived
    | PongReceived
    | GoAwayReceived
    | ConnectionEnded
)


class Connection(Protocol):
    """One multiplexed connection, whatever carries it.

    `receive_data` raises RemoteProtocolError when the peer broke the protocol: send what `data_to_send` still holds,
    then close. Sending on a stream that the peer has reset does nothing; other wrong calls raise LocalProtocolError.
    """

    def receive_data(self, data: bytes) -> None: ...

    def receive_eof(self) -> None: ...

    def events(self) -> list[Event]: ...

    def data_to_send(self) -> bytes: ...

    def accept_stream(self, stream_id: int) -> None: ...

    def send_data(self, stream_id: int, data: bytes) -> None: ...

    def end_stream(self, stream_id: int) -> None: ...

    def refuse_stream(self, stream_id: int) -> None: ...

    def reset_stream(self, stream_id: int) -> None: ...

    def ping(self) -> None: ...

    def go_away(self) -> None: ...
