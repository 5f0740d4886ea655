"""Where disks, networks and serial ports of a configuration lead to."""

import os
import socket
import stat
import weakref
from typing import Any

from .errors import INVALID_CONFIGURATION, INVALID_DISK_IMAGE
from .generation import behaviour
from .host import boot_settings, current_host
from .objects import Failed, construct, invalid_argument

SECTOR_BYTES = 512
_ASIF = b"shdw"
_FOREIGN_FORMATS = {b"QFI\xfb": "QCOW2", b"KDMV": "VMDK", b"koly": "UDIF"}
_INVALID_ATTACHMENT = "Invalid virtual machine configuration. The storage device attachment is invalid."


@behaviour("VZDiskImageStorageDeviceAttachment")
class _DiskImage:
    def initWithURL_readOnly_error_(self: Any, url: Any, read_only: bool) -> None:
        check_disk_image(url, read_only=read_only)
        self._values |= {"URL": url, "isReadOnly": read_only, "cachingMode": 0, "synchronizationMode": 1}

    def initWithURL_readOnly_cachingMode_synchronizationMode_error_(
        self: Any, url: Any, read_only: bool, caching: int, synchronization: int
    ) -> None:  # fmt: skip
        check_disk_image(url, read_only=read_only)
        self._values |= {
            "URL": url,
            "isReadOnly": read_only,
            "cachingMode": caching,
            "synchronizationMode": synchronization,
        }


def check_disk_image(url: Any, *, read_only: bool) -> None:
    """Raises: Failed for what is no raw disk image of whole sectors that this process may open."""
    if not url.isFileURL():
        raise Failed(INVALID_CONFIGURATION, _INVALID_ATTACHMENT, "The URL is not a file URL.")
    path = str(url.path())
    try:
        descriptor = os.open(path, (os.O_RDONLY if read_only else os.O_RDWR) | os.O_CLOEXEC)
    except OSError as exc:
        raise Failed(INVALID_CONFIGURATION, _INVALID_ATTACHMENT, f"{path}: {exc.strerror}.") from exc
    try:
        details = os.fstat(descriptor)
        head = os.pread(descriptor, 4, 0)
    finally:
        os.close(descriptor)
    if head == _ASIF and boot_settings().release >= (26, 0):
        return
    if not stat.S_ISREG(details.st_mode) or details.st_size == 0 or details.st_size % SECTOR_BYTES:
        raise Failed(INVALID_DISK_IMAGE, reason=f"{path} has {details.st_size} bytes, no whole sectors of 512.")
    if head in _FOREIGN_FORMATS:
        raise Failed(INVALID_DISK_IMAGE, reason=f"{path} is in {_FOREIGN_FORMATS[head]} format.")


@behaviour("VZDiskBlockDeviceStorageDeviceAttachment")
class _BlockDevice:
    def initWithFileHandle_readOnly_synchronizationMode_error_(
        self: Any, handle: Any, read_only: bool, synchronization: int
    ) -> None:  # fmt: skip
        if not stat.S_ISBLK(os.fstat(handle.fileDescriptor()).st_mode):
            raise Failed(INVALID_CONFIGURATION, _INVALID_ATTACHMENT, "The file handle is not a block device.")
        hold_handle(self, "fileHandle", handle)
        self._values |= {"isReadOnly": read_only, "synchronizationMode": synchronization}


@behaviour("VZNetworkBlockDeviceStorageDeviceAttachment")
class _NetworkBlockDevice:
    def initWithURL_error_(self: Any, url: Any) -> None:
        _check_nbd(url)
        self._values |= {"URL": url, "timeout": 15.0, "isForcedReadOnly": False, "synchronizationMode": 0}

    def initWithURL_timeout_forcedReadOnly_synchronizationMode_error_(
        self: Any, url: Any, timeout_s: float, read_only: bool, synchronization: int
    ) -> None:  # fmt: skip
        _check_nbd(url)
        self._values |= {
            "URL": url,
            "timeout": timeout_s,
            "isForcedReadOnly": read_only,
            "synchronizationMode": synchronization,
        }

    @classmethod
    def validateURL_error_(cls: Any, url: Any) -> None:
        _check_nbd(url)


def _check_nbd(url: Any) -> None:
    if url.scheme() not in ("nbd", "nbds", "nbd+unix", "nbds+unix"):
        raise Failed(INVALID_CONFIGURATION, f"Invalid network block device URL: {url.absoluteString()}")


@behaviour("VZBridgedNetworkInterface")
class _Interface:
    @classmethod
    def networkInterfaces(cls: Any) -> list[Any]:
        return [
            construct("VZBridgedNetworkInterface", _identifier=interface.identifier, _name=interface.name)
            for interface in current_host().settings().interfaces
        ]

    def identifier(self: Any) -> str:
        return str(self._identifier)

    def localizedDisplayName(self: Any) -> str | None:
        return self._name or None


@behaviour("VZBridgedNetworkDeviceAttachment")
class _Bridged:
    def initWithInterface_(self: Any, interface: Any) -> None:
        self._values["interface"] = interface


@behaviour("VZFileHandleNetworkDeviceAttachment")
class _FileHandleNetwork:
    def initWithFileHandle_(self: Any, handle: Any) -> None:
        descriptor = handle.fileDescriptor()
        if not _is_connected_datagram(descriptor):
            raise invalid_argument("the file handle must hold a connected datagram socket")
        hold_handle(self, "fileHandle", handle)
        self._values["maximumTransmissionUnit"] = 1500


def _is_connected_datagram(descriptor: int) -> bool:
    try:
        with socket.socket(fileno=os.dup(descriptor)) as copy:
            copy.getpeername()
            return copy.type == socket.SOCK_DGRAM
    except OSError:
        return False


@behaviour("VZVmnetNetworkDeviceAttachment")
class _Vmnet:
    def initWithNetwork_(self: Any, network: Any) -> None:
        self._values["network"] = network


@behaviour("VZFileHandleSerialPortAttachment")
class _FileHandleSerial:
    def initWithFileHandleForReading_fileHandleForWriting_(self: Any, reading: Any, writing: Any) -> None:
        for handle in (reading, writing):
            if handle is not None:
                os.fstat(handle.fileDescriptor())
        hold_handle(self, "fileHandleForReading", reading)
        hold_handle(self, "fileHandleForWriting", writing)


@behaviour("VZFileSerialPortAttachment")
class _FileSerial:
    def initWithURL_append_error_(self: Any, url: Any, append: bool) -> None:
        if not url.isFileURL():
            raise invalid_argument("the URL of a serial port's file must be a file URL")
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | (0 if append else os.O_TRUNC)
        try:
            os.close(os.open(str(url.path()), flags, 0o644))
        except OSError as exc:
            raise Failed(exc.errno or 1, f"{url.path()}: {exc.strerror}", domain="NSPOSIXErrorDomain") from exc
        self._values |= {"URL": url, "append": append}


@behaviour("VZSpiceAgentPortAttachment")
class _Spice:
    def init(self: Any) -> None:
        self._values["sharesClipboard"] = True

    @classmethod
    def spiceAgentPortName(cls: Any) -> str:
        return "com.redhat.spice.0"


def hold_handle(attachment: Any, getter: str, handle: Any) -> None:
    """Weakly: see the README on what drops a file handle."""
    attachment._values[getter] = None if handle is None else weakref.ref(handle)


def descriptor_of(attachment: Any, getter: str) -> int | None:
    """The descriptor of a file handle that is still held, else None."""
    reference = attachment._values.get(getter)
    handle = reference() if reference is not None else None
    return None if handle is None or handle._descriptor < 0 else int(handle._descriptor)
