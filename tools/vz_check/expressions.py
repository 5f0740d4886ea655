"""Evaluates expressions to types, and notices messages to Objective-C on the way."""

from __future__ import annotations

import ast

from .calls import BUILTIN_RESULTS, Calls, is_framework_name
from .scope import Scope
from .types import NONE, UNKNOWN, Form, Type, join


class Expressions(Calls):
    """Every kind of expression but calls."""

    # --- entry points -------------------------------------------------------------------------------------------------

    def evaluate(self, node: ast.expr, scope: Scope) -> Type:
        match node:
            case ast.Constant():
                return _constant(node.value)
            case ast.Name(id=name):
                return self._name(node, name, scope)
            case ast.Attribute():
                return self._attribute(node, scope)
            case ast.Call():
                return self._call(node, scope)
            case ast.Await(value=value) | ast.Starred(value=value):
                return self.evaluate(value, scope)
            case ast.NamedExpr(target=target, value=value):
                known = self.evaluate(value, scope)
                self.bind(target, known, scope)
                return known
            case ast.IfExp() | ast.BoolOp() | ast.UnaryOp() | ast.Compare() | ast.BinOp():
                return self._operation(node, scope)
            case ast.List() | ast.Tuple() | ast.Set():
                return self._sequence(node.elts, scope)
            case ast.ListComp() | ast.SetComp() | ast.GeneratorExp() | ast.DictComp():
                return self._comprehension(node, scope)
            case ast.Subscript(value=value, slice=index):
                return self._subscript(node, value, index, scope)
            case ast.Lambda():
                return self._lambda(node, scope)
            case ast.JoinedStr():
                self._children(node, scope)
                return Type(Form.TEXT)
            case _:
                self._children(node, scope)
                return UNKNOWN

    def condition(self, test: ast.expr, scope: Scope) -> None:
        """An expression whose truth is asked for."""
        if self.evaluate(test, scope).form is Form.OUTCOME and self.observer is not None:
            self.observer.outcome(test, "truth", scope)

    def element(self, collection: Type) -> Type:
        if collection.form in (Form.ARRAY, Form.ARRAY_GETTER) and collection.name:
            return Type(Form.INSTANCE, collection.name)
        return UNKNOWN

    def bind(self, target: ast.expr, known: Type, scope: Scope) -> None:
        match target:
            case ast.Name(id=name):
                scope.names[name] = known
            case ast.Attribute(value=value, attr=attribute):
                receiver = self.evaluate(value, scope)
                if receiver.form is Form.OBJECT:
                    self._remember(receiver.name, attribute, known)
                elif self.observer is not None:
                    self.observer.attribute(target, receiver, scope)
            case ast.Tuple(elts=[first, second]) | ast.List(elts=[first, second]) if known.form is Form.OUTCOME:
                self.bind(first, Type(Form.INSTANCE, known.name) if known.name else Type(Form.BOOL), scope)
                self.bind(second, Type(Form.INSTANCE, "NSError"), scope)
            case ast.Tuple(elts=elements) | ast.List(elts=elements):
                for inner in elements:
                    self.bind(inner, self.element(known), scope)
            case ast.Starred(value=value):
                self.bind(value, UNKNOWN, scope)
            case ast.Subscript(value=value, slice=index):
                self.evaluate(value, scope)
                self.evaluate(index, scope)
            case _:
                pass

    def annotation(self, node: ast.expr, scope: Scope) -> Type:
        match node:
            case ast.Constant(value=str(text)):
                try:
                    return self.annotation(ast.parse(text, mode="eval").body, scope)
                except SyntaxError:
                    return UNKNOWN
            case ast.BinOp(op=ast.BitOr(), left=left, right=right):
                sides = [side for side in (left, right) if not (isinstance(side, ast.Constant) and side.value is None)]
                return self.annotation(sides[0], scope) if len(sides) == 1 else UNKNOWN
            case ast.Name(id=name) if name in ("str", "bytes", "int", "float", "bool", "Path"):
                return BUILTIN_RESULTS[name]
            case ast.Name() | ast.Attribute():
                known = self.evaluate(node, scope)
                return known if known.form is Form.OBJECT else UNKNOWN
            case _:
                return UNKNOWN

    # --- names and attributes -----------------------------------------------------------------------------------------

    def _name(self, node: ast.expr, name: str, scope: Scope) -> Type:
        if name in scope.names:
            return scope.names[name]
        if (own := self._definition(f"{scope.module.name}:{name}")) is not None:
            return own
        dotted = scope.module.imports.get(name)
        if dotted is not None and (key := self.package.resolve_import(dotted)) is not None:
            return self._definition(key) or UNKNOWN
        if is_framework_name(name) and (dotted is None or dotted.startswith(("Virtualization.", "Foundation."))):
            return self.framework_symbol(node, name, scope)
        return UNKNOWN

    def _definition(self, key: str) -> Type | None:
        if key in self.package.functions:
            return Type(Form.FUNCTION, key)
        return Type(Form.OBJECT, key) if key in self.package.classes else None

    def framework_symbol(self, node: ast.expr, name: str, scope: Scope) -> Type:
        if self.observer is not None:
            self.observer.framework_name(node, name, scope)
        if name in self.catalog.classes:
            return Type(Form.CLASS, name)
        if name in self.catalog.enums:
            return Type(Form.ENUM, self.catalog.enums[name]["type"] or "")
        return Type(Form.TEXT) if name in self.catalog.constants else UNKNOWN

    def _attribute(self, node: ast.Attribute, scope: Scope) -> Type:
        if isinstance(node.value, ast.Name) and node.value.id not in scope.names:
            dotted = scope.module.imports.get(node.value.id)
            if dotted and (key := self.package.resolve_import(f"{dotted}.{node.attr}")) is not None:
                return self._definition(key) or UNKNOWN
        receiver = self.evaluate(node.value, scope)
        if receiver.form is Form.OBJECT:
            return self._member(receiver.name, node.attr)
        if not receiver.is_objc and is_framework_name(node.attr):
            return self.framework_symbol(node, node.attr, scope)
        if self.observer is not None:
            self.observer.attribute(node, receiver, scope)
        return Type(Form.METHOD, node.attr)

    def _member(self, owner: str, name: str) -> Type:
        """Attribute, property or method of an object of one of our classes, its Python bases included."""
        known = self.package.classes[owner]
        if (function := self.package.functions.get(f"{owner}.{name}")) is not None:
            decorators = {getattr(d, "id", getattr(d, "attr", "")) for d in function.node.decorator_list}
            if decorators & {"property", "cached_property"}:
                return function.returns or UNKNOWN
            return Type(Form.FUNCTION, function.key)
        if name in known.attributes:
            return known.attributes[name]
        if known.objc_base is not None and name in self.catalog.names_of(known.objc_base):
            return Type(Form.METHOD, name)
        for base in known.node.bases:
            module = owner.partition(":")[0]
            key = f"{module}:{base.id}" if isinstance(base, ast.Name) else ""
            if key in self.package.classes and key != owner:
                return self._member(key, name)
        return UNKNOWN

    def _remember(self, owner: str, attribute: str, known: Type) -> None:
        if known.form not in (Form.UNKNOWN, Form.METHOD):
            attributes = self.package.classes[owner].attributes
            attributes[attribute] = join(self.catalog, attributes.get(attribute), known)

    # --- compound expressions -----------------------------------------------------------------------------------------

    def _operation(self, node: ast.expr, scope: Scope) -> Type:
        match node:
            case ast.IfExp(test=test, body=body, orelse=orelse):
                self.condition(test, scope)
                true, false = self.guards.read(test)
                first = self.evaluate(body, scope.branch(true))
                return join(self.catalog, first, self.evaluate(orelse, scope.branch(false)))
            case ast.BoolOp(op=op, values=values):
                return self._bool_operation(op, values, scope)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                self.condition(operand, scope)
                return Type(Form.BOOL)
            case ast.UnaryOp(operand=operand):
                return self.evaluate(operand, scope)
            case ast.Compare(left=left, comparators=comparators):
                sides = [self.evaluate(side, scope) for side in (left, *comparators)]
                if self.observer is not None:
                    self.observer.comparison(node, sides, scope)
                return Type(Form.BOOL)
            case ast.BinOp(left=left, op=op, right=right):
                return self._arithmetic(self.evaluate(left, scope), op, self.evaluate(right, scope))
            case _:
                return UNKNOWN

    def _bool_operation(self, op: ast.boolop, values: list[ast.expr], scope: Scope) -> Type:
        inner, known = scope.branch(), None
        for value in values[:-1]:
            self.condition(value, inner)
            known = join(self.catalog, known, self._quietly(value, inner))
            true, false = self.guards.read(value)
            inner.host = inner.host.both(true if isinstance(op, ast.And) else false)
        last = self.evaluate(values[-1], inner)
        return last if isinstance(op, ast.And) else join(self.catalog, known, last)

    def _arithmetic(self, left: Type, op: ast.operator, right: Type) -> Type:
        numbers = (Form.INTEGER, Form.FLOAT)
        if isinstance(op, ast.Div):
            if left.form is Form.PATH:
                return left
            return Type(Form.FLOAT) if right.form in numbers else UNKNOWN
        if left.form in numbers and right.form in numbers:
            return Type(Form.FLOAT) if Form.FLOAT in (left.form, right.form) else Type(Form.INTEGER)
        return join(self.catalog, left, right) if left.form is right.form else UNKNOWN

    def _sequence(self, elements: list[ast.expr], scope: Scope) -> Type:
        known: Type | None = None
        for element in elements:
            value = self.evaluate(element, scope)
            value = self.element(value) if isinstance(element, ast.Starred) else value
            known = value if known is None else join(self.catalog, known, value)
        return Type(Form.ARRAY, known.name if known is not None and known.form is Form.INSTANCE else "")

    def _comprehension(self, node: ast.expr, scope: Scope) -> Type:
        assert isinstance(node, ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp)
        inner = scope.branch()
        for generator in node.generators:
            self.bind(generator.target, self.element(self.evaluate(generator.iter, inner)), inner)
            for test in generator.ifs:
                self.condition(test, inner)
                inner.host = inner.host.both(self.guards.read(test)[0])
        if isinstance(node, ast.DictComp):
            self.evaluate(node.key, inner)
            self.evaluate(node.value, inner)
            return UNKNOWN
        value = self.evaluate(node.elt, inner)
        return Type(Form.ARRAY, value.name if value.form is Form.INSTANCE else "")

    def _subscript(self, node: ast.expr, value: ast.expr, index: ast.expr, scope: Scope) -> Type:
        known = self.evaluate(value, scope)
        self.evaluate(index, scope)
        if known.form is Form.OUTCOME and self.observer is not None:
            self.observer.outcome(node, "subscript", scope)
        return known if isinstance(index, ast.Slice) else self.element(known)

    def _lambda(self, node: ast.Lambda, scope: Scope) -> Type:
        inner = scope.branch()
        inner.function = None  # it runs when and where somebody calls it
        for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs):
            inner.names[argument.arg] = UNKNOWN
        self._lambda_returns[node] = self.evaluate(node.body, inner)
        return Type(Form.LAMBDA)

    def _children(self, node: ast.AST, scope: Scope) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                self.evaluate(child, scope)
            elif isinstance(child, ast.FormattedValue | ast.keyword | ast.comprehension):
                self._children(child, scope)


def _constant(value: object) -> Type:
    match value:
        case None:
            return NONE
        case bool():
            return Type(Form.BOOL)
        case int():
            return Type(Form.INTEGER)
        case float():
            return Type(Form.FLOAT)
        case str():
            return Type(Form.TEXT)
        case bytes():
            return Type(Form.BYTES)
        case _:
            return UNKNOWN
