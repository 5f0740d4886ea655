"""Virtualization of PyObjC: every class of Apple's SDK that exists on this Mac."""

from typing import Any, NewType

import Foundation  # noqa: F401 - its classes are the bases
from vzdouble import (  # noqa: F401 - they say how the classes behave
    attachments,
    configuration,
    devices,
    identity,
    installation,
    machine,
    shares,
)
from vzdouble.generation import build_classes
from vzdouble.metadata import framework

globals().update(build_classes("virtualization"))
globals().update({name: entry["value"] for name, entry in framework("virtualization")["enums"].items()})

globals().update({name: NewType(name, int) for name in framework("virtualization")["enum_types"]})

VZErrorDomain = "VZErrorDomain"


def __getattr__(name: str) -> Any:
    raise AttributeError(f"module 'Virtualization' has no attribute {name!r}")
