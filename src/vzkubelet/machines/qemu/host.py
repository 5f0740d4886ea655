"""What the host brings: QEMU, firmware and helpers, found once, with the package to install when one is missing."""

import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

from vzkubelet.errors import InvalidInput, Unsupported
from vzkubelet.machines.process import SEARCH_PATH

_ARCHITECTURES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}


@dataclass(frozen=True, slots=True)
class Platform:
    """How QEMU emulates one architecture."""

    program: str
    package: str
    machine: str
    firmware: tuple[str, ...]
    """Read-only UEFI code, first found wins. Its variables come with the image (``aux.img``)."""
    firmware_package: str
    globals: tuple[str, ...] = ()
    cpus_max: int = 255


PLATFORMS = {
    "amd64": Platform(
        "qemu-system-x86_64",
        "qemu-system-x86",
        "q35,vmport=off,sata=off,smbus=off,hpet=off",
        (
            "/usr/share/OVMF/OVMF_CODE_4M.fd",
            "/usr/share/edk2/ovmf/OVMF_CODE_4M.fd",
            "/usr/share/edk2/x64/OVMF_CODE.4m.fd",
        ),
        "ovmf",
        ("ICH9-LPC.disable_s3=1",),  # guests never sleep, and the firmware saves the boot script for it
    ),
    "arm64": Platform(
        "qemu-system-aarch64",
        "qemu-system-arm",
        "virt",
        ("/usr/share/AAVMF/AAVMF_CODE.fd", "/usr/share/edk2/aarch64/QEMU_EFI-pflash.raw"),
        "qemu-efi-aarch64",
    ),
}


@dataclass(frozen=True, slots=True)
class QemuHost:
    """Paths of what is installed; None where a part is optional and missing."""

    architecture: str
    platform: Platform
    qemu: str
    firmware: Path
    virtiofsd: str | None
    unshare: str | None
    ip: str | None
    dnsmasq: str | None
    iptables: str | None


def host_architecture() -> str:
    """This machine as OCI names it. Raises: Unsupported."""
    machine = platform.machine().lower()
    if machine not in _ARCHITECTURES:
        raise Unsupported(f"no QEMU guests on a {machine} host: only {', '.join(sorted(set(_ARCHITECTURES.values())))}")
    return _ARCHITECTURES[machine]


def find_host(search_path: str = SEARCH_PATH, firmware: Path | None = None) -> QemuHost:
    """Look for what the driver needs; `firmware` (UEFI code) replaces what the host has installed.

    Raises: InvalidInput naming every missing Debian package, Unsupported (architecture).
    """
    architecture = host_architecture()
    kind = PLATFORMS[architecture]

    def find(program: str) -> str | None:
        return shutil.which(program, path=search_path)

    qemu = find(kind.program)
    if firmware is not None and not firmware.is_file():
        raise InvalidInput(f"there is no firmware {firmware}")
    firmware = firmware or next((path for path in map(Path, kind.firmware) if path.exists()), None)
    missing = {
        kind.package: qemu is None,
        kind.firmware_package: firmware is None,
    }
    packages = " ".join(package for package, absent in missing.items() if absent)
    if qemu is None or firmware is None:
        raise InvalidInput(f"the qemu driver lacks programs or firmware: apt-get install {packages}")
    virtiofsd = shutil.which("virtiofsd", path=f"/usr/libexec:/usr/lib/qemu:{search_path}")
    return QemuHost(
        architecture,
        kind,
        qemu,
        firmware,
        virtiofsd,
        find("unshare"),
        find("ip"),
        find("dnsmasq"),
        find("iptables"),
    )
