"""Virtual machines of one hypervisor."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol

from vzkubelet.model.identity import PodRef
from vzkubelet.model.oci import Platform
from vzkubelet.ports.images import MachineImage


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
