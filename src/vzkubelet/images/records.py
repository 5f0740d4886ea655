"""What the store writes about images, as JSON that a person can read."""

import base64
import logging
from datetime import UTC, datetime
from enum import StrEnum
from os import stat_result
from pathlib import Path
from typing import TypeVar

import msgspec

from vzkubelet.files import write_atomic
from vzkubelet.images.formats.artifact import Display, Machine
from vzkubelet.model.oci import Platform
from vzkubelet.model.reference import Reference
from vzkubelet.ports import ImageDefaults, MachineImage

_log = logging.getLogger(__name__)
T = TypeVar("T")


def read_record(path: Path, type_: type[T]) -> T | None:
    """What a file says; None when there is none or it is damaged, which is logged."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=type_)
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        _log.warning("ignoring %s, it is damaged: %s", path, exc)
        return None


def write_record(path: Path, record: msgspec.Struct) -> None:
    """Replace a file by this record, for good and in one step."""
    write_atomic(path, msgspec.json.format(msgspec.json.encode(record)), 0o644)


class ContentRecord(msgspec.Struct, frozen=True, rename="camel"):
    digest: str
    """What the content was verified by, and its name in the store: sha256 of the raw file or of its list of chunks."""
    size_bytes: int


class ContentKind(StrEnum):
    """What a content's digest is of."""

    RAW = "raw"
    """The whole file."""
    TREE = "tree"
    """The list of its chunks, which lies beside it."""


class StoredContent(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What a content was when it was verified (``content/sha256/<hex>.json``).

    Whoever changes a file changes its ctime, which no system call sets: as long as inode, ctime and size are these,
    the content is what was verified.
    """

    digest: str
    size_bytes: int
    kind: ContentKind
    inode: int
    ctime_ns: int
    verified_at: str
    """RFC 3339."""
    chunk_bytes: int = 0
    """Of a tree."""
    key: str = ""
    """Of the place where it was staged, where that is not its digest."""

    @property
    def content(self) -> ContentRecord:
        return ContentRecord(self.digest, self.size_bytes)

    def describes(self, status: stat_result) -> bool:
        """Whether a file is the very one that was verified, untouched since."""
        return (status.st_size, status.st_ino, status.st_ctime_ns) == (self.size_bytes, self.inode, self.ctime_ns)


class Quarantined(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Why a content was taken out of use (``quarantine/<hex>.<time>.json``)."""

    digest: str
    reason: str
    ranges: tuple[tuple[int, int], ...] = ()
    """Bytes (start, end) that are wrong, where that can be told."""
    found_at: str
    """RFC 3339."""


class DisplayRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    width: int
    height: int
    unit: str = ""


class ImageRecord(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One complete, verified image (``image.json``), whatever format it came in."""

    manifest_digest: str
    """Name of the image in the store. Of an adopted image nobody knows its manifest; it has a name of its own."""
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
    cpu_count: int = 0
    memory_bytes: int = 0
    mac_address: str = ""
    display: DisplayRecord | None = None
    display_refit: bool | None = None
    labels: tuple[tuple[str, str], ...] = ()
    adopted: bool = False
    """It came from the cache of another program, which had not kept the manifest."""

    @classmethod
    def of(
        cls,
        manifest_digest: str,
        machine: Machine,
        disk: ContentRecord,
        aux: ContentRecord,
        *,
        adopted: bool = False,
    ) -> "ImageRecord":
        display = machine.display
        return cls(
            manifest_digest=manifest_digest,
            os=machine.os,
            architecture=machine.architecture,
            disk=disk,
            aux=aux,
            hardware_model_data=base64.b64encode(machine.hardware_model).decode(),
            machine_id_data=base64.b64encode(machine.machine_id).decode(),
            entrypoint=machine.defaults.entrypoint,
            cmd=machine.defaults.cmd,
            env=machine.defaults.env,
            working_dir=machine.defaults.working_dir,
            user=machine.defaults.user,
            cpu_min=machine.cpu_min,
            memory_min_bytes=machine.memory_min_bytes,
            cpu_count=machine.cpu_count,
            memory_bytes=machine.memory_bytes,
            mac_address=machine.mac_address,
            display=DisplayRecord(display.width, display.height, display.unit) if display else None,
            display_refit=machine.display_refit,
            labels=machine.labels,
            adopted=adopted,
        )

    @property
    def machine(self) -> Machine:
        """What the image's documents said, as it was when it came."""
        display = self.display
        return Machine(
            os=self.os,
            architecture=self.architecture,
            hardware_model=base64.b64decode(self.hardware_model_data),
            machine_id=base64.b64decode(self.machine_id_data),
            defaults=ImageDefaults(self.entrypoint, self.cmd, self.env, self.working_dir, self.user),
            cpu_min=self.cpu_min,
            memory_min_bytes=self.memory_min_bytes,
            cpu_count=self.cpu_count,
            memory_bytes=self.memory_bytes,
            mac_address=self.mac_address,
            display=Display(display.width, display.height, display.unit) if display else None,
            display_refit=self.display_refit,
            labels=self.labels,
        )

    @property
    def contents(self) -> tuple[ContentRecord, ...]:
        return (self.disk, self.aux)

    @property
    def platform(self) -> Platform:
        return Platform(os=self.os, architecture=self.architecture)

    def image(self, reference: str, repository: str, disk: Path, aux: Path, users: Path | None = None) -> MachineImage:
        """The image as the other rooms see it; `disk` and `aux` are its files, `users` the directory of who uses it."""
        return MachineImage(
            reference=reference,
            # As a container runtime shows an image that came from no registry.
            image_id=self.manifest_digest if self.adopted else f"{repository}@{self.manifest_digest}",
            size_bytes=sum(content.size_bytes for content in self.contents),
            manifest_digest="" if self.adopted else self.manifest_digest,
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
            users=users,
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


class Pin(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """That somebody wants to keep a reference (``pins/*.json``)."""

    reference: str
    """In canonical form."""
    pinned_at: str
    """RFC 3339."""


def rfc3339(at: float) -> str:
    """Seconds since the epoch as records tell time."""
    return datetime.fromtimestamp(int(at), tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
