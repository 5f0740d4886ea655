"""Channels over WebSocket: frames however they are cut, what the v5 protocol means, and peers that mean harm."""

import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.wire import feeding
from vzkubelet.errors import LocalProtocolError, RemoteProtocolError
from vzkubelet.wire import channels, remote_command, streams
from vzkubelet.wire import websocket_frames as frames
from vzkubelet.wire.websocket_frames import CloseCode, Opcode

KEY = b"\x12\x34\x56\x78"
ALL = remote_command.Options(stdin=True, stdout=True, stderr=True, tty=False)
V5 = remote_command.Protocol.V5


def sent(opcode: Opcode, payload: bytes) -> bytes:
    """A frame of the client."""
    return frames.encode(opcode, payload, KEY)


def message(channel: int, data: bytes) -> bytes:
    return sent(Opcode.BINARY, bytes([channel]) + data)


def received(data: bytes) -> list[frames.Frame]:
    """Frames of the server."""
    reader = frames.Reader(masked=False)
    reader.feed(data)
    return list(iter(reader.next_frame, None))


def connection(*names: str) -> channels.Connection:
    made = channels.Connection(names or ("error", "stdin", "stdout", "stderr"))
    made.events()
    made.data_to_send()
    return made


def fed(server: channels.Connection, data: bytes, cut: feeding.Cut = feeding.whole) -> list[streams.Event]:
    for piece in cut(data):
        server.receive_data(piece)
    result: list[streams.Event] = []
    for event in server.events():
        last = result[-1] if result else None
        if isinstance(event, streams.DataReceived) and isinstance(last, streams.DataReceived):
            result[-1] = streams.DataReceived(event.stream_id, last.data + event.data)
        else:
            result.append(event)
    return result


def test_accept_key_of_the_rfc():
    assert frames.accept_key("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536])
@pytest.mark.parametrize("key", [b"", KEY])
def test_every_form_of_length_round_trips(size: int, key: bytes):
    data = bytes(index % 251 for index in range(size))
    reader = frames.Reader(masked=bool(key))
    reader.feed(frames.encode(Opcode.BINARY, data, key))
    assert reader.next_frame() == frames.MessagePiece(data, starts=True, ends=True)
    assert reader.between_frames


@given(st.binary(max_size=300), st.binary(min_size=4, max_size=4), st.integers(1, 50))
def test_masking_survives_any_cut(data: bytes, key: bytes, step: int):
    wire = frames.encode(Opcode.BINARY, data, key)
    reader, pieces = frames.Reader(masked=True), b""
    for start in range(0, len(wire), step):
        reader.feed(wire[start : start + step])
        while (frame := reader.next_frame()) is not None:
            assert isinstance(frame, frames.MessagePiece)
            pieces += frame.data
    assert pieces == data


def test_the_channels_are_open_from_the_start_and_the_client_is_told():
    server = channels.Connection(("error", "stderr"))
    assert server.events() == [
        streams.StreamOpened(2, {"streamtype": "stderr"}),
        streams.StreamOpened(3, {"streamtype": "error"}),
    ]
    assert received(server.data_to_send()) == [frames.MessagePiece(b"\x02", starts=True, ends=True)]


@pytest.mark.parametrize("cut", feeding.CUTS)
def test_messages_close_signals_and_pings(cut: feeding.Cut):
    server = connection()
    fragmented = (
        bytes([0x02, 0x81]) + KEY + bytes([0 ^ KEY[0]])  # BINARY, not final: the channel alone
        + sent(Opcode.PING, b"between")
        + bytes([0x80, 0x82]) + KEY + bytes([ord("h") ^ KEY[0], ord("i") ^ KEY[1]])
    )  # fmt: skip
    wire = message(0, b"abc") + fragmented + message(9, b"unknown") + message(0, b"") + message(255, b"\x00")
    assert fed(server, wire + message(0, b"late") + sent(Opcode.PONG, b""), cut) == [
        streams.DataReceived(0, b"abc"),
        streams.PingReceived(0),
        streams.DataReceived(0, b"hi"),
        streams.StreamEnded(0),
        streams.PongReceived(0),
    ]
    assert received(server.data_to_send()) == [frames.Pong(b"between")]


def test_the_client_says_goodbye_and_gets_one_back():
    server = connection()
    assert fed(server, sent(Opcode.CLOSE, b"\x03\xe8bye")) == [streams.GoAwayReceived(1000)]
    assert received(server.data_to_send()) == [frames.Close(1000)]
    server.send_data(1, b"late")
    server.ping()
    assert server.data_to_send() == b""


def test_a_session_ends_with_the_outcome_and_close_1000():
    session = remote_command.Session(channels.Connection(remote_command.expected_channels(ALL, V5)), ALL, V5)
    assert session.events() == [remote_command.Ready()]
    session.write_stdout(b"x" * 100_000)
    session.write_stderr(b"err")
    session.finish(remote_command.Exited(3))
    session.write_stdout(b"late")
    outputs: dict[int, bytes] = {}
    codes: list[int] = []
    for frame in received(session.data_to_send()):
        match frame:
            case frames.MessagePiece(data):
                assert not codes
                assert len(data) <= channels.MAX_DATA_BYTES + 1
                outputs[data[0]] = outputs.get(data[0], b"") + data[1:]
            case frames.Close(code):
                codes.append(code)
    assert (outputs[1], outputs[2], codes) == (b"x" * 100_000, b"err", [1000])
    assert json.loads(outputs[3])["details"]["causes"][0]["message"] == "3"
    session.receive_data(message(0, b"ignored") + sent(Opcode.CLOSE, b"\x03\xe8"))
    assert session.events() == [remote_command.PeerLeft("the client closed the session")]


@pytest.mark.parametrize(
    ("wire", "code"),
    [
        (frames.encode(Opcode.BINARY, b"\0x"), CloseCode.PROTOCOL_ERROR),
        (bytes([0xC2, 0x80]) + KEY, CloseCode.PROTOCOL_ERROR),
        (bytes([0x83, 0x80]) + KEY, CloseCode.PROTOCOL_ERROR),
        (bytes([0x09, 0x80]) + KEY, CloseCode.PROTOCOL_ERROR),
        (bytes([0x89, 0xFE]) + struct.pack(">H", 126) + KEY, CloseCode.PROTOCOL_ERROR),
        (bytes([0x80, 0x80]) + KEY, CloseCode.PROTOCOL_ERROR),
        (2 * (bytes([0x02, 0x80]) + KEY), CloseCode.PROTOCOL_ERROR),
        (sent(Opcode.CLOSE, b"x"), CloseCode.PROTOCOL_ERROR),
        (sent(Opcode.TEXT, b"0x"), CloseCode.UNSUPPORTED_DATA),
    ],
    ids=["unmasked", "reserved bits", "unknown opcode", "fragmented ping", "long ping", "continuation of nothing",
         "message in a message", "half a close code", "text"],
)  # fmt: skip
def test_violations_close_with_their_code(wire: bytes, code: CloseCode):
    server = connection()
    with pytest.raises(RemoteProtocolError):
        server.receive_data(wire)
    assert received(server.data_to_send()) == [frames.Close(code)]
    with pytest.raises(RemoteProtocolError):
        server.receive_data(b"more")


def test_the_end_of_the_connection_is_told_once():
    server = connection()
    server.receive_data(message(0, b"abc")[:4])
    assert server.trailing_data
    server.receive_eof()
    server.receive_eof()
    assert server.events() == [streams.ConnectionEnded(clean=False)]
    with pytest.raises(LocalProtocolError):
        server.receive_data(b"x")


def test_writing_to_a_channel_that_was_not_agreed_on_is_our_own_bug():
    with pytest.raises(LocalProtocolError):
        connection("error", "stdout").send_data(2, b"x")


@given(st.binary(max_size=400))
def test_arbitrary_bytes_end_defined(data: bytes):
    server = connection()
    try:
        server.receive_data(data)
    except RemoteProtocolError:
        assert server.data_to_send()
    server.receive_eof()
