"""The agoda format: one gzip blob for the disk, one for the auxiliary storage, a small JSON document.

Documented in docs/image-format.md. Layers are found by media type, never by position: writers put them in any order.
"""

from collections.abc import Mapping

import msgspec

from vzkubelet.errors import clip
from vzkubelet.images.formats import boot_data, fields, manifests
from vzkubelet.images.formats.artifact import (
    Artifact,
    Content,
    Encoding,
    Machine,
    Streams,
    Written,
    invalid_image,
    single,
)
from vzkubelet.model import oci
from vzkubelet.model.oci import Descriptor, Manifest, Platform

NAME = "agoda"
ARTIFACT_TYPE = "application/vnd.agoda.macosvz.artifact"
DISK = "application/vnd.agoda.macosvz.disk.image.v1"
AUX = "application/vnd.agoda.macosvz.aux.image.v1"
CONFIG = "application/vnd.agoda.macosvz.config.v1+json"
UNCOMPRESSED_SIZE = "com.agoda.macosvz.content.uncompressed-size"
UNCOMPRESSED_DIGEST = "com.agoda.macosvz.content.uncompressed-digest"
DISK_TITLE, AUX_TITLE, CONFIG_TITLE = "disk.img", "aux.img", "config.json"
_TITLED = {DISK: "disk image", AUX: "auxiliary storage", CONFIG: "configuration"}


def recognises(manifest: Manifest) -> bool:
    return manifest.artifact_type == ARTIFACT_TYPE


def read(manifest: Manifest, name: str) -> Artifact:
    """The artifact that a manifest describes. `name` is the reference, for messages.

    Raises:
        InvalidInput: not exactly what the format allows.
    """
    found: dict[str, Descriptor] = {}
    image_config: Descriptor | None = None
    titles: set[str] = set()
    for layer in manifest.layers:
        fields.check_blob(layer, name)
        if layer.title is None:
            if layer.media_type in _TITLED:
                raise invalid_image(f"{name}: the {_TITLED[layer.media_type]} layer has no title")
            if layer.media_type == oci.IMAGE_CONFIG:
                image_config = fields.document(layer, name) if image_config is None else image_config
            continue  # an extension we do not know: untitled layers are there to be passed over
        fields.check_title(layer.title, name)
        if layer.media_type not in _TITLED:
            raise invalid_image(
                f"{name}: unsupported media type {clip(layer.media_type)} of layer {clip(layer.title)}; "
                f"expected one of {', '.join(_TITLED)}"
            )
        if layer.media_type in found or layer.title in titles:
            raise invalid_image(f"{name}: more than one layer for {clip(layer.title)} ({layer.media_type})")
        titles.add(layer.title)
        found[layer.media_type] = layer
    for media_type, what in _TITLED.items():
        if media_type not in found:
            raise invalid_image(f"{name}: the {what} layer ({media_type}) is missing")
    return Artifact(
        platform=manifest.config.platform or Platform(),
        disk=_content(found[DISK], name),
        aux=_content(found[AUX], name),
        config=fields.document(found[CONFIG], name),
        image_config=image_config,
    )


def _content(descriptor: Descriptor, name: str) -> Content:
    """Compressed exactly when both annotations are there; otherwise the blob is the file."""
    annotations = descriptor.annotations or {}
    size, digest = annotations.get(UNCOMPRESSED_SIZE), annotations.get(UNCOMPRESSED_DIGEST)
    if size is None or digest is None:
        return single(descriptor, Encoding.IDENTITY, descriptor.size, descriptor.digest)
    where = f"layer {descriptor.title}"
    raw_size_bytes = fields.size(size, where, name)
    return single(descriptor, Encoding.GZIP, raw_size_bytes, fields.digest(digest, where, name))


def read_machine(artifact: Artifact, config: bytes, image_config: bytes | None, name: str) -> Machine:
    """What config.json and the image config say.

    Raises:
        InvalidInput: malformed, contradictory, or a macOS image without its boot data.
    """
    return boot_data.read_machine(artifact, config, image_config, name)


# --- Writing -----------------------------------------------------------------------------------------------------


def write(
    machine: Machine,
    disk: Content,
    aux: Content,
    *,
    image_config: Mapping[str, object] | None = None,
    created: str | None = None,
) -> Written:
    """The documents and the manifest of an image whose contents are uploaded, each as one blob.

    `image_config` is an OCI image config to put in; `created` an RFC 3339 time, None leaves it out so that equal inputs
    give equal digests.

    Raises:
        InvalidInput: a macOS machine without boot data, or no OCI image config. ValueError: contents of another layout.
    """
    boot_data.check(machine)
    documents = [oci.EMPTY_JSON]
    extra = []
    if (described := write_image_config(machine, image_config)) is not None:
        documents.append(described)
        extra.append(manifests.blob(oci.IMAGE_CONFIG, described))
    documents.append(write_config(machine))
    manifest = manifests.artifact(
        ARTIFACT_TYPE,
        machine,
        [
            _layer(DISK, DISK_TITLE, disk),
            _layer(AUX, AUX_TITLE, aux),
            *extra,
            manifests.blob(CONFIG, documents[-1], {oci.TITLE: CONFIG_TITLE}),
        ],
        created,
    )
    return Written(tuple(documents), manifest)


def write_config(machine: Machine) -> bytes:
    """config.json."""
    storage = [{"mediatype": AUX, "file": AUX_TITLE}, {"mediatype": DISK, "file": DISK_TITLE}]
    return msgspec.json.encode({"storage": storage, **boot_data.members(machine, CONFIG)})


def write_image_config(machine: Machine, given: Mapping[str, object] | None) -> bytes | None:
    """The untitled extra layer: the given image config with platform and hints put in; None when nothing is to be said.

    Raises:
        InvalidInput: `given` is not an OCI image config.
    """
    return boot_data.write_image_config(machine, given)


def _layer(media_type: str, title: str, content: Content) -> Descriptor:
    """A content without raw digest of its own is a blob as it is."""
    match content.layout:
        case Streams((stream,)) if len(stream.blobs) == 1:
            (blob,) = stream.blobs
        case _:
            raise ValueError(f"{title} has to be one blob")
    annotations = {oci.TITLE: title}
    match stream.encoding:
        case Encoding.GZIP if content.raw_digest is not None:
            annotations[UNCOMPRESSED_DIGEST] = content.raw_digest
            annotations[UNCOMPRESSED_SIZE] = str(content.raw_size_bytes)
        case Encoding.IDENTITY:
            pass
        case _:
            raise ValueError(f"{title} has to be compressed with gzip, and its raw digest known")
    return Descriptor(media_type=media_type, digest=blob.digest, size=blob.size, annotations=annotations)
