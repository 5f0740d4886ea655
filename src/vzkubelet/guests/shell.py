"""Text for a guest's shell: quoting, and the scripts that every session of ours is made of.

Any POSIX shell must understand what is made here: dash, busybox ash, bash 3.2 and later, zsh called sh. Scripts reach
the guest on the session's stdin and not in its command line, so nothing in them can be seen in the process list, and
the length of a command line (dropbear: 9,000 bytes) does not bound them.
"""

from collections.abc import Sequence
from importlib import resources

from vzkubelet.errors import InvalidInput

READ_ALL = 'eval "$(cat)"'
"""A session's command: the script is all of stdin."""

READ_LINE = 'IFS= read -r h && eval "$h"'
"""A session's command: the script is the first line of stdin, the rest belongs to what it becomes. A shell reads
byte by byte where it cannot seek, so it takes nothing that comes after the line."""

POSIX_SHELLS = frozenset({"sh", "ash", "dash", "bash"})
"""Login shells that run our scripts themselves. Others (zsh splits no words, fish is no POSIX shell) start ``/bin/sh``,
which makes every exec slower by the start of a shell."""

_NEWLINE = "n=$(printf '\\n.');n=${n%.};"


def quote(text: str) -> str:
    """One word that the shell takes as exactly `text`. Raises InvalidInput for a NUL, which no argument can hold."""
    if "\0" in text:
        raise InvalidInput("a NUL character cannot be part of a command, an environment variable or a path")
    return "'" + text.replace("'", "'\\''") + "'"


def interpreted(script: str) -> str:
    """A command that runs the script in ``/bin/sh``, whatever shell is given the command."""
    return f"/bin/sh -c {quote(script)}"


def words(texts: Sequence[str]) -> str:
    return " ".join(quote(text) for text in texts)


def one_line(script: str) -> bytes:
    """The script as one line for `READ_LINE`, whatever newlines it holds."""
    if "\n" not in script:
        return encode(script + "\n")
    return encode(_NEWLINE + "eval " + quote(script).replace("\n", "'\"$n\"'") + "\n")


def encode(script: str) -> bytes:
    """What goes over the wire. Bytes that were no UTF-8 when they were read from somewhere come back as they were."""
    return script.encode("utf-8", "surrogateescape")


def load(name: str) -> str:
    """A script of this package without its comments and indentation."""
    text = resources.files(__package__).joinpath(name).read_text("utf-8")
    lines = (line.lstrip("\t") for line in text.splitlines())
    return "".join(f"{line}\n" for line in lines if line and not line.startswith("#"))
