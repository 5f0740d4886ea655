"""From sources to settings: precedence, unknown names, missing values. Pure; collects mistakes instead of raising."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from vzkubelet.config import image_options
from vzkubelet.config.options import Host, Option, table
from vzkubelet.config.settings import (
    Config,
    DriverChoice,
    GuestSettings,
    ImageSettings,
    KubeSettings,
    LogSettings,
    MachineSettings,
    NodeSettings,
    PodSettings,
    ServerSettings,
    SidecarSettings,
    TraceSettings,
    VzSettings,
)
from vzkubelet.errors import InvalidInput


class Purpose(Enum):
    DAEMON = "daemon"
    STANDALONE = "standalone"
    """No cluster: neither kubeconfig nor serving certificate nor guest login is insisted on."""


_NO_DIRECTORY = "/nonexistent"
"""As the users' database of Debian has it for users without a home directory."""
_PASSWORD = "vz-ssh-password"  # noqa: S105 - the setting's name

FIXTURE_LOGIN = {"ssh_user": "root", "ssh_password": "vz"}
"""Of the guest images that this repository builds. Only where no login is insisted on (no cluster, no real guests), so
that the first `run` needs no settings."""


@dataclass(frozen=True, slots=True)
class Resolution:
    config: Config | None
    """None when there are mistakes."""
    mistakes: tuple[str, ...]
    files: tuple[tuple[str, Path], ...]
    """Files that must be readable, with the label of their setting; known even when something else is wrong."""
    understood: Config
    """With the default of every setting that is a mistake."""


@dataclass(frozen=True, slots=True)
class _Given:
    """A value as text, and how a message names the place it came from."""

    text: str
    source: str
    is_default: bool = False


def resolve(
    flags: Mapping[str, str],
    env: Mapping[str, str],
    file: Mapping[str, object] | None,
    purpose: Purpose,
    host: Host,
) -> Resolution:
    options = table(host, env)
    mistakes = [
        *_unknown(flags, [option.name for option in options if option.flag], "--{}"),
        *_unknown(
            file or {},
            [name for option in options for name in (option.name, option.alias) if name],
            "configuration file: {}",
            {option.env: option.name for option in options if option.env},
        ),
    ]
    parsed: dict[str, Any] = {}
    missing: list[Option] = []
    refused: set[str] = set()
    for option in options:
        try:
            given = _given(option, flags, env, file or {})
            if given is not None and given.is_default and _needs_no_home(option, host, purpose):
                given = _Given(given.text.replace("~", _NO_DIRECTORY, 1), given.source)
            parsed[option.name] = None if given is None else _parse(option, given)
        except InvalidInput as exc:
            mistakes.append(str(exc))
            parsed[option.name] = _default(option)
            refused.add(option.name)
            continue
        if given is None and option.required:
            missing.append(option)
    mistakes += image_options.contradictions({name: value for name, value in parsed.items() if name not in refused})
    mistakes += _missing(missing, parsed, purpose)
    files = _files(options, parsed, purpose)
    understood = _assemble(options, parsed)
    return Resolution(None if mistakes else understood, tuple(mistakes), files, understood)


_UNNAMED = {"nodename": "localhost"}
"""In place of a default that is a mistake itself: a host's name need not be one of a node."""


def _default(option: Option) -> object:
    if option.default is None:
        return None
    try:
        return option.parse(option.default)
    except InvalidInput:
        return _UNNAMED.get(option.name)


def _files(options: tuple[Option, ...], parsed: Mapping[str, Any], purpose: Purpose) -> tuple[tuple[str, Path], ...]:
    if purpose is Purpose.STANDALONE:
        return ()
    named = ((option.label, parsed.get(option.name)) for option in options if option.is_file)
    return tuple((label, path) for label, path in named if path is not None)


def _given(
    option: Option, flags: Mapping[str, str], env: Mapping[str, str], file: Mapping[str, object]
) -> _Given | None:
    """The winning value. An empty variable and a null in the file count as not given."""
    if option.flag and option.name in flags:
        return _Given(flags[option.name], f"--{option.name}")
    if option.env and env.get(option.env):
        return _Given(env[option.env], option.env)
    named = [name for name in (option.name, option.alias) if name and file.get(name) is not None]
    if len(named) > 1:
        raise InvalidInput(f"configuration file: {named[0]} and {named[1]} are the same setting: give one of them")
    if named:
        source = f"configuration file: {named[0]}"
        return _Given(_file_text(file[named[0]], source), source)
    if option.default is not None:
        return _Given(option.default, f"--{option.name} (default)", is_default=True)
    return None


def _needs_no_home(option: Option, host: Host, purpose: Purpose) -> bool:
    """Whether a default below an unknown home directory is no mistake, because nothing will be looked for there."""
    if host.home or not (option.default or "").startswith("~"):
        return False
    if option.name == "kubeconfig":
        return purpose is Purpose.STANDALONE
    return option.target.startswith("vz.") and host.platform != "darwin"


def _file_text(value: object, source: str) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str() | int() | float():
            return str(value)
        case list() if all(isinstance(item, str) for item in value):
            return ",".join(value)
        case _:
            raise InvalidInput(f"{source}: is neither a text nor a number nor a list of texts")


def _parse(option: Option, given: _Given) -> object:
    try:
        return option.parse(given.text)
    except InvalidInput as exc:
        reason = "is not valid" if option.secret else str(exc)
        raise InvalidInput(f"{given.source}: {reason}") from exc


def _unknown(
    given: Mapping[str, object], known: list[str], source: str, variables: Mapping[str, str] | None = None
) -> list[str]:
    """`variables` are other names that people may write, and what is meant by them."""
    mistakes = []
    for name in given:
        if name not in known:
            spelled = name.lower().replace("_", "-")
            near = [variable] if (variable := (variables or {}).get(name)) else []
            near = near or difflib.get_close_matches(name, known, n=1) or difflib.get_close_matches(spelled, known, n=1)
            hint = f", did you mean {near[0]}?" if near else ""
            mistakes.append(f"{source.format(name)}: no such setting{hint}")
    return mistakes


def _missing(missing: list[Option], parsed: Mapping[str, Any], purpose: Purpose) -> list[str]:
    """Without a cluster nothing is required; the synthetic driver has no guest to log in to."""
    if purpose is Purpose.STANDALONE:
        return []
    guestless = parsed.get("machine-driver") is DriverChoice.SYNTHETIC
    if _has_key(parsed):
        missing = [option for option in missing if option.name != _PASSWORD]
    return [
        f"{option.label} is not set: {option.help[0].lower()}{option.help[1:]}"
        for option in missing
        if not (guestless and option.target.startswith("guests."))
    ]


def _has_key(parsed: Mapping[str, Any]) -> bool:
    return any(parsed.get(name) for name in ("vz-ssh-private-key-base64", "vz-ssh-private-key-path"))


def _assemble(options: tuple[Option, ...], parsed: Mapping[str, Any]) -> Config:
    groups: dict[str, dict[str, Any]] = {}
    for option in options:
        group, _, name = option.target.rpartition(".")
        groups.setdefault(group, {})[name] = parsed[option.name]
    if parsed["disable-taint"]:
        groups["node"]["taints"] = ()
    groups["server"]["verify_clients"] = not parsed["no-verify-clients"]
    if _has_key(parsed) and groups["guests"]["ssh_password"] is None:
        groups["guests"]["ssh_password"] = ""
    for name, default in FIXTURE_LOGIN.items():
        if groups["guests"][name] is None:
            groups["guests"][name] = default
    return Config(
        cache_dir=groups[""]["cache_dir"],
        node=NodeSettings(**groups["node"]),
        pods=PodSettings(**groups["pods"]),
        kube=KubeSettings(**groups["kube"]),
        server=ServerSettings(**groups["server"]),
        machines=MachineSettings(**groups["machines"]),
        vz=VzSettings(**groups["vz"]),
        guests=GuestSettings(**groups["guests"]),
        images=ImageSettings(**groups["images"]),
        sidecars=SidecarSettings(**groups["sidecars"]),
        logs=LogSettings(**groups["logs"]),
        traces=TraceSettings(**groups["traces"]),
    )
