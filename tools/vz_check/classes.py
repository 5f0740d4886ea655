"""Checks of Python classes that derive from Objective-C ones."""

from __future__ import annotations

import ast
from collections.abc import Callable

from .catalog import Catalog, nearest, python_name
from .handlers import Handlers
from .package import Class, Package
from .scope import Scope

Report = Callable[[ast.AST, str, str, str], None]


class Classes:
    def __init__(self, package: Package, catalog: Catalog, handlers: Handlers) -> None:
        self._package = package
        self._catalog = catalog
        self._handlers = handlers
        self._seen: dict[str, str] = {}

    def check(self, known: Class, scope: Scope, report: Report) -> set[tuple[str, str]]:
        """Returns what is implemented, as protocol and selector."""
        self._name(known, scope, report)
        assert known.objc_base is not None
        protocols = self._protocols(known, scope)
        inherited = self._catalog.names_of(known.objc_base)
        implemented = set()
        for node in known.node.body:
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            found = self._method(known, node, protocols, inherited, report)
            if found is not None:
                implemented.add(found)
        for inner in ast.walk(known.node):
            match inner:
                case ast.Call(func=ast.Name(id="super")):
                    instead = f"objc.super({known.node.name}, self)"
                    report(inner, "python-super", f"{known.node.name} is an Objective-C class", instead)
                case _:
                    pass
        return implemented

    def _name(self, known: Class, scope: Scope, report: Report) -> None:
        name = known.node.name
        if self._seen.setdefault(name, known.key) != known.key:
            report(known.node, "class-redefined", f"another Objective-C class is called {name}", "a name of its own")
        if scope.function is not None and not _is_cached(scope.function.node):
            instead = "@functools.cache on the function, or the class at module level"
            report(known.node, "class-in-function", f"{name} is defined again at every call", instead)

    def _protocols(self, known: Class, scope: Scope) -> list[str]:
        """What `protocols=[objc.protocolNamed("…")]` names, also through a variable."""
        around = scope.function.node if scope.function is not None else scope.module.tree
        names = []
        for keyword in known.node.keywords:
            if keyword.arg == "protocols":
                value = _assigned(around, keyword.value.id) if isinstance(keyword.value, ast.Name) else keyword.value
                names += [
                    str(node.args[0].value)
                    for node in ast.walk(value)
                    if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant)
                ]
        return [name for name in names if name in self._catalog.protocols]

    def _method(
        self,
        known: Class,
        node: ast.FunctionDef | ast.AsyncFunctionDef,
        protocols: list[str],
        inherited: set[str],
        report: Report,
    ) -> tuple[str, str] | None:
        name = node.name
        decorators = {getattr(d, "attr", getattr(d, "id", "")) for d in node.decorator_list}
        if name == "__init__":
            report(node, "objc-init", f"{known.node.name} is made by alloc().init()", "def init(self): …")
            return None
        if "python_method" in decorators or name.startswith("__") or name in inherited:
            return None
        for protocol in protocols:
            for selector, facts in self._catalog.protocols[protocol].items():
                if python_name(selector) == name:
                    self._implementation(known, node, selector, facts["returns"]["type"], report)
                    return protocol, selector
        choices = [python_name(selector) for protocol in protocols for selector in self._catalog.protocols[protocol]]
        guess = nearest(name, choices)
        where = " or ".join(protocols) or "no protocol that the class declares"
        text = f"`{name}` is not in {where}" if protocols else f"`{name}` is in {where}"
        report(node, "delegate-method", text, f"`{guess}`" if guess else "@objc.python_method before a plain helper")
        return None

    def _implementation(
        self,
        known: Class,
        node: ast.FunctionDef | ast.AsyncFunctionDef,
        selector: str,
        returns: str,
        report: Report,
    ) -> None:
        wanted, given = selector.count(":"), len(node.args.args) - 1
        if wanted != given or node.args.kwonlyargs or node.args.vararg is not None:
            report(node, "delegate-arity", f"`{node.name}` takes {given} arguments after self, not {wanted}", "")
        if isinstance(node, ast.AsyncFunctionDef):
            report(node, "handler-async", f"`{node.name}` is a coroutine function", "a plain def")
            return
        self._handlers.callback(self._package.functions[f"{known.key}.{node.name}"], returns_value=returns != "v")


def _assigned(around: ast.AST, name: str) -> ast.expr:
    for node in ast.walk(around):
        match node:
            case ast.Assign(targets=[ast.Name(id=target)], value=value) if target == name:
                return value
            case _:
                pass
    return ast.Constant(value=None)


def _is_cached(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    names = {
        getattr(target, "attr", getattr(target, "id", ""))
        for decorator in function.decorator_list
        for target in [decorator.func if isinstance(decorator, ast.Call) else decorator]
    }
    return bool(names & {"cache", "lru_cache"})
