"""Compares this host's frameworks with `api.json`: every class and selector that the product uses.

What PyObjC says of a method comes from ``__metadata__``: the type encodings that it will call with, which parameters
are `out`, and the signature of blocks.
"""

import json
import re
from collections.abc import Iterator, Mapping
from importlib import resources
from typing import Any

from vzkubelet.machines.vz import apple
from vzkubelet.machines.vz.apple import Frameworks
from vzkubelet.machines.vz.availability import MacOS
from vzkubelet.machines.vz.self_check_report import Check, State

API_STAGE = "api"
CREATION_STAGE = "creation"

Facts = Mapping[str, Any]

_SAME_TYPE = {"B": "Z", "c": "Z", "l": "q", "L": "Q"}
"""Encodings that mean the same on a 64-bit Mac: BOOL is a C bool on arm64 and a char on Intel, long is long long."""


def api() -> dict[str, Any]:
    """What the static checker wrote: the product's use of Apple's API, and what the SDK says of it."""
    text = resources.files("vzkubelet.machines.vz").joinpath("api.json").read_text("utf-8")
    document: dict[str, Any] = json.loads(text)
    return document


def metadata_name(document: Facts) -> str:
    source = document["source"]
    return f"{source['package']} {source['version']} (SDK {source['sdk']})"


# --- Classes and selectors -------------------------------------------------------------------------------------------


def compare_api(document: Facts, host: MacOS) -> Iterator[Check]:
    """Presence and signature of all that this host's version should have."""
    frameworks = apple.frameworks()
    for name, facts in document["classes"].items():
        if not _expected_here(facts, host):
            continue
        cls = getattr(getattr(frameworks, facts["framework"]), name, None)
        if cls is None:
            yield Check(API_STAGE, name, State.FAILED, _since(facts), "no such class")
            continue
        yield Check(API_STAGE, name, State.OK)
        for selector, method in facts["methods"].items():
            if _expected_here(method, host):
                yield _method(cls, f"{name} {selector}", method, facts["framework"])
    yield from _names(document, frameworks, host)


def _expected_here(facts: Facts, host: MacOS) -> bool:
    if facts["arm64_only"] and not host.is_apple_silicon:
        return False
    return facts["introduced"] is None or host >= _version(facts["introduced"])


def _version(text: str) -> MacOS:
    major, minor = text.split(".")[:2]
    return MacOS(int(major), int(minor))


def _since(facts: Facts) -> str:
    return f"from macOS {facts['introduced']} on" if facts["introduced"] else "everywhere"


def _method(cls: Any, label: str, facts: Facts, framework: str) -> Check:
    name = f"{'+' if facts['kind'] == 'class' else '-'}[{label}]"
    method = getattr(cls, facts["python"], None)
    if method is None:
        return Check(API_STAGE, name, State.FAILED, _since(facts), "no such selector")
    if framework == "Foundation" and not hasattr(method, "__metadata__"):
        return Check(API_STAGE, name, State.OK)  # PyObjC wrote it in Python, with the same name and meaning
    try:
        told = method.__metadata__()
        differences = list(_differences(told, facts))
    except Exception as exc:  # noqa: BLE001 - a method that PyObjC cannot describe is a finding, not our end
        return Check(API_STAGE, name, State.DIFFERENT, "a described method", repr(exc))
    if not differences:
        return Check(API_STAGE, name, State.OK)
    wanted, found = zip(*((wanted, found) for wanted, found, _ in differences), strict=True)
    state = State.FAILED if any(vital for _, _, vital in differences) else State.DIFFERENT
    return Check(API_STAGE, name, state, "; ".join(wanted), "; ".join(found))


def _differences(told: Any, facts: Facts) -> Iterator[tuple[str, str, bool]]:
    """Expected, found, and whether a call of ours would go wrong."""
    arguments = list(told["arguments"])[2:]  # without self and _cmd
    if bool(told.get("classmethod")) != (facts["kind"] == "class"):
        yield f"a method of the {facts['kind']}", "the other kind", True
    if len(arguments) != len(facts["arguments"]):
        yield f"{len(facts['arguments'])} arguments", str(len(arguments)), True
        return
    returned = _plain(told["retval"]["type"])
    if returned != _plain(facts["returns"]):
        yield f"result {facts['returns']}", returned, facts["returns"] == "Z"
    for position, (declared, argument) in enumerate(zip(facts["arguments"], arguments, strict=True)):
        label = f"argument {position}"
        raw = _text(argument["type"])
        out = raw[0] in "oN"
        if out != (position in facts["out"]):
            yield f"{label} {'an' if position in facts['out'] else 'no'} out parameter", raw, True
        elif _plain(raw) != _plain(declared):
            yield f"{label} {declared}", raw, False
        if (block := facts["blocks"].get(str(position))) is not None:
            signature = _block(argument)
            if signature != [_plain(code) for code in block]:
                yield f"{label} block {''.join(block)}", "".join(signature) or "a block without signature", True


def _block(argument: Any) -> list[str]:
    described = argument.get("callable")
    if described is None:
        return []
    parameters = list(described["arguments"])[1:]  # without the block itself
    return [_plain(described["retval"]["type"]), *(_plain(parameter["type"]) for parameter in parameters)]


def _text(encoding: bytes | str) -> str:
    return encoding.decode() if isinstance(encoding, bytes) else encoding


def _plain(encoding: bytes | str) -> str:
    """Without qualifiers, field lists and quoted class names."""
    text = _text(encoding).lstrip("rnNoORV") or "v"
    text = re.sub(r'"[^"]*"', "", text)
    text = re.sub(r"\{(\w+)=[^}]*\}?.*", r"{\1}", text)
    return _SAME_TYPE.get(text, text)


def _names(document: Facts, frameworks: Frameworks, host: MacOS) -> Iterator[Check]:
    """Constants, functions and protocols."""
    missing = object()
    for name, facts in document["constants"].items():
        value = getattr(frameworks.Virtualization, name, getattr(frameworks.Foundation, name, missing))
        wanted = facts["value"]
        if value is missing or (wanted is not None and value != wanted):
            found = "no such constant" if value is missing else str(value)
            yield Check(API_STAGE, name, State.FAILED, str(wanted), found)
        else:
            yield Check(API_STAGE, name, State.OK)
    for name in document["functions"]:
        present = hasattr(frameworks.dispatch, name)
        yield Check(API_STAGE, name, State.OK if present else State.FAILED, "", "" if present else "no such function")
    for name, selectors in document["protocols"].items():
        yield from _protocol(frameworks, name, selectors, host)


def _protocol(frameworks: Frameworks, name: str, selectors: Facts, host: MacOS) -> Iterator[Check]:
    try:
        protocol = frameworks.objc.protocolNamed(name)
        listed = {_text(entry["selector"]) for entry in protocol.instanceMethods()}
    except Exception as exc:  # noqa: BLE001 - PyObjC raises its own class for an unknown protocol
        yield Check(API_STAGE, name, State.FAILED, "a protocol", repr(exc))
        return
    for selector, facts in selectors.items():
        label = f"<{name}> {selector}"
        if facts["introduced"] is not None and host < _version(facts["introduced"]):
            continue
        # PyObjC lists what the runtime knows; a protocol that no code adopted may have lost its optional methods.
        found = selector in listed
        yield Check(API_STAGE, label, State.OK if found else State.DIFFERENT, "" if found else "listed", "")


# --- Creation --------------------------------------------------------------------------------------------------------


def compare_creation(document: Facts, host: MacOS) -> Iterator[Check]:
    """``+new`` has to make an instance; whether ``alloc().init()`` is refused, as it should be, is only noted."""
    frameworks = apple.frameworks()
    for name, facts in document["classes"].items():
        if facts["framework"] != "Virtualization" or "new" not in facts["methods"] or not _expected_here(facts, host):
            continue
        cls = getattr(frameworks.Virtualization, name, None)
        if cls is None:
            continue  # told by `compare_api`
        yield _made(name, cls)
        if "init" in facts["refuses"]:
            yield _refusal(name, cls)


def _made(name: str, cls: Any) -> Check:
    try:
        made = apple.make(cls)
    except Exception as exc:  # noqa: BLE001 - whatever it is, it is the finding
        return Check(CREATION_STAGE, f"{name}.new()", State.FAILED, "an instance", repr(exc))
    if made is None:
        return Check(CREATION_STAGE, f"{name}.new()", State.FAILED, "an instance", "None")
    return Check(CREATION_STAGE, f"{name}.new()", State.OK)


def _refusal(name: str, cls: Any) -> Check:
    label = f"{name}.alloc().init()"
    try:
        cls.alloc().init()
    except TypeError:
        return Check(CREATION_STAGE, label, State.OK)
    except Exception as exc:  # noqa: BLE001 - another refusal than the known one
        return Check(CREATION_STAGE, label, State.DIFFERENT, "TypeError: NS_UNAVAILABLE", repr(exc))
    return Check(CREATION_STAGE, label, State.DIFFERENT, "TypeError: NS_UNAVAILABLE", "an instance")
