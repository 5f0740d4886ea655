"""OCI image manifests, indexes and configs (image-spec v1.1), as far as an agent reads and writes them."""

import re

import msgspec

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
IMAGE_CONFIG = "application/vnd.oci.image.config.v1+json"
EMPTY = "application/vnd.oci.empty.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_MANIFEST_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"

TITLE = "org.opencontainers.image.title"
CREATED = "org.opencontainers.image.created"

MANIFEST_LIMIT_BYTES = 4 * 1024 * 1024
"""What registries take as a manifest at most (CNCF Distribution's ``maxManifestBodySize``)."""

EMPTY_JSON = b"{}"
EMPTY_DIGEST = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"

_SHA256 = re.compile(r"sha256:[a-f0-9]{64}")


class _Object(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Base: camelCase on the wire, defaults not written, immutable."""


class Platform(_Object, frozen=True, kw_only=True):
    architecture: str = ""
    """GOARCH: ``arm64``, ``amd64``."""
    os: str = ""
    """GOOS: ``darwin``, ``linux``."""
    variant: str = ""

    def __str__(self) -> str:
        return f"{self.os}/{self.architecture}" + (f"/{self.variant}" if self.variant else "")


class Descriptor(_Object, frozen=True, kw_only=True):
    media_type: str
    digest: str
    size: int
    data: str | None = None
    """The content itself in base64, for tiny blobs."""
    annotations: dict[str, str] | None = None
    artifact_type: str = ""
    platform: Platform | None = None

    @property
    def title(self) -> str | None:
        """The file name, None when the layer has none (which is not the same as an empty one)."""
        return (self.annotations or {}).get(TITLE)


class Manifest(_Object, frozen=True, kw_only=True):
    schema_version: int
    media_type: str = ""
    artifact_type: str = ""
    config: Descriptor
    layers: list[Descriptor] = []
    annotations: dict[str, str] | None = None


class Index(_Object, frozen=True, kw_only=True):
    schema_version: int
    media_type: str = ""
    artifact_type: str = ""
    manifests: list[Descriptor] = []
    annotations: dict[str, str] | None = None


class ImageConfigDetails(msgspec.Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """The `config` object of an image config; None = not given. Go writes PascalCase keys here."""

    entrypoint: list[str] | None = None
    cmd: list[str] | None = None
    env: list[str] | None = None
    working_dir: str = ""
    user: str = ""
    labels: dict[str, str] | None = None


class ImageConfig(_Object, frozen=True, kw_only=True):
    architecture: str = ""
    os: str = ""
    config: ImageConfigDetails = ImageConfigDetails()


def is_sha256(digest: str) -> bool:
    """Whether it is a well-formed sha256 digest, the only algorithm that content is verified with here."""
    return _SHA256.fullmatch(digest) is not None
