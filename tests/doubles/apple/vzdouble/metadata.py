"""Apple's SDK metadata as objects. The same for every Mac: what exists on one is decided by `generation`."""

import functools
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

RESOURCES = Path(__file__).parents[4] / "resources" / "apple-sdk"


@dataclass(frozen=True, slots=True)
class Value:
    """An argument or a result. `block` = encodings of a block's result and parameters."""

    type: str
    name: str
    nullable: bool | None = None
    out: bool = False
    block: tuple[str, ...] | None = None
    block_names: tuple[str, ...] = ()
    element: str | None = None

    @property
    def class_name(self) -> str:
        """``NSURL*`` -> NSURL, ``NSArray<VZStorageDeviceConfiguration*>*`` -> NSArray, ``id<VZUSBDevice>`` -> id."""
        return self.name.partition("<")[0].rstrip("*").strip()


@dataclass(frozen=True, slots=True)
class Method:
    selector: str
    is_class: bool
    arguments: tuple[Value, ...]
    returns: Value
    introduced: tuple[int, ...] | None = None
    arm64_only: bool = False
    required: bool = False

    @property
    def python_name(self) -> str:
        return self.selector.replace(":", "_")

    @property
    def has_error_slot(self) -> bool:
        return any(argument.out for argument in self.arguments)

    @property
    def signature(self) -> bytes:
        return "".join((self.returns.type, "@:", *(argument.type for argument in self.arguments))).encode()


@dataclass(frozen=True, slots=True)
class Property:
    getter: str
    setter: str | None
    weak: bool
    copy: bool
    type: str
    name: str


@dataclass(frozen=True, slots=True)
class ClassFacts:
    name: str
    superclass: str
    protocols: tuple[str, ...]
    introduced: tuple[int, ...] | None
    arm64_only: bool
    unavailable: frozenset[str]
    methods: tuple[Method, ...]
    properties: tuple[Property, ...]

    def method(self, selector: str, *, is_class: bool) -> Method | None:
        for method in self.methods:
            if method.selector == selector and method.is_class == is_class:
                return method
        return None


@functools.cache
def framework(name: str) -> dict[str, Any]:
    """The vendored document of ``virtualization`` or ``foundation``."""
    document: dict[str, Any] = json.loads((RESOURCES / f"{name}.json").read_bytes())
    return document


@functools.cache
def class_facts(framework_name: str) -> dict[str, ClassFacts]:
    """By class name; also what does not exist on this Mac."""
    return {name: _class(name, raw) for name, raw in framework(framework_name)["classes"].items()}


@functools.cache
def protocols() -> dict[str, tuple[Method, ...]]:
    return {
        name: tuple(_method(selector, raw) for selector, raw in methods.items())
        for document in ("virtualization", "foundation")
        for name, methods in framework(document)["protocols"].items()
    }


@functools.cache
def enumerations() -> dict[str, frozenset[int]]:
    """Values of each enumeration type of Virtualization, options left out: they are or-ed."""
    found: dict[str, set[int]] = {}
    for raw in framework("virtualization")["enums"].values():
        if raw["type"] and not raw["type"].endswith("Options"):
            found.setdefault(raw["type"], set()).add(raw["value"])
    return {name: frozenset(values) for name, values in found.items()}


def assumed_method(python_name: str, *, is_class: bool) -> Method:
    """For the few methods that the document leaves out (categories, the runtime): any objects, any number of them."""
    return Method(
        selector=python_name.replace("_", ":"),
        is_class=is_class,
        arguments=tuple(Value("@", "id", nullable=True) for _ in range(python_name.count("_"))),
        returns=Value("@", "id", nullable=True),
    )


def _class(name: str, raw: dict[str, Any]) -> ClassFacts:
    return ClassFacts(
        name=name,
        superclass=raw["super"] or "NSObject",
        protocols=tuple(raw["protocols"]),
        introduced=_version(raw["introduced"]),
        arm64_only=raw["arm64_only"],
        unavailable=frozenset(raw["unavailable"]),
        methods=tuple(_method(selector, method) for selector, method in raw["methods"].items()),
        properties=tuple(
            Property(entry["getter"], entry["setter"], entry["weak"], entry["copy"], entry["type"], entry["name"])
            for entry in raw["properties"].values()
        ),
    )


def _method(selector: str, raw: dict[str, Any]) -> Method:
    return Method(
        selector=selector.lstrip("+-"),
        is_class=raw["kind"] == "class",
        arguments=tuple(_value(argument) for argument in raw["arguments"]),
        returns=_value(raw["returns"]),
        introduced=_version(raw["introduced"]),
        arm64_only=raw["arm64_only"],
        required=raw.get("required", False),
    )


def _value(raw: dict[str, Any]) -> Value:
    value = Value(type=raw["type"], name=raw["name"] or "", nullable=raw["nullable"], element=raw["element"])
    if raw.get("block"):
        value = replace(value, block=tuple(raw["block"]), block_names=tuple(raw["block_names"] or ()))
    return replace(value, out=raw.get("out", False))


def _version(text: str | None) -> tuple[int, ...] | None:
    return tuple(int(part) for part in text.split(".")) if text else None
