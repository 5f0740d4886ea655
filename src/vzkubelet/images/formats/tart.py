"""Tart's format: a disk in chunks of 512 MiB, each a frame of Apple's LZ4; NVRAM and a JSON document as they are.

Facts, not code, of github.com/openai/tart (Manifest.swift, DiskV1.swift, DiskV2.swift, VMConfig.swift). It has no
artifactType: media types of layers tell it. The older ``disk.v1``, one LZ4 frame cut anywhere into blobs, is read too.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import msgspec

from vzkubelet.errors import clip
from vzkubelet.images.formats import boot_data, fields, image_config, manifests, parts
from vzkubelet.images.formats.artifact import (
    UNTYPED,
    Artifact,
    Content,
    Display,
    Encoding,
    Machine,
    Stream,
    Streams,
    Written,
    invalid_image,
    single,
)
from vzkubelet.images.formats.fields import Fields
from vzkubelet.model import oci
from vzkubelet.model.oci import Descriptor, Manifest, Platform

NAME = "tart"
ARTIFACT_TYPE = ""
CHUNK_BYTES = 512 * 1024 * 1024
_TART = "application/vnd.cirruslabs.tart."
CONFIG, NVRAM = _TART + "config.v1", _TART + "nvram.v1"
DISK_V1, DISK_V2 = _TART + "disk.v1", _TART + "disk.v2"
_OVERLAY = _TART + "disk.asif."
_ANNOTATION = "org.cirruslabs.tart."
RAW_SIZE = _ANNOTATION + "uncompressed-size"
RAW_DIGEST = _ANNOTATION + "uncompressed-content-digest"
FILE_DIGEST = _ANNOTATION + "disk-file-content-digest"
"""Of the whole disk, at its first chunk; tart itself writes it for stacked disks only."""
DISK_SIZE, UPLOAD_TIME = _ANNOTATION + "uncompressed-disk-size", _ANNOTATION + "upload-time"
FORMAT_LABEL = _ANNOTATION + "disk.format"
_RAW = "raw"
_PUSH_AGAIN = "push it again from a standalone virtual machine whose disk format is raw"
_DEFAULT_CPU, _DEFAULT_MEMORY_BYTES = 4, 4 * 1024 * 1024 * 1024
"""What ``tart create`` takes; its reader insists on figures."""


def recognises(manifest: Manifest) -> bool:
    is_untyped = manifest.artifact_type in UNTYPED
    return is_untyped and any(layer.media_type.startswith(_TART) for layer in manifest.layers)


def read(manifest: Manifest, name: str) -> Artifact:
    """The artifact that a manifest describes. `name` is the reference, for messages.

    Raises:
        InvalidInput: not exactly what the format allows, or a disk of another kind than raw.
    """
    by_type: dict[str, list[Descriptor]] = {CONFIG: [], NVRAM: [], DISK_V1: [], DISK_V2: []}
    for layer in manifest.layers:
        fields.check_blob(layer, name)
        if layer.media_type.startswith(_OVERLAY):
            raise invalid_image(
                f"{name}: a stacked disk (layer {clip(layer.media_type)}) cannot be read: {_PUSH_AGAIN}"
            )
        if layer.media_type not in by_type:
            raise invalid_image(f"{name}: unsupported media type {clip(layer.media_type)} of a layer of a Tart image")
        by_type[layer.media_type].append(layer)
    for media_type in (CONFIG, NVRAM):
        if len(by_type[media_type]) != 1:
            raise invalid_image(f"{name}: {len(by_type[media_type])} layers of media type {media_type} instead of one")
    (config,), (nvram,) = by_type[CONFIG], by_type[NVRAM]
    if bool(by_type[DISK_V1]) == bool(by_type[DISK_V2]):
        raise invalid_image(f"{name}: the disk has to be layers of either {DISK_V2} or {DISK_V1}")
    said = (manifest.annotations or {}).get(DISK_SIZE)
    disk_bytes = None if said is None else fields.size(said, f"annotation {DISK_SIZE}", name)
    described = manifest.config if manifest.config.media_type == oci.IMAGE_CONFIG else None
    return Artifact(
        platform=manifest.config.platform or Platform(),
        disk=_chunks(by_type[DISK_V2], disk_bytes, name) if by_type[DISK_V2] else _joined(by_type[DISK_V1], disk_bytes),
        aux=single(nvram, Encoding.IDENTITY, nvram.size, nvram.digest),
        config=fields.document(config, name),
        image_config=None if described is None else fields.document(described, name),
    )


def _joined(layers: Sequence[Descriptor], disk_bytes: int | None) -> Content:
    return Content(disk_bytes, None, Streams((Stream(tuple(layers), Encoding.APPLE_LZ4, 0, disk_bytes, None),)))


def _chunks(layers: Sequence[Descriptor], disk_bytes: int | None, name: str) -> Content:
    streams: list[Stream] = []
    offset = 0
    for layer in layers:
        annotations = layer.annotations or {}
        if RAW_SIZE not in annotations or RAW_DIGEST not in annotations:
            raise invalid_image(f"{name}: layer {layer.digest} does not say size and digest of its content")
        size_bytes = fields.size(annotations[RAW_SIZE], f"layer {layer.digest}", name)
        digest = fields.digest(annotations[RAW_DIGEST], f"layer {layer.digest}", name)
        streams.append(Stream((layer,), Encoding.APPLE_LZ4, offset, size_bytes, digest))
        offset += size_bytes
    whole = (layers[0].annotations or {}).get(FILE_DIGEST)
    if whole is not None:
        fields.digest(whole, f"layer {layers[0].digest}", name)
    return parts.disk(streams, disk_bytes, whole, name)


def read_machine(artifact: Artifact, config: bytes, image_config_json: bytes | None, name: str) -> Machine:
    """What config.json and the labels say.

    Raises:
        InvalidInput: malformed, contradictory, a macOS image without its boot data, or a disk of another kind than raw.
    """
    document = Fields.of(config, "config.json", name)
    parsed = image_config.read(image_config_json, name)
    labels = dict(parsed.config.labels or {})
    for said in (document.text("diskFormat"), labels.get(FORMAT_LABEL, "")):
        if said not in ("", _RAW):
            raise invalid_image(f"{name}: a disk in format {clip(said)} cannot be read: {_PUSH_AGAIN}")
    os_ = boot_data.system(artifact.platform.os or parsed.os, document.text("os") or "darwin", name)
    hardware_model = document.data("hardwareModel")
    machine_id = document.data("ecid" if os_ == "darwin" else "machineIdentifier")
    if os_ == "darwin" and not (hardware_model and machine_id):
        raise invalid_image(f"{name}: config.json of a macOS image needs hardwareModel and ecid")
    machine = Machine(
        os=os_,
        architecture=document.text("arch") or artifact.platform.architecture or "arm64",
        hardware_model=hardware_model,
        machine_id=machine_id,
        cpu_min=document.number("cpuCountMin"),
        memory_min_bytes=document.number("memorySizeMin"),
        cpu_count=document.number("cpuCount"),
        memory_bytes=document.number("memorySize"),
        mac_address=image_config.mac_address(document.text("macAddress"), "macAddress in config.json", name),
        display=_display(document.nested("display"), name),
        display_refit=document.flag("displayRefit"),
    )
    machine = image_config.described(machine, parsed, name)
    return replace(machine, labels=tuple(label for label in machine.labels if label[0] != FORMAT_LABEL))


def _display(said: Fields | None, name: str) -> Display | None:
    if said is None:
        return None
    unit = said.text("unit")
    if unit not in ("", "pt", "px"):
        raise invalid_image(f"{name}: display in config.json has unit {clip(unit)}, neither pt nor px")
    return Display(said.number("width"), said.number("height"), unit)


# --- Writing -----------------------------------------------------------------------------------------------------


def write(
    machine: Machine,
    disk: Content,
    aux: Content,
    *,
    image_config: Mapping[str, object] | None = None,
    created: str | None = None,
) -> Written:
    """The documents and the manifest of an image whose disk is uploaded in frames of Apple's LZ4, one for each
    `CHUNK_BYTES`, and whose NVRAM is uploaded as it is. See `WritableFormat`.

    Tart insists on figures that other formats need not say: what is missing is what ``tart create`` would take.
    """
    boot_data.check(machine)
    config = write_config(machine, machine.mac_address or _mac_address(machine, disk))
    described = _write_image_config(machine, image_config)
    annotations = {DISK_SIZE: str(disk.raw_size_bytes)}
    if created:
        annotations[UPLOAD_TIME] = created
    manifest = Manifest(
        schema_version=2,
        media_type=oci.MANIFEST,
        config=manifests.blob(oci.IMAGE_CONFIG, described),
        layers=[manifests.blob(CONFIG, config), *_disk_layers(disk), _nvram_layer(aux)],
        annotations=annotations,
    )
    return Written((config, described), msgspec.json.encode(manifest, order="sorted"))


def write_config(machine: Machine, mac_address: str) -> bytes:
    """config.json, of an image and of a virtual machine's directory; with what ``tart create`` takes where the machine
    does not say it."""
    document: dict[str, object] = {
        "version": 1,
        "os": machine.os,
        "arch": machine.architecture,
        "cpuCountMin": machine.cpu_min,
        "cpuCount": machine.cpu_count or max(machine.cpu_min, _DEFAULT_CPU),
        "memorySizeMin": machine.memory_min_bytes,
        "memorySize": machine.memory_bytes or max(machine.memory_min_bytes, _DEFAULT_MEMORY_BYTES),
        "macAddress": mac_address,
        "diskFormat": _RAW,
    }
    identifier = base64.b64encode(machine.machine_id).decode()
    if machine.os == "darwin":
        document |= {"ecid": identifier, "hardwareModel": base64.b64encode(machine.hardware_model).decode()}
    elif identifier:
        document["machineIdentifier"] = identifier
    if (shown := machine.display) is not None:
        unit = {"unit": shown.unit} if shown.unit else {}
        document["display"] = {"width": shown.width, "height": shown.height, **unit}
    if machine.display_refit is not None:
        document["displayRefit"] = machine.display_refit
    return msgspec.json.encode(document, order="sorted")


def _mac_address(machine: Machine, disk: Content) -> str:
    """A locally administered address that follows from the image: equal inputs give equal digests."""
    octets = bytearray(hashlib.sha256(machine.machine_id + disk.key.encode()).digest()[:6])
    octets[0] = octets[0] & 0xFC | 0x02
    return octets.hex(":")


def _write_image_config(machine: Machine, given: Mapping[str, object] | None) -> bytes:
    return image_config.write(machine, given, {FORMAT_LABEL: _RAW})


def _disk_layers(disk: Content) -> list[Descriptor]:
    layers: list[Descriptor] = []
    for stream in disk.layout.streams if isinstance(disk.layout, Streams) else ():
        if stream.encoding is not Encoding.APPLE_LZ4 or len(stream.blobs) != 1 or stream.raw_digest is None:
            raise ValueError("each chunk of the disk has to be one blob in Apple's LZ4, and its raw digest known")
        annotations = {RAW_SIZE: str(stream.raw_size_bytes), RAW_DIGEST: stream.raw_digest}
        if not layers and disk.raw_digest is not None:
            annotations[FILE_DIGEST] = disk.raw_digest
        (blob,) = stream.blobs
        layers.append(Descriptor(media_type=DISK_V2, digest=blob.digest, size=blob.size, annotations=annotations))
    if not layers:
        raise ValueError("the disk has to be chunks in Apple's LZ4")
    return layers


def _nvram_layer(aux: Content) -> Descriptor:
    match aux.layout:
        case Streams((Stream((blob,), Encoding.IDENTITY),)):
            return Descriptor(media_type=NVRAM, digest=blob.digest, size=blob.size)
        case _:
            raise ValueError("the auxiliary storage has to be one blob as it is")
