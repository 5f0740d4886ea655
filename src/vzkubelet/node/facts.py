"""What this host is and how it is doing. `host` is read once, `read` before each status.

All but `read` blocks, though for milliseconds only; call it through `aio.run_blocking`.
"""

import contextlib
import logging
import os
import platform
import plistlib
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path
from xml.parsers.expat import ExpatError

import psutil

from vzkubelet import aio
from vzkubelet.errors import Unavailable

_log = logging.getLogger(__name__)

_ARCHITECTURES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}
"""As Go names them (GOARCH), which is what the labels of nodes hold."""
_COMMAND_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Host:
    """What does not change while the host runs. Empty text = the host does not tell."""

    operating_system: str
    """``linux`` or ``darwin``."""
    architecture: str
    """``amd64`` or ``arm64``."""
    os_image: str
    kernel_version: str
    machine_id: str
    system_uuid: str
    boot_id: str
    booted_at: float
    """Seconds since the epoch."""
    cpus: int
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Disk:
    """The file system of a directory. `available_bytes` is what an ordinary user may still fill."""

    capacity_bytes: int
    available_bytes: int
    used_bytes: int
    inodes: int
    inodes_free: int


@dataclass(frozen=True, slots=True)
class Readings:
    memory_available_bytes: int
    disk: Disk


def host() -> Host:
    """The host's facts. Never raises: what cannot be read is empty."""
    system = platform.system().lower()
    machine = platform.machine().lower()
    identity = _darwin_identity() if system == "darwin" else _linux_identity()
    return Host(
        operating_system=system,
        architecture=_ARCHITECTURES.get(machine, machine),
        os_image=identity.os_image,
        kernel_version=platform.release(),
        machine_id=identity.machine_id,
        system_uuid=identity.system_uuid,
        boot_id=identity.boot_id,
        booted_at=psutil.boot_time(),
        cpus=_usable_cpus(),
        memory_bytes=psutil.virtual_memory().total,
    )


def readings(directory: Path) -> Readings:
    """How much room there is, on the file system of `directory`."""
    return Readings(psutil.virtual_memory().available, disk(directory))


async def read(directory: Path) -> Readings:
    """`readings` from the event loop.

    Raises:
        Unavailable: the directory is not there.
    """
    try:
        return await aio.run_blocking(readings, directory)
    except OSError as exc:
        raise Unavailable(f"{directory} cannot be used: {exc.strerror}") from exc


def disk(directory: Path) -> Disk:
    """Raises OSError when the directory does not exist."""
    figures = os.statvfs(directory)
    size = figures.f_frsize
    return Disk(
        capacity_bytes=figures.f_blocks * size,
        available_bytes=figures.f_bavail * size,
        used_bytes=(figures.f_blocks - figures.f_bfree) * size,
        inodes=figures.f_files,
        inodes_free=figures.f_ffree,
    )


def route_address(server_host: str, server_port: int) -> str:
    """The address of ours that packets to the API server leave from. Sends nothing.

    Raises:
        Unavailable: no route, or the name does not resolve.
    """
    try:
        found = socket.getaddrinfo(server_host, server_port, type=socket.SOCK_DGRAM)
        family, kind, protocol, _, address = found[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(address)
            name: str = probe.getsockname()[0]
            return name
    except OSError as exc:
        raise Unavailable(
            f"this host's own address is unknown: no route to the API server at {server_host}: {exc.strerror or exc}; "
            "name it with --node-ip"
        ) from exc


@dataclass(frozen=True, slots=True)
class _Identity:
    os_image: str = ""
    machine_id: str = ""
    system_uuid: str = ""
    boot_id: str = ""


def _linux_identity() -> _Identity:
    machine_id = _text("/etc/machine-id") or _text("/var/lib/dbus/machine-id")
    return _Identity(
        os_image=pretty_name(_text("/etc/os-release") or _text("/usr/lib/os-release")) or "Linux",
        machine_id=machine_id,
        # Readable by root only; the kubelet falls back to the machine id as well (cadvisor utils/sysfs).
        system_uuid=_text("/sys/class/dmi/id/product_uuid") or machine_id,
        boot_id=_text("/proc/sys/kernel/random/boot_id"),
    )


def _darwin_identity() -> _Identity:
    uuid = platform_uuid(_output("ioreg", "-a", "-rd1", "-c", "IOPlatformExpertDevice"))
    release = platform.mac_ver()[0]
    return _Identity(
        os_image=f"macOS {release}".strip(),
        machine_id=uuid.replace("-", "").lower(),
        system_uuid=uuid,
        boot_id=_output("sysctl", "-n", "kern.bootsessionuuid").decode(errors="replace").strip().lower(),
    )


def pretty_name(os_release: str) -> str:
    """PRETTY_NAME of an os-release(5) file."""
    for line in os_release.splitlines():
        key, _, value = line.partition("=")
        if key.strip() == "PRETTY_NAME":
            return value.strip().strip("\"'")
    return ""


def platform_uuid(ioreg: bytes) -> str:
    """IOPlatformUUID of ``ioreg -a``, which prints a property list."""
    try:
        entries = plistlib.loads(ioreg)
    except (plistlib.InvalidFileException, ExpatError, ValueError):  # plistlib lets the XML parser's own through
        return ""
    for entry in entries if isinstance(entries, list) else [entries]:
        if isinstance(entry, dict) and isinstance(entry.get("IOPlatformUUID"), str):
            return str(entry["IOPlatformUUID"])
    return ""


def _usable_cpus() -> int:
    affinity = getattr(os, "sched_getaffinity", None)  # Linux; a cpuset may leave us fewer than there are
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def _text(path: str) -> str:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return Path(path).read_text(encoding="utf-8").strip()
    return ""


def _output(*command: str) -> bytes:
    try:
        return subprocess.run(command, capture_output=True, timeout=_COMMAND_TIMEOUT_S, check=True).stdout
    except (OSError, subprocess.SubprocessError) as exc:
        _log.warning("%s tells nothing: %s", command[0], exc)
        return b""
