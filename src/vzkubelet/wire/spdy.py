"""SPDY/3.1 connection, either role, as Kubernetes streaming uses it (moby/spdystream is the peer).

No flow control windows: spdystream neither sends nor tracks WINDOW_UPDATE, back pressure is TCP's. Pings of the peer
are echoed at once. Streams are opened by the client only.
"""

from collections.abc import Mapping
from enum import Enum
from typing import Final

from vzkubelet.errors import LocalProtocolError, RemoteProtocolError
from vzkubelet.wire import spdy_frames, streams
from vzkubelet.wire.spdy_frames import GoAwayStatus, ResetStatus

MAX_STREAMS: Final = 1000
"""Streams open at once; more are refused. A port-forward uses two per forwarded TCP connection."""


class Role(Enum):
    CLIENT = "client"
    SERVER = "server"


class _Stream:
    __slots__ = ("accepted", "local_ended", "remote_ended")

    def __init__(self, *, accepted: bool) -> None:
        self.accepted = accepted
        self.local_ended = False
        self.remote_ended = False


class Connection:
    """A `streams.Connection`. Raises RemoteProtocolError once the peer breaks the protocol, with a GOAWAY queued."""

    def __init__(self, role: Role) -> None:
        self._role = role
        self._reader = spdy_frames.Reader()
        self._writer = spdy_frames.Writer()
        self._events: list[streams.Event] = []
        self._output: list[bytes] = []
        self._streams: dict[int, _Stream] = {}
        self._next_stream_id = 1
        self._last_peer_stream_id = 0
        self._next_ping_id = 1 if role is Role.CLIENT else 2
        self._eof = False
        self._gone_away = False
        self._failure: RemoteProtocolError | None = None

    # --- What the peer sent ---

    def receive_data(self, data: bytes) -> None:
        """Raises RemoteProtocolError, and again for whatever comes after it."""
        if self._failure is not None:
            raise self._failure
        if self._eof:
            raise LocalProtocolError("data after the end of the connection")
        self._reader.feed(data)
        try:
            while (frame := self._reader.next_frame()) is not None:
                self._handle(frame)
        except RemoteProtocolError as exc:
            self._failure = exc
            exc.close_code = GoAwayStatus.PROTOCOL_ERROR
            self._output.append(self._writer.go_away(self._last_peer_stream_id, GoAwayStatus.PROTOCOL_ERROR))
            raise

    def receive_eof(self) -> None:
        """The peer closed the connection. Repeating it does nothing."""
        if not self._eof:
            self._eof = True
            self._events.append(streams.ConnectionEnded(clean=self._reader.between_frames))

    @property
    def trailing_data(self) -> bytes:
        """Bytes of a frame that is not complete yet."""
        return self._reader.unparsed

    def events(self) -> list[streams.Event]:
        events, self._events = self._events, []
        return events

    def _handle(self, frame: spdy_frames.Frame) -> None:
        match frame:
            case spdy_frames.DataPiece(stream_id, data, fin):
                self._handle_data(stream_id, data, fin=fin)
            case spdy_frames.SynStream(stream_id, headers, fin):
                self._handle_syn_stream(stream_id, headers, fin=fin)
            case spdy_frames.SynReply(stream_id, fin):
                self._handle_syn_reply(stream_id, fin=fin)
            case spdy_frames.Headers(stream_id, fin):
                if fin:
                    self._end_remote(stream_id)
            case spdy_frames.RstStream(stream_id, status):
                if self._streams.pop(stream_id, None) is not None:
                    self._events.append(streams.StreamReset(stream_id, status))
            case spdy_frames.Ping(ping_id):
                self._handle_ping(ping_id)
            case spdy_frames.GoAway(_, status):
                self._events.append(streams.GoAwayReceived(status))

    def _handle_syn_stream(self, stream_id: int, headers: Mapping[str, str], *, fin: bool) -> None:
        if self._role is Role.CLIENT:
            raise RemoteProtocolError("SPDY server opened a stream")
        if stream_id % 2 == 0 or stream_id <= self._last_peer_stream_id:
            raise RemoteProtocolError(f"SPDY client opened stream {stream_id} after {self._last_peer_stream_id}")
        self._last_peer_stream_id = stream_id
        if self._gone_away or len(self._streams) >= MAX_STREAMS:
            self._output.append(self._writer.rst_stream(stream_id, ResetStatus.REFUSED_STREAM))
            return
        self._streams[stream_id] = _Stream(accepted=False)
        self._events.append(streams.StreamOpened(stream_id, headers))
        if fin:
            self._end_remote(stream_id)

    def _handle_syn_reply(self, stream_id: int, *, fin: bool) -> None:
        stream = self._streams.get(stream_id)
        if self._role is Role.SERVER or (stream is not None and stream.accepted):
            raise RemoteProtocolError(f"SPDY reply for stream {stream_id}, which waits for none")
        if stream is None:
            return  # we reset it while the reply was on its way
        stream.accepted = True
        self._events.append(streams.StreamAccepted(stream_id))
        if fin:
            self._end_remote(stream_id)

    def _handle_data(self, stream_id: int, data: bytes, *, fin: bool) -> None:
        stream = self._streams.get(stream_id)
        if stream is None:
            if stream_id > max(self._last_peer_stream_id, self._next_stream_id - 1):
                raise RemoteProtocolError(f"SPDY data for stream {stream_id}, which was never opened")
            return  # closed or reset while the data was on its way
        if stream.remote_ended:
            raise RemoteProtocolError(f"SPDY data after the end of stream {stream_id}")
        if data:
            self._events.append(streams.DataReceived(stream_id, data))
        if fin:
            self._end_remote(stream_id)

    def _handle_ping(self, ping_id: int) -> None:
        ours = ping_id % 2 == (1 if self._role is Role.CLIENT else 0)
        if ours:
            self._events.append(streams.PongReceived(ping_id))
        else:
            self._output.append(self._writer.ping(ping_id))
            self._events.append(streams.PingReceived(ping_id))

    def _end_remote(self, stream_id: int) -> None:
        stream = self._streams.get(stream_id)
        if stream is None or stream.remote_ended:
            return
        stream.remote_ended = True
        self._events.append(streams.StreamEnded(stream_id))
        self._forget_if_over(stream_id, stream)

    # --- What we send ---

    def data_to_send(self) -> bytes:
        output, self._output = self._output, []
        return output[0] if len(output) == 1 else b"".join(output)

    def open_stream(self, headers: Mapping[str, str], *, fin: bool = False) -> int:
        """Open a stream (client role) and return its id; the peer answers with StreamAccepted or StreamReset."""
        if self._role is not Role.CLIENT:
            raise LocalProtocolError("only a SPDY client opens streams")
        stream_id = self._next_stream_id
        self._next_stream_id += 2
        self._streams[stream_id] = stream = _Stream(accepted=False)
        stream.local_ended = fin
        self._output.append(self._writer.syn_stream(stream_id, headers, fin=fin))
        return stream_id

    def accept_stream(self, stream_id: int) -> None:
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        if self._role is not Role.SERVER or stream.accepted:
            raise LocalProtocolError(f"stream {stream_id} waits for no reply")
        stream.accepted = True
        self._output.append(self._writer.syn_reply(stream_id))

    def send_data(self, stream_id: int, data: bytes) -> None:
        stream = self._writable(stream_id)
        if stream is not None and data:
            self._output += self._writer.data(stream_id, data)

    def end_stream(self, stream_id: int) -> None:
        """Half-close: we send no more on it. The peer may still."""
        stream = self._writable(stream_id)
        if stream is not None:
            self._output += self._writer.data(stream_id, b"", fin=True)
            stream.local_ended = True
            self._forget_if_over(stream_id, stream)

    def refuse_stream(self, stream_id: int) -> None:
        """Answer an opened stream with no."""
        self._reset(stream_id, ResetStatus.REFUSED_STREAM)

    def reset_stream(self, stream_id: int) -> None:
        """Drop the stream in both directions. Data of the peer that is on its way is discarded."""
        self._reset(stream_id, ResetStatus.CANCEL)

    def ping(self) -> None:
        self._output.append(self._writer.ping(self._next_ping_id))
        self._next_ping_id = (self._next_ping_id + 2) & 0xFFFF_FFFF or 2

    def go_away(self) -> None:
        """Say that the connection is about to be closed; streams that the peer opens now are refused."""
        if not self._gone_away:
            self._gone_away = True
            self._output.append(self._writer.go_away(self._last_peer_stream_id, GoAwayStatus.OK))

    def _writable(self, stream_id: int) -> _Stream | None:
        """None when the stream is over, by the peer's reset or by ours: what is sent then goes nowhere."""
        stream = self._streams.get(stream_id)
        if stream is None:
            return None
        if stream.local_ended:
            raise LocalProtocolError(f"stream {stream_id} has been ended already")
        if self._role is Role.SERVER and not stream.accepted:
            raise LocalProtocolError(f"stream {stream_id} is not accepted yet; the peer would drop its data")
        return stream

    def _reset(self, stream_id: int, status: ResetStatus) -> None:
        if self._streams.pop(stream_id, None) is not None:
            self._output.append(self._writer.rst_stream(stream_id, status))

    def _forget_if_over(self, stream_id: int, stream: _Stream) -> None:
        if stream.local_ended and stream.remote_ended:
            self._streams.pop(stream_id, None)
