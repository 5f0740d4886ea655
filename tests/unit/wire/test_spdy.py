"""SPDY/3.1: pairs of our own roles, bytes as spdystream writes them, and peers that mean harm."""

import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.wire import feeding
from vzkubelet.errors import LocalProtocolError, RemoteProtocolError
from vzkubelet.wire import spdy_frames, spdy_headers, streams
from vzkubelet.wire.spdy import MAX_STREAMS, Connection, Role


def pair() -> tuple[Connection, Connection]:
    return Connection(Role.CLIENT), Connection(Role.SERVER)


def deliver(sender: Connection, receiver: Connection, cut: feeding.Cut = feeding.whole) -> list[streams.Event]:
    for piece in cut(sender.data_to_send()):
        receiver.receive_data(piece)
    return merged(receiver.events())


def merged(events: list[streams.Event]) -> list[streams.Event]:
    """Adjacent data of one stream joined: how it was cut is nobody's business."""
    result: list[streams.Event] = []
    for event in events:
        last = result[-1] if result else None
        if (
            isinstance(event, streams.DataReceived)
            and isinstance(last, streams.DataReceived)
            and last.stream_id == event.stream_id
        ):
            result[-1] = streams.DataReceived(event.stream_id, last.data + event.data)
        else:
            result.append(event)
    return result


def opened_stream(client: Connection, server: Connection) -> int:
    stream_id = client.open_stream({"streamType": "stdout"})
    deliver(client, server)
    server.accept_stream(stream_id)
    deliver(server, client)
    return stream_id


def control(kind: int, payload: bytes, flags: int = 0, version: int = 3) -> bytes:
    return struct.pack(">II", 0x8000_0000 | version << 16 | kind, flags << 24 | len(payload)) + payload


class GoClient:
    """Writes frames as spdystream does, field by field, with a compressor of its own."""

    def __init__(self) -> None:
        self._zlib = zlib.compressobj(zdict=spdy_headers.DICTIONARY)

    def block(self, plain: bytes) -> bytes:
        return self._zlib.compress(plain) + self._zlib.flush(zlib.Z_SYNC_FLUSH)

    def headers(self, *pairs: tuple[bytes, bytes]) -> bytes:
        plain = struct.pack(">I", len(pairs))
        for pair in pairs:
            for text in pair:
                plain += struct.pack(">I", len(text)) + text
        return self.block(plain)

    def syn_stream(self, stream_id: int, block: bytes, flags: int = 0) -> bytes:
        return control(1, struct.pack(">IIBB", stream_id, 0, 0, 0) + block, flags)


def test_dictionary_is_the_drafts():
    assert len(spdy_headers.DICTIONARY) == 1423
    assert zlib.adler32(spdy_headers.DICTIONARY) == 0xE3C6A7C2


@pytest.mark.parametrize("cut", feeding.CUTS)
def test_a_whole_conversation_comes_out_the_same_however_it_is_cut(cut: feeding.Cut):
    client, server = pair()
    first = client.open_stream({"streamType": "error"})
    second = client.open_stream({"streamType": "stdin", "Other": "x"})
    client.send_data(second, b"hello")
    client.end_stream(second)
    client.ping()
    assert deliver(client, server, cut) == [
        streams.StreamOpened(1, {"streamtype": "error"}),
        streams.StreamOpened(3, {"streamtype": "stdin", "other": "x"}),
        streams.DataReceived(3, b"hello"),
        streams.StreamEnded(3),
        streams.PingReceived(1),
    ]
    server.accept_stream(first)
    server.accept_stream(second)
    server.send_data(first, b"answer")
    server.end_stream(first)
    server.go_away()
    assert deliver(server, client, cut) == [
        streams.PongReceived(1),
        streams.StreamAccepted(1),
        streams.StreamAccepted(3),
        streams.DataReceived(1, b"answer"),
        streams.StreamEnded(1),
        streams.GoAwayReceived(0),
    ]


@pytest.mark.parametrize("cut", feeding.CUTS)
def test_frames_as_go_writes_them(cut: feeding.Cut):
    go, server = GoClient(), Connection(Role.SERVER)
    sent = (
        go.syn_stream(1, go.headers((b"streamtype", b"error")))
        + go.syn_stream(3, go.headers((b"streamtype", b"stdin\0second value")))
        + control(9, struct.pack(">II", 3, 65536))  # WINDOW_UPDATE: nobody tracks windows
        + control(4, struct.pack(">III", 1, 7, 1))  # SETTINGS
        + control(6, struct.pack(">I", 1))
        + struct.pack(">II", 3, 3)
        + b"abc"
        + struct.pack(">II", 3, 0x01000000)
        + control(3, struct.pack(">II", 1, 5))
        + control(7, struct.pack(">II", 3, 0))
    )
    for piece in cut(sent):
        server.receive_data(piece)
    assert merged(server.events()) == [
        streams.StreamOpened(1, {"streamtype": "error"}),
        streams.StreamOpened(3, {"streamtype": "stdin"}),
        streams.PingReceived(1),
        streams.DataReceived(3, b"abc"),
        streams.StreamEnded(3),
        streams.StreamReset(1, 5),
        streams.GoAwayReceived(0),
    ]
    assert server.data_to_send() == control(6, struct.pack(">I", 1))


def test_trailing_bytes_of_the_next_frame_wait_for_the_rest():
    client, server = pair()
    client.ping()
    frame = client.data_to_send()
    server.receive_data(frame + frame[:5])
    assert server.events() == [streams.PingReceived(1)]
    assert server.trailing_data == frame[:5]
    server.receive_eof()
    server.receive_eof()
    assert server.events() == [streams.ConnectionEnded(clean=False)]


def test_a_large_frame_is_handed_out_before_it_is_whole():
    """A peer may declare 16 MiB; holding that per stream would be its choice of our memory."""
    client, server = pair()
    stream_id = opened_stream(client, server)
    server.receive_data(struct.pack(">II", stream_id, 0x01FFFFFF) + b"x" * 1000)
    assert merged(server.events()) == [streams.DataReceived(stream_id, b"x" * 1000)]
    assert server.trailing_data == b""


def test_more_than_64_kib_of_output_needs_no_window_update():
    client, server = pair()
    stream_id = opened_stream(client, server)
    server.send_data(stream_id, bytes(1_000_000))
    server.end_stream(stream_id)
    assert deliver(server, client) == [
        streams.DataReceived(stream_id, bytes(1_000_000)),
        streams.StreamEnded(stream_id),
    ]


def test_data_after_the_peers_reset_goes_nowhere_quietly():
    client, server = pair()
    stream_id = opened_stream(client, server)
    client.reset_stream(stream_id)
    assert deliver(client, server) == [streams.StreamReset(stream_id, 5)]
    server.send_data(stream_id, b"late")
    server.end_stream(stream_id)
    assert server.data_to_send() == b""


def test_data_on_its_way_while_we_reset_is_dropped():
    client, server = pair()
    stream_id = opened_stream(client, server)
    client.send_data(stream_id, b"on its way")
    server.reset_stream(stream_id)
    assert deliver(client, server) == []
    assert deliver(server, client) == [streams.StreamReset(stream_id, 5)]


def test_streams_over_the_limit_are_refused_and_the_rest_lives():
    client, server = pair()
    for _ in range(MAX_STREAMS + 1):
        client.open_stream({})
    assert len(deliver(client, server)) == MAX_STREAMS
    assert deliver(server, client) == [streams.StreamReset(2 * MAX_STREAMS + 1, spdy_frames.ResetStatus.REFUSED_STREAM)]


def test_sending_before_the_reply_is_our_own_bug():
    """spdystream silently drops data that comes before SYN_REPLY."""
    client, server = pair()
    stream_id = client.open_stream({})
    deliver(client, server)
    with pytest.raises(LocalProtocolError):
        server.send_data(stream_id, b"early")


def test_sending_after_the_end_is_our_own_bug():
    client, server = pair()
    stream_id = opened_stream(client, server)
    server.end_stream(stream_id)
    with pytest.raises(LocalProtocolError):
        server.send_data(stream_id, b"late")


def test_our_pings_are_even_and_their_echo_is_a_pong():
    client, server = pair()
    server.ping()
    server.ping()
    assert deliver(server, client) == [streams.PingReceived(2), streams.PingReceived(4)]
    assert deliver(client, server) == [streams.PongReceived(2), streams.PongReceived(4)]


def hostile() -> dict[str, bytes]:
    bomb = struct.pack(">II", 1, 30_000_000) + bytes(30_000_000)
    name = (b"a", b"1")
    return {
        "another version": control(6, struct.pack(">I", 1), version=2),
        "control frame over the limit": struct.pack(">II", 0x8003_0001, spdy_frames.MAX_CONTROL_BYTES + 1),
        "stream zero": GoClient().syn_stream(0, GoClient().headers(name)),
        "data for stream zero": struct.pack(">II", 0, 1),
        "data for a stream never opened": struct.pack(">II", 5, 1) + b"x",
        "even stream id of a client": GoClient().syn_stream(2, GoClient().headers(name)),
        "stream opened twice": (lambda go: 2 * go.syn_stream(1, go.headers(name)))(GoClient()),
        "reply to a server": control(2, struct.pack(">I", 1) + GoClient().headers()),
        "header block cut short": GoClient().syn_stream(1, GoClient().block(struct.pack(">II", 1, 4))),
        "bytes after the headers": GoClient().syn_stream(1, GoClient().block(struct.pack(">I", 0) + b"x")),
        "no dictionary": control(1, struct.pack(">IIH", 1, 0, 0) + zlib.compress(b"\0\0\0\0")),
        "not compressed": control(1, struct.pack(">IIH", 1, 0, 0) + b"\0\0\0\0"),
        "header bomb": GoClient().syn_stream(1, GoClient().block(bomb)),
        "header count": GoClient().syn_stream(1, GoClient().block(struct.pack(">I", 0x7FFFFFFF))),
        "many headers": GoClient().syn_stream(1, GoClient().headers(*[(b"n%d" % i, b"") for i in range(1000)])),
        "upper case header name": GoClient().syn_stream(1, GoClient().headers((b"StreamType", b"error"))),
        "repeated header": GoClient().syn_stream(1, GoClient().headers(name, name)),
        "forbidden header": GoClient().syn_stream(1, GoClient().headers((b"host", b"x"))),
        "settings count": control(4, struct.pack(">I", 0xFFFFFFFF)),
        "short ping": control(6, b"\0"),
        "short reset": control(3, struct.pack(">I", 1)),
        "long goaway": control(7, bytes(12)),
        "short syn_stream": control(1, bytes(9)),
        "syn_reply without stream": control(2, b""),
    }


@pytest.mark.parametrize("hazard", hostile())
def test_violations_end_the_connection_with_goaway(hazard: str):
    server = Connection(Role.SERVER)
    with pytest.raises(RemoteProtocolError) as caught:
        server.receive_data(hostile()[hazard])
    assert caught.value.close_code == spdy_frames.GoAwayStatus.PROTOCOL_ERROR
    answer = server.data_to_send()
    assert answer[:4] == struct.pack(">I", 0x80030007)
    assert answer[-4:] == struct.pack(">I", 1)
    with pytest.raises(RemoteProtocolError):
        server.receive_data(b"more")


def test_data_after_the_end_of_a_stream_is_a_violation():
    client, server = pair()
    stream_id = opened_stream(client, server)
    server.receive_data(struct.pack(">II", stream_id, 0x01000000))
    with pytest.raises(RemoteProtocolError):
        server.receive_data(struct.pack(">II", stream_id, 1) + b"x")


def test_data_after_eof_is_our_own_bug():
    server = Connection(Role.SERVER)
    server.receive_eof()
    assert server.events() == [streams.ConnectionEnded(clean=True)]
    with pytest.raises(LocalProtocolError):
        server.receive_data(b"x")


def test_a_server_that_opens_streams_is_refused():
    go, client = GoClient(), Connection(Role.CLIENT)
    with pytest.raises(RemoteProtocolError):
        client.receive_data(go.syn_stream(2, go.headers()))
    with pytest.raises(LocalProtocolError):
        Connection(Role.SERVER).open_stream({})


@given(st.lists(st.binary(max_size=200), max_size=20), st.integers(min_value=1, max_value=50))
def test_any_payload_survives_any_cut(chunks: list[bytes], step: int):
    client, server = pair()
    stream_id = opened_stream(client, server)
    for chunk in chunks:
        client.send_data(stream_id, chunk)
    client.end_stream(stream_id)
    sent = client.data_to_send()
    for start in range(0, len(sent), step):
        server.receive_data(sent[start : start + step])
    events = server.events()
    assert b"".join(e.data for e in events if isinstance(e, streams.DataReceived)) == b"".join(chunks)
    assert events[-1] == streams.StreamEnded(stream_id)


@given(st.binary(max_size=400))
def test_arbitrary_bytes_end_defined(data: bytes):
    server = Connection(Role.SERVER)
    try:
        server.receive_data(data)
    except RemoteProtocolError:
        assert server.data_to_send()
    server.receive_eof()


@given(st.integers(0, 15), st.integers(0, 255), st.binary(max_size=100))
def test_arbitrary_control_frames_end_defined(kind: int, flags: int, payload: bytes):
    server = Connection(Role.SERVER)
    try:
        server.receive_data(control(kind, payload, flags))
    except RemoteProtocolError:
        assert server.data_to_send()


@given(
    st.dictionaries(
        st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20).map(str.lower),
        st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=50),
        max_size=10,
    ).filter(lambda headers: not headers.keys() & spdy_headers.FORBIDDEN_NAMES)
)
def test_header_blocks_round_trip_through_one_zlib_stream(headers: dict[str, str]):
    encoder, decoder = spdy_headers.Encoder(), spdy_headers.Decoder()
    for _ in range(3):
        assert decoder.decode(encoder.encode(headers)) == headers
