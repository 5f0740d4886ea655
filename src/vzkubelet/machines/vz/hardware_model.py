"""What the data of a hardware model tells without Apple's framework. Pure.

Its content is not documented. So it is only asked for a reason to refuse an image before its disk is moved; whether a
model is supported the framework decides when a machine is made.
"""

import plistlib
from xml.parsers.expat import ExpatError

from vzkubelet.machines.vz.availability import MacOS, unavailable

_MINIMUM = "MinimumSupportedOS"
"""A list of numbers: 13, 0, 0."""


def refusal(hardware_model: bytes, host: MacOS) -> str | None:
    """Why a Mac with this system cannot run guests of the model, as far as its data tells; None: nothing speaks against
    it."""
    try:
        document = plistlib.loads(hardware_model)
    except (plistlib.InvalidFileException, ExpatError, ValueError, TypeError, RecursionError, OverflowError):
        return None
    minimum = document.get(_MINIMUM) if isinstance(document, dict) else None
    if not isinstance(minimum, list) or not minimum or not all(isinstance(number, int) for number in minimum):
        return None
    needed = MacOS(*minimum[:2])
    return None if host >= needed else unavailable(f"the image's hardware model ({_MINIMUM})", needed, host).message
