"""What lies under a reference in a registry: the manifest for this host and its small documents, nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass

from vzkubelet.aio import run_blocking
from vzkubelet.images import formats
from vzkubelet.images.formats import Artifact, Machine
from vzkubelet.images.registry import Document, Repository
from vzkubelet.model.oci import MANIFEST_LIMIT_BYTES, Index, Manifest, Platform


@dataclass(frozen=True, slots=True)
class Description:
    """One virtual machine image, as its manifest and the documents it names say."""

    document: Document
    manifest: Manifest
    artifact: Artifact
    machine: Machine
    image_config: bytes | None


async def choose(
    repository: Repository, root: Document, platforms: Sequence[Platform]
) -> tuple[Document, Index | None]:
    """The manifest of a virtual machine image that `root` is or, as an index, leads to; and that index.

    Raises:
        InvalidInput: none for these platforms (none given: any). What `Repository.manifest` raises.
    """
    name = repository.name
    if not formats.is_index(root.media_type):
        return root, None
    index = await run_blocking(formats.read_index, root.content, name)
    for entry in formats.candidates(index, platforms, name):
        if entry.size > MANIFEST_LIMIT_BYTES:
            raise formats.invalid_image(f"{name}: the manifest of {entry.size} bytes is too large")
        chosen = await repository.manifest(entry.digest)
        if formats.format_of(formats.read_manifest(chosen.content, name)) is not None:
            return chosen, index
    raise formats.not_a_machine(name, platforms)


async def describe(repository: Repository, document: Document) -> Description:
    """What a manifest describes.

    Raises:
        InvalidInput: no virtual machine image, or a malformed one. What `Repository.document` raises.
    """
    name = repository.name
    manifest = formats.read_manifest(document.content, name)
    artifact = formats.read(manifest, name)
    config = await repository.document(artifact.config) if artifact.config else b""
    image_config = await repository.document(artifact.image_config) if artifact.image_config else None
    machine = formats.read_machine(manifest, artifact, config, image_config, name)
    return Description(document, manifest, artifact, machine, image_config)
