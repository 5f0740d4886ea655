"""Follows values through the functions of a package and tells the checks what it meets.

Several passes gather what functions return and get and what `self.…` holds; only the last one reports.
"""

from __future__ import annotations

import ast
from typing import Protocol

from .catalog import Catalog
from .expressions import Expressions
from .guards import Guards, ends
from .package import Class, Function, FunctionNode, Package
from .scope import Scope, Send
from .types import NONE, UNKNOWN, Form, Type, join

PASSES = 4


class Observer(Protocol):
    """What the checks are told, in the last pass only."""

    def message(self, send: Send) -> None: ...
    def attribute(self, node: ast.Attribute, receiver: Type, scope: Scope) -> None: ...
    def framework_name(self, node: ast.expr, name: str, scope: Scope) -> None: ...
    def dispatch_call(
        self, node: ast.Call, name: str, arguments: list[tuple[ast.expr, Type]], scope: Scope
    ) -> None: ...
    def objc_class(self, known: Class, scope: Scope) -> None: ...
    def python_call(self, node: ast.Call, arguments: list[tuple[ast.expr, Type]], scope: Scope) -> None: ...
    def outcome(self, node: ast.expr, use: str, scope: Scope) -> None: ...
    def comparison(self, node: ast.Compare, sides: list[Type], scope: Scope) -> None: ...
    def unpacked(self, node: ast.Assign, names: list[str], scope: Scope) -> None: ...


class Flow(Expressions):
    """Walks statements; expressions are evaluated by the base class."""

    def __init__(self, package: Package, catalog: Catalog, observer: Observer) -> None:
        super().__init__(package, catalog, Guards(package))
        self._observer_of_last_pass = observer

    def run(self) -> None:
        for number in range(PASSES):
            self.observer = self._observer_of_last_pass if number == PASSES - 1 else None
            for module in self.package.modules:
                scope = Scope(module, prefix=f"{module.name}:")
                self.execute(module.tree.body, scope)

    # --- statements ---------------------------------------------------------------------------------------------------

    def execute(self, body: list[ast.stmt], scope: Scope) -> None:
        for node in body:
            self.statement(node, scope)

    def statement(self, node: ast.stmt, scope: Scope) -> None:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                self._function(node, scope)
            case ast.ClassDef():
                self._class(node, scope)
            case ast.Assign(targets=targets, value=value):
                self._assign(node, targets, value, scope)
            case ast.AnnAssign(target=target, value=ast.expr() as value):
                self.bind(target, self.evaluate(value, scope), scope)
            case ast.Expr(value=value):
                if self.evaluate(value, scope).form is Form.OUTCOME and self.observer is not None:
                    self.observer.outcome(value, "ignored", scope)
            case ast.AugAssign(value=value):
                self.evaluate(value, scope)
            case ast.Return(value=value):
                self._return(value, scope)
            case ast.If(test=test, body=body, orelse=orelse):
                self._if(test, body, orelse, scope)
            case ast.For(target=target, iter=iterable) | ast.AsyncFor(target=target, iter=iterable):
                self.bind(target, self.element(self.evaluate(iterable, scope)), scope)
                self._loop(node.body, node.orelse, scope)
            case ast.While(test=test):
                self.condition(test, scope)
                self._loop(node.body, node.orelse, scope)
            case ast.With(items=items, body=body) | ast.AsyncWith(items=items, body=body):
                for item in items:
                    entered = self.evaluate(item.context_expr, scope)
                    if item.optional_vars is not None:
                        self.bind(item.optional_vars, entered, scope)
                self.execute(body, scope)
            case ast.Try():
                self._try(node, scope)
            case ast.Assert(test=test):
                self.condition(test, scope)
                scope.host = scope.host.both(self.guards.read(test)[0])
            case ast.Match(subject=subject, cases=cases):
                self.evaluate(subject, scope)
                self._match(cases, scope)
            case _:
                for child in ast.iter_child_nodes(node):
                    if isinstance(child, ast.expr):
                        self.evaluate(child, scope)

    def _if(self, test: ast.expr, body: list[ast.stmt], orelse: list[ast.stmt], scope: Scope) -> None:
        self.condition(test, scope)
        true, false = self.guards.read(test)
        branches = []
        for block, host in ((body, true), (orelse, false)):
            branch = scope.branch(host)
            self.execute(block, branch)
            if not block or not ends(block):
                branches.append(branch)
        if branches:
            scope.merge(self.catalog, branches)

    def _loop(self, body: list[ast.stmt], orelse: list[ast.stmt], scope: Scope) -> None:
        branch = scope.branch()
        self.execute(body, branch)
        branch.host = scope.host
        scope.merge(self.catalog, [scope.branch(), branch])
        self.execute(orelse, scope)

    def _try(self, node: ast.Try, scope: Scope) -> None:
        before = scope.branch()
        self.execute(node.body, scope)
        branches = [scope.branch()]
        for handler in node.handlers:
            branch = before.branch()
            self.execute(handler.body, branch)
            if not ends(handler.body):
                branches.append(branch)
        scope.merge(self.catalog, branches)
        self.execute(node.orelse, scope)
        self.execute(node.finalbody, scope)

    def _match(self, cases: list[ast.match_case], scope: Scope) -> None:
        branches = [scope.branch()]
        for case in cases:
            branch = scope.branch()
            for pattern in ast.walk(case.pattern):
                if isinstance(pattern, ast.MatchValue):
                    self.evaluate(pattern.value, branch)
            if case.guard is not None:
                self.condition(case.guard, branch)
                branch.host = branch.host.both(self.guards.read(case.guard)[0])
            self.execute(case.body, branch)
            if not ends(case.body):
                branches.append(branch)
        scope.merge(self.catalog, branches)

    def _assign(self, node: ast.Assign, targets: list[ast.expr], value: ast.expr, scope: Scope) -> None:
        known = self.evaluate(value, scope)
        for target in targets:
            if isinstance(target, ast.Tuple) and known.form is Form.OUTCOME:
                names = [element.id if isinstance(element, ast.Name) else "" for element in target.elts]
                if self.observer is not None:
                    self.observer.unpacked(node, names, scope)
            self.bind(target, known, scope)

    def _return(self, value: ast.expr | None, scope: Scope) -> None:
        known = NONE if value is None else self.evaluate(value, scope)
        if scope.function is not None:
            scope.function.returns = join(self.catalog, scope.function.returns, known)

    # --- definitions --------------------------------------------------------------------------------------------------

    def _function(self, node: FunctionNode, scope: Scope) -> None:
        key = f"{scope.prefix}{node.name}"
        function = self.package.functions[key]
        scope.names[node.name] = Type(Form.FUNCTION, key)
        for decorator in node.decorator_list:
            self.evaluate(decorator, scope)
        for default in (*node.args.defaults, *(d for d in node.args.kw_defaults if d is not None)):
            self.evaluate(default, scope)
        inner = scope.branch()
        function.returns = None
        inner.function, inner.prefix = function, f"{key}."
        if function.owner is not None:
            inner.owner = self.package.classes[function.owner]
        for name in (*function.names, *(argument.arg for argument in node.args.kwonlyargs)):
            inner.names[name] = function.parameters.get(name, UNKNOWN)
        self._annotate(function, inner)
        self.execute(node.body, inner)

    def _annotate(self, function: Function, scope: Scope) -> None:
        """Parameters whose annotation names a class of this package, or plain text and numbers."""
        arguments = function.node.args
        for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
            if argument.annotation is not None and (known := self.annotation(argument.annotation, scope)) != UNKNOWN:
                scope.names[argument.arg] = known
        if function.owner is not None and not function.is_static and function.names:
            scope.names[function.names[0]] = Type(Form.OBJECT, function.owner)

    def _class(self, node: ast.ClassDef, scope: Scope) -> None:
        known = self.package.classes[f"{scope.prefix}{node.name}"]
        for base in node.bases:
            value = self.evaluate(base, scope)
            if value.form is Form.CLASS:
                known.objc_base = value.name
        for keyword in node.keywords:
            self.evaluate(keyword.value, scope)
        scope.names[node.name] = Type(Form.OBJECT, known.key)
        inner = scope.branch()
        inner.prefix, inner.owner = f"{known.key}.", known
        for statement in node.body:
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                declared = self.annotation(statement.annotation, scope)
                if declared != UNKNOWN:
                    known.attributes[statement.target.id] = declared
            self.statement(statement, inner)
        if known.objc_base is not None and self.observer is not None:
            self.observer.objc_class(known, scope)
