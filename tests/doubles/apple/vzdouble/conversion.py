"""Arguments from Python to Objective-C and results back: PyObjC's bridging, stricter where it crashes only later."""

import re
from typing import Any

from .aborts import abort
from .callbacks import Block
from .metadata import Value, enumerations
from .objects import CLASSES, ObjCMeta, ObjCObject, construct, invalid_argument
from .queues import DispatchQueue

_INTEGERS = {
    "c": (-(2**7), 2**7), "C": (0, 2**8), "s": (-(2**15), 2**15), "S": (0, 2**16), "i": (-(2**31), 2**31),
    "I": (0, 2**32), "l": (-(2**63), 2**63), "L": (0, 2**64), "q": (-(2**63), 2**63), "Q": (0, 2**64),
}  # fmt: skip

_STRUCT = re.compile(r"\{\w+=(d+|q+)\}$")


class pyobjc_unicode(str):  # noqa: N801 - PyObjC's name
    """An NSString in Python: a str."""

    __slots__ = ()

    def nsstring(self) -> "pyobjc_unicode":
        return self


class pyobjc_int(int):  # noqa: N801
    """An NSNumber in Python."""


class pyobjc_float(float):  # noqa: N801
    """An NSNumber in Python."""


class OpaquePointer:
    """Base of what ``objc.createOpaquePointerType`` makes."""

    encoding = b""

    def __init__(self, *, c_void_p: Any) -> None:
        self.__pointer__ = getattr(c_void_p, "value", c_void_p)
        if not self.__pointer__:
            raise ValueError("a NULL pointer")


def argument_in(argument: Any, value: Value, where: str) -> Any:
    """Raises: TypeError or ValueError for what Objective-C would not understand."""
    if value.type == "@?" or value.block is not None:
        return _block(argument, value, where)
    if value.type == "Z":
        if not isinstance(argument, bool):
            raise TypeError(f"{where}: BOOL wants True or False, not {argument!r} (PyObjC would take its truth)")
        return argument
    if value.type in _INTEGERS:
        return _integer(argument, value, where)
    if value.type in ("d", "f"):
        if isinstance(argument, bool) or not isinstance(argument, int | float):
            raise ValueError(f"depythonifying 'double', got {type(argument).__name__!r}: {where}")
        return float(argument)
    if value.type == "#":
        if not isinstance(argument, ObjCMeta):
            raise TypeError(f"{where}: wants a class, not {argument!r}")
        return argument
    if value.type == ":":
        return argument.decode() if isinstance(argument, bytes) else str(argument)
    if value.type.startswith("@"):
        return _object(argument, value, where)
    return _structure(argument, value, where)


def _block(argument: Any, value: Value, where: str) -> Block | None:
    if argument is None:
        if value.nullable:
            return None
        raise abort("nil-block", f"{where}: None for a handler that must not be nil")
    return Block(argument, len(value.block or ("v",)) - 1, where)


def _integer(argument: Any, value: Value, where: str) -> int:
    if isinstance(argument, float):
        raise ValueError(f"{where}: {argument!r} for an integer (PyObjC would cut it off)")  # noqa: TRY004 - as PyObjC
    if isinstance(argument, bool) or not isinstance(argument, int):
        raise ValueError(f"depythonifying 'long', got {type(argument).__name__!r}: {where}")  # noqa: TRY004
    lowest, beyond = _INTEGERS[value.type]
    if not lowest <= argument < beyond:
        raise ValueError(f"depythonifying '{value.type}', {argument} is out of range: {where}")
    values = enumerations().get(value.name)
    if values is not None and argument not in values:
        raise invalid_argument(f"{where}: {argument} is no {value.name}")
    return int(argument)


def _structure(argument: Any, value: Value, where: str) -> Any:
    match = _STRUCT.match(value.type)
    if match:
        if not isinstance(argument, tuple) or len(argument) != len(match[1]):
            raise ValueError(f"depythonifying struct of {len(match[1])} members, got {argument!r}: {where}")
        return argument
    if value.type.startswith("^{"):
        if not isinstance(argument, OpaquePointer) or argument.encoding != value.type.encode():
            raise TypeError(f"{where}: wants a pointer of type {value.type}, not {argument!r}")
        return argument
    if value.type == "^v" and (argument is None or isinstance(argument, int)):
        return argument
    raise TypeError(f"{where}: the double does not pass {argument!r} as {value.type}")


def _object(argument: Any, value: Value, where: str) -> Any:
    if argument is None:
        if value.nullable is False:
            raise invalid_argument(f"{where}: nil for {value.name}, which must not be nil")
        return None
    if value.class_name in ("dispatch_queue_t", "dispatch_object_t"):
        if not isinstance(argument, DispatchQueue):
            raise TypeError(f"{where}: wants a dispatch queue, not {argument!r}")
        return argument
    bridged = bridge(argument)
    expected = CLASSES.get(value.class_name)
    if expected is not None and not is_kind(bridged, value.class_name):
        raise TypeError(f"{where}: wants {value.name}, not {type(argument).__name__} ({argument!r})")
    if value.element is not None:
        for element in _elements(bridged):
            _check_element(element, value.element, where)
    return bridged


def _elements(collection: Any) -> Any:
    return collection._items.values() if is_kind(collection, "NSDictionary") else collection._items


def _check_element(element: Any, wanted: str, where: str) -> None:
    """`wanted` may be a class, ``key,value`` of a dictionary, or a protocol."""
    name = wanted.rpartition(",")[2].rstrip("*")
    if name in CLASSES:
        if not is_kind(element, name):
            raise TypeError(f"{where}: an element is {element!r}, not {name}")
    elif name not in ("id", "ObjectType", "KeyType") and not _conforms(element, name):
        raise TypeError(f"{where}: an element is {element!r}, which does not conform to {name}")


def _conforms(element: Any, protocol: str) -> bool:
    protocol = protocol.removeprefix("id<").rstrip(">")
    owners = type(element).__mro__
    return any(protocol in facts.protocols for owner in owners if (facts := vars(owner).get("facts")) is not None)


def is_kind(value: Any, class_name: str) -> bool:
    """-isKindOfClass: of a bridged value."""
    if isinstance(value, str):
        return class_name in ("NSString", "NSObject")
    if isinstance(value, int | float):
        return class_name in ("NSNumber", "NSValue", "NSObject")
    return isinstance(value, CLASSES[class_name])


def bridge(value: Any) -> Any:
    """A Python value as Objective-C holds it: copies of collections, bytes as NSData, str and numbers as they are."""
    if value is None:
        return construct("NSNull")
    if isinstance(value, ObjCObject | pyobjc_unicode | pyobjc_int | pyobjc_float):
        return value
    if isinstance(value, str):
        return pyobjc_unicode(value)
    if isinstance(value, int):
        return pyobjc_int(value)
    if isinstance(value, float):
        return pyobjc_float(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return construct("NSData", _data=bytes(value))
    if isinstance(value, list | tuple):
        return construct("NSArray", _items=tuple(bridge(item) for item in value))
    if isinstance(value, dict):
        return construct("NSDictionary", _items={bridge(key): bridge(item) for key, item in value.items()})
    raise TypeError(f"{value!r} would reach Objective-C as an opaque Python object")


def result_out(result: Any, value: Value) -> Any:
    """A result of behaviour as PyObjC returns it."""
    if value.type == "v":
        return None
    if result is None or not value.type.startswith("@") or isinstance(result, DispatchQueue):
        return result
    return bridge(result)
