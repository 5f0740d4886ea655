"""The only place that imports PyObjC, at the first call of `frameworks`; importing this module is safe anywhere.

Calling rules (PyObjC 12): ``sel:arg:`` is ``sel_arg_``, properties are called, an ``NSError**`` argument is passed as
`None` and comes back as the last element of a tuple. The first element decides, never the error's presence.
"""

import contextlib
import importlib
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vzkubelet.errors import Unsupported, clip
from vzkubelet.machines.vz.availability import MacOS, check_host
from vzkubelet.model.mac import OLDEST_PYOBJC

VZ_ERROR_DOMAIN = "VZErrorDomain"

_NEEDED = (
    f"pyobjc-framework-Virtualization {'.'.join(map(str, OLDEST_PYOBJC))} or later: "
    "`pip install 'macos-vz-kubelet[vz]'` with an arm64 Python"
)


@dataclass(frozen=True, slots=True)
class Frameworks:
    """The imported modules, named as PyObjC names them."""

    objc: Any
    Foundation: Any
    Virtualization: Any
    dispatch: Any


class AppleError(Exception):
    """An NSError, or an Objective-C exception that PyObjC raised, as `faults` needs it. Never leaves this room."""

    def __init__(self, domain: str, code: int, text: str, reason: str = "", underlying: str = "") -> None:
        super().__init__(text)
        self.domain = domain
        self.code = code
        self.text = text
        self.reason = reason
        self.underlying = underlying

    def __str__(self) -> str:
        parts = [self.text]
        parts += [part for part in (self.reason, self.underlying) if part and part not in self.text]
        return clip(" ".join(f"{part.rstrip('.')}." for part in parts if part)) + f" ({self.domain} {self.code})"


def frameworks() -> Frameworks:
    """Import PyObjC and the frameworks. Raises Unsupported with what is missing. Never fork after this."""
    try:
        return Frameworks(
            objc=importlib.import_module("objc"),
            Foundation=importlib.import_module("Foundation"),
            Virtualization=importlib.import_module("Virtualization"),
            dispatch=importlib.import_module("dispatch"),
        )
    except ImportError as exc:
        where = "this is no Mac" if platform.system() != "Darwin" else "PyObjC is not installed"
        raise Unsupported(
            f"the vz machine driver needs Apple's Virtualization.framework and {where} ({clip(str(exc))}); "
            f"on a Mac install {_NEEDED}, elsewhere use `--machine-driver qemu`",
            reason="UnsupportedHost",
        ) from exc


def host() -> MacOS:
    """This Mac. Raises Unsupported off a Mac; does not judge the version (`check_host` does)."""
    loaded = frameworks()
    version = loaded.Foundation.NSProcessInfo.processInfo().operatingSystemVersion()
    # Asked of the framework, not of the kernel: an Intel Python under Rosetta gets the framework without these classes.
    is_arm64 = hasattr(loaded.Virtualization, "VZMacPlatformConfiguration")
    return MacOS.told(int(version[0]), int(version[1]), "arm64" if is_arm64 else "x86_64")


def supported_host() -> MacOS:
    """This Mac, checked: Apple Silicon, new enough, and virtualization works at all. Raises Unsupported."""
    found = host()
    check_host(found)
    if not frameworks().Virtualization.VZVirtualMachine.isSupported():
        raise Unsupported(
            "this Mac cannot run virtual machines (VZVirtualMachine.isSupported is false): it is a virtual machine "
            "itself, or the hypervisor is off; `sysctl kern.hv_support` must print 1",
            reason="UnsupportedHost",
        )
    return found


def make(cls: Any) -> Any:
    """An instance by ``+new``: PyObjC refuses ``alloc().init()`` on 26 classes whose base marks `init` unavailable."""
    return cls.new()


def file_url(path: Path) -> Any:
    """An NSURL of an absolute path."""
    return frameworks().Foundation.NSURL.fileURLWithPath_(str(path))


def data(value: bytes) -> Any:
    return frameworks().Foundation.NSData.dataWithBytes_length_(value, len(value))


def apple_error(error: Any, subject: str = "") -> AppleError:
    """An NSError (or None, when a call failed without one) as ours; `subject` names the file or device it is about."""
    about = f"{subject}: " if subject else ""
    if error is None:
        return AppleError(VZ_ERROR_DOMAIN, 0, f"{about}the call failed and gave no error")
    underlying = (error.userInfo() or {}).get("NSUnderlyingError")
    return AppleError(
        str(error.domain()),
        int(error.code()),
        about + str(error.localizedDescription()),
        str(error.localizedFailureReason() or ""),
        ""
        if underlying is None
        else f"{underlying.localizedDescription()} ({underlying.domain()} {underlying.code()})",
    )


def objective_c_error() -> type[Exception]:
    """What PyObjC raises for an Objective-C exception that has no Python counterpart (``objc.error``)."""
    kind: type[Exception] = frameworks().objc.error
    return kind


@contextlib.contextmanager
def autorelease_pool() -> Iterator[None]:
    """A pool for Objective-C work on a thread that has none of its own."""
    with frameworks().objc.autorelease_pool():
        yield
