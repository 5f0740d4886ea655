"""The settings of a service, taken from the command line and the environment that it is installed with.

Flags become arguments of the service, and variables go into the environment file, which only its owner can read: some
of them are secrets, and definitions of services are everybody's to read.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from vzkubelet.config import Option


@dataclass(frozen=True, slots=True)
class Captured:
    arguments: tuple[str, ...]
    """``--nodename=mac-1``."""
    variables: Mapping[str, str]


def capture(options: Iterable[Option], flags: Mapping[str, str], environment: Mapping[str, str]) -> Captured:
    """Paths are made absolute: a service starts in another directory. Values have been checked before."""
    arguments: list[str] = []
    variables: dict[str, str] = {}
    for option in options:
        if option.flag and option.name in flags:
            arguments.append(f"--{option.name}={_absolute(option, flags[option.name])}")
        elif option.env and environment.get(option.env):
            variables[option.env] = _absolute(option, environment[option.env])
    if "config" in flags:
        arguments.append(f"--config={Path(flags['config']).expanduser().absolute()}")
    return Captured(tuple(arguments), variables)


def _absolute(option: Option, text: str) -> str:
    value = option.parse(text)
    return str(value.absolute()) if isinstance(value, Path) else text
