"""A node in memory for the tests of workers and supervisor: daemons come and go, what runs stays."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from tests.support.memory_objects import MemoryObjects
from tests.support.memory_runtime import MemoryApiServer, MemoryRecorder, MemoryRuntime, MemoryVolumes
from vzkubelet.images.credentials import NodeImageAccess
from vzkubelet.model import meta
from vzkubelet.model import pod as api
from vzkubelet.pods.directory import PodDirectories
from vzkubelet.pods.supervisor import Supervisor
from vzkubelet.pods.world import NodeFacts, World
from vzkubelet.podstate import admission, record

EPOCH = 1_700_000_000.0
IP = "10.0.0.2"
UID = "u-1"


class LoopClock:
    """The virtual time of the test's loop."""

    def time(self) -> float:
        return EPOCH + asyncio.get_running_loop().time()

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()


class Node:
    """`feed` is the watch: while it is on, every stored change reaches the supervisor, as the reflector would do."""

    def __init__(self, root: Path) -> None:
        self.clock = LoopClock()
        self.machines = MemoryRuntime(self.clock, address=IP)
        self.sidecars = MemoryRuntime(self.clock)
        for name in ("vm", "web"):
            self.machines.publish(f"image-of-{name}")
            self.sidecars.publish(f"image-of-{name}")
        self.volumes = MemoryVolumes(root / "volumes")
        self.objects = MemoryObjects()
        self.recorder = MemoryRecorder()
        self.api = MemoryApiServer()
        self.directories = PodDirectories(root / "pods")
        self.capacity = 10
        self.world = World(
            self.machines,
            self.sidecars,
            self.volumes,
            self.objects,
            self.recorder,
            self.api,
            self.clock,
            lambda: NodeFacts("192.0.2.1", 8000, 8 * 2**30),
            NodeImageAccess(root / "access"),
        )
        self.supervisor = self._daemon()

    def _daemon(self) -> Supervisor:
        node = lambda: admission.Node("n", "linux", 8000, 8 * 2**30, self.capacity, {}, 8, 8 * 2**30)  # noqa: E731
        return Supervisor(self.world, self.directories, node, workers=4, resync_s=60.0)

    async def kill(self) -> None:
        """The daemon dies; nothing of what it let run does."""
        await self.supervisor.close()

    async def restart(self) -> None:
        """Kill the daemon and start another on what is on disk; it lists the pods of the API server."""
        await self.kill()
        self.supervisor = self._daemon()
        await self.supervisor.resume()
        await self.sync()

    async def sync(self) -> None:
        for pod in list(self.api.pods.values()):
            self.supervisor.seen(pod)
        await self.supervisor.synced(list(self.api.pods))

    def bind(self, pod: api.Pod) -> api.Pod:
        stored = self.api.put(pod)
        self.supervisor.seen(stored)
        return stored

    def delete(self, grace_s: int = 30, uid: str = UID) -> None:
        """As ``kubectl delete``: the object stays until the node says that it is done."""
        pod = self.api.pods[uid]
        at = datetime.fromtimestamp(int(self.clock.time()), tz=UTC) + timedelta(seconds=grace_s)
        metadata = msgspec.structs.replace(
            pod.metadata, deletion_timestamp=at, deletion_grace_period_seconds=grace_s, generation=2
        )
        self.supervisor.seen(self.api.put(msgspec.structs.replace(pod, metadata=metadata)))

    def force_delete(self, uid: str = UID) -> None:
        del self.api.pods[uid]
        self.supervisor.gone(uid)

    def watch(self, uid: str = UID) -> None:
        """The watch brings the pod as it is stored now."""
        self.supervisor.seen(self.api.pods[uid])

    async def until(self, condition: Callable[[], bool], timeout_s: float = 3600.0) -> None:
        """Virtual seconds: the loop jumps from timer to timer."""
        delay_s = 0.01
        async with asyncio.timeout(timeout_s):
            while not condition():
                await asyncio.sleep(delay_s)
                delay_s = min(delay_s * 1.5, 0.5)

    async def started(self, attempt: int) -> None:
        """Until this attempt of the machine container was launched."""
        await self.until(lambda: (UID, "vm", attempt) in self.machines.starts)

    async def gone(self, uid: str = UID) -> None:
        await self.until(lambda: all(worker.ref.uid != uid for worker in self.supervisor.workers()))

    async def running(self, *names: str, uid: str = UID) -> None:
        """Until the API server knows these containers as running."""
        wanted = set(names or ("vm",))
        await self.until(lambda: {s.name for s in self.statuses(uid) if s.state.running} >= wanted)

    async def phase(self, phase: str, uid: str = UID) -> None:
        await self.until(lambda: uid in self.api.pods and self.api.pods[uid].status.phase == phase)

    def statuses(self, uid: str = UID) -> list[api.ContainerStatus]:
        pod = self.api.pods.get(uid)
        return [] if pod is None else pod.status.container_statuses or []

    def condition(self, name: str, uid: str = UID) -> api.PodCondition:
        return next(c for c in self.api.pods[uid].status.conditions or [] if c.type == name)

    def known(self, uid: str = UID) -> record.Pod:
        return next(worker.known for worker in self.supervisor.workers() if worker.ref.uid == uid)

    def leftovers(self) -> list[str]:
        return [
            *(f"container {key}" for key in [*self.machines.held, *self.sidecars.held]),
            *(f"place of {uid}" for uid in [*self.machines.prepared, *self.sidecars.prepared]),
            *(f"volumes of {uid}" for uid in self.volumes.owners),
            *(f"directory of {uid}" for uid in self.directories.uids()),
        ]

    def doubled(self) -> list[tuple[str, str, int]]:
        return [key for runtime in (self.machines, self.sidecars) for key, n in runtime.starts.items() if n > 1]


def pod(
    *names: str, policy: str = "Always", uid: str = UID, deadline_s: int | None = None, pull: str = "IfNotPresent"
) -> api.Pod:
    containers = [
        api.Container(name=name, image=f"image-of-{name}", image_pull_policy=pull) for name in names or ("vm",)
    ]
    metadata = meta.ObjectMeta(name="p", namespace="ns", uid=uid, generation=1)
    spec = api.PodSpec(containers=containers, restart_policy=policy, active_deadline_seconds=deadline_s)
    scheduled = api.PodCondition(type="PodScheduled", status="True")
    return api.Pod(metadata=metadata, spec=spec, status=api.PodStatus(phase="Pending", conditions=[scheduled]))
