"""What is said on the command line of a machine whose files say less, or something else."""

import base64
import binascii
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import click

from vzkubelet.errors import InvalidInput
from vzkubelet.images import Machine
from vzkubelet.images.bundles import Bundle
from vzkubelet.model import quantity

F = TypeVar("F", bound=Callable[..., Any])
_MAX_CPUS = 1024
_MAX_MEMORY_BYTES = 64 * 1024**4
"""More than any machine has: what lies above is a slip of the pen."""


def options(command: F) -> F:
    """Adds the flags that `overridden` and `described` read."""
    for option in (
        click.option("--memory-min", metavar="QUANTITY", help="Memory that the guest needs at least, such as 4Gi."),
        click.option(
            "--cpu-min",
            type=click.IntRange(1, _MAX_CPUS),
            metavar="NUMBER",
            help="Processors that the guest needs at least.",
        ),
        click.option("--arch", type=click.Choice(["arm64", "amd64"]), help="Default: arm64."),
        click.option("--os", "os_", type=click.Choice(["darwin", "linux"]), help="Default: darwin."),
        click.option("--machine-id", default="", metavar="BASE64", help="Boot data of a macOS guest."),
        click.option("--hardware-model", default="", metavar="BASE64", help="Boot data of a macOS guest."),
        click.option("--aux-path", type=click.Path(path_type=Path), help="Auxiliary storage or EFI variables."),
    ):
        command = option(command)
    return command


def described(given: dict[str, Any]) -> Machine:
    """A machine of which only the flags tell. Raises: InvalidInput."""
    return with_flags(Machine(given["os_"] or "darwin", given["arch"] or "arm64"), given)


def overridden(bundle: Bundle, given: dict[str, Any]) -> Bundle:
    """The bundle, with what the flags say instead of it. Raises: InvalidInput, UsageError."""
    machine = bundle.machine
    if machine.os and (given["os_"] or given["arch"]):
        raise click.UsageError(
            f"--os and --arch do not go with a bundle, which says itself that it is {machine.os}/{machine.architecture}"
        )
    if not machine.os:
        machine = replace(machine, os=given["os_"] or "darwin", architecture=given["arch"] or "arm64")
    return replace(bundle, machine=with_flags(machine, given), aux=given["aux_path"] or bundle.aux)


def with_flags(machine: Machine, given: dict[str, Any]) -> Machine:
    """Raises: InvalidInput."""
    return replace(
        machine,
        hardware_model=_base64(given["hardware_model"], "--hardware-model") or machine.hardware_model,
        machine_id=_base64(given["machine_id"], "--machine-id") or machine.machine_id,
        cpu_min=given["cpu_min"] or machine.cpu_min,
        memory_min_bytes=_memory(given["memory_min"], "--memory-min") or machine.memory_min_bytes,
    )


def _memory(text: str | None, flag: str) -> int:
    if text is None:
        return 0
    try:
        size_bytes = quantity.to_int(text)
    except InvalidInput as exc:
        raise InvalidInput(f"{flag}: {exc}") from exc
    if not 0 < size_bytes <= _MAX_MEMORY_BYTES:
        raise InvalidInput(f"{flag}: {text} is not between 1 and {quantity.format_bytes(_MAX_MEMORY_BYTES)}")
    return size_bytes


def _base64(text: str, flag: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise InvalidInput(f"{flag} is not base64") from exc
