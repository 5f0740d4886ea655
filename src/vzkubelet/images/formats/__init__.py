"""Image formats: what lies under a tag, recognised and read.

One module per format, each with the same functions; further formats join `_FORMATS`. All pure.
"""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import msgspec

from vzkubelet.errors import clip
from vzkubelet.images.formats import agoda
from vzkubelet.images.formats.artifact import (
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
    invalid_image,
)
from vzkubelet.model import oci
from vzkubelet.model.oci import Descriptor, Index, Manifest, Platform

__all__ = [
    "Artifact",
    "Chunked",
    "Content",
    "Display",
    "Encoding",
    "Layout",
    "Machine",
    "Stream",
    "Streams",
    "choose",
    "fits",
    "invalid_image",
    "is_index",
    "read",
    "read_index",
    "read_machine",
    "read_manifest",
]

T = TypeVar("T")
_FORMATS: Mapping[str, Format] = {agoda.ARTIFACT_TYPE: agoda}
_EXPECTED = f"expected a virtual machine image with artifactType {agoda.ARTIFACT_TYPE}"
_FOREIGN = {
    "application/vnd.cirruslabs.tart.": "a Tart virtual machine image, which cannot be read yet",
    "application/vnd.trycua.lume.": "a Lume virtual machine image, which cannot be read yet",
    "application/vnd.cncf.helm.": "a Helm chart",
    "application/vnd.docker.container.image.": "an ordinary container image",
    oci.IMAGE_CONFIG: "an ordinary container image",
}
"""What the beginning of a config's or layer's media type gives away, the telling ones first."""


def is_index(media_type: str) -> bool:
    return media_type in (oci.INDEX, oci.DOCKER_MANIFEST_LIST)


def read_manifest(content: bytes, name: str) -> Manifest:
    return _decode(content, Manifest, "manifest", name)


def read_index(content: bytes, name: str) -> Index:
    return _decode(content, Index, "image index", name)


def read(manifest: Manifest, name: str) -> Artifact:
    """What the manifest describes; the reference `name` is for messages.

    Raises:
        InvalidInput: another kind of artifact, or a malformed one.
    """
    format_ = _FORMATS.get(manifest.artifact_type)
    if format_ is None:
        raise invalid_image(f"{name} is {_describe(manifest)}; {_EXPECTED}")
    return format_.read(manifest, name)


def read_machine(
    manifest: Manifest, artifact: Artifact, config: bytes, image_config: bytes | None, name: str
) -> Machine:
    """What the small documents of an artifact that `read` returned say."""
    return _FORMATS[manifest.artifact_type].read_machine(artifact, config, image_config, name)


def choose(index: Index, wanted: Sequence[Platform], name: str) -> Descriptor:
    """The index entry for this host: a virtual machine image, for the first wanted platform that is there.

    Nothing wanted means any. An entry without a platform fits any: its manifest tells later.

    Raises:
        InvalidInput: none fits.
    """
    machines = [entry for entry in index.manifests if entry.artifact_type in _FORMATS]
    if not machines:
        raise invalid_image(f"{name} is an index of ordinary container images or other artifacts; {_EXPECTED}")
    if not wanted:
        return machines[0]
    for platform in wanted:
        for entry in machines:
            if entry.platform is None or fits(entry.platform, platform):
                return entry
    offered = ", ".join(str(entry.platform) for entry in machines)
    raise invalid_image(
        f"{name}: no virtual machine image for {' or '.join(map(str, wanted))} in the index, only {clip(offered)}"
    )


def fits(platform: Platform, wanted: Platform) -> bool:
    return (platform.os, platform.architecture) == (wanted.os, wanted.architecture)


def _describe(manifest: Manifest) -> str:
    types = [manifest.config.media_type, *(layer.media_type for layer in manifest.layers)]
    if not manifest.artifact_type:
        for beginning, description in _FOREIGN.items():
            if any(media_type.startswith(beginning) for media_type in types):
                return description
    return f"an artifact of type {clip(manifest.artifact_type or manifest.config.media_type)}"


def _decode(content: bytes, type_: type[T], what: str, name: str) -> T:
    try:
        return msgspec.json.decode(content, type=type_)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise invalid_image(f"{name}: the {what} is malformed: {clip(str(exc))}") from exc
