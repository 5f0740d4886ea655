"""The OCI image config that an image may carry: what a container runs by default, and the machine in labels. Pure."""

import re
from collections.abc import Mapping
from dataclasses import replace

import msgspec

from vzkubelet.errors import clip
from vzkubelet.images.formats import fields
from vzkubelet.images.formats.artifact import Display, Machine, invalid_image
from vzkubelet.model.oci import ImageConfig, ImageConfigDetails
from vzkubelet.ports import ImageDefaults

_PREFIX = "macos-vz-kubelet.machine."
CPU_MIN = _PREFIX + "cpu-min"
MEMORY_MIN = _PREFIX + "memory-min-bytes"
CPU_COUNT = _PREFIX + "cpu-count"
MEMORY = _PREFIX + "memory-bytes"
MAC_ADDRESS = _PREFIX + "mac-address"
DISPLAY = _PREFIX + "display"
DISPLAY_REFIT = _PREFIX + "display-refit"
_DISPLAY = re.compile(r"([0-9]{1,6})x([0-9]{1,6})(pt|px|)")
_MAC_ADDRESS = re.compile(r"([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}")
_FLAGS = {"true": True, "false": False}


def read(content: bytes | None, name: str) -> ImageConfig:
    """The parsed document; an empty one when there is none.

    Raises:
        InvalidInput: malformed.
    """
    return ImageConfig() if content is None else fields.decode(content, ImageConfig, "image config", name)


def described(machine: Machine, config: ImageConfig, name: str) -> Machine:
    """`machine` with the defaults and labels of an image config; what it says itself already stays.

    Raises:
        InvalidInput: a label of ours that is malformed.
    """
    labels = dict(config.config.labels or {})

    def number(label: str) -> int:
        return fields.whole_number(labels.pop(label, "0"), f"label {label}", name)

    found = Machine(
        os="",
        architecture="",
        cpu_min=number(CPU_MIN),
        memory_min_bytes=number(MEMORY_MIN),
        cpu_count=number(CPU_COUNT),
        memory_bytes=number(MEMORY),
        mac_address=mac_address(labels.pop(MAC_ADDRESS, ""), f"label {MAC_ADDRESS}", name),
        display=display(labels.pop(DISPLAY, ""), f"label {DISPLAY}", name),
        display_refit=_flag(labels.pop(DISPLAY_REFIT, ""), DISPLAY_REFIT, name),
    )
    return replace(
        machine,
        defaults=_defaults(config.config),
        cpu_min=machine.cpu_min or found.cpu_min,
        memory_min_bytes=machine.memory_min_bytes or found.memory_min_bytes,
        cpu_count=machine.cpu_count or found.cpu_count,
        memory_bytes=machine.memory_bytes or found.memory_bytes,
        mac_address=machine.mac_address or found.mac_address,
        display=machine.display or found.display,
        display_refit=found.display_refit if machine.display_refit is None else machine.display_refit,
        labels=tuple(sorted(labels.items())),
    )


def write(machine: Machine, given: Mapping[str, object] | None, labels: Mapping[str, str]) -> bytes:
    """The document: `given` with the platform, `labels` and what the machine says by default where `given` does not.

    Raises:
        InvalidInput: `given` is not an OCI image config.
    """
    document = {**(given or {}), "architecture": machine.architecture, "os": machine.os}
    details = {} if document.get("config") is None else document["config"]
    if not isinstance(details, dict):
        raise invalid_image("the image config's config is not a JSON object")
    own = {} if details.get("Labels") is None else details["Labels"]
    if not isinstance(own, dict):
        raise invalid_image("the image config's Labels are not a JSON object")
    details = {**_details(machine.defaults), **details}
    if all_labels := {**dict(machine.labels), **own, **labels}:
        details["Labels"] = all_labels
    encoded = msgspec.json.encode({**document, "config": details}, order="sorted")
    read(encoded, "image config")
    return encoded


def says_anything(machine: Machine) -> bool:
    """Whether an image config has something to say about the machine besides its platform."""
    return machine.defaults != ImageDefaults() or bool(machine.labels or hints(machine))


def hints(machine: Machine) -> dict[str, str]:
    """Labels for formats that have no other place for what the machine was made with."""
    shown = machine.display
    labels = {
        CPU_MIN: str(machine.cpu_min or ""),
        MEMORY_MIN: str(machine.memory_min_bytes or ""),
        CPU_COUNT: str(machine.cpu_count or ""),
        MEMORY: str(machine.memory_bytes or ""),
        MAC_ADDRESS: machine.mac_address,
        DISPLAY: "" if shown is None else f"{shown.width}x{shown.height}{shown.unit}",
        DISPLAY_REFIT: "" if machine.display_refit is None else str(machine.display_refit).lower(),
    }
    return {label: value for label, value in labels.items() if value}


def display(text: str, where: str, name: str) -> Display | None:
    """``1920x1200``, with ``pt`` or ``px`` or neither; None when empty."""
    if not text:
        return None
    match = _DISPLAY.fullmatch(text)
    if match is None:
        raise invalid_image(f'{name}: {where}: "{clip(text)}" is not a size like 1920x1200')
    return Display(int(match[1]), int(match[2]), match[3])


def mac_address(text: str, where: str, name: str) -> str:
    if text and not _MAC_ADDRESS.fullmatch(text):
        raise invalid_image(f'{name}: {where}: "{clip(text)}" is not a MAC address')
    return text


def _flag(text: str, label: str, name: str) -> bool | None:
    if text and text not in _FLAGS:
        raise invalid_image(f'{name}: label {label}: "{clip(text)}" is neither true nor false')
    return _FLAGS.get(text)


def _defaults(details: ImageConfigDetails) -> ImageDefaults:
    return ImageDefaults(
        entrypoint=None if details.entrypoint is None else tuple(details.entrypoint),
        cmd=None if details.cmd is None else tuple(details.cmd),
        env=tuple((key, value) for key, _, value in (entry.partition("=") for entry in details.env or ()) if key),
        working_dir=details.working_dir,
        user=details.user,
    )


def _details(defaults: ImageDefaults) -> dict[str, object]:
    said: dict[str, object | None] = {
        "Entrypoint": defaults.entrypoint,
        "Cmd": defaults.cmd,
        "Env": [f"{key}={value}" for key, value in defaults.env] or None,
        "WorkingDir": defaults.working_dir or None,
        "User": defaults.user or None,
    }
    return {key: value for key, value in said.items() if value is not None}
