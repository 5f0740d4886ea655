"""What the machine driver and the checks of a host both know about Macs."""

OLDEST_MACOS = (13, 0)
"""EFI boot, the automount tag and opening auxiliary storage came with macOS 13."""
OLDEST_PYOBJC = (12, 2)
"""Earlier ones deadlock on observers (pyobjc#674) and leak blocks."""
APP_EXECUTABLE = "Contents/MacOS/macos-vz-kubelet"
"""In the signed application; called like the product, for Login Items and the privacy settings show this name."""

_COMPATIBILITY_MAJORS = range(16, 26)
"""macOS went from 15 to 26; a program linked to an older SDK is told 16 instead (cpython#135675)."""


def true_major(told: int) -> int:
    """The major version of macOS behind the one that macOS told, with its compatibility shim taken back."""
    return told + 10 if told in _COMPATIBILITY_MAJORS else told
