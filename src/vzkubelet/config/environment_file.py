"""Variables kept in a file for a service: ``NAME=value`` lines as a POSIX shell and systemd read them.

A definition of a service can be read by every user of the host, so that passwords do not belong in it.
"""

import os
import re
import shlex
import stat
from collections.abc import Collection, Mapping
from pathlib import Path

from vzkubelet.errors import InvalidInput

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def text(variables: Mapping[str, str]) -> str:
    """The file's content. Raises: InvalidInput when a value has a line break, which no such file can hold."""
    for name, value in variables.items():
        if any(character in value for character in "\n\r\0"):
            raise InvalidInput(f"{name} has more than one line; put it into the configuration file instead")
    return "".join(f"{name}={shlex.quote(value)}\n" for name, value in variables.items())


def parse(content: str, source: str) -> dict[str, str]:
    """Raises: InvalidInput naming the line; never its value."""
    variables: dict[str, str] = {}
    for number, line in enumerate(content.split("\n"), 1):
        if "\0" in line:
            raise InvalidInput(f"{source}: line {number} has a NUL character, which no variable can hold")
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
    """The variables of a file, with or without a byte order mark. Raises: InvalidInput."""
    try:
        return parse(path.read_text(encoding="utf-8-sig"), f"--environment-file: {path}")
    except (OSError, UnicodeDecodeError) as exc:
        reason = getattr(exc, "strerror", None) or "is not text"
        raise InvalidInput(f"--environment-file: cannot read {path}: {reason}") from exc


def refuse_exposed(path: Path, variables: Mapping[str, str], secrets: Collection[str]) -> None:
    """Raises: InvalidInput for a file of our own with a secret that others can read, as ssh refuses such a key."""
    told = sorted(name for name in secrets if variables.get(name))
    status = path.stat()
    mode = stat.S_IMODE(status.st_mode)
    if told and mode & 0o077 and status.st_uid == os.getuid():
        raise InvalidInput(
            f"--environment-file: {path} has {', '.join(told)} in it, and others can read it (mode {mode:04o}): "
            f"chmod 600 {shlex.quote(str(path))}"
        )
