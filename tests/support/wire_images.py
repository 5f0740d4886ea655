"""Golden images of every wire format, built from what is documented about them and not with the code that writes them.

A `WireImage` is what a registry would hold: the manifest and its blobs. `contents` reads a file back out of an
`Artifact` with plain tools, so that a test knows whether the artifact describes what is there.
"""

import base64
import gzip
import hashlib
import json
import struct
from dataclasses import dataclass, field
from typing import Any

import lz4.block
import zstandard

from vzkubelet.images.formats import Chunked, Content, Encoding, Streams
from vzkubelet.images.formats.chunk_index import ChunkIndex

KIB = 1024
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
IMAGE_CONFIG = "application/vnd.oci.image.config.v1+json"
EMPTY = "application/vnd.oci.empty.v1+json"
TITLE = "org.opencontainers.image.title"
HARDWARE_MODEL = b"bplist00 hardware model \x00\xff"
ECID = b"bplist00 ECID \x01\x02"
MAC_ADDRESS = "5e:12:34:ab:cd:ef"


def sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def base64_of(content: bytes) -> str:
    return base64.b64encode(content).decode()


@dataclass
class WireImage:
    manifest: dict[str, Any]
    blobs: dict[str, bytes] = field(default_factory=dict)

    def put(self, media_type: str, content: bytes, **annotations: str) -> dict[str, Any]:
        """Keep a blob. Returns its descriptor."""
        self.blobs[sha256(content)] = content
        descriptor: dict[str, Any] = {"mediaType": media_type, "digest": sha256(content), "size": len(content)}
        return descriptor | ({"annotations": annotations} if annotations else {})

    @property
    def manifest_bytes(self) -> bytes:
        return json.dumps(self.manifest).encode()

    def layer(self, media_type: str, number: int = 0) -> dict[str, Any]:
        layers: list[dict[str, Any]] = self.manifest["layers"]
        return [layer for layer in layers if layer["mediaType"].startswith(media_type)][number]


def _image(**members: Any) -> WireImage:
    return WireImage({"schemaVersion": 2, "mediaType": MANIFEST, "layers": [], **members})


# --- agoda: one gzip blob a file, boot data in a titled document, what it was made with in labels of an untitled one.


def agoda(disk: bytes, aux: bytes) -> WireImage:
    image = _image(artifactType="application/vnd.agoda.macosvz.artifact")
    image.manifest["config"] = image.put(EMPTY, b"{}") | {"platform": {"architecture": "arm64", "os": "darwin"}}
    config = {
        "mediatype": "application/vnd.agoda.macosvz.config.v1+json",
        "os": "darwin",
        "hardwareModelData": base64_of(HARDWARE_MODEL),
        "machineIdData": base64_of(ECID),
    }
    image.manifest["layers"] = [
        _agoda_file(image, "aux", aux),
        _agoda_file(image, "disk", disk),
        image.put(IMAGE_CONFIG, json.dumps(_image_config()).encode()),
        image.put(config["mediatype"], json.dumps(config).encode(), **{TITLE: "config.json"}),
    ]
    return image


def _agoda_file(image: WireImage, kind: str, content: bytes) -> dict[str, Any]:
    half = len(content) // 2
    annotations = {
        TITLE: f"{kind}.img",
        "com.agoda.macosvz.content.uncompressed-size": str(len(content)),
        "com.agoda.macosvz.content.uncompressed-digest": sha256(content),
    }
    members = gzip.compress(content[:half]) + gzip.compress(content[half:])
    return image.put(f"application/vnd.agoda.macosvz.{kind}.image.v1", members, **annotations)


def _image_config(**labels: str) -> dict[str, Any]:
    machine = {
        "cpu-min": "2",
        "memory-min-bytes": "4294967296",
        "cpu-count": "6",
        "memory-bytes": "8589934592",
        "mac-address": MAC_ADDRESS,
        "display": "1920x1200pt",
        "display-refit": "true",
    }
    return {
        "architecture": "arm64",
        "os": "darwin",
        "config": {
            "Cmd": ["/bin/sh", "-c", "true"],
            "Env": ["A=b=c"],
            "User": "ci",
            "Labels": {f"macos-vz-kubelet.machine.{name}": value for name, value in machine.items()}
            | {"org.example.team": "mobile"},
        },
        "rootfs": {"type": "layers", "diff_ids": []},
    }


# --- chunked: docs/image-format.md


def chunked(disk: bytes, aux: bytes, chunk_bytes: int = 4 * KIB, frames_per_pack: int = 3) -> WireImage:
    image = _image(artifactType="application/vnd.macos-vz-kubelet.image.v1")
    image.manifest["config"] = image.put(EMPTY, b"{}") | {"platform": {"architecture": "arm64", "os": "darwin"}}
    config = {
        "mediatype": "application/vnd.macos-vz-kubelet.config.v1+json",
        "os": "darwin",
        "hardwareModelData": base64_of(HARDWARE_MODEL),
        "machineIdData": base64_of(ECID),
    }
    image.manifest["layers"] = [
        image.put(config["mediatype"], json.dumps(config).encode()),
        image.put(IMAGE_CONFIG, json.dumps(_image_config()).encode()),
        *_chunked_file(image, "disk", disk, chunk_bytes, frames_per_pack),
        *_chunked_file(image, "aux", aux, chunk_bytes, frames_per_pack),
    ]
    return image


def _chunked_file(
    image: WireImage, kind: str, content: bytes, chunk_bytes: int, frames_per_pack: int
) -> list[dict[str, Any]]:
    frames: list[bytes] = []
    digests: list[bytes] = []
    numbers: list[int] = []
    for start in range(0, len(content), chunk_bytes):
        chunk = content[start : start + chunk_bytes]
        digest = hashlib.sha256(chunk).digest()
        if not any(chunk):
            numbers.append(0)
            continue
        if digest not in digests:
            frame = zstandard.compress(chunk, 3)
            frames.append(frame if len(frame) < len(chunk) else chunk)
            digests.append(digest)
        numbers.append(digests.index(digest) + 1)
    packs = [frames[start : start + frames_per_pack] for start in range(0, len(frames), frames_per_pack)]
    index = struct.pack(
        "<8sIIQII32s",
        b"VZKINDEX",
        1,
        chunk_bytes,
        len(content),
        len(packs),
        len(frames),
        hashlib.sha256(content).digest(),
    )
    index += b"".join(struct.pack("<I", len(pack)) for pack in packs)
    index += b"".join(struct.pack("<I", len(frame)) for frame in frames)
    index += b"".join(digests) + b"".join(struct.pack("<I", number) for number in numbers)
    vendor = f"application/vnd.macos-vz-kubelet.{kind}"
    annotations = {"macos-vz-kubelet.raw-size": str(len(content)), "macos-vz-kubelet.raw-digest": sha256(content)}
    return [
        image.put(f"{vendor}.index.v1", index, **annotations),
        *(image.put(f"{vendor}.pack.v1", b"".join(pack)) for pack in packs),
    ]


# --- Tart


def apple_frame(content: bytes) -> bytes:
    """What Apple's encoder writes: blocks of 64 KiB that refer to the one before, stored ones where that is shorter."""
    frame, before = b"", b""
    for start in range(0, len(content), 64 * KIB):
        block = content[start : start + 64 * KIB]
        packed = lz4.block.compress(block, store_size=False, dict=before)
        if len(packed) < len(block):
            frame += b"bv41" + struct.pack("<II", len(block), len(packed)) + packed
        else:
            frame += b"bv4-" + struct.pack("<I", len(block)) + block
        before = block
    return frame + b"bv4$"


def _tart(aux: bytes, disk_size: str | None) -> tuple[WireImage, dict[str, Any], dict[str, Any]]:
    labels = {"org.cirruslabs.tart.disk.format": "raw", "org.example.team": "mobile"}
    described = {"architecture": "arm64", "os": "darwin", "config": {"Labels": labels}}
    image = _image()
    image.manifest["config"] = image.put(IMAGE_CONFIG, json.dumps(described).encode())
    image.manifest["annotations"] = {"org.cirruslabs.tart.upload-time": "2026-11-21T12:00:00Z"}
    if disk_size is not None:
        image.manifest["annotations"]["org.cirruslabs.tart.uncompressed-disk-size"] = disk_size
    config = {
        "version": 1,
        "os": "darwin",
        "arch": "arm64",
        "ecid": base64_of(ECID),
        "hardwareModel": base64_of(HARDWARE_MODEL),
        "cpuCountMin": 2,
        "cpuCount": 6,
        "memorySizeMin": 4294967296,
        "memorySize": 8589934592,
        "macAddress": MAC_ADDRESS,
        "display": {"width": 1920, "height": 1200, "unit": "pt"},
        "displayRefit": True,
        "diskFormat": "raw",
    }
    config_layer = image.put("application/vnd.cirruslabs.tart.config.v1", json.dumps(config).encode())
    return image, config_layer, image.put("application/vnd.cirruslabs.tart.nvram.v1", aux)


def tart(disk: bytes, aux: bytes, chunk_bytes: int = 100 * KIB) -> WireImage:
    image, config, nvram = _tart(aux, str(len(disk)))
    chunks = [disk[start : start + chunk_bytes] for start in range(0, len(disk), chunk_bytes)]
    image.manifest["layers"] = [config, *(_tart_chunk(image, chunk) for chunk in chunks), nvram]
    return image


def _tart_chunk(image: WireImage, chunk: bytes) -> dict[str, Any]:
    annotations = {
        "org.cirruslabs.tart.uncompressed-size": str(len(chunk)),
        "org.cirruslabs.tart.uncompressed-content-digest": sha256(chunk),
    }
    return image.put("application/vnd.cirruslabs.tart.disk.v2", apple_frame(chunk), **annotations)


def tart_v1(disk: bytes, aux: bytes, cut_bytes: int = 40_000, *, says_size: bool = False) -> WireImage:
    """The older form: one frame, cut without regard to its blocks."""
    image, config, nvram = _tart(aux, str(len(disk)) if says_size else None)
    frame = apple_frame(disk)
    blobs = [frame[start : start + cut_bytes] for start in range(0, len(frame), cut_bytes)]
    parts = [image.put("application/vnd.cirruslabs.tart.disk.v1", blob) for blob in blobs]
    image.manifest["layers"] = [config, *parts, nvram]
    return image


# --- Lume


def lume(disk: bytes, aux: bytes, part_bytes: int | None = 100 * KIB) -> WireImage:
    """The OCI form: parts, or with None one blob."""
    image = _image()
    media_type = "application/vnd.trycua.lume.config.v1+json"
    config = {
        "mediatype": media_type,
        "os": "macOS",
        "hardwareModel": base64_of(HARDWARE_MODEL),
        "machineIdentifier": base64_of(ECID),
        "storage": [],
    }
    image.manifest["config"] = image.put(media_type, json.dumps(config).encode(), **{TITLE: "config.json"})
    image.manifest["annotations"] = {
        "org.trycua.lume.cpu-count": "6",
        "org.trycua.lume.memory-size": "8589934592",
        "org.trycua.lume.display": "1920x1200",
        "org.trycua.lume.os": "macOS",
        "org.trycua.lume.network-mode": "nat",
        "org.trycua.lume.total-uncompressed-size": str(len(disk)),
    }
    starts = range(0, len(disk), part_bytes or len(disk))
    parts = []
    for number, start in enumerate(starts):
        part = disk[start : start + (part_bytes or len(disk))]
        annotations = {
            "org.trycua.lume.content.uncompressed-size": str(len(part)),
            "org.trycua.lume.content.uncompressed-digest": sha256(part),
        }
        if part_bytes is not None:
            annotations |= {
                TITLE: f"disk.img.part.{number}",
                "org.trycua.lume.chunk.size": str(part_bytes),
                "org.trycua.lume.part.number": str(number),
                "org.trycua.lume.part.total": str(len(starts)),
                "org.trycua.lume.part.offset": str(start),
            }
        parts.append(image.put("application/vnd.trycua.lume.disk.v1", gzip.compress(part), **annotations))
    image.manifest["layers"] = [image.put("application/vnd.trycua.lume.nvram.v1", aux), *reversed(parts)]
    return image


def _lume_old(disk: bytes, aux: bytes) -> tuple[WireImage, list[dict[str, Any]]]:
    image = _image()
    config = {
        "os": "macOS",
        "cpuCount": 6,
        "memorySize": 8589934592,
        "diskSize": len(disk),
        "macAddress": MAC_ADDRESS,
        "display": "1920x1200",
        "hardwareModel": base64_of(HARDWARE_MODEL),
        "machineIdentifier": base64_of(ECID),
        "networkMode": "nat",
    }
    image.manifest["config"] = image.put(EMPTY, b"{}")
    described = image.put(IMAGE_CONFIG, json.dumps(config).encode(), **{TITLE: "config.json"})
    return image, [described, image.put("application/octet-stream", aux, **{TITLE: "nvram.bin"})]


def lume_lz4(disk: bytes, aux: bytes, part_bytes: int = 100 * KIB) -> WireImage:
    image, small = _lume_old(disk, aux)
    parts = []
    for start in range(0, len(disk), part_bytes):
        part = disk[start : start + part_bytes]
        annotations = {
            "org.trycua.lume.uncompressed-size": str(len(part)),
            "org.trycua.lume.uncompressed-content-digest": sha256(part),
        }
        parts.append(image.put("application/octet-stream+lz4", apple_frame(part), **annotations))
    image.manifest["layers"] = [*parts, *small]
    return image


def lume_raw(disk: bytes, aux: bytes, part_bytes: int = 100 * KIB) -> WireImage:
    """Pieces of the raw file under a media type that says tar."""
    image, small = _lume_old(disk, aux)
    pieces = [disk[start : start + part_bytes] for start in range(0, len(disk), part_bytes)]
    parts = [
        image.put(
            f"application/vnd.oci.image.layer.v1.tar;part.number={number};part.total={len(pieces)}",
            piece,
            **{TITLE: f"disk.img.part.a{chr(96 + number)}"},
        )
        for number, piece in enumerate(pieces, 1)
    ]
    image.manifest["layers"] = [*reversed(parts), *small]
    return image


# --- Reading back


def contents(content: Content, blobs: dict[str, bytes]) -> bytes:
    """The raw file that an artifact describes, from the blobs it names; sizes and digests it says are checked."""
    match content.layout:
        case Streams(streams):
            raw = b""
            for stream in streams:
                assert stream.offset == len(raw)
                part = _decoded(b"".join(_blob(blob, blobs) for blob in stream.blobs), stream.encoding)
                assert stream.raw_size_bytes in (None, len(part))
                assert stream.raw_digest in (None, sha256(part))
                raw += part
        case Chunked(index_blob, packs):
            index = ChunkIndex.parse(_blob(index_blob, blobs))
            raw = b"".join(
                _chunk(index, number, [_blob(pack, blobs) for pack in packs]) for number in range(index.count)
            )
    assert content.raw_size_bytes in (None, len(raw))
    assert content.raw_digest in (None, sha256(raw))
    return raw


def _blob(descriptor: Any, blobs: dict[str, bytes]) -> bytes:
    blob = blobs[descriptor.digest]
    assert len(blob) == descriptor.size
    return blob


def _decoded(blob: bytes, encoding: Encoding) -> bytes:
    match encoding:
        case Encoding.IDENTITY:
            return blob
        case Encoding.GZIP:
            return gzip.decompress(blob)
        case Encoding.APPLE_LZ4:
            return _apple_decoded(blob)


def _apple_decoded(frame: bytes) -> bytes:
    raw, position = b"", 0
    while (mark := frame[position : position + 4]) != b"bv4$":
        (size,) = struct.unpack_from("<I", frame, position + 4)
        if mark == b"bv4-":
            raw += frame[position + 8 : position + 8 + size]
            position += 8 + size
        else:
            assert mark == b"bv41"
            (packed,) = struct.unpack_from("<I", frame, position + 8)
            block = frame[position + 12 : position + 12 + packed]
            raw += lz4.block.decompress(block, uncompressed_size=size, dict=raw[-64 * KIB :])
            position += 12 + packed
    assert position == len(frame) - 4
    return raw


def _chunk(index: ChunkIndex, number: int, packs: list[bytes]) -> bytes:
    length = index.length(number)
    if index.is_zero(number):
        chunk = bytes(length)
    else:
        pack, offset, stored = index.location(number)
        frame = packs[pack][offset : offset + stored]
        chunk = frame if stored == length else zstandard.decompress(frame, max_output_size=length)
    assert len(chunk) == length
    assert hashlib.sha256(chunk).digest() == index.digest(number)
    return chunk
