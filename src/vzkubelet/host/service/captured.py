"""The settings of a service, taken from the command line and the environment that it is installed with.

Flags become arguments of the service, and variables go into the environment file, which only its owner can read: some
of them are secrets, and definitions of services are everybody's to read.
"""

import unicodedata
import urllib.parse
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from vzkubelet.config import Option
from vzkubelet.errors import InvalidInput

_BREAKING = frozenset({"Cc", "Cs"})
"""Control characters, which begin a new line of a unit and which a property list cannot hold, and bytes that are no
text."""


@dataclass(frozen=True, slots=True)
class Captured:
    arguments: tuple[str, ...]
    """``--nodename=mac-1``."""
    variables: Mapping[str, str]


def capture(options: Iterable[Option], flags: Mapping[str, str], environment: Mapping[str, str]) -> Captured:
    """Paths are made absolute: a service starts in another directory. Values have been checked before.

    A flag whose URL has a password in it becomes a variable.

    Raises:
        InvalidInput: a value has a control character.
    """
    arguments: list[str] = []
    variables: dict[str, str] = {}
    for option in options:
        if option.flag and option.name in flags:
            value = single_line(f"--{option.name}", _absolute(option, flags[option.name]))
            if option.env and _has_credential(value):
                variables[option.env] = value
            else:
                arguments.append(f"--{option.name}={value}")
        elif option.env and environment.get(option.env):
            variables[option.env] = _absolute(option, environment[option.env])
    if "config" in flags:
        arguments.append(f"--config={single_line('--config', str(Path(flags['config']).expanduser().absolute()))}")
    return Captured(tuple(arguments), variables)


def single_line(name: str, text: str) -> str:
    """The text as it is. Raises: InvalidInput when it would break out of its line in a definition."""
    if any(unicodedata.category(character) in _BREAKING for character in text):
        raise InvalidInput(f"{name} has a line break or another control character in it, which no service can be given")
    return text


def _has_credential(value: str) -> bool:
    try:
        return "://" in value and "@" in urllib.parse.urlsplit(value).netloc
    except ValueError:  # a host in brackets that is no address
        return False


def _absolute(option: Option, text: str) -> str:
    value = option.parse(text)
    return str(value.absolute()) if isinstance(value, Path) else text
