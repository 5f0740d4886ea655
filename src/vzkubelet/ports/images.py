"""Virtual machine images on this host."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from vzkubelet.model.docker_config import RegistryCredential
from vzkubelet.model.oci import Platform


@dataclass(frozen=True, slots=True)
class Image:
    """An image that is on this host. `image_id` is what the pod status shows as imageID (``repo@sha256:…``)."""

    reference: str
    image_id: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class ImageDefaults:
    """The OCI image config's part that a pod's command and args combine with. None = not given."""

    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    env: tuple[tuple[str, str], ...] = ()
    working_dir: str = ""
    user: str = ""


@dataclass(frozen=True, slots=True)
class MachineImage(Image):
    """A virtual machine image in the content store; the files are read-only and shared by all clones."""

    manifest_digest: str
    os: str
    """``darwin`` or ``linux``."""
    architecture: str
    disk: Path
    disk_size_bytes: int
    aux: Path
    hardware_model: bytes = b""
    machine_id: bytes = b""
    defaults: ImageDefaults = ImageDefaults()
    cpu_min: int = 0
    memory_min_bytes: int = 0
    users: Path | None = None
    """Directory of symbolic links to what refers to `disk` by its name (an overlay). While one of them resolves the
    file stays. Who adds one holds a shared lock (flock) on the directory until it resolves. None: nobody removes it."""

    @property
    def platform(self) -> Platform:
        return Platform(os=self.os, architecture=self.architecture)


@dataclass(frozen=True, slots=True)
class PullProgress:
    """Bytes in the registry: done (what was here before included) and total, which is 0 until the manifest is known.

    `stage` is a word or two for people about what is being done; empty while bytes move.
    """

    done_bytes: int
    total_bytes: int
    stage: str = ""


class MachineImages(Protocol):
    """The store of virtual machine images.

    - `find` makes no request to any registry; it returns only images that are complete and verified.
    - `pull` always resolves the reference at the registry, moves only what is missing, verifies both digests of every
      layer, and makes the image visible in one step. Concurrent pulls of one image share the work. A failed or
      cancelled pull leaves no visible image and no temporary file behind that a later pull does not reuse or remove.
    - Images that a clone was made of may be removed; clones live on.
    """

    async def find(self, reference: str) -> MachineImage | None: ...

    async def pull(
        self,
        reference: str,
        credentials: Sequence[RegistryCredential],
        progress: Callable[[PullProgress], None] | None = None,
    ) -> MachineImage:
        """Raises InvalidInput (reason InvalidImageName or ErrImagePull), NotFound, Unauthenticated, Forbidden,
        Unavailable, Integrity, Exhausted (disk full)."""
