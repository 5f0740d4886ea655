"""The one call to a guest agent, against what a gRPC server sends."""

import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vzkubelet.errors import RemoteProtocolError
from vzkubelet.machines.vz.guest_agent import AgentCall

SETTINGS, PING, HEADERS, DATA, RESET, GOAWAY, WINDOW = 4, 6, 1, 0, 3, 7, 8
END = 1


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + struct.pack("!BBI", kind, flags, stream) + payload


def message(ip: str, before: bytes = b"", compressed: int = 0) -> bytes:
    body = before + b"\x0a" + bytes([len(ip)]) + ip.encode()
    return bytes([compressed]) + struct.pack("!I", len(body)) + body


def answer(body: bytes) -> bytes:
    """As grpc-go: settings, acknowledgement, a bandwidth ping, headers, message, trailers."""
    return (
        frame(SETTINGS, payload=struct.pack("!HI", 5, 16384))
        + frame(SETTINGS, END)
        + frame(WINDOW, payload=struct.pack("!I", 5))
        + frame(PING, payload=b"12345678")
        + frame(HEADERS, 4, 1, b"\x88\x5f")
        + frame(DATA, 0, 1, body)
        + frame(HEADERS, 4 | END, 1, b"\x40")
    )


def chunks(data: bytes, cuts: list[int]) -> list[bytes]:
    bounds = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(bounds)]


@given(st.ip_addresses(v=4, network="192.168.0.0/16").map(str), st.lists(st.integers(0, 200), max_size=9))
def test_the_address_is_read_in_any_chunks_and_the_server_is_answered(ip: str, cuts: list[int]) -> None:
    call, sent = AgentCall(), b""
    for chunk in chunks(answer(message(ip)), cuts):
        sent += call.feed(chunk)
    assert call.is_done
    assert call.ip == ip
    assert sent == frame(SETTINGS, END) + frame(PING, END, payload=b"12345678")


GRPC_GO_ANSWER = bytes.fromhex(
    "0000060400000000000005000040000000000401000000000000040800000000000000000500000806000000000002041010090e07070000"
    "0e010400000001885f8b1d75d0620d263d4c4d6564000014000000000001000000000f0a0d3139322e3136382e36342e3738000018010500"
    "00000140889acac8b21234da8f013040899acac8b5254207317f00"
)
"""What a server with the agent's library (grpc-go 1.79) sent to our request, and when it has no address."""
GRPC_GO_FAILURE = bytes.fromhex(
    "0000060400000000000005000040000000000401000000000000040800000000000000000500000806000000000002041010090e07070000"
    "3d010500000001885f8b1d75d0620d263d4c4d656440889acac8b21234da8f013240899acac8b5254207317f9720eaa8e952c2a0f4772a9c"
    "747fa429935a83924b0a847f"
)


@pytest.mark.parametrize(("recorded", "ip"), [(GRPC_GO_ANSWER, "192.168.64.78"), (GRPC_GO_FAILURE, None)])
def test_a_recorded_answer_is_read_byte_by_byte(recorded: bytes, ip: str | None) -> None:
    call = AgentCall()
    for number in recorded:
        call.feed(bytes([number]))
    assert call.is_done
    assert call.ip == ip


def test_the_request_is_a_preface_settings_headers_and_an_empty_message() -> None:
    request = AgentCall().request
    assert request.startswith(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    assert b"/Agent/ResolveIP" in request
    assert request.endswith(frame(DATA, END, 1, bytes(5)))


def test_unknown_fields_and_padding_are_skipped() -> None:
    before = b"\x10\x96\x01" + b"\x1a\x02zz" + b"\x21" + bytes(8) + b"\x2d" + bytes(4)
    padded = bytes([3]) + message("10.0.0.9", before) + bytes(3)
    call = AgentCall()
    call.feed(frame(DATA, 8 | END, 1, padded))
    assert call.is_done
    assert call.ip == "10.0.0.9"


@pytest.mark.parametrize(
    "data",
    [
        frame(HEADERS, 4 | END, 1, b"\x88"),  # an error: trailers only
        frame(RESET, 0, 1, bytes(4)),
        frame(GOAWAY, 0, 0, bytes(8)),
        frame(DATA, END, 1, message("127.0.0.1")),
        frame(DATA, END, 1, message("fe80::1")),
        frame(DATA, END, 1, message("10.0.0.9", compressed=1)),
        frame(DATA, END, 1, message("10.0.0.9")[:-2]),
        frame(DATA, END, 1, b"\0\0\0\0\x02\x0a\xff"),
        frame(DATA, END, 1, b"\0\0\0\0\x03\x0a\x01\xff"),
        frame(DATA, END, 1, b"\0\0\0\0\x01\x0b"),
        frame(DATA, END, 1, bytes(5)),
    ],
)
def test_an_answer_without_a_usable_address_is_none(data: bytes) -> None:
    call = AgentCall()
    call.feed(data)
    assert call.is_done
    assert call.ip is None


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        frame(DATA, 0, 1, b"\0\0\0\xff\xff" + bytes(5000)),
        frame(DATA, 8, 1, b"\x05ab"),
    ],
)
def test_what_is_no_answer_of_an_agent_is_refused(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="guest agent"):
        AgentCall().feed(data)


@given(st.binary(max_size=200))
def test_any_bytes_end_in_an_address_or_an_error(data: bytes) -> None:
    call = AgentCall()
    try:
        call.feed(data)
    except RemoteProtocolError:
        return
    assert call.ip is None or call.ip.count(".") == 3
