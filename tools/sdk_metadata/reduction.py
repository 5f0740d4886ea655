"""From the dumps of two architectures, PyObjC's registrations and the nullability table to one document."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

from . import fwinfo
from .fwinfo import Json
from .sources import Archive, SourceError

FOUNDATION_CLASSES = (
    "NSArray", "NSData", "NSDate", "NSDictionary", "NSError", "NSException", "NSFileHandle", "NSMutableArray",
    "NSMutableDictionary", "NSNull", "NSNumber", "NSObject", "NSOperationQueue", "NSPipe", "NSProcessInfo",
    "NSProgress", "NSRunLoop", "NSString", "NSThread", "NSURL", "NSUUID", "NSValue",
)  # fmt: skip
FOUNDATION_PROTOCOLS = ("NSCopying", "NSProgressReporting")
FOUNDATION_ENUMS = re.compile(r"NSKeyValueObservingOption|NSUTF8StringEncoding|NSFile.*Error$|NSUserCancelledError")
FOUNDATION_CONSTANTS = re.compile(
    r"NS(Cocoa|POSIX|OSStatus|Mach)ErrorDomain|NSUnderlyingErrorKey|NSLocalized.*ErrorKey|NSDefaultRunLoopMode"
    r"|NSRunLoopCommonModes|NSKeyValueChange\w+Key|NSInvalidArgumentException|NSURLErrorDomain|NSFilePathErrorKey"
)
_NULLABILITY = Path(__file__).with_name("nullability.json")

_OBJECT, _BOOL, _CLASS = ("@", "id"), ("Z", "BOOL"), ("#", "Class")


def _runtime_method(kind: str, returns: tuple[str, str], *arguments: tuple[str, str]) -> Json:
    """Methods of the Objective-C runtime's own NSObject.h, which no framework dump repeats."""
    return {
        "kind": kind,
        "introduced": None,
        "deprecated": None,
        "arm64_only": False,
        "returns": {"type": returns[0], "name": returns[1], "nullable": None, "element": None},
        "arguments": [
            {
                "type": code, "name": name, "parameter": None, "nullable": None, "out": False,
                "block": None, "block_names": None, "element": None,
            }
            for code, name in arguments
        ],
    }  # fmt: skip


RUNTIME_METHODS = {
    "alloc": _runtime_method("class", ("@", "instancetype")),
    "new": _runtime_method("class", ("@", "instancetype")),
    "init": _runtime_method("instance", ("@", "instancetype")),
    "copy": _runtime_method("instance", _OBJECT),
    "mutableCopy": _runtime_method("instance", _OBJECT),
    "+class": _runtime_method("class", _CLASS),
    "-class": _runtime_method("instance", _CLASS),
    "superclass": _runtime_method("class", _CLASS),
    "instancesRespondToSelector:": _runtime_method("class", _BOOL, (":", "SEL")),
    "respondsToSelector:": _runtime_method("instance", _BOOL, (":", "SEL")),
    "conformsToProtocol:": _runtime_method("instance", _BOOL, ("@", "Protocol*")),
    "isKindOfClass:": _runtime_method("instance", _BOOL, _CLASS),
    "isEqual:": _runtime_method("instance", _BOOL, _OBJECT),
    "hash": _runtime_method("instance", ("Q", "NSUInteger")),
    "description": _runtime_method("instance", ("@", "NSString*")),
    "debugDescription": _runtime_method("instance", ("@", "NSString*")),
}


def virtualization(archive: Archive) -> Json:
    """The whole of Virtualization. Raises: SourceError when the dump and PyObjC's registrations disagree."""
    dump, intel, sdk = _dumps(archive, "metadata/raw")
    document = _document(archive, sdk)
    document["classes"] = {
        name: _class(raw, intel["classes"].get(name)) for name, raw in dump["classes"].items()
    }  # fmt: skip
    for name, selectors in _unavailable(archive.text("Lib/Virtualization/__init__.py")).items():
        document["classes"][name]["unavailable"] = selectors
    document["enums"] = _enums(dump)
    document["enum_types"] = {name: raw["type"] for name, raw in dump["enum_type"].items()}
    document["constants"] = _constants(dump)
    document["protocols"] = {name: _protocol(raw) for name, raw in dump["formal_protocols"].items()}
    _apply_nullability(document)
    _compare_registrations(document, archive.text("Lib/Virtualization/_metadata.py"))
    return document


def foundation(cocoa: Archive, dispatch: Archive) -> Json:
    """The part of Foundation, and the functions of libdispatch, that a driver can need."""
    dump, intel, sdk = _dumps(cocoa, "metadata/raw.Foundation")
    document = _document(cocoa, sdk)
    document["classes"] = {
        name: _class(dump["classes"][name], intel["classes"].get(name)) for name in FOUNDATION_CLASSES
    }
    unavailable = _unavailable(cocoa.text("Lib/Foundation/__init__.py"))
    for name in sorted(set(unavailable) & set(document["classes"])):
        document["classes"][name]["unavailable"] = unavailable[name]
    base = document["classes"]["NSObject"]
    base["methods"] = RUNTIME_METHODS | base["methods"]
    document["enums"] = {name: raw for name, raw in _enums(dump).items() if FOUNDATION_ENUMS.match(name)}
    document["enum_types"] = {
        name: raw["type"]
        for name, raw in dump["enum_type"].items()
        if any(entry["type"] == name for entry in document["enums"].values())
    }
    document["constants"] = {
        name: raw for name, raw in _constants(dump).items() if FOUNDATION_CONSTANTS.fullmatch(name)
    }  # fmt: skip
    document["protocols"] = {name: _protocol(dump["formal_protocols"][name]) for name in FOUNDATION_PROTOCOLS}
    functions, _, _ = _dumps(dispatch, "metadata/raw")
    document["dispatch"] = {
        "source": _source(dispatch, sdk),
        "functions": {
            name: {key: value for key, value in fwinfo.method(raw).items() if key != "kind"}
            for name, raw in functions["functions"].items()
            if not name.startswith("_")
        },
        "enums": _enums(functions),
        "nil": sorted(functions["literals"]),
    }
    return document


def _document(archive: Archive, sdk: str) -> Json:
    return {"source": _source(archive, sdk)}


def _source(archive: Archive, sdk: str) -> Json:
    source = archive.source
    return {"package": source.package, "version": source.version, "sha256": source.sha256, "sdk": sdk}


def _dumps(archive: Archive, directory: str) -> tuple[Json, Json, str]:
    """Definitions of arm64 and of x86_64, and the SDK's release."""
    arm = fwinfo.parse(archive.text(archive.one_matching(re.escape(directory) + r"/arm64-[\d.]+\.fwinfo")))
    intel = fwinfo.parse(archive.text(archive.one_matching(re.escape(directory) + r"/x86_64-[\d.]+\.fwinfo")))
    if arm["release"] != intel["release"]:
        raise SourceError(f"{archive.source.file_name} mixes SDK {arm['release']} and {intel['release']}")
    return arm["definitions"], intel["definitions"], str(arm["release"])


def _class(raw: Json, intel: Json | None) -> Json:
    methods = fwinfo.methods(raw["methods"])
    if intel is not None:
        elsewhere = fwinfo.methods(intel["methods"])
        for selector, entry in methods.items():
            entry["arm64_only"] = selector not in elsewhere
    else:
        for entry in methods.values():
            entry["arm64_only"] = True
    return {
        "super": raw.get("super"),
        "protocols": raw.get("protocols", []),
        "arm64_only": intel is None,
        "introduced": fwinfo.oldest(entry["introduced"] for entry in methods.values()),
        "unavailable": [],
        "methods": methods,
        "properties": fwinfo.properties(raw.get("properties", [])),
    }


def _protocol(raw: Json) -> dict[str, Json]:
    required = {entry["selector"]: bool(entry["required"]) for entry in raw["methods"]}
    return {
        selector: {**entry, "required": required[selector.lstrip("+-")]}
        for selector, entry in fwinfo.methods(raw["methods"]).items()
    }


def _enums(dump: Json) -> dict[str, Json]:
    return {
        name: {"value": raw["value"], "type": raw.get("enum"), "introduced": raw.get("introduced")}
        for name, raw in dump["enum"].items()
        if not name.startswith("_")
    }


def _constants(dump: Json) -> dict[str, Json]:
    return {
        name: {"type": raw["typestr"], "name": fwinfo.type_name(raw["type_name"]), "introduced": raw.get("introduced")}
        for name, raw in dump["externs"].items()
        if not name.startswith("_")
    }


def _unavailable(code: str) -> dict[str, list[str]]:
    """Class -> selectors that PyObjC refuses as NS_UNAVAILABLE, read from the literal table in `_setup`."""
    found: dict[str, list[str]] = {}
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.For) and "registerUnavailableMethod" in ast.dump(node):
            for name, selector in ast.literal_eval(node.iter):
                found.setdefault(name, []).append(selector.decode())
    return {name: sorted(selectors) for name, selectors in found.items()}


def _apply_nullability(document: Json) -> None:
    """Every class and protocol in the table is fully annotated: what it does not name as nullable is nonnull."""
    table = json.loads(_NULLABILITY.read_text(encoding="utf-8"))
    known = {name: raw["methods"] for name, raw in document["classes"].items()} | document["protocols"]
    for owner, nullable in table["nullable"].items():
        for selector, entry in known.get(owner, {}).items():
            if selector.lstrip("+-") not in table["methods"][owner]:
                continue
            slots = nullable.get(selector.lstrip("+-"), [])
            failing = any(argument["out"] for argument in entry["arguments"])
            if entry["returns"]["type"] == "@":
                entry["returns"]["nullable"] = failing or "returns" in slots
            for position, argument in enumerate(entry["arguments"]):
                if argument["out"] or argument["type"].startswith("@"):
                    argument["nullable"] = argument["out"] or position in slots


def _compare_registrations(document: Json, code: str) -> None:
    """What PyObjC registers at run time (blocks, out parameters) must be what the dump says.

    Raises: SourceError on any difference.
    """
    registered = {
        (name.decode(), selector.decode()): facts.get("arguments", {}) for name, selector, facts in _registrations(code)
    }
    for name, raw in document["classes"].items():
        for selector, entry in raw["methods"].items():
            plain = selector.lstrip("+-")
            facts = registered.get((name, plain), {})
            for position, argument in enumerate(entry["arguments"], start=2):
                said = facts.get(position, {})
                out = said.get("type_modifier") == b"o"
                block = said.get("callable")
                if out != argument["out"] or (block is not None) != (argument["block"] is not None):
                    raise SourceError(f"[{name} {plain}] parameter {position - 2}: dump and registration differ")
                if block is not None:
                    types = [block["retval"]["type"].decode()]
                    types += [block["arguments"][i]["type"].decode() for i in range(1, len(block["arguments"]))]
                    if types != argument["block"]:
                        raise SourceError(f"[{name} {plain}] block {argument['block']} is registered as {types}")


def _registrations(code: str) -> list[tuple[bytes, bytes, Json]]:
    calls = (
        [ast.literal_eval(argument) for argument in node.args]
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "r"
    )
    return [(name, selector, facts) for name, selector, facts in calls]
