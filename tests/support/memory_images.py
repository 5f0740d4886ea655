"""`ports.MachineImages` in memory: a registry that a test fills and breaks, and a store of small files.

The files exist, so that a driver can clone them. Passes the suite of the port like the real one.
"""

import asyncio
import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from vzkubelet.errors import Integrity, InvalidInput, NotFound, Unauthenticated, Unavailable
from vzkubelet.model.reference import Reference, parse
from vzkubelet.ports import ImageDefaults, MachineImage, PullProgress, RegistryCredential

REASON = "ErrImagePull"


@dataclass(frozen=True, slots=True)
class Published:
    """An image in the registry."""

    disk: bytes
    aux: bytes = b"aux"
    os: str = "linux"
    architecture: str = "amd64"
    defaults: ImageDefaults = field(default_factory=ImageDefaults)
    cpu_min: int = 0
    memory_min_bytes: int = 0
    login: RegistryCredential | None = None
    """Who may pull it; None = everybody."""
    is_machine: bool = True
    """False = an ordinary container image."""

    @property
    def digest(self) -> str:
        hasher = hashlib.sha256(self.disk)
        hasher.update(repr((self.aux, self.os, self.architecture, self.defaults)).encode())
        return f"sha256:{hasher.hexdigest()}"


class MemoryRegistry:
    """Images by canonical reference. `transfers` counts disks that were moved."""

    def __init__(self) -> None:
        self.images: dict[str, Published] = {}
        self.damaged: set[str] = set()
        self.is_down = False
        self.transfers = 0
        self.hold = False
        """Pulls stop half way until `release` is set; `held` tells that one has."""
        self.held = asyncio.Event()
        self.release = asyncio.Event()

    def publish(self, reference: str, image: Published | None = None) -> Published:
        """Put an image under a tag, by default a Linux one with a little noise as its disk."""
        image = image or Published(random.Random(reference).randbytes(64))
        self.images[str(parse(reference))] = image
        return image

    def resolve(self, target: Reference, credentials: Sequence[RegistryCredential]) -> Published:
        if self.is_down:
            raise Unavailable(f"{target}: {target.domain} cannot be reached: Connection refused", reason=REASON)
        named = [image for name, image in self.images.items() if parse(name).repository == target.repository]
        by_digest = [image for image in named if image.digest == target.digest]
        image = by_digest[0] if by_digest else self.images.get(str(target))
        if image is None:
            raise NotFound(f"{target}: not found: no such image at {target.domain}", reason=REASON)
        if image.login is not None and image.login not in credentials:
            raise Unauthenticated(f"{target}: the registry refuses the login", reason=REASON)
        if not image.is_machine:
            raise InvalidInput(f"{target} is an ordinary container image; expected a virtual machine", reason=REASON)
        return image

    async def transfer(self, target: Reference, image: Published) -> None:
        self.transfers += 1
        if self.hold and not self.release.is_set():
            self.held.set()
            await self.release.wait()
        if image.digest in self.damaged:
            raise Integrity(f"{target}: blob has another digest: damaged in the registry", reason=REASON)


class MemoryImages:
    """What is on the host is in `directory`; another object on the same one is the daemon after a restart."""

    _stores: ClassVar[dict[Path, dict[str, Published]]] = {}

    def __init__(self, directory: Path, registry: MemoryRegistry) -> None:
        self._directory = directory
        self._registry = registry
        self._present = self._stores.setdefault(directory, {})
        self._pulls: dict[str, asyncio.Lock] = {}

    async def find(self, reference: str) -> MachineImage | None:
        target = parse(reference)
        for name, image in self._present.items():
            known = parse(name)
            by_digest = known.repository == target.repository and image.digest == target.digest
            if str(target) == name or by_digest:
                return self._image(target, image)
        return None

    async def pull(
        self,
        reference: str,
        credentials: Sequence[RegistryCredential],
        progress: Callable[[PullProgress], None] | None = None,
    ) -> MachineImage:
        target = parse(reference)
        image = self._registry.resolve(target, credentials)
        report = progress or (lambda _: None)
        report(PullProgress(0, len(image.disk)))
        async with self._pulls.setdefault(image.digest, asyncio.Lock()):
            if all(image.digest != present.digest for present in self._present.values()):
                await self._registry.transfer(target, image)
        report(PullProgress(len(image.disk), len(image.disk)))
        self._present[str(target)] = image
        return self._image(target, image)

    def _image(self, target: Reference, image: Published) -> MachineImage:
        files = []
        for name, content in (("disk", image.disk), ("aux", image.aux)):
            path = self._directory / f"{name}-{image.digest[7:]}"
            if not path.exists():
                self._directory.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
                path.chmod(0o444)
            files.append(path)
        return MachineImage(
            reference=str(target),
            image_id=f"{target.repository}@{image.digest}",
            size_bytes=len(image.disk) + len(image.aux),
            manifest_digest=image.digest,
            os=image.os,
            architecture=image.architecture,
            disk=files[0],
            disk_size_bytes=len(image.disk),
            aux=files[1],
            defaults=image.defaults,
            cpu_min=image.cpu_min,
            memory_min_bytes=image.memory_min_bytes,
        )
