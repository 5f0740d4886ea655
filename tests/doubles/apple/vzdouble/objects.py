"""Objective-C classes and objects: registry, allocation, selectors and what a call checks before and after."""

import weakref
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from .aborts import abort
from .faults import NO_FAULT, take_fault
from .host import current_host
from .metadata import ClassFacts, Method, Property
from .queues import DispatchQueue, is_on


class ObjCError(Exception):
    """objc.error."""


class Null:
    """objc.NULL: a NULL pointer where an error slot would be."""

    def __repr__(self) -> str:
        return "<objc.NULL>"


NULL = Null()


class Nil(Exception):
    """Raised by behaviour to return nil (without an error)."""


class Failed(Exception):
    """Raised by behaviour to fill the error slot."""

    def __init__(self, code: int, text: str = "", reason: str = "", domain: str = "VZErrorDomain") -> None:
        super().__init__(text)
        self.code, self.text, self.reason, self.domain = code, text, reason, domain


def invalid_argument(text: str) -> ValueError:
    """NSInvalidArgumentException, as PyObjC hands it to Python."""
    return ValueError(f"NSInvalidArgumentException - {text}")


class ResultTuple(tuple[Any, ...]):
    """(result, error): always true, so that testing it is a mistake."""

    __slots__ = ()

    def __bool__(self) -> bool:
        raise TypeError("the result of a call with an error slot is a tuple, which is always true: take it apart")


CLASSES: dict[str, Any] = {}
"""Every Objective-C class of this process; names are global to it."""

ClassMaker = Callable[[type["ObjCMeta"], str, tuple[type, ...], dict[str, Any], tuple[Any, ...]], "ObjCMeta"]


class ObjCMeta(type):
    """The class of classes (objc.objc_class)."""

    facts: ClassFacts | None
    _make_python_class: ClassMaker

    def __new__(
        cls,
        name: str,
        bases: tuple[type, ...],
        namespace: dict[str, Any],
        *,
        protocols: Iterable[Any] = (),
        native: bool = False,
    ) -> "ObjCMeta":
        if native:
            made = super().__new__(cls, name, bases, namespace)
            CLASSES[name] = made
            return made
        from .subclassing import make_python_class

        return make_python_class(cls, name, bases, namespace, tuple(protocols))

    def __init__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **_: Any) -> None:
        super().__init__(name, bases, namespace)

    def __call__(cls, *arguments: Any, **keywords: Any) -> Any:
        """``Cls()`` is ``Cls.alloc().init()``; ``Cls(URL=…, readOnly=…, error=None)`` the initialiser of that name."""
        if arguments:
            raise TypeError(f"{cls.__name__}() does not accept positional arguments")
        if not keywords:
            return allocate(cls).init()
        for owner in cls.__mro__:
            for name, attribute in vars(owner).items():
                if isinstance(attribute, Selector) and keywords_of(attribute.method.selector) == tuple(keywords):
                    return getattr(allocate(cls), name)(*keywords.values())
        raise TypeError(f"{cls.__name__}() does not support keyword arguments {', '.join(keywords)!r}")

    def __setattr__(cls, name: str, value: Any) -> None:
        if not name.startswith("_") and isinstance(vars(cls).get(name), Selector):
            raise AttributeError(f"{cls.__name__}.{name} is a selector of Apple's")
        super().__setattr__(name, value)


def keywords_of(selector: str) -> tuple[str, ...] | None:
    """``initWithURL:readOnly:error:`` -> (URL, readOnly, error); None for what is no initialiser with arguments."""
    if not selector.startswith("init") or not selector.endswith(":"):
        return None
    first, *rest = selector[4:].split(":")[:-1]
    first = first.removeprefix("With")
    if len(first) == 1 or (len(first) > 1 and not first[1].isupper()):
        first = first[:1].lower() + first[1:]
    return (first, *rest)


class ObjCObject(metaclass=ObjCMeta, native=True):
    """objc.objc_object: the Python side of every object."""

    facts: ClassFacts | None = None
    _is_native = True
    _queue: DispatchQueue | None = None
    _is_frozen = False
    _is_initialized = False

    def __setattr__(self, name: str, value: Any) -> None:
        if type(self)._is_native and not name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        super().__setattr__(name, value)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {id(self):#x}>"


def allocate(cls: ObjCMeta) -> Any:
    instance: Any = object.__new__(cls)  # type: ignore[arg-type]
    instance.__dict__["_values"] = {}
    return instance


def construct(name: str, **attributes: Any) -> Any:
    """An object of a class that products do not initialise themselves."""
    instance = allocate(CLASSES[name])
    instance.__dict__.update(attributes, _is_initialized=True)
    return instance


def instantiate(cls: ObjCMeta) -> Any:
    """``+new``: the runtime's own, which PyObjC's NS_UNAVAILABLE on ``init`` does not reach."""
    for owner in cls.__mro__:
        facts = vars(owner).get("facts")
        if facts is None:
            continue
        if "new" in facts.unavailable:
            raise TypeError(f"'new' is NS_UNAVAILABLE: {cls.__name__}")
        if facts.method("init", is_class=False) is not None:
            break
    instance = allocate(cls)
    init = getattr(instance, "init")  # noqa: B009 - a selector
    return init.perform((), checked=False) if isinstance(init, NativeSelector) else init()


class Selector:
    """A method of Apple's, in the dictionary of its class."""

    def __init__(self, method: Method, function: Callable[..., Any]) -> None:
        self.method = method
        self.function = function

    def __get__(self, instance: Any, owner: ObjCMeta) -> "NativeSelector":
        if self.method.is_class:
            if instance is not None:
                raise AttributeError(f"{owner.__name__!r} object has no attribute {self.method.python_name!r}")
            return NativeSelector(self, owner, owner)
        return NativeSelector(self, instance, owner)


class NativeSelector:
    """objc.native_selector: a method that was looked up. It has to be called; nothing else makes sense."""

    def __init__(self, definition: Selector, target: Any, owner: ObjCMeta) -> None:
        self._definition = definition
        self._target = target
        self._owner = owner
        self.__name__ = definition.method.python_name
        self.selector = definition.method.selector.encode()
        self.signature = definition.method.signature
        self.isClassMethod = definition.method.is_class
        self.native_signature = self.signature

    def __repr__(self) -> str:
        kind = "class" if self.isClassMethod else "instance"
        return f"<native-selector {self.__name__} ({kind} method of {self._owner.__name__})>"

    def __metadata__(self) -> dict[str, Any]:
        """What PyObjC knows of the signature: ``objc``'s dictionary, with self and _cmd as the first two arguments."""
        method = self._definition.method
        arguments: list[dict[str, Any]] = [{"type": b"@"}, {"type": b":"}]
        for value in method.arguments:
            entry: dict[str, Any] = {"type": b"o" + value.type.encode() if value.out else value.type.encode()}
            if value.block is not None:
                entry["callable"] = {
                    "retval": {"type": value.block[0].encode()},
                    "arguments": ({"type": b"^v"}, *({"type": code.encode()} for code in value.block[1:])),
                }
            arguments.append(entry)
        return {
            "retval": {"type": method.returns.type.encode()},
            "arguments": tuple(arguments),
            "classmethod": method.is_class,
            "selector": self.selector,
        }

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        if keywords:
            raise TypeError(f"{self.__name__} does not accept keyword arguments")
        if self._target is None:
            if not arguments or not isinstance(arguments[0], self._owner):
                raise TypeError(f"{self.__name__}: an instance of {self._owner.__name__} is missing")
            return NativeSelector(self._definition, arguments[0], self._owner)(*arguments[1:])
        return self.perform(arguments, checked=True)

    def perform(self, arguments: tuple[Any, ...], *, checked: bool) -> Any:
        """The call itself; `checked` = with PyObjC's own refusal of unavailable initialisers."""
        from .conversion import argument_in, result_out

        method, target = self._definition.method, self._target
        if len(arguments) != len(method.arguments):
            raise TypeError(f"Need {len(method.arguments)} arguments, got {len(arguments)}: {self!r}")
        where = f"{self._owner.__name__}.{method.python_name}"
        slots: list[Any] = []
        converted: list[Any] = []
        for value, argument in zip(method.arguments, arguments, strict=True):
            if value.out:
                if argument is not None and argument is not NULL:
                    raise TypeError(f"{where}: pass None for the error slot, not {argument!r}")
                slots.append(argument)
            else:
                converted.append(argument_in(argument, value, where))
        _check_target(target, method, where, checked=checked)
        try:
            if method.has_error_slot:
                _inject(method.selector)
            result, error = self._definition.function(target, *converted), None
        except Nil:
            result, error = None, None
        except Failed as failure:
            from .errors import make_error

            result = False if method.returns.type == "Z" else None
            return ResultTuple((result, NULL if slots[0] is NULL else make_error(failure)))
        else:
            result = _completed(method, target, result)
        bridged = result_out(result, method.returns)
        return ResultTuple((bridged, NULL if slots[0] is NULL else error)) if slots else bridged

    def _refuse(self, *_: Any) -> NoReturn:
        raise TypeError(f"{self!r} was not called: in Python an Apple property is a method")

    __bool__ = __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _refuse
    __iter__ = __len__ = __getitem__ = __contains__ = __int__ = __index__ = __float__ = __format__ = _refuse
    __add__ = __sub__ = __mul__ = __str__ = __fspath__ = __bytes__ = _refuse
    __hash__ = object.__hash__


def _check_target(target: Any, method: Method, where: str, *, checked: bool) -> None:
    if method.is_class:
        return
    is_initializer = method.selector.startswith("init")
    if is_initializer:
        if checked and method.selector == "init" and _unavailable_init(type(target)):
            raise TypeError(f"'init' is NS_UNAVAILABLE: {type(target).__name__}")
    elif not target._is_initialized and method.selector not in ("description", "class", "hash"):
        raise abort("undefined", f"{where}: the object was allocated but never initialised")
    queue = target._queue
    if queue is not None and method.selector != "queue" and not is_on(queue):
        raise abort("wrong-queue", f"{where} was called outside {queue!r}, the queue of its virtual machine")
    if target._is_frozen and method.returns.type == "v" and method.selector.startswith("set"):
        raise abort("undefined", f"{where}: a virtual machine was already made from this; it does not see the change")


def _unavailable_init(cls: type) -> bool:
    return any("init" in facts.unavailable for owner in cls.__mro__ if (facts := vars(owner).get("facts")) is not None)


def _inject(selector: str) -> None:
    fault = take_fault(current_host(), selector)
    if fault is not NO_FAULT and fault.code is not None:
        raise Failed(fault.code, fault.text, fault.reason, fault.domain)


def _completed(method: Method, target: Any, result: Any) -> Any:
    """An initialiser returns the object, a BOOL method with an error slot that did not fail true."""
    if not method.is_class and method.selector.startswith("init"):
        target.__dict__["_is_initialized"] = True
        return target
    return True if result is None and method.has_error_slot and method.returns.type == "Z" else result


def property_functions(entry: Property) -> tuple[Callable[[Any], Any], Callable[[Any, Any], None]]:
    """Getter and setter of a property that is only stored."""
    default: Any = {"Z": False, "d": 0.0, "@": None}.get(entry.type, 0)
    is_array = entry.name.startswith("NSArray")

    def getter(self: Any) -> Any:
        value = self._values.get(entry.getter, default)
        if isinstance(value, weakref.ref):
            return value()
        return () if value is None and is_array else value

    def setter(self: Any, value: Any) -> None:
        self._values[entry.getter] = weakref.ref(value) if entry.weak and value is not None else value

    return getter, setter
