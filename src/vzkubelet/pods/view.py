"""What the kubelet API and the command line see of the pods: lookups by name, exec, attach, logs, figures."""

import logging
from collections.abc import AsyncIterator, Sequence

from vzkubelet import errors, ports
from vzkubelet.model import pod as api
from vzkubelet.model import stats, timestamp
from vzkubelet.model.identity import PodRef
from vzkubelet.pods import worker
from vzkubelet.pods.supervisor import Supervisor
from vzkubelet.pods.world import World
from vzkubelet.podstate import record

_log = logging.getLogger(__name__)


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

    async def attach(self, namespace: str, pod: str, uid: str | None, container: str, streams: ports.Streams) -> None:
        """Raises as `exec`."""
        found, runtime = self._running(namespace, pod, uid, container)
        tty = any(c.tty for c in found.current().spec.containers if c.name == container)
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

    async def figures(self) -> list[stats.PodStats]:
        """Figures of every pod that runs; a container that has none now is left out, never given as zero."""
        return [told for found in self._supervisor.workers() if (told := await self._pod_stats(found)) is not None]

    async def _pod_stats(self, found: worker.Worker) -> stats.PodStats | None:
        containers = []
        for entry in found.known.containers:
            if not isinstance(entry.state, record.Running):
                continue
            try:
                used = await self._world.runtime_of(found.current(), entry.name).usage(found.ref, entry.name)
            except errors.Error as exc:
                _log.debug("no figures of container %s of pod %s: %s", entry.name, found.ref.key, exc)
                continue
            containers.append(_container_stats(entry.name, entry.state.started_at, used))
        if not containers:
            return None
        reference = stats.PodReference(found.ref.name, found.ref.namespace, found.ref.uid)
        return stats.PodStats(
            pod_ref=reference,
            start_time=timestamp.from_epoch(found.known.start_time),
            containers=containers,
            cpu=_total_cpu(containers),
            memory=_total_memory(containers),
        )

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


def _container_stats(name: str, started_at: float, used: ports.ContainerUsage) -> stats.ContainerStats:
    at = timestamp.from_epoch(used.sampled_at)
    return stats.ContainerStats(
        name=name,
        start_time=timestamp.from_epoch(started_at),
        cpu=stats.CPUStats(at, usage_core_nano_seconds=used.cpu_ns),
        memory=stats.MemoryStats(at, working_set_bytes=used.working_set_bytes, usage_bytes=used.working_set_bytes),
        rootfs=stats.FsStats(at, used_bytes=used.rootfs_used_bytes),
    )


def _total_cpu(containers: list[stats.ContainerStats]) -> stats.CPUStats:
    figures = [container.cpu for container in containers if container.cpu is not None]
    total = sum(figure.usage_core_nano_seconds or 0 for figure in figures)
    return stats.CPUStats(max(figure.time for figure in figures), usage_core_nano_seconds=total)


def _total_memory(containers: list[stats.ContainerStats]) -> stats.MemoryStats:
    figures = [container.memory for container in containers if container.memory is not None]
    total = sum(figure.working_set_bytes or 0 for figure in figures)
    return stats.MemoryStats(max(figure.time for figure in figures), working_set_bytes=total, usage_bytes=total)
