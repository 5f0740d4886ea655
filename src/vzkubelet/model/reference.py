"""Image references as Docker and the kubelet read them (github.com/distribution/reference, ``ParseNormalizedNamed``).

``busybox`` is ``docker.io/library/busybox:latest``; ``host/repo:tag@sha256:…`` means the digest and keeps the tag for
people. Messages are those a user sees from a real kubelet.
"""

import json
import re
from dataclasses import dataclass

from vzkubelet.errors import InvalidInput

DEFAULT_TAG = "latest"
HUB_DOMAIN = "docker.io"
_LEGACY_HUB_DOMAIN = "index.docker.io"
_HUB_OFFICIAL_PREFIX = "library/"
_REPOSITORY_LIMIT = 255

_DOMAIN_COMPONENT = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_HOST = rf"(?:{_DOMAIN_COMPONENT}(?:\.{_DOMAIN_COMPONENT})*|\[[a-fA-F0-9:]+\])"
_DOMAIN = rf"{_HOST}(?::[0-9]+)?"
_PATH_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_PATH = rf"{_PATH_COMPONENT}(?:/{_PATH_COMPONENT})*"
_TAG = r"\w[\w.-]{0,127}"
_DIGEST = r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}"

_REFERENCE = re.compile(
    rf"(?P<domain>{_DOMAIN})/(?P<path>{_PATH})(?::(?P<tag>{_TAG}))?(?:@(?P<digest>{_DIGEST}))?", re.ASCII
)
_TAG_ALONE = re.compile(_TAG, re.ASCII)
_IDENTIFIER = re.compile(r"[a-f0-9]{64}")
_HEX = re.compile(r"[a-f0-9]+")
_DIGEST_CHARACTERS = {"sha256": 64, "sha384": 96, "sha512": 128}


@dataclass(frozen=True, slots=True)
class Reference:
    """A normalised reference. At least one of `tag` and `digest` is set; the digest wins."""

    domain: str
    """Registry host with its port, or ``docker.io``."""
    path: str
    tag: str = ""
    digest: str = ""

    @property
    def repository(self) -> str:
        """``domain/path``: what pull secrets are matched with and what an imageID starts with."""
        return f"{self.domain}/{self.path}"

    def __str__(self) -> str:
        """The canonical form: two references to the same image at the same place are equal as text."""
        return f"{self.repository}@{self.digest}" if self.digest else f"{self.repository}:{self.tag}"

    def with_tag(self, tag: str) -> "Reference":
        """The same repository under another tag.

        Raises:
            InvalidInput: not a tag.
        """
        if not _TAG_ALONE.fullmatch(tag):
            raise _invalid(f"{self.repository}:{tag}", "invalid tag format")
        return Reference(self.domain, self.path, tag)


def parse(text: str) -> Reference:
    """The normalised reference.

    Raises:
        InvalidInput: reason InvalidImageName, with the kubelet's words.
    """
    if _IDENTIFIER.fullmatch(text):
        raise _invalid(text, f"invalid repository name ({text}), cannot specify 64-byte hexadecimal strings")
    domain, remainder = _split_domain(text)
    remote = remainder.partition(":")[0]
    if remote.lower() != remote:
        raise _invalid(text, f"invalid reference format: repository name ({remote}) must be lowercase")
    match = _REFERENCE.fullmatch(f"{domain}/{remainder}")
    if match is None:
        lowered = _REFERENCE.fullmatch(f"{domain}/{remainder}".lower())
        raise _invalid(text, "repository name must be lowercase" if lowered else "invalid reference format")
    if len(match["path"]) > _REPOSITORY_LIMIT:
        raise _invalid(text, f"repository name must not be more than {_REPOSITORY_LIMIT} characters")
    digest = match["digest"] or ""
    if digest and (fault := digest_fault(digest)):
        raise _invalid(text, fault)
    tag = match["tag"] or ("" if digest else DEFAULT_TAG)
    return Reference(match["domain"], match["path"], tag, digest)


def digest_fault(digest: str) -> str:
    """What is wrong with a digest, in go-digest's words; empty when nothing is."""
    algorithm, separator, encoded = digest.partition(":")
    if not separator or not algorithm or not encoded:
        return "invalid checksum digest format"
    characters = _DIGEST_CHARACTERS.get(algorithm)
    if characters is None:
        return "unsupported digest algorithm"
    if len(encoded) != characters:
        return "invalid checksum digest length"
    return "" if _HEX.fullmatch(encoded) else "invalid checksum digest format"


def _split_domain(text: str) -> tuple[str, str]:
    """A first component is a host when it looks like one: a dot, a colon, an upper case letter, or ``localhost``."""
    first, slash, rest = text.partition("/")
    if not slash:
        return HUB_DOMAIN, _HUB_OFFICIAL_PREFIX + text
    if first == _LEGACY_HUB_DOMAIN:
        domain, remainder = HUB_DOMAIN, rest
    elif first == "localhost" or "." in first or ":" in first or first.lower() != first:
        domain, remainder = first, rest
    else:
        domain, remainder = HUB_DOMAIN, text
    if domain == HUB_DOMAIN and "/" not in remainder:
        remainder = _HUB_OFFICIAL_PREFIX + remainder
    return domain, remainder


def _invalid(text: str, fault: str) -> InvalidInput:
    quoted = json.dumps(text, ensure_ascii=False)
    return InvalidInput(f"couldn't parse image name {quoted}: {fault}", reason="InvalidImageName")
