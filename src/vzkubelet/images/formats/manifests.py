"""Manifests of the formats that carry an artifactType, written so that equal inputs have equal bytes. Pure."""

import base64
import hashlib
from collections.abc import Mapping, Sequence

import msgspec

from vzkubelet.images.formats.artifact import Machine
from vzkubelet.model import oci
from vzkubelet.model.oci import Descriptor, Manifest, Platform


def blob(media_type: str, content: bytes, annotations: Mapping[str, str] | None = None) -> Descriptor:
    """The descriptor of a small document."""
    return Descriptor(
        media_type=media_type,
        digest=f"sha256:{hashlib.sha256(content).hexdigest()}",
        size=len(content),
        annotations=dict(annotations) if annotations else None,
    )


def artifact(artifact_type: str, machine: Machine, layers: Sequence[Descriptor], created: str | None) -> bytes:
    """An artifact manifest whose empty config names the platform, so that entries of an index can be chosen by it."""
    manifest = Manifest(
        schema_version=2,
        media_type=oci.MANIFEST,
        artifact_type=artifact_type,
        config=Descriptor(
            media_type=oci.EMPTY,
            digest=oci.EMPTY_DIGEST,
            size=len(oci.EMPTY_JSON),
            data=base64.b64encode(oci.EMPTY_JSON).decode(),
            platform=Platform(os=machine.os, architecture=machine.architecture),
        ),
        layers=list(layers),
        annotations={oci.CREATED: created} if created else None,
    )
    return msgspec.json.encode(manifest)
