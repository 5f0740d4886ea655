"""Where the analysis is: names in sight, what is known of the host, and which function and class enclose it."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field, replace

from .catalog import Catalog
from .guards import Host
from .package import Class, Function, Module
from .types import Type, join


@dataclass(slots=True)
class Scope:
    module: Module
    names: dict[str, Type] = field(default_factory=dict)
    host: Host = field(default_factory=Host)
    function: Function | None = None
    owner: Class | None = None
    """The class whose `self` is in sight."""
    prefix: str = ""
    """Key prefix of functions defined here."""

    def branch(self, host: Host | None = None) -> Scope:
        """A copy whose names can change without touching this one."""
        return replace(self, names=dict(self.names), host=self.host if host is None else self.host.both(host))

    def merge(self, catalog: Catalog, branches: list[Scope]) -> None:
        """Continue with what all branches agree on."""
        merged: dict[str, Type] = {}
        for branch in branches:
            for name, known in branch.names.items():
                merged[name] = join(catalog, merged.get(name), known)
        self.names = merged
        host = branches[0].host
        for branch in branches[1:]:
            host = host.either(branch.host)
        self.host = host


@dataclass(slots=True)
class Send:
    """One message to Objective-C: what is called, on what, with what."""

    node: ast.Call
    scope: Scope
    receiver: Type
    attribute: str
    arguments: list[tuple[ast.expr, Type]]
