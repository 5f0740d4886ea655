"""CredentialProviderConfig (kubelet.config.k8s.io/v1): which plugins give logins for which images.

Rules and texts: the kubelet's ``pkg/credentialprovider/plugin/config.go``.
"""

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import yaml

from vzkubelet.errors import InvalidInput, clip
from vzkubelet.model import duration

CONFIG_GROUP = "kubelet.config.k8s.io"
CONFIG_VERSIONS = frozenset({"v1", "v1beta1", "v1alpha1"})
PLUGIN_VERSIONS = (
    "credentialprovider.kubelet.k8s.io/v1",
    "credentialprovider.kubelet.k8s.io/v1alpha1",
    "credentialprovider.kubelet.k8s.io/v1beta1",
)
"""They differ in name only as far as they are used here."""
_SUFFIXES = frozenset({".json", ".yaml", ".yml"})


class _Variable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    value: str = ""


class _Provider(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    name: str = ""
    match_images: list[str] | None = None
    default_cache_duration: str | None = None
    api_version: str = ""
    args: list[str] | None = None
    env: list[_Variable] | None = None
    token_attributes: dict[str, object] | None = None


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    kind: str = ""
    api_version: str = ""
    providers: list[_Provider] | None = None


class ProviderSettings(msgspec.Struct, frozen=True):
    """One plugin that may be asked. `name` is that of its program."""

    name: str
    api_version: str
    match_images: tuple[str, ...]
    default_cache_s: float
    """How long an answer serves that does not say so itself; 0 = once."""
    args: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()


def read(path: Path) -> tuple[ProviderSettings, ...]:
    """The plugins of a file, or of the JSON and YAML files of a directory in the order of their names.

    Raises:
        InvalidInput: unreadable, not such a file, or every mistake in what it says.
    """
    files = _files(path)
    found = [provider for file in files for provider in _decoded(file).providers or []]
    mistakes = [] if found else ["providers: Required value: at least 1 item in plugins is required"]
    names: set[str] = set()
    settings = []
    for provider in found:
        wrong = _mistakes(provider)
        if provider.name in names:
            wrong.append(f'providers.name: Duplicate value: "{provider.name}"')
        names.add(provider.name)
        mistakes += wrong
        if not wrong:
            settings.append(_settings(provider))
    if mistakes:
        raise InvalidInput(f"failed to validate credential provider config {path}: {'; '.join(mistakes)}")
    return tuple(settings)


def _files(path: Path) -> Sequence[Path]:
    if not path.is_dir():
        return [path]
    try:
        found = sorted(file for file in path.iterdir() if file.suffix in _SUFFIXES and not file.is_dir())
    except OSError as exc:
        raise InvalidInput(f"cannot read {path}: {exc.strerror}") from exc
    if not found:
        raise InvalidInput(f"no configuration files found in directory {path}: it needs a .yaml, .yml or .json file")
    return found


def _decoded(path: Path) -> _File:
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        decoded = msgspec.convert(document, _File)
    except OSError as exc:
        raise InvalidInput(f"cannot read {path}: {exc.strerror}") from exc
    except (yaml.YAMLError, UnicodeDecodeError, msgspec.ValidationError) as exc:
        raise InvalidInput(f"error decoding config {path}: {clip(str(exc))}") from exc
    group, _, version = decoded.api_version.rpartition("/")
    if decoded.kind != "CredentialProviderConfig":
        raise InvalidInput(f'error decoding config {path}: failed to decode "{clip(decoded.kind)}" (wrong Kind)')
    if group != CONFIG_GROUP or version not in CONFIG_VERSIONS:
        raise InvalidInput(
            f'error decoding config {path}: apiVersion "{clip(decoded.api_version)}" is not {CONFIG_GROUP}/v1'
        )
    return decoded


def _mistakes(provider: _Provider) -> list[str]:
    wrong = []
    named = f'providers.name: Invalid value: "{clip(provider.name)}": provider name cannot'
    if "/" in provider.name:
        wrong.append(f"{named} contain '/'")
    if " " in provider.name:
        wrong.append(f"{named} contain spaces")
    if provider.name in (".", ".."):
        wrong.append(f"{named} be '{provider.name}'")
    if not provider.name:
        wrong.append("providers.name: Required value")
    if provider.api_version not in PLUGIN_VERSIONS:
        supported = ", ".join(f'"{version}"' for version in PLUGIN_VERSIONS)
        wrong.append(
            f'providers.apiVersion: Unsupported value: "{clip(provider.api_version)}": supported values: {supported}'
            if provider.api_version
            else "providers.apiVersion: Required value"
        )
    if not provider.match_images:
        wrong.append("providers.matchImages: Required value: at least 1 item in matchImages is required")
    wrong += [
        f'providers.matchImages: Invalid value: "{clip(pattern)}": match image is invalid'
        for pattern in provider.match_images or []
        if not _is_location(pattern)
    ]
    wrong += _duration_mistakes(provider)
    if provider.token_attributes is not None:
        wrong.append(
            "providers.tokenAttributes: Forbidden: this agent sends plugins no service account tokens; "
            "remove it, or use pull secrets"
        )
    return wrong


def _duration_mistakes(provider: _Provider) -> list[str]:
    raw = provider.default_cache_duration
    if raw is None:
        return ["providers.defaultCacheDuration: Required value"]
    if raw.startswith("-"):
        return [f'providers.defaultCacheDuration: Invalid value: "{clip(raw)}": must be greater than or equal to 0']
    try:
        duration.parse(raw)
    except InvalidInput as exc:
        return [f"providers.defaultCacheDuration: {exc}"]
    return []


def _is_location(pattern: str) -> bool:
    """As Go's ``url.Parse`` finds it behind ``https://``."""
    try:
        parts = urlsplit(f"https://{pattern}")
        _ = parts.port
    except ValueError:
        return False
    return not any(character <= " " or character == "\x7f" for character in pattern)


def _settings(provider: _Provider) -> ProviderSettings:
    return ProviderSettings(
        name=provider.name,
        api_version=provider.api_version,
        match_images=tuple(provider.match_images or ()),
        default_cache_s=duration.parse(provider.default_cache_duration or "0"),
        args=tuple(provider.args or ()),
        env=tuple((variable.name, variable.value) for variable in provider.env or ()),
    )
