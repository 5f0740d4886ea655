"""Checks of the Python functions that Apple's frameworks call: blocks and delegate methods."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator

from .package import Function, FunctionNode, Package
from .types import Form, Type

Report = Callable[[ast.AST, str, str, str], None]

_WAITING = frozenset({"result", "wait", "acquire", "sleep", "recv", "accept", "communicate", "run_until_complete"})
_DEF = "def handler(…): …"


class Handlers:
    """Functions are checked once, however often they are handed over."""

    def __init__(self, package: Package, report: Report) -> None:
        self._package = package
        self._report = report
        self._checked: set[str] = set()

    def block(self, node: ast.expr, known: Type, signature: list[str], what: str) -> None:
        """`signature` is the block's: type encodings, the result first."""
        match known.form:
            case Form.PARTIAL:
                self._report(node, "handler-partial", f"{what} gets a functools.partial", _DEF)
            case Form.LAMBDA if signature[0] == "v":
                self._report(node, "handler-lambda", f"{what} gets a lambda", _DEF)
            case Form.METHOD:
                self._report(node, "handler-c-method", f"{what} gets `{known.name}`, which is not ours", _DEF)
            case Form.FUNCTION:
                self._function(self._package.functions[known.name], node, signature, what)
            case _:
                pass

    def _function(self, function: Function, node: ast.expr, signature: list[str], what: str) -> None:
        if isinstance(function.node, ast.AsyncFunctionDef):
            self._report(node, "handler-async", f"{what} gets a coroutine function", "a plain def")
            return
        arguments, wanted = function.node.args, len(signature) - 1
        given = len(function.own_names)
        fits = given == wanted and arguments.vararg is None
        fits = fits or (arguments.vararg is not None and given <= 1)
        if not fits or arguments.kwonlyargs or arguments.kwarg is not None:
            self._report(node, "handler-arity", f"{what} calls with {wanted} arguments, it takes {given}", _DEF)
        self.callback(function, returns_value=signature[0] != "v")

    def callback(self, function: Function, *, returns_value: bool) -> None:
        """The body of something that runs on a dispatch queue."""
        if function.key in self._checked:
            return
        self._checked.add(function.key)
        name = function.node.name
        for node in own_nodes(function.node):
            match node:
                case ast.Return(value=ast.expr() as value) if not returns_value:
                    if not (isinstance(value, ast.Constant) and value.value is None):
                        self._report(node, "handler-returns", f"`{name}` returns a value", "return")
                case ast.Yield() | ast.YieldFrom() if not returns_value:
                    self._report(node, "handler-returns", f"`{name}` is a generator", "a plain def")
                case ast.Call(func=ast.Attribute(attr=attribute)) if attribute in _WAITING:
                    text = f"`{name}` waits in `{attribute}`"
                    self._report(node, "callback-blocks", text, "hand the result to the event loop")
                case ast.Call(func=ast.Attribute(value=ast.Name(id="subprocess"))):
                    text = f"`{name}` runs a program"
                    self._report(node, "callback-blocks", text, "do it in the event loop")
                case _:
                    pass
        if not self._is_protected(function):
            instead = "its whole body inside try: … except BaseException: …"
            self._report(function.node, "handler-raises", f"`{name}` may raise", instead)

    def _is_protected(self, function: Function) -> bool:
        """Its work stands inside `try … except BaseException`, or in a decorator that does that."""
        for decorator in function.node.decorator_list:
            name = getattr(decorator, "id", getattr(decorator, "attr", ""))
            wrapper = next(
                (f for f in self._package.functions.values() if f.node.name == name and f.owner is None), None
            )
            if wrapper is not None and self._wraps(wrapper):
                return True
        return all(self._is_harmless(statement, function) for statement in function.node.body)

    def _wraps(self, wrapper: Function) -> bool:
        inner = [f for key, f in self._package.functions.items() if key.startswith(f"{wrapper.key}.")]
        return any(self._is_protected(function) for function in inner)

    def _is_harmless(self, statement: ast.stmt, function: Function) -> bool:
        match statement:
            case ast.Pass() | ast.Nonlocal() | ast.Global() | ast.FunctionDef() | ast.Return(value=None):
                return True
            case ast.Expr(value=ast.Constant()) | ast.Return(value=ast.Constant()):
                return True
            case ast.Assign(value=value) | ast.AnnAssign(value=value):
                return isinstance(value, ast.Constant | ast.Name)
            case ast.Try(handlers=handlers, orelse=orelse, finalbody=final):
                return any(_catches_all(h) for h in handlers) and not orelse and not final
            case ast.Expr(value=ast.Call() as call):
                return self._never_raises(call, function) and all(_is_plain(argument) for argument in call.args)
            case _:
                return False

    def _never_raises(self, call: ast.Call, caller: Function) -> bool:
        """A function of this package whose documentation promises it, or that is protected itself."""
        name = getattr(call.func, "id", getattr(call.func, "attr", ""))
        near = self._package.functions.get(f"{caller.key.partition(':')[0]}:{name}")
        if isinstance(call.func, ast.Name) and near is not None:
            named = [near]
        else:
            named = [function for function in self._package.functions.values() if function.node.name == name]
        return bool(named) and all(
            "Never raises" in (ast.get_docstring(function.node) or "") or self._is_protected(function)
            for function in named
        )


def own_nodes(function: FunctionNode) -> Iterator[ast.AST]:
    """All nodes of a body, without those of functions and classes inside it."""
    pending: list[ast.AST] = list(function.body)
    while pending:
        node = pending.pop(0)
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            pending.extend(ast.iter_child_nodes(node))


def _catches_all(handler: ast.ExceptHandler) -> bool:
    if any(isinstance(node, ast.Raise) for node in ast.walk(handler)):
        return False
    return handler.type is None or (isinstance(handler.type, ast.Name) and handler.type.id == "BaseException")


def _is_plain(node: ast.expr) -> bool:
    match node:
        case ast.Name() | ast.Constant() | ast.Lambda():
            return True
        case ast.Attribute(value=value):
            return _is_plain(value)
        case _:
            return False
