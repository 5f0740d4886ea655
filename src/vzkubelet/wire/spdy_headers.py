"""SPDY/3 header blocks: name-value pairs in one zlib stream per direction, with a preset dictionary.

Format: SPDY protocol draft 3.1, section 2.6.10. Limits follow CVE-2026-35469, where header counts, field sizes and
decompressed sizes chosen by the peer were believed.
"""

import struct
import zlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from vzkubelet.errors import RemoteProtocolError

MAX_HEADERS: Final = 64
"""Headers in one block. The clients in use send three at most (streamtype, port, requestid)."""
MAX_BLOCK_BYTES: Final = 32 * 1024
"""Decompressed size of one block; the draft asks for no more than 8 KiB."""
WINDOW_BITS: Final = 11
"""2 KiB: the dictionary fits. With `MEMORY_LEVEL` a connection's compressor takes 9 KiB instead of 256."""
MEMORY_LEVEL: Final = 1
FORBIDDEN_NAMES: Final = frozenset({"connection", "host", "keep-alive", "proxy-connection", "transfer-encoding"})
"""Hop-by-hop names of HTTP that the draft bans (3.2.1)."""

_WORDS: Final = """
    options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age allow
    authorization cache-control connection content-base content-encoding content-language content-length
    content-location content-md5 content-range content-type date etag expect expires from host if-match
    if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma
    proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade
    user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url public set-cookie
    keep-alive origin
"""
_STATUS_CODES: Final = """
    100 101 201 202 205 206 300 302 303 304 305 306 307 402 405 406 407 408 409 410 411 412 413 414 415 416 417 502 504
    505
"""
_REST: Final = (
    b"203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden"
    b"404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable"
    b"Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT"
    b"chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,"
    b"publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)


def _length_prefixed(word: str) -> bytes:
    encoded = word.replace("_", " ").encode("ascii")
    return struct.pack(">I", len(encoded)) + encoded


DICTIONARY: Final = (
    b"".join(map(_length_prefixed, _WORDS.split())) + "".join(_STATUS_CODES.split()).encode("ascii") + _REST
)
"""The draft's preset dictionary: 1423 bytes, adler32 0xE3C6A7C2, which every zlib stream names in its header."""


class Encoder:
    """Our direction of the header compression."""

    def __init__(self) -> None:
        self._compressor = zlib.compressobj(
            level=zlib.Z_BEST_SPEED, wbits=WINDOW_BITS, memLevel=MEMORY_LEVEL, zdict=DICTIONARY
        )

    def encode(self, headers: Mapping[str, str]) -> bytes:
        """One block. Names are lowered; an empty mapping is a valid block."""
        parts = [struct.pack(">I", len(headers))]
        for name, value in headers.items():
            for text in (name.lower(), value):
                encoded = text.encode("utf-8", "surrogateescape")
                parts += (struct.pack(">I", len(encoded)), encoded)
        return self._compressor.compress(b"".join(parts)) + self._compressor.flush(zlib.Z_SYNC_FLUSH)


class Decoder:
    """The peer's direction. After an error its state is lost, and the connection with it."""

    def __init__(self) -> None:
        self._decompressor = zlib.decompressobj(zdict=DICTIONARY)

    def decode(self, block: bytes) -> Mapping[str, str]:
        """Headers of one block; of a name with several values (joined by NUL) the first counts, as in Go's Header.Get.

        Raises RemoteProtocolError.
        """
        try:
            plain = self._decompressor.decompress(block, MAX_BLOCK_BYTES + 1)
        except zlib.error as exc:
            raise RemoteProtocolError("SPDY header block does not decompress") from exc
        if len(plain) > MAX_BLOCK_BYTES or self._decompressor.unconsumed_tail:
            raise RemoteProtocolError(f"SPDY header block is larger than {MAX_BLOCK_BYTES} bytes")
        if self._decompressor.eof:
            raise RemoteProtocolError("SPDY header compression ended before the connection")
        return MappingProxyType(_parse(plain))


def _parse(plain: bytes) -> dict[str, str]:
    count, offset = _integer(plain, 0)
    if count > MAX_HEADERS:
        raise RemoteProtocolError(f"SPDY header block has {count} headers, more than {MAX_HEADERS}")
    headers: dict[str, str] = {}
    for _ in range(count):
        name, offset = _text(plain, offset)
        value, offset = _text(plain, offset)
        if not name or name != name.lower() or name in headers or name in FORBIDDEN_NAMES:
            raise RemoteProtocolError("SPDY header name is empty, not in lower case, repeated or forbidden")
        headers[name] = value.split("\0", 1)[0]
    if offset != len(plain):
        raise RemoteProtocolError("SPDY header block has bytes after its last header")
    return headers


def _integer(plain: bytes, offset: int) -> tuple[int, int]:
    if len(plain) < offset + 4:
        raise RemoteProtocolError("SPDY header block is cut short")
    return int.from_bytes(plain[offset : offset + 4], "big"), offset + 4


def _text(plain: bytes, offset: int) -> tuple[str, int]:
    length, offset = _integer(plain, offset)
    if len(plain) < offset + length:
        raise RemoteProtocolError("SPDY header block is cut short")
    return plain[offset : offset + length].decode("utf-8", "surrogateescape"), offset + length
