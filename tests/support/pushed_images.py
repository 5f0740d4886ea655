"""What a push has left in a registry, read back by nothing but the documented facts of the formats."""

import gzip
import hashlib
import random
import struct
from pathlib import Path
from typing import Any

import lz4.block
import zstandard

from tests.cluster.registry import Registry
from tests.support.vm_images import MIB, RawRepository, VmFiles

AGODA, TART, OURS = (
    "application/vnd.agoda.macosvz.",
    "application/vnd.cirruslabs.tart.",
    "application/vnd.macos-vz-kubelet.",
)


def make_disk(path: Path, seed: int = 1, *, size_bytes: int = 48 * MIB) -> None:
    """Noise, text, holes and zeros that are written, in runs of odd sizes; equal seeds give equal disks."""
    noise = random.Random(seed)
    words = [noise.randbytes(8) for _ in range(500)]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as disk:
        disk.truncate(size_bytes)
        position = 0
        while position < size_bytes:
            run = min(size_bytes - position, noise.choice((4096, 300_000, 3 * MIB, 5 * MIB)))
            match noise.randrange(4):
                case 0:
                    data = noise.randbytes(run)
                case 1:
                    data = b"".join(noise.choices(words, k=run // 8 + 1))[:run]
                case 2:
                    data = bytes(run)
                case _:
                    data = b""
            disk.seek(position)
            disk.write(data)
            position += run


def make_vm(directory: Path, seed: int = 1, *, size_bytes: int = 48 * MIB) -> VmFiles:
    files = VmFiles(directory / f"disk-{seed}", directory / f"aux-{seed}")
    make_disk(files.disk, seed, size_bytes=size_bytes)
    files.aux.write_bytes(random.Random(-seed).randbytes(200_000) + bytes(300_000))
    return files


class Pushed:
    """A pushed image in the files of a registry."""

    def __init__(self, registry: Registry, path: str, tag: str) -> None:
        self._registry = registry
        self.manifest: dict[str, Any] = RawRepository(registry.url, path).manifest(tag)

    def blob(self, layer: dict[str, Any]) -> bytes:
        content = self._registry.blob_path(layer["digest"]).read_bytes()
        assert f"sha256:{hashlib.sha256(content).hexdigest()}" == layer["digest"]
        assert len(content) == layer["size"]
        return content

    def layers(self, media_type: str) -> list[dict[str, Any]]:
        return [layer for layer in self.manifest["layers"] if layer["mediaType"] == media_type]

    def agoda(self, kind: str) -> bytes:
        (layer,) = self.layers(f"{AGODA}{kind}.image.v1")
        raw = gzip.decompress(self.blob(layer))
        annotations = layer["annotations"]
        assert annotations["com.agoda.macosvz.content.uncompressed-size"] == str(len(raw))
        assert annotations["com.agoda.macosvz.content.uncompressed-digest"] == _digest(raw)
        return raw

    def tart_disk(self) -> bytes:
        parts = []
        for layer in self.layers(TART + "disk.v2"):
            raw = apple_lz4(self.blob(layer))
            annotations = layer["annotations"]
            assert annotations["org.cirruslabs.tart.uncompressed-size"] == str(len(raw))
            assert annotations["org.cirruslabs.tart.uncompressed-content-digest"] == _digest(raw)
            parts.append(raw)
        disk = b"".join(parts)
        assert self.manifest["annotations"]["org.cirruslabs.tart.uncompressed-disk-size"] == str(len(disk))
        return disk

    def tart_nvram(self) -> bytes:
        (layer,) = self.layers(TART + "nvram.v1")
        return self.blob(layer)

    def chunked(self, kind: str) -> bytes:
        (layer,) = self.layers(f"{OURS}{kind}.index.v1")
        packs = [self.blob(pack) for pack in self.layers(f"{OURS}{kind}.pack.v1")]
        return chunked(self.blob(layer), packs)

    def digests(self) -> set[str]:
        return {layer["digest"] for layer in self.manifest["layers"]}


def apple_lz4(frame: bytes) -> bytes:
    """Independent blocks only, which is what we write."""
    raw, position = [], 0
    while (mark := frame[position : position + 4]) != b"bv4$":
        if mark == b"bv41":
            size, stored = struct.unpack_from("<II", frame, position + 4)
            raw.append(lz4.block.decompress(frame[position + 12 : position + 12 + stored], uncompressed_size=size))
            position += 12 + stored
        else:
            assert mark == b"bv4-"
            (size,) = struct.unpack_from("<I", frame, position + 4)
            raw.append(frame[position + 8 : position + 8 + size])
            position += 8 + size
    assert position + 4 == len(frame)
    return b"".join(raw)


def chunked(index: bytes, packs: list[bytes]) -> bytes:
    """By docs/image-format.md."""
    magic, version, chunk_bytes, size_bytes, pack_count, frame_count, _ = struct.unpack_from("<8sIIQII32s", index)
    assert (magic, version, pack_count) == (b"VZKINDEX", 1, len(packs))
    position = struct.calcsize("<8sIIQII32s")
    per_pack = struct.unpack_from(f"<{pack_count}I", index, position)
    position += 4 * pack_count
    lengths = struct.unpack_from(f"<{frame_count}I", index, position)
    position += 4 * frame_count
    digests = index[position : position + 32 * frame_count]
    position += 32 * frame_count
    count = -(-size_bytes // chunk_bytes)
    numbers = struct.unpack_from(f"<{count}I", index, position)
    frames, first = [], 0
    for pack, in_pack in zip(packs, per_pack, strict=True):
        offset = 0
        for length in lengths[first : first + in_pack]:
            frames.append(pack[offset : offset + length])
            offset += length
        assert offset == len(pack)
        first += in_pack
    raw = bytearray()
    for number, frame_number in enumerate(numbers):
        length = min(chunk_bytes, size_bytes - number * chunk_bytes)
        if not frame_number:
            raw += bytes(length)
            continue
        frame = frames[frame_number - 1]
        chunk = frame if len(frame) == length else zstandard.ZstdDecompressor().decompress(frame)
        assert hashlib.sha256(chunk).digest() == digests[(frame_number - 1) * 32 : frame_number * 32]
        raw += chunk
    return bytes(raw)


def _digest(raw: bytes) -> str:
    return f"sha256:{hashlib.sha256(raw).hexdigest()}"
