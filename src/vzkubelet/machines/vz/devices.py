"""The small devices of a configuration: display, input, sound, serial port, console, and the virtio ones."""

import os
from pathlib import Path
from typing import Any, assert_never

from vzkubelet.errors import InvalidInput
from vzkubelet.machines.directory import MachineDirectory, os_fault
from vzkubelet.machines.vz import apple
from vzkubelet.machines.vz.availability import MacOS
from vzkubelet.machines.vz.plan import Audio, Display, MachinePlan, resolved


def graphics_devices(plan: MachinePlan) -> list[Any]:
    """A Mac boots only with a display, also when nobody looks at it; a Linux guest has one on demand."""
    vz = apple.frameworks().Virtualization
    if plan.is_macos:
        display = plan.display or Display()
        native = vz.VZMacGraphicsDisplayConfiguration.alloc().initWithWidthInPixels_heightInPixels_pixelsPerInch_(
            display.width_px, display.height_px, display.pixels_per_inch
        )
        graphics = apple.make(vz.VZMacGraphicsDeviceConfiguration)
        graphics.setDisplays_([native])
        return [graphics]
    if plan.display is None:
        return []
    scanout = vz.VZVirtioGraphicsScanoutConfiguration.alloc().initWithWidthInPixels_heightInPixels_(
        plan.display.width_px, plan.display.height_px
    )
    graphics = apple.make(vz.VZVirtioGraphicsDeviceConfiguration)
    graphics.setScanouts_([scanout])
    return [graphics]


def keyboards(plan: MachinePlan, host: MacOS) -> list[Any]:
    """USB for every guest and, from macOS 14 on, the Mac's own, the only one that can be saved."""
    vz = apple.frameworks().Virtualization
    if not plan.is_macos and plan.display is None:
        return []
    if plan.is_macos and host >= MacOS(14):
        mac = apple.make(vz.VZMacKeyboardConfiguration)
        return [mac] if plan.suspendable else [apple.make(vz.VZUSBKeyboardConfiguration), mac]
    return [apple.make(vz.VZUSBKeyboardConfiguration)]


def pointing_devices(plan: MachinePlan, host: MacOS) -> list[Any]:
    vz = apple.frameworks().Virtualization
    if not plan.is_macos and plan.display is None:
        return []
    usb = apple.make(vz.VZUSBScreenCoordinatePointingDeviceConfiguration)
    if not plan.is_macos:
        return [usb]
    trackpad = apple.make(vz.VZMacTrackpadConfiguration)
    return [trackpad] if plan.suspendable and host >= MacOS(14) else [usb, trackpad]


def audio_devices(plan: MachinePlan) -> list[Any]:
    vz = apple.frameworks().Virtualization
    if plan.audio is Audio.OFF:
        return []
    output = apple.make(vz.VZVirtioSoundDeviceOutputStreamConfiguration)
    streams = [output]
    match plan.audio:
        case Audio.HOST if not plan.suspendable:  # streams to the host cannot be saved
            output.setSink_(apple.make(vz.VZHostAudioOutputStreamSink))
            microphone = apple.make(vz.VZVirtioSoundDeviceInputStreamConfiguration)
            microphone.setSource_(apple.make(vz.VZHostAudioInputStreamSource))
            streams.insert(0, microphone)
        case Audio.HOST | Audio.SILENT:
            pass
        case _:
            assert_never(plan.audio)
    sound = apple.make(vz.VZVirtioSoundDeviceConfiguration)
    sound.setStreams_(streams)
    return [sound]


def serial_ports(plan: MachinePlan, directory: MachineDirectory) -> list[Any]:
    """The guest's serial console, appended to a file. Raises Exhausted, Unavailable, AppleError."""
    if not plan.console:
        return []
    vz = apple.frameworks().Virtualization
    path = resolved(plan.console, directory.path)
    _touch(path)
    attachment, error = vz.VZFileSerialPortAttachment.alloc().initWithURL_append_error_(
        apple.file_url(path), True, None
    )
    if attachment is None:
        raise apple.apple_error(error, str(path))
    port = apple.make(vz.VZVirtioConsoleDeviceSerialPortConfiguration)
    port.setAttachment_(attachment)
    return [port]


def _touch(path: Path) -> None:
    """Make the file ours and private before the framework opens it."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as exc:
        raise os_fault(exc, f"cannot create the console file {path}") from exc


def entropy_devices(plan: MachinePlan) -> list[Any]:
    if not plan.entropy or plan.suspendable:
        return []
    return [apple.make(apple.frameworks().Virtualization.VZVirtioEntropyDeviceConfiguration)]


def memory_balloon_devices(plan: MachinePlan) -> list[Any]:
    if not plan.balloon:
        return []
    return [apple.make(apple.frameworks().Virtualization.VZVirtioTraditionalMemoryBalloonDeviceConfiguration)]


def socket_devices(plan: MachinePlan) -> list[Any]:
    if not plan.vsock:
        return []
    return [apple.make(apple.frameworks().Virtualization.VZVirtioSocketDeviceConfiguration)]


def mac_address(text: str) -> Any:
    """Raises InvalidInput."""
    address = apple.frameworks().Virtualization.VZMACAddress.alloc().initWithString_(text)
    if address is None:
        raise InvalidInput(f"{text!r} is no MAC address; write it as aa:bb:cc:dd:ee:ff")
    return address
