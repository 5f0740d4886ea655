"""One question to tart's guest agent: which address the guest has. Sans-IO; a vsock connection to `PORT` carries it.

The agent (cirruslabs/tart-guest-agent) is a gRPC server on vsock port 8080. Its `ResolveIP` takes nothing and returns
one string, so the client is a fixed request and the few HTTP/2 frames that a small answer needs: headers are never
decoded, as an answer without a message is none whatever its status says. grpcio would weigh 19 MB for this one call.
"""

import ipaddress
import struct

from vzkubelet.errors import RemoteProtocolError
from vzkubelet.machines.vz.frames import is_guest_address

PORT = 8080

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"  # RFC 9113, section 3.4
_FRAME_HEADER = 9
_MAX_FRAME_BYTES = 16384  # SETTINGS_MAX_FRAME_SIZE that we leave at its default
_MAX_MESSAGE_BYTES = 4096
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY = 0, 1, 3, 4, 6, 7
_ACK, _END_STREAM, _END_HEADERS, _PADDED = 1, 1, 4, 8
_STREAM = 1
_NO_PUSH = struct.pack("!HI", 2, 0)  # SETTINGS_ENABLE_PUSH
_HEADER_LIST = (
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/Agent/ResolveIP"),
    (b":authority", b"guest"),
    (b"te", b"trailers"),
    (b"content-type", b"application/grpc"),
)
_EMPTY_MESSAGE = bytes(5)  # gRPC: not compressed, length 0
_STRING_FIELD_1 = 0x0A


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + struct.pack("!BBI", kind, flags, stream) + payload


def _header_block() -> bytes:
    """HPACK (RFC 7541, section 6.2.2): literals without indexing, names and values shorter than 127."""
    fields = (b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value for name, value in _HEADER_LIST)
    return b"".join(fields)


class AgentCall:
    """Send `request`, then feed what comes and send what `feed` returns, until `is_done`; then `ip` is known."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._message = bytearray()
        self.is_done = False
        self.request = (
            _PREFACE
            + _frame(_SETTINGS, 0, 0, _NO_PUSH)
            + _frame(_HEADERS, _END_HEADERS, _STREAM, _header_block())
            + _frame(_DATA, _END_STREAM, _STREAM, _EMPTY_MESSAGE)
        )

    def feed(self, data: bytes) -> bytes:
        """What to answer. Raises RemoteProtocolError for what is no HTTP/2."""
        self._buffer += data
        answer = b""
        while not self.is_done and len(self._buffer) >= _FRAME_HEADER:
            length = int.from_bytes(self._buffer[:3], "big")
            if length > _MAX_FRAME_BYTES:
                raise RemoteProtocolError(f"the guest agent sent a frame of {length} bytes: is it a gRPC server?")
            if len(self._buffer) < _FRAME_HEADER + length:
                break
            kind, flags, stream = struct.unpack_from("!BBI", self._buffer, 3)
            payload = bytes(self._buffer[_FRAME_HEADER : _FRAME_HEADER + length])
            del self._buffer[: _FRAME_HEADER + length]
            answer += self._receive(kind, flags, stream & 0x7FFFFFFF, payload)
        return answer

    def _receive(self, kind: int, flags: int, stream: int, payload: bytes) -> bytes:
        if kind == _SETTINGS and not flags & _ACK:
            return _frame(_SETTINGS, _ACK, 0)
        if kind == _PING and not flags & _ACK:
            return _frame(_PING, _ACK, 0, payload)
        if kind == _GOAWAY:
            self.is_done = True
        if stream != _STREAM:
            return b""
        if kind == _DATA:
            self._message += _unpadded(payload) if flags & _PADDED else payload
            if len(self._message) > _MAX_MESSAGE_BYTES:
                raise RemoteProtocolError("the guest agent sent a longer answer than an address")
        self.is_done = (
            self.is_done
            or kind == _RST_STREAM
            or (kind in (_DATA, _HEADERS) and bool(flags & _END_STREAM))
            or self._is_complete()
        )
        return b""

    def _is_complete(self) -> bool:
        return len(self._message) >= 5 and len(self._message) >= 5 + int.from_bytes(self._message[1:5], "big")

    @property
    def ip(self) -> str | None:
        """The guest's own word for its address; None when it has none, or gave no usable answer."""
        if not self._is_complete() or self._message[0] != 0:
            return None
        text = _string_field(bytes(self._message[5 : 5 + int.from_bytes(self._message[1:5], "big")]))
        try:
            address = ipaddress.IPv4Address(text)
        except ValueError:
            return None
        return str(address) if is_guest_address(address) else None


def _unpadded(payload: bytes) -> bytes:
    if not payload or payload[0] >= len(payload):
        raise RemoteProtocolError("the guest agent sent a frame whose padding is longer than itself")
    return payload[1 : len(payload) - payload[0]]


def _varint(data: bytes, offset: int) -> tuple[int, int]:
    """Value and the offset behind it. Raises IndexError where the data ends."""
    value = shift = 0
    while True:
        byte = data[offset]
        offset += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, offset


def _string_field(message: bytes) -> str:
    """Field 1 of a protobuf message; empty when it is absent or the message is damaged. Unknown fields are skipped."""
    offset, text = 0, ""
    try:
        while offset < len(message):
            key, offset = _varint(message, offset)
            match key & 7:
                case 0:  # varint
                    _, offset = _varint(message, offset)
                case 1:  # 64 bits
                    offset += 8
                case 2:  # bytes
                    length, offset = _varint(message, offset)
                    if key == _STRING_FIELD_1:
                        text = message[offset : offset + length].decode("ascii")
                    offset += length
                case 5:  # 32 bits
                    offset += 4
                case _:
                    return ""
    except (IndexError, UnicodeDecodeError):
        return ""
    return text
