"""Restore images and the installer of macOS.

An IPSW is a zip with ``BuildManifest.plist`` (ProductVersion, ProductBuildVersion), as Apple's are. The key
``VZDouble`` in it may say ``minimum_cpus``, ``minimum_memory_bytes``, ``platform_version`` and ``supported``.
"""

import os
import plistlib
import threading
import weakref
import zipfile
from pathlib import Path
from typing import Any

from .aborts import abort
from .backing import GuestFault
from .engine import STOPPED, Engine
from .errors import (
    CANCELLED,
    CATALOG_LOAD_FAILED,
    INSTALLATION_FAILED,
    INSTALLATION_REQUIRES_UPDATE,
    INVALID_TRANSITION,
    RESTORE_IMAGE_LOAD_FAILED,
    make_error,
)
from .faults import Fault, take_fault
from .foundation_system import NSOperatingSystemVersion, advance
from .foundation_values import file_url
from .generation import behaviour
from .host import boot_settings, current_host
from .identity import hardware_model_data
from .objects import CLASSES, Failed, construct, invalid_argument
from .queues import is_on

_STEPS = 10
_STEP_S = 0.01
GIB = 1 << 30


@behaviour("VZMacOSRestoreImage")
class _RestoreImage:
    @classmethod
    def loadFileURL_completionHandler_(cls: Any, url: Any, handler: Any) -> None:
        if not url.isFileURL():
            raise invalid_argument("the URL of a restore image must be a file URL")
        _answer("load-restore-image", handler, lambda: _loaded(str(url.path())))

    @classmethod
    def fetchLatestSupportedWithCompletionHandler_(cls: Any, handler: Any) -> None:
        _answer("fetch-restore-image", handler, _latest)

    def isSupported(self: Any) -> bool:
        return bool(self._manifest.get("supported", True) and self._version <= (*boot_settings().version, 0, 0)[:3])

    def URL(self: Any) -> Any:
        return self._url

    def buildVersion(self: Any) -> str:
        return str(self._build)

    def operatingSystemVersion(self: Any) -> NSOperatingSystemVersion:
        return NSOperatingSystemVersion(*self._version)

    def mostFeaturefulSupportedConfiguration(self: Any) -> Any:
        if not _RestoreImage.isSupported(self):
            return None
        model = CLASSES["VZMacHardwareModel"].alloc()
        data = hardware_model_data(self._manifest.get("platform_version", 2))
        requirements = construct("VZMacOSConfigurationRequirements")
        requirements._values |= {
            "hardwareModel": model.initWithDataRepresentation_(data),
            "minimumSupportedCPUCount": self._manifest.get("minimum_cpus", 2),
            "minimumSupportedMemorySize": self._manifest.get("minimum_memory_bytes", 4 * GIB),
        }
        return requirements


def _answer(operation: str, handler: Any, work: Any) -> None:
    """Handlers of restore images run on an arbitrary thread, on no queue."""
    fault = take_fault(current_host(), operation)
    if fault.never:
        return

    def run() -> None:
        image, error = None, None
        try:
            if fault.code is not None:
                error = make_error(fault)
            else:
                image = work()
        except Failed as failure:
            error = make_error(failure)
        handler(image, error)

    threading.Timer(fault.delay_s, run).start()


def _loaded(path: str) -> Any:
    if os.path.realpath(path) != path:
        raise Failed(RESTORE_IMAGE_LOAD_FAILED, reason=f"{path} leads through a symbolic link.")
    try:
        with zipfile.ZipFile(path) as archive:
            manifest = plistlib.loads(archive.read("BuildManifest.plist"))
        version, build = manifest["ProductVersion"], manifest["ProductBuildVersion"]
    except (OSError, KeyError, ValueError, zipfile.BadZipFile, plistlib.InvalidFileException) as exc:
        raise Failed(RESTORE_IMAGE_LOAD_FAILED, reason=f"{path} is no restore image: {exc}.") from exc
    return construct(
        "VZMacOSRestoreImage",
        _url=file_url(path),
        _version=_three(version.split(".")),
        _build=build,
        _manifest=manifest.get("VZDouble", {}),
    )


def _latest() -> Any:
    latest = current_host().settings().latest_restore_image
    if latest is None:
        raise Failed(CATALOG_LOAD_FAILED)
    url = CLASSES["NSURL"].URLWithString_(latest.url)
    return construct(
        "VZMacOSRestoreImage", _url=url, _version=_three(latest.version), _build=latest.build, _manifest={}
    )


def _three(parts: Any) -> tuple[int, ...]:
    return (*(int(part) for part in parts), 0, 0)[:3]


@behaviour("VZMacOSInstaller")
class _Installer:
    def initWithVirtualMachine_restoreImageURL_(self: Any, vm: Any, url: Any) -> None:
        machine: Engine = vm._engine
        if not is_on(machine.queue):
            raise abort("wrong-queue", f"VZMacOSInstaller was made outside {machine.queue!r}, the queue of its VM")
        if not url.isFileURL():
            raise invalid_argument("the URL of a restore image must be a file URL")
        self._vm, self._queue = vm, machine.queue
        self._values |= {"virtualMachine": vm, "restoreImageURL": url}
        self._progress = CLASSES["NSProgress"].progressWithTotalUnitCount_(100)

    def progress(self: Any) -> Any:
        return self._progress

    def installWithCompletionHandler_(self: Any, handler: Any) -> None:
        machine: Engine = self._vm._engine
        fault = take_fault(machine.host, "install", machine.mac)
        refused = _refusal(machine, str(self._values["restoreImageURL"].path()))
        if refused is not None:
            machine.queue.submit(lambda: _complete(machine, handler, refused))
            return
        machine.installing = True
        Installation(self, machine, handler, fault).step(0)


def _refusal(machine: Engine, path: str) -> GuestFault | None:
    if machine.state != STOPPED or machine.installing:
        return GuestFault(INVALID_TRANSITION)
    if machine.description.kind != "macos":
        return GuestFault(INSTALLATION_FAILED, "The installation failed. The virtual machine is not for macOS.")
    try:
        image = _loaded(path)
    except Failed as failure:
        return GuestFault(failure.code, f"The restore image failed to load. {failure.reason}")
    if not _RestoreImage.isSupported(image):
        return GuestFault(INSTALLATION_REQUIRES_UPDATE)
    return None


class Installation:
    """Advances on the VM's queue as long as the installer is there; dropping it ends the installation silently."""

    def __init__(self, installer: Any, machine: Engine, handler: Any, fault: Fault) -> None:
        self._installer = weakref.ref(installer)
        self._machine = machine
        self._handler = handler
        self._fault = fault

    def step(self, number: int) -> None:
        installer = self._installer()
        machine = self._machine
        if installer is None or machine.vm is None:
            machine.installing = False
            return
        progress = installer._progress
        if progress._cancelled:
            self._end(GuestFault(CANCELLED))
            return
        advance(progress, number * 100 // _STEPS)
        if number == _STEPS // 2 and self._fault.never:
            return
        if number == _STEPS // 2 and self._fault.code is not None:
            self._end(self._fault)
        elif number < _STEPS:
            delay_s = _STEP_S + self._fault.delay_s / _STEPS
            machine.queue.submit_after(delay_s, lambda: self.step(number + 1))
        else:
            self._install()
            self._end(None)

    def _install(self) -> None:
        """Something that tells an installed disk from an empty one."""
        path = Path(self._machine.description.disks[0].path)
        with path.open("r+b") as disk:
            disk.write(b"VZDOUBLE-MACOS\n")

    def _end(self, outcome: GuestFault | Fault | None) -> None:
        self._machine.installing = False
        _complete(self._machine, self._handler, outcome)


def _complete(machine: Engine, handler: Any, outcome: GuestFault | Fault | None) -> None:
    told = None if outcome is None else [outcome.domain, outcome.code]
    machine.host.log_call(mac=machine.mac, operation="install", error=told)
    handler(None if outcome is None else make_error(outcome))
