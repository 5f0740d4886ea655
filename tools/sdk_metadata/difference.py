"""What changed in the API between two reduced documents, one line per fact."""

from __future__ import annotations

from collections.abc import Iterator

from .fwinfo import Json


def differences(old: Json, new: Json) -> Iterator[str]:
    """Additions (`+`), removals (`-`) and alterations (`~`), sorted by name within each kind of thing."""
    if old["source"] != new["source"]:
        yield f"~ source {_source(old)} -> {_source(new)}"
    for kind in ("classes", "protocols", "enums", "constants"):
        before, after = old.get(kind, {}), new.get(kind, {})
        for name in sorted(before.keys() | after.keys()):
            if name not in after:
                yield f"- {kind} {name}"
            elif name not in before:
                yield f"+ {kind} {name}{_since(after[name])}"
            elif before[name] != after[name]:
                yield from _inside(kind, name, before[name], after[name])


def _inside(kind: str, name: str, before: Json, after: Json) -> Iterator[str]:
    match kind:
        case "classes":
            yield from _facts(name, before, after, ("methods", "properties"))
            yield from _members(name, before["methods"], after["methods"])
            yield from _members(f"{name}.", before["properties"], after["properties"])
        case "protocols":
            yield from _members(name, before, after)
        case _:
            yield from _facts(name, before, after, ())


def _members(owner: str, before: Json, after: Json) -> Iterator[str]:
    for member in sorted(before.keys() | after.keys()):
        name = f"[{owner} {member}]"
        if member not in after:
            yield f"- {name}"
        elif member not in before:
            yield f"+ {name}{_since(after[member])}"
        else:
            yield from _facts(name, before[member], after[member], ())


def _facts(name: str, before: Json, after: Json, skipped: tuple[str, ...]) -> Iterator[str]:
    for key in sorted((before.keys() | after.keys()) - set(skipped)):
        if before.get(key) != after.get(key):
            yield f"~ {name} {key}: {before.get(key)} -> {after.get(key)}"


def _since(entry: Json) -> str:
    version = entry.get("introduced")
    return f" (macOS {version})" if version else ""


def _source(document: Json) -> str:
    source = document["source"]
    return f"{source['package']} {source['version']} (SDK {source['sdk']})"
