"""Python functions as Objective-C blocks and methods: what PyObjC accepts, and what ends the process when called."""

import inspect
import types
from collections.abc import Callable
from typing import Any

from .aborts import Aborted, abort


class BadPrototypeError(Exception):
    """objc.BadPrototypeError: the function cannot take the arguments that Objective-C passes."""


class Block:
    """A block made of a callable. Calling it is what a dispatch queue does: nothing may come back but None."""

    def __init__(self, function: Callable[..., object], parameters: int, where: str) -> None:
        check_callable(function, parameters)
        self._function = function
        self._where = where

    def __call__(self, *arguments: object) -> None:
        call_back(self._function, arguments, self._where)


def check_callable(function: Callable[..., object], parameters: int) -> None:
    """PyObjC's rule for blocks. Raises: TypeError, BadPrototypeError."""
    total, defaults, has_varargs, has_keywords = _parameters(function)
    if total - defaults <= parameters <= total and not has_varargs and not has_keywords:
        return
    if total <= 1 and has_varargs:
        return
    raise BadPrototypeError(
        f"Objective-C expects {parameters} arguments, Python argument has {total} arguments for {function!r}"
    )


def _parameters(function: Callable[..., object]) -> tuple[int, int, bool, bool]:
    """Positional parameters (self left out), how many of them have defaults, ``*args``, ``**kwargs``."""
    python: Any = function
    if not isinstance(python, types.FunctionType | types.MethodType):
        python = getattr(python, "__call__", None)  # noqa: B004 - an instance whose class has a Python __call__
        if not isinstance(python, types.MethodType):
            raise TypeError(f"Cannot create native callable for instances of type {type(function).__name__}")
    kinds = list(inspect.signature(python).parameters.values())
    positional = [kind for kind in kinds if kind.kind in (kind.POSITIONAL_ONLY, kind.POSITIONAL_OR_KEYWORD)]
    if any(kind.kind == kind.KEYWORD_ONLY and kind.default is kind.empty for kind in kinds):
        raise BadPrototypeError(f"{function!r} has keyword-only arguments without defaults")
    return (
        len(positional),
        sum(kind.default is not kind.empty for kind in positional),
        any(kind.kind == kind.VAR_POSITIONAL for kind in kinds),
        any(kind.kind == kind.VAR_KEYWORD for kind in kinds),
    )


def call_back(function: Callable[..., object], arguments: tuple[object, ...], where: str) -> None:
    """Call from Objective-C into Python, result void: an exception or a result ends the process."""
    result = call_back_for_result(function, arguments, where)
    if result is not None:
        if inspect.iscoroutine(result):
            result.close()
        raise abort(
            "callback-result", f"{where}: {function!r} did not return None, expecting void return value: {result!r}"
        )


def call_back_for_result(function: Callable[..., object], arguments: tuple[object, ...], where: str) -> object:
    try:
        return function(*arguments)
    except Aborted:
        raise
    except BaseException as exc:
        raise abort("callback-exception", f"{where}: {exc!r} escaped from {function!r}", exc) from exc
