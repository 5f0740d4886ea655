"""Registry logins: Docker's config formats and the kubelet's rules of which login fits which image.

Formats: ``.dockerconfigjson`` (also ``~/.docker/config.json``) and the older ``.dockercfg``. Rules: the kubelet's
``pkg/credentialprovider``: most specific entry first, all that match are candidates in turn.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar
from urllib.parse import unquote, urlsplit

import msgspec

from vzkubelet.errors import InvalidInput
from vzkubelet.model.objects import Secret
from vzkubelet.model.reference import Reference

SECRET_TYPE_JSON = "kubernetes.io/dockerconfigjson"  # noqa: S105 - the name of a type
SECRET_TYPE_LEGACY = "kubernetes.io/dockercfg"  # noqa: S105
SECRET_KEY_JSON = ".dockerconfigjson"  # noqa: S105
SECRET_KEY_LEGACY = ".dockercfg"  # noqa: S105

T = TypeVar("T")
_HUB_KEY = "index.docker.io"
_TOKEN_USER = "<token>"  # noqa: S105 - Docker's mark for "the password is an identity token"


@dataclass(frozen=True, slots=True)
class RegistryCredential:
    """One candidate login for a registry, as resolved from pull secrets."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class SecretCoordinates:
    """Which secret a login comes from; `uid` tells a recreated one apart."""

    namespace: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """A login and where it comes from (``TrackedAuthConfig`` of the kubelet)."""

    login: RegistryCredential
    secret: SecretCoordinates | None = None
    """None = the node's own, which every pod on it may use."""


class _Entry(msgspec.Struct, frozen=True):
    username: str = ""
    password: str = ""
    auth: str = ""
    identitytoken: str = ""


class _ConfigFile(msgspec.Struct, frozen=True):
    auths: dict[str, _Entry] | None = None


class Keyring:
    """Logins by registry, in the order in which they are tried."""

    def __init__(self) -> None:
        self._candidates: dict[str, list[Candidate]] = {}

    def add_config(self, content: bytes, source: str, secret: SecretCoordinates | None = None) -> None:
        """Add a ``config.json``. `source` names it in messages.

        Raises:
            InvalidInput: not such a file; contents are never quoted.
        """
        self._add_entries(_decode(content, _ConfigFile, source).auths or {}, source, secret)

    def add_legacy(self, content: bytes, source: str, secret: SecretCoordinates | None = None) -> None:
        """Add a ``.dockercfg``; see `add_config`."""
        self._add_entries(_decode(content, dict[str, _Entry], source), source, secret)

    def add_logins(self, logins: Mapping[str, RegistryCredential]) -> None:
        """Add logins of the node by location; a location that is no URL is passed over."""
        for location, login in logins.items():
            self._add(location, Candidate(login))

    def add_secret(self, secret: Secret) -> None:
        """Add a pull secret. One of another type is passed over, as the kubelet does.

        Raises:
            InvalidInput: it is of a pull secret's type and cannot be read.
        """
        data = secret.data or {}
        meta = secret.metadata
        source, coordinates = f"secret {meta.namespace}/{meta.name}", coordinates_of(secret)
        if secret.type == SECRET_TYPE_JSON and data.get(SECRET_KEY_JSON):
            self.add_config(data[SECRET_KEY_JSON], source, coordinates)
        elif secret.type == SECRET_TYPE_LEGACY and data.get(SECRET_KEY_LEGACY):
            self.add_legacy(data[SECRET_KEY_LEGACY], source, coordinates)

    def candidates(self, reference: Reference) -> tuple[Candidate, ...]:
        """Candidates for an image, most specific first; empty = pull anonymously."""
        image = reference.repository
        found = [
            candidate
            for key in sorted(self._candidates, reverse=True)
            if matches(key, image)
            for candidate in self._candidates[key]
        ]
        if not found and _is_hub(image):
            found = self._candidates.get(_HUB_KEY, [])
        return tuple(found)

    def lookup(self, reference: Reference) -> tuple[RegistryCredential, ...]:
        """The logins of `candidates`."""
        return tuple(candidate.login for candidate in self.candidates(reference))

    def _add_entries(self, entries: Mapping[str, _Entry], source: str, secret: SecretCoordinates | None) -> None:
        for location, entry in entries.items():
            self._add(location, Candidate(_login(entry, f"{source}: entry {location}"), secret))

    def _add(self, location: str, candidate: Candidate) -> None:
        key = _key(location)
        if key:
            self._candidates.setdefault(key, []).append(candidate)


def coordinates_of(secret: Secret) -> SecretCoordinates:
    return SecretCoordinates(secret.metadata.namespace, secret.metadata.name, secret.metadata.uid)


def _decode(content: bytes, type_: type[T], source: str) -> T:
    try:
        return msgspec.json.decode(content, type=type_)
    except (msgspec.DecodeError, UnicodeDecodeError):
        # The cause is dropped on purpose: its text may quote what the secret holds.
        raise InvalidInput(
            f"{source} is not a Docker config: write one with kubectl create secret docker-registry"
        ) from None


def _login(entry: _Entry, source: str) -> RegistryCredential:
    username, password = entry.username, entry.password
    if entry.auth:
        username, password = _decode_auth(entry.auth, source)
    identity_token = entry.identitytoken
    if username == _TOKEN_USER:
        username, password, identity_token = "", "", identity_token or password
    return RegistryCredential(username, password, identity_token)


def _decode_auth(auth: str, source: str) -> tuple[str, str]:
    stripped = "".join(auth.split())
    try:
        text = base64.b64decode(stripped + "=" * (-len(stripped) % 4), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError):
        text = ""
    username, colon, password = text.partition(":")
    if not colon:
        raise InvalidInput(f"{source}: unable to parse auth field, must be formatted as base64(username:password)")
    # Docker's own client pads the stored password with zero bytes in some versions.
    return username, password.strip("\0")


def _key(location: str) -> str:
    """``host[:port][/path]`` of an entry; ``/v1/`` and ``/v2/`` mean the whole host. Empty when it is no URL."""
    with_scheme = location if location.startswith(("https://", "http://")) else f"https://{location}"
    try:
        parts = urlsplit(with_scheme)
        _ = parts.port
    except ValueError:
        return ""
    host = parts.netloc.rpartition("@")[2]
    path = unquote(parts.path)
    if path.startswith(("/v1/", "/v2/")):
        path = path[3:]
    return host if path in ("", "/") else host + path


def matches(pattern: str, image: str) -> bool:
    """Whether a location, or a pattern of a credential provider's ``matchImages``, is meant for an image's repository:
    equal ports, as many host labels, each matching its glob, and the path a prefix (kubelet ``URLsMatch``)."""
    pattern_host, pattern_port, pattern_path = _split(pattern)
    image_host, image_port, image_path = _split(image)
    if pattern_port != image_port or not image_path.startswith(unquote(pattern_path)):
        return False
    globs, labels = pattern_host.split("."), image_host.split(".")
    return len(globs) == len(labels) and all(
        _label_pattern(glob).fullmatch(label) for glob, label in zip(globs, labels, strict=True)
    )


def _split(location: str) -> tuple[str, str, str]:
    host, slash, path = location.partition("/")
    name, port = host, ""
    if not host.endswith("]") and ":" in host:
        name, _, port = host.rpartition(":")
    return name, port, slash + path


def _label_pattern(glob: str) -> re.Pattern[str]:
    """Go's ``filepath.Match`` as far as a host name can hold it: stars only."""
    return re.compile(".*".join(map(re.escape, glob.split("*"))))


def _is_hub(image: str) -> bool:
    return image.split("/", 1)[0] in ("docker.io", _HUB_KEY)
