"""Classes out of the SDK metadata and the behaviour that is written for them."""

from collections.abc import Callable
from typing import Any

from .host import boot_settings
from .metadata import ClassFacts, Method, assumed_method, class_facts
from .objects import CLASSES, ObjCMeta, ObjCObject, Selector, property_functions

BEHAVIOURS: dict[str, dict[str, Any]] = {}
"""By class name: the members of the classes that `behaviour` was put on."""


def behaviour(*class_names: str) -> Callable[[type], type]:
    """Make this class's functions the methods of Apple's; names with a leading underscore stay Python's."""

    def register(written: type) -> type:
        members = {key: value for key, value in vars(written).items() if key not in _NOT_MEMBERS}
        for name in class_names:
            BEHAVIOURS.setdefault(name, {}).update(members)
        return written

    return register


_NOT_MEMBERS = (
    "__module__",
    "__dict__",
    "__weakref__",
    "__doc__",
    "__qualname__",
    "__annotations__",
    "__firstlineno__",
)
_RUNTIME = ("new", "alloc")


def build_classes(framework: str) -> dict[str, ObjCMeta]:
    """Every class of a framework that exists on this Mac (views need AppKit: left out)."""
    facts = class_facts(framework)
    return {name: CLASSES[name] for name in facts if _build(name, facts) is not None}


def _exists(entry: ClassFacts | Method) -> bool:
    """On this Mac."""
    settings = boot_settings()
    return (entry.introduced or (0,)) <= settings.version and (settings.arch == "arm64" or not entry.arm64_only)


def _build(name: str, facts: dict[str, ClassFacts]) -> ObjCMeta | None:
    if name in CLASSES:
        return CLASSES[name]
    if name not in facts or not _exists(facts[name]):
        return None
    base: type | None = ObjCObject
    if name != "NSObject":
        superclass = facts[name].superclass
        while superclass in facts and not _exists(facts[superclass]):  # put between the two later (macOS 14: displays)
            superclass = facts[superclass].superclass
        base = _build(superclass, facts)
    if base is None:
        return None
    return ObjCMeta(name, (base,), _members(facts[name]), native=True)


def _members(facts: ClassFacts) -> dict[str, Any]:
    written = dict(BEHAVIOURS.get(facts.name, {}))
    members: dict[str, Any] = {"facts": facts, "__doc__": None}
    defaults = _default_functions(facts)
    for method in facts.methods:
        function = _function(written.pop(method.python_name, None))
        if not _exists(method) or (method.selector in _RUNTIME and facts.name != "NSObject"):
            continue
        if function is None:
            default = None if method.is_class else defaults.get(method.python_name)
            function = default or _unmodelled(facts.name, method)
        members[method.python_name] = Selector(method, function)
    for name, value in written.items():
        if name.startswith("_"):
            members[name] = value
            continue
        function = _function(value)
        assert function is not None
        members[name] = Selector(assumed_method(name, is_class=isinstance(value, classmethod)), function)
    return members


def _function(value: Any) -> Callable[..., Any] | None:
    return value.__func__ if isinstance(value, classmethod) else value


def _default_functions(facts: ClassFacts) -> dict[str, Callable[..., Any]]:
    found: dict[str, Callable[..., Any]] = {"init": lambda self: None}
    for entry in facts.properties:
        getter, setter = property_functions(entry)
        found[entry.getter] = getter
        if entry.setter is not None:
            found[entry.setter.replace(":", "_")] = setter
    return found


def _unmodelled(class_name: str, method: Method) -> Callable[..., Any]:
    def unmodelled(*_: Any) -> Any:
        raise NotImplementedError(f"the double has no behaviour for {class_name} {method.selector}")

    return unmodelled
