"""What is asked of a push and of a conversion, and what comes of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from vzkubelet.images.formats.artifact import Machine
from vzkubelet.model.reference import Reference

FORMATS = ("agoda", "tart", "chunked")
"""The formats that are written."""


@dataclass(frozen=True, slots=True)
class PushProgress:
    """`stage` is what is being done, such as ``push disk.img``; bytes of that stage, 0 in all = not known."""

    stage: str
    done_bytes: int
    total_bytes: int


Listener = Callable[[PushProgress], None]


@dataclass(frozen=True, slots=True)
class PushRequest:
    """What to push. The files are not changed and must not change meanwhile."""

    disk: Path
    aux: Path
    machine: Machine
    image_config: Mapping[str, object] | None = None
    """An OCI image config as JSON object; platform and hints of `machine` are put in."""
    created: str | None = None
    """RFC 3339; None = no time stamp, equal inputs then have equal digests."""
    format: str = "agoda"
    """One of `FORMATS`."""
    base: Reference | None = None
    """chunked: the older version whose chunks are used again. None: the target itself, else the newest version in
    its repository that this host has pushed or pulled."""
    level: int | None = None
    """Of compression, 1 to 9 for gzip, 1 to 19 for zstd; None: the fastest that still compresses well."""


@dataclass(frozen=True, slots=True)
class PushResult:
    digest: str
    """Of the manifest."""
    uploaded_bytes: int
    reused_bytes: int
    """Of blobs that the registry had, or took over from another of its repositories."""
