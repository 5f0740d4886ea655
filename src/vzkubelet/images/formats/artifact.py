"""A virtual machine image as every format describes it: which blobs become which files, and what the machine needs."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from vzkubelet.errors import InvalidInput
from vzkubelet.model.oci import Descriptor, Manifest, Platform
from vzkubelet.ports import ImageDefaults

PULL_REASON = "ErrImagePull"
"""The kubelet's reason for every failure of a pull but a malformed name."""


class Encoding(Enum):
    IDENTITY = "identity"
    GZIP = "gzip"


@dataclass(frozen=True, slots=True)
class Layer:
    """One blob in the registry and the raw content it becomes."""

    blob: Descriptor
    encoding: Encoding
    raw_digest: str
    raw_size_bytes: int


@dataclass(frozen=True, slots=True)
class Artifact:
    """What a manifest says: the large layers, and the small documents that `Machine` is read from."""

    platform: Platform
    """Empty where the manifest does not say; the configuration document then decides."""
    disk: Layer
    aux: Layer
    config: Descriptor
    image_config: Descriptor | None = None

    @property
    def layers(self) -> tuple[Layer, ...]:
        """In the order of pulling: the small one first, so that a fault in it is found before the disk is moved."""
        return (self.aux, self.disk)

    @property
    def total_bytes(self) -> int:
        """Compressed bytes of the large layers."""
        return sum(layer.blob.size for layer in self.layers)


@dataclass(frozen=True, slots=True)
class Machine:
    """What the small documents of an image say about its machine."""

    os: str
    architecture: str
    hardware_model: bytes = b""
    machine_id: bytes = b""
    defaults: ImageDefaults = field(default_factory=ImageDefaults)
    cpu_min: int = 0
    memory_min_bytes: int = 0


class Format(Protocol):
    """What a format's module offers. `name` is the reference, for messages.

    Raises:
        InvalidInput: not exactly what the format allows.
    """

    def read(self, manifest: Manifest, name: str) -> Artifact: ...

    def read_machine(self, artifact: Artifact, config: bytes, image_config: bytes | None, name: str) -> Machine: ...


def invalid_image(message: str) -> InvalidInput:
    """An image that can never work, whoever pulls it."""
    return InvalidInput(message, reason=PULL_REASON)
