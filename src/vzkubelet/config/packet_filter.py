"""The command of a packet filter: what sudo, in front of it, says, and the program itself. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

SOFTNET = "softnet"
_SUDO = "sudo"
_TAKES_VALUE = frozenset("CDRTUcghprtu")
"""Options of one letter that a value follows (sudo(8)); ``-h`` without one prints help and starts nothing."""
_LONG_TAKE_VALUE = frozenset(
    {
        "--chdir", "--chroot", "--close-from", "--command-timeout", "--group", "--host", "--login-class",
        "--other-user", "--prompt", "--role", "--type", "--user",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class FilterCommand:
    """`sudo`: empty, or sudo with its options and variables; `program` with its arguments, empty when there is none."""

    sudo: tuple[str, ...]
    program: tuple[str, ...]

    @classmethod
    def of(cls, words: Sequence[str]) -> "FilterCommand":
        place = _place(words)
        return cls(tuple(words[:place]), tuple(words[place:]))

    @property
    def is_softnet(self) -> bool:
        return bool(self.program) and PurePath(self.program[0]).name == SOFTNET


def _place(words: Sequence[str]) -> int:
    """Where the program stands."""
    if not words or PurePath(words[0]).name != _SUDO:
        return 0
    place = 1
    while place < len(words):
        word = words[place]
        if word == "--":
            return place + 1
        if word.startswith("--"):
            place += 2 if word in _LONG_TAKE_VALUE else 1
        elif word.startswith("-") and len(word) > 1:
            place += 2 if _wants_next(word) else 1
        elif "=" in word and "/" not in word.partition("=")[0]:
            place += 1  # a variable
        else:
            return place
    return len(words)


def _wants_next(letters: str) -> bool:
    """Of ``-nu root`` and not of ``-nuroot``: the first letter with a value takes the rest of the word for it."""
    first = next((at for at, letter in enumerate(letters) if letter in _TAKES_VALUE), None)
    return first == len(letters) - 1
