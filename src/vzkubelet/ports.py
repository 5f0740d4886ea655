"""What the pod worker needs of the world, as protocols with their obligations.

An implementation of a port passes the suite of that port in ``tests/conformance/``, whatever it runs on. Obligations
that hold for every method here:

- Errors are those of `vzkubelet.errors`, nothing else.
- Cancelling an awaited call leaves nothing half made: either it had no effect or a repeated call completes it.
- Names are stable over a restart of the daemon: what was started under a pod UID is found again under it.
- `close()` lets go without stopping anything that runs.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum
from pathlib import Path
from typing import Protocol

from vzkubelet.model.docker_config import RegistryCredential as RegistryCredential
from vzkubelet.model.identity import PodRef
from vzkubelet.model.logs import LogEntry as LogEntry
from vzkubelet.model.logs import LogOptions as LogOptions
from vzkubelet.model.logs import OutputStream as OutputStream
from vzkubelet.model.objects import ConfigMap, Secret, Service
from vzkubelet.model.oci import Platform
from vzkubelet.model.pod import Pod

# --- Streams -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TerminalSize:
    columns: int
    rows: int


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """How a process ended: `code` 0-255 (128 + n for signal n, as a shell reports it)."""

    code: int
    signal: int = 0


class Streams(Protocol):
    """The far end of an exec or attach. Writes apply back pressure: they return when the peer has room."""

    def stdin(self) -> AsyncIterator[bytes] | None:
        """Input chunks until end of file; None when the session has no stdin."""

    def resizes(self) -> AsyncIterator[TerminalSize] | None:
        """Terminal sizes; the first one comes before any input. None without a terminal."""

    async def write_stdout(self, data: bytes) -> None:
        """Raises Unavailable when the peer has gone."""

    async def write_stderr(self, data: bytes) -> None:
        """As `write_stdout`; never called when the session has a terminal."""


@dataclass(frozen=True, slots=True)
class ExecRequest:
    """A command beside the container's process; it gets the container's environment, directory and user."""

    argv: tuple[str, ...]
    tty: bool = False


# --- Images ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Image:
    """An image that is on this host. `image_id` is what the pod status shows as imageID (``repo@sha256:…``)."""

    reference: str
    image_id: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class ImageDefaults:
    """The OCI image config's part that a pod's command and args combine with. None = not given."""

    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    env: tuple[tuple[str, str], ...] = ()
    working_dir: str = ""
    user: str = ""


@dataclass(frozen=True, slots=True)
class MachineImage(Image):
    """A virtual machine image in the content store; the files are read-only and shared by all clones."""

    manifest_digest: str
    os: str
    """``darwin`` or ``linux``."""
    architecture: str
    disk: Path
    disk_size_bytes: int
    aux: Path
    hardware_model: bytes = b""
    machine_id: bytes = b""
    defaults: ImageDefaults = ImageDefaults()
    cpu_min: int = 0
    memory_min_bytes: int = 0

    @property
    def platform(self) -> Platform:
        return Platform(os=self.os, architecture=self.architecture)


@dataclass(frozen=True, slots=True)
class PullProgress:
    """Bytes of the compressed layers: done and total. `total_bytes` is 0 until the manifest is known."""

    done_bytes: int
    total_bytes: int


class MachineImages(Protocol):
    """The store of virtual machine images.

    - `find` makes no request to any registry; it returns only images that are complete and verified.
    - `pull` always resolves the reference at the registry, moves only what is missing, verifies both digests of every
      layer, and makes the image visible in one step. Concurrent pulls of one image share the work. A failed or
      cancelled pull leaves no visible image and no temporary file behind that a later pull does not reuse or remove.
    - Images that a clone was made of may be removed; clones live on.
    """

    async def find(self, reference: str) -> MachineImage | None: ...

    async def pull(
        self,
        reference: str,
        credentials: Sequence[RegistryCredential],
        progress: Callable[[PullProgress], None] | None = None,
    ) -> MachineImage:
        """Raises InvalidInput (reason InvalidImageName or ErrImagePull), NotFound, Unauthenticated, Forbidden,
        Unavailable, Integrity, Exhausted (disk full)."""


# --- Machines ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Share:
    """A host directory in the guest under a virtio-fs tag. Both sides see each other's writes."""

    tag: str
    path: Path
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class MachineSpec:
    """What one machine is made of. Equal over restarts of the pod's first container but for the clone's contents."""

    pod: PodRef
    image: MachineImage
    cpus: int
    memory_bytes: int
    shares: tuple[Share, ...] = ()


class MachinePhase(Enum):
    CREATED = "created"
    """The clone exists, the guest was never started."""
    RUNNING = "running"
    STOPPED = "stopped"
    """The guest powered off, was killed, or its process died; `MachineStatus.fault` tells which."""


@dataclass(frozen=True, slots=True)
class MachineStatus:
    phase: MachinePhase
    started_at: float | None = None
    """Seconds since the epoch; kept over a restart of the daemon."""
    stopped_at: float | None = None
    fault: str = ""
    """Empty when the guest powered off by itself or on request; otherwise what went wrong, for people."""


@dataclass(frozen=True, slots=True)
class GuestAddress:
    """Where the guest is. `ip` becomes status.podIP; SSH may be elsewhere (a forwarded loopback port)."""

    ip: str
    ssh_host: str
    ssh_port: int = 22


@dataclass(frozen=True, slots=True)
class MachineLimits:
    """What this driver can give a machine on this host."""

    cpu_min: int
    cpu_max: int
    memory_min_bytes: int
    memory_max_bytes: int
    slots: int | None = None
    """Machines that may run at once, where the hypervisor bounds it (Apple: 2 macOS guests)."""
    shares: bool = True


@dataclass(frozen=True, slots=True)
class MachineUsage:
    """Figures from the host's side. CPU is the whole life of the machine's process, in nanoseconds."""

    cpu_ns: int
    memory_bytes: int
    disk_bytes: int
    sampled_at: float


@dataclass(frozen=True, slots=True)
class HostNetwork:
    """The network that guests and side-cars share, where the driver provides one (Linux bridge mode)."""

    bridge: str
    subnet: str
    gateway: str
    container_range: str
    """CIDR inside `subnet` that the lease server never hands out."""


class MachineDriver(Protocol):
    """Virtual machines of one hypervisor. One machine = one directory, named by pod UID.

    - `create` clones disk and firmware store of the image (never writes to the image), writes the spec, and is atomic:
      a machine exists completely or not at all. Creating an existing machine raises AlreadyExists.
    - `start` returns when the hypervisor runs the guest; the guest outlives this process. Starting a running machine
      raises Conflict, one more than the hypervisor runs Exhausted with reason VirtualMachineLimit. Failure leaves the
      machine CREATED or STOPPED and no process, tap or mount.
    - `wait` returns when the machine is not running (at once if it is not), also for machines started by an earlier
      process. It never polls faster than once a second and never misses a stop.
    - `address` waits for the guest's address; Conflict when the machine stops before it has one.
    - `network_change` waits until the fault of the guest's network is another than `known` and returns it ("" = the
      network is there); None when nothing more will be told: the machine does not run, or its hypervisor cannot tell.
      Who asks again with the answer misses no change, also after a restart of the daemon. One caller per machine.
    - `power_off` asks the guest; it returns at once and may have no effect. `kill` returns when the machine's processes
      are gone; killing a stopped machine does nothing.
    - `delete` kills, then removes everything that ever belonged to the machine; repeating it does nothing.
    - `machines` lists every machine directory of this host, running or not, so that orphans can be removed.
    - `adopt` is called once before anything else: it removes half-made things of an earlier process and reconnects.
    """

    @property
    def name(self) -> str: ...

    @property
    def platforms(self) -> tuple[Platform, ...]:
        """Of the guests that run here, the preferred one first; known without asking the hypervisor."""

    def limits(self) -> MachineLimits:
        """The first call may take a second. Raises Unsupported, MachineFault (the hypervisor cannot be used)."""

    def network(self) -> HostNetwork | None: ...

    async def adopt(self) -> None: ...

    async def machines(self) -> Sequence[str]: ...

    async def create(self, spec: MachineSpec) -> None: ...

    async def start(self, uid: str) -> None: ...

    async def status(self, uid: str) -> MachineStatus:
        """Raises NotFound."""

    async def wait(self, uid: str) -> MachineStatus: ...

    async def address(self, uid: str) -> GuestAddress: ...

    async def network_change(self, uid: str, known: str) -> str | None:
        """`known` and the answer are for people: cause, and what helps. Raises NotFound."""

    async def power_off(self, uid: str) -> None: ...

    async def kill(self, uid: str) -> None: ...

    async def delete(self, uid: str) -> None: ...

    def console(self, uid: str) -> Path:
        """The file that receives the guest's serial console, appended to while the guest runs; it may not exist yet."""

    def host_key(self, uid: str) -> Path:
        """Where the guest's SSH host key is remembered for the life of this clone."""

    async def usage(self, uid: str) -> MachineUsage: ...

    async def close(self) -> None: ...


# --- Guests ------------------------------------------------------------------------------------------------------


class OutputLog(Protocol):
    """A container log being written. It is its own ledger: what was appended is known after a crash, to the byte."""

    def received_bytes(self, stream: OutputStream) -> int:
        """Raw bytes of this stream that the log holds."""

    def append(self, stream: OutputStream, data: bytes) -> None:
        """Durable against a crash of this process (not of the host) when it returns."""


@dataclass(frozen=True, slots=True)
class GuestMount:
    """A share (or a directory in it) at its place in the guest."""

    tag: str
    mount_path: str
    sub_path: str = ""
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class GuestProcess:
    """The container's process in the guest. `id` names it in the guest and is unique per start."""

    id: str
    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = ()
    working_dir: str = ""
    user: str = ""
    """``user[:group]``, names or numbers, as in an OCI image config; empty = the login user."""
    stdin: bool = False


@dataclass(frozen=True, slots=True)
class GuestUsage:
    cpu_ns: int
    memory_total_bytes: int
    memory_available_bytes: int
    disk_total_bytes: int
    disk_used_bytes: int
    sampled_at: float


class Guest(Protocol):
    """The channel into one guest: one connection, many sessions; a lost connection is made again for the next call.

    - `prepare` sets the host name and mounts what is not mounted yet; repeating it does nothing.
    - `start` launches the process under a supervisor that outlives the connection; starting an id again returns the
      one that runs (nothing is launched twice). Raises NotFound / Forbidden with the runtime's text when the program
      cannot be executed, reason ``StartError`` in either case.
    - `follow` copies output from where the log ends (`OutputLog.received_bytes`) until the process has ended and all
      its output is in the log, then returns how it ended. It survives lost connections. Raises Unavailable only when
      the guest stays unreachable for `lost_after_s` of the guest's connect policy.
    - `signal` reaches the process alone, as a runtime's stop does: its children's signals are its own affair. SIGKILL
      ends its whole group. Never the supervisor; NotFound when the process has ended.
    - `exec` runs beside it with the given environment, directory and user. Back pressure holds from end to end.
      The session ends when the command ended, even if it left children that hold its output open.
    """

    async def prepare(self, hostname: str, mounts: Sequence[GuestMount]) -> None: ...

    async def start(self, process: GuestProcess) -> None: ...

    async def follow(self, process_id: str, log: OutputLog) -> ExitStatus: ...

    async def signal(self, process_id: str, signal: int) -> None: ...

    async def write_stdin(self, process_id: str, chunks: AsyncIterator[bytes]) -> None:
        """Feed the process's stdin (only where it was started with one); end of chunks does not close it."""

    async def exec(self, request: ExecRequest, process: GuestProcess | None, streams: Streams) -> ExitStatus:
        """`process` gives environment, directory and user; None = the login user's defaults."""

    async def usage(self) -> GuestUsage: ...

    async def shut_down(self) -> None:
        """Ask the guest's own system to power off; returns at once."""

    async def close(self) -> None: ...


class Guests(Protocol):
    """Makes channels. `connect` retries until the guest answers and lets us in, or `deadline_s` has passed.

    Raises DeadlineExceeded (naming the last reason), Unauthenticated (the guest answers and refuses the login).
    """

    async def connect(self, address: GuestAddress, host_key: Path, deadline_s: float) -> Guest: ...


# --- Containers --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ContainerMount:
    """A prepared volume at its mount path."""

    volume: str
    source: Path
    mount_path: str
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class ContainerResources:
    """Parsed quantities; 0 = not set."""

    cpu_request_milli: int = 0
    cpu_limit_milli: int = 0
    memory_request_bytes: int = 0
    memory_limit_bytes: int = 0


@dataclass(frozen=True, slots=True)
class ContainerSecurity:
    """The securityContext but for the user; applied to side-cars only."""

    read_only_root: bool = False
    privileged: bool = False
    allow_privilege_escalation: bool = True
    capabilities_add: tuple[str, ...] = ()
    capabilities_drop: tuple[str, ...] = ()
    supplemental_groups: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """A container as it is to be started: everything resolved but the image's own defaults.

    `command` and `args` are the pod's (None = not given) and combine with the image's as Kubernetes says: command
    replaces entrypoint and drops cmd, args replaces cmd.
    """

    pod: PodRef
    name: str
    attempt: int
    """0 for the first start, then the restart count."""
    image: Image
    command: tuple[str, ...] | None = None
    args: tuple[str, ...] | None = None
    env: tuple[tuple[str, str], ...] = ()
    working_dir: str = ""
    user: str = ""
    hostname: str = ""
    stdin: bool = False
    stdin_once: bool = False
    tty: bool = False
    mounts: tuple[ContainerMount, ...] = ()
    resources: ContainerResources = ContainerResources()
    security: ContainerSecurity = ContainerSecurity()
    log_path: Path | None = None
    """Where the container's log is kept, in CRI format, by runtimes that write it themselves."""


class ContainerPhase(Enum):
    RUNNING = "running"
    EXITED = "exited"


@dataclass(frozen=True, slots=True)
class ContainerState:
    """What a runtime knows of a container. `id` is ``type://id`` as in the pod status."""

    id: str
    name: str
    attempt: int
    phase: ContainerPhase
    started_at: float
    finished_at: float = 0.0
    exit: ExitStatus = ExitStatus(0)
    reason: str = ""
    """``Completed``, ``Error``, ``OOMKilled``, ``StartError``, ``ContainerStatusUnknown``."""
    message: str = ""
    image_id: str = ""
    address: str = ""
    """The container's own IP address where it has one (a virtual machine); it becomes status.podIP."""


@dataclass(frozen=True, slots=True)
class ContainerUsage:
    """Cumulated CPU and the working set. Never zero for a live container: raise Unavailable instead."""

    cpu_ns: int
    working_set_bytes: int
    rootfs_used_bytes: int
    sampled_at: float


class ContainerRuntime(Protocol):
    """One kind of container: the pod's virtual machine, or Docker side-cars. The pod rules treat both alike.

    - At most one container per (pod, name, attempt); `start` of an existing one returns its state instead of a double.
    - `prepare` makes the place the process will run in (a booted guest with its mounts; the pod's Docker sandbox) and
      returns its own address, or "" where it has none. It comes before `start` because a pod's environment may refer to
      the address; `spec.env` is not yet set. It replaces what an earlier attempt left; repeating it goes on.
      Failures: reason CreateContainerError or CreatePodSandboxError.
    - `start` returns when the process runs. Failures: reason CreateContainerConfigError, CreateContainerError,
      RunContainerError or StartError.
    - `find` returns the newest attempt, running or exited, also of an earlier daemon; None when there is none.
    - `wait` returns the exited state, at once if it has exited; it never misses an exit.
    - `network_change` is that of `MachineDriver`, for one container; None where nobody watches over its network.
    - `stop` sends SIGTERM, waits at most `grace_s`, then kills; it returns when the process is gone. A later call with
      a shorter grace shortens the first.
    - `remove` frees what the attempt holds but its log; `remove_pod` frees everything of the pod, logs included. Both
      may be repeated and work on what an earlier daemon left.
    - `pods` lists the UIDs of pods that own anything here, so that orphans can be removed.
    """

    async def find_image(self, reference: str) -> Image | None: ...

    async def pull_image(self, reference: str, credentials: Sequence[RegistryCredential]) -> Image: ...

    async def prepare(self, spec: ContainerSpec) -> str: ...

    async def start(self, spec: ContainerSpec) -> ContainerState: ...

    async def find(self, pod: PodRef, name: str) -> ContainerState | None: ...

    async def wait(self, pod: PodRef, name: str) -> ContainerState: ...

    async def network_change(self, pod: PodRef, name: str, known: str) -> str | None: ...

    async def stop(self, pod: PodRef, name: str, grace_s: float) -> None: ...

    async def remove(self, pod: PodRef, name: str) -> None: ...

    async def remove_pod(self, pod: PodRef) -> None: ...

    async def pods(self) -> Sequence[str]: ...

    async def exec(self, pod: PodRef, name: str, request: ExecRequest, streams: Streams) -> ExitStatus:
        """Raises NotFound / Conflict when the container does not run."""

    async def attach(self, pod: PodRef, name: str, tty: bool, streams: Streams) -> None:
        """Output from now on, input to the process; returns when the process ends or the peer leaves."""

    def logs(self, pod: PodRef, name: str, attempt: int, options: LogOptions) -> AsyncIterator[LogEntry]:
        """Entries of one attempt; with `follow` until the container has ended. Honours tail and since; the caller
        applies limit and time stamps. Raises NotFound when that attempt has no log."""

    async def usage(self, pod: PodRef, name: str) -> ContainerUsage: ...

    async def close(self) -> None: ...


# --- Volumes and API objects ---------------------------------------------------------------------------------------


class Objects(Protocol):
    """Reads of API objects that a pod refers to. Standalone pods have a source of their own.

    Raises NotFound (``secret "x" not found``), Forbidden, Unavailable.
    """

    async def secret(self, namespace: str, name: str) -> Secret: ...

    async def config_map(self, namespace: str, name: str) -> ConfigMap: ...

    async def services(self, namespace: str) -> Sequence[Service]:
        """Services of the namespace and the API server's own (`default/kubernetes`), for service variables."""

    async def service_account_token(self, pod: Pod, audience: str, expiration_s: int) -> str: ...


class Volumes(Protocol):
    """The volumes of a pod as directories on this host.

    - `prepare` makes every volume of the pod present and complete, atomically per volume, and returns its host path by
      volume name; repeating it refreshes contents and keeps emptyDir data. Failures have reason FailedMount and name
      the volume: ``MountVolume.SetUp failed for volume "v" : …``.
    - `remove` deletes what belongs to the pod (never a hostPath) and may be repeated.
    """

    async def prepare(self, pod: Pod) -> Mapping[str, Path]: ...

    async def remove(self, uid: str) -> None: ...

    async def pods(self) -> Sequence[str]: ...


# --- Reporting -----------------------------------------------------------------------------------------------------


class EventType(StrEnum):
    NORMAL = "Normal"
    WARNING = "Warning"


class Recorder(Protocol):
    """Events about pods and the node. Never blocks, never fails the caller; bursts are counted, not lost silently."""

    def pod_event(
        self, pod: PodRef, type_: EventType, reason: str, message: str, container: str = "", init: bool = False
    ) -> None:
        """`container` sets involvedObject.fieldPath to ``spec.containers{name}``."""

    def node_event(self, type_: EventType, reason: str, message: str) -> None: ...


class PodStatusWriter(Protocol):
    """The API server's side of a pod. Standalone pods have a local one.

    - `write_status` is guarded by UID: a recreated pod of the same name is never touched. It returns the pod as stored.
      NotFound when the pod (that UID) is gone.
    - `delete` removes the object with grace 0 and the UID as precondition; a pod that is gone already is no error.
    """

    async def write_status(self, pod: Pod, patch: bytes) -> Pod:
        """`patch` is a strategic merge patch of the pod's status subresource, as JSON."""

    async def delete(self, pod: PodRef) -> None: ...
