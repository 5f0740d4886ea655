"""Fixtures of the double, and a Mac with the parts of a virtual machine at hand."""

import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.apple_double import (
    AppleFrameworks,
    MacHost,
    apple_frameworks,
    hardware_model_data,
    mac_host,
)

__all__ = ["apple_frameworks", "mac_host"]

MAC = "0a:0b:0c:0d:0e:0f"
GIB = 1 << 30
WAIT_S = 10.0


class Workshop:
    """Builds configurations and machines, and runs things on a queue. What it makes is kept until the test ends."""

    def __init__(self, frameworks: AppleFrameworks, directory: Path) -> None:
        self.vz = frameworks.Virtualization
        self.foundation = frameworks.Foundation
        self.objc = frameworks.objc
        self.dispatch = frameworks.dispatch
        self.directory = directory
        self.queue = frameworks.dispatch.dispatch_queue_create(b"vm.queue", None)

    def url(self, name: str) -> Any:
        return self.foundation.NSURL.fileURLWithPath_(str(self.directory / name))

    def disk(self, name: str = "disk.img", *, size_bytes: int = 4096, read_only: bool = False) -> Any:
        path = self.directory / name
        if not path.exists():
            path.write_bytes(bytes(size_bytes))
        made = self.vz.VZDiskImageStorageDeviceAttachment.alloc()
        attachment, error = made.initWithURL_readOnly_error_(self.url(name), read_only, None)
        assert error is None, error
        return self.vz.VZVirtioBlockDeviceConfiguration.alloc().initWithAttachment_(attachment)

    def nic(self, mac: str = MAC, attachment: Any = None) -> Any:
        device = self.vz.VZVirtioNetworkDeviceConfiguration.new()
        device.setMACAddress_(self.vz.VZMACAddress.alloc().initWithString_(mac))
        device.setAttachment_(attachment or self.vz.VZNATNetworkDeviceAttachment.new())
        return device

    def base(self, mac: str = MAC, disk: str = "disk.img") -> Any:
        """What every guest has."""
        configuration = self.vz.VZVirtualMachineConfiguration.alloc().init()
        configuration.setCPUCount_(2)
        configuration.setMemorySize_(GIB)
        configuration.setStorageDevices_([self.disk(disk)])
        configuration.setNetworkDevices_([self.nic(mac)])
        return configuration

    def linux(self, mac: str = MAC, disk: str = "disk.img") -> Any:
        configuration = self.base(mac, disk)
        (self.directory / "kernel").write_bytes(b"kernel")
        configuration.setBootLoader_(self.vz.VZLinuxBootLoader.alloc().initWithKernelURL_(self.url("kernel")))
        return configuration

    def macos(self, mac: str = MAC, disk: str = "disk.img", aux: str = "aux.img") -> Any:
        configuration = self.base(mac, disk)
        model = self.hardware_model()
        storage, error = self.vz.VZMacAuxiliaryStorage.alloc().initCreatingStorageAtURL_hardwareModel_options_error_(
            self.url(aux), model, 1, None
        )
        assert error is None, error
        platform = self.vz.VZMacPlatformConfiguration.new()
        platform.setHardwareModel_(model)
        platform.setMachineIdentifier_(self.vz.VZMacMachineIdentifier.alloc().init())
        platform.setAuxiliaryStorage_(storage)
        configuration.setPlatform_(platform)
        configuration.setBootLoader_(self.vz.VZMacOSBootLoader.new())
        display = self.vz.VZMacGraphicsDisplayConfiguration.alloc()
        graphics = self.vz.VZMacGraphicsDeviceConfiguration.new()
        graphics.setDisplays_([display.initWithWidthInPixels_heightInPixels_pixelsPerInch_(1024, 768, 72)])
        configuration.setGraphicsDevices_([graphics])
        return configuration

    def hardware_model(self, **of: Any) -> Any:
        model = self.vz.VZMacHardwareModel.alloc().initWithDataRepresentation_(hardware_model_data(**of))
        assert model is not None
        return model

    def machine(self, configuration: Any) -> Any:
        return self.vz.VZVirtualMachine.alloc().initWithConfiguration_queue_(configuration, self.queue)

    def on_queue(self, work: Callable[[], Any]) -> Any:
        """The result of `work` on the queue; what it raises is raised here."""
        outcome: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

        def block() -> None:
            try:
                outcome.put((work(), None))
            except BaseException as exc:  # noqa: BLE001 - handed to the test
                outcome.put((None, exc))

        self.dispatch.dispatch_async(self.queue, block)
        result, error = outcome.get(timeout=WAIT_S)
        if error is not None:
            raise error
        return result

    def perform(self, operation: Callable[[Callable[..., None]], Any]) -> Any:
        """Call an operation with a completion handler on the queue; returns the error that the handler got."""
        done: queue.SimpleQueue[Any] = queue.SimpleQueue()

        def handler(error: Any) -> None:
            done.put(error)

        self.on_queue(lambda: operation(handler))
        return done.get(timeout=WAIT_S)

    def start(self, vm: Any) -> Any:
        return self.perform(vm.startWithCompletionHandler_)

    def state(self, vm: Any) -> int:
        return int(self.on_queue(lambda: vm.state()))  # a selector belongs to the queue as its call does  # type: ignore[no-any-return]

    def settle(self) -> None:
        """Everything that was queued so far has run."""
        self.on_queue(lambda: None)


class Recorder:
    """What a delegate heard, in order."""

    def __init__(self) -> None:
        self.heard: list[Any] = []
        self.changed = threading.Condition()

    def hear(self, *words: Any) -> None:
        with self.changed:
            self.heard.append(words if len(words) > 1 else words[0])
            self.changed.notify_all()

    def wait_for(self, count: int) -> list[Any]:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.heard) >= count, WAIT_S), self.heard
        return self.heard


@pytest.fixture
def workshop(mac_host: MacHost, apple_frameworks: AppleFrameworks, tmp_path: Path) -> Workshop:
    return Workshop(apple_frameworks, tmp_path)


@pytest.fixture
def delegate_class(workshop: Workshop) -> Any:
    """A delegate of virtual machines that tells a `Recorder` (its attribute ``recorder``)."""
    foundation: Any = workshop.foundation
    base: Any = foundation.NSObject

    class DoubleTestDelegate(base, protocols=[workshop.objc.protocolNamed("VZVirtualMachineDelegate")]):  # type: ignore[call-arg,misc]
        def init(self):
            self = workshop.objc.super(DoubleTestDelegate, self).init()
            self.recorder = Recorder()
            return self

        def guestDidStopVirtualMachine_(self, vm):
            self.recorder.hear("stopped")

        def virtualMachine_didStopWithError_(self, vm, error):
            self.recorder.hear("error", error.code())

        def virtualMachine_networkDevice_attachmentWasDisconnectedWithError_(self, vm, device, error):
            self.recorder.hear("disconnected", device.attachment(), error.code())

    return DoubleTestDelegate
