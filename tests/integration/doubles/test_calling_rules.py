"""Hazards of calling Apple's methods from Python: each is caught at the call."""

import json

import pytest

from tests.integration.doubles.conftest import GIB


def test_invented_class_and_selector(workshop):
    with pytest.raises(AttributeError, match="has no attribute 'VZVirtioPortConfiguration'"):
        _ = workshop.vz.VZVirtioPortConfiguration
    console = workshop.vz.VZVirtioConsoleDeviceConfiguration.new()
    with pytest.raises(AttributeError, match="setPorts_"):
        console.setPorts_([])


def test_property_without_call(workshop):
    configuration = workshop.linux()
    with pytest.raises(TypeError, match="was not called"):
        _ = configuration.CPUCount == 2
    with pytest.raises(TypeError, match="was not called"):
        assert workshop.vz.VZVirtualMachine.isSupported


def test_attributes_cannot_be_put_on_apples_objects(workshop):
    with pytest.raises(AttributeError):
        workshop.linux().CPUCount = 4


def test_argument_count(workshop):
    attachment = workshop.vz.VZDiskImageStorageDeviceAttachment.alloc()
    with pytest.raises(TypeError, match="Need 3 arguments, got 2"):
        attachment.initWithURL_readOnly_error_(workshop.url("disk.img"), False)


def test_error_slot_wants_none(workshop):
    with pytest.raises(TypeError, match="pass None for the error slot"):
        workshop.linux().validateWithError_([])


def test_null_error_slot_comes_back_as_null(workshop):
    valid, error = workshop.linux().validateWithError_(workshop.objc.NULL)
    assert valid is True
    assert error is workshop.objc.NULL


def test_result_tuple_has_no_truth(workshop):
    with pytest.raises(TypeError, match="always true"):
        assert workshop.linux().validateWithError_(None)


def test_result_of_an_error_slot(workshop):
    valid, error = workshop.vz.VZVirtualMachineConfiguration.alloc().init().validateWithError_(None)
    assert valid is False
    assert (error.domain(), error.code()) == ("VZErrorDomain", 2)
    assert "boot loader" in error.localizedDescription()


TRAPPED = [
    "VZEFIBootLoader",
    "VZMacOSBootLoader",
    "VZGenericPlatformConfiguration",
    "VZMacPlatformConfiguration",
    "VZNATNetworkDeviceAttachment",
    "VZVirtioNetworkDeviceConfiguration",
    "VZMacGraphicsDeviceConfiguration",
    "VZVirtioGraphicsDeviceConfiguration",
    "VZMacKeyboardConfiguration",
    "VZUSBKeyboardConfiguration",
    "VZMacTrackpadConfiguration",
    "VZUSBScreenCoordinatePointingDeviceConfiguration",
    "VZVirtioSoundDeviceConfiguration",
    "VZVirtioSoundDeviceInputStreamConfiguration",
    "VZVirtioSoundDeviceOutputStreamConfiguration",
    "VZHostAudioInputStreamSource",
    "VZHostAudioOutputStreamSink",
    "VZVirtioEntropyDeviceConfiguration",
    "VZVirtioTraditionalMemoryBalloonDeviceConfiguration",
    "VZVirtioConsoleDeviceConfiguration",
    "VZVirtioConsoleDeviceSerialPortConfiguration",
    "VZVirtioConsolePortConfiguration",
    "VZSpiceAgentPortAttachment",
    "VZVirtioSocketDeviceConfiguration",
    "VZMultipleDirectoryShare",
    "VZLinuxRosettaUnixSocketCachingOptions",
]


@pytest.mark.parametrize("name", TRAPPED)
def test_init_of_a_class_with_an_unavailable_base(workshop, name):
    cls = getattr(workshop.vz, name)
    with pytest.raises(TypeError, match="'init' is NS_UNAVAILABLE"):
        cls.alloc().init()
    with pytest.raises(TypeError, match="'init' is NS_UNAVAILABLE"):
        cls()
    assert type(cls.new()).__name__ == name


def test_new_of_an_abstract_or_parameterised_class(workshop):
    for name in (
        "VZStorageDeviceConfiguration",
        "VZVirtualMachine",
        "VZMACAddress",
        "VZVirtioBlockDeviceConfiguration",
    ):
        with pytest.raises(TypeError, match="'new' is NS_UNAVAILABLE"):
            getattr(workshop.vz, name).new()


def test_init_where_it_is_available(workshop):
    for name in (
        "VZVirtualMachineConfiguration", "VZMacMachineIdentifier", "VZGenericMachineIdentifier",
        "VZMacOSVirtualMachineStartOptions", "VZVirtioSocketListener", "VZXHCIControllerConfiguration",
    ):  # fmt: skip
        assert getattr(workshop.vz, name).alloc().init() is not None


def test_keyword_constructor(workshop):
    workshop.disk()
    attachment, error = workshop.vz.VZDiskImageStorageDeviceAttachment(
        URL=workshop.url("disk.img"), readOnly=True, error=None
    )
    assert error is None
    assert attachment.isReadOnly() is True
    with pytest.raises(TypeError, match="does not support keyword arguments"):
        workshop.vz.VZDiskImageStorageDeviceAttachment(readOnly=True, URL=workshop.url("disk.img"), error=None)


@pytest.mark.parametrize("count", [2.0, "2", -1, 2**64, True, None])
def test_integers(workshop, count):
    with pytest.raises(ValueError):
        workshop.vz.VZVirtualMachineConfiguration.alloc().init().setCPUCount_(count)


def test_booleans(workshop):
    with pytest.raises(TypeError, match="BOOL wants True or False"):
        workshop.vz.VZSharedDirectory.alloc().initWithURL_readOnly_(workshop.url("x"), "no")


def test_enumeration_value_that_does_not_exist(workshop):
    workshop.disk()
    attachment = workshop.vz.VZDiskImageStorageDeviceAttachment.alloc()
    with pytest.raises(ValueError, match="VZDiskImageSynchronizationMode"):
        attachment.initWithURL_readOnly_cachingMode_synchronizationMode_error_(
            workshop.url("disk.img"), False, 0, 0, None
        )


def test_object_of_a_wrong_class(workshop):
    with pytest.raises(TypeError, match=r"wants NSURL\*, not str"):
        workshop.vz.VZLinuxBootLoader.alloc().initWithKernelURL_("/boot/vmlinuz")
    with pytest.raises(TypeError, match="wants a dispatch queue"):
        workshop.vz.VZVirtualMachine.alloc().initWithConfiguration_queue_(
            workshop.linux(), workshop.foundation.NSOperationQueue.mainQueue()
        )
    with pytest.raises(TypeError, match="an element is"):
        workshop.linux().setNetworkDevices_([workshop.disk()])


def test_nil_where_the_header_says_nonnull(workshop):
    with pytest.raises(ValueError, match="must not be nil"):
        workshop.vz.VZLinuxBootLoader.alloc().initWithKernelURL_(None)
    with pytest.raises(TypeError, match="NSNull"):
        workshop.linux().setStorageDevices_([None])


def test_bytes_are_data_and_data_is_no_bytes(workshop):
    data = workshop.vz.VZMacMachineIdentifier.alloc().init().dataRepresentation()
    again = workshop.vz.VZMacMachineIdentifier.alloc().initWithDataRepresentation_(bytes(data))
    assert again.dataRepresentation() == data
    assert not isinstance(data, bytes)
    with pytest.raises(AttributeError):
        data.hex()


def test_an_identifier_that_is_none_is_nil_without_error(workshop):
    assert workshop.vz.VZMacMachineIdentifier.alloc().initWithDataRepresentation_(b"nonsense") is None
    assert workshop.vz.VZMacHardwareModel.alloc().initWithDataRepresentation_(b"") is None
    assert workshop.vz.VZMACAddress.alloc().initWithString_("a:b:c:d:e:f") is None


def test_arrays_are_immutable_and_no_lists(workshop):
    devices = workshop.linux().storageDevices()
    assert len(devices) == 1
    assert not isinstance(devices, list)
    with pytest.raises(AttributeError):
        devices.append(1)
    with pytest.raises(TypeError):
        json.dumps(devices)


def test_array_setters_take_a_copy(workshop):
    configuration = workshop.linux()
    devices = [workshop.disk()]
    configuration.setStorageDevices_(devices)
    devices.append(workshop.disk("other.img"))
    assert len(configuration.storageDevices()) == 1


def test_strings_come_back_as_str(workshop):
    text = workshop.vz.VZMACAddress.randomLocallyAdministeredAddress().string()
    assert isinstance(text, str)
    assert type(text).__name__ == "pyobjc_unicode"


def test_url_is_no_path(workshop):
    url = workshop.url("a disk")
    assert str(url) != url.path()
    assert url.path() == str(workshop.directory / "a disk")
    assert workshop.foundation.NSURL.URLWithString_("a disk") is None
    assert workshop.foundation.NSURL.URLWithString_("/disk.img").isFileURL() is False


def test_class_method_on_an_instance(workshop):
    with pytest.raises(AttributeError):
        workshop.linux().maximumAllowedCPUCount()


def test_setting_a_configuration_that_a_machine_was_made_from(workshop, mac_host):
    configuration = workshop.linux()
    kept = workshop.machine(configuration)
    with pytest.raises(BaseException, match="does not see the change"):
        configuration.setMemorySize_(2 * GIB)
    assert kept is not None
    mac_host.expect_aborts("undefined")


def test_object_that_was_never_initialised(workshop, mac_host):
    with pytest.raises(BaseException, match="never initialised"):
        workshop.vz.VZVirtualMachineConfiguration.alloc().setCPUCount_(2)
    mac_host.expect_aborts("undefined")


def test_exceptions_of_objective_c(workshop):
    with pytest.raises(ValueError, match="NSInvalidArgumentException"):
        workshop.vz.VZMultipleDirectoryShare.alloc().initWithDirectories_(
            {"a/b": workshop.vz.VZSharedDirectory.alloc().initWithURL_readOnly_(workshop.url("."), True)}
        )
    with pytest.raises(IndexError, match="NSRangeException"):
        workshop.linux().storageDevices().objectAtIndex_(5)
    with pytest.raises(ValueError, match="Invalid virtual machine configuration"):
        workshop.machine(workshop.vz.VZVirtualMachineConfiguration.alloc().init())


def test_opaque_pointer_of_another_type(mac_host, tmp_path):
    from tests.support.apple_double import imported_frameworks

    mac_host.configure(version=[26, 0])
    with imported_frameworks(mac_host) as frameworks:
        vz, objc = frameworks.Virtualization, frameworks.objc
        with pytest.raises(TypeError, match="vmnet_network"):
            vz.VZVmnetNetworkDeviceAttachment.alloc().initWithNetwork_(0x1234)
        reference = objc.createOpaquePointerType("vmnet_network_ref", b"^{vmnet_network=}")(c_void_p=0x1234)
        assert vz.VZVmnetNetworkDeviceAttachment.alloc().initWithNetwork_(reference).network() is reference
