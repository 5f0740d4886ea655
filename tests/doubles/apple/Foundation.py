"""Foundation of PyObjC: the classes that hosts of virtual machines use."""

from typing import Any

from vzdouble import foundation_system as _system
from vzdouble import foundation_values as _values
from vzdouble.generation import build_classes
from vzdouble.metadata import framework

NSOperatingSystemVersion = _system.NSOperatingSystemVersion
NSSize = CGSize = _system.CGSize

globals().update(build_classes("foundation"))
_values.add_mapping_methods()
globals().update({name: entry["value"] for name, entry in framework("foundation")["enums"].items()})

NSKeyValueChangeNewKey, NSKeyValueChangeOldKey, NSKeyValueChangeKindKey = "new", "old", "kind"
NSDefaultRunLoopMode, NSRunLoopCommonModes = "kCFRunLoopDefaultMode", "kCFRunLoopCommonModes"
NSUnderlyingErrorKey, NSLocalizedDescriptionKey = "NSUnderlyingError", "NSLocalizedDescription"
NSLocalizedFailureReasonErrorKey = "NSLocalizedFailureReason"
NSPOSIXErrorDomain, NSCocoaErrorDomain, NSURLErrorDomain = (
    "NSPOSIXErrorDomain",
    "NSCocoaErrorDomain",
    "NSURLErrorDomain",
)
NSOSStatusErrorDomain, NSMachErrorDomain = "NSOSStatusErrorDomain", "NSMachErrorDomain"


def __getattr__(name: str) -> Any:
    raise AttributeError(f"module 'Foundation' has no attribute {name!r}")
