"""What a running VM's devices can do: new networks, shares, balloon targets, sockets to and from the guest."""

import contextlib
import os
import weakref
from typing import Any

from .aborts import Aborted
from .backing import GuestFault
from .describing import class_of, items, nic_of
from .engine import PAUSED, RUNNING, Engine
from .errors import INVALID_STATE, make_error
from .faults import take_fault
from .generation import behaviour
from .host import boot_settings
from .objects import CLASSES, Failed, Nil, construct
from .shares import describe_share
from .subclassing import ask

MIB = 1024 * 1024

_LIVE = {
    "networkDevices": ("networkDevices", "VZNetworkDevice"),
    "socketDevices": ("socketDevices", "VZVirtioSocketDevice"),
    "memoryBalloonDevices": ("memoryBalloonDevices", "VZVirtioTraditionalMemoryBalloonDevice"),
    "directorySharingDevices": ("directorySharingDevices", "VZVirtioFileSystemDevice"),
    "consoleDevices": ("consoleDevices", "VZVirtioConsoleDevice"),
    "graphicsDevices": ("graphicsDevices", ""),
    "usbControllers": ("usbControllers", "VZXHCIController"),
}


def attach(vm: Any, machine: Engine, configuration: Any) -> None:
    """Make the live devices of a VM, in the order of its configuration."""
    for getter, (source, class_name) in _LIVE.items():
        made = [
            _device(machine, part, index, class_name or class_of(part).removesuffix("Configuration"))
            for index, part in enumerate(items(configuration, source))
        ]
        made = [device for device in made if device is not None]
        machine.devices[getter] = made
        vm._values[getter] = tuple(made)


def _device(machine: Engine, part: Any, index: int, class_name: str) -> Any:
    if class_name not in CLASSES:  # newer than this Mac
        return None
    device = construct(class_name, _engine=machine, _queue=machine.queue, _index=index)
    match class_name:
        case "VZNetworkDevice":
            device._values["attachment"] = part._values.get("attachment")
            device._mac = str(part.MACAddress().string())
        case "VZVirtioFileSystemDevice":
            device._values |= {"tag": part._values["tag"], "share": part._values.get("share")}
        case "VZVirtioTraditionalMemoryBalloonDevice":
            device._values["targetVirtualMachineMemorySize"] = machine.description.memory_bytes
        case "VZVirtioSocketDevice":
            device._listeners = {}
        case "VZVirtioConsoleDevice":
            device._ports = construct(
                "VZVirtioConsolePortArray",
                _queue=machine.queue,
                _ports={key: _console_port(machine, port) for key, port in part.ports()._ports.items()},
            )
        case "VZXHCIController":
            device._attached = []
    return device


def _console_port(machine: Engine, port: Any) -> Any:
    made = construct("VZVirtioConsolePort", _queue=machine.queue)
    made._values |= {"name": port.name(), "attachment": port._values.get("attachment")}
    return made


def _is_live(machine: Engine) -> bool:
    return machine.guest is not None and machine.state in (RUNNING, PAUSED)


@behaviour("VZNetworkDevice")
class _NetworkDevice:
    def setAttachment_(self: Any, attachment: Any) -> None:
        self._values["attachment"] = attachment
        if _is_live(self._engine):
            self._engine.guest.network_changed(self._index, nic_of(self._mac, attachment))


@behaviour("VZVirtioFileSystemDevice")
class _FileSystemDevice:
    def setShare_(self: Any, share: Any) -> None:
        self._values["share"] = share
        if _is_live(self._engine):
            tag = str(self._values["tag"])
            self._engine.guest.share_changed(tag, None if share is None else describe_share(tag, share))


@behaviour("VZVirtioTraditionalMemoryBalloonDevice")
class _Balloon:
    def setTargetVirtualMachineMemorySize_(self: Any, size: int) -> None:
        """Rounded down to whole MiB, within what the framework allows and the VM has."""
        lowest, highest = boot_settings().limits.minimum_memory_bytes, self._engine.description.memory_bytes
        target = min(max(size // MIB * MIB, lowest), highest)
        self._values["targetVirtualMachineMemorySize"] = target
        if _is_live(self._engine):
            self._engine.guest.memory_target_changed(target)


@behaviour("VZVirtioConsoleDevice")
class _ConsoleDevice:
    def ports(self: Any) -> Any:
        return self._ports


@behaviour("VZVirtioConsolePortArray")
class _ConsolePorts:
    def objectAtIndexedSubscript_(self: Any, index: int) -> Any:
        if index not in self._ports:
            raise Nil
        return self._ports[index]

    def maximumPortCount(self: Any) -> int:
        return 31


# --- vsock -----------------------------------------------------------------------------------------------------------


@behaviour("VZVirtioSocketDevice")
class _SocketDevice:
    def connectToPort_completionHandler_(self: Any, port: int, handler: Any) -> None:
        machine: Engine = self._engine
        fault = take_fault(machine.host, "connect", machine.mac)

        def complete(descriptor: int | None, refused: Any) -> None:
            def on_queue() -> None:
                connection = None if descriptor is None else _connection(machine, descriptor, 0, port)
                handler(connection, None if refused is None else make_error(refused))

            machine.queue.submit_after(fault.delay_s, on_queue)

        if fault.never:
            return
        if fault.code is not None:
            complete(None, fault)
        elif not _is_live(machine) or machine.guest is None:
            complete(None, GuestFault(INVALID_STATE))
        else:
            machine.guest.connect(port, complete)

    def setSocketListener_forPort_(self: Any, listener: Any, port: int) -> None:
        """The listener is held weakly: who drops it accepts no more."""
        machine: Engine = self._engine
        self._listeners[port] = weakref.ref(listener)
        device = weakref.ref(self)

        def accept(descriptor: int, source_port: int) -> None:
            machine.queue.submit(lambda: _offer(device(), machine, port, descriptor, source_port))

        if machine.guest is not None:
            machine.guest.listen(port, accept)

    def removeSocketListenerForPort_(self: Any, port: int) -> None:
        self._listeners.pop(port, None)
        if self._engine.guest is not None:
            self._engine.guest.listen(port, None)


def _offer(device: Any, machine: Engine, port: int, descriptor: int, source_port: int) -> None:
    listener = device._listeners.get(port, lambda: None)() if device is not None else None
    delegate = listener.delegate() if listener is not None else None
    connection = _connection(machine, descriptor, source_port, port)
    accepted = None
    if delegate is not None:
        with contextlib.suppress(Aborted):
            selector = "listener:shouldAcceptNewConnection:fromSocketDevice:"
            accepted = ask(delegate, selector, listener, connection, device)
    if not accepted:
        connection._closing()


def _connection(machine: Engine, descriptor: int, source_port: int, destination_port: int) -> Any:
    """Owns the descriptor: closed with it, at the latest when it is dropped."""
    made = construct(
        "VZVirtioSocketConnection",
        _queue=machine.queue,
        _descriptor=descriptor,
        _source=source_port,
        _destination=destination_port,
    )
    made._closing = weakref.finalize(made, os.close, descriptor)
    return made


@behaviour("VZVirtioSocketConnection")
class _Connection:
    def fileDescriptor(self: Any) -> int:
        return int(self._descriptor) if self._closing.alive else -1

    def sourcePort(self: Any) -> int:
        return int(self._source)

    def destinationPort(self: Any) -> int:
        return int(self._destination)

    def close(self: Any) -> None:
        self._closing()


# --- USB -------------------------------------------------------------------------------------------------------------


@behaviour("VZUSBMassStorageDevice")
class _MassStorage:
    def initWithConfiguration_(self: Any, configuration: Any) -> None:
        self._configuration = configuration


@behaviour("VZUSBController")
class _USBController:
    def usbDevices(self: Any) -> list[Any]:
        return list(self._attached)

    def attachDevice_completionHandler_(self: Any, device: Any, handler: Any) -> None:
        _change_usb(self, "attach-usb", device, handler)

    def detachDevice_completionHandler_(self: Any, device: Any, handler: Any) -> None:
        _change_usb(self, "detach-usb", device, handler)


def _change_usb(controller: Any, operation: str, device: Any, handler: Any) -> None:
    """30001 = not attached, 30002 = attached already: VZErrorUSBController…, VZErrorUSBDevice…"""
    machine: Engine = controller._engine
    fault = take_fault(machine.host, operation, machine.mac)
    if fault.never:
        return
    attached: list[Any] = controller._attached
    error = None
    if fault.code is not None:
        error = make_error(fault)
    elif operation == "attach-usb" and device in attached:
        error = make_error(Failed(30002, "The USB device is already attached."))
    elif operation == "attach-usb":
        attached.append(device)
    elif device in attached:
        attached.remove(device)
    else:
        error = make_error(Failed(30001, "The USB device is not attached."))
    machine.queue.submit_after(fault.delay_s, lambda: handler(error))


@behaviour("VZGraphicsDevice")
class _GraphicsDevice:
    def displays(self: Any) -> list[Any]:
        return []
