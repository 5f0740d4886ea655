"""Checks of single messages: does the selector exist, do the arguments fit, is it there on every supported Mac."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable

from .arguments import check_argument
from .catalog import Catalog, Method, Version, nearest, python_name
from .scope import Scope, Send
from .types import Form, Type

_ON_QUEUE = (
    "VZVirtualMachine", "VZMacOSInstaller", "VZConsoleDevice", "VZDirectorySharingDevice", "VZGraphicsDevice",
    "VZMemoryBalloonDevice", "VZNetworkDevice", "VZSocketDevice", "VZUSBController", "VZVirtioSocketListener",
)  # fmt: skip

Report = Callable[[ast.AST, str, str, str], None]
"""Node, rule, text, what to write instead."""


def shown(version: Version) -> str:
    return f"MacOS({version[0]})" if not version[1] else f"MacOS({version[0]}, {version[1]})"


class Messages:
    def __init__(self, catalog: Catalog, report: Report, *, intel_is_refused: bool) -> None:
        self._catalog = catalog
        self._report = report
        self._intel_is_refused = intel_is_refused

    def check(self, send: Send) -> Method | None:
        """Everything about one message. Returns the method that it reaches, as far as that is known."""
        if send.receiver.form is Form.CLASS and send.attribute in ("__call__", "alloc", "new"):
            self._creation(send)
            return None
        if send.receiver.is_objc:
            return self._known_receiver(send)
        return self._unknown_receiver(send)

    # --- the selector -------------------------------------------------------------------------------------------------

    def _creation(self, send: Send) -> None:
        name = send.receiver.name
        if send.attribute == "__call__" and (send.arguments or send.node.keywords):
            self._report(send.node, "keyword-constructor", f"{name}(…) with arguments", f"{name}.alloc().initWith…_(…)")
        elif send.attribute != "alloc":
            selector = "init" if send.attribute == "__call__" else "new"
            if self._catalog.refuses(name, selector):
                self._refused(send.node, name)

    def _refused(self, node: ast.AST, name: str) -> None:
        if not self._catalog.is_abstract(name):
            self._report(node, "unavailable-init", f"{name} refuses `init` as NS_UNAVAILABLE", f"make({name})")
            return
        names = self._catalog.names_of(name)
        initializers = sorted(n for n in names if n.startswith("init") and n != "init")
        instead = f"{name}.alloc().{initializers[0]}(…)" if initializers else f"a subclass of {name}"
        self._report(node, "unavailable-new", f"{name} is not made by `new` or `init`", instead)

    def _known_receiver(self, send: Send) -> Method | None:
        name, attribute = send.receiver.name, send.attribute
        if attribute == "init" and self._catalog.refuses(name, "init"):
            self._refused(send.node, name)
            return None
        on_class = send.receiver.form is Form.CLASS
        method = self._catalog.lookup(name, attribute, on_class=on_class)
        if method is None and not on_class and self._catalog.is_abstract(name):
            method = next(iter(self._catalog.in_subclasses(name, attribute)), None)
        if method is None:
            self._unknown(send.node, attribute, self._catalog.names_of(name), f"{name} has no")
            return None
        if method.is_class_method != on_class:
            kind = "class" if method.is_class_method else "instance"
            instead = f"{name}.{attribute}(…)" if method.is_class_method else "it on an instance"
            self._report(send.node, "class-versus-instance", f"{method.label} is a method of the {kind}", instead)
            return method
        self._availability(send.node, method.label, method.introduced, method.arm64_only, send.scope)
        self._common(send, method)
        self._queue(send, method)
        return method

    def _queue(self, send: Send, method: Method) -> None:
        """The body of a coroutine function runs in the event loop; of any other, nobody here knows where."""
        function = send.scope.function
        if (
            send.receiver.form is Form.INSTANCE
            and any(self._catalog.is_kind_of(send.receiver.name, name) for name in _ON_QUEUE)
            and method.selector != "queue"
            and function is not None
            and isinstance(function.node, ast.AsyncFunctionDef)
        ):
            text = f"{method.label} is sent from the event loop"
            self._report(send.node, "off-queue", text, "await queue.run(lambda: …)")

    def _unknown_receiver(self, send: Send) -> Method | None:
        candidates = self._catalog.named(send.attribute)
        if not candidates:
            names = self._catalog.python_names
            if send.attribute not in names:
                self._unknown(send.node, send.attribute, names, "no class has")
            return None
        oldest = min(candidates, key=lambda method: method.introduced)
        if len({method.introduced for method in candidates}) == 1 or oldest.introduced > send.scope.host.floor:
            everywhere = all(method.arm64_only for method in candidates)
            self._availability(send.node, oldest.label, oldest.introduced, everywhere, send.scope)
        self._common(send, oldest, sure=len(candidates) == 1)
        return oldest

    def _unknown(self, node: ast.AST, attribute: str, names: set[str], text: str) -> None:
        guess = nearest(attribute, names)
        self._report(node, "unknown-selector", f"{text} `{attribute}`", f"`{guess}`" if guess else "")

    # --- its arguments ------------------------------------------------------------------------------------------------

    def _common(self, send: Send, method: Method, *, sure: bool = True) -> None:
        wanted, given = len(method.arguments), len(send.node.args)
        if any(isinstance(argument, ast.Starred) for argument in send.node.args):
            return
        if wanted != given or send.node.keywords:
            shape = f"{python_name(method.selector)}({', '.join(_words(method))})"
            self._report(send.node, "argument-count", f"{method.label} takes {wanted} arguments, got {given}", shape)
            return
        if method.deprecated is not None and sure:
            self._report(send.node, "deprecated-selector", f"{method.label} is deprecated", _successor(method))
        for (node, known), declared in zip(send.arguments, method.arguments, strict=True):
            if sure or declared["out"] or declared["block"] is not None or declared["name"] == "NSURL*":
                check_argument(self._catalog, self._report, method, declared, node, known)
        if send.attribute == "setDelegate_":
            self._delegate(send.arguments[0][0], send.scope)

    def _delegate(self, node: ast.expr, scope: Scope) -> None:
        instead = "self._delegate = …; x.setDelegate_(self._delegate)"
        if isinstance(node, ast.Call):
            self._report(node, "delegate-temporary", "the delegate is a temporary object", instead)
        elif isinstance(node, ast.Name) and scope.function is not None and not _is_kept(node.id, scope.function.node):
            self._report(node, "delegate-temporary", f"`{node.id}` is gone when the function returns", instead)

    # --- availability -------------------------------------------------------------------------------------------------

    def class_name(self, node: ast.AST, name: str, scope: Scope) -> None:
        """A class that is named in the code has to be there, too."""
        facts = self._catalog.classes[name]
        self._availability(node, name, self._catalog.class_introduced(name), facts["arm64_only"], scope)

    def _availability(self, node: ast.AST, what: str, introduced: Version, arm64: bool, scope: Scope) -> None:
        if introduced > scope.host.floor:
            needed = shown(introduced)
            self._report(
                node,
                "unguarded-version",
                f"{what} came with macOS {introduced[0]}.{introduced[1]}",
                f"`if host < {needed}: raise …` before it, or `if host >= {needed}:` around it",
            )
        if arm64 and not scope.host.is_arm64 and not self._intel_is_refused:
            self._report(
                node, "arm64-unguarded", f"{what} does not exist on Intel Macs", "`if host.is_apple_silicon:` around it"
            )


def _words(method: Method) -> list[str]:
    return ["None" if argument["out"] else argument["parameter"] or "…" for argument in method.arguments]


def _successor(method: Method) -> str:
    return "initWithURL_" if method.selector == "initWithContentsOfURL:" else "its successor (see Apple's page)"


def _is_kept(name: str, function: ast.AST) -> bool:
    """Whether a local object is stored, returned or handed on, besides being set as a delegate."""
    parameters = function.args if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef) else None
    if parameters is not None and any(argument.arg == name for argument in parameters.args):
        return True
    for node in ast.walk(function):
        match node:
            case ast.Call(func=ast.Attribute(attr="setDelegate_")):
                continue
            case ast.Call(args=arguments) if any(_is_name(argument, name) for argument in arguments):
                return True
            case ast.Assign(value=value) | ast.Return(value=value) | ast.Yield(value=value):
                if value is not None and any(_is_name(inner, name) for inner in _values(value)):
                    return True
            case _:
                pass
    return False


def _is_name(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _values(node: ast.expr) -> list[ast.expr]:
    return list(node.elts) if isinstance(node, ast.Tuple | ast.List) else [node]


def is_camel_case(name: str) -> bool:
    return re.fullmatch(r"[a-z]+(?:[A-Z][A-Za-z0-9]*)+", name) is not None


def check_attribute(catalog: Catalog, report: Report, node: ast.Attribute, receiver: Type) -> None:
    """An attribute of an object that is neither called nor anything Python knows."""
    name = node.attr
    stored = isinstance(node.ctx, ast.Store)
    setter = f"set{name[0].upper()}{name[1:]}_" if name.isidentifier() else ""
    if receiver.is_objc:
        names = catalog.names_of(receiver.name)
        if stored:
            report(node, "property-assigned", f"`{name}` of {receiver.name} is assigned", f"{setter}(…)")
        elif name in names:
            report(node, "property-not-called", f"`{name}` of {receiver.name} is not called", f"{name}()")
        elif not name.startswith("__"):
            guess = nearest(name, names)
            report(node, "unknown-selector", f"{receiver.name} has no `{name}`", f"`{guess}`" if guess else "")
        return
    if receiver.form not in (Form.UNKNOWN, Form.METHOD) or not is_camel_case(name):
        return
    if stored and catalog.named(setter):
        report(node, "property-assigned", f"`{name}` is assigned", f"{setter}(…)")
    elif not stored and any(not method.arguments for method in catalog.named(name)):
        report(node, "property-not-called", f"`{name}` is not called", f"{name}()")
