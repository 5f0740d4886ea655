"""Network attachments over the double: NAT, bridged, vmnet and file handle, on each macOS, and what is refused."""

import ctypes
import gc
import os
import socket
from collections.abc import Iterator
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.apple_double import AppleFrameworks, MacHost, apple_frameworks, mac_host
from vzkubelet.errors import Error, Exhausted, Forbidden, InvalidInput, MachineFault, NotFound, Unsupported
from vzkubelet.machines.vz import apple, network, vmnet
from vzkubelet.machines.vz.availability import MacOS
from vzkubelet.machines.vz.plan import BridgedNetwork, FileHandleNetwork, NatNetwork, VmnetMode, VmnetNetwork

__all__ = ["apple_frameworks", "mac_host"]

HOST = MacOS(15, 1)
FILTERED = FileHandleNetwork(command=("softnet",))
INTERFACES = [
    {"identifier": "en0", "name": "Ethernet"},
    {"identifier": "en1", "name": "Wi-Fi"},
    {"identifier": "vlan0", "name": "CI guests"},
]


@pytest.fixture
def frameworks(mac_host: MacHost, apple_frameworks: AppleFrameworks) -> apple.Frameworks:
    mac_host.configure(interfaces=INTERFACES)
    return apple.frameworks()


def test_nat_needs_nothing(frameworks: apple.Frameworks) -> None:
    made = network.attachment(frameworks, HOST, NatNetwork())
    assert made.attachment.isKindOfClass_(frameworks.Virtualization.VZNATNetworkDeviceAttachment)


@pytest.mark.parametrize("name", ["en0", "en1", "vlan0"])
def test_an_interface_is_bridged_to_by_its_bsd_name(frameworks: apple.Frameworks, name: str) -> None:
    made = network.attachment(frameworks, HOST, BridgedNetwork(interface=name))
    gc.collect()
    assert str(made.attachment.interface().identifier()) == name


@pytest.mark.parametrize(
    ("wanted", "kind", "words"),
    [
        ("en8", NotFound, ["did you mean en0 (Ethernet) or en1 (Wi-Fi)?", "vlan0 (CI guests)", "-createVLAN"]),
        ("Etherent", NotFound, ["did you mean en0 (Ethernet)?"]),
        ("CI guests", NotFound, ["did you mean vlan0 (CI guests)?"]),
        ("wi-fi", NotFound, ["did you mean en1 (Wi-Fi)?"]),
        ("vlan7", NotFound, ["did you mean vlan0 (CI guests)?"]),
        ("zzz", NotFound, ["no such interface; it can be bridged to en0"]),
        ("lo", InvalidInput, ["lo is an interface that macOS does not bridge to", "-createVLAN"]),
    ],
)
def test_an_interface_that_cannot_be_bridged_to_is_refused_with_those_that_can(
    frameworks: apple.Frameworks, wanted: str, kind: type[Error], words: list[str]
) -> None:
    with pytest.raises(kind) as told:
        network.attachment(frameworks, HOST, BridgedNetwork(interface=wanted))
    for word in words:
        assert word in told.value.message


def test_a_host_that_offers_nothing_to_bridge_to_lacks_the_entitlement(
    mac_host: MacHost, frameworks: apple.Frameworks
) -> None:
    mac_host.configure(interfaces=[])
    with pytest.raises(Forbidden, match=r"com\.apple\.vm\.networking") as told:
        network.attachment(frameworks, HOST, BridgedNetwork(interface="en0"))
    assert told.value.reason == "NotEntitled"


# --- File handle -----------------------------------------------------------------------------------------------------


@pytest.fixture
def frames() -> Iterator[socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with closing(ours), closing(theirs):
        yield ours


def test_a_file_handle_carries_frames_and_stays_the_callers(
    frameworks: apple.Frameworks, frames: socket.socket
) -> None:
    made = network.attachment(frameworks, HOST, FILTERED, frames.fileno())
    gc.collect()
    assert made.attachment.fileHandle().fileDescriptor() == frames.fileno()
    del made
    gc.collect()
    os.fstat(frames.fileno())
    network.attachment(frameworks, HOST, FILTERED, frames.fileno())


def test_what_is_no_connected_datagram_socket_is_refused(frameworks: apple.Frameworks) -> None:
    with pytest.raises(InvalidInput, match="socket of a packet filter"):
        network.attachment(frameworks, HOST, FILTERED)
    stream, other = socket.socketpair()
    with stream, other, pytest.raises(InvalidInput, match="no datagram socket"):
        network.attachment(frameworks, HOST, FILTERED, stream.fileno())
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as alone, pytest.raises(InvalidInput, match="no connected"):
        network.attachment(frameworks, HOST, FILTERED, alone.fileno())
    with pytest.raises(InvalidInput, match="no connected"):
        network.attachment(frameworks, HOST, FILTERED, 999)
    reading, writing = os.pipe()
    try:
        with pytest.raises(InvalidInput, match="no connected"):
            network.attachment(frameworks, HOST, FILTERED, reading)
    finally:
        os.close(reading)
        os.close(writing)


# --- vmnet -----------------------------------------------------------------------------------------------------------


class FakeVmnet:
    """vmnet.framework as C functions: what was asked for, what is alive."""

    def __init__(self, *, configuration: int = 1000, created: int = 1000) -> None:
        status = ctypes.POINTER(ctypes.c_uint32)
        self.modes: list[int] = []
        self.alive: set[int] = set()
        self._statuses = (configuration, created)
        self._next = 0x7F00_0000_1000  # does not fit 32 bits: a missing result type would cut it
        functions = {
            "vmnet_network_configuration_create": ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint32, status)(
                self._configuration
            ),
            "vmnet_network_create": ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, status)(self._network),
        }
        self.library = SimpleNamespace(**functions)
        self.foundation = SimpleNamespace(CFRelease=ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self._release))
        vmnet.declare(self.library, self.foundation)

    @property
    def libraries(self) -> tuple[Any, Any]:
        return self.library, self.foundation

    def _make(self, status: int, out: Any) -> int | None:
        out[0] = status
        if status != 1000:
            return None
        self._next += 16
        self.alive.add(self._next)
        return self._next

    def _configuration(self, mode: int, status: Any) -> int | None:
        self.modes.append(mode)
        return self._make(self._statuses[0], status)

    def _network(self, configuration: int, status: Any) -> int | None:
        assert configuration in self.alive
        return self._make(self._statuses[1], status)

    def _release(self, pointer: int) -> None:
        self.alive.remove(pointer)


@pytest.fixture
def frameworks_26(mac_host: MacHost, request: pytest.FixtureRequest) -> apple.Frameworks:
    mac_host.configure(version=[26, 0])
    request.getfixturevalue("apple_frameworks")
    return apple.frameworks()


@pytest.mark.parametrize(("mode", "number"), [(VmnetMode.SHARED, 1001), (VmnetMode.HOST, 1000)])
def test_a_vmnet_network_lives_as_long_as_its_attachment(
    frameworks_26: apple.Frameworks, monkeypatch: pytest.MonkeyPatch, mode: VmnetMode, number: int
) -> None:
    fake = FakeVmnet()
    monkeypatch.setattr(vmnet, "load", lambda: fake.libraries)
    made = network.attachment(frameworks_26, MacOS(26), VmnetNetwork(mode=mode))
    gc.collect()
    assert fake.modes == [number]
    assert len(fake.alive) == 1  # the configuration is released
    assert made.attachment.network() is not None
    del made
    gc.collect()
    assert not fake.alive


@pytest.mark.parametrize(
    ("statuses", "kind", "words"),
    [
        ({"configuration": 1010}, Forbidden, "macos-vz-kubelet sign"),
        ({"created": 1010}, Forbidden, "com.apple.security.virtualization"),
        ({"created": 1005}, Forbidden, "permission denied"),
        ({"created": 1009}, Exhausted, "turn Internet Sharing off"),
        ({"created": 1003}, MachineFault, "made no shared network: invalid argument"),
        ({"created": 1001}, MachineFault, "general failure (1001)"),
        ({"created": 4711}, MachineFault, "unknown status (4711)"),
    ],
)
def test_a_network_that_vmnet_refuses_is_explained_and_leaves_nothing(
    statuses: dict[str, int], kind: type[Error], words: str
) -> None:
    fake = FakeVmnet(**statuses)
    with pytest.raises(kind) as told:
        vmnet.create(VmnetMode.SHARED, fake.libraries)
    assert words in told.value.message
    assert not fake.alive


@pytest.mark.parametrize("version", [(13, 5), (14, 4), (15, 1)])
def test_vmnet_networks_need_macos_26(frameworks: apple.Frameworks, version: tuple[int, int]) -> None:
    with pytest.raises(Unsupported, match=f"needs macOS 26 or later and this host runs macOS {version[0]}"):
        network.attachment(frameworks, MacOS(*version), VmnetNetwork())


def test_a_host_without_vmnet_is_told() -> None:
    with pytest.raises(Unsupported, match=r"vmnet\.framework makes no networks"):
        vmnet.load("no-such-library", "no-such-library")
    with pytest.raises(Unsupported, match="makes no networks"):
        vmnet.load("libc.so.6", "libc.so.6")
