"""What makes a machine the one it is: hardware model, machine identifier, MAC address, NVRAM."""

import os
import plistlib
import random
import re
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .conversion import bridge
from .errors import INTERNAL
from .generation import behaviour
from .host import boot_settings
from .objects import CLASSES, Failed, Nil, construct

AUX_MAGIC = b"VZDOUBLE-AUX\n"
VARIABLES_MAGIC = b"VZDOUBLE-EFI\n"
_MAC = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")


def hardware_model_data(platform_version: int = 2, minimum_os: tuple[int, int, int] = (13, 0, 0)) -> bytes:
    """A data representation of the shape that Apple's has."""
    model = {
        "DataRepresentationVersion": 1,
        "MinimumSupportedOS": list(minimum_os),
        "PlatformVersion": platform_version,
    }
    return plistlib.dumps(model, fmt=plistlib.FMT_BINARY)


def machine_identifier_data(ecid: int | None = None) -> bytes:
    number = random.getrandbits(63) if ecid is None else ecid
    return plistlib.dumps({"ECID": number}, fmt=plistlib.FMT_BINARY)


def _decoded(data: bytes, *keys: str) -> dict[str, Any]:
    """Raises: Nil for what is no property list with these keys."""
    try:
        found = plistlib.loads(data)
    except Exception as exc:
        raise Nil from exc
    if not isinstance(found, dict) or any(key not in found for key in keys):
        raise Nil
    return found


class _Represented:
    """Immutable values that are equal when their data are."""

    _data: bytes = b""

    def dataRepresentation(self: Any) -> Any:
        return bridge(self._data)

    def __eq__(self: Any, other: object) -> bool:
        return type(other) is type(self) and self._data == other._data  # type: ignore[attr-defined]

    def __hash__(self: Any) -> int:
        return hash(self._data)


behaviour("VZMacHardwareModel", "VZMacMachineIdentifier", "VZGenericMachineIdentifier")(_Represented)


@behaviour("VZMacHardwareModel")
class _HardwareModel:
    def initWithDataRepresentation_(self: Any, data: Any) -> None:
        model = _decoded(bytes(data), "MinimumSupportedOS")
        self._data, self._minimum_os = bytes(data), tuple(model["MinimumSupportedOS"])

    def isSupported(self: Any) -> bool:
        return bool(self._minimum_os <= (*boot_settings().version, 0, 0)[:3])


@behaviour("VZMacMachineIdentifier")
class _MacMachineIdentifier:
    def init(self: Any) -> None:
        self._data = machine_identifier_data()

    def initWithDataRepresentation_(self: Any, data: Any) -> None:
        _decoded(bytes(data), "ECID")
        self._data = bytes(data)


@behaviour("VZGenericMachineIdentifier")
class _GenericMachineIdentifier:
    def init(self: Any) -> None:
        self._data = plistlib.dumps({"UUID": uuid.uuid4().bytes}, fmt=plistlib.FMT_BINARY)

    def initWithDataRepresentation_(self: Any, data: Any) -> None:
        _decoded(bytes(data), "UUID")
        self._data = bytes(data)


@behaviour("VZMACAddress")
class _MACAddress:
    def initWithString_(self: Any, text: str) -> None:
        if not _MAC.fullmatch(text):
            raise Nil
        self._octets = bytes(int(part, 16) for part in text.split(":"))

    @classmethod
    def randomLocallyAdministeredAddress(cls: Any) -> Any:
        first, *rest = random.randbytes(6)
        return construct("VZMACAddress", _octets=bytes(((first & 0xFC) | 0x02, *rest)))

    def string(self: Any) -> str:
        return ":".join(f"{octet:02x}" for octet in self._octets)

    def ethernetAddress(self: Any) -> tuple[bytes]:
        return (bytes(self._octets),)

    def isBroadcastAddress(self: Any) -> bool:
        return bool(self._octets == b"\xff" * 6)

    def isMulticastAddress(self: Any) -> bool:
        return bool(self._octets[0] & 1)

    def isUnicastAddress(self: Any) -> bool:
        return not self._octets[0] & 1

    def isLocallyAdministeredAddress(self: Any) -> bool:
        return bool(self._octets[0] & 2)

    def isUniversallyAdministeredAddress(self: Any) -> bool:
        return not self._octets[0] & 2

    def __eq__(self: Any, other: object) -> bool:
        return isinstance(other, CLASSES["VZMACAddress"]) and self._octets == other._octets

    def __hash__(self: Any) -> int:
        return hash(self._octets)


@behaviour("VZMacAuxiliaryStorage")
class _AuxiliaryStorage:
    """Opening does not touch the file; the double's own files say which hardware model they were made for."""

    def initWithURL_(self: Any, url: Any) -> None:
        self._values["URL"] = url

    def initWithContentsOfURL_(self: Any, url: Any) -> None:
        self._values["URL"] = url

    def initCreatingStorageAtURL_hardwareModel_options_error_(self: Any, url: Any, model: Any, options: int) -> None:
        if not model.isSupported():
            raise Failed(INTERNAL, "The hardware model is not supported on this host.")
        _create(url, options, lambda: AUX_MAGIC + model._data.hex().encode() + b"\n" + bytes(4096))
        self._values["URL"] = url


@behaviour("VZEFIVariableStore")
class _VariableStore:
    def initWithURL_(self: Any, url: Any) -> None:
        self._values["URL"] = url

    def initCreatingVariableStoreAtURL_options_error_(self: Any, url: Any, options: int) -> None:
        _create(url, options, lambda: VARIABLES_MAGIC + bytes(4096))
        self._values["URL"] = url


def _create(url: Any, options: int, content: Callable[[], bytes]) -> None:
    """Option 1 = may overwrite."""
    path = Path(str(url.path()))
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | (os.O_TRUNC if options & 1 else os.O_EXCL)
    try:
        descriptor = os.open(path, flags, 0o644)
    except OSError as exc:
        raise Failed(exc.errno or 1, f"{path}: {exc.strerror}", domain="NSPOSIXErrorDomain") from exc
    try:
        os.write(descriptor, content())
    finally:
        os.close(descriptor)


def hardware_model_of(auxiliary_storage: Path) -> bytes | None:
    """What the storage was created with; None for storage that the double did not create."""
    with auxiliary_storage.open("rb") as file:
        if file.readline() != AUX_MAGIC:
            return None
        return bytes.fromhex(file.readline().decode())
