"""Objective-C classes written in Python: PyObjC's class transformation, and refusal of what is never called."""

import inspect
import keyword
import sys
import types
import warnings
from collections.abc import Callable
from typing import Any

from .callbacks import BadPrototypeError, call_back, call_back_for_result
from .conversion import result_out
from .metadata import Method, Value, protocols
from .objects import CLASSES, ObjCError, ObjCMeta


class ObjCSuperWarning(Warning):
    """objc.ObjCSuperWarning."""


class PythonMethod:
    """objc.python_method: stays a Python method."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function


class FormalProtocol:
    """What ``objc.protocolNamed`` returns."""

    def __init__(self, name: str, methods: tuple[Method, ...]) -> None:
        self.__name__ = name
        self.methods = methods

    def __repr__(self) -> str:
        return f"<objc.formal_protocol {self.__name__}>"

    def instanceMethods(self) -> list[dict[str, Any]]:
        return [
            {"selector": method.selector.encode(), "typestr": method.signature, "required": method.required}
            for method in self.methods
            if not method.is_class
        ]

    def classMethods(self) -> list[dict[str, Any]]:
        return []


class PythonSelector:
    """A method of a Python class that Objective-C can call."""

    def __init__(self, function: Callable[..., Any], selector: str) -> None:
        self.function = function
        self.method_selector = selector

    def __get__(self, instance: Any, owner: ObjCMeta) -> Any:
        if instance is None:
            return self
        return BoundPythonSelector(self, instance)

    @property
    def selector(self) -> bytes:
        return self.method_selector.encode()


class BoundPythonSelector:
    def __init__(self, definition: PythonSelector, instance: Any) -> None:
        self._definition = definition
        self._instance = instance
        self.__name__ = definition.function.__name__
        self.selector = definition.selector

    def __call__(self, *arguments: Any) -> Any:
        wanted = self._definition.method_selector.count(":")
        if len(arguments) != wanted:
            raise TypeError(f"Need {wanted} arguments, got {len(arguments)}: {self.__name__}")
        return self._definition.function(self._instance, *arguments)


def protocol_named(name: str) -> FormalProtocol:
    found = protocols().get(name)
    if found is None:
        raise KeyError(name)
    return FormalProtocol(name, found)


def make_python_class(
    meta: type[ObjCMeta],
    name: str,
    bases: tuple[type, ...],
    namespace: dict[str, Any],
    conforms_to: tuple[Any, ...],
) -> ObjCMeta:
    if name in CLASSES:
        raise ObjCError(f"{name} is overriding existing Objective-C class")
    for protocol in conforms_to:
        if not isinstance(protocol, FormalProtocol):
            raise TypeError(f"protocols list contains object that isn't an Objective-C protocol: {protocol!r}")
    _check_super(name, namespace)
    body = {key: _transform(key, value) for key, value in namespace.items()}
    body |= {"_is_native": False, "_protocols": tuple(protocol.__name__ for protocol in conforms_to), "facts": None}
    made = type.__new__(meta, name, bases, body)
    _check_protocols(made, body, conforms_to)
    CLASSES[name] = made
    return made


def _check_super(name: str, namespace: dict[str, Any]) -> None:
    if "__classcell__" not in namespace:
        return
    module = sys.modules.get(namespace.get("__module__", ""))
    if not getattr(getattr(module, "super", None), "is_objc_super", False):
        warnings.warn(
            f"Objective-C subclass uses super(), but super is not objc.super: {name}", ObjCSuperWarning, stacklevel=5
        )


def _transform(name: str, value: Any) -> Any:
    if isinstance(value, PythonMethod):
        return value.function
    if not isinstance(value, types.FunctionType) or inspect.iscoroutinefunction(value):
        return value
    selector = default_selector(name)
    if selector is None:
        return value
    total, required, has_varargs = _positional(value)
    wanted = selector.count(":") + 1
    if not has_varargs and not required <= wanted <= total:
        raise BadPrototypeError(
            f"{selector!r} expects {wanted - 1} arguments, {value!r} has {total - 1} positional arguments"
        )
    return PythonSelector(value, selector)


def default_selector(name: str) -> str | None:
    """PyObjC's naming rule; None = an ordinary Python method."""
    if name.endswith("__") and keyword.iskeyword(name[:-2]):
        name = name[:-2]
    if name.startswith("__") and name.endswith("__"):
        return None
    if "_" in name[1:] and not name.endswith("_"):
        return None
    selector = name.replace("_", ":")
    return f"_{selector[1:]}" if selector.startswith(":") else selector


def _positional(function: types.FunctionType) -> tuple[int, int, bool]:
    parameters = list(inspect.signature(function).parameters.values())
    if any(entry.kind == entry.KEYWORD_ONLY and entry.default is entry.empty for entry in parameters):
        raise BadPrototypeError(f"{function!r} has keyword-only arguments without a default")
    positional = [entry for entry in parameters if entry.kind in (entry.POSITIONAL_ONLY, entry.POSITIONAL_OR_KEYWORD)]
    required = sum(entry.default is entry.empty for entry in positional)
    return len(positional), required, any(entry.kind == entry.VAR_POSITIONAL for entry in parameters)


def _check_protocols(made: ObjCMeta, body: dict[str, Any], conforms_to: tuple[FormalProtocol, ...]) -> None:
    known = {method.selector for protocol in conforms_to for method in protocol.methods}
    own = {value.method_selector for value in body.values() if isinstance(value, PythonSelector)}
    for protocol in conforms_to:
        missing = [entry.selector for entry in protocol.methods if entry.required and entry.selector not in own]
        if missing:
            raise TypeError(
                f"class does not fully implemented protocol {protocol.__name__!r}: "
                f"no implementation for instance method {missing[0]!r}"
            )
    if not conforms_to:
        return
    for selector in sorted(own - known):
        if selector.count(":") and not hasattr(made.__mro__[1], selector.replace(":", "_")):
            raise TypeError(
                f"{made.__name__} implements {selector!r}, which none of its protocols has: it is never called "
                "(decorate a helper with objc.python_method)"
            )


def send(receiver: Any, selector: str, *arguments: Any) -> bool:
    """Call a void delegate method if the object has it; whether it has."""
    method = _bound(receiver, selector)
    if method is None:
        return False
    call_back(method, _bridged(arguments), f"{type(receiver).__name__}.{method.__name__}")
    return True


def ask(receiver: Any, selector: str, *arguments: Any) -> object:
    """Call a delegate method for its result; None if the object does not have it."""
    method = _bound(receiver, selector)
    if method is None:
        return None
    return call_back_for_result(method, _bridged(arguments), f"{type(receiver).__name__}.{method.__name__}")


def _bound(receiver: Any, selector: str) -> Any:
    method = getattr(receiver, selector.replace(":", "_"), None)
    return method if isinstance(method, BoundPythonSelector) else None


def _bridged(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(result_out(argument, Value("@", "id", nullable=True)) for argument in arguments)
