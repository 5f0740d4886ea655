"""The chunked format, our own: an index document and packs of independently compressed chunks for each file.

Documented in docs/image-format.md, so that others can read and write it.
"""

from collections.abc import Mapping

import msgspec

from vzkubelet.errors import clip
from vzkubelet.images.formats import boot_data, fields, manifests
from vzkubelet.images.formats.artifact import Artifact, Chunked, Content, Machine, Written, invalid_image
from vzkubelet.images.formats.chunk_index import INDEX_LIMIT_BYTES, PACK_LIMIT_BYTES, ChunkIndex
from vzkubelet.model import oci
from vzkubelet.model.oci import Descriptor, Manifest, Platform

NAME = "chunked"
_VENDOR = "application/vnd.macos-vz-kubelet."
ARTIFACT_TYPE = _VENDOR + "image.v1"
CONFIG = _VENDOR + "config.v1+json"
DISK_INDEX, DISK_PACK = _VENDOR + "disk.index.v1", _VENDOR + "disk.pack.v1"
AUX_INDEX, AUX_PACK = _VENDOR + "aux.index.v1", _VENDOR + "aux.pack.v1"
RAW_SIZE = "macos-vz-kubelet.raw-size"
RAW_DIGEST = "macos-vz-kubelet.raw-digest"
"""Annotations of an index layer."""
_SINGLE = (CONFIG, DISK_INDEX, AUX_INDEX, oci.IMAGE_CONFIG)


def recognises(manifest: Manifest) -> bool:
    return manifest.artifact_type == ARTIFACT_TYPE


def read(manifest: Manifest, name: str) -> Artifact:
    """The artifact that a manifest describes. `name` is the reference, for messages.

    Raises:
        InvalidInput: not exactly what the format allows.
    """
    found: dict[str, Descriptor] = {}
    packs: dict[str, list[Descriptor]] = {DISK_PACK: [], AUX_PACK: []}
    for layer in manifest.layers:
        fields.check_blob(layer, name)
        if layer.media_type in packs:
            packs[layer.media_type].append(_pack(layer, name))
        elif layer.media_type not in _SINGLE:
            raise invalid_image(f"{name}: unsupported media type {clip(layer.media_type)} of a layer")
        elif layer.media_type in found:
            raise invalid_image(f"{name}: more than one layer of media type {layer.media_type}")
        else:
            found[layer.media_type] = layer
    for media_type in (CONFIG, DISK_INDEX, AUX_INDEX):
        if media_type not in found:
            raise invalid_image(f"{name}: the layer {media_type} is missing")
    described = found.get(oci.IMAGE_CONFIG)
    return Artifact(
        platform=manifest.config.platform or Platform(),
        disk=_content(found[DISK_INDEX], packs[DISK_PACK], name),
        aux=_content(found[AUX_INDEX], packs[AUX_PACK], name),
        config=fields.document(found[CONFIG], name),
        image_config=None if described is None else fields.document(described, name),
    )


def _pack(layer: Descriptor, name: str) -> Descriptor:
    if not 0 < layer.size <= PACK_LIMIT_BYTES:
        raise invalid_image(f"{name}: a pack of {layer.size} bytes; 1 to {PACK_LIMIT_BYTES} are allowed")
    return layer


def _content(index: Descriptor, packs: list[Descriptor], name: str) -> Content:
    if index.size > INDEX_LIMIT_BYTES:
        raise invalid_image(f"{name}: an index of {index.size} bytes, at most {INDEX_LIMIT_BYTES} allowed")
    annotations = index.annotations or {}
    if RAW_SIZE not in annotations:
        raise invalid_image(f"{name}: layer {index.media_type} has no annotation {RAW_SIZE}")
    where = f"layer {index.media_type}"
    raw_digest = annotations.get(RAW_DIGEST)
    return Content(
        raw_size_bytes=fields.size(annotations[RAW_SIZE], where, name),
        raw_digest=None if raw_digest is None else fields.digest(raw_digest, where, name),
        layout=Chunked(index, tuple(packs)),
    )


def read_machine(artifact: Artifact, config: bytes, image_config: bytes | None, name: str) -> Machine:
    """What the configuration and the image config say.

    Raises:
        InvalidInput: malformed, contradictory, or a macOS image without its boot data.
    """
    return boot_data.read_machine(artifact, config, image_config, name)


def read_index(content: Content, document: bytes, name: str) -> ChunkIndex:
    """The index of a content, from the blob that its layout names; the caller has verified the blob's digest.

    Raises:
        InvalidInput: malformed, or about another file or other packs than the manifest says.
    """
    assert isinstance(content.layout, Chunked)
    try:
        index = ChunkIndex.parse(document)
    except ValueError as exc:
        raise invalid_image(f"{name}: index {content.layout.index.digest} is malformed: {exc}") from exc
    said = (content.raw_size_bytes, content.raw_digest or index.raw_digest)
    if said != (index.size_bytes, index.raw_digest):
        raise invalid_image(f"{name}: index {content.layout.index.digest} is not about the file in the manifest")
    sizes = [pack.size for pack in content.layout.packs]
    if sizes != [index.pack_bytes(pack) for pack in range(index.pack_count)]:
        raise invalid_image(f"{name}: index {content.layout.index.digest} is not about the packs in the manifest")
    return index


# --- Writing -----------------------------------------------------------------------------------------------------


def index_blob(index: ChunkIndex, media_type: str = DISK_INDEX) -> tuple[Descriptor, bytes]:
    """The layer of an index and its document, to be uploaded."""
    document = index.encode()
    if len(document) > INDEX_LIMIT_BYTES:
        raise invalid_image(
            f"a file of {index.size_bytes} bytes in chunks of {index.chunk_bytes} has an index of {len(document)} "
            f"bytes, at most {INDEX_LIMIT_BYTES} allowed: larger chunks are needed"
        )
    annotations = {RAW_SIZE: str(index.size_bytes)}
    if index.raw_digest is not None:
        annotations[RAW_DIGEST] = index.raw_digest
    return manifests.blob(media_type, document, annotations), document


def write(
    machine: Machine,
    disk: Content,
    aux: Content,
    *,
    image_config: Mapping[str, object] | None = None,
    created: str | None = None,
) -> Written:
    """The documents and the manifest of an image whose indexes and packs are uploaded. See `WritableFormat`."""
    boot_data.check(machine)
    documents = [oci.EMPTY_JSON]
    extra = []
    if (described := boot_data.write_image_config(machine, image_config)) is not None:
        documents.append(described)
        extra.append(manifests.blob(oci.IMAGE_CONFIG, described))
    documents.append(msgspec.json.encode(boot_data.members(machine, CONFIG)))
    layers = [
        manifests.blob(CONFIG, documents[-1]),
        *extra,
        *_layers(aux, AUX_INDEX, AUX_PACK),
        *_layers(disk, DISK_INDEX, DISK_PACK),
    ]
    manifest = manifests.artifact(ARTIFACT_TYPE, machine, layers, created)
    if len(manifest) > oci.MANIFEST_LIMIT_BYTES:
        raise invalid_image(f"a manifest of {len(manifest)} bytes is more than registries take: use larger packs")
    return Written(tuple(documents), manifest)


def _layers(content: Content, index_type: str, pack_type: str) -> list[Descriptor]:
    match content.layout:
        case Chunked(index, packs):
            pass
        case _:
            raise ValueError("the content has to be an index and packs")
    annotations = {RAW_SIZE: str(content.raw_size_bytes)}
    if content.raw_digest is not None:
        annotations[RAW_DIGEST] = content.raw_digest
    return [
        Descriptor(media_type=index_type, digest=index.digest, size=index.size, annotations=annotations),
        *(Descriptor(media_type=pack_type, digest=pack.digest, size=pack.size) for pack in packs),
    ]
