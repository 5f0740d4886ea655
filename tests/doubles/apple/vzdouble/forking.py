"""One hook before every fork of this process: hooks cannot be taken back, and the double is imported many times."""

import os
import weakref
from collections.abc import Callable

_guard: "weakref.ref[Callable[[], None]] | None" = None


def guard_with(function: Callable[[], None]) -> None:
    """Call `function` before a fork as long as somebody else holds it."""
    global _guard
    _guard = weakref.ref(function)


def _before_fork() -> None:
    function = _guard() if _guard is not None else None
    if function is not None:
        function()


os.register_at_fork(before=_before_fork)
