"""What the framework refuses in a configuration, and what it says."""

import pytest

from tests.integration.doubles.conftest import GIB, MAC


def _refusal(configuration):
    valid, error = configuration.validateWithError_(None)
    assert valid is False
    assert (error.domain(), error.code()) == ("VZErrorDomain", 2)
    return str(error.localizedDescription())


def test_valid_ones(workshop):
    assert workshop.linux().validateWithError_(None) == (True, None)
    assert workshop.macos().validateWithError_(None) == (True, None)


@pytest.mark.parametrize("size", [GIB + 1, 1 << 20, 1 << 40])
def test_memory(workshop, size):
    configuration = workshop.linux()
    configuration.setMemorySize_(size)
    assert "memory size" in _refusal(configuration)


@pytest.mark.parametrize("count", [0, 9])
def test_cpus(workshop, count):
    configuration = workshop.linux()
    configuration.setCPUCount_(count)
    assert "CPUs" in _refusal(configuration)


def test_boot_loader_and_platform_go_together(workshop):
    configuration = workshop.macos()
    configuration.setPlatform_(workshop.vz.VZGenericPlatformConfiguration.new())
    assert "do not go together" in _refusal(configuration)
    configuration = workshop.linux()
    configuration.setBootLoader_(workshop.vz.VZMacOSBootLoader.new())
    assert "do not go together" in _refusal(configuration)
    configuration.setBootLoader_(None)
    assert "boot loader" in _refusal(configuration)


def test_parts_of_a_mac(workshop):
    configuration = workshop.macos()
    platform = configuration.platform()
    platform.setAuxiliaryStorage_(None)
    assert "no auxiliary storage" in _refusal(configuration)
    missing = workshop.vz.VZMacAuxiliaryStorage.alloc().initWithURL_(workshop.url("missing"))
    assert missing is not None, "opening does not touch the file"
    platform.setAuxiliaryStorage_(missing)
    assert "open auxiliary storage" in _refusal(configuration)
    configuration = workshop.macos()
    configuration.platform().setHardwareModel_(workshop.hardware_model(platform_version=3))
    assert "not created with this hardware model" in _refusal(configuration)
    configuration.platform().setHardwareModel_(workshop.hardware_model(minimum_os=(27, 0, 0)))
    assert "hardware model is not supported" in _refusal(configuration)
    configuration = workshop.macos()
    configuration.setGraphicsDevices_([])
    assert "exactly one display" in _refusal(configuration)


def test_auxiliary_storage_is_not_overwritten_by_accident(workshop):
    (workshop.directory / "aux").write_bytes(b"precious")
    model = workshop.hardware_model()
    create = workshop.vz.VZMacAuxiliaryStorage.alloc().initCreatingStorageAtURL_hardwareModel_options_error_
    storage, error = create(workshop.url("aux"), model, 0, None)
    assert storage is None
    assert (error.domain(), error.code()) == ("NSPOSIXErrorDomain", 17)
    assert (workshop.directory / "aux").read_bytes() == b"precious"


def test_firmware_needs_its_variables(workshop):
    configuration = workshop.linux()
    loader = workshop.vz.VZEFIBootLoader.new()
    configuration.setBootLoader_(loader)
    assert "no variable store" in _refusal(configuration)
    store, error = workshop.vz.VZEFIVariableStore.alloc().initCreatingVariableStoreAtURL_options_error_(
        workshop.url("nvram"), 0, None
    )
    assert error is None
    loader.setVariableStore_(store)
    assert configuration.validateWithError_(None) == (True, None)


@pytest.mark.parametrize(
    ("content", "code"), [(None, 2), (b"", 5), (bytes(1000), 5), (b"QFI\xfb" + bytes(508), 5), (bytes(1024), None)]
)
def test_disk_images(workshop, content, code):
    if content is not None:
        (workshop.directory / "disk.img").write_bytes(content)
    attachment, error = workshop.vz.VZDiskImageStorageDeviceAttachment.alloc().initWithURL_readOnly_error_(
        workshop.url("disk.img"), False, None
    )
    assert (attachment is None) is (code is not None)
    assert (None if error is None else error.code()) == code


def test_disk_that_vanished_after_it_was_attached(workshop):
    configuration = workshop.linux()
    (workshop.directory / "disk.img").unlink()
    assert "storage device attachment is invalid" in _refusal(configuration)


def test_block_device_identifiers(workshop):
    validate = workshop.vz.VZVirtioBlockDeviceConfiguration.validateBlockDeviceIdentifier_error_
    assert validate("x" * 20, None) == (True, None)
    assert validate("x" * 21, None)[0] is False
    assert validate("disk-ä", None)[0] is False
    configuration = workshop.linux()
    configuration.storageDevices()[0].setBlockDeviceIdentifier_("x" * 21)
    assert "identifier" in _refusal(configuration)


def test_mac_addresses(workshop):
    configuration = workshop.linux()
    configuration.setNetworkDevices_([workshop.nic(MAC), workshop.nic(MAC)])
    assert "unique" in _refusal(configuration)
    configuration.setNetworkDevices_([workshop.nic("01:00:00:00:00:01")])
    assert "unicast" in _refusal(configuration)


def test_mac_address_is_random_until_it_is_set(workshop):
    devices = [workshop.vz.VZVirtioNetworkDeviceConfiguration.new() for _ in range(2)]
    first, second = (device.MACAddress() for device in devices)
    assert first != second
    assert first.isLocallyAdministeredAddress()
    assert first.isUnicastAddress()
    assert devices[0].MACAddress() == first


@pytest.mark.parametrize(("tag", "valid"), [("", False), ("x" * 35, True), ("x" * 36, False), ("ä" * 18, False)])
def test_share_tags(workshop, tag, valid):
    cls = workshop.vz.VZVirtioFileSystemDeviceConfiguration
    assert cls.validateTag_error_(tag, None)[0] is valid
    if not valid:
        with pytest.raises(ValueError, match="NSInvalidArgumentException"):
            cls.alloc().initWithTag_(tag)


def _share(workshop, tag, name):
    directory = workshop.vz.VZSharedDirectory.alloc().initWithURL_readOnly_(workshop.url(name), True)
    device = workshop.vz.VZVirtioFileSystemDeviceConfiguration.alloc().initWithTag_(tag)
    device.setShare_(workshop.vz.VZSingleDirectoryShare.alloc().initWithDirectory_(directory))
    return device


def test_shares(workshop):
    configuration = workshop.linux()
    configuration.setDirectorySharingDevices_([_share(workshop, "one", "."), _share(workshop, "one", ".")])
    assert "unique" in _refusal(configuration)
    configuration.setDirectorySharingDevices_([_share(workshop, "one", "missing")])
    assert "does not exist" in _refusal(configuration)


def test_at_most_one_balloon_and_one_socket_device(workshop):
    configuration = workshop.linux()
    balloon = workshop.vz.VZVirtioTraditionalMemoryBalloonDeviceConfiguration
    configuration.setMemoryBalloonDevices_([balloon.new(), balloon.new()])
    assert "memoryBalloonDevices" in _refusal(configuration)
    configuration.setMemoryBalloonDevices_([])
    sockets = workshop.vz.VZVirtioSocketDeviceConfiguration
    configuration.setSocketDevices_([sockets.new(), sockets.new()])
    assert "socketDevices" in _refusal(configuration)


def test_spice_port_is_no_console(workshop):
    port = workshop.vz.VZVirtioConsolePortConfiguration.new()
    port.setName_(workshop.vz.VZSpiceAgentPortAttachment.spiceAgentPortName())
    port.setAttachment_(workshop.vz.VZSpiceAgentPortAttachment.new())
    console = workshop.vz.VZVirtioConsoleDeviceConfiguration.new()
    console.ports().setObject_atIndexedSubscript_(port, 0)
    configuration = workshop.linux()
    configuration.setConsoleDevices_([console])
    assert configuration.validateWithError_(None) == (True, None)
    assert console.ports().objectAtIndexedSubscript_(1) is None
    port.setIsConsole_(True)
    assert "must not be a console" in _refusal(configuration)


def test_nested_virtualization(workshop, mac_host):
    platform = workshop.vz.VZGenericPlatformConfiguration.new()
    platform.setNestedVirtualizationEnabled_(True)
    configuration = workshop.linux()
    configuration.setPlatform_(platform)
    assert "Nested virtualization" in _refusal(configuration)
    mac_host.configure(nested=True)
    assert workshop.vz.VZGenericPlatformConfiguration.isNestedVirtualizationSupported()
    assert configuration.validateWithError_(None) == (True, None)


def test_rosetta(workshop, mac_host):
    mac_host.configure(rosetta="not-installed")
    cls = workshop.vz.VZLinuxRosettaDirectoryShare
    assert cls.availability() == workshop.vz.VZLinuxRosettaAvailabilityNotInstalled
    share, error = cls.alloc().initWithError_(None)
    assert (share, error.code()) == (None, 10)


def test_devices_that_cannot_be_saved(workshop):
    configuration = workshop.macos()
    assert configuration.validateSaveRestoreSupportWithError_(None) == (True, None)
    configuration.setKeyboards_([workshop.vz.VZUSBKeyboardConfiguration.new()])
    able, error = configuration.validateSaveRestoreSupportWithError_(None)
    assert able is False
    assert "VZUSBKeyboardConfiguration" in error.localizedDescription()
