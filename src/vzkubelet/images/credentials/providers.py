"""The kubelet's credential provider plugins: programs that give logins for the images that they match.

Protocol: ``credentialprovider.kubelet.k8s.io/v1``, a CredentialProviderRequest on stdin and a
CredentialProviderResponse on stdout. Rules: the kubelet's ``pkg/credentialprovider/plugin/plugin.go``.
"""

import asyncio
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec

from vzkubelet import aio, program
from vzkubelet.aio import Clock, SystemClock
from vzkubelet.errors import Error, InvalidInput, Unavailable, clip
from vzkubelet.images.credentials import helpers, provider_config
from vzkubelet.images.credentials.provider_config import ProviderSettings
from vzkubelet.model import duration
from vzkubelet.model.docker_config import Keyring, RegistryCredential, matches
from vzkubelet.model.reference import Reference

_log = logging.getLogger(__name__)
TIMEOUT_S = 60.0
_GLOBAL = "<global>"
"""Cannot be the name of an image or registry."""

Logins = Mapping[str, RegistryCredential]
"""By location, as in ``auths`` of a Docker config."""


class _Request(msgspec.Struct, frozen=True, rename="camel"):
    kind: str
    api_version: str
    image: str


class _Typed(msgspec.Struct, frozen=True, rename="camel"):
    kind: str = ""
    api_version: str = ""


class _Auth(msgspec.Struct, frozen=True):
    username: str = ""
    password: str = ""


class _Response(msgspec.Struct, frozen=True, rename="camel"):
    cache_key_type: str = ""
    cache_duration: str | None = None
    auth: dict[str, _Auth] | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a plugin said. `cache_s` None = as long as the configuration says."""

    cache_key_type: str
    logins: Logins
    cache_s: float | None = None


class Ask(Protocol):
    """Asks one plugin about an image. Raises errors of `program.run`, InvalidInput and Unavailable."""

    async def __call__(self, image: str) -> Answer: ...


class Plugin:
    """The program of a plugin."""

    def __init__(
        self,
        settings: ProviderSettings,
        directory: Path,
        environment: Mapping[str, str],
        run: helpers.Run = program.run,
    ) -> None:
        self._settings = settings
        self._command = (str(directory / settings.name), *settings.args)
        self._environment = {**environment, **dict(settings.env)}
        self._run = run

    async def __call__(self, image: str) -> Answer:
        request = _Request("CredentialProviderRequest", self._settings.api_version, image)
        finished = await self._run(self._command, msgspec.json.encode(request), self._environment, TIMEOUT_S)
        if finished.exit_code != 0:
            said = clip(finished.stderr.decode(errors="replace"))
            raise Unavailable(
                f"credential provider {self._settings.name} failed with exit code {finished.exit_code}: {said}"
            )
        return _answer(finished.stdout, self._settings)


def _answer(content: bytes, settings: ProviderSettings) -> Answer:
    name = settings.name
    try:
        typed = msgspec.json.decode(content, type=_Typed)
        response = msgspec.json.decode(content, type=_Response)
        cache_s = None if response.cache_duration is None else _seconds(response.cache_duration)
    except (msgspec.DecodeError, UnicodeDecodeError, InvalidInput):
        # The cause is dropped on purpose: its text may quote what the plugin gave.
        raise InvalidInput(f"credential provider {name}: error decoding the response from stdout") from None
    if typed.api_version != settings.api_version:
        raise InvalidInput(
            f"credential provider {name}: apiVersion from credential plugin response did not match expected "
            f"apiVersion:{settings.api_version}, actual apiVersion:{clip(typed.api_version)}"
        )
    if typed.kind != "CredentialProviderResponse":
        raise InvalidInput(f'credential provider {name}: unexpected Kind: "{clip(typed.kind)}"')
    if response.cache_key_type not in ("Image", "Registry", "Global"):
        raise InvalidInput(
            f"credential provider {name} did not return a valid cacheKeyType: {clip(response.cache_key_type)}"
        )
    logins = {
        location: RegistryCredential(auth.username, auth.password) for location, auth in (response.auth or {}).items()
    }
    return Answer(response.cache_key_type, logins, cache_s)


def _seconds(text: str) -> float:
    """A negative duration is one that is over."""
    return 0.0 if text.startswith("-") else duration.parse(text)


class Provider:
    """One plugin with what it has said. Requests about one image at the same time are one."""

    def __init__(self, settings: ProviderSettings, ask: Ask, clock: Clock | None = None) -> None:
        self._settings = settings
        self._ask = ask
        self._clock = clock or SystemClock()
        self._kept: dict[str, tuple[float, Logins]] = {}
        self._asking: dict[str, asyncio.Task[Answer]] = {}

    async def logins(self, image: str) -> Logins:
        """Logins for an image's repository (``host/path``); none when the plugin is not meant for it.

        Raises:
            As `Ask`.
        """
        if not any(matches(pattern, image) for pattern in self._settings.match_images):
            return {}
        now = self._clock.monotonic()
        self._kept = {key: kept for key, kept in self._kept.items() if kept[0] >= now}
        for key in (image, _registry(image), _GLOBAL):
            if key in self._kept:
                return self._kept[key][1]
        answer = await self._asked(image)
        cache_s = self._settings.default_cache_s if answer.cache_s is None else answer.cache_s
        if cache_s > 0:
            key = {"Image": image, "Registry": _registry(image), "Global": _GLOBAL}[answer.cache_key_type]
            self._kept[key] = (self._clock.monotonic() + cache_s, answer.logins)
        return answer.logins

    async def close(self) -> None:
        await aio.cancel(*self._asking.values())

    async def _asked(self, image: str) -> Answer:
        task = self._asking.get(image)
        if task is None:

            async def ask() -> Answer:
                return await self._ask(image)

            name = f"ask credential provider {self._settings.name}"
            task = self._asking[image] = aio.spawn(ask(), name=name, on_crash=lambda _: None)
            task.add_done_callback(lambda _: self._asking.pop(image, None))
        # Who gives up waiting does not take the answer away from the others; the plugin is bounded in time.
        return await asyncio.shield(task)


class Providers:
    """All plugins of a node."""

    def __init__(self, providers: Mapping[str, Provider]) -> None:
        """By name, in the order of the configuration."""
        self._providers = dict(providers)

    async def lookup(self, reference: Reference) -> tuple[RegistryCredential, ...]:
        """Logins for an image, of all plugins that match it. One that fails is logged and left out."""
        keyring = Keyring()
        for name, provider in self._providers.items():
            try:
                keyring.add_logins(await provider.logins(reference.repository))
            except Error as exc:
                _log.warning("credential provider %s gives nothing for %s: %s", name, reference.repository, exc)
        return keyring.lookup(reference)

    async def close(self) -> None:
        for provider in self._providers.values():
            await provider.close()


def load(config: Path, directory: Path, environment: Mapping[str, str]) -> Providers:
    """The plugins of a configuration, whose programs are in `directory` and nowhere else.

    Raises:
        InvalidInput: mistakes in the configuration, or a program that is missing.
    """
    if not directory.is_dir():
        raise InvalidInput(f"plugin binary directory {directory} did not exist")
    found = provider_config.read(config)
    _require_programs(found, directory)
    return Providers({each.name: Provider(each, Plugin(each, directory, environment)) for each in found})


def _require_programs(found: Sequence[ProviderSettings], directory: Path) -> None:
    for settings in found:
        path = directory / settings.name
        if not path.is_file():
            raise InvalidInput(f"plugin binary executable {path} did not exist")
        if not os.access(path, os.X_OK):
            raise InvalidInput(f"error inspecting binary executable {path}: permission denied")


def _registry(image: str) -> str:
    return image.partition("/")[0]
