"""Which backing the host names, made once per process."""

import functools
import importlib

from .backing import Backing
from .host import current_host

_KNOWN = {"instant": "vzdouble.instant:open_backing", "qemu": "vzdouble.qemu:open_backing"}


@functools.cache
def backing() -> Backing:
    host = current_host()
    named = host.settings().guests
    module, _, factory = _KNOWN.get(named, named).partition(":")
    made: Backing = getattr(importlib.import_module(module), factory)(host)
    return made
