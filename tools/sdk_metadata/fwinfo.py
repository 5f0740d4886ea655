"""PyObjC's own dump of a framework's headers (`metadata/raw*/ARCH-SDK.fwinfo`), cut down to what matters here."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

Json = dict[str, Any]


def parse(text: str) -> Json:
    """The dump is JSON after a few `//` lines."""
    document: Json = json.loads("\n".join(line for line in text.splitlines() if not line.startswith("//")))
    return document


def type_name(written: str) -> str:
    """A C type without nullability and spaces: `NSArray<VZConsoleDevice*>*`."""
    plain = re.sub(r"_Nullable|_Nonnull|_Null_unspecified|__kindof|\bconst\b|\bNS_NOESCAPE\b", "", written)
    return re.sub(r"\s*([*<>,()^])\s*", r"\1", plain).strip()


def element_of(name: str) -> str | None:
    """The class or protocol of the things in a typed collection; of a dictionary its values."""
    collection = re.fullmatch(r"NS(?:Mutable)?(?:Array|Set|OrderedSet|Dictionary|Enumerator)<(.*)>\*", name)
    if collection is None:
        return None
    last = collection[1].rpartition(",")[2]
    return re.sub(r"^id<(.*)>$", r"\1", last).rstrip("*") or None


def _block(argument: Json) -> tuple[list[str] | None, list[str] | None]:
    """Type codes (result first, without the block itself) and C types of a block parameter."""
    signature = argument.get("callable")
    if signature is None or not argument["typestr"].startswith("@") or "arguments" not in signature:
        return None, None
    parameters = [signature["arguments"][str(i)] for i in range(1, len(signature["arguments"]))]
    types = [signature["retval"]["type"], *(parameter["type"] for parameter in parameters)]
    return types, [type_name(parameter.get("type_name", "")) for parameter in parameters]


def _argument(argument: Json) -> Json:
    name = type_name(argument.get("type_name", ""))
    types, names = _block(argument)
    return {
        "type": argument["typestr"],
        "name": name,
        "parameter": argument.get("name"),
        "nullable": None,
        "out": argument.get("type_modifier") in ("o", "N"),
        "block": types,
        "block_names": names,
        "element": element_of(name),
    }


def method(raw: Json) -> Json:
    """One method or function."""
    returned = raw["retval"]
    name = type_name(returned.get("type_name", ""))
    return {
        "kind": "class" if raw.get("class_method") else "instance",
        "introduced": raw.get("introduced"),
        "deprecated": raw.get("deprecated", "").replace(".-1", ".0") or None,
        "arm64_only": False,
        "returns": {"type": returned["typestr"], "name": name, "nullable": None, "element": element_of(name)},
        "arguments": [_argument(argument) for argument in raw["args"]],
    }


def methods(raw: Iterable[Json]) -> dict[str, Json]:
    """By selector; `+selector` and `-selector` where class and instance both have it."""
    listed = list(raw)
    kinds: dict[str, set[bool]] = {}
    for entry in listed:
        kinds.setdefault(entry["selector"], set()).add(bool(entry["class_method"]))
    found = {}
    for entry in listed:
        selector = entry["selector"]
        sign = ("+" if entry["class_method"] else "-") if len(kinds[selector]) == 2 else ""
        found[sign + selector] = method(entry)
    return found


def properties(raw: Iterable[Json]) -> dict[str, Json]:
    """How each declared property is read, written and kept."""
    found = {}
    for entry in raw:
        attributes = entry["attributes"]
        words = {attribute for attribute in attributes if isinstance(attribute, str)}
        named = {attribute[0]: attribute[1] for attribute in attributes if isinstance(attribute, list)}
        name = entry["name"]
        found[name] = {
            "getter": named.get("getter", name),
            "setter": None if "readonly" in words else named.get("setter", f"set{name[0].upper()}{name[1:]}:"),
            "class": "class" in words,
            "copy": "copy" in words,
            "weak": "weak" in words,
            "type": entry["typestr"],
            "name": type_name(entry["type_name"]),
        }
    return found


def oldest(versions: Iterable[str | None]) -> str | None:
    """None when there is none, or when one of them is not stated: that one is older than everything."""
    listed = list(versions)
    known = [version for version in listed if version is not None]
    if len(known) < len(listed):
        return None
    return min(known, key=lambda version: [int(part) for part in version.split(".")], default=None)
