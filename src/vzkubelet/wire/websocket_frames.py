"""WebSocket frames and handshake (RFC 6455), as far as a server of binary channels needs them, either role.

Payloads of messages are handed out in pieces as they arrive; only control frames (at most 125 bytes) are held whole.
No extensions are negotiated, so that every frame is what it seems.
"""

import base64
import hashlib
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from vzkubelet.errors import RemoteProtocolError

VERSION: Final = "13"
MAX_CONTROL_BYTES: Final = 125
"""RFC 6455 5.5."""
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class CloseCode(IntEnum):
    """RFC 6455 7.4.1."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003


class Opcode(IntEnum):
    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


_DATA_OPCODES: Final = frozenset({Opcode.CONTINUATION, Opcode.TEXT, Opcode.BINARY})


def accept_key(key: str) -> str:
    """``Sec-WebSocket-Accept`` for a ``Sec-WebSocket-Key``."""
    digest = hashlib.sha1(key.strip().encode("ascii", "replace") + _GUID, usedforsecurity=False)
    return base64.b64encode(digest.digest()).decode("ascii")


@dataclass(frozen=True, slots=True)
class MessagePiece:
    """Some of a data message: `starts` with its first piece, `ends` with its last (which may be empty)."""

    data: bytes
    text: bool = False
    starts: bool = False
    ends: bool = False


@dataclass(frozen=True, slots=True)
class Ping:
    payload: bytes


@dataclass(frozen=True, slots=True)
class Pong:
    payload: bytes


@dataclass(frozen=True, slots=True)
class Close:
    code: int


Frame = MessagePiece | Ping | Pong | Close


class Reader:
    """Bytes to frames. After an error it is of no further use."""

    def __init__(self, *, masked: bool) -> None:
        """`masked`: whether the peer's frames must be (a client's are, a server's must not)."""
        self._masked = masked
        self._buffer = bytearray()
        self._left = 0
        self._in_frame = False
        self._in_message = False
        self._starts = False
        self._text = False
        self._fin = False
        self._key = b""
        self._key_offset = 0

    def feed(self, data: bytes) -> None:
        self._buffer += data

    @property
    def between_frames(self) -> bool:
        return not self._buffer and not self._in_frame

    @property
    def unparsed(self) -> bytes:
        return bytes(self._buffer)

    def next_frame(self) -> Frame | None:
        """The next frame or piece, or None until more bytes have come. Raises RemoteProtocolError with a close code."""
        if self._in_frame:
            return self._piece()
        head = self._head()
        if head is None:
            return None
        opcode, fin, length, key, size = head
        if opcode in _DATA_OPCODES:
            del self._buffer[:size]
            self._start(opcode, fin=fin, length=length, key=key)
            return self._piece()
        if len(self._buffer) < size + length:
            return None
        payload = _unmask(bytes(self._buffer[size : size + length]), key, 0)
        del self._buffer[: size + length]
        return _control(opcode, payload)

    def _head(self) -> tuple[Opcode, bool, int, bytes, int] | None:
        """Opcode, FIN, payload length, mask and size of the head of the next frame; None until it is whole."""
        if len(self._buffer) < 2:
            return None
        first, second = self._buffer[0], self._buffer[1]
        if first & 0x70:
            raise _violation("reserved bits are set")
        try:
            opcode = Opcode(first & 0x0F)
        except ValueError:
            raise _violation(f"unknown opcode {first & 0x0F}") from None
        fin, masked, length = bool(first & 0x80), bool(second & 0x80), second & 0x7F
        if masked is not self._masked:
            raise _violation("a frame is masked the wrong way")
        if opcode not in _DATA_OPCODES and (not fin or length > MAX_CONTROL_BYTES):
            raise _violation("a control frame is fragmented or too long")
        size = 2
        if length >= 126:
            extra = 2 if length == 126 else 8
            if len(self._buffer) < size + extra:
                return None
            length = int.from_bytes(self._buffer[size : size + extra], "big")
            size += extra
        key = b""
        if masked:
            if len(self._buffer) < size + 4:
                return None
            key = bytes(self._buffer[size : size + 4])
            size += 4
        return opcode, fin, length, key, size

    def _start(self, opcode: Opcode, *, fin: bool, length: int, key: bytes) -> None:
        if (opcode is Opcode.CONTINUATION) is not self._in_message:
            raise _violation("a message is continued that has not begun, or begun before the last one ended")
        if opcode is not Opcode.CONTINUATION:
            self._starts, self._text = True, opcode is Opcode.TEXT
        self._in_message = not fin
        self._in_frame, self._left, self._fin, self._key, self._key_offset = True, length, fin, key, 0

    def _piece(self) -> MessagePiece | None:
        if self._left and not self._buffer:
            return None
        size = min(self._left, len(self._buffer))
        with memoryview(self._buffer) as view:
            data = bytes(view[:size])
        del self._buffer[:size]
        data = _unmask(data, self._key, self._key_offset)
        self._key_offset += size
        self._left -= size
        self._in_frame = self._left > 0
        starts, self._starts = self._starts, False
        return MessagePiece(data, text=self._text, starts=starts, ends=self._fin and not self._in_frame)


def _control(opcode: Opcode, payload: bytes) -> Frame:
    match opcode:
        case Opcode.PING:
            return Ping(payload)
        case Opcode.PONG:
            return Pong(payload)
        case _:
            if len(payload) == 1:
                raise _violation("a close frame has half a code")
            return Close(int.from_bytes(payload[:2], "big") if payload else 1005)


def _violation(reason: str) -> RemoteProtocolError:
    return RemoteProtocolError(f"WebSocket protocol broken: {reason}", close_code=CloseCode.PROTOCOL_ERROR)


def encode(opcode: Opcode, payload: bytes, mask_key: bytes = b"") -> bytes:
    """One whole frame; a client gives four unpredictable bytes as `mask_key`."""
    size, mask_bit = len(payload), 0x80 if mask_key else 0
    if size < 126:
        head = struct.pack(">BB", 0x80 | opcode, mask_bit | size)
    elif size < 0x1_0000:
        head = struct.pack(">BBH", 0x80 | opcode, mask_bit | 126, size)
    else:
        head = struct.pack(">BBQ", 0x80 | opcode, mask_bit | 127, size)
    return head + mask_key + _unmask(payload, mask_key, 0)


def _unmask(data: bytes, key: bytes, offset: int) -> bytes:
    """XOR with the key from its `offset` on; as one big number, because byte by byte is a hundred times slower."""
    if not key or not data:
        return data
    turned = key[offset % 4 :] + key[: offset % 4]
    pad = (turned * (len(data) // 4 + 1))[: len(data)]
    return (int.from_bytes(data, "little") ^ int.from_bytes(pad, "little")).to_bytes(len(data), "little")
