"""Runs all checks over one package and gathers what it uses."""

from __future__ import annotations

import ast
from pathlib import Path

from .catalog import Catalog, Json, nearest
from .classes import Classes
from .findings import RULES, Finding
from .flow import Flow
from .guards import refuses_intel
from .handlers import Handlers
from .messages import Messages, check_attribute
from .modules import check_module, python_call
from .package import Class, Package
from .scope import Scope, Send
from .types import Form, Type
from .usage import Usage

_BLOCK_FUNCTIONS = {"dispatch_async": 1, "dispatch_after": 2, "dispatch_barrier_async": 1}
_WAITING_FUNCTIONS = ("dispatch_sync", "dispatch_barrier_sync", "dispatch_async_and_wait", "dispatch_semaphore_wait")


class Checker:
    """The observer of a `Flow`: every event goes to the checks that care, and to the record of what is used."""

    def __init__(self, directory: Path, package_name: str, catalog: Catalog, shown: Path | None = None) -> None:
        self.package = Package(directory, package_name, shown)
        self.catalog = catalog
        self.usage = Usage(self.package, catalog)
        self.findings: set[Finding] = set()
        self._places = {id(node): module.shown for module in self.package.modules for node in ast.walk(module.tree)}
        self._messages = Messages(catalog, self.report, intel_is_refused=refuses_intel(self.package))
        self._handlers = Handlers(self.package, self.report)
        self._classes = Classes(self.package, catalog, self._handlers)

    def run(self) -> list[Finding]:
        Flow(self.package, self.catalog, self).run()
        for module in self.package.modules:
            check_module(module, self.report)
        return sorted(self.findings)

    def api(self) -> Json:
        """Only after `run`."""
        return self.usage.document()

    def report(self, node: ast.AST, rule: str, text: str, instead: str) -> None:
        assert rule in RULES, rule
        path, line = self._places[id(node)], getattr(node, "lineno", 1)
        if rule in ("unguarded-version", "arm64-unguarded") and any(
            (found.path, found.line, found.rule) == (path, line, rule) for found in self.findings
        ):
            return
        self.findings.add(Finding(path, line, rule, text, instead))

    # --- events -------------------------------------------------------------------------------------------------------

    def message(self, send: Send) -> None:
        method = self._messages.check(send)
        self.usage.message(send, method)
        if method is not None:
            for (node, known), argument in zip(send.arguments, method.arguments, strict=False):
                if argument["block"] is not None:
                    self._handlers.block(node, known, argument["block"], method.label)

    def attribute(self, node: ast.Attribute, receiver: Type, scope: Scope) -> None:
        check_attribute(self.catalog, self.report, node, receiver)

    def framework_name(self, node: ast.expr, name: str, scope: Scope) -> None:
        self.usage.name(name, scope)
        if name in self.catalog.classes:
            self._messages.class_name(node, name, scope)
        elif name not in self.catalog.enums and name not in self.catalog.constants:
            is_enum = self.catalog.is_enum_like(name)
            known = self.catalog.enums if is_enum else self.catalog.classes
            guess = nearest(name, known)
            rule = "unknown-constant" if is_enum else "unknown-class"
            self.report(node, rule, f"the SDK has no {name}", guess or "")

    def dispatch_call(self, node: ast.Call, name: str, arguments: list[tuple[ast.expr, Type]], scope: Scope) -> None:
        self.usage.function(name, scope)
        facts = self.catalog.functions.get(name)
        if facts is None:
            self.report(node, "unknown-function", f"there is no {name}", nearest(name, self.catalog.functions) or "")
            return
        if len(node.args) != len(facts["arguments"]):
            text = f"{name} takes {len(facts['arguments'])} arguments, got {len(node.args)}"
            self.report(node, "argument-count", text, "")
            return
        if name in _WAITING_FUNCTIONS:
            self.report(node, "dispatch-sync", f"{name} waits for a queue", "dispatch_async and a future")
        if name == "dispatch_queue_create":
            self._queue(node, arguments)
        if name in _BLOCK_FUNCTIONS:
            handler, known = arguments[_BLOCK_FUNCTIONS[name]]
            self._handlers.block(handler, known, ["v"], name)

    def _queue(self, node: ast.Call, arguments: list[tuple[ast.expr, Type]]) -> None:
        (label, known), (attributes, given) = arguments
        if known.form is Form.TEXT:
            self.report(label, "queue-label", "the label of the queue is text", 'b"label"')
        name = getattr(attributes, "attr", getattr(attributes, "id", ""))
        if given.form is not Form.NONE and name != "DISPATCH_QUEUE_SERIAL":
            self.report(attributes, "queue-concurrent", "the queue is made with an attribute", "None")

    def objc_class(self, known: Class, scope: Scope) -> None:
        for protocol, selector in self._classes.check(known, scope, self.report):
            self.usage.protocol(protocol, selector, scope)

    def python_call(self, node: ast.Call, arguments: list[tuple[ast.expr, Type]], scope: Scope) -> None:
        python_call(self.catalog, self.report, node, arguments)

    def outcome(self, node: ast.expr, use: str, scope: Scope) -> None:
        advice = "ok, error = …; if not ok: …"
        match use:
            case "truth":
                self.report(node, "truth-of-tuple", "the result is a tuple, which is always true", advice)
            case "subscript":
                self.report(node, "error-unpacked", "the error in the tuple is thrown away", advice)
            case "ignored":
                self.report(node, "error-unpacked", "the result is not looked at", advice)
            case _:
                self.report(node, "error-unpacked", "the result is a tuple, not the object", advice)

    def comparison(self, node: ast.Compare, sides: list[Type], scope: Scope) -> None:
        if any(side.form is Form.OUTCOME for side in sides):
            self.report(node, "error-unpacked", "a tuple is compared", "ok, error = …; if not ok: …")
        for side, other in ((0, 1), (1, 0)):
            number = [node.left, *node.comparators][other]
            if sides[side].form is Form.ENUM and isinstance(number, ast.Constant) and isinstance(number.value, int):
                values = {value: name for name, value in self.catalog.enum_values(sides[side].name).items()}
                instead = values.get(number.value, "its named constant")
                self.report(node, "bare-number", f"a {sides[side].name} is compared with {number.value}", instead)

    def unpacked(self, node: ast.Assign, names: list[str], scope: Scope) -> None:
        if not names or not names[0] or scope.function is None:
            return
        first = names[0]
        loads = (
            inner
            for inner in ast.walk(scope.function.node)
            if isinstance(inner, ast.Name) and inner.id == first and isinstance(inner.ctx, ast.Load)
        )
        if first == "_" or not any(loads):
            text = f"`{first}`, which says whether the call worked, is not used"
            self.report(node, "error-only", text, "a decision on the first element")
