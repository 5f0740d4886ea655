"""Evaluates expressions to types, and notices messages to Objective-C on the way."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

from .catalog import Catalog
from .guards import Guards
from .package import Function, Package
from .scope import Scope, Send
from .types import NONE, UNKNOWN, Form, Type, join, of_declared

if TYPE_CHECKING:
    from .flow import Observer

_PYTHON_CAMEL = frozenset(
    {
        "getLogger", "isEnabledFor", "getChild", "setLevel", "addHandler", "getMessage", "protocolNamed", "lookUpClass",
        "createOpaquePointerType", "registerMetaDataForSelector", "loadBundle", "instanceMethods",
    }
)  # fmt: skip
"""Camel case that is Python's: of logging, and of PyObjC's own module `objc`."""
_BUILTIN_RESULTS = {
    "str": Type(Form.TEXT), "repr": Type(Form.TEXT), "bytes": Type(Form.BYTES), "int": Type(Form.INTEGER),
    "len": Type(Form.INTEGER), "float": Type(Form.FLOAT), "bool": Type(Form.BOOL), "Path": Type(Form.PATH),
    "partial": Type(Form.PARTIAL),
}  # fmt: skip
_METHOD_RESULTS = {
    "encode": Type(Form.BYTES), "decode": Type(Form.TEXT), "hex": Type(Form.TEXT), "format": Type(Form.TEXT),
    "resolve": Type(Form.PATH), "absolute": Type(Form.PATH), "as_uri": Type(Form.TEXT), "as_posix": Type(Form.TEXT),
}  # fmt: skip


def is_framework_name(name: str) -> bool:
    return re.fullmatch(r"(VZ|NS)[A-Z]\w*", name) is not None


def looks_like_selector(name: str) -> bool:
    """Whether an attribute of something unknown is meant for Objective-C: camel case, or colons as underscores."""
    if name.startswith("_") or name in _PYTHON_CAMEL:
        return False
    return re.fullmatch(r"[a-z]+[A-Z]\w*", name) is not None or (name.endswith("_") and "_" in name[:-1])


class Expressions:
    def __init__(self, package: Package, catalog: Catalog, guards: Guards) -> None:
        self.package = package
        self.catalog = catalog
        self.guards = guards
        self.observer: Observer | None = None
        self._lambda_returns: dict[ast.Lambda, Type] = {}

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
                return _BUILTIN_RESULTS[name]
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

    # --- calls --------------------------------------------------------------------------------------------------------

    def _call(self, node: ast.Call, scope: Scope) -> Type:
        function = node.func
        arguments = self._arguments(node, scope)
        if isinstance(function, ast.Attribute):
            return self._attribute_call(node, function, arguments, scope)
        called = self.evaluate(function, scope)
        if isinstance(function, ast.Name):
            if function.id in ("getattr", "hasattr") and (symbol := self._symbol_by_text(node, scope)) is not None:
                return symbol if function.id == "getattr" else Type(Form.BOOL)
            if function.id == "bool" and arguments and arguments[0][1].form is Form.OUTCOME and self.observer:
                self.observer.outcome(node, "truth", scope)
        return self._python_call(node, called, getattr(function, "id", ""), arguments, scope)

    def _arguments(self, node: ast.Call, scope: Scope) -> list[tuple[ast.expr, Type]]:
        arguments = [(argument, self.evaluate(argument, scope)) for argument in node.args]
        for keyword in node.keywords:
            self.evaluate(keyword.value, scope)
        return arguments

    def _attribute_call(
        self, node: ast.Call, function: ast.Attribute, arguments: list[tuple[ast.expr, Type]], scope: Scope
    ) -> Type:
        name = function.attr
        if name.startswith("dispatch_"):
            self.evaluate(function.value, scope)
            if self.observer is not None:
                self.observer.dispatch_call(node, name, arguments, scope)
            return UNKNOWN
        if is_framework_name(name) or self._is_package_attribute(function, scope):
            return self._python_call(node, self._attribute(function, scope), name, arguments, scope)
        receiver = self.evaluate(function.value, scope)
        if receiver.form is Form.OBJECT:
            member = self._member(receiver.name, name)
            if member.form is Form.METHOD:
                return self._send_to_own_class(receiver, node, name, arguments, scope)
            return self._python_call(node, member, name, arguments, scope)
        if receiver.is_objc:
            return self.send(Send(node, scope, receiver, name, arguments))
        if receiver.form is Form.OUTCOME and self.observer is not None:
            self.observer.outcome(node, "object", scope)
        is_module = isinstance(function.value, ast.Name) and self._is_module(function.value.id, scope)
        if receiver.form in (Form.UNKNOWN, Form.METHOD) and not is_module and looks_like_selector(name):
            return self.send(Send(node, scope, UNKNOWN, name, arguments))
        if self.observer is not None:
            self.observer.python_call(node, [(function.value, receiver), *arguments], scope)
        return _METHOD_RESULTS.get(name, Type(Form.PARTIAL) if name == "partial" else UNKNOWN)

    def _send_to_own_class(
        self, receiver: Type, node: ast.Call, name: str, arguments: list[tuple[ast.expr, Type]], scope: Scope
    ) -> Type:
        """A method that a Python class inherits from an Objective-C one."""
        base = self.package.classes[receiver.name].objc_base or "NSObject"
        if name in ("alloc", "new", "init"):
            return receiver
        method = self.catalog.lookup(base, name, on_class=False)
        form = Form.CLASS if method is not None and method.is_class_method else Form.INSTANCE
        return self.send(Send(node, scope, Type(form, base), name, arguments))

    def _is_module(self, name: str, scope: Scope) -> bool:
        return name not in scope.names and name in scope.module.imports

    def _is_package_attribute(self, node: ast.Attribute, scope: Scope) -> bool:
        """Whether `module.name` is a function or class of this package."""
        if not isinstance(node.value, ast.Name) or node.value.id in scope.names:
            return False
        dotted = scope.module.imports.get(node.value.id)
        return dotted is not None and self.package.resolve_import(f"{dotted}.{node.attr}") is not None

    def _symbol_by_text(self, node: ast.Call, scope: Scope) -> Type | None:
        match node.args:
            case [_, ast.Constant(value=str(name)), *_] if is_framework_name(name):
                return self.framework_symbol(node, name, scope)
            case _:
                return None

    def _python_call(
        self, node: ast.Call, called: Type, name: str, arguments: list[tuple[ast.expr, Type]], scope: Scope
    ) -> Type:
        if called.form is Form.CLASS:
            return self.send(Send(node, scope, called, "__call__", arguments))
        if called.form is Form.FUNCTION:
            return self._own_function(self.package.functions[called.name], node, arguments, scope)
        if called.form is Form.OBJECT:
            self._construct(called.name, node, arguments, scope)
            return called
        if self.observer is not None:
            self.observer.python_call(node, arguments, scope)
        return _BUILTIN_RESULTS.get(name, UNKNOWN)

    def _construct(self, owner: str, node: ast.Call, arguments: list[tuple[ast.expr, Type]], scope: Scope) -> None:
        if (function := self.package.functions.get(f"{owner}.__init__")) is not None:
            self._own_function(function, node, arguments, scope)
            return
        for keyword in node.keywords:
            if keyword.arg is not None:
                self._remember(owner, keyword.arg, self._quietly(keyword.value, scope))

    def _own_function(
        self, function: Function, node: ast.Call, arguments: list[tuple[ast.expr, Type]], scope: Scope
    ) -> Type:
        """A call to one of our functions: its parameters learn, its result is what its body returned."""
        known = dict(zip(function.own_names, [known for _, known in arguments], strict=False))
        known |= {k.arg: self._quietly(k.value, scope) for k in node.keywords if k.arg is not None}
        if arguments and (maker := _made_parameter(function)) is not None and known[maker].form is Form.CLASS:
            return self.send(Send(node, scope, known[maker], "new", []))
        for name, given in known.items():
            if given.form not in (Form.UNKNOWN, Form.METHOD, Form.LAMBDA):
                function.parameters[name] = join(self.catalog, function.parameters.get(name), given)
        expressions = dict(zip(function.own_names, node.args, strict=False))
        expressions |= {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg is not None}
        if (called := _result_parameter(function)) is not None and called in expressions:
            return self._result_of(expressions[called], known.get(called, UNKNOWN))
        return function.returns or UNKNOWN

    def _result_of(self, node: ast.expr, known: Type) -> Type:
        """What a callable that is passed on will return."""
        if isinstance(node, ast.Lambda):
            return self._lambda_returns.get(node, UNKNOWN)
        if known.form is Form.FUNCTION:
            return self.package.functions[known.name].returns or UNKNOWN
        return UNKNOWN

    def _quietly(self, node: ast.expr, scope: Scope) -> Type:
        """Evaluate again without reporting twice."""
        observer, self.observer = self.observer, None
        try:
            return self.evaluate(node, scope.branch())
        finally:
            self.observer = observer

    # --- messages -----------------------------------------------------------------------------------------------------

    def send(self, send: Send) -> Type:
        """Tell the observer, teach handlers the types of their arguments, and say what comes back."""
        if self.observer is not None:
            self.observer.message(send)
        receiver, name = send.receiver, send.attribute
        if name in ("alloc", "__call__", "new") and receiver.form is Form.CLASS:
            return Type(Form.ALLOCATED if name == "alloc" else Form.INSTANCE, receiver.name)
        if receiver.is_objc:
            method = self.catalog.lookup(receiver.name, name, on_class=receiver.form is Form.CLASS)
            if method is None and receiver.form is Form.INSTANCE and self.catalog.is_abstract(receiver.name):
                method = next(iter(self.catalog.in_subclasses(receiver.name, name)), None)
        else:
            candidates = self.catalog.named(name)
            method = candidates[0] if len({m.facts["returns"]["name"] for m in candidates}) == 1 else None
        if method is None:
            return UNKNOWN
        for (_, known), argument in zip(send.arguments, method.arguments, strict=False):
            if known.form is Form.FUNCTION and argument["block"] is not None:
                self._teach(self.package.functions[known.name], argument["block_names"])
        owner = receiver.name if receiver.is_objc else method.owner
        result = of_declared(self.catalog, method.facts["returns"], owner)
        if method.has_error:
            return Type(Form.OUTCOME, result.name if result.form is Form.INSTANCE else "")
        return result

    def _teach(self, handler: Function, names: list[str]) -> None:
        for parameter, declared in zip(handler.own_names, names, strict=False):
            if declared.endswith("*") and declared[:-1] in self.catalog.classes:
                known = Type(Form.INSTANCE, declared[:-1])
                handler.parameters[parameter] = join(self.catalog, handler.parameters.get(parameter), known)

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


def _made_parameter(function: Function) -> str | None:
    """The parameter of a function that only returns `parameter.new()`."""
    match function.node.body[-1]:
        case ast.Return(value=ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr="new"), args=[])):
            return name if name in function.own_names else None
        case _:
            return None


def _result_parameter(function: Function) -> str | None:
    """The callable parameter whose result a function hands back: `def run(work: Callable[[], T]) -> T`."""
    if not isinstance(function.node.returns, ast.Name):
        return None
    variable = function.node.returns.id
    arguments = function.node.args
    for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
        match argument.annotation:
            case ast.Subscript(value=ast.Name(id="Callable"), slice=ast.Tuple(elts=[_, ast.Name(id=name)])):
                if name == variable:
                    return argument.arg
            case _:
                pass
    return None
