"""One golden image of every wire format, with the machine it is of, for the suites of the format port."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from tests.support import wire_images
from tests.support.wire_images import ECID, HARDWARE_MODEL, KIB, MAC_ADDRESS, WireImage
from vzkubelet.errors import InvalidInput
from vzkubelet.images import formats
from vzkubelet.images.formats import Chunked, Display, Machine, chunked, tart
from vzkubelet.images.formats.artifact import Artifact
from vzkubelet.model import oci
from vzkubelet.ports import ImageDefaults

NAME = "r.io/vm:1"
_NOISE = random.Random(5)
DISK = _NOISE.randbytes(120 * KIB) + b"text " * (20 * KIB) + bytes(150 * KIB) + _NOISE.randbytes(30 * KIB + 17)
AUX = b"aux storage" + bytes(20 * KIB)
FULL = Machine(
    os="darwin",
    architecture="arm64",
    hardware_model=HARDWARE_MODEL,
    machine_id=ECID,
    defaults=ImageDefaults(cmd=("/bin/sh", "-c", "true"), env=(("A", "b=c"),), user="ci"),
    cpu_min=2,
    memory_min_bytes=4 * 2**30,
    cpu_count=6,
    memory_bytes=8 * 2**30,
    mac_address=MAC_ADDRESS,
    display=Display(1920, 1200, "pt"),
    display_refit=True,
    labels=(("org.example.team", "mobile"),),
)
TART = replace(FULL, defaults=ImageDefaults())
LUME = Machine(
    "darwin", "arm64", HARDWARE_MODEL, ECID, cpu_count=6, memory_bytes=8 * 2**30, display=Display(1920, 1200)
)
LUME_OLD = replace(LUME, mac_address=MAC_ADDRESS)


@dataclass(frozen=True)
class Golden:
    build: Callable[[], WireImage]
    machine: Machine
    optional: tuple[str, ...] = ()
    """Layers whose absence nobody can see."""
    repeatable: tuple[str, ...] = ()
    """Layers that may be there twice for all that anybody can see."""


GOLDEN = {
    "agoda": Golden(lambda: wire_images.agoda(DISK, AUX), FULL, (oci.IMAGE_CONFIG,), (oci.IMAGE_CONFIG,)),
    "chunked": Golden(lambda: wire_images.chunked(DISK, AUX), FULL, (oci.IMAGE_CONFIG,)),
    "tart": Golden(lambda: wire_images.tart(DISK, AUX), TART),
    "tart-v1": Golden(lambda: wire_images.tart_v1(DISK, AUX), TART, (tart.DISK_V1,), (tart.DISK_V1,)),
    "lume": Golden(lambda: wire_images.lume(DISK, AUX), LUME),
    "lume-single": Golden(lambda: wire_images.lume(DISK, AUX, None), LUME),
    "lume-lz4": Golden(lambda: wire_images.lume_lz4(DISK, AUX), LUME_OLD, (), ("application/octet-stream+lz4",)),
    "lume-raw": Golden(lambda: wire_images.lume_raw(DISK, AUX), LUME_OLD),
}
BUILT = {name: golden.build() for name, golden in GOLDEN.items()}


def opened(image: WireImage) -> tuple[Artifact, Machine]:
    """Everything that is read before the disk is moved."""
    manifest = formats.read_manifest(image.manifest_bytes, NAME)
    artifact = formats.read(manifest, NAME)
    assert artifact.config is not None
    config = image.blobs[artifact.config.digest]
    described = image.blobs[artifact.image_config.digest] if artifact.image_config else None
    machine = formats.read_machine(manifest, artifact, config, described, NAME)
    for content in artifact.contents:
        if isinstance(content.layout, Chunked):
            chunked.read_index(content, image.blobs[content.layout.index.digest], NAME)
    return artifact, machine


def refusal(image: WireImage) -> str:
    with pytest.raises(InvalidInput) as caught:
        opened(image)
    assert caught.value.reason == "ErrImagePull"
    assert NAME in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def with_config(image: WireImage, change: Callable[[dict[str, Any]], Any]) -> WireImage:
    """The image with another configuration document."""
    artifact = formats.read(formats.read_manifest(image.manifest_bytes, NAME), NAME)
    assert artifact.config is not None
    document = json.loads(image.blobs[artifact.config.digest])
    changed = change(document)
    image.blobs[artifact.config.digest] = changed if isinstance(changed, bytes) else json.dumps(document).encode()
    return image


def setting(key: str, value: object) -> Callable[[dict[str, Any]], Any]:
    return lambda document: document.update({key: value})
