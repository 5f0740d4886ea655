"""Nullability, which PyObjC's dump lacks, from a mechanical translation of Apple's headers to Rust.

The translation (objc2's generated sources, one `.rs` file per header) writes `Option<…>` exactly where a header says
nullable. Only that fact is kept, in `nullability.json`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

_BLOCK = re.compile(r"(?:^|\n)\s*(?:pub unsafe trait|pub trait|impl) (\w+)[^{]*\{\s*")
_METHOD = re.compile(
    r"#\[unsafe\(method\((?P<selector>[^)]+)\)\)\](?P<attributes>.*?)fn \w+(?:<[^>]*>)?\((?P<arguments>.*?)\)"
    r"(?:\s*->\s*(?P<returns>[^;{]+?))?\s*(?:where\b[^;]*)?;",
    re.DOTALL,
)


def read(directory: Path, revision: str) -> dict[str, Any]:
    """The table for all `.rs` files of a directory; `revision` names what was read."""
    nullable: dict[str, dict[str, list[int | str]]] = {}
    methods: dict[str, set[str]] = {}
    for file in sorted(directory.glob("*.rs")):
        for owner, selector, slots in _methods(file.read_text(encoding="utf-8")):
            nullable.setdefault(owner, {})
            methods.setdefault(owner, set()).add(selector)
            if slots:
                nullable[owner][selector] = slots
    return {
        "source": {"what": "objc2-generated, Virtualization", "revision": revision},
        "methods": {owner: sorted(found) for owner, found in sorted(methods.items())},
        "nullable": {owner: dict(sorted(found.items())) for owner, found in sorted(nullable.items())},
    }


def _methods(text: str) -> list[tuple[str, str, list[int | str]]]:
    code = re.sub(r"^\s*//.*$", "", text, flags=re.MULTILINE)
    owners = [(match.start(), match[1]) for match in _BLOCK.finditer(code)]
    found = []
    for match in _METHOD.finditer(code):
        owner = next((name for start, name in reversed(owners) if start < match.start()), None)
        if owner is not None:
            selector = match["selector"].removesuffix("_")  # `error:_`: the parameter became the Result
            found.append((owner, selector, _slots(selector, match["arguments"], match["returns"])))
    return found


def _slots(selector: str, arguments: str, returns: str | None) -> list[int | str]:
    """Positions of the nullable object parameters, and `returns`."""
    own = [part for part in _split(arguments) if not re.match(r"\s*(&self|this\s*:)", part)]
    slots: list[int | str] = [position for position, part in enumerate(own) if re.search(r"\w+\s*:\s*Option<", part)]
    if len(own) > selector.count(":"):
        slots = []
    if returns is not None and returns.startswith("Option<"):
        slots.append("returns")
    return slots


def _split(arguments: str) -> list[str]:
    parts, depth, current = [], 0, ""
    for character in arguments:
        depth += character in "<([{"
        depth -= character in ">)]}"
        if character == "," and depth == 0:
            parts.append(current)
            current = ""
        else:
            current += character
    return [part for part in [*parts, current] if part.strip()]
