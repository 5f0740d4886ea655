"""The machine identifier of a macOS guest, found in its auxiliary storage where nothing else keeps it.

The boot firmware leaves the ECID there as DER: an IA5 string ``ECID`` of 4 characters and an integer of 8 bytes,
usually at one place. ``VZMacMachineIdentifier.dataRepresentation`` is a binary property list with the one key ECID.
"""

import mmap
import os
import plistlib
from pathlib import Path

from vzkubelet.files import open_regular
from vzkubelet.images.bundles.bundle import read_fault

_SIGNATURE = b"\x04ECID\x02\x08"
_ECID_BYTES = 8


def machine_id(aux: Path) -> bytes:
    """``VZMacMachineIdentifier.dataRepresentation``, empty when the storage does not tell.

    Raises: NotFound, InvalidInput, Forbidden, Unavailable.
    """
    try:
        with (
            os.fdopen(open_regular(aux), "rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
        ):
            return _machine_id(content)
    except OSError as exc:
        raise read_fault(exc, aux) from exc
    except ValueError:  # an empty file cannot be mapped
        return b""


def _machine_id(content: mmap.mmap) -> bytes:
    position = content.find(_SIGNATURE)
    while position >= 0:
        start = position + len(_SIGNATURE)
        number = int.from_bytes(content[start : start + _ECID_BYTES], "big")
        if number and start + _ECID_BYTES <= len(content):
            return plistlib.dumps({"ECID": number}, fmt=plistlib.FMT_BINARY)
        position = content.find(_SIGNATURE, start)
    return b""
