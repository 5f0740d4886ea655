"""The settings of Apple's Virtualization.framework."""

from vzkubelet.config import values
from vzkubelet.config.option import Host, Option
from vzkubelet.config.settings import VzAudio, VzDiskCaching, VzDiskSync, VzMachineId, VzNetwork
from vzkubelet.config.values import Parser

MAC_SUPPORT = "~/Library/Application Support/macos-vz-kubelet"


def table(path: Parser, host: Host) -> tuple[Option, ...]:
    return (*_host(path, host), *_devices())


def _host(path: Parser, host: Host) -> tuple[Option, ...]:
    return (
        Option(
            "vz-helper-app",
            "vz.helper_app",
            path,
            "Signed application that holds the virtual machines (`macos-vz-kubelet sign` makes it).",
            default=f"{MAC_SUPPORT}/macos-vz-kubelet.app",
            env="VZ_HELPER_APP",
            metavar="APP",
        ),
        Option(
            "vz-host-dir",
            "vz.host_dir",
            path,
            "Where agents share machine slots and MAC addresses; by default those of one user do.",
            default=f"{MAC_SUPPORT}/host" if host.platform == "darwin" else None,
            env="VZ_HOST_DIR",
            metavar="DIR",
        ),
        Option(
            "dhcp-leases-file",
            "vz.dhcp_leases_file",
            path,
            "Lease file of the host's DHCP server, where guests' addresses are read.",
            default="/var/db/dhcpd_leases",
            env="VZ_DHCP_LEASES_FILE",
            metavar="FILE",
        ),
        Option(
            "vz-network",
            "vz.network",
            values.choice(VzNetwork),
            "Network of guests that VZ_BRIDGE_INTERFACE does not bridge; vmnet needs macOS 26.",
            default="nat",
            env="VZ_NETWORK",
            metavar="nat|vmnet-shared|vmnet-host",
        ),
        Option(
            "vz-packet-filter",
            "vz.packet_filter",
            values.command,
            "Packet filter between guest and host; {fd} and {mac} are filled in.",
            env="VZ_PACKET_FILTER",
            metavar="COMMAND",
        ),
        Option(
            "vz-machine-id",
            "vz.machine_id",
            values.choice(VzMachineId),
            "Machine identifier of clones: the image's, a new one, or the image's for one machine at a time.",
            default="keep",
            env="VZ_MACHINE_ID",
            metavar="keep|random|fail-if-running",
        ),
    )


def _devices() -> tuple[Option, ...]:
    return (
        Option(
            "vz-display",
            "vz.display",
            values.display,
            "Display of macOS guests in pixels.",
            default="1024x768",
            env="VZ_DISPLAY",
            metavar="WIDTHxHEIGHT[xPPI]",
        ),
        Option(
            "vz-audio",
            "vz.audio",
            values.choice(VzAudio),
            "Sound of guests.",
            default="silent",
            env="VZ_AUDIO",
            metavar="off|silent|host",
        ),
        Option(
            "vz-disk-caching",
            "vz.disk_caching",
            values.choice(VzDiskCaching),
            "How the host caches guests' disks; auto = cached for Linux, automatic for macOS.",
            default="auto",
            env="VZ_DISK_CACHING",
            metavar="auto|automatic|cached|uncached",
        ),
        Option(
            "vz-disk-sync",
            "vz.disk_sync",
            values.choice(VzDiskSync),
            "What a guest's flush of its disk does: full reaches the medium, none loses data with the host.",
            default="full",
            env="VZ_DISK_SYNC",
            metavar="full|fsync|none",
        ),
        Option(
            "vz-nested-virtualization",
            "vz.nested",
            values.boolean,
            "Let Linux guests run virtual machines (macOS 15 on M3 or later).",
            default="false",
            env="VZ_NESTED_VIRTUALIZATION",
        ),
        Option(
            "vz-rosetta",
            "vz.rosetta",
            values.boolean,
            'Give Linux guests Rosetta, as a share with the tag "rosetta".',
            default="false",
            env="VZ_ROSETTA",
        ),
    )
