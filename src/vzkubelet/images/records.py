"""What the store writes about images, as JSON that a person can read."""

import base64
from pathlib import Path

import msgspec

from vzkubelet.images.formats.artifact import Artifact, Machine
from vzkubelet.model.oci import Platform
from vzkubelet.model.reference import Reference
from vzkubelet.ports import ImageDefaults, MachineImage


class ContentRecord(msgspec.Struct, frozen=True, rename="camel"):
    digest: str
    """Of the raw content; its name in the store."""
    size_bytes: int


class ImageRecord(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One complete, verified image (``image.json``), whatever format it came in."""

    manifest_digest: str
    os: str
    architecture: str
    disk: ContentRecord
    aux: ContentRecord
    hardware_model_data: str = ""
    machine_id_data: str = ""
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    env: tuple[tuple[str, str], ...] = ()
    working_dir: str = ""
    user: str = ""
    cpu_min: int = 0
    memory_min_bytes: int = 0

    @classmethod
    def of(cls, manifest_digest: str, artifact: Artifact, machine: Machine) -> "ImageRecord":
        return cls(
            manifest_digest=manifest_digest,
            os=machine.os,
            architecture=machine.architecture,
            disk=ContentRecord(artifact.disk.key, artifact.disk.raw_size_bytes or 0),
            aux=ContentRecord(artifact.aux.key, artifact.aux.raw_size_bytes or 0),
            hardware_model_data=base64.b64encode(machine.hardware_model).decode(),
            machine_id_data=base64.b64encode(machine.machine_id).decode(),
            entrypoint=machine.defaults.entrypoint,
            cmd=machine.defaults.cmd,
            env=machine.defaults.env,
            working_dir=machine.defaults.working_dir,
            user=machine.defaults.user,
            cpu_min=machine.cpu_min,
            memory_min_bytes=machine.memory_min_bytes,
        )

    @property
    def contents(self) -> tuple[ContentRecord, ...]:
        return (self.disk, self.aux)

    @property
    def platform(self) -> Platform:
        return Platform(os=self.os, architecture=self.architecture)

    def image(self, reference: str, repository: str, disk: Path, aux: Path) -> MachineImage:
        """The image as the other rooms see it; `disk` and `aux` are its files."""
        return MachineImage(
            reference=reference,
            image_id=f"{repository}@{self.manifest_digest}",
            size_bytes=sum(content.size_bytes for content in self.contents),
            manifest_digest=self.manifest_digest,
            os=self.os,
            architecture=self.architecture,
            disk=disk,
            disk_size_bytes=self.disk.size_bytes,
            aux=aux,
            hardware_model=base64.b64decode(self.hardware_model_data),
            machine_id=base64.b64decode(self.machine_id_data),
            defaults=ImageDefaults(self.entrypoint, self.cmd, self.env, self.working_dir, self.user),
            cpu_min=self.cpu_min,
            memory_min_bytes=self.memory_min_bytes,
        )


class ReferenceRecord(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Where a reference pointed to when it was pulled last (``references/*.json``)."""

    reference: str
    """In canonical form."""
    repository: str
    resolved_digest: str
    """What the tag itself pointed to: the manifest, or the index that it was chosen from."""
    manifest_digest: str
    pulled_at: str
    """RFC 3339."""

    def answers(self, target: Reference) -> bool:
        """Whether an image pulled under this record is what `target` means."""
        if not target.digest:
            return self.reference == str(target)
        return self.repository == target.repository and target.digest in (self.resolved_digest, self.manifest_digest)
