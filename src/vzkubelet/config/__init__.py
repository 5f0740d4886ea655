"""Configuration: flags, environment and file become one frozen `Config`.

The only place that reads the environment. `load` is pure; `read` feeds it from this process and adds what only the
file system can tell. Precedence: flag, environment, file, default. All mistakes are reported at once.

What is set how: `vzkubelet.config.options`. What each setting means: `vzkubelet.config.settings`.
"""

import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from vzkubelet.config import environment_file, values
from vzkubelet.config.options import Host, Option
from vzkubelet.config.options import table as _table
from vzkubelet.config.resolve import Purpose, Resolution, resolve
from vzkubelet.config.settings import (
    Config,
    CredentialVerification,
    Display,
    DriverChoice,
    GuestNetwork,
    GuestSettings,
    ImageSettings,
    KubeSettings,
    LogFormat,
    LogLevel,
    LogSettings,
    MachineSettings,
    NodeSettings,
    PodSettings,
    ServerSettings,
    SidecarSettings,
    Taint,
    TraceSettings,
    VzAudio,
    VzDiskCaching,
    VzDiskSync,
    VzMachineId,
    VzNetwork,
    VzSettings,
)
from vzkubelet.config.values import NO_HOME
from vzkubelet.errors import InvalidInput

__all__ = [
    "NO_HOME",
    "Config",
    "CredentialVerification",
    "Display",
    "DriverChoice",
    "GuestNetwork",
    "GuestSettings",
    "Host",
    "ImageSettings",
    "KubeSettings",
    "LogFormat",
    "LogLevel",
    "LogSettings",
    "MachineSettings",
    "NodeSettings",
    "Option",
    "PodSettings",
    "Purpose",
    "ServerSettings",
    "SidecarSettings",
    "Taint",
    "TraceSettings",
    "VzAudio",
    "VzDiskCaching",
    "VzDiskSync",
    "VzMachineId",
    "VzNetwork",
    "VzSettings",
    "docker_config_directory",
    "effective",
    "has_home",
    "helper_environment",
    "load",
    "options",
    "process_environment",
    "read",
    "understand",
    "without_userinfo",
]


def local_host() -> Host:
    return Host(name=os.uname().nodename, platform=sys.platform, home=_home())


def has_home() -> bool:
    """Whether this process knows where ``~`` points: HOME, or the account's entry among the users."""
    return bool(_home())


def _home() -> str:
    try:
        return str(Path.home())
    except RuntimeError:
        return ""


def options() -> tuple[Option, ...]:
    """The table of settings with this host's defaults."""
    return _table(local_host(), os.environ)


def process_environment() -> dict[str, str]:
    """A copy of the environment, for processes that this one starts."""
    return dict(os.environ)


def helper_environment() -> dict[str, str]:
    """The environment for processes that run our own code for long: without the variables that hold secrets."""
    secrets = {option.env for option in options() if option.secret}
    return {name: value for name, value in os.environ.items() if name not in secrets}


def docker_config_directory() -> Path | None:
    """Where ``docker login`` keeps its ``config.json``: DOCKER_CONFIG, else ``~/.docker``; None where ``~`` is
    unknown."""
    directory = os.environ.get("DOCKER_CONFIG")
    if directory:
        return Path(directory)
    return Path.home() / ".docker" if has_home() else None


def load(
    argv_values: Mapping[str, str],
    env: Mapping[str, str],
    file: Mapping[str, object] | None = None,
    *,
    purpose: Purpose = Purpose.DAEMON,
    host: Host | None = None,
) -> Config:
    """One Config from flag values (by name without dashes), variables and the contents of the file. Pure.

    Raises:
        InvalidInput: every mistake, in one message.
    """
    resolution = resolve(argv_values, env, file, purpose, host or local_host())
    return _finish(resolution, [])


def read(argv_values: Mapping[str, str], *, purpose: Purpose = Purpose.DAEMON) -> Config:
    """The Config of this process. ``config`` among the flag values names the file, ``environment-file`` one with
    variables that count where the environment itself has none.

    Raises:
        InvalidInput: every mistake, files that cannot be read among them, in one message.
    """
    resolution, mistakes = _resolved(argv_values, purpose)
    return _finish(resolution, [*mistakes, *_unreadable(resolution.files)])


def understand(argv_values: Mapping[str, str], *, purpose: Purpose = Purpose.DAEMON) -> tuple[Config, tuple[str, ...]]:
    """As `read`, and every setting that is a mistake has its default instead; the mistakes. Never raises."""
    resolution, mistakes = _resolved(argv_values, purpose)
    return resolution.understood, (*mistakes, *resolution.mistakes, *_unreadable(resolution.files))


def _resolved(argv_values: Mapping[str, str], purpose: Purpose) -> tuple[Resolution, list[str]]:
    """What the sources say, and what is wrong with the sources."""
    given = {name: value for name, value in argv_values.items() if name != "environment-file"}
    mistakes: list[str] = []
    file: Mapping[str, object] | None = None
    variables: Mapping[str, str] = os.environ
    try:
        if "environment-file" in argv_values:
            path = Path(argv_values["environment-file"]).expanduser()
            kept = environment_file.read(path)
            variables = {**kept, **os.environ}
            environment_file.refuse_exposed(path, kept, [option.env for option in options() if option.secret])
    except InvalidInput as exc:
        mistakes.append(str(exc))
    try:
        if "config" in given:
            file = read_file(Path(given.pop("config")).expanduser())
    except InvalidInput as exc:
        mistakes.append(str(exc))
    return resolve(given, variables, file, purpose, local_host()), mistakes


def read_file(path: Path) -> Mapping[str, object]:
    """The settings in a YAML file.

    Raises:
        InvalidInput: unreadable, or not a mapping of names to values.
    """
    import yaml  # 13 ms that --help does not need

    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise InvalidInput(f"--config: cannot read {path}: {exc.strerror}") from exc
    except (yaml.YAMLError, UnicodeDecodeError) as exc:
        raise InvalidInput(f"--config: {path} is not YAML: {' '.join(str(exc).split())}") from exc
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise InvalidInput(f"--config: {path} is not a mapping of setting names to values")
    return {str(key): value for key, value in document.items()}


def effective(config: Config) -> dict[str, str]:
    """Every setting as text, secrets redacted: what the daemon logs at start."""
    shown: dict[str, str] = {}
    for option in options():
        if not option.target:
            continue
        value: object = config
        for attribute in option.target.split("."):
            value = getattr(value, attribute)
        if option.secret:
            shown[option.target] = "(set)" if value else "(empty)"
        elif option.parse is values.docker_host:
            shown[option.target] = without_userinfo(str(value))
        elif isinstance(value, tuple):
            shown[option.target] = (" " if option.parse is values.command else ",").join(map(str, value))
        else:
            shown[option.target] = "" if value is None else str(value)
    return shown


def without_userinfo(url: str) -> str:
    """A URL as it may be shown: without user and password."""
    scheme, separator, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}"


def _finish(resolution: Resolution, more: list[str]) -> Config:
    mistakes = [*more, *resolution.mistakes]
    if resolution.config is None or mistakes:
        if len(mistakes) == 1:
            raise InvalidInput(mistakes[0], reason="InvalidConfiguration")
        listed = "".join(f"\n  {mistake}" for mistake in mistakes)
        raise InvalidInput(f"{len(mistakes)} mistakes in the configuration:{listed}", reason="InvalidConfiguration")
    return resolution.config


def _unreadable(files: Iterable[tuple[str, Path]]) -> list[str]:
    mistakes = []
    for label, path in files:
        try:
            with path.open("rb"):
                pass
        except OSError as exc:
            mistakes.append(f"{label}: cannot read {path}: {exc.strerror}")
    return mistakes
