"""What the checker knows about the value of an expression."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum, auto

from .catalog import Catalog, Json


class Form(StrEnum):
    UNKNOWN = auto()
    CLASS = auto()
    """An Objective-C class, named."""
    ALLOCATED = auto()
    """The result of `alloc()`."""
    INSTANCE = auto()
    """An object of a class, named."""
    ARRAY = auto()
    """A list or NSArray; `name` is the class of its elements, or empty."""
    ARRAY_GETTER = auto()
    """An NSArray that a framework returned: immutable."""
    OUTCOME = auto()
    """The tuple that a call with an error parameter returns; `name` is the class of the first element, or empty."""
    ENUM = auto()
    """A constant or value of an enum, named."""
    TEXT = auto()
    PATH = auto()
    BYTES = auto()
    BOOL = auto()
    INTEGER = auto()
    FLOAT = auto()
    NONE = auto()
    FUNCTION = auto()
    """A Python function that was seen; `name` is its key."""
    LAMBDA = auto()
    PARTIAL = auto()
    METHOD = auto()
    """An attribute of something that is no function of this package."""
    OBJECT = auto()
    """An object of a Python class of this package, by its key."""


@dataclass(frozen=True, slots=True)
class Type:
    form: Form
    name: str = ""

    @property
    def is_objc(self) -> bool:
        return self.form in (Form.CLASS, Form.ALLOCATED, Form.INSTANCE)


UNKNOWN = Type(Form.UNKNOWN)
NONE = Type(Form.NONE)


def join(catalog: Catalog, first: Type | None, second: Type) -> Type:
    """What is true of a value that may be either; None is left out, because a nullable object is still that object."""
    if first is None or first in (second, NONE):
        return second
    if second == NONE:
        return first
    if first.form is second.form is Form.INSTANCE and (shared := catalog.common(first.name, second.name)):
        return Type(Form.INSTANCE, shared)
    if {first.form, second.form} == {Form.ARRAY, Form.ARRAY_GETTER}:
        return Type(Form.ARRAY, first.name if first.name == second.name else "")
    if first.form is second.form and first.form in (Form.ARRAY, Form.ARRAY_GETTER):
        element = catalog.common(first.name, second.name) if first.name and second.name else first.name or second.name
        return Type(first.form, element or "")
    return UNKNOWN


def of_declared(catalog: Catalog, declared: Json, receiver: str) -> Type:
    """The value of a C type in the metadata, as PyObjC hands it to Python."""
    name: str = declared["name"]
    if name == "instancetype":
        return Type(Form.INSTANCE, receiver)
    if name.startswith(("NSArray", "NSSet")):
        return Type(Form.ARRAY_GETTER, declared.get("element") or "")
    if name in ("NSString*", "NSErrorDomain"):
        return Type(Form.TEXT)
    if name in catalog.enum_types:
        return Type(Form.ENUM, name)
    if name.endswith("*") and name[:-1] in catalog.classes:
        known = name[:-1]
        return UNKNOWN if known in ("NSDictionary", "NSNumber", "NSDate", "NSValue") else Type(Form.INSTANCE, known)
    match declared["type"]:
        case "Z":
            return Type(Form.BOOL)
        case "q" | "Q" | "i" | "I" | "l" | "L" | "s" | "S":
            return Type(Form.INTEGER)
        case "d" | "f":
            return Type(Form.FLOAT)
        case _:
            return UNKNOWN
