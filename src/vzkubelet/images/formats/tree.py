"""What a file consists of: the digests of its equal chunks, and one digest over that list that names the file.

Where a format says digests of chunks but not of the whole file, this is what its content is verified by and called in
the store. Two lists of one chunk size tell what differs between two versions of a disk.
"""

import hashlib
import struct
from dataclasses import dataclass

DIGEST_BYTES = 32
_MAGIC = b"VZCHUNKS"
_HEADER = struct.Struct(">8sQQ")
"""Magic, size of the file, size of a chunk; big-endian. The digests follow."""


@dataclass(frozen=True, slots=True)
class ChunkList:
    """sha256 of each chunk of a file, joined; the last chunk is as long as what is left of the file.

    Raises:
        ValueError: the digests are not those of a file of this size.
    """

    size_bytes: int
    chunk_bytes: int
    digests: bytes

    def __post_init__(self) -> None:
        if not (0 <= self.size_bytes < 2**63 and 0 < self.chunk_bytes < 2**63):
            raise ValueError(f"{self.size_bytes} bytes in chunks of {self.chunk_bytes} is no list of chunks")
        if len(self.digests) != DIGEST_BYTES * self.count:
            raise ValueError(f"{len(self.digests)} bytes of digests do not belong to {self.count} chunks")

    @property
    def count(self) -> int:
        return -(-self.size_bytes // self.chunk_bytes)

    def chunk(self, number: int) -> bytes:
        """The sha256 of chunk `number`."""
        if not 0 <= number < self.count:
            raise IndexError(number)
        return self.digests[number * DIGEST_BYTES : (number + 1) * DIGEST_BYTES]

    def length(self, number: int) -> int:
        """Bytes of chunk `number`."""
        return min(self.chunk_bytes, self.size_bytes - number * self.chunk_bytes)

    def digest(self) -> str:
        """The tree digest: ``sha256:…`` of what `to_bytes` returns."""
        return f"sha256:{hashlib.sha256(self.to_bytes()).hexdigest()}"

    def to_bytes(self) -> bytes:
        return _HEADER.pack(_MAGIC, self.size_bytes, self.chunk_bytes) + self.digests

    @classmethod
    def from_bytes(cls, content: bytes) -> "ChunkList":
        """Raises ValueError: not what `to_bytes` returns."""
        if len(content) < _HEADER.size:
            raise ValueError("a list of chunks is cut off")
        magic, size_bytes, chunk_bytes = _HEADER.unpack_from(content)
        if magic != _MAGIC:
            raise ValueError("not a list of chunks")
        return cls(size_bytes, chunk_bytes, content[_HEADER.size :])
