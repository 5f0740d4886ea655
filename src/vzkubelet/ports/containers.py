"""A container of a pod, whatever it runs on."""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol

from vzkubelet.model.docker_config import RegistryCredential
from vzkubelet.model.identity import PodRef
from vzkubelet.model.logs import LogEntry, LogOptions
from vzkubelet.ports.images import Image, PullProgress
from vzkubelet.ports.streams import ExecRequest, ExitStatus, Streams

_SUCCESS = ExitStatus(0)


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
    exit: ExitStatus = _SUCCESS
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

    async def pull_image(
        self,
        reference: str,
        credentials: Sequence[RegistryCredential],
        progress: Callable[[PullProgress], None] | None = None,
    ) -> Image:
        """`progress` is called on the event loop, by runtimes that know how far a pull is."""

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
