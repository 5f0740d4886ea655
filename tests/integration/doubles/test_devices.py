"""A running machine's devices, and the installation of macOS."""

import gc
import os
import queue
import socket
import threading

import pytest

from tests.integration.doubles.conftest import MAC, WAIT_S
from tests.support.apple_double import write_restore_image

MIB = 1 << 20


@pytest.fixture
def equipped(workshop):
    """A running Linux guest with a share, a balloon and a vsock device."""
    vz = workshop.vz
    configuration = workshop.linux()
    share = vz.VZVirtioFileSystemDeviceConfiguration.alloc().initWithTag_("data")
    share.setShare_(vz.VZMultipleDirectoryShare.new())
    configuration.setDirectorySharingDevices_([share])
    configuration.setMemoryBalloonDevices_([vz.VZVirtioTraditionalMemoryBalloonDeviceConfiguration.new()])
    configuration.setSocketDevices_([vz.VZVirtioSocketDeviceConfiguration.new()])
    vm = workshop.machine(configuration)
    assert workshop.start(vm) is None
    return vm


def test_share_changes_while_the_guest_runs(workshop, mac_host, equipped):
    directory = workshop.vz.VZSharedDirectory.alloc().initWithURL_readOnly_(workshop.url("."), True)
    share = workshop.vz.VZMultipleDirectoryShare.alloc().initWithDirectories_({"work": directory})
    workshop.on_queue(lambda: equipped.directorySharingDevices()[0].setShare_(share))
    (seen,) = mac_host.guest(MAC)["shares"]
    assert seen["directories"] == {"work": {"path": str(workshop.directory), "read_only": True}}


def test_balloon_is_rounded_and_clamped(workshop, mac_host, equipped):
    def target(size):
        def change():
            balloon = equipped.memoryBalloonDevices()[0]
            balloon.setTargetVirtualMachineMemorySize_(size)
            return balloon.targetVirtualMachineMemorySize()

        return workshop.on_queue(change)

    assert target(512 * MIB + 5) == 512 * MIB
    assert mac_host.guest(MAC)["memory_target_bytes"] == 512 * MIB
    assert target(64 << 30) == 1 << 30
    assert target(1) == 4 * MIB


def test_network_is_attached_again_after_a_disconnection(workshop, mac_host, equipped, delegate_class):
    delegate = delegate_class.alloc().init()
    workshop.on_queue(lambda: equipped.setDelegate_(delegate))
    mac_host.tell(MAC, "disconnect")
    delegate.recorder.wait_for(1)
    device = workshop.on_queue(lambda: equipped.networkDevices()[0])
    assert workshop.on_queue(lambda: device.attachment()) is None
    nat = workshop.vz.VZNATNetworkDeviceAttachment.new()
    workshop.on_queue(lambda: device.setAttachment_(nat))
    assert workshop.on_queue(lambda: device.attachment()) is nat


def _connect(workshop, vm, port):
    answers: queue.SimpleQueue[tuple[object, object]] = queue.SimpleQueue()

    def handler(connection, error):
        answers.put((connection, error))

    workshop.on_queue(lambda: vm.socketDevices()[0].connectToPort_completionHandler_(port, handler))
    return answers.get(timeout=WAIT_S)


def _guest_port(mac_host, port):
    """A listener in the guest's place. Socket paths are short, temporary directories are not."""
    directory = mac_host.directory / "guests" / f"{MAC}.vsock"
    directory.mkdir()
    listener = socket.socket(socket.AF_UNIX)
    descriptor = os.open(directory, os.O_RDONLY)
    listener.bind(f"/proc/self/fd/{descriptor}/{port}")
    os.close(descriptor)
    listener.listen()
    return listener


def test_connection_to_the_guest_is_closed_when_it_is_dropped(workshop, mac_host, equipped):
    connection, error = _connect(workshop, equipped, 8080)
    assert connection is None
    assert error is not None, "nobody listens"
    with _guest_port(mac_host, 8080) as listener:
        connection, error = _connect(workshop, equipped, 8080)
        assert error is None
        guest, _ = listener.accept()
        with guest:
            descriptor = workshop.on_queue(connection.fileDescriptor)
            os.write(descriptor, b"hello")
            assert guest.recv(5) == b"hello"
            kept = os.dup(descriptor)
            connection = None
            gc.collect()
            with pytest.raises(OSError):
                os.fstat(descriptor)
            assert os.write(kept, b"still") == 5, "a copy survives"
            os.close(kept)


def test_connection_injected_fault(workshop, mac_host, equipped):
    mac_host.fail("connect", code=7)
    connection, error = _connect(workshop, equipped, 1)
    assert (connection, error.code()) == (None, 7)


@pytest.mark.parametrize("accepts", [True, False])
def test_listener_for_connections_of_the_guest(workshop, mac_host, equipped, accepts):
    accepted: queue.SimpleQueue[object] = queue.SimpleQueue()

    class Listening(  # type: ignore[call-arg]
        workshop.foundation.NSObject,  # type: ignore[misc,name-defined]
        protocols=[workshop.objc.protocolNamed("VZVirtioSocketListenerDelegate")],
    ):
        def listener_shouldAcceptNewConnection_fromSocketDevice_(self, listener, connection, device):
            accepted.put(connection)
            return accepts

    delegate = Listening.alloc().init()
    listener = workshop.vz.VZVirtioSocketListener.alloc().init()
    listener.setDelegate_(delegate)
    workshop.on_queue(lambda: equipped.socketDevices()[0].setSocketListener_forPort_(listener, 5000))
    mac_host.tell(MAC, "dial 5000")
    connection = accepted.get(timeout=WAIT_S)
    workshop.settle()
    descriptor = workshop.on_queue(lambda: connection.fileDescriptor())  # type: ignore[attr-defined]
    if accepts:
        os.write(descriptor, b"echo")
        assert os.read(descriptor, 4) == b"echo"
    assert (descriptor >= 0) is accepts


def test_usb_devices_come_and_go(workshop):
    configuration = workshop.linux()
    configuration.setUsbControllers_([workshop.vz.VZXHCIControllerConfiguration.alloc().init()])
    vm = workshop.machine(configuration)
    workshop.start(vm)
    storage = workshop.vz.VZUSBMassStorageDeviceConfiguration.alloc().initWithAttachment_(
        workshop.disk("usb.img").attachment()
    )
    device = workshop.vz.VZUSBMassStorageDevice.alloc().initWithConfiguration_(storage)
    controller = workshop.on_queue(lambda: vm.usbControllers()[0])
    attach, detach = controller.attachDevice_completionHandler_, controller.detachDevice_completionHandler_
    assert workshop.perform(lambda handler: attach(device, handler)) is None
    assert workshop.on_queue(lambda: len(controller.usbDevices())) == 1
    assert workshop.perform(lambda handler: detach(device, handler)) is None
    assert workshop.perform(lambda handler: detach(device, handler)) is not None


# --- installation ----------------------------------------------------------------------------------------------------


def _load(workshop, name):
    answers: queue.SimpleQueue[tuple[object, object, str]] = queue.SimpleQueue()

    def handler(image, error):
        answers.put((image, error, threading.current_thread().name))

    workshop.vz.VZMacOSRestoreImage.loadFileURL_completionHandler_(workshop.url(name), handler)
    image, error, thread = answers.get(timeout=WAIT_S)
    assert thread != threading.current_thread().name
    return image, error


def test_restore_image(workshop):
    write_restore_image(workshop.directory / "a.ipsw", "14.5", "23F79", minimum_cpus=4)
    image, error = _load(workshop, "a.ipsw")
    assert error is None
    assert image.buildVersion() == "23F79"
    assert image.operatingSystemVersion() == (14, 5, 0)
    needs = image.mostFeaturefulSupportedConfiguration()
    assert needs.minimumSupportedCPUCount() == 4
    assert needs.hardwareModel().isSupported()


def test_restore_image_that_is_newer_than_the_host(workshop):
    write_restore_image(workshop.directory / "new.ipsw", "26.1")
    image, _ = _load(workshop, "new.ipsw")
    assert image.isSupported() is False
    assert image.mostFeaturefulSupportedConfiguration() is None


def test_restore_image_behind_a_symbolic_link_or_no_image(workshop):
    write_restore_image(workshop.directory / "a.ipsw")
    (workshop.directory / "link.ipsw").symlink_to("a.ipsw")
    (workshop.directory / "text.ipsw").write_text("text")
    for name in ("link.ipsw", "text.ipsw", "missing.ipsw"):
        image, error = _load(workshop, name)
        assert image is None
        assert error.code() == 10005


def _installer(workshop, vm, name="a.ipsw"):
    cls = workshop.vz.VZMacOSInstaller
    return workshop.on_queue(lambda: cls.alloc().initWithVirtualMachine_restoreImageURL_(vm, workshop.url(name)))


def test_installation(workshop):
    write_restore_image(workshop.directory / "a.ipsw")
    vm = workshop.machine(workshop.macos())
    installer = _installer(workshop, vm)
    progress = workshop.on_queue(lambda: installer.progress())
    assert progress.fractionCompleted() == 0.0
    assert workshop.perform(installer.installWithCompletionHandler_) is None
    assert progress.fractionCompleted() == 1.0
    assert (workshop.directory / "disk.img").read_bytes().startswith(b"VZDOUBLE-MACOS")


def test_installation_is_cancelled(workshop, mac_host):
    write_restore_image(workshop.directory / "a.ipsw")
    mac_host.fail("install", delay_s=5.0)
    vm = workshop.machine(workshop.macos())
    installer = _installer(workshop, vm)
    done: queue.SimpleQueue[object] = queue.SimpleQueue()

    def handler(error):
        done.put(error)

    workshop.on_queue(lambda: installer.installWithCompletionHandler_(handler))
    workshop.on_queue(lambda: installer.progress().cancel())
    assert done.get(timeout=WAIT_S).code() == 9  # type: ignore[attr-defined]


@pytest.mark.parametrize(("version", "code"), [("26.1", 10006)])
def test_installation_of_an_unsupported_image(workshop, version, code):
    write_restore_image(workshop.directory / "a.ipsw", version)
    installer = _installer(workshop, workshop.machine(workshop.macos()))
    assert workshop.perform(installer.installWithCompletionHandler_).code() == code


def test_installation_fault(workshop, mac_host):
    write_restore_image(workshop.directory / "a.ipsw")
    mac_host.fail("install", code=10007)
    installer = _installer(workshop, workshop.machine(workshop.macos()))
    assert workshop.perform(installer.installWithCompletionHandler_).code() == 10007


def test_machine_is_left_alone_during_an_installation(workshop, mac_host):
    write_restore_image(workshop.directory / "a.ipsw")
    mac_host.fail("install", never=True)
    vm = workshop.machine(workshop.macos())
    installer = _installer(workshop, vm)

    def handler(error):
        pass

    workshop.on_queue(lambda: installer.installWithCompletionHandler_(handler))
    with pytest.raises(BaseException, match="during the installation"):
        workshop.start(vm)
    mac_host.expect_aborts("undefined")


def test_installer_outside_the_queue(workshop, mac_host):
    vm = workshop.machine(workshop.macos())
    with pytest.raises(BaseException, match="outside"):
        workshop.vz.VZMacOSInstaller.alloc().initWithVirtualMachine_restoreImageURL_(vm, workshop.url("a.ipsw"))
    mac_host.expect_aborts("wrong-queue")
