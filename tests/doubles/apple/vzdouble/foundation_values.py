"""Foundation's values: NSObject, data, collections, URLs, errors."""

import os
import urllib.parse
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .conversion import bridge, pyobjc_unicode
from .generation import behaviour
from .objects import CLASSES, Nil, allocate, construct, instantiate


@behaviour("NSObject")
class _Object:
    @classmethod
    def alloc(cls: Any) -> Any:
        return allocate(cls)

    @classmethod
    def new(cls: Any) -> Any:
        return instantiate(cls)

    def init(self: Any) -> None:
        return None

    def copy(self: Any) -> Any:
        return self

    @classmethod
    def instancesRespondToSelector_(cls: Any, selector: str) -> bool:
        return hasattr(cls, selector.replace(":", "_"))

    def respondsToSelector_(self: Any, selector: str) -> bool:
        return hasattr(self, selector.replace(":", "_"))

    def isKindOfClass_(self: Any, cls: Any) -> bool:
        return isinstance(self, cls)

    def conformsToProtocol_(self: Any, protocol: Any) -> bool:
        return protocol.__name__ in getattr(type(self), "_protocols", ())

    def isEqual_(self: Any, other: Any) -> bool:
        return bool(self == other)

    def hash(self: Any) -> int:
        return hash(self) & (2**64 - 1)

    def className(self: Any) -> str:
        return type(self).__name__

    def description(self: Any) -> str:
        return repr(self)

    def addObserver_forKeyPath_options_context_(
        self: Any, observer: Any, path: str, options: int, context: Any
    ) -> None:
        self.__dict__.setdefault("_observers", []).append((weakref.ref(observer), str(path), options, context))

    def removeObserver_forKeyPath_(self: Any, observer: Any, path: str) -> None:
        observers = self.__dict__.get("_observers", [])
        kept = [entry for entry in observers if entry[0]() is not observer or entry[1] != path]
        if len(kept) == len(observers):
            raise ValueError(f"Cannot remove an observer for the key path {path!r}: it is not registered")
        self._observers = kept


@behaviour("NSNull")
class _Null:
    @classmethod
    def null(cls: Any) -> Any:
        return construct("NSNull")

    def __eq__(self: Any, other: object) -> bool:
        return isinstance(other, CLASSES["NSNull"])

    def __hash__(self: Any) -> int:
        return 0


@behaviour("NSString")
class _String:
    @classmethod
    def stringWithString_(cls: Any, text: str) -> str:
        return pyobjc_unicode(text)


@behaviour("NSNumber")
class _Number:
    @classmethod
    def numberWithInt_(cls: Any, value: int) -> int:
        return value

    @classmethod
    def numberWithBool_(cls: Any, value: bool) -> bool:
        return value

    @classmethod
    def numberWithUnsignedLongLong_(cls: Any, value: int) -> int:
        return value

    @classmethod
    def numberWithInteger_(cls: Any, value: int) -> int:
        return value


@behaviour("NSData")
class _Data:
    """Not a bytes: `bytes(data)`, `len(data)` and `data.bytes()` work."""

    _data: bytes = b""

    @classmethod
    def data(cls: Any) -> Any:
        return bridge(b"")

    @classmethod
    def dataWithData_(cls: Any, data: Any) -> Any:
        return data

    @classmethod
    def dataWithContentsOfFile_(cls: Any, path: str) -> Any:
        try:
            return bridge(Path(path).read_bytes())
        except OSError as exc:
            raise Nil from exc

    @classmethod
    def dataWithContentsOfURL_(cls: Any, url: Any) -> Any:
        return _Data.dataWithContentsOfFile_.__func__(cls, url._path)  # type: ignore[attr-defined]

    def initWithData_(self: Any, data: Any) -> None:
        self._data = data._data

    def length(self: Any) -> int:
        return len(self._data)

    def isEqualToData_(self: Any, other: Any) -> bool:
        return bool(self._data == other._data)

    def writeToFile_atomically_(self: Any, path: str, atomically: bool) -> bool:
        Path(path).write_bytes(self._data)
        return True

    def __len__(self: Any) -> int:
        return len(self._data)

    def __bytes__(self: Any) -> bytes:
        return bytes(self._data)

    def __getitem__(self: Any, index: Any) -> Any:
        return self._data[index]

    def __eq__(self: Any, other: object) -> bool:
        return bool(self._data == (bytes(other) if isinstance(other, CLASSES["NSData"]) else other))

    def __hash__(self: Any) -> int:
        return hash(self._data)


@behaviour("NSArray")
class _Array:
    """An immutable sequence that is no list."""

    _items: tuple[Any, ...] = ()

    @classmethod
    def array(cls: Any) -> Any:
        return bridge(())

    @classmethod
    def arrayWithArray_(cls: Any, array: Any) -> Any:
        return bridge(array._items)

    @classmethod
    def arrayWithObject_(cls: Any, item: Any) -> Any:
        return bridge((item,))

    def count(self: Any) -> int:
        return len(self._items)

    def objectAtIndex_(self: Any, index: int) -> Any:
        if index >= len(self._items):
            raise IndexError(f"NSRangeException - index {index} beyond bounds for array of {len(self._items)}")
        return self._items[index]

    def firstObject(self: Any) -> Any:
        return self._items[0] if self._items else None

    def containsObject_(self: Any, item: Any) -> bool:
        return item in self._items

    def __len__(self: Any) -> int:
        return len(self._items)

    def __iter__(self: Any) -> Iterator[Any]:
        return iter(self._items)

    def __contains__(self: Any, item: object) -> bool:
        return item in self._items

    def __getitem__(self: Any, index: Any) -> Any:
        found = self._items[index]
        return bridge(found) if isinstance(index, slice) else found

    def __eq__(self: Any, other: object) -> bool:
        if isinstance(other, CLASSES["NSArray"]):
            return bool(self._items == other._items)
        return list(self._items) == list(other) if isinstance(other, list | tuple) else False

    def __hash__(self: Any) -> int:
        return hash(self._items)


@behaviour("NSDictionary")
class _Dictionary:
    _items: dict[Any, Any] = {}  # noqa: RUF012 - never changed

    @classmethod
    def dictionary(cls: Any) -> Any:
        return bridge({})

    @classmethod
    def dictionaryWithDictionary_(cls: Any, items: Any) -> Any:
        return bridge(items._items)

    def count(self: Any) -> int:
        return len(self._items)

    def objectForKey_(self: Any, key: Any) -> Any:
        return self._items.get(key)

    def allKeys(self: Any) -> tuple[Any, ...]:
        return tuple(self._items)

    def allValues(self: Any) -> tuple[Any, ...]:
        return tuple(self._items.values())

    def __len__(self: Any) -> int:
        return len(self._items)

    def __iter__(self: Any) -> Iterator[Any]:
        return iter(self._items)

    def __contains__(self: Any, key: object) -> bool:
        return key in self._items

    def __getitem__(self: Any, key: Any) -> Any:
        return self._items[key]

    def __eq__(self: Any, other: object) -> bool:
        if isinstance(other, CLASSES["NSDictionary"]):
            return bool(self._items == other._items)
        return bool(self._items == other)

    __hash__ = None  # type: ignore[assignment]


def add_mapping_methods() -> None:
    """PyObjC gives NSDictionary what a dict has to read it with, and NSData its buffer."""
    dictionary: Any = CLASSES["NSDictionary"]
    type.__setattr__(dictionary, "get", lambda self, key, default=None: self._items.get(key, default))
    type.__setattr__(dictionary, "keys", lambda self: self._items.keys())
    type.__setattr__(dictionary, "values", lambda self: self._items.values())
    type.__setattr__(dictionary, "items", lambda self: self._items.items())
    data: Any = CLASSES["NSData"]
    type.__setattr__(data, "bytes", lambda self: memoryview(self._data))
    type.__setattr__(data, "tobytes", lambda self: bytes(self._data))
    type.__setattr__(data, "__buffer__", lambda self, flags: memoryview(self._data))  # Python 3.12 and later
    type.__setattr__(data, "dataWithBytes_length_", classmethod(_data_with_bytes))


def _data_with_bytes(cls: Any, source: Any, length: Any) -> Any:
    if not isinstance(source, bytes | bytearray | memoryview):
        raise TypeError(f"dataWithBytes_length_: wants a buffer, not {source!r}")
    if isinstance(length, bool) or not isinstance(length, int) or length > len(source):
        raise ValueError(f"dataWithBytes_length_: {length!r} bytes of a buffer of {len(source)}")
    return bridge(bytes(source)[:length])


@behaviour("NSURL")
class _URL:
    _text: str = ""
    _path: str = ""

    @classmethod
    def fileURLWithPath_(cls: Any, path: str) -> Any:
        return file_url(path)

    @classmethod
    def fileURLWithPath_isDirectory_(cls: Any, path: str, directory: bool) -> Any:
        return file_url(path)

    @classmethod
    def URLWithString_(cls: Any, text: str) -> Any:
        url = construct("NSURL")
        _URL.initWithString_(url, text)
        return url

    def initFileURLWithPath_(self: Any, path: str) -> None:
        self.__dict__.update(file_url(path).__dict__)

    def initWithString_(self: Any, text: str) -> None:
        if not text or any(character in text for character in ' <>"{}|\\^`'):
            raise Nil
        self._text = str(text)
        self._path = urllib.parse.unquote(urllib.parse.urlsplit(self._text).path)

    def isFileURL(self: Any) -> bool:
        return bool(self._text.startswith("file:"))

    def path(self: Any) -> str | None:
        return self._path or None

    def absoluteString(self: Any) -> str:
        return str(self._text)

    def scheme(self: Any) -> str | None:
        return urllib.parse.urlsplit(self._text).scheme or None

    def host(self: Any) -> str | None:
        return urllib.parse.urlsplit(self._text).hostname

    def port(self: Any) -> int | None:
        return urllib.parse.urlsplit(self._text).port

    def lastPathComponent(self: Any) -> str:
        return Path(self._path).name

    def URLByResolvingSymlinksInPath(self: Any) -> Any:
        return file_url(os.path.realpath(self._path)) if self._text.startswith("file:") else self

    def URLByAppendingPathComponent_(self: Any, component: str) -> Any:
        return file_url(str(Path(self._path) / component))

    def __str__(self: Any) -> str:
        return str(self._text)

    def __eq__(self: Any, other: object) -> bool:
        return isinstance(other, CLASSES["NSURL"]) and self._text == other._text

    def __hash__(self: Any) -> int:
        return hash(self._text)


def file_url(path: str) -> Any:
    """Relative paths resolve against the working directory, as on a Mac."""
    if not path:
        raise ValueError("NSInvalidArgumentException - *** -[NSURL initFileURLWithPath:]: empty string parameter")
    full = os.path.abspath(path)  # noqa: PTH100 - does not resolve symbolic links
    return construct("NSURL", _path=full, _text="file://" + urllib.parse.quote(full))


@behaviour("NSError")
class _Error:
    _domain: str = ""
    _code: int = 0
    _info: dict[str, Any] = {}  # noqa: RUF012 - never changed

    @classmethod
    def errorWithDomain_code_userInfo_(cls: Any, domain: str, code: int, info: Any) -> Any:
        return construct("NSError", _domain=domain, _code=code, _info=dict(info._items) if info is not None else {})

    def domain(self: Any) -> str:
        return str(self._domain)

    def code(self: Any) -> int:
        return int(self._code)

    def userInfo(self: Any) -> dict[str, Any]:
        return dict(self._info)

    def localizedDescription(self: Any) -> str:
        return str(self._info.get("NSLocalizedDescription", f"The operation couldn't be completed. ({self._domain})"))

    def localizedFailureReason(self: Any) -> str | None:
        return self._info.get("NSLocalizedFailureReason")

    def localizedRecoverySuggestion(self: Any) -> str | None:
        return self._info.get("NSLocalizedRecoverySuggestion")

    def underlyingErrors(self: Any) -> list[Any]:
        return [self._info["NSUnderlyingError"]] if "NSUnderlyingError" in self._info else []

    def __str__(self: Any) -> str:
        text = self._info.get("NSLocalizedDescription", "")
        return f'Error Domain={self._domain} Code={self._code} "{text}"'
