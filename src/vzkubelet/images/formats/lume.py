"""Lume's formats, read only. Facts, not code, of github.com/trycua/cua (libs/lume, ImageContainerRegistry.swift).

- OCI: media types of Lume's own; the disk one gzip blob, or parts of 512 MiB with offset, size and digest.
- Older: the disk in parts that are frames of Apple's LZ4 (``application/octet-stream+lz4``, in order), or pieces of the
  raw file (``application/vnd.oci.image.layer.v1.tar;part.number=…;part.total=…``, not tar at all).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vzkubelet.errors import clip
from vzkubelet.images.formats import boot_data, fields, image_config, parts
from vzkubelet.images.formats.artifact import (
    UNTYPED,
    Artifact,
    Content,
    Encoding,
    Machine,
    Stream,
    invalid_image,
    single,
)
from vzkubelet.images.formats.fields import Fields
from vzkubelet.model import oci
from vzkubelet.model.oci import Descriptor, Manifest, Platform

NAME = "lume"
ARTIFACT_TYPE = ""
_LUME = "application/vnd.trycua.lume."
CONFIG, DISK, NVRAM = _LUME + "config.v1+json", _LUME + "disk.v1", _LUME + "nvram.v1"
OLD_LZ4, OLD_RAW, OLD_NVRAM = (
    "application/octet-stream+lz4",
    "application/vnd.oci.image.layer.v1.tar",
    "application/octet-stream",
)
_OLD_LZFSE = "application/octet-stream+lzfse"
_ANNOTATION = "org.trycua.lume."
RAW_SIZE = _ANNOTATION + "content.uncompressed-size"
RAW_DIGEST = _ANNOTATION + "content.uncompressed-digest"
OLD_RAW_SIZE = _ANNOTATION + "uncompressed-size"
OLD_RAW_DIGEST = _ANNOTATION + "uncompressed-content-digest"
PART_NUMBER, PART_TOTAL = _ANNOTATION + "part.number", _ANNOTATION + "part.total"
PART_OFFSET = _ANNOTATION + "part.offset"
DISK_SIZE = _ANNOTATION + "total-uncompressed-size"
SYSTEM = _ANNOTATION + "os"
CPU_COUNT, MEMORY_SIZE, DISPLAY = _ANNOTATION + "cpu-count", _ANNOTATION + "memory-size", _ANNOTATION + "display"
_SYSTEMS = {"macos": "darwin", "darwin": "darwin", "linux": "linux"}
_PUSH_AGAIN = "push it again with a newer lume"


def recognises(manifest: Manifest) -> bool:
    """By media types of its own, or by those of disk parts that no container image has."""
    bases = {_base(layer) for layer in manifest.layers}
    if manifest.artifact_type not in UNTYPED:
        return False
    if any(base.startswith(_LUME) for base in (manifest.config.media_type, *bases)):
        return True
    return (
        OLD_LZ4 in bases or any(base.startswith(_OLD_LZFSE) for base in bases) or any(map(_raw_part, manifest.layers))
    )


def read(manifest: Manifest, name: str) -> Artifact:
    """The artifact that a manifest describes. `name` is the reference, for messages.

    Raises:
        InvalidInput: not exactly what the formats allow, or a disk whose parts are not all there.
    """
    for layer in manifest.layers:
        fields.check_blob(layer, name)
        if layer.title is not None:
            fields.check_title(layer.title, name)
    new = manifest.config.media_type == CONFIG or any(layer.media_type == DISK for layer in manifest.layers)
    return _read_new(manifest, name) if new else _read_old(manifest, name)


def _read_new(manifest: Manifest, name: str) -> Artifact:
    disk = [layer for layer in manifest.layers if layer.media_type == DISK]
    for layer in manifest.layers:
        if layer.media_type not in (DISK, NVRAM, oci.EMPTY):
            raise invalid_image(f"{name}: unsupported media type {clip(layer.media_type)} of a layer of a Lume image")
    if manifest.config.media_type != CONFIG:
        raise invalid_image(f"{name}: the configuration ({CONFIG}) is missing")
    said = (manifest.annotations or {}).get(DISK_SIZE)
    return Artifact(
        platform=manifest.config.platform or Platform(),
        disk=_parts(disk, None if said is None else fields.size(said, f"annotation {DISK_SIZE}", name), name),
        aux=_nvram(manifest, NVRAM, name),
        config=fields.document(manifest.config, name),
        annotations=manifest.annotations or {},
    )


def _parts(layers: Sequence[Descriptor], disk_bytes: int | None, name: str) -> Content:
    if not layers:
        raise invalid_image(f"{name}: the disk image layer ({DISK}) is missing")
    if len(layers) == 1 and PART_NUMBER not in (layers[0].annotations or {}):
        return _whole(layers[0], disk_bytes, name)
    numbered = sorted((_Part.of(layer, name) for layer in layers), key=lambda part: part.number)
    _check_numbers([part.number for part in numbered], {part.total for part in numbered}, name)
    return parts.disk([part.stream for part in numbered], disk_bytes, None, name)


@dataclass(frozen=True, slots=True)
class _Part:
    number: int
    total: int | None
    stream: Stream

    @classmethod
    def of(cls, layer: Descriptor, name: str) -> "_Part":
        where = f"layer {layer.digest}"
        annotations = layer.annotations or {}
        for needed in (PART_NUMBER, PART_OFFSET, RAW_SIZE, RAW_DIGEST):
            if needed not in annotations:
                raise invalid_image(f"{name}: {where} has no annotation {needed}")
        total = annotations.get(PART_TOTAL)
        stream = Stream(
            (layer,),
            Encoding.GZIP,
            fields.size(annotations[PART_OFFSET], where, name),
            fields.size(annotations[RAW_SIZE], where, name),
            fields.digest(annotations[RAW_DIGEST], where, name),
        )
        number = fields.whole_number(annotations[PART_NUMBER], where, name)
        return cls(number, None if total is None else fields.whole_number(total, where, name), stream)


def _whole(layer: Descriptor, disk_bytes: int | None, name: str) -> Content:
    """One gzip blob; one without a raw size is the file itself."""
    annotations = layer.annotations or {}
    if RAW_SIZE not in annotations:
        return single(layer, Encoding.IDENTITY, layer.size, layer.digest)
    if RAW_DIGEST not in annotations:
        raise invalid_image(f"{name}: layer {layer.digest} has no annotation {RAW_DIGEST}")
    where = f"layer {layer.digest}"
    size_bytes = fields.size(annotations[RAW_SIZE], where, name)
    if disk_bytes not in (None, size_bytes):
        raise invalid_image(f"{name}: the disk has {disk_bytes} bytes, its layer has {size_bytes}")
    return single(layer, Encoding.GZIP, size_bytes, fields.digest(annotations[RAW_DIGEST], where, name))


def _check_numbers(numbers: Sequence[int], totals: set[int | None], name: str) -> None:
    """Raises InvalidInput unless the sorted numbers count from 0 or 1 without a gap: images with lost parts exist."""
    first = numbers[0]
    if first > 1 or list(numbers) != list(range(first, first + len(numbers))) or totals - {None, len(numbers)}:
        raise invalid_image(f"{name}: parts of the disk are missing or there twice: {_PUSH_AGAIN}")


def _nvram(manifest: Manifest, media_type: str, name: str) -> Content:
    found = [layer for layer in manifest.layers if layer.media_type == media_type]
    if len(found) != 1:
        raise invalid_image(f"{name}: {len(found)} layers of media type {media_type} instead of one")
    return single(found[0], Encoding.IDENTITY, found[0].size, found[0].digest)


# --- The older forms


def _read_old(manifest: Manifest, name: str) -> Artifact:
    lz4: list[Descriptor] = []
    raw: list[tuple[int, int | None, Descriptor]] = []
    configs: list[Descriptor] = []
    for layer in manifest.layers:
        if _base(layer) == OLD_LZ4:
            lz4.append(layer)
        elif _raw_part(layer):
            raw.append(_numbered(layer, name))
        elif layer.media_type == oci.IMAGE_CONFIG:
            configs.append(layer)
        elif layer.media_type not in (OLD_NVRAM, oci.EMPTY):
            raise invalid_image(
                f"{name}: unsupported media type {clip(layer.media_type)} of a layer of a Lume image: {_PUSH_AGAIN}"
            )
    if len(configs) != 1 or bool(lz4) == bool(raw):
        raise invalid_image(
            f"{name}: a Lume image without its configuration, or with disks of two kinds: {_PUSH_AGAIN}"
        )
    return Artifact(
        platform=Platform(),
        disk=parts.disk(_old_lz4(lz4, name) if lz4 else _old_raw(raw, name), None, None, name),
        aux=_nvram(manifest, OLD_NVRAM, name),
        config=fields.document(configs[0], name),
        annotations=manifest.annotations or {},
    )


def _old_lz4(layers: Sequence[Descriptor], name: str) -> list[Stream]:
    streams, offset = [], 0
    for layer in layers:
        annotations = layer.annotations or {}
        if OLD_RAW_SIZE not in annotations or OLD_RAW_DIGEST not in annotations:
            raise invalid_image(
                f"{name}: layer {layer.digest} does not say size and digest of its content: {_PUSH_AGAIN}"
            )
        where = f"layer {layer.digest}"
        size_bytes = fields.size(annotations[OLD_RAW_SIZE], where, name)
        digest = fields.digest(annotations[OLD_RAW_DIGEST], where, name)
        streams.append(Stream((layer,), Encoding.APPLE_LZ4, offset, size_bytes, digest))
        offset += size_bytes
    return streams


def _old_raw(layers: list[tuple[int, int | None, Descriptor]], name: str) -> list[Stream]:
    layers.sort(key=lambda part: part[0])
    _check_numbers([number for number, _, _ in layers], {total for _, total, _ in layers}, name)
    streams, offset = [], 0
    for _, _, layer in layers:
        streams.append(Stream((layer,), Encoding.IDENTITY, offset, layer.size, layer.digest))
        offset += layer.size
    return streams


def _base(layer: Descriptor) -> str:
    return layer.media_type.partition(";")[0].strip().lower()


def _parameters(layer: Descriptor) -> Mapping[str, str]:
    pairs = (parameter.partition("=") for parameter in layer.media_type.split(";")[1:])
    return {key.strip().lower(): value.strip().strip('"') for key, _, value in pairs}


def _raw_part(layer: Descriptor) -> bool:
    return _base(layer) == OLD_RAW and "part.number" in _parameters(layer)


def _numbered(layer: Descriptor, name: str) -> tuple[int, int | None, Descriptor]:
    parameters = _parameters(layer)
    where = f"layer {layer.digest}"
    total = parameters.get("part.total")
    number = fields.whole_number(parameters["part.number"], where, name)
    return number, None if total is None else fields.whole_number(total, where, name), layer


# --- The small documents


def read_machine(artifact: Artifact, config: bytes, image_config_json: bytes | None, name: str) -> Machine:
    """What the configuration says, and the manifest's annotations where it does not.

    Raises:
        InvalidInput: malformed, or a macOS image without its boot data.
    """
    document = Fields.of(config, "the configuration", name)
    said = document.text("os")
    os_ = _SYSTEMS.get(said.lower())
    if os_ is None:
        raise invalid_image(f"{name}: os {clip(said)} is neither macOS nor Linux")
    annotated = artifact.annotations.get(SYSTEM, "").lower()
    os_ = boot_data.system(artifact.platform.os or _SYSTEMS.get(annotated, annotated), os_, name)
    if document.number("diskSize") > (artifact.disk.raw_size_bytes or 0):
        raise invalid_image(f"{name}: parts of the disk are missing: {_PUSH_AGAIN}")
    hardware_model = document.data("hardwareModel")
    machine_id = document.data("machineIdentifier")
    if os_ == "darwin" and not (hardware_model and machine_id):
        raise invalid_image(f"{name}: the configuration of a macOS image needs hardwareModel and machineIdentifier")
    display = document.text("display") or artifact.annotations.get(DISPLAY, "")
    return Machine(
        os=os_,
        architecture=artifact.platform.architecture or "arm64",  # Lume runs on Apple silicon only
        hardware_model=hardware_model,
        machine_id=machine_id,
        cpu_count=document.number("cpuCount") or _annotated(artifact, CPU_COUNT, name),
        memory_bytes=document.number("memorySize") or _annotated(artifact, MEMORY_SIZE, name),
        mac_address=image_config.mac_address(document.text("macAddress"), "macAddress in the configuration", name),
        display=image_config.display(display, "display", name),
    )


def _annotated(artifact: Artifact, annotation: str, name: str) -> int:
    return fields.whole_number(artifact.annotations.get(annotation, "0"), f"annotation {annotation}", name)
