"""Checks that need no types: imports, forks, and calls of ordinary Python with Objective-C objects."""

from __future__ import annotations

import ast
from collections.abc import Callable

from .catalog import Catalog, nearest
from .package import Module
from .types import Form, Type

Report = Callable[[ast.AST, str, str, str], None]

FRAMEWORKS = frozenset({"objc", "Foundation", "Virtualization", "dispatch", "libdispatch", "AppKit", "PyObjCTools"})
_MUTATING = frozenset({"append", "extend", "insert", "remove", "pop", "clear", "sort", "reverse"})
_FORKING = {("os", "fork"), ("os", "forkpty"), ("multiprocessing", "Process"), ("multiprocessing", "Pool")}


def check_module(module: Module, report: Report) -> None:
    if module.name.rpartition(".")[2] == "apple":
        return
    for node in ast.walk(module.tree):
        match node:
            case ast.Import(names=names):
                found = [alias.name for alias in names]
            case ast.ImportFrom(module=str(name), level=0):
                found = [name]
            case ast.Call(func=ast.Attribute(attr="import_module"), args=[ast.Constant(value=str(name))]):
                found = [name]
            case _:
                continue
        for name in found:
            if name.partition(".")[0] in FRAMEWORKS:
                report(node, "framework-import", f"{name} is imported here", "apple.frameworks()")


def python_call(catalog: Catalog, report: Report, node: ast.Call, arguments: list[tuple[ast.expr, Type]]) -> None:
    """For method calls the receiver is the first of `arguments`."""
    match node.func:
        case ast.Attribute(value=ast.Name(id=module), attr=name) if (module, name) in _FORKING:
            report(node, "fork-after-objc", f"{module}.{name} forks", "subprocess")
        case ast.Attribute(attr="protocolNamed"):
            _protocol(catalog, report, node)
        case ast.Attribute(attr="lookUpClass"):
            _class(catalog, report, node)
        case ast.Attribute(attr=name) if name in _MUTATING and arguments[0][1].form is Form.ARRAY_GETTER:
            instead = "a new list and the setter"
            report(node, "array-mutated", f"`{name}` on an array that a framework returned", instead)
        case ast.Name(id="str") | ast.Attribute(attr="fspath"):
            if any(known == Type(Form.INSTANCE, "NSURL") for _, known in arguments):
                report(node, "url-as-text", "an NSURL is made text", "url.path()")
        case _:
            pass


def _protocol(catalog: Catalog, report: Report, node: ast.Call) -> None:
    match node.args:
        case [ast.Constant(value=str(name))] if name not in catalog.protocols:
            report(node, "protocol-unknown", f"there is no protocol {name}", nearest(name, catalog.protocols) or "")
        case _:
            pass


def _class(catalog: Catalog, report: Report, node: ast.Call) -> None:
    match node.args:
        case [ast.Constant(value=str(name))] if name not in catalog.classes:
            report(node, "unknown-class", f"the SDK has no {name}", nearest(name, catalog.classes) or "")
        case _:
            pass
