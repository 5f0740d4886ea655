"""SPDY/3.1 frames: bytes to frames and back, with the limits that keep a peer from filling our memory.

Format: SPDY protocol draft 3.1, section 2.2 and 2.6, as moby/spdystream speaks it. Data frames are handed out in pieces
as they arrive, because a peer may declare 16 MiB; only control frames are held until they are whole.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from vzkubelet.errors import RemoteProtocolError
from vzkubelet.wire import spdy_headers

VERSION: Final = 3
MAX_CONTROL_BYTES: Final = 64 * 1024
"""Payload of a control frame. The draft wants at least 8 KiB; real ones stay below 100 bytes."""
MAX_DATA_BYTES: Final = 64 * 1024
"""Payload of a data frame that we write: two of Go's copy buffers; spdystream allocates one buffer per frame."""

_FRAME_HEAD: Final = struct.Struct(">II")
_CONTROL_BIT: Final = 0x8000_0000
_FLAG_FIN: Final = 0x01
_MAX_STREAM_ID: Final = 0x7FFF_FFFF


class _Type(IntEnum):
    SYN_STREAM = 1
    SYN_REPLY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PING = 6
    GOAWAY = 7
    HEADERS = 8
    WINDOW_UPDATE = 9


class ResetStatus(IntEnum):
    """RST_STREAM status codes (draft 2.6.3) that we send."""

    PROTOCOL_ERROR = 1
    INVALID_STREAM = 2
    REFUSED_STREAM = 3
    CANCEL = 5


class GoAwayStatus(IntEnum):
    OK = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2


@dataclass(frozen=True, slots=True)
class SynStream:
    stream_id: int
    headers: Mapping[str, str]
    fin: bool = False


@dataclass(frozen=True, slots=True)
class SynReply:
    stream_id: int
    fin: bool = False


@dataclass(frozen=True, slots=True)
class RstStream:
    stream_id: int
    status: int


@dataclass(frozen=True, slots=True)
class Ping:
    ping_id: int


@dataclass(frozen=True, slots=True)
class GoAway:
    last_stream_id: int
    status: int


@dataclass(frozen=True, slots=True)
class Headers:
    """Further headers of an open stream; nothing here reads them, but their block belongs to the zlib stream."""

    stream_id: int
    fin: bool = False


@dataclass(frozen=True, slots=True)
class DataPiece:
    """Some of a data frame's payload; `fin` only with the last piece of a frame that had the flag."""

    stream_id: int
    data: bytes
    fin: bool = False


Frame = SynStream | SynReply | RstStream | Ping | GoAway | Headers | DataPiece


class Reader:
    """Bytes to frames. After an error it is of no further use."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._headers = spdy_headers.Decoder()
        self._data_stream_id = 0
        self._data_left = 0
        self._data_fin = False

    def feed(self, data: bytes) -> None:
        self._buffer += data

    @property
    def between_frames(self) -> bool:
        return not self._buffer and not self._data_left

    @property
    def unparsed(self) -> bytes:
        return bytes(self._buffer)

    def next_frame(self) -> Frame | None:
        """The next frame, or None until more bytes have come. Frames that mean nothing to us are skipped.

        Raises RemoteProtocolError.
        """
        while True:
            if self._data_left:
                return self._data_piece()
            if len(self._buffer) < _FRAME_HEAD.size:
                return None
            first, second = _FRAME_HEAD.unpack_from(self._buffer)
            flags, length = second >> 24, second & 0xFF_FFFF
            if not first & _CONTROL_BIT:
                frame = self._start_data(first, flags, length)
            elif (first >> 16) & 0x7FFF != VERSION:
                raise RemoteProtocolError(f"SPDY version {(first >> 16) & 0x7FFF} frame; only 3 is spoken")
            elif length > MAX_CONTROL_BYTES:
                raise RemoteProtocolError(f"SPDY control frame of {length} bytes, more than {MAX_CONTROL_BYTES}")
            elif len(self._buffer) < _FRAME_HEAD.size + length:
                return None
            else:
                payload = self._take(_FRAME_HEAD.size + length)[_FRAME_HEAD.size :]
                frame = self._control(first & 0xFFFF, flags, payload)
            if frame is not None:
                return frame

    def _start_data(self, stream_id: int, flags: int, length: int) -> Frame | None:
        if stream_id == 0:
            raise RemoteProtocolError("SPDY data frame for stream 0")
        del self._buffer[: _FRAME_HEAD.size]
        self._data_stream_id, self._data_left, self._data_fin = stream_id, length, bool(flags & _FLAG_FIN)
        return DataPiece(stream_id, b"", fin=True) if not length and self._data_fin else None

    def _data_piece(self) -> DataPiece | None:
        if not self._buffer:
            return None
        data = self._take(min(self._data_left, len(self._buffer)))
        self._data_left -= len(data)
        return DataPiece(self._data_stream_id, data, fin=self._data_fin and not self._data_left)

    def _take(self, size: int) -> bytes:
        with memoryview(self._buffer) as view:
            taken = bytes(view[:size])
        del self._buffer[:size]
        return taken

    def _control(self, kind: int, flags: int, payload: bytes) -> Frame | None:
        fin = bool(flags & _FLAG_FIN)
        match kind:
            case _Type.SYN_STREAM:
                stream_id = _stream_id(payload, 10)
                return SynStream(stream_id, self._headers.decode(payload[10:]), fin)
            case _Type.SYN_REPLY:
                stream_id = _stream_id(payload, 4)
                self._headers.decode(payload[4:])
                return SynReply(stream_id, fin)
            case _Type.HEADERS:
                stream_id = _stream_id(payload, 4)
                self._headers.decode(payload[4:])
                return Headers(stream_id, fin)
            case _Type.RST_STREAM:
                return RstStream(_stream_id(payload, 8, exact=True), _word(payload, 4))
            case _Type.PING:
                _check_length(payload, 4, exact=True)
                return Ping(_word(payload, 0))
            case _Type.GOAWAY:
                _check_length(payload, 8, exact=True)
                return GoAway(_word(payload, 0) & _MAX_STREAM_ID, _word(payload, 4))
            case _Type.SETTINGS:
                _check_length(payload, 4)
                if _word(payload, 0) * 8 != len(payload) - 4:
                    raise RemoteProtocolError("SPDY SETTINGS frame whose count does not fit its length")
            case _:
                pass  # WINDOW_UPDATE: nobody tracks windows; unknown types are to be ignored (draft 2.2.1)
        return None


def _check_length(payload: bytes, size: int, *, exact: bool = False) -> None:
    if len(payload) < size or (exact and len(payload) != size):
        raise RemoteProtocolError(f"SPDY control frame of {len(payload)} bytes where {size} are due")


def _word(payload: bytes, offset: int) -> int:
    return int.from_bytes(payload[offset : offset + 4], "big")


def _stream_id(payload: bytes, size: int, *, exact: bool = False) -> int:
    _check_length(payload, size, exact=exact)
    stream_id = _word(payload, 0) & _MAX_STREAM_ID
    if stream_id == 0:
        raise RemoteProtocolError("SPDY control frame for stream 0")
    return stream_id


class Writer:
    """Frames to bytes."""

    def __init__(self) -> None:
        self._headers = spdy_headers.Encoder()

    def syn_stream(self, stream_id: int, headers: Mapping[str, str], *, fin: bool = False) -> bytes:
        body = struct.pack(">IIH", stream_id, 0, 0) + self._headers.encode(headers)
        return _control_frame(_Type.SYN_STREAM, body, _FLAG_FIN if fin else 0)

    def syn_reply(self, stream_id: int) -> bytes:
        return _control_frame(_Type.SYN_REPLY, struct.pack(">I", stream_id) + self._headers.encode({}))

    def rst_stream(self, stream_id: int, status: int) -> bytes:
        return _control_frame(_Type.RST_STREAM, struct.pack(">II", stream_id, status))

    def ping(self, ping_id: int) -> bytes:
        return _control_frame(_Type.PING, struct.pack(">I", ping_id))

    def go_away(self, last_stream_id: int, status: int) -> bytes:
        return _control_frame(_Type.GOAWAY, struct.pack(">II", last_stream_id, status))

    def data(self, stream_id: int, data: bytes, *, fin: bool = False) -> list[bytes]:
        """Frames of at most `MAX_DATA_BYTES`, as chunks to be joined by the caller."""
        chunks: list[bytes] = []
        for start in range(0, max(len(data), 1), MAX_DATA_BYTES):
            piece = data[start : start + MAX_DATA_BYTES]
            last = start + MAX_DATA_BYTES >= len(data)
            chunks.append(_FRAME_HEAD.pack(stream_id, (_FLAG_FIN << 24 if fin and last else 0) | len(piece)))
            chunks.append(piece)
        return chunks


def _control_frame(kind: _Type, payload: bytes, flags: int = 0) -> bytes:
    return _FRAME_HEAD.pack(_CONTROL_BIT | VERSION << 16 | kind, flags << 24 | len(payload)) + payload
