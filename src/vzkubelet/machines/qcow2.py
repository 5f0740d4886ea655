"""QCOW2 overlays: an empty disk that reads as its base until it is written to.

Written here and not by `qemu-img`, because a program that outlives a killed daemon goes on writing into a directory
that the next daemon is removing. Source: docs/interop/qcow2.txt of QEMU.
"""

import os
import struct
from pathlib import Path

_CLUSTER_BITS = 16
_CLUSTER_BYTES = 1 << _CLUSTER_BITS
_L1_REACH_BYTES = _CLUSTER_BYTES * (_CLUSTER_BYTES // 8)
"""What one L1 entry maps: an L2 table of one cluster, whose entries of 8 bytes map a cluster each."""
_HEADER = struct.Struct(">4sIQIIQIIQQIIQQQQII")
_EXTENSION = struct.Struct(">II8s")
_BACKING_FORMAT = 0xE2792ACA
_SECTOR_BYTES = 512


def create_overlay(target: Path, base: str, size_bytes: int) -> None:
    """Make `target` (new, mode 0600) an overlay of the raw file `base`, a name relative to the target's directory.

    A size that is no whole number of sectors is rounded up; behind the end of its base an overlay reads as zeros.
    Raises: OSError.
    """
    name = base.encode()
    size_bytes = -(-size_bytes // _SECTOR_BYTES) * _SECTOR_BYTES
    extensions = _EXTENSION.pack(_BACKING_FORMAT, len(b"raw"), b"raw") + _EXTENSION.pack(0, 0, b"")[:8]
    l1_entries = -(-size_bytes // _L1_REACH_BYTES)
    l1_clusters = max(1, -(-l1_entries * 8 // _CLUSTER_BYTES))
    header = _HEADER.pack(
        b"QFI\xfb",
        3,  # version
        _HEADER.size + len(extensions),  # where the base's name is
        len(name),
        _CLUSTER_BITS,
        size_bytes,
        0,  # no encryption
        l1_entries,
        3 * _CLUSTER_BYTES,  # L1 table, after header, reference count table and its one block
        _CLUSTER_BYTES,
        1,  # clusters of the reference count table
        0,  # snapshots
        0,
        0,  # incompatible, compatible, automatically cleared features
        0,
        0,
        4,  # reference counts of 1 << 4 bits
        _HEADER.size,
    )
    used = 3 + l1_clusters
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(descriptor, used * _CLUSTER_BYTES)
        os.pwrite(descriptor, header + extensions + name, 0)
        os.pwrite(descriptor, struct.pack(">Q", 2 * _CLUSTER_BYTES), _CLUSTER_BYTES)
        os.pwrite(descriptor, struct.pack(f">{used}H", *[1] * used), 2 * _CLUSTER_BYTES)
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
