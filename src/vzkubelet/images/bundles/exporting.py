"""Images of the store back to a directory that macosvm or tart opens. The files are clones: who starts them changes
nothing here."""

import os
import shutil
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path

import msgspec

from vzkubelet.errors import Exhausted, Unsupported
from vzkubelet.files import new_directory, reflink, write_atomic
from vzkubelet.images.bundles import macosvm, tart
from vzkubelet.images.bundles.bundle import read_fault, write_fault
from vzkubelet.images.bundles.copying import new_file
from vzkubelet.images.formats import agoda
from vzkubelet.images.formats.artifact import Machine
from vzkubelet.images.sparse import read_blocks

Report = Callable[[str, int, int], None]
"""Hears the stage, bytes done and bytes in all."""


class Tool(StrEnum):
    MACOSVM = "macosvm"
    TART = "tart"


def export(machine: Machine, disk: Path, aux: Path, directory: Path, tool: Tool, report: Report) -> None:
    """Make `directory`, which must not exist, with clones of the two files and the tool's own description.

    Raises: AlreadyExists, Unsupported (the tool runs no such machine), Exhausted, Forbidden, Unavailable.
    """
    documents, disk_name, aux_name = _description(machine, tool)
    try:
        with new_directory(directory) as staging:
            for name, content in documents.items():
                write_atomic(staging / name, content, 0o644)
            for source, name in ((aux, aux_name), (disk, disk_name)):
                _clone(source, staging / name, report)
    except OSError as exc:
        raise write_fault(exc, directory) from exc


def _description(machine: Machine, tool: Tool) -> tuple[dict[str, bytes], str, str]:
    """Documents by name, and what disk and auxiliary storage are called."""
    match tool:
        case Tool.TART:
            return {tart.DOCUMENT: tart.describe(machine)}, tart.DISK, tart.AUX
        case Tool.MACOSVM if machine.os == "darwin":
            described = macosvm.describe(machine, agoda.DISK_TITLE, agoda.AUX_TITLE)
            # The other document is for us: with it the directory is one that `push --bundle` and `import` take.
            config = msgspec.json.format(agoda.write_config(machine), indent=2) + b"\n"
            return {macosvm.DOCUMENT: described, agoda.CONFIG_TITLE: config}, agoda.DISK_TITLE, agoda.AUX_TITLE
        case Tool.MACOSVM:
            raise Unsupported("macosvm boots a Linux guest only by a kernel outside its disk: export it for tart")


def _clone(source: Path, target: Path, report: Report) -> None:
    if reflink(source, target):
        return
    try:
        descriptor = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as exc:
        raise read_fault(exc, source) from exc
    try:
        _copy(descriptor, target, report)
    finally:
        os.close(descriptor)


def _copy(descriptor: int, target: Path, report: Report) -> None:
    status = os.fstat(descriptor)
    free_bytes = shutil.disk_usage(target.parent).free
    if free_bytes < status.st_blocks * 512:
        raise Exhausted(
            f"no space for {target.name}: it takes {status.st_blocks * 512} bytes, {free_bytes} bytes are free on the "
            f"volume of {target.parent.parent}"
        )
    with new_file(target, status.st_size) as copy:
        for block in read_blocks(descriptor, status.st_size):
            copy.write(block)
            report(f"export {target.name}", copy.position, status.st_size)
