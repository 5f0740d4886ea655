"""What is known of a pod and its containers, as kept on disk over a restart of the daemon."""

import msgspec

from vzkubelet.model import identity


class Waiting(msgspec.Struct, frozen=True, tag="waiting"):
    reason: str = "ContainerCreating"
    message: str = ""


class Running(msgspec.Struct, frozen=True, tag="running"):
    started_at: float


class Terminated(msgspec.Struct, frozen=True, tag="terminated"):
    exit_code: int
    reason: str
    message: str = ""
    signal: int = 0
    started_at: float | None = None
    finished_at: float | None = None
    container_id: str = ""


State = Waiting | Running | Terminated


class BackOff(msgspec.Struct, frozen=True):
    """A doubling delay, counted as client-go's flowcontrol.Backoff does. `delay_s` 0 = no entry."""

    delay_s: float = 0.0
    updated_at: float = 0.0


class Container(msgspec.Struct, frozen=True):
    """One container of the pod. `attempt` is the one that runs or is to be started next."""

    name: str
    image: str
    state: State = Waiting()
    last: Terminated | None = None
    attempt: int = 0
    restart_count: int = 0
    container_id: str = ""
    image_id: str = ""
    crash_back_off: BackOff = BackOff()
    pull_back_off: BackOff = BackOff()
    limit_back_off: BackOff = BackOff()
    """Of starts that the hypervisor refused because it runs as many machines as it may."""
    network_fault: str = ""
    """Why the running container cannot be reached at present, as far as the host knows."""
    retry_at: float = 0.0
    """Not before this moment is a start tried again (pull back-off, configuration errors)."""
    look_at: float = 0.0
    """From this moment on it is worth a look whether the image has come meanwhile."""


class Rejection(msgspec.Struct, frozen=True):
    """Why a pod ended without its containers being asked: admission, deadline, eviction."""

    reason: str
    message: str


class Pod(msgspec.Struct, frozen=True):
    """Everything remembered of a pod that its spec does not say."""

    namespace: str
    name: str
    uid: str
    containers: tuple[Container, ...]
    start_time: float = 0.0
    ip: str = ""
    volumes_ready: bool = False
    volumes_retry_at: float = 0.0
    volumes_back_off: BackOff = BackOff()
    rejection: Rejection | None = None
    """Set once and for ever; the phase is Failed and everything is stopped."""
    vanished: bool = False
    """The API server no longer has the pod: stop now, report nothing."""

    @property
    def ref(self) -> identity.PodRef:
        return identity.PodRef(self.namespace, self.name, self.uid)

    def container(self, name: str) -> Container:
        return next(container for container in self.containers if container.name == name)

    def with_container(self, changed: Container) -> "Pod":
        """The record with the container of that name replaced."""
        containers = tuple(changed if c.name == changed.name else c for c in self.containers)
        return msgspec.structs.replace(self, containers=containers)

    @property
    def stopped(self) -> bool:
        """No container runs (those that never started count as stopped)."""
        return not any(isinstance(container.state, Running) for container in self.containers)
