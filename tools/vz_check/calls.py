"""Calls: messages to Objective-C, and functions of the package, which learn from them."""

from __future__ import annotations

import ast
import re
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from .catalog import Catalog
from .guards import Guards
from .package import Function, Package
from .scope import Scope, Send
from .types import UNKNOWN, Form, Type, join, of_declared

if TYPE_CHECKING:
    from .flow import Observer

_PYTHON_CAMEL = frozenset(
    {
        "getLogger", "isEnabledFor", "getChild", "setLevel", "addHandler", "getMessage", "protocolNamed", "lookUpClass",
        "createOpaquePointerType", "registerMetaDataForSelector", "loadBundle", "instanceMethods",
    }
)  # fmt: skip
"""Camel case that is Python's: of logging, and of PyObjC's own module `objc`."""
BUILTIN_RESULTS = {
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


class Calls(ABC):
    """What `Expressions` is built on."""

    def __init__(self, package: Package, catalog: Catalog, guards: Guards) -> None:
        self.package = package
        self.catalog = catalog
        self.guards = guards
        self.observer: Observer | None = None
        """Told of everything, in the last pass only."""
        self._lambda_returns: dict[ast.Lambda, Type] = {}

    @abstractmethod
    def evaluate(self, node: ast.expr, scope: Scope) -> Type: ...

    @abstractmethod
    def framework_symbol(self, node: ast.expr, name: str, scope: Scope) -> Type: ...

    @abstractmethod
    def _attribute(self, node: ast.Attribute, scope: Scope) -> Type: ...

    @abstractmethod
    def _member(self, owner: str, name: str) -> Type: ...

    @abstractmethod
    def _remember(self, owner: str, attribute: str, known: Type) -> None: ...

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
        return BUILTIN_RESULTS.get(name, UNKNOWN)

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
