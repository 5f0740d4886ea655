"""A virtual machine image as every format describes it: which blobs become which files, and what the machine needs."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from vzkubelet.errors import InvalidInput
from vzkubelet.images.formats.tree import ChunkList
from vzkubelet.model.oci import Descriptor, Manifest, Platform
from vzkubelet.ports import ImageDefaults

PULL_REASON = "ErrImagePull"
"""The kubelet's reason for every failure of a pull but a malformed name."""

UNTYPED = ("", "application/vnd.unknown.artifact.v1")
"""An artifactType that says nothing; the second one is what ORAS writes when it is told none."""


class Encoding(Enum):
    """How the blobs of a stream are compressed. zstd occurs inside the packs of a chunked content only."""

    IDENTITY = "identity"
    GZIP = "gzip"
    APPLE_LZ4 = "apple-lz4"


@dataclass(frozen=True, slots=True)
class Stream:
    """Blobs that, joined and decoded, are one run of a raw file."""

    blobs: tuple[Descriptor, ...]
    encoding: Encoding
    offset: int
    """In the raw file."""
    raw_size_bytes: int | None
    """None: the format does not say."""
    raw_digest: str | None


@dataclass(frozen=True, slots=True)
class Streams:
    """In order of offset; together the whole file, without gaps."""

    streams: tuple[Stream, ...]


@dataclass(frozen=True, slots=True)
class Chunked:
    """Chunks in packs; where each lies says the index document."""

    index: Descriptor
    packs: tuple[Descriptor, ...]


Layout = Streams | Chunked


@dataclass(frozen=True, slots=True)
class Content:
    """One raw file and how it lies in the registry."""

    raw_size_bytes: int | None
    raw_digest: str | None
    """Of the whole file, where the format says it. Unless the file is one stream, this is a claim of the writer, and
    what is verified are the streams or chunks."""
    layout: Layout

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """Everything that may have to be fetched, in order."""
        match self.layout:
            case Streams(streams):
                return tuple(blob for stream in streams for blob in stream.blobs)
            case Chunked(index, packs):
                return (index, *packs)

    @property
    def blob_bytes(self) -> int:
        """Bytes in the registry."""
        return sum(blob.size for blob in self.blobs)

    @property
    def key(self) -> str:
        """``sha256:…`` that names the place where the content is staged: equal for what becomes the same file.

        It is the digest that the content is verified by, where that is known before the pull.
        """
        match self.layout:
            case Chunked(index, _):
                return index.digest
            case Streams(streams):
                if len(streams) == 1 and self.raw_digest is not None:
                    return self.raw_digest
                chunks = self.chunk_list()
                return chunks.digest() if chunks is not None else _digest_of_blobs(self.blobs)

    @property
    def plan(self) -> str:
        """``sha256:…`` of what it is put together from: a position in these blobs means nothing in others that become
        the same file."""
        match self.layout:
            case Chunked(index, _):
                return index.digest
            case Streams(streams):
                parts = [f"{stream.encoding.value} {blob.digest}" for stream in streams for blob in stream.blobs]
                return f"sha256:{hashlib.sha256(chr(10).join(parts).encode()).hexdigest()}"

    def chunk_list(self) -> ChunkList | None:
        """What streams of one size with a digest each say about the file; None where they do not say it.

        A file that is one stream has no chunks: nothing of it can be kept when its digest is another one.
        """
        if not isinstance(self.layout, Streams) or self.raw_size_bytes is None or len(self.layout.streams) < 2:
            return None
        digests = [stream.raw_digest for stream in self.layout.streams]
        chunk_bytes = self.layout.streams[0].raw_size_bytes
        if not chunk_bytes or None in digests:
            return None
        if any(stream.offset != number * chunk_bytes for number, stream in enumerate(self.layout.streams)):
            return None
        joined = b"".join(bytes.fromhex(digest.removeprefix("sha256:")) for digest in digests if digest)
        return ChunkList(self.raw_size_bytes, chunk_bytes, joined)


@dataclass(frozen=True, slots=True)
class Artifact:
    """What a manifest says: the large contents, and the small documents that `Machine` is read from."""

    platform: Platform
    """Empty where the manifest does not say; the configuration document then decides."""
    disk: Content
    aux: Content
    config: Descriptor | None
    image_config: Descriptor | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)
    """Of the manifest, where the format says something about the machine there."""

    @property
    def contents(self) -> tuple[Content, ...]:
        """In the order of pulling: the small one first, so that a fault in it is found before the disk is moved."""
        return (self.aux, self.disk)

    @property
    def total_bytes(self) -> int:
        """Bytes of both contents in the registry."""
        return sum(content.blob_bytes for content in self.contents)


@dataclass(frozen=True, slots=True)
class Display:
    """The screen a machine was made with; `unit` is ``pt``, ``px`` or empty (not said)."""

    width: int
    height: int
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Machine:
    """What the small documents of an image say about its machine. 0 and empty = not said."""

    os: str
    architecture: str
    hardware_model: bytes = b""
    """``VZMacHardwareModel.dataRepresentation``."""
    machine_id: bytes = b""
    """``VZMacMachineIdentifier.dataRepresentation``, which tart calls the ECID."""
    defaults: ImageDefaults = field(default_factory=ImageDefaults)
    cpu_min: int = 0
    memory_min_bytes: int = 0
    cpu_count: int = 0
    """Processors of the machine the image was made from; a pod's requests decide, this is for tools."""
    memory_bytes: int = 0
    mac_address: str = ""
    display: Display | None = None
    display_refit: bool | None = None
    labels: tuple[tuple[str, str], ...] = ()
    """Further labels of the image, sorted."""


@dataclass(frozen=True, slots=True)
class Written:
    """An image whose contents are uploaded already: what is left to upload, the manifest last."""

    documents: tuple[bytes, ...]
    manifest: bytes


class Format(Protocol):
    """What a format's module offers. `name` is the reference, for messages.

    Raises:
        InvalidInput: not exactly what the format allows.
    """

    NAME: str
    ARTIFACT_TYPE: str
    """Empty for formats that have none; `recognises` looks at media types then."""

    def recognises(self, manifest: Manifest) -> bool: ...

    def read(self, manifest: Manifest, name: str) -> Artifact: ...

    def read_machine(self, artifact: Artifact, config: bytes, image_config: bytes | None, name: str) -> Machine: ...


class WritableFormat(Format, Protocol):
    """A format that images can be pushed and converted to."""

    def write(
        self,
        machine: Machine,
        disk: Content,
        aux: Content,
        *,
        image_config: Mapping[str, object] | None = None,
        created: str | None = None,
    ) -> Written:
        """The documents and the manifest of an image whose contents are uploaded.

        `image_config` is an OCI image config to put in; `created` an RFC 3339 time, None leaves it out.

        Raises:
            InvalidInput: a machine that the format cannot say. ValueError: contents of a layout that it does not have.
        """
        ...


def single(blob: Descriptor, encoding: Encoding, raw_size_bytes: int, raw_digest: str) -> Content:
    """A content that is one blob."""
    stream = Stream((blob,), encoding, 0, raw_size_bytes, raw_digest)
    return Content(raw_size_bytes, raw_digest, Streams((stream,)))


def invalid_image(message: str) -> InvalidInput:
    """An image that can never work, whoever pulls it."""
    return InvalidInput(message, reason=PULL_REASON)


def _digest_of_blobs(blobs: tuple[Descriptor, ...]) -> str:
    listing = "".join(blob.digest + "\n" for blob in blobs)
    return f"sha256:{hashlib.sha256(listing.encode()).hexdigest()}"
