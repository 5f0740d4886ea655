"""The agoda format: one gzip blob for the disk, one for the auxiliary storage, a small JSON document.

Documented in docs/image-format.md. Layers are found by media type, never by position: writers put them in any order.
"""

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from vzkubelet.errors import clip
from vzkubelet.images.formats.artifact import Artifact, Content, Encoding, Machine, invalid_image, single
from vzkubelet.model import oci
from vzkubelet.model.oci import Descriptor, ImageConfig, Manifest, Platform
from vzkubelet.ports import ImageDefaults

ARTIFACT_TYPE = "application/vnd.agoda.macosvz.artifact"
DISK = "application/vnd.agoda.macosvz.disk.image.v1"
AUX = "application/vnd.agoda.macosvz.aux.image.v1"
CONFIG = "application/vnd.agoda.macosvz.config.v1+json"
UNCOMPRESSED_SIZE = "com.agoda.macosvz.content.uncompressed-size"
UNCOMPRESSED_DIGEST = "com.agoda.macosvz.content.uncompressed-digest"
DISK_TITLE, AUX_TITLE, CONFIG_TITLE = "disk.img", "aux.img", "config.json"

CPU_MIN_LABEL = "macos-vz-kubelet.machine.cpu-min"
MEMORY_MIN_LABEL = "macos-vz-kubelet.machine.memory-min-bytes"

DOCUMENT_LIMIT_BYTES = 1024 * 1024
"""Largest small document: they are held in memory, by us and by the Go project's reader."""
_RAW_LIMIT_BYTES = 2**63 - 1
_DEFAULT_PLATFORM = Platform(os="darwin", architecture="arm64")
_DIGITS = re.compile(r"[0-9]{1,19}")
_TITLED = {DISK: "disk image", AUX: "auxiliary storage", CONFIG: "configuration"}


def read(manifest: Manifest, name: str) -> Artifact:
    """The artifact that a manifest describes. `name` is the reference, for messages.

    Raises:
        InvalidInput: not exactly what the format allows.
    """
    found: dict[str, Descriptor] = {}
    image_config: Descriptor | None = None
    titles: set[str] = set()
    for layer in manifest.layers:
        if not oci.is_sha256(layer.digest) or layer.size < 0:
            raise invalid_image(f"{name}: layer {clip(layer.media_type)} has no valid sha256 digest and size")
        if layer.title is None:
            if layer.media_type in _TITLED:
                raise invalid_image(f"{name}: the {_TITLED[layer.media_type]} layer has no title")
            if layer.media_type == oci.IMAGE_CONFIG:
                image_config = _document(layer, name) if image_config is None else image_config
            continue  # an extension we do not know: untitled layers are there to be passed over
        _check_title(layer.title, name)
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
        config=_document(found[CONFIG], name),
        image_config=image_config,
    )


def _check_title(title: str, name: str) -> None:
    """The title becomes a file name for other readers: nothing that could mean another place is let through."""
    plain = title and title not in (".", "..") and len(title.encode()) <= 255
    if not plain or "/" in title or "\\" in title or not title.isprintable():
        raise invalid_image(f'{name}: layer title "{clip(title)}" is not a plain file name')


def _document(descriptor: Descriptor, name: str) -> Descriptor:
    if descriptor.size > DOCUMENT_LIMIT_BYTES:
        raise invalid_image(
            f"{name}: layer {descriptor.media_type} has {descriptor.size} bytes, at most {DOCUMENT_LIMIT_BYTES} allowed"
        )
    return descriptor


def _content(descriptor: Descriptor, name: str) -> Content:
    """Compressed exactly when both annotations are there; otherwise the blob is the file."""
    annotations = descriptor.annotations or {}
    size, digest = annotations.get(UNCOMPRESSED_SIZE), annotations.get(UNCOMPRESSED_DIGEST)
    if size is None or digest is None:
        return single(descriptor, Encoding.IDENTITY, descriptor.size, descriptor.digest)
    if not _DIGITS.fullmatch(size) or int(size) > _RAW_LIMIT_BYTES:
        raise invalid_image(f'{name}: layer {descriptor.title}: "{clip(size)}" is not a size in bytes')
    if not oci.is_sha256(digest):
        raise invalid_image(f'{name}: layer {descriptor.title}: "{clip(digest)}" is not a sha256 digest')
    return single(descriptor, Encoding.GZIP, int(size), digest)


def read_machine(artifact: Artifact, config: bytes, image_config: bytes | None, name: str) -> Machine:
    """What config.json and the image config say.

    Raises:
        InvalidInput: malformed, contradictory, or a macOS image without its boot data.
    """
    fields = _config_fields(config, name)
    os_ = _text(fields, "os", name)
    if artifact.platform.os and os_ and artifact.platform.os != os_:
        raise invalid_image(f"{name}: the manifest says os {clip(artifact.platform.os)}, config.json says {clip(os_)}")
    os_ = artifact.platform.os or os_ or _DEFAULT_PLATFORM.os
    if os_ not in ("darwin", "linux"):
        raise invalid_image(f"{name}: os {clip(os_)} is neither darwin nor linux")
    hardware_model = _base64(fields, "hardwareModelData", name)
    machine_id = _base64(fields, "machineIdData", name)
    if os_ == "darwin" and not (hardware_model and machine_id):
        raise invalid_image(f"{name}: config.json of a macOS image needs hardwareModelData and machineIdData")
    parsed = _decode_image_config(image_config, name) if image_config is not None else ImageConfig()
    labels = parsed.config.labels or {}
    return Machine(
        os=os_,
        architecture=artifact.platform.architecture or parsed.architecture or _DEFAULT_PLATFORM.architecture,
        hardware_model=hardware_model,
        machine_id=machine_id,
        defaults=_defaults(parsed),
        cpu_min=_number(labels, CPU_MIN_LABEL, name),
        memory_min_bytes=_number(labels, MEMORY_MIN_LABEL, name),
    )


def _config_fields(config: bytes, name: str) -> Mapping[str, object]:
    """Keys in lower case: Go's reader takes any case, and its writers used it."""
    try:
        fields = msgspec.json.decode(config, type=dict[str, object])
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise invalid_image(f"{name}: config.json is not a JSON object: {clip(str(exc))}") from exc
    return {key.lower(): value for key, value in fields.items()}


def _text(fields: Mapping[str, object], key: str, name: str) -> str:
    value = fields.get(key.lower())
    if value is not None and not isinstance(value, str):
        raise invalid_image(f"{name}: {key} in config.json is not a string")
    return value or ""


def _base64(fields: Mapping[str, object], key: str, name: str) -> bytes:
    try:
        return base64.b64decode(_text(fields, key, name), validate=True)
    except (binascii.Error, ValueError) as exc:
        raise invalid_image(f"{name}: {key} in config.json is not base64") from exc


def _decode_image_config(content: bytes, name: str) -> ImageConfig:
    try:
        return msgspec.json.decode(content, type=ImageConfig)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise invalid_image(f"{name}: the image config is malformed: {clip(str(exc))}") from exc


def _defaults(config: ImageConfig) -> ImageDefaults:
    details = config.config
    return ImageDefaults(
        entrypoint=None if details.entrypoint is None else tuple(details.entrypoint),
        cmd=None if details.cmd is None else tuple(details.cmd),
        env=tuple((key, value) for key, _, value in (entry.partition("=") for entry in details.env or ()) if key),
        working_dir=details.working_dir,
        user=details.user,
    )


def _number(labels: Mapping[str, str], label: str, name: str) -> int:
    text = labels.get(label, "0")
    if not _DIGITS.fullmatch(text):
        raise invalid_image(f'{name}: label {label}: "{clip(text)}" is not a whole number')
    return int(text)


# --- Writing -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CompressedFile:
    """A file as it lies in the registry: its gzip blob and its raw content."""

    digest: str
    size_bytes: int
    raw_digest: str
    raw_size_bytes: int


def write_config(machine: Machine) -> bytes:
    """config.json."""
    document: dict[str, object] = {
        "storage": [{"mediatype": AUX, "file": AUX_TITLE}, {"mediatype": DISK, "file": DISK_TITLE}],
        "mediatype": CONFIG,
        "os": machine.os,
        "hardwareModelData": base64.b64encode(machine.hardware_model).decode(),
        "machineIdData": base64.b64encode(machine.machine_id).decode(),
    }
    return msgspec.json.encode(document)


def write_image_config(machine: Machine, given: Mapping[str, object] | None) -> bytes | None:
    """The untitled extra layer: the given image config with platform and hints put in; None when nothing is to be said.

    Raises:
        InvalidInput: `given` is not an OCI image config.
    """
    labels = {}
    if machine.cpu_min:
        labels[CPU_MIN_LABEL] = str(machine.cpu_min)
    if machine.memory_min_bytes:
        labels[MEMORY_MIN_LABEL] = str(machine.memory_min_bytes)
    if given is None and not labels:
        return None
    document = {**(given or {}), "architecture": machine.architecture, "os": machine.os}
    details = document.get("config") or {}
    if not isinstance(details, dict):
        raise invalid_image("the image config's config is not a JSON object")
    if labels:
        details = {**details, "Labels": {**(details.get("Labels") or {}), **labels}}
    encoded = msgspec.json.encode({**document, "config": details}, order="sorted")
    _decode_image_config(encoded, "image config")
    return encoded


def write_manifest(
    machine: Machine,
    disk: CompressedFile,
    aux: CompressedFile,
    config: Descriptor,
    image_config: Descriptor | None,
    created: str | None,
) -> bytes:
    """The manifest. `created` is an RFC 3339 time, None leaves it out so that equal inputs give equal digests."""
    extra: Sequence[Descriptor] = () if image_config is None else (image_config,)
    manifest = Manifest(
        schema_version=2,
        media_type=oci.MANIFEST,
        artifact_type=ARTIFACT_TYPE,
        config=Descriptor(
            media_type=oci.EMPTY,
            digest=oci.EMPTY_DIGEST,
            size=len(oci.EMPTY_JSON),
            data=base64.b64encode(oci.EMPTY_JSON).decode(),
            platform=Platform(os=machine.os, architecture=machine.architecture),
        ),
        layers=[_titled(DISK, DISK_TITLE, disk), _titled(AUX, AUX_TITLE, aux), *extra, config],
        annotations={oci.CREATED: created} if created else None,
    )
    return msgspec.json.encode(manifest)


def _titled(media_type: str, title: str, file: CompressedFile) -> Descriptor:
    return Descriptor(
        media_type=media_type,
        digest=file.digest,
        size=file.size_bytes,
        annotations={
            UNCOMPRESSED_DIGEST: file.raw_digest,
            UNCOMPRESSED_SIZE: str(file.raw_size_bytes),
            oci.TITLE: title,
        },
    )
