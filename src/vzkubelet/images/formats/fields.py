"""What manifests and their small documents say, read strictly: every fault names the image and the field. Pure."""

import base64
import binascii
import re
from collections.abc import Mapping
from typing import TypeVar

import msgspec

from vzkubelet.errors import clip
from vzkubelet.images.formats.artifact import invalid_image
from vzkubelet.model import oci
from vzkubelet.model.oci import Descriptor

T = TypeVar("T")
DOCUMENT_LIMIT_BYTES = 1024 * 1024
"""Largest small document: they are held in memory, by us and by other readers."""
SIZE_LIMIT_BYTES = 2**63 - 1
_DIGITS = re.compile(r"[0-9]{1,19}")


def decode(content: bytes, type_: type[T], what: str, name: str) -> T:
    """A JSON document as `type_`."""
    try:
        return msgspec.json.decode(content, type=type_)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise invalid_image(f"{name}: the {what} is malformed: {clip(str(exc))}") from exc


def check_blob(descriptor: Descriptor, name: str) -> None:
    """Raises InvalidInput: no digest that content can be verified with, or no size."""
    if not oci.is_sha256(descriptor.digest) or not 0 <= descriptor.size <= SIZE_LIMIT_BYTES:
        raise invalid_image(f"{name}: layer {clip(descriptor.media_type)} has no valid sha256 digest and size")


def check_title(title: str, name: str) -> None:
    """The title becomes a file name for other readers: nothing that could mean another place is let through."""
    plain = title and title not in (".", "..") and len(title.encode(errors="surrogatepass")) <= 255
    if not plain or "/" in title or "\\" in title or not title.isprintable():
        raise invalid_image(f'{name}: layer title "{clip(title)}" is not a plain file name')


def document(descriptor: Descriptor, name: str) -> Descriptor:
    """The descriptor of a small document."""
    check_blob(descriptor, name)
    if descriptor.size > DOCUMENT_LIMIT_BYTES:
        raise invalid_image(
            f"{name}: layer {descriptor.media_type} has {descriptor.size} bytes, at most {DOCUMENT_LIMIT_BYTES} allowed"
        )
    return descriptor


def size(text: str, where: str, name: str) -> int:
    if not _DIGITS.fullmatch(text) or int(text) > SIZE_LIMIT_BYTES:
        raise invalid_image(f'{name}: {where}: "{clip(text)}" is not a size in bytes')
    return int(text)


def digest(text: str, where: str, name: str) -> str:
    if not oci.is_sha256(text):
        raise invalid_image(f'{name}: {where}: "{clip(text)}" is not a sha256 digest')
    return text


def whole_number(text: str, where: str, name: str) -> int:
    if not _DIGITS.fullmatch(text):
        raise invalid_image(f'{name}: {where}: "{clip(text)}" is not a whole number')
    return int(text)


class Fields:
    """The members of one JSON object. `what` is the document's name, for messages."""

    def __init__(self, members: Mapping[str, object], what: str, name: str, *, any_case: bool = False) -> None:
        """`any_case`: keys are read as Go does."""
        self._members = {key.lower(): value for key, value in members.items()} if any_case else members
        self._any_case = any_case
        self._what = what
        self._name = name

    @classmethod
    def of(cls, content: bytes, what: str, name: str, *, any_case: bool = False) -> "Fields":
        try:
            members = msgspec.json.decode(content, type=dict[str, object])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            raise invalid_image(f"{name}: {what} is not a JSON object: {clip(str(exc))}") from exc
        return cls(members, what, name, any_case=any_case)

    def text(self, key: str) -> str:
        """The string, empty when it is missing."""
        value = self._member(key)
        if value is not None and not isinstance(value, str):
            raise self._fault(key, "a string")
        return value or ""

    def number(self, key: str) -> int:
        """The whole number, 0 when it is missing."""
        value = self._member(key)
        if value is None:
            return 0
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= SIZE_LIMIT_BYTES:
            raise self._fault(key, "a whole number")
        return value

    def flag(self, key: str) -> bool | None:
        value = self._member(key)
        if value is not None and not isinstance(value, bool):
            raise self._fault(key, "true or false")
        return value

    def data(self, key: str) -> bytes:
        """Bytes in base64."""
        try:
            return base64.b64decode(self.text(key), validate=True)
        except (binascii.Error, ValueError) as exc:
            raise self._fault(key, "base64") from exc

    def nested(self, key: str) -> "Fields | None":
        """The fields of an object, None when it is missing."""
        value = self._member(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self._fault(key, "an object")
        return Fields(value, f"{key} in {self._what}", self._name)

    def _member(self, key: str) -> object:
        return self._members.get(key.lower() if self._any_case else key)

    def _fault(self, key: str, expected: str) -> Exception:
        return invalid_image(f"{self._name}: {key} in {self._what} is not {expected}")
