"""What the host decides: entitlements, keychain, root, the limit of macOS guests, locks, dropping of machines."""

import gc
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.doubles.conftest import MAC, WAIT_S
from tests.support.apple_double import MacHost, imported_frameworks

SECOND, THIRD = "0a:0b:0c:0d:0e:10", "0a:0b:0c:0d:0e:11"


def _fault(workshop, configuration):
    valid, error = configuration.validateWithError_(None)
    assert valid is (error is None)
    return None if error is None else (error.code(), str(error.localizedDescription()))


def test_missing_entitlement(workshop, mac_host):
    mac_host.configure(entitlements=[])
    code, text = _fault(workshop, workshop.linux())
    assert code == 2
    assert "com.apple.security.virtualization" in text


def test_bridging_needs_an_entitlement_or_root(workshop, mac_host):
    interface = workshop.vz.VZBridgedNetworkInterface.networkInterfaces()[0]
    bridged = workshop.vz.VZBridgedNetworkDeviceAttachment.alloc().initWithInterface_(interface)
    configuration = workshop.linux()
    configuration.setNetworkDevices_([workshop.nic(attachment=bridged)])
    code, text = _fault(workshop, configuration)
    assert code == 2
    assert "com.apple.vm.networking" in text
    mac_host.configure(entitlements=["com.apple.security.virtualization", "com.apple.vm.networking"])
    assert _fault(workshop, configuration) is None
    mac_host.configure(entitlements=["com.apple.security.virtualization"], root=True)
    assert _fault(workshop, configuration) is None


@pytest.mark.parametrize("setting", [{"keychain": "locked"}, {"root": True}])
@pytest.mark.parametrize(("version", "code"), [((14, 4), None), ((15, 0), 1)])
def test_macos_guests_need_an_unlocked_keychain_and_no_root(tmp_path, setting, version, code):
    from tests.integration.doubles.conftest import Workshop

    host = MacHost(tmp_path / "mac", version=version, **setting)
    with imported_frameworks(host) as frameworks:
        workshop = Workshop(frameworks, tmp_path)
        error = workshop.start(workshop.machine(workshop.macos()))
        assert (None if error is None else error.code()) == code
        linux = workshop.machine(workshop.linux(SECOND, "linux.img"))
        assert workshop.start(linux) is None, "Linux guests need neither"
    host.check()


def test_third_macos_guest(workshop):
    machines = [
        workshop.machine(workshop.macos(mac, f"{number}.img", f"{number}.aux"))
        for number, mac in enumerate((MAC, SECOND, THIRD))
    ]
    assert workshop.start(machines[0]) is None
    assert workshop.start(machines[1]) is None
    assert workshop.start(machines[2]).code() == 6
    linux = workshop.machine(workshop.linux("0a:0b:0c:0d:0e:12", "linux.img"))
    assert workshop.start(linux) is None, "Linux guests do not count"
    assert workshop.perform(machines[0].stopWithCompletionHandler_) is None
    assert workshop.start(machines[2]) is None


_OTHER_PROCESS = """
import sys
sys.path.insert(0, {root!r})
from pathlib import Path
from tests.integration.doubles.conftest import Workshop
from tests.support.apple_double import AppleFrameworks
import objc, Foundation, Virtualization, dispatch
workshop = Workshop(AppleFrameworks(objc, Foundation, Virtualization, dispatch), Path({directory!r}))
machines = []
for name in ("x", "y"):
    mac = "0a:0b:0c:0d:0f:0" + str(len(machines))
    machines.append(workshop.machine(workshop.macos(mac, name + ".img", name + ".aux")))
    assert workshop.start(machines[-1]) is None
print("running", flush=True)
sys.stdin.read()
"""


def test_limit_holds_across_processes_and_ends_with_them(workshop, mac_host):
    program = _OTHER_PROCESS.format(root=str(Path.cwd()), directory=str(workshop.directory))
    other = subprocess.Popen(
        [sys.executable, "-c", program],
        env=mac_host.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with other:
        assert other.stdout is not None
        assert other.stdout.readline() == "running\n"
        vm = workshop.machine(workshop.macos())
        assert workshop.start(vm).code() == 6
        other.kill()
        other.wait(WAIT_S)
    assert workshop.start(vm) is None
    assert len(mac_host.running()) == 1, "what a killed process left was removed"


def test_disk_and_storage_are_locked_while_a_machine_runs(workshop):
    first = workshop.machine(workshop.macos())
    assert workshop.start(first) is None
    same_aux = workshop.machine(workshop.macos(SECOND, "other.img"))
    error = workshop.start(same_aux)
    assert (error.code(), "auxiliary storage" in error.localizedDescription()) == (2, True)
    same_disk = workshop.machine(workshop.linux(THIRD))
    error = workshop.start(same_disk)
    assert (error.code(), "storage device attachment" in error.localizedDescription()) == (2, True)
    workshop.perform(first.stopWithCompletionHandler_)
    assert workshop.start(same_aux) is None


def test_dropping_the_machine_ends_its_guest(workshop, mac_host):
    vm = workshop.machine(workshop.macos())
    workshop.start(vm)
    assert len(mac_host.running()) == 1
    del vm
    gc.collect()
    assert mac_host.running() == []
    assert not (mac_host.directory / "guests" / f"{MAC}.sock").exists()


def test_dropping_a_file_handle_closes_it(workshop):
    ours, theirs = socket.socketpair()
    with ours:
        descriptor = theirs.detach()
        handle = workshop.foundation.NSFileHandle.alloc().initWithFileDescriptor_closeOnDealloc_(descriptor, True)
        serial = workshop.vz.VZFileHandleSerialPortAttachment.alloc()
        attachment = serial.initWithFileHandleForReading_fileHandleForWriting_(None, handle)
        assert attachment.fileHandleForWriting().fileDescriptor() == descriptor
        del handle
        gc.collect()
        assert attachment.fileHandleForWriting() is None
        assert ours.recv(1) == b"", "the other end sees it"


def test_network_file_handle_must_be_a_connected_datagram_socket(workshop):
    stream, other = socket.socketpair()
    with stream, other:
        handle = workshop.foundation.NSFileHandle.alloc().initWithFileDescriptor_(stream.fileno())
        with pytest.raises(ValueError, match="datagram"):
            workshop.vz.VZFileHandleNetworkDeviceAttachment.alloc().initWithFileHandle_(handle)
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with left, right:
        handle = workshop.foundation.NSFileHandle.alloc().initWithFileDescriptor_(left.fileno())
        attachment = workshop.vz.VZFileHandleNetworkDeviceAttachment.alloc().initWithFileHandle_(handle)
        assert attachment.maximumTransmissionUnit() == 1500


def test_lease_and_console_of_an_instant_guest(workshop, mac_host):
    configuration = workshop.linux("02:00:0a:00:00:0f")
    attachment, error = workshop.vz.VZFileSerialPortAttachment.alloc().initWithURL_append_error_(
        workshop.url("console.log"), True, None
    )
    assert error is None
    port = workshop.vz.VZVirtioConsoleDeviceSerialPortConfiguration.new()
    port.setAttachment_(attachment)
    configuration.setSerialPorts_([port])
    vm = workshop.machine(configuration)
    assert workshop.start(vm) is None
    lease = mac_host.leases.read_text()
    assert re.fullmatch(
        r"\{\n\tname=guest\n\tip_address=192\.168\.64\.2\n\thw_address=1,2:0:a:0:0:f\n"
        r"\tidentifier=1,2:0:a:0:0:f\n\tlease=0x[0-9a-f]{8}\n\}\n",
        lease,
    )
    mac_host.tell("02:00:0a:00:00:0f", "console hello")
    assert "hello" in (workshop.directory / "console.log").read_text()
    mac_host.tell("02:00:0a:00:00:0f", "address 192.168.64.77")
    assert mac_host.leases.read_text().count("hw_address=1,2:0:a:0:0:f") == 2


def test_guest_without_an_address_when_all_are_leased(workshop, mac_host):
    mac_host.configure(lease_network="192.168.64.0/30")
    first, second = workshop.machine(workshop.linux()), workshop.machine(workshop.linux(SECOND, "other.img"))
    assert workshop.start(first) is None
    assert workshop.start(second) is None, "bootpd is silent, the guest runs"
    assert mac_host.leases.read_text().count("ip_address=") == 1
    workshop.perform(first.stopWithCompletionHandler_)
    workshop.start(first)
    assert mac_host.leases.read_text().count("ip_address=192.168.64.2\n") == 1, "a lease is renewed"


def test_reported_version_and_interfaces(mac_host):
    mac_host.configure(version=[26, 0], reported_version=[16, 0], interfaces=[{"identifier": "vlan0", "name": "VLAN"}])
    with imported_frameworks(mac_host) as frameworks:
        version = frameworks.Foundation.NSProcessInfo.processInfo().operatingSystemVersion()
        assert (version.majorVersion, version[1]) == (16, 0)
        assert hasattr(frameworks.Virtualization, "VZVmnetNetworkDeviceAttachment")
        (interface,) = frameworks.Virtualization.VZBridgedNetworkInterface.networkInterfaces()
        assert interface.identifier() == "vlan0"


def test_double_is_nobodys_by_accident():
    ended = subprocess.run(
        [sys.executable, "-c", "import objc"],
        env={"PYTHONPATH": "tests/doubles/apple", "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 1
    assert "VZ_DOUBLE_HOST" in ended.stderr
