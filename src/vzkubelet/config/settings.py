"""The settings of one daemon, grouped by the room that reads them. All times are seconds, all sizes bytes.

Immutable: a changed setting takes a restart, which costs no guest (machines outlive the daemon).
"""

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path


class DriverChoice(StrEnum):
    AUTO = "auto"
    """``vz`` on macOS, ``qemu`` elsewhere."""
    VZ = "vz"
    QEMU = "qemu"
    SYNTHETIC = "synthetic"


class GuestNetwork(StrEnum):
    AUTO = "auto"
    """``bridge`` as root, ``user`` otherwise."""
    BRIDGE = "bridge"
    USER = "user"


class VzNetwork(StrEnum):
    """Network of guests that are not bridged."""

    NAT = "nat"
    """Apple's shared NAT, which needs no permission."""
    VMNET_SHARED = "vmnet-shared"
    """A vmnet network per guest, with a way out (macOS 26)."""
    VMNET_HOST = "vmnet-host"
    """A vmnet network per guest, host and guest alone (macOS 26)."""


class VzAudio(StrEnum):
    OFF = "off"
    SILENT = "silent"
    """A loudspeaker that leads nowhere: guests behave as with sound."""
    HOST = "host"
    """The host's loudspeaker and microphone, which makes macOS ask its user."""


class VzDiskCaching(StrEnum):
    AUTO = "auto"
    """Cached for Linux guests, whose file systems get damaged otherwise, and automatic for macOS."""
    AUTOMATIC = "automatic"
    CACHED = "cached"
    UNCACHED = "uncached"


class VzDiskSync(StrEnum):
    FULL = "full"
    FSYNC = "fsync"
    NONE = "none"


class VzMachineId(StrEnum):
    """What becomes of an image's machine identifier, which all its clones would share."""

    KEEP = "keep"
    RANDOM = "random"
    FAIL_IF_RUNNING = "fail-if-running"


class CredentialVerification(StrEnum):
    """Which present images a pod may use only with credentials for them (KEP-2535)."""

    NEVER = "NeverVerify"
    NEVER_PRELOADED = "NeverVerifyPreloadedImages"
    """All but those that something else than pods brought here."""
    NEVER_ALLOWLISTED = "NeverVerifyAllowlistedImages"
    """All but those of the list."""
    ALWAYS = "AlwaysVerify"


class LogLevel(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"
    CRITICAL = "critical"


class LogFormat(StrEnum):
    TEXT = "text"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class Taint:
    """A node taint, in the words of core/v1."""

    key: str
    value: str
    effect: str
    """``NoSchedule``, ``PreferNoSchedule`` or ``NoExecute``."""

    def __str__(self) -> str:
        return f"{self.key}={self.value}:{self.effect}" if self.value else f"{self.key}:{self.effect}"


@dataclass(frozen=True, slots=True)
class NodeSettings:
    name: str
    """Name of the Node object, by default the host name in lower case, as RFC 1123 wants it."""
    ip: str | None
    """InternalIP of the node; None = the address of the route to the API server, which is right on one network card."""
    taints: tuple[Taint, ...]
    """What keeps ordinary pods away. By default the virtual-kubelet provider taint with the value that the Go project
    has always used, so that existing tolerations fit; empty with ``--disable-taint``."""
    cpu_milli: int | None
    """CPU capacity in thousandths; None = what the host has."""
    memory_bytes: int | None
    """Memory capacity; None = what the host has."""
    max_pods: int | None
    """Pod capacity; None = the driver's machine slots where it has a limit, else 110 as in the kubelet."""
    startup_timeout_s: float
    """How long to wait for the node to be Ready before giving up; 0 = for ever, so that a Mac which boots before its
    network is there joins when it can."""


@dataclass(frozen=True, slots=True)
class PodSettings:
    workers: int
    """Pods whose next step is computed at the same time. 10 keeps one slow pull from delaying all others."""
    resync_s: float
    """Every pod is looked at again after this time even if nothing happened; 60 as in the Go project. It heals what
    a missed event left behind and costs no API request."""


@dataclass(frozen=True, slots=True)
class KubeSettings:
    kubeconfig: Path
    """Credentials and address of the API server."""


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """The kubelet HTTPS API."""

    bind_address: str
    """Address to listen on; all by default because the API server dials the node's own address."""
    port: int
    """10250, where API servers and metrics-server look for a kubelet; 0 = any free port, which the node reports."""
    cert_file: Path | None
    """PEM serving certificate; None only without a cluster."""
    key_file: Path | None
    client_ca_file: Path | None
    """PEM bundle that client certificates are verified against; None = no client certificate is accepted."""
    verify_clients: bool
    """False = client certificates are not asked for (``--no-verify-clients``)."""
    token_webhook: bool
    """Whether bearer tokens are checked with TokenReview."""
    token_cache_s: float
    """Life of a TokenReview answer. The documented default 0 means the kubelet's own default, 120."""
    authorized_cache_s: float
    """Life of a positive SubjectAccessReview answer. The documented default 0 means the kubelet's own, 300."""
    unauthorized_cache_s: float
    """Life of a negative SubjectAccessReview answer. The documented default 0 means the kubelet's own, 30."""


@dataclass(frozen=True, slots=True)
class MachineSettings:
    driver: DriverChoice
    network: GuestNetwork
    """How QEMU guests reach the world (Linux); the vz driver goes by `bridge_interface` alone."""
    firmware: Path | None
    """UEFI code of QEMU guests; None = ``firmware.fd`` of the cache, else the package's."""
    bridge_interface: str | None
    """Host interface that guests are bridged to, which needs the vmnet entitlement on a Mac; None = NAT."""


@dataclass(frozen=True, slots=True)
class Display:
    width_px: int
    height_px: int
    pixels_per_inch: int = 72

    def __str__(self) -> str:
        return f"{self.width_px}x{self.height_px}x{self.pixels_per_inch}"


@dataclass(frozen=True, slots=True)
class VzSettings:
    """Apple's Virtualization.framework."""

    helper_app: Path
    """The signed .app whose interpreter runs the helpers of machines; where it is not there, this interpreter does."""
    host_dir: Path | None
    """Where agents of one host share machine slots, MAC addresses and identities. On a Mac one for the host and not one
    per cache, for Apple counts macOS guests per host; None = in the cache."""
    dhcp_leases_file: Path
    network: VzNetwork
    packet_filter: tuple[str, ...] | None
    """Command of a packet filter between guest and host (softnet), with ``{fd}`` and ``{mac}`` to be filled in; its
    network replaces `network`."""
    display: Display
    audio: VzAudio
    disk_caching: VzDiskCaching
    disk_sync: VzDiskSync
    machine_id: VzMachineId
    """Keep, as the Go project does: software that is licensed to a machine goes on to work in its clones."""
    nested: bool
    """Nested virtualization for Linux guests (macOS 15, M3)."""
    rosetta: bool
    """Rosetta for Linux guests, as a share with the tag ``rosetta``."""


@dataclass(frozen=True, slots=True)
class GuestSettings:
    ssh_user: str
    ssh_password: str = field(repr=False)
    """Empty = only the key is tried."""
    ssh_key: bytes | None = field(default=None, repr=False)
    """Text of the private key; goes before `ssh_key_path`."""
    ssh_key_path: Path | None = None
    ssh_key_passphrase: str | None = field(default=None, repr=False)
    ssh_kex_algorithms: tuple[str, ...] | None = None
    ssh_dial_timeout_s: float = 15.0
    """Three times the Go project's: a guest that boots on a busy host is slow at its first key exchange."""
    ssh_readiness_timeout_s: float = 300.0
    """From the guest's address to the first login. The first boot of a macOS guest takes minutes."""


@dataclass(frozen=True, slots=True)
class ImageSettings:
    """Images of virtual machines. Defaults are the kubelet's where it has the setting."""

    pull_rate_bytes_per_s: int
    """Of all pulls together; 0 = unlimited."""
    pull_concurrency: int
    max_parallel_pulls: int
    """For pods. The kubelet has no limit by default; a VM image takes a whole disk and network, so 2 are enough."""
    prepull: tuple[str, ...]
    """References in full."""
    prepull_interval_s: float
    prepull_rate_bytes_per_s: int
    """0 = within `pull_rate_bytes_per_s`."""
    gc_high_percent: int
    gc_low_percent: int
    gc_min_age_s: float
    gc_max_age_s: float
    """0 = age alone removes nothing."""
    scrub_interval_s: float
    """0 = never."""
    status_max: int
    """Images in the node's status; -1 = all."""
    credential_provider_config: Path | None
    """File or directory; None = no plugins."""
    credential_provider_bin_dir: Path | None
    credential_verification: CredentialVerification
    credential_allowlist: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SidecarSettings:
    docker_host: str
    """Address of the Docker engine: ``unix://``, ``tcp://``, ``http://`` or ``https://``."""


@dataclass(frozen=True, slots=True)
class LogSettings:
    level: LogLevel
    format: LogFormat


@dataclass(frozen=True, slots=True)
class TraceSettings:
    endpoint: str | None
    """OTLP/HTTP endpoint, a URL or host:port; None = no tracing."""
    insecure: bool
    """True = plain http, or https without verification."""
    service_name: str
    sample_ratio: float
    """0.0 to 1.0. Everything by default: an agent makes few spans, and the rare slow pull is the one to see."""


@dataclass(frozen=True, slots=True)
class Config:
    cache_dir: Path
    """Images, machines and pod volumes. On a Mac the place that the Go project documents, so that a migrated host
    keeps its disk layout; elsewhere the XDG cache directory."""
    node: NodeSettings
    pods: PodSettings
    kube: KubeSettings
    server: ServerSettings
    machines: MachineSettings
    vz: VzSettings
    guests: GuestSettings
    images: ImageSettings
    sidecars: SidecarSettings
    logs: LogSettings
    traces: TraceSettings
