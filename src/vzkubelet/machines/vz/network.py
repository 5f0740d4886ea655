"""Which attachment a guest's network device gets, checked against this host before the framework has its say."""

import difflib
import socket
from dataclasses import dataclass
from typing import Any, assert_never

from vzkubelet.errors import Forbidden, InvalidInput, MachineFault, NotFound
from vzkubelet.machines.vz import vmnet
from vzkubelet.machines.vz.apple import Frameworks, make
from vzkubelet.machines.vz.availability import MacOS, unavailable
from vzkubelet.machines.vz.plan import BridgedNetwork, FileHandleNetwork, NatNetwork, Network, VmnetNetwork

_ENTITLEMENT = (
    "bridging needs the entitlement com.apple.vm.networking, which Apple grants to a developer team "
    "(https://developer.apple.com/forums/thread/656411): sign with it and its provisioning profile "
    "(`macos-vz-kubelet sign --help`), or leave VZ_BRIDGE_INTERFACE unset to use NAT"
)
_VLANS = (
    "a VLAN is made in System Settings > Network > … > Manage Virtual Interfaces, or with "
    "`sudo networksetup -createVLAN NAME PARENT TAG`"
)


@dataclass(frozen=True, slots=True)
class NetworkAttachment:
    """A VZNetworkDeviceAttachment, and what must stay referenced as long as it is used: the framework does not."""

    attachment: Any
    keep: tuple[object, ...] = ()


def attachment(
    frameworks: Frameworks, host: MacOS, network: Network, descriptor: int | None = None
) -> NetworkAttachment:
    """A new attachment; a device takes another one while its guest runs.

    `descriptor` is the helper's end of a packet filter's socket; it stays the caller's.
    Raises InvalidInput, NotFound, Forbidden, Unsupported, Unavailable, MachineFault.
    """
    match network:
        case NatNetwork():
            return NetworkAttachment(make(frameworks.Virtualization.VZNATNetworkDeviceAttachment))
        case BridgedNetwork(interface=name):
            return _bridged(frameworks, name)
        case VmnetNetwork():
            return _vmnet(frameworks, host, network)
        case FileHandleNetwork():
            return _file_handle(frameworks, descriptor)
        case _:
            assert_never(network)


# --- Bridged ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HostInterface:
    """An interface that guests can be bridged to: its BSD name (``en0``, ``vlan0``) and the name of its service."""

    identifier: str
    name: str = ""

    def __str__(self) -> str:
        return f"{self.identifier} ({self.name})" if self.name else self.identifier


def bridge_interfaces(frameworks: Frameworks) -> list[HostInterface]:
    """What this host offers; also for the checks that run before a machine is made."""
    return [_described(one) for one in frameworks.Virtualization.VZBridgedNetworkInterface.networkInterfaces()]


def _described(interface: Any) -> HostInterface:
    return HostInterface(str(interface.identifier()), str(interface.localizedDisplayName() or ""))


def chosen_interface(wanted: str, offered: list[HostInterface], present: list[str]) -> int:
    """Position in `offered` of the interface with the BSD name `wanted`. Pure.

    `present` are all interfaces of the host. Raises NotFound, InvalidInput, Forbidden with the names that would do.
    """
    for position, interface in enumerate(offered):
        if interface.identifier == wanted:
            return position
    if not offered:
        raise Forbidden(f"no interface of this host can be bridged to: {_ENTITLEMENT}", reason="NotEntitled")
    choice = f"it can be bridged to {', '.join(map(str, offered))}"
    if wanted in present:
        raise InvalidInput(
            f"VZ_BRIDGE_INTERFACE={wanted} is an interface that macOS does not bridge to, as one without a network "
            f"service; {choice}; {_VLANS}"
        )
    names = [name for one in offered for name in (one.identifier, one.name) if name]
    close = difflib.get_close_matches(wanted, names, n=3, cutoff=0.5)
    meant = [str(one) for one in offered if one.identifier in close or one.name in close]
    guess = f"did you mean {' or '.join(meant)}? " if meant else ""
    raise NotFound(
        f"VZ_BRIDGE_INTERFACE={wanted}: this host has no such interface; {guess}{choice}; {_VLANS}",
        reason="BridgeInterfaceNotFound",
    )


def _bridged(frameworks: Frameworks, wanted: str) -> NetworkAttachment:
    vz = frameworks.Virtualization
    interfaces = list(vz.VZBridgedNetworkInterface.networkInterfaces())
    present = [name for _, name in socket.if_nameindex()]
    interface = interfaces[chosen_interface(wanted, [_described(one) for one in interfaces], present)]
    return NetworkAttachment(vz.VZBridgedNetworkDeviceAttachment.alloc().initWithInterface_(interface), (interface,))


# --- vmnet -----------------------------------------------------------------------------------------------------------


def _vmnet(frameworks: Frameworks, host: MacOS, network: VmnetNetwork) -> NetworkAttachment:
    if host < MacOS(26):
        raise unavailable("a vmnet network of one's own", MacOS(26), host)
    logical = vmnet.create(network.mode)
    opaque = vmnet.opaque_type(frameworks.objc)(c_void_p=logical.pointer)
    attached = frameworks.Virtualization.VZVmnetNetworkDeviceAttachment.alloc().initWithNetwork_(opaque)
    if attached is None:
        raise MachineFault("Virtualization.framework took no vmnet network; update macOS or use NAT")
    return NetworkAttachment(attached, (logical, opaque))


# --- File handle -----------------------------------------------------------------------------------------------------


def _file_handle(frameworks: Frameworks, descriptor: int | None) -> NetworkAttachment:
    if descriptor is None:
        raise InvalidInput("a network over a file handle needs the socket of a packet filter")
    check_frame_socket(descriptor)
    # The descriptor is the packet filter's for the life of the machine; a second attachment needs it again.
    handle = frameworks.Foundation.NSFileHandle.alloc().initWithFileDescriptor_closeOnDealloc_(descriptor, False)
    attached = frameworks.Virtualization.VZFileHandleNetworkDeviceAttachment.alloc().initWithFileHandle_(handle)
    return NetworkAttachment(attached, (handle,))


def check_frame_socket(descriptor: int) -> None:
    """The attachment takes a connected datagram socket and crashes on much else. Raises InvalidInput."""
    try:
        with socket.socket(fileno=descriptor) as frames:
            try:
                kind, peer = frames.type, frames.getpeername()
            finally:
                frames.detach()
    except OSError as exc:
        raise InvalidInput(f"descriptor {descriptor} is no connected socket for a guest's network: {exc}") from exc
    if kind != socket.SOCK_DGRAM:
        raise InvalidInput(
            f"descriptor {descriptor} is no datagram socket, so it cannot carry a guest's frames ({peer!r})"
        )
