"""What the kubelet API and the command line see of the pods: lookups by name, exec, attach, logs, figures."""

from collections.abc import AsyncIterator, Sequence

from vzkubelet import errors, ports
from vzkubelet.model import pod as api
from vzkubelet.model.identity import PodRef
from vzkubelet.pods import worker
from vzkubelet.pods.supervisor import Supervisor
from vzkubelet.pods.world import World
from vzkubelet.podstate import record


class PodsView:
    """Containers by (namespace, pod, uid, container), as the kubelet's URLs name them."""

    def __init__(self, world: World, supervisor: Supervisor) -> None:
        self._world = world
        self._supervisor = supervisor

    def pods(self) -> Sequence[api.Pod]:
        """Every pod of this node with its status as of now."""
        return [found.current() for found in self._supervisor.workers()]

    async def exec(
        self,
        namespace: str,
        pod: str,
        uid: str | None,
        container: str,
        request: ports.ExecRequest,
        streams: ports.Streams,
    ) -> ports.ExitStatus:
        """Raises NotFound; Conflict when the container does not run."""
        found, runtime = self._running(namespace, pod, uid, container)
        return await runtime.exec(found.ref, container, request, streams)

    async def attach(
        self, namespace: str, pod: str, uid: str | None, container: str, tty: bool, streams: ports.Streams
    ) -> None:
        """Raises as `exec`."""
        found, runtime = self._running(namespace, pod, uid, container)
        await runtime.attach(found.ref, container, tty, streams)

    async def logs(
        self, namespace: str, pod: str, uid: str | None, container: str, previous: bool, options: ports.LogOptions
    ) -> AsyncIterator[ports.LogEntry]:
        """Entries of the running (or last) attempt, or of the one before.

        Raises:
            NotFound: no such pod, container or attempt.
            InvalidInput: the container has not started yet; the text is the kubelet's.
        """
        found = self._supervisor.find(namespace, pod, uid)
        entry = _container(found, container)
        attempt = _logged_attempt(found.ref, entry, previous)
        runtime = self._world.runtime_of(found.current(), container)
        async for line in runtime.logs(found.ref, container, attempt, options):
            yield line

    async def usage(self, pod: PodRef, container: str, spec: api.Pod) -> ports.ContainerUsage | None:
        """Figures of a running container; None when it has none now."""
        try:
            return await self._world.runtime_of(spec, container).usage(pod, container)
        except errors.Error:
            return None

    def _running(
        self, namespace: str, pod: str, uid: str | None, container: str
    ) -> tuple[worker.Worker, ports.ContainerRuntime]:
        found = self._supervisor.find(namespace, pod, uid)
        entry = _container(found, container)
        if not isinstance(entry.state, record.Running):
            raise errors.NotFound(f'container not found ("{container}")')
        return found, self._world.runtime_of(found.current(), container)


def _container(found: worker.Worker, name: str) -> record.Container:
    for entry in found.known.containers:
        if entry.name == name:
            return entry
    raise errors.NotFound(f'container "{name}" not found in pod "{found.ref.name}"')


def _logged_attempt(ref: PodRef, entry: record.Container, previous: bool) -> int:
    """Which attempt's log is asked for (kubelet ``validateContainerLogStatus``)."""
    who = f'container "{entry.name}" in pod "{ref.name}"'
    if previous:
        if entry.last is None:
            raise errors.InvalidInput(f"previous terminated {who} not found")
        return entry.restart_count if isinstance(entry.state, record.Waiting) else entry.restart_count - 1
    match entry.state:
        case record.Waiting(reason=reason) if entry.last is None:
            if reason in {"ErrImagePull", "ImagePullBackOff"}:
                trouble = "image can't be pulled" if reason == "ErrImagePull" else "trying and failing to pull image"
                raise errors.InvalidInput(f"{who} is waiting to start: {trouble}")
            raise errors.InvalidInput(f"{who} is waiting to start: {reason}")
        case _:
            return entry.restart_count
