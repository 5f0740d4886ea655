"""The SDK metadata as the checker asks it: classes with inheritance, selectors by Python name, enums, protocols."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

Json = dict[str, Any]
Version = tuple[int, int]

METADATA = Path(__file__).resolve().parents[2] / "resources" / "apple-sdk"
DEPLOYMENT_TARGET: Version = (13, 0)


def python_name(selector: str) -> str:
    """What PyObjC calls it: `initWithURL:readOnly:error:` is `initWithURL_readOnly_error_`."""
    return selector.lstrip("+-").replace(":", "_")


def version(text: str | None) -> Version:
    """`14.0` as a pair; nothing stated is older than everything."""
    if text is None:
        return (0, 0)
    major, _, minor = text.partition(".")
    return int(major), int(minor.partition(".")[0] or 0)


@dataclass(frozen=True, slots=True)
class Method:
    """One method and the class that declares it."""

    owner: str
    selector: str
    facts: Json

    @property
    def is_class_method(self) -> bool:
        return bool(self.facts["kind"] == "class")

    @property
    def arguments(self) -> list[Json]:
        return list(self.facts["arguments"])

    @property
    def has_error(self) -> bool:
        return any(argument["out"] for argument in self.facts["arguments"])

    @property
    def introduced(self) -> Version:
        return version(self.facts["introduced"])

    @property
    def deprecated(self) -> str | None:
        text: str | None = self.facts["deprecated"]
        return text

    @property
    def arm64_only(self) -> bool:
        return bool(self.facts["arm64_only"])

    @property
    def label(self) -> str:
        return f"{'+' if self.is_class_method else '-'}[{self.owner} {self.selector}]"


class Catalog:
    """Virtualization and Foundation together."""

    def __init__(self, virtualization: Json, foundation: Json) -> None:
        self.classes: Json = {**foundation["classes"], **virtualization["classes"]}
        self.enums: Json = {**foundation["enums"], **virtualization["enums"]}
        self.enum_types: Json = {**foundation["enum_types"], **virtualization["enum_types"]}
        self.constants: Json = {**foundation["constants"], **virtualization["constants"]}
        self.protocols: Json = {**foundation["protocols"], **virtualization["protocols"]}
        self.functions: Json = foundation["dispatch"]["functions"]
        self.function_constants = {*foundation["dispatch"]["enums"], *foundation["dispatch"]["nil"]}
        self.framework_of = dict.fromkeys(foundation["classes"], "Foundation") | dict.fromkeys(
            virtualization["classes"], "Virtualization"
        )
        self.source: Json = virtualization["source"]

    @classmethod
    def load(cls, directory: Path = METADATA) -> Catalog:
        return cls(
            *(json.loads((directory / f"{name}.json").read_text("utf-8")) for name in ("virtualization", "foundation"))
        )

    # --- classes ------------------------------------------------------------------------------------------------------

    def ancestry(self, name: str) -> list[str]:
        """The class itself, its super class and so on, as far as known; NSObject is the last."""
        line: list[str] = []
        current: str | None = name
        while current is not None and current in self.classes:
            line.append(current)
            current = self.classes[current]["super"]
        return line if "NSObject" in line else [*line, "NSObject"]

    def is_kind_of(self, name: str, ancestor: str) -> bool:
        return ancestor in self.ancestry(name)

    def common(self, first: str, second: str) -> str | None:
        """The nearest class that both are; None when that is only NSObject."""
        others = set(self.ancestry(second))
        found = next((name for name in self.ancestry(first) if name in others), None)
        return None if found == "NSObject" else found

    def class_introduced(self, name: str) -> Version:
        """Of a class without methods of its own, that of its nearest ancestor."""
        for ancestor in self.ancestry(name):
            if (text := self.classes[ancestor]["introduced"]) is not None:
                return version(text)
        return (0, 0)

    def refuses(self, name: str, selector: str) -> bool:
        """Whether PyObjC raises NS_UNAVAILABLE for `init` or `new` on this class.

        `init` is refused on every subclass of a class that is listed; `new` resolves to NSObject's own on a subclass.
        """
        line = self.ancestry(name) if selector == "init" else [name]
        return any(selector in self.classes[ancestor]["unavailable"] for ancestor in line)

    def is_abstract(self, name: str) -> bool:
        """Listed itself: instances come from other initializers or from subclasses."""
        return "new" in self.classes[name]["unavailable"]

    # --- methods ------------------------------------------------------------------------------------------------------

    @cached_property
    def _by_class(self) -> dict[str, dict[str, list[Method]]]:
        found: dict[str, dict[str, list[Method]]] = {}
        for owner, facts in self.classes.items():
            own = found.setdefault(owner, {})
            for selector, method in facts["methods"].items():
                own.setdefault(python_name(selector), []).append(Method(owner, selector.lstrip("+-"), method))
        return found

    def lookup(self, name: str, attribute: str, *, on_class: bool) -> Method | None:
        """The method of that Python name, the fitting kind first, in the class or an ancestor."""
        other: Method | None = None
        for ancestor in self.ancestry(name):
            for method in self._by_class[ancestor].get(attribute, ()):
                if method.is_class_method == on_class:
                    return method
                other = other or method
        return other

    def in_subclasses(self, name: str, attribute: str) -> list[Method]:
        """Instance methods that only concrete classes below an abstract one have."""
        return [
            method
            for method in self.named(attribute)
            if not method.is_class_method and self.is_kind_of(method.owner, name)
        ]

    def named(self, attribute: str) -> list[Method]:
        """All methods of that Python name, Virtualization's first."""
        found = [method for methods in self._by_class.values() for method in methods.get(attribute, ())]
        return sorted(found, key=lambda method: (self.framework_of[method.owner] != "Virtualization", method.owner))

    @cached_property
    def python_names(self) -> set[str]:
        names = {name for methods in self._by_class.values() for name in methods}
        names |= {python_name(selector) for protocol in self.protocols.values() for selector in protocol}
        return names

    def names_of(self, cls: str) -> set[str]:
        return {name for ancestor in self.ancestry(cls) for name in self._by_class[ancestor]}

    # --- values -------------------------------------------------------------------------------------------------------

    def enum_values(self, enum: str) -> dict[str, int]:
        return {name: facts["value"] for name, facts in self.enums.items() if facts["type"] == enum}

    def is_enum_like(self, name: str) -> bool:
        """Whether an unknown name was meant as a constant rather than a class."""
        return any(name.startswith(enum.removesuffix("Code").removesuffix("s")) for enum in self.enum_types)


def nearest(name: str, names: Iterable[str]) -> str | None:
    return next(iter(difflib.get_close_matches(name, list(names), n=1, cutoff=0.7)), None)
