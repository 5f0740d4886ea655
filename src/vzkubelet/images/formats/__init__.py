"""Image formats: what lies under a tag, recognised and read.

One module per format, each with the same functions; further formats join `_FORMATS`. All pure.
"""

from collections.abc import Mapping, Sequence

from vzkubelet.errors import InvalidInput, clip
from vzkubelet.images.formats import agoda, chunked, fields, lume, tart
from vzkubelet.images.formats.artifact import (
    UNTYPED,
    Artifact,
    Chunked,
    Content,
    Display,
    Encoding,
    Format,
    Layout,
    Machine,
    Stream,
    Streams,
    WritableFormat,
    Written,
    invalid_image,
)
from vzkubelet.model import oci
from vzkubelet.model.oci import Descriptor, Index, Manifest, Platform

__all__ = [
    "WRITABLE",
    "Artifact",
    "Chunked",
    "Content",
    "Display",
    "Encoding",
    "Layout",
    "Machine",
    "Stream",
    "Streams",
    "WritableFormat",
    "Written",
    "candidates",
    "fits",
    "format_of",
    "invalid_image",
    "is_index",
    "not_a_machine",
    "read",
    "read_index",
    "read_machine",
    "read_manifest",
]

_FORMATS: Sequence[Format] = (chunked, agoda, tart, lume)
"""In the order of preference, should an index offer several for one platform: what is moved fastest comes first."""
WRITABLE: Mapping[str, WritableFormat] = {agoda.NAME: agoda, chunked.NAME: chunked, tart.NAME: tart}
_EXPECTED = (
    f"expected a virtual machine image with artifactType {chunked.ARTIFACT_TYPE} or {agoda.ARTIFACT_TYPE}, "
    "or one of Tart or Lume"
)
_FOREIGN = {
    "application/vnd.cncf.helm.": "a Helm chart",
    "application/vnd.docker.container.image.": "an ordinary container image",
    oci.IMAGE_CONFIG: "an ordinary container image",
}
"""What the beginning of a config's or layer's media type gives away, the telling ones first."""


def is_index(media_type: str) -> bool:
    return media_type in (oci.INDEX, oci.DOCKER_MANIFEST_LIST)


def read_manifest(content: bytes, name: str) -> Manifest:
    return fields.decode(content, Manifest, "manifest", name)


def read_index(content: bytes, name: str) -> Index:
    return fields.decode(content, Index, "image index", name)


def format_of(manifest: Manifest) -> Format | None:
    """The format of a virtual machine image, None for anything else. By artifactType, or by media types."""
    return next((format_ for format_ in _FORMATS if format_.recognises(manifest)), None)


def read(manifest: Manifest, name: str) -> Artifact:
    """What the manifest describes; the reference `name` is for messages.

    Raises:
        InvalidInput: another kind of artifact, or a malformed one.
    """
    format_ = format_of(manifest)
    if format_ is None:
        raise invalid_image(f"{name} is {_describe(manifest)}; {_EXPECTED}")
    return format_.read(manifest, name)


def read_machine(
    manifest: Manifest, artifact: Artifact, config: bytes, image_config: bytes | None, name: str
) -> Machine:
    """What the small documents of an artifact that `read` returned say."""
    format_ = format_of(manifest)
    assert format_ is not None
    return format_.read_machine(artifact, config, image_config, name)


def candidates(index: Index, wanted: Sequence[Platform], name: str) -> tuple[Descriptor, ...]:
    """The index entries that may be for this host, the preferred one first. Nothing wanted means any platform.

    The first platform decides, then the format. Entries without artifactType may be virtual machine images of formats
    that have none, or ordinary container images: only their manifests tell (`format_of`), so they come after those that
    say what they are, and whoever fetches them goes on to the next one. An entry without platform fits any.

    Raises:
        InvalidInput: none fits.
    """
    ranks = {format_.ARTIFACT_TYPE: rank for rank, format_ in enumerate(_FORMATS) if format_.ARTIFACT_TYPE}
    ranks |= dict.fromkeys(UNTYPED, len(ranks))
    entries = [entry for entry in index.manifests if entry.artifact_type in ranks and not is_index(entry.media_type)]
    found: list[tuple[int, int, int, Descriptor]] = []
    for position, entry in enumerate(entries):
        rank = _rank(entry.platform, wanted)
        if rank is not None:
            found.append((rank, ranks[entry.artifact_type], position, entry))
    if not found:
        machines = [entry for entry in entries if entry.artifact_type not in UNTYPED]
        if not machines:
            raise invalid_image(f"{name} is an index of ordinary container images or other artifacts; {_EXPECTED}")
        offered = ", ".join(str(entry.platform) for entry in machines)
        raise invalid_image(
            f"{name}: no virtual machine image for {' or '.join(map(str, wanted))} in the index, only {clip(offered)}"
        )
    return tuple(entry for *_, entry in sorted(found, key=lambda row: row[:3]))


def not_a_machine(name: str, wanted: Sequence[Platform]) -> InvalidInput:
    """For an index of whose candidates none turned out to be a virtual machine image."""
    platforms = " or ".join(map(str, wanted)) or "any platform"
    return invalid_image(f"{name}: no virtual machine image for {platforms} in the index; {_EXPECTED}")


def _rank(platform: Platform | None, wanted: Sequence[Platform]) -> int | None:
    if not wanted or platform is None or not (platform.os or platform.architecture):
        return 0
    return next((rank for rank, one in enumerate(wanted) if fits(platform, one)), None)


def fits(platform: Platform, wanted: Platform) -> bool:
    return (platform.os, platform.architecture) == (wanted.os, wanted.architecture)


def _describe(manifest: Manifest) -> str:
    types = [manifest.config.media_type, *(layer.media_type for layer in manifest.layers)]
    if manifest.artifact_type in UNTYPED:
        for beginning, description in _FOREIGN.items():
            if any(media_type.startswith(beginning) for media_type in types):
                return description
    return f"an artifact of type {clip(manifest.artifact_type or manifest.config.media_type)}"
