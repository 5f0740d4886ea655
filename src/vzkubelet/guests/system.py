"""Which system a guest runs, as far as it makes a difference here."""

from collections.abc import Sequence
from typing import Protocol

from vzkubelet.errors import Unsupported, clip
from vzkubelet.guests import linux, macos
from vzkubelet.ports import GuestMount, GuestUsage


class System(Protocol):
    """What `linux` and `macos` have in common."""

    @property
    def USAGE(self) -> str:  # noqa: N802 - a constant of a module
        """A script that prints what `usage` reads."""

    def become_root(self, is_root: bool, password: str, /) -> str:
        """What goes before the scripts of `prepare` and `shut_down`. `password`: the login's, for a sudo that asks."""

    def prepare(self, hostname: str, mounts: Sequence[GuestMount], /) -> str: ...

    def usage(self, text: str, sampled_at: float, /) -> GuestUsage: ...

    def shut_down(self) -> str: ...


def system(name: str, doing: str) -> System:
    """The system that calls itself `name` (``uname -s``). Raises Unsupported for any other, with what was asked."""
    match name:
        case "Linux":
            return linux
        case "Darwin":
            return macos
        case _:
            raise Unsupported(f"{doing} a {clip(name)} guest is not supported: guests run Linux or macOS")
