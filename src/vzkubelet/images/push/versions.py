"""Older versions of an image in a registry: what of them can be used again by the one that is pushed."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from vzkubelet.aio import run_blocking
from vzkubelet.errors import Forbidden, Integrity, InvalidInput, NotFound, Unauthenticated
from vzkubelet.images import formats
from vzkubelet.images.formats import chunked
from vzkubelet.images.formats.artifact import Artifact, Chunked, Content
from vzkubelet.images.push.chunked import Base
from vzkubelet.images.push.job import Known
from vzkubelet.images.registry import Repository
from vzkubelet.model.reference import Reference

_log = logging.getLogger(__name__)
DISK, AUX = "disk.img", "aux.img"
"""Titles, in progress and in messages."""
_UNUSABLE = (NotFound, InvalidInput, Integrity, Unauthenticated, Forbidden)


@dataclass(frozen=True, slots=True)
class Version:
    """An image that is there already."""

    artifact: Artifact
    repository: Repository
    place: str
    """``domain/path``."""


async def find(repository: Repository, reference: Reference) -> Version:
    """The version under a tag or digest.

    Raises:
        NotFound, InvalidInput, Integrity, Unauthenticated, Forbidden, Unavailable: there is none that can be read.
    """
    document = await repository.manifest(reference.digest or reference.tag)
    manifest = formats.read_manifest(document.content, str(reference))
    return Version(formats.read(manifest, str(reference)), repository, reference.repository)


async def look(repository: Repository, reference: Reference) -> Version | None:
    """As `find`; None for what is not there or no use."""
    try:
        return await find(repository, reference)
    except _UNUSABLE as exc:
        _log.debug("no older version at %s: %s", reference, exc)
        return None


def known(versions: Sequence[Version], title: str) -> list[Known]:
    """Contents that are a disk, or auxiliary storage."""
    return [Known(_content(version.artifact, title), version.place) for version in versions]


async def base(versions: Sequence[Version], title: str) -> Base | None:
    """The first version in chunks whose index can be had."""
    for version in versions:
        content = _content(version.artifact, title)
        if not isinstance(content.layout, Chunked):
            continue
        try:
            document = await version.repository.document(content.layout.index)
            index = await run_blocking(chunked.read_index, content, document, version.repository.name)
        except _UNUSABLE as exc:
            _log.warning("%s is not used as a base: %s", version.repository.name, exc)
            continue
        return Base(index, content.layout.packs, version.place)
    return None


def _content(artifact: Artifact, title: str) -> Content:
    return artifact.disk if title == DISK else artifact.aux
