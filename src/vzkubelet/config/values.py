"""Parsers of single setting values: text in, a typed value out, `InvalidInput` with the way out otherwise."""

import base64
import binascii
import re
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from vzkubelet.config.settings import Display, LogLevel, Taint
from vzkubelet.errors import InvalidInput
from vzkubelet.model import duration, quantity

Parser = Callable[[str], Any]
E = TypeVar("E", bound=StrEnum)

_DNS_SUBDOMAIN = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
_LABEL_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
_BOOLEANS = {"1": True, "t": True, "true": True, "0": False, "f": False, "false": False}
_DOCKER_SCHEMES = ("unix://", "tcp://", "http://", "https://")
_LEVELS = {
    "trace": LogLevel.DEBUG,
    "warn": LogLevel.WARNING,
    "fatal": LogLevel.CRITICAL,
    "panic": LogLevel.CRITICAL,
    **{level.value: level for level in LogLevel},
}
"""The Go project's level names (logrus) and Python's; those without a counterpart map to the nearest one."""

NO_HOME = "HOME is not set and this user has no home directory: set HOME, or give absolute paths"


def text(raw: str) -> str:
    if not raw.strip():
        raise InvalidInput("is empty")
    return raw.strip()


def secret(raw: str) -> str:
    """Kept as it is: blanks may belong to a password."""
    return raw


def base64_data(raw: str) -> bytes:
    """Line breaks are allowed in it, as base64(1) writes them."""
    try:
        return base64.b64decode("".join(raw.split()), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidInput("is not base64") from None


def words(raw: str) -> tuple[str, ...]:
    """Separated by commas; at least one."""
    found = tuple(word.strip() for word in raw.split(",") if word.strip())
    if not found:
        raise InvalidInput("is empty")
    return found


def boolean(raw: str) -> bool:
    value = _BOOLEANS.get(raw.strip().lower())
    if value is None:
        raise InvalidInput(f'"{raw}" is neither true nor false')
    return value


def choice(kind: type[E]) -> Callable[[str], E]:
    def parse(raw: str) -> E:
        try:
            return kind(raw.strip().lower())
        except ValueError:
            raise InvalidInput(f'"{raw}" is none of {", ".join(kind)}') from None

    return parse


def log_level(raw: str) -> LogLevel:
    level = _LEVELS.get(raw.strip().lower())
    if level is None:
        raise InvalidInput(f'"{raw}" is none of {", ".join(LogLevel)}')
    return level


def integer(low: int, high: int) -> Callable[[str], int]:
    def parse(raw: str) -> int:
        if not re.fullmatch(r"\d{1,9}", raw.strip()) or not low <= int(raw) <= high:
            raise InvalidInput(f'"{raw}" is not a whole number from {low} to {high}')
        return int(raw)

    return parse


def seconds(raw: str) -> float:
    return duration.parse(raw)


def positive_seconds(raw: str) -> float:
    value = duration.parse(raw)
    if value <= 0:
        raise InvalidInput(f'"{raw}" is not longer than nothing')
    return value


def cache_ttl(kubelet_default_s: float) -> Callable[[str], float]:
    """Seconds; 0 stands for the kubelet's default, as it did in the Go project."""

    def parse(raw: str) -> float:
        return duration.parse(raw) or kubelet_default_s

    return parse


def cpu_milli(raw: str) -> int:
    return _positive(raw, quantity.to_milli(raw))


def memory_bytes(raw: str) -> int:
    return _positive(raw, quantity.to_int(raw))


def _positive(raw: str, value: int) -> int:
    if value <= 0:
        raise InvalidInput(f'"{raw}" is not more than nothing')
    return value


def path(home: str) -> Callable[[str], Path]:
    """A path; a leading ``~`` is `home`, because no shell expands the values of a file or of a variable.

    An empty `home` is an unknown one: only a path that begins there is then a mistake.
    """

    def parse(raw: str) -> Path:
        given = text(raw)
        if given == "~" or given.startswith("~/"):
            if not home:
                raise InvalidInput(f'"{given}" cannot be found: {NO_HOME}')
            given = home + given[1:]
        return Path(given)

    return parse


def ip_address(raw: str) -> str:
    import ipaddress  # 4 ms that --help does not need

    try:
        return str(ipaddress.ip_address(raw.strip()))
    except ValueError:
        raise InvalidInput(f'"{raw}" is not an IP address') from None


def display(raw: str) -> Display:
    """``WIDTHxHEIGHT`` in pixels, or ``WIDTHxHEIGHTxPPI``."""
    found = re.fullmatch(r"(\d{3,5})x(\d{3,5})(?:x(\d{2,3}))?", raw.strip().lower())
    if found is None:
        raise InvalidInput(f'"{raw}" is no display size: write 1920x1080 or, with pixels per inch, 1920x1080x80')
    width, height, density = found.groups()
    return Display(int(width), int(height), int(density)) if density else Display(int(width), int(height))


def command(raw: str) -> tuple[str, ...]:
    """A command line as a shell splits it; nothing is expanded."""
    import shlex

    try:
        return tuple(shlex.split(text(raw)))
    except ValueError as exc:
        raise InvalidInput(f'"{raw}" is not a command line: {exc}') from exc


def node_name(raw: str) -> str:
    """A DNS subdomain (RFC 1123), as names of Node objects are."""
    name = raw.strip()
    if len(name) > 253 or not _DNS_SUBDOMAIN.fullmatch(name):
        raise InvalidInput(
            f'"{raw}" is not a node name: use lower case letters, digits, "-" and ".", and begin and end with a '
            "letter or digit"
        )
    return name


def docker_host(raw: str) -> str:
    address = text(raw)
    if not address.startswith(_DOCKER_SCHEMES) or address in _DOCKER_SCHEMES:
        raise InvalidInput(f'"{raw}" is not the address of a Docker engine: begin with {", ".join(_DOCKER_SCHEMES)}')
    return address


def sample_ratio(raw: str) -> float:
    """``always``, ``never`` or a percentage, as in the Go project; a ratio from 0 to 1."""
    word = raw.strip().lower()
    if word in ("", "always"):
        return 1.0
    if word == "never":
        return 0.0
    if not re.fullmatch(r"\d{1,3}(\.\d+)?", word) or float(word) > 100:
        raise InvalidInput(f'"{raw}" is neither always nor never nor a percentage from 0 to 100')
    return float(word) / 100


def taints(raw: str) -> tuple[Taint, ...]:
    """``key=value:effect``, several separated by commas (kubelet ``--register-with-taints``); empty = none."""
    return tuple(_taint(part.strip()) for part in raw.split(",") if part.strip())


def _taint(raw: str) -> Taint:
    rest, colon, effect = raw.rpartition(":")
    key, _, value = rest.partition("=")
    prefix, slash, name = key.rpartition("/")
    well_formed = (
        colon
        and effect in _EFFECTS
        and _LABEL_NAME.fullmatch(name)
        and (not slash or _DNS_SUBDOMAIN.fullmatch(prefix))
        and (not value or _LABEL_NAME.fullmatch(value))
    )
    if not well_formed:
        raise InvalidInput(
            f'"{raw}" is not a taint: write key=value:effect with one of the effects {", ".join(_EFFECTS)}'
        )
    return Taint(key, value, effect)
