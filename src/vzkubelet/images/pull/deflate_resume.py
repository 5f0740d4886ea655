"""Going on with a gzip stream in its middle, without a copy of what was downloaded before.

Deflate has no marks to go on from, but its blocks can be found again (RFC 1951, 3.2.3): a stored block by its length
and the complement of it, a block with Huffman codes of its own by a header whose code lengths make a complete code, a
gzip member by its magic. From a candidate the compressed bytes up to the known position are decoded on trial, with a
window of zeros, which gives the number of bytes they expand to and thereby the candidate's place in the raw file. Then
the true window is read from the file and they are decoded again: a candidate is right when the output equals what lies
there. Random bytes pass one of these in a million times, all of them practically never; and whatever goes on from here
is held to the digest of the whole file in the end.

Pure but for `read`, which the caller brings.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cache

from vzkubelet.images.gzip_stream import DamagedGzip, Inflater

TAIL_BYTES = 1024 * 1024
"""How much before the known position is fetched again. Encoders end a block after 10 to 300 KiB of output or less."""
WINDOW_BYTES = 32 * 1024
_SEGMENT_BYTES = 64 * 1024
"""Searched at once; the first right candidate ends the search."""
_TASTE_BYTES = 4 * 1024
"""Decoded first: wrong candidates fail within it."""
_TRIAL_LIMIT = 50_000
"""Trials for one tail. Data made to look like block headers everywhere must not keep a thread for hours."""
_PROOF_BYTES = 4 * 1024
"""Compressed bytes that must follow a candidate in the tail: few of them prove nothing."""
_STORED_PROOF_BYTES = _PROOF_BYTES + 65535
"""A stored block says what its bytes expand to whether it is one or not; only what follows it proves it."""
_SLACK_BYTES = 8
"""Codecs look at several literals at once, and at the end of what they were fed hold back one or another few."""
_PIECE_BYTES = 256 * 1024

Read = Callable[[int, int], bytes]
"""What lies in the raw file from the first to before the second offset."""


class Kind(Enum):
    MEMBER = "member"
    STORED = "stored"
    DYNAMIC = "dynamic"


@dataclass(frozen=True, slots=True)
class Candidate:
    """Where a block may begin: a byte of the tail and, with `DYNAMIC`, the bit in it.

    With `STORED` it is the place of the length: its three header bits lie somewhere before, and a header made for it
    does as well.
    """

    position: int
    bit: int
    kind: Kind


@dataclass(frozen=True, slots=True)
class Resumed:
    """An inflater that has taken all of the tail.

    `pending` belongs at `offset` of the raw file, what the inflater gives next belongs after it.
    """

    inflater: Inflater
    offset: int
    pending: bytes = b""


def resume(tail: bytes, raw_bytes: int, read: Read, piece_bytes: int) -> Resumed | None:
    """Go on after `tail`, the last compressed bytes before a position up to which all expands to `raw_bytes` bytes.

    `read` is asked for bytes before `raw_bytes` only. None: no block begins in the tail, or the file is not what the
    stream expands to.
    """
    trials = 0
    for candidate in candidates(tail):
        trials += 1
        if trials > _TRIAL_LIMIT:
            return None
        size = _expanded_bytes(tail, candidate)
        if size is None:
            continue
        for offset in _likely(raw_bytes - size):
            resumed = _confirmed(tail, candidate, offset, size, raw_bytes, read)
            if resumed is not None:
                resumed.inflater.piece_bytes = piece_bytes
                return resumed
    return None


def candidates(tail: bytes) -> Iterator[Candidate]:
    """Places where a block may begin, the first ones first."""
    for start in range(0, len(tail), _SEGMENT_BYTES):
        end = min(len(tail), start + _SEGMENT_BYTES)
        found = [*_members(tail, start, end), *_stored(tail, start, end), *_dynamic(tail, start, end)]
        yield from sorted(filter(lambda candidate: _is_provable(tail, candidate), found), key=_place)


def _is_provable(tail: bytes, candidate: Candidate) -> bool:
    if candidate.kind is Kind.MEMBER and candidate.position == 0:
        return True  # where the tail is all of the stream there is nothing to prove
    needed_bytes = _STORED_PROOF_BYTES if candidate.kind is Kind.STORED else _PROOF_BYTES
    return candidate.position + needed_bytes <= len(tail)


def _place(candidate: Candidate) -> tuple[int, int]:
    return candidate.position, candidate.bit


# --- Looking for blocks

_MAGIC = b"\x1f\x8b\x08"
_COMPLEMENT = b"\xff\xff"
_HEADER_BYTES = 10
"""Holds the fixed part (17 bits) and all lengths of the code length code (19 of 3 bits)."""
_CODE_LENGTHS_SHIFT = 17
_COMPLETE = 1 << 7
"""The sum over all codes of 2^(7 - length) when each sequence of bits means something."""


def _members(tail: bytes, start: int, end: int) -> Iterator[Candidate]:
    position = tail.find(_MAGIC, start, end + len(_MAGIC) - 1)
    while position >= 0:
        yield Candidate(position, 0, Kind.MEMBER)
        position = tail.find(_MAGIC, position + 1, end + len(_MAGIC) - 1)


def _stored(tail: bytes, start: int, end: int) -> Iterator[Candidate]:
    """Where two bytes are followed by their complement. Flushing encoders leave such blocks of no bytes."""
    number = int.from_bytes(tail[start : end + 3], "little")
    differences = (number ^ (number >> 16)).to_bytes(end + 3 - start, "little")
    position = differences.find(_COMPLEMENT)
    last = len(tail) - start - 4
    while 0 <= position <= last:
        yield Candidate(start + position, 0, Kind.STORED)
        position = differences.find(_COMPLEMENT, position + 1)


@cache
def _header() -> re.Pattern[bytes]:
    """The first 13 bits of a block that is not the last one and has its own codes: 0, 2, HLIT and HDIST up to 29."""
    first = b"".join(re.escape(bytes([literals << 3 | 0b100])) for literals in range(30))
    second = b"".join(re.escape(bytes([byte])) for byte in range(256) if byte & 31 < 30)
    return re.compile(b"[" + first + b"](?=[" + second + b"])", re.DOTALL)


@cache
def _shares() -> tuple[int, ...]:
    """For four code lengths of 3 bits: the sum of 2^(7 - length) of those that are used."""
    share = (0, *(1 << (7 - length) for length in range(1, 8)))
    return tuple(share[n & 7] + share[n >> 3 & 7] + share[n >> 6 & 7] + share[n >> 9] for n in range(4096))


def _dynamic(tail: bytes, start: int, end: int) -> Iterator[Candidate]:
    shares, header = _shares(), _header()
    segment = tail[start : end + _HEADER_BYTES]
    number = int.from_bytes(segment, "little")
    for bit in range(8):
        shifted = (number >> bit).to_bytes(len(segment), "little")
        for match in header.finditer(shifted, 0, end - start):
            position = match.start()
            fields = int.from_bytes(shifted[position : position + _HEADER_BYTES], "little")
            used = 4 + (fields >> 13 & 15)
            lengths = fields >> _CODE_LENGTHS_SHIFT & (1 << 3 * used) - 1
            total = shares[lengths & 4095] + shares[lengths >> 12 & 4095] + shares[lengths >> 24 & 4095]
            if total + shares[lengths >> 36 & 4095] + shares[lengths >> 48] == _COMPLETE:
                yield Candidate(start + position, bit, Kind.DYNAMIC)


# --- Decoding from one

_EMPTY_FIXED_BITS = 10
_EMPTY_FIXED = 0b0000000_01_0
"""A block of fixed codes that ends at once; even, so it reaches even bits only."""


def _odd_block() -> tuple[int, int]:
    """An empty block of 91 bits, with codes of its own: (its bits, their number).

    Literal 0 and the end have one bit each, so has the one distance code; between them lie 255 unused literals.
    """
    order = (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1)
    fields = [(0, 1), (2, 2), (0, 5), (0, 5), (len(order) - 4, 4)]
    fields += [(1 if symbol in (1, 18) else 0, 3) for symbol in order]
    one, zeros, end = (0, 1), (1, 1), (1, 1)
    fields += [one, zeros, (138 - 11, 7), zeros, (117 - 11, 7), one, one, end]
    bits = size = 0
    for value, width in fields:
        bits |= value << size
        size += width
    return bits, size


@cache
def _prefix(bit: int) -> tuple[int, int]:
    """Empty blocks whose number of bits is `bit` modulo 8: (the bits, their number)."""
    bits, size = _odd_block() if bit % 2 else (0, 0)
    while size % 8 != bit:
        bits |= _EMPTY_FIXED << size
        size += _EMPTY_FIXED_BITS
    return bits, size


def _begun(tail: bytes, candidate: Candidate, window: bytes) -> tuple[Inflater, bytes, int]:
    """An inflater for this candidate, what it is to be fed before the tail, and from which byte of the tail on.

    The bits in the byte before the candidate's make way for empty blocks that fill it up to the candidate: nothing of
    the tail has to be shifted, and stored blocks stay aligned.
    """
    match candidate.kind:
        case Kind.MEMBER:
            return Inflater(_PIECE_BYTES), b"", candidate.position
        case Kind.STORED:
            return Inflater.inside(_PIECE_BYTES, window), b"\0", candidate.position
        case Kind.DYNAMIC:
            bits, size = _prefix(candidate.bit)
            first = tail[candidate.position] >> candidate.bit
            prefix = (bits | first << size).to_bytes(size // 8 + 1, "little")
            return Inflater.inside(_PIECE_BYTES, window), prefix, candidate.position + 1


def _pieces(tail: bytes, candidate: Candidate, window: bytes, taste_bytes: int) -> Iterator[tuple[Inflater, bytes]]:
    """What the tail expands to from the candidate on. Raises DamagedGzip."""
    inflater, prefix, position = _begun(tail, candidate, window)
    for part in (prefix + tail[position : position + taste_bytes], tail[position + taste_bytes :]):
        for piece in inflater.feed(part):
            yield inflater, piece
    yield inflater, b""


def _expanded_bytes(tail: bytes, candidate: Candidate) -> int | None:
    try:
        return sum(len(piece) for _, piece in _pieces(tail, candidate, bytes(WINDOW_BYTES), _TASTE_BYTES))
    except DamagedGzip:
        return None


def _likely(offset: int) -> Iterator[int]:
    """The offset, and then those that a codec's holding back may have made of it."""
    yield offset
    for slack in range(1, _SLACK_BYTES + 1):
        yield offset + slack
        yield offset - slack


def _confirmed(tail: bytes, candidate: Candidate, offset: int, size: int, raw_bytes: int, read: Read) -> Resumed | None:
    """The inflater at the end of the tail when the output is what lies at `offset`."""
    if not 0 <= offset <= raw_bytes:
        return None
    window = read(max(0, offset - WINDOW_BYTES), offset) if candidate.kind is not Kind.MEMBER else b""
    position, pending, last = offset, b"", None
    try:
        for inflater, piece in _pieces(tail, candidate, window, _TASTE_BYTES):
            known = max(0, min(len(piece), raw_bytes - position))
            if known and read(position, position + known) != piece[:known]:
                return None
            pending += piece[known:]
            position += len(piece)
            last = inflater
    except DamagedGzip:  # a distance beyond the beginning of the member
        return None
    return Resumed(last, position - len(pending), pending) if last and position == offset + size else None
