"""QCOW2 disks for reading: what the guest would see, in order, zeros left out.

Read here and not by ``qemu-img``: a Mac has none, and of a file from elsewhere only its own bytes may be looked at, not
the backing and data files of this host that it may name. Source: docs/interop/qcow2.rst of QEMU.
"""

import os
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import zstandard

from vzkubelet.errors import InvalidInput, Unsupported
from vzkubelet.files import open_regular
from vzkubelet.images.bundles.bundle import read_fault

_MAGIC = b"QFI\xfb"
_HEADER = struct.Struct(">4sIQIIQIIQQIIQ")
_HEADER_3 = struct.Struct(">QQQII")
_COMPRESSION_TYPE_AT = 104
_DIRTY, _CORRUPT, _DATA_FILE, _COMPRESSION, _EXTENDED_L2 = (1 << bit for bit in range(5))
_UNDERSTOOD = _DIRTY | _COMPRESSION
"""Dirty says that counts of references may be wrong, and a reader needs none."""
_OFFSET = (1 << 56) - (1 << 9)
"""Bits 9 to 55 of a table's entry."""
_COMPRESSED = 1 << 62
_ZERO = 1
_MAX_L1_BYTES = 32 * 1024 * 1024
_MAX_SNAPSHOTS = 65536
"""QEMU's own limits."""
_MAX_SIZE_BYTES = 64 * 1024**4
_READ_BYTES = 1024 * 1024
_SECTOR_BYTES = 512
_ZSTD_WINDOW_BYTES = 8 * 1024 * 1024
_SNAPSHOT = struct.Struct(">QIHHIIQII")


@dataclass(frozen=True, slots=True)
class Header:
    cluster_bits: int
    size_bytes: int
    l1_offset: int
    l1_entries: int
    snapshots: int
    snapshots_offset: int
    is_zstd: bool

    @property
    def cluster_bytes(self) -> int:
        return 1 << self.cluster_bits


@dataclass(frozen=True, slots=True)
class _Run:
    """Clusters that follow each other in the disk and in the file."""

    offset: int
    host_offset: int
    length: int
    is_compressed: bool = False


class Reader:
    """An open QCOW2 file. Raises InvalidInput or Unsupported from everywhere when the file is not to be read."""

    def __init__(self, descriptor: int, name: str) -> None:
        self._descriptor = descriptor
        self._name = name
        self._file_bytes = os.fstat(descriptor).st_size
        self.header = self._header()

    @property
    def size_bytes(self) -> int:
        """Of the disk that it holds."""
        return self.header.size_bytes

    def data(self) -> Iterator[tuple[int, bytes]]:
        """Offset and bytes of what is not known to be zero, in order, at most a MiB or a cluster at once.

        Raises: OSError as well.
        """
        decompress = self._zstd if self.header.is_zstd else self._deflate
        for run in self._joined(self._clusters()):
            if run.is_compressed:
                yield run.offset, self._decompressed(run, decompress)
                continue
            for start in range(0, run.length, _READ_BYTES):
                length = min(_READ_BYTES, run.length - start)
                yield run.offset + start, self._exactly(run.host_offset + start, length)

    def snapshot_names(self) -> Iterator[str]:
        """Names of the snapshots that hold a machine's memory."""
        position = self.header.snapshots_offset
        for _ in range(self.header.snapshots):
            entry = self._exactly(position, _SNAPSHOT.size)
            *_, id_bytes, name_bytes, _, _, _, state_bytes, extra_bytes = _SNAPSHOT.unpack(entry)
            name = self._exactly(position + _SNAPSHOT.size + extra_bytes + id_bytes, name_bytes)
            extra = self._exactly(position + _SNAPSHOT.size, min(extra_bytes, 8))
            if state_bytes or any(extra):
                yield name.decode(errors="replace")
            position += -(-(_SNAPSHOT.size + extra_bytes + id_bytes + name_bytes) // 8) * 8

    def _header(self) -> Header:
        content = os.pread(self._descriptor, _COMPRESSION_TYPE_AT + 1, 0)
        if len(content) < _HEADER.size or not content.startswith(_MAGIC):
            raise self._damaged("it has no header")
        (_, version, backing, _, bits, size, encryption, entries, l1, _, _, snapshots, at) = _HEADER.unpack_from(
            content
        )
        if version not in (2, 3):
            raise Unsupported(
                f"{self._name} is qcow of version {version}: convert it first, with qemu-img convert -O qcow2"
            )
        if backing:
            raise Unsupported(
                f"{self._name} needs a backing file: make one disk of both first, with qemu-img convert -O qcow2"
            )
        if encryption:
            raise Unsupported(f"{self._name} is encrypted: decrypt it first, with qemu-img convert")
        if not 9 <= bits <= 21:
            raise self._damaged(f"clusters of 2^{bits} bytes")
        if size > _MAX_SIZE_BYTES or not size or size % _SECTOR_BYTES:
            raise self._damaged(f"a disk of {size} bytes")
        if snapshots > _MAX_SNAPSHOTS:
            raise self._damaged(f"{snapshots} snapshots")
        reach = 1 << (2 * bits - 3)
        if entries * 8 > _MAX_L1_BYTES or entries < -(-size // reach):
            raise self._damaged(f"an L1 table of {entries} entries for {size} bytes")
        return Header(bits, size, l1, entries, snapshots, at, version == 3 and self._features(content))

    def _features(self, content: bytes) -> bool:
        """Whether compressed clusters are zstd's."""
        if len(content) < _HEADER.size + _HEADER_3.size:
            raise self._damaged("its header is cut off")
        incompatible, _, _, _, length = _HEADER_3.unpack_from(content, _HEADER.size)
        if incompatible & _CORRUPT:
            raise self._damaged("QEMU has marked it as corrupt; see qemu-img check -r all")
        if incompatible & _DATA_FILE:
            raise Unsupported(f"{self._name} keeps its data in another file: make one of both, with qemu-img convert")
        if incompatible & ~_UNDERSTOOD:
            what = "extended L2 entries" if incompatible & _EXTENDED_L2 else f"features {incompatible:#x}"
            raise Unsupported(f"{self._name} has {what}: convert it first, with qemu-img convert -O raw")
        if not incompatible & _COMPRESSION:
            return False
        if length <= _COMPRESSION_TYPE_AT or len(content) <= _COMPRESSION_TYPE_AT or content[_COMPRESSION_TYPE_AT] != 1:
            raise Unsupported(
                f"{self._name} is compressed in a way that is not known here: use qemu-img convert -O raw"
            )
        return True

    def _clusters(self) -> Iterator[_Run]:
        header = self.header
        per_table = header.cluster_bytes // 8
        l1 = struct.unpack(f">{header.l1_entries}Q", self._table(header.l1_offset, header.l1_entries * 8))
        for number, l1_entry in enumerate(l1):
            begin = number * per_table * header.cluster_bytes
            table_offset = l1_entry & _OFFSET
            if not table_offset or begin >= header.size_bytes:
                continue
            table = struct.unpack(f">{per_table}Q", self._table(table_offset, header.cluster_bytes))
            for index, entry in enumerate(table):
                offset = begin + index * header.cluster_bytes
                if entry and offset < header.size_bytes:
                    run = self._run(entry, offset)
                    if run is not None:
                        yield run

    def _run(self, entry: int, offset: int) -> _Run | None:
        header = self.header
        length = min(header.cluster_bytes, header.size_bytes - offset)
        if entry & _COMPRESSED:
            offset_bits = 62 - (header.cluster_bits - 8)
            host_offset = entry & ((1 << offset_bits) - 1)
            sectors = (entry & (_COMPRESSED - 1)) >> offset_bits
            return _Run(offset, host_offset, (sectors + 1) * _SECTOR_BYTES - host_offset % _SECTOR_BYTES, True)
        host_offset = entry & _OFFSET
        if entry & _ZERO or not host_offset:
            return None
        if host_offset % header.cluster_bytes:
            raise self._damaged(f"a cluster at {host_offset}, which is no multiple of its size")
        return _Run(offset, host_offset, length)

    def _joined(self, runs: Iterator[_Run]) -> Iterator[_Run]:
        pending: _Run | None = None
        for run in runs:
            if (
                pending is not None
                and not (run.is_compressed or pending.is_compressed)
                and pending.length < _READ_BYTES
                and run.offset == pending.offset + pending.length
                and run.host_offset == pending.host_offset + pending.length
            ):
                pending = _Run(pending.offset, pending.host_offset, pending.length + run.length)
                continue
            if pending is not None:
                yield pending
            pending = run
        if pending is not None:
            yield pending

    def _decompressed(self, run: _Run, decompress: Callable[[bytes], bytes]) -> bytes:
        # The last sector of the file need not be whole.
        packed = os.pread(self._descriptor, run.length, run.host_offset)
        try:
            data = decompress(packed)
        except (zlib.error, zstandard.ZstdError) as exc:
            raise self._damaged(f"the compressed cluster at {run.host_offset}: {exc}") from exc
        if len(data) != self.header.cluster_bytes:
            raise self._damaged(f"the compressed cluster at {run.host_offset} ends too early")
        return data[: self.header.size_bytes - run.offset]

    def _deflate(self, packed: bytes) -> bytes:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, self.header.cluster_bytes)

    def _zstd(self, packed: bytes) -> bytes:
        decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES)
        with decompressor.stream_reader(packed) as reader:
            return reader.read(self.header.cluster_bytes)

    def _table(self, offset: int, length: int) -> bytes:
        if offset % self.header.cluster_bytes:
            raise self._damaged(f"a table at {offset}, which is no multiple of the size of a cluster")
        return self._exactly(offset, length)

    def _exactly(self, offset: int, length: int) -> bytes:
        cut_off = f"it is cut off: it has {self._file_bytes} bytes, and refers to {offset + length}"
        if offset + length > self._file_bytes:  # also what no system call takes for an offset
            raise self._damaged(cut_off)
        data = os.pread(self._descriptor, length, offset)
        while len(data) < length:
            more = os.pread(self._descriptor, length - len(data), offset + len(data))
            if not more:
                raise self._damaged(cut_off)
            data += more
        return data

    def _damaged(self, fault: str) -> InvalidInput:
        return InvalidInput(f"{self._name} is a damaged qcow2 disk: {fault}")


def has_saved_state(path: Path, name: str) -> bool:
    """Whether the file holds a machine's memory under this name of a snapshot.

    Raises: InvalidInput, Unsupported, NotFound, Forbidden, Unavailable.
    """
    try:
        descriptor = open_regular(path)
        try:
            return name in Reader(descriptor, str(path)).snapshot_names()
        finally:
            os.close(descriptor)
    except OSError as exc:
        raise read_fault(exc, path) from exc
