"""What of Apple's API a package uses, with the facts that a Mac is later asked to confirm."""

from __future__ import annotations

from .catalog import Catalog, Json, Method, python_name
from .package import Package
from .scope import Scope, Send
from .types import Form


class Usage:
    """Gathers while the checker runs; `document` is what `api.json` holds."""

    def __init__(self, package: Package, catalog: Catalog) -> None:
        self._catalog = catalog
        self._classes: dict[str, set[str]] = {}
        """Class -> modules that name it."""
        self._methods: dict[tuple[str, str], tuple[Method, set[str]]] = {}
        self._loose: list[tuple[str, str]] = []
        """Python name of a message to an unknown receiver, and the module."""
        self._constants: dict[str, set[str]] = {}
        self._functions: dict[str, set[str]] = {}
        self._protocols: dict[tuple[str, str], set[str]] = {}
        self._prefix = f"{package.name}."

    def name(self, name: str, scope: Scope) -> None:
        module = self._module(scope)
        if name in self._catalog.classes:
            self._classes.setdefault(name, set()).add(module)
        elif name in self._catalog.enums or name in self._catalog.constants:
            self._constants.setdefault(name, set()).add(module)

    def function(self, name: str, scope: Scope) -> None:
        if name in self._catalog.functions:
            self._functions.setdefault(name, set()).add(self._module(scope))

    def protocol(self, name: str, selector: str, scope: Scope) -> None:
        self._protocols.setdefault((name, selector), set()).add(self._module(scope))

    def message(self, send: Send, method: Method | None) -> None:
        module = self._module(send.scope)
        if not send.receiver.is_objc:
            self._loose.append((send.attribute, module))
            return
        name = send.receiver.name
        attribute = {"alloc": "", "__call__": "init"}.get(send.attribute, send.attribute)
        method = method or self._catalog.lookup(name, attribute, on_class=send.receiver.form is Form.CLASS)
        if method is not None:
            self._add(name if self._catalog.is_kind_of(name, method.owner) else method.owner, method, module)

    def _add(self, name: str, method: Method, module: str) -> None:
        _, modules = self._methods.setdefault((name, method.selector), (method, set()))
        modules.add(module)
        self._classes.setdefault(name, set()).add(module)

    def _module(self, scope: Scope) -> str:
        return scope.module.name.removeprefix(self._prefix)

    def _settle(self) -> None:
        """Give messages to unknown receivers to the classes that are used anyway, else to the only candidate."""
        for attribute, module in self._loose:
            candidates = self._catalog.named(attribute)
            related = [method for method in candidates if self._is_related(method.owner)]
            for method in related or (candidates if len(candidates) == 1 else []):
                self._add(method.owner, method, module)
        self._loose.clear()

    def _is_related(self, owner: str) -> bool:
        return any(self._catalog.is_kind_of(name, owner) for name in self._classes if name != "NSObject")

    def document(self) -> Json:
        self._settle()
        classes: Json = {}
        for name in sorted(self._classes):
            facts = self._catalog.classes[name]
            introduced = self._catalog.class_introduced(name)
            classes[name] = {
                "framework": self._catalog.framework_of[name],
                "introduced": _shown(introduced),
                "arm64_only": facts["arm64_only"],
                "refuses": [selector for selector in ("init", "new") if self._catalog.refuses(name, selector)],
                "methods": {},
                "modules": sorted(self._classes[name]),
            }
        for (name, selector), (method, modules) in sorted(self._methods.items()):
            classes[name]["methods"][selector] = _method(method, classes[name]["introduced"], modules)
        return {
            "source": {key: self._catalog.source[key] for key in ("package", "version", "sdk")},
            "classes": classes,
            "constants": {
                name: {"value": self._catalog.enums.get(name, {}).get("value"), "modules": sorted(modules)}
                for name, modules in sorted(self._constants.items())
            },
            "functions": {
                name: {"arguments": len(self._catalog.functions[name]["arguments"]), "modules": sorted(modules)}
                for name, modules in sorted(self._functions.items())
            },
            "protocols": self._protocol_document(),
        }

    def _protocol_document(self) -> Json:
        found: Json = {}
        for (name, selector), modules in sorted(self._protocols.items()):
            facts = self._catalog.protocols[name][selector]
            found.setdefault(name, {})[selector] = {
                "introduced": facts["introduced"],
                "types": [facts["returns"]["type"], *(argument["type"] for argument in facts["arguments"])],
                "modules": sorted(modules),
            }
        return found


def _shown(version: tuple[int, int]) -> str | None:
    return None if version == (0, 0) else f"{version[0]}.{version[1]}"


def _method(method: Method, of_class: str | None, modules: set[str]) -> Json:
    """`introduced` is that of class and method together; type encodings as PyObjC reports them."""
    class_version = tuple(int(part) for part in (of_class or "0.0").split("."))
    introduced = max(method.introduced, (class_version[0], class_version[1]))
    return {
        "python": python_name(method.selector),
        "kind": method.facts["kind"],
        "introduced": _shown(introduced),
        "arm64_only": method.arm64_only,
        "returns": method.facts["returns"]["type"],
        "arguments": [argument["type"] for argument in method.arguments],
        "out": [position for position, argument in enumerate(method.arguments) if argument["out"]],
        "blocks": {
            str(position): argument["block"]
            for position, argument in enumerate(method.arguments)
            if argument["block"] is not None
        },
        "modules": sorted(modules),
    }
