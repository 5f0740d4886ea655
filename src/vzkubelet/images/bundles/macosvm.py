"""macosvm: a directory with ``vm.json``, which names the files and holds the boot data (github.com/s-u/macosvm)."""

import base64
from pathlib import Path
from typing import Any

import msgspec

from vzkubelet.errors import InvalidInput, Unsupported, clip
from vzkubelet.images.bundles import ecid
from vzkubelet.images.bundles.bundle import Bundle, checked_hints, decode_json, document, member
from vzkubelet.images.formats.artifact import Display, Machine

DOCUMENT = "vm.json"
_DEFAULT_CPUS = 4
_DEFAULT_MEMORY_BYTES = 8 * 1024**3
_DEFAULT_SCREEN = {"dpi": 144, "width": 1920, "height": 1200}


class Storage(msgspec.Struct, frozen=True):
    type: str = ""
    file: str = ""
    url: str = ""
    readOnly: bool = False  # noqa: N815 - the document's own


class Network(msgspec.Struct, frozen=True):
    mac: str = ""


class Screen(msgspec.Struct, frozen=True):
    width: int = 0
    height: int = 0


class Document(msgspec.Struct, frozen=True, rename="camel"):
    os: str = "macos"
    cpus: int = 0
    ram: int = 0
    hardware_model: bytes = b""
    machine_id: bytes = b""
    storage: tuple[Storage, ...] = ()
    networks: tuple[Network, ...] = ()
    displays: tuple[Screen, ...] = ()


def read(directory: Path, name: str = DOCUMENT) -> Bundle:
    """Raises: NotFound, InvalidInput, Unsupported, Forbidden, Unavailable."""
    path = directory / name
    described = decode_json(document(directory, name), Document, path)
    if described.os != "macos":
        raise Unsupported(
            f"{path}: a {clip(described.os)} guest of macosvm boots a kernel from outside its disk; no image has one"
        )
    aux = _only(described, "aux", directory, name)
    return Bundle(
        kind="macosvm",
        path=directory,
        machine=machine(described, path, described.machine_id or ecid.machine_id(aux)),
        disk=_only(described, "disk", directory, name),
        aux=aux,
    )


def machine(described: Document, path: Path, machine_id: bytes) -> Machine:
    """Raises: InvalidInput."""
    screen = next((screen for screen in described.displays if screen.width and screen.height), None)
    return checked_hints(
        Machine(
            os="darwin",
            architecture="arm64",
            hardware_model=described.hardware_model,
            machine_id=machine_id,
            cpu_count=described.cpus,
            memory_bytes=described.ram,
            mac_address=next((network.mac for network in described.networks if network.mac), ""),
            display=None if screen is None else Display(screen.width, screen.height, "px"),
        ),
        path,
    )


def describe(machine: Machine, disk: str, aux: str) -> bytes:
    """``vm.json`` of a macOS guest whose files have these names. What the image does not say is chosen."""
    network = {"type": "nat", **({"mac": machine.mac_address} if machine.mac_address else {})}
    screen: dict[str, Any] = dict(_DEFAULT_SCREEN)
    if machine.display is not None:
        screen |= {"width": machine.display.width, "height": machine.display.height}
    document: dict[str, Any] = {
        "version": 1,
        "os": "macos",
        "hardwareModel": base64.b64encode(machine.hardware_model).decode(),
        "machineId": base64.b64encode(machine.machine_id).decode(),
        "cpus": max(machine.cpu_count or _DEFAULT_CPUS, machine.cpu_min),
        "ram": max(machine.memory_bytes or _DEFAULT_MEMORY_BYTES, machine.memory_min_bytes),
        "storage": [
            {"type": "disk", "file": disk, "readOnly": False},
            {"type": "aux", "file": aux, "readOnly": False},
        ],
        "displays": [screen],
        "networks": [network],
        "audio": False,
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def _only(described: Document, kind: str, directory: Path, name: str) -> Path:
    found = [entry for entry in described.storage if entry.type == kind]
    if kind == "disk":
        found = [entry for entry in found if not entry.readOnly] or found
    if len(found) != 1:
        raise InvalidInput(f"{directory / name}: storage has {len(found)} entries of type {kind}; an image has one")
    [entry] = found
    if not entry.file:
        raise Unsupported(f"{directory / name}: the {kind} {clip(entry.url)} is no file of this host")
    return member(directory, entry.file, of=name)
