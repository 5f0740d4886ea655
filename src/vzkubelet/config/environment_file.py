"""Variables kept in a file for a service: ``NAME=value`` lines as a POSIX shell and systemd read them.

A definition of a service can be read by every user of the host, so that passwords do not belong in it.
"""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path

from vzkubelet.errors import InvalidInput

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def text(variables: Mapping[str, str]) -> str:
    """The file's content. Raises: InvalidInput when a value has a line break, which no such file can hold."""
    for name, value in variables.items():
        if "\n" in value or "\0" in value:
            raise InvalidInput(f"{name} has more than one line; put it into the configuration file instead")
    return "".join(f"{name}={shlex.quote(value)}\n" for name, value in variables.items())


def parse(content: str, source: str) -> dict[str, str]:
    """Raises: InvalidInput naming the line; never its value."""
    variables: dict[str, str] = {}
    for number, line in enumerate(content.split("\n"), 1):
        try:
            words = shlex.split(line, comments=True)
        except ValueError:
            words = ["?"] * 2
        if not words:
            continue
        name, equals, value = words[0].partition("=")
        if len(words) > 1 or not equals or not _NAME.fullmatch(name):
            raise InvalidInput(f"{source}: line {number} is not NAME=value; quote values that have blanks")
        variables[name] = value
    return variables


def read(path: Path) -> dict[str, str]:
    """Raises: InvalidInput."""
    try:
        return parse(path.read_text(encoding="utf-8"), f"--environment-file: {path}")
    except (OSError, UnicodeDecodeError) as exc:
        reason = getattr(exc, "strerror", None) or "is not text"
        raise InvalidInput(f"--environment-file: cannot read {path}: {reason}") from exc
