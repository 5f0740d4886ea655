"""PyObjC's core, as far as hosts of virtual machines use it."""

import builtins
import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import Foundation  # noqa: F401 - the runtime has NSObject from the start
from vzdouble.aborts import abort
from vzdouble.callbacks import BadPrototypeError as BadPrototypeError
from vzdouble.conversion import OpaquePointer
from vzdouble.conversion import pyobjc_unicode as pyobjc_unicode
from vzdouble.forking import guard_with
from vzdouble.objects import CLASSES
from vzdouble.objects import NULL as NULL
from vzdouble.objects import NativeSelector as native_selector  # noqa: N813, F401
from vzdouble.objects import ObjCError as error  # noqa: N813
from vzdouble.objects import ObjCMeta as objc_class  # noqa: N813
from vzdouble.objects import ObjCObject as objc_object  # noqa: N813, F401
from vzdouble.subclassing import FormalProtocol as formal_protocol  # noqa: N813
from vzdouble.subclassing import ObjCSuperWarning as ObjCSuperWarning
from vzdouble.subclassing import PythonMethod as python_method  # noqa: N813, F401
from vzdouble.subclassing import protocol_named

__version__ = "12.2.2"
nil = None
YES, NO = True, False


def _before_fork() -> None:
    """A forked child of a process with Objective-C dies; posix_spawn and subprocess without preexec_fn are fine."""
    if __name__ in sys.modules:  # a test may have purged it
        abort("fork", "os.fork, or subprocess with preexec_fn, after Objective-C was loaded")


guard_with(_before_fork)


class nosuchclass_error(error):  # noqa: N801
    """No class has this name."""


class ProtocolError(error):
    """No protocol has this name."""


class super(builtins.super):  # noqa: A001, N801
    """``objc.super(Class, self)``."""

    is_objc_super = True


def lookUpClass(name: str) -> objc_class:
    if name not in CLASSES:
        raise nosuchclass_error(name)
    return CLASSES[name]


def protocolNamed(name: str) -> formal_protocol:
    try:
        return protocol_named(name)
    except KeyError as exc:
        raise ProtocolError(name) from exc


@contextlib.contextmanager
def autorelease_pool() -> Iterator[None]:
    yield


def createOpaquePointerType(name: str, typestr: Any, doc: str | None = None) -> type[OpaquePointer]:
    if not isinstance(typestr, bytes) or not typestr.startswith(b"^"):
        raise ValueError(f"{typestr!r} is no pointer's type encoding")
    return type(name, (OpaquePointer,), {"encoding": typestr, "__doc__": doc})


def selector(function: Callable[..., Any], **_: Any) -> Callable[..., Any]:
    """Selectors with signatures of their own: the name's default is all that the double keeps."""
    return function


def typedSelector(_signature: bytes) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return lambda function: function
