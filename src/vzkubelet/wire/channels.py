"""Kubernetes channels over WebSocket: a `streams.Connection` whose streams are there from the beginning.

Protocol ``v5.channel.k8s.io``: binary messages, the first byte is the channel; ``[255, channel]`` from the client ends
that channel; the server ends the session with close code 1000, which is what clients take for the end of the outputs.
An API server since 1.36 hands the client's own WebSocket to nodes that declare ExtendWebSocketsToKubelet. Before, and
for other nodes, it translates to SPDY, and closes towards the client before a slow one has read everything.
Reference: k8s.io/apimachinery pkg/util/remotecommand, k8s.io/client-go tools/remotecommand/websocket.go.
"""

from collections.abc import Iterable
from typing import Final

from vzkubelet.errors import LocalProtocolError, RemoteProtocolError
from vzkubelet.wire import streams
from vzkubelet.wire import websocket_frames as frames
from vzkubelet.wire.websocket_frames import CloseCode, Opcode

V5: Final = "v5.channel.k8s.io"
CHANNELS: Final = {"stdin": 0, "stdout": 1, "stderr": 2, "error": 3, "resize": 4}
"""Number of each channel; the names are those of the SPDY header ``streamtype``."""
CLOSE_SIGNAL: Final = 255
MAX_DATA_BYTES: Final = 32 * 1024
"""Payload of a message that we write, as the kubelet's copy buffer; client-go reads with one of this size."""
_ERROR: Final = CHANNELS["error"]
_OUTPUTS: Final = ("stdout", "stderr", "error")


class Connection:
    """The server's side of one session with the given channels."""

    def __init__(self, channels: Iterable[str]) -> None:
        self._reader = frames.Reader(masked=True)
        self._output: list[bytes] = []
        self._events: list[streams.Event] = []
        self._open: set[int] = set()
        self._remote_ended: set[int] = set()
        self._channel: int | None = None
        self._closing_channel = False
        self._close_sent = False
        self._eof = False
        self._pings = 0
        self._failure: RemoteProtocolError | None = None
        names = set(channels)
        for name, number in CHANNELS.items():
            if name in names:
                self._open.add(number)
                self._events.append(streams.StreamOpened(number, {"streamtype": name}))
        # Old clients wait for a first message before they take the session for established.
        self._message(CHANNELS[next(name for name in _OUTPUTS if name in names)], b"")

    # --- What the peer sent ---

    def receive_data(self, data: bytes) -> None:
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
            self._close(exc.close_code or CloseCode.PROTOCOL_ERROR)
            raise

    def receive_eof(self) -> None:
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

    def _handle(self, frame: frames.Frame) -> None:
        match frame:
            case frames.MessagePiece():
                self._handle_piece(frame)
            case frames.Ping(payload):
                if not self._close_sent:
                    self._output.append(frames.encode(Opcode.PONG, payload))
                self._events.append(streams.PingReceived(0))
            case frames.Pong():
                self._events.append(streams.PongReceived(self._pings))
            case frames.Close(code):
                self._close(CloseCode.NORMAL)
                self._events.append(streams.GoAwayReceived(code))

    def _handle_piece(self, piece: frames.MessagePiece) -> None:
        if piece.text:
            raise RemoteProtocolError(f"{V5} has binary messages only", close_code=CloseCode.UNSUPPORTED_DATA)
        data = piece.data
        if piece.starts:
            self._channel, self._closing_channel = None, False
        if self._channel is None and not self._closing_channel and data:
            self._channel, data = data[0], data[1:]
            if self._channel == CLOSE_SIGNAL:
                self._channel, self._closing_channel = None, True
        if self._closing_channel:
            if data:
                self._closing_channel = False
                self._channel = CLOSE_SIGNAL
                self._end_remote(data[0])
        elif data and self._channel in self._open and self._channel not in self._remote_ended:
            self._events.append(streams.DataReceived(self._channel, data))

    def _end_remote(self, number: int) -> None:
        if number in self._open and number not in self._remote_ended:
            self._remote_ended.add(number)
            self._events.append(streams.StreamEnded(number))

    # --- What we send ---

    def data_to_send(self) -> bytes:
        output, self._output = self._output, []
        return output[0] if len(output) == 1 else b"".join(output)

    def accept_stream(self, stream_id: int) -> None:
        """Nothing to say: the channels were agreed on in the handshake."""

    def send_data(self, stream_id: int, data: bytes) -> None:
        if stream_id not in self._open:
            raise LocalProtocolError(f"channel {stream_id} is not open")
        for start in range(0, len(data), MAX_DATA_BYTES):
            self._message(stream_id, data[start : start + MAX_DATA_BYTES])

    def end_stream(self, stream_id: int) -> None:
        """The end of the error channel ends the session; the end of another has no form on the wire."""
        if stream_id == _ERROR:
            self._close(CloseCode.NORMAL)

    def refuse_stream(self, stream_id: int) -> None:
        self._open.discard(stream_id)

    def reset_stream(self, stream_id: int) -> None:
        self._open.discard(stream_id)

    def ping(self) -> None:
        if not self._close_sent:
            self._pings += 1
            self._output.append(frames.encode(Opcode.PING, self._pings.to_bytes(4, "big")))

    def go_away(self) -> None:
        self._close(CloseCode.GOING_AWAY)

    def _message(self, number: int, data: bytes) -> None:
        if not self._close_sent:
            self._output.append(frames.encode(Opcode.BINARY, bytes((number,)) + data))

    def _close(self, code: int) -> None:
        if not self._close_sent:
            self._output.append(frames.encode(Opcode.CLOSE, code.to_bytes(2, "big")))
            self._close_sent = True
