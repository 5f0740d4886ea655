"""A node on one Mac: supervisor, workers, machine runtime and vz driver, with real helper processes over the double.

In memory are only the API server, the volumes, and the inside of the guests (what SSH would reach).
"""

import asyncio
import contextlib
import fcntl
import functools
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest import mock

import msgspec
import psutil

from tests.support.apple_double import MacHost
from tests.support.memory_objects import MemoryObjects
from tests.support.memory_runtime import MemoryApiServer, MemoryRecorder, MemoryRuntime, MemoryVolumes
from tests.support.vz_world import VzWorld
from vzkubelet import errors, ports
from vzkubelet.images.credentials import NodeImageAccess
from vzkubelet.machines.addresses import ArpEntry, bootpd_leases
from vzkubelet.machines.vz.capabilities import Capabilities, ask
from vzkubelet.machines.vz.driver import VzDriver
from vzkubelet.machines.vz.launch import Interpreter
from vzkubelet.machines.vz.observation import ArpTable
from vzkubelet.machines.vz.plan import Waits
from vzkubelet.machines.vz.planning import IDENTITIES
from vzkubelet.model import meta
from vzkubelet.model import pod as api
from vzkubelet.model.identity import PodRef
from vzkubelet.node.status import Condition, Pressure, conditions
from vzkubelet.pods.directory import PodDirectories
from vzkubelet.pods.machine_limit import MachineLimit
from vzkubelet.pods.machine_runtime import MachineRuntime
from vzkubelet.pods.machine_session import Parts
from vzkubelet.pods.supervisor import Supervisor
from vzkubelet.pods.world import NodeFacts, World
from vzkubelet.podstate import admission

UID = "0b2f6f0e-9d5c-4f38-8c57-6f1f4c1a7e21"
WAIT_S = 60.0
GIB = 2**30
DEFECTIVE_HELPER = Path(__file__).parents[1] / "doubles" / "defective_helper"
"""On a helper's PYTHONPATH: an exception leaves every delegate method."""

_capabilities: dict[tuple[int, ...], Capabilities] = {}
"""By version: the same for every Mac that is not about them, and a second each to ask for."""


class JumpingClock:
    """The real time, but for the jumps of a test that has no time for a back-off."""

    def __init__(self) -> None:
        self._ahead_s = 0.0

    def jump(self, seconds: float) -> None:
        self._ahead_s += seconds

    def time(self) -> float:
        return time.time() + self._ahead_s

    def monotonic(self) -> float:
        return time.monotonic() + self._ahead_s


@dataclass(frozen=True, slots=True)
class Told:
    """An event of a pod or container."""

    type: str
    reason: str
    text: str


class InstantGuests:
    """SSH without a guest: processes run until they are signalled, and the guest never powers off by itself."""

    async def connect(self, address: ports.GuestAddress, host_key: Path, deadline_s: float) -> "InstantGuest":
        return InstantGuest()


class InstantGuest:
    def __init__(self) -> None:
        self._signalled: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def prepare(self, hostname: str, mounts: Sequence[ports.GuestMount]) -> None: ...

    async def start(self, process: ports.GuestProcess) -> None: ...

    async def follow(self, process_id: str, log: ports.OutputLog) -> ports.ExitStatus:
        number = await asyncio.shield(self._signalled)
        return ports.ExitStatus(128 + number, number)

    async def signal(self, process_id: str, signal: int) -> None:
        if not self._signalled.done():
            self._signalled.set_result(signal)

    async def write_stdin(self, process_id: str, chunks: AsyncIterator[bytes]) -> None:
        raise errors.Unavailable("no stdin in an instant guest")

    async def exec(
        self, request: ports.ExecRequest, process: ports.GuestProcess | None, streams: ports.Streams
    ) -> ports.ExitStatus:
        return ports.ExitStatus(0)

    async def usage(self) -> ports.GuestUsage:
        raise errors.Unavailable("no figures of an instant guest")

    async def shut_down(self) -> None: ...

    async def close(self) -> None: ...


class RememberingApiServer(MemoryApiServer):
    """`last` has the final status of every pod that the node deleted, by UID."""

    def __init__(self) -> None:
        super().__init__()
        self.last: dict[str, api.PodStatus] = {}

    async def delete(self, pod: PodRef) -> None:
        self.last[pod.uid] = self.pods[pod.uid].status
        await super().delete(pod)


class OneImage:
    """A store that has one image under every name."""

    def __init__(self, image: ports.MachineImage) -> None:
        self.image = image

    async def find(self, reference: str) -> ports.MachineImage | None:
        return self.image

    async def pull(
        self,
        reference: str,
        credentials: Sequence[ports.RegistryCredential],
        progress: Callable[[ports.PullProgress], None] | None = None,
    ) -> ports.MachineImage:
        return self.image


class VzNode:
    """Made by `open_node`. `feed`: what the API server stores reaches the supervisor with `watch`."""

    def __init__(self, world: VzWorld, *, waits: Waits | None = None, path: Sequence[Path] = ()) -> None:
        self.world = world
        self.mac = world.mac
        self.clock = JumpingClock()
        self.api = RememberingApiServer()
        self.recorder = MemoryRecorder()
        self.images = OneImage(world.image)
        self.limit = MachineLimit(self.clock)
        self.volumes = MemoryVolumes(world.root.with_name("volumes"))
        self.directories = PodDirectories(world.root.with_name("pods"))
        environment = dict(world.setup.environment)
        environment["PYTHONPATH"] = os.pathsep.join([*map(str, path), environment["PYTHONPATH"]])
        self._setup = replace(world.setup, environment=environment, waits=waits or Waits())
        self._image_files = _stamps(world.image.disk.parent)
        self._zombies = _zombies()
        """Of earlier tests of this process."""

    # --- Daemons ------------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """A daemon on what is on disk."""
        self.driver = await self._driver()
        runtime_parts = Parts(self.driver, self.images, InstantGuests(), self.directories, self.clock, self.limit)
        self.machines = MachineRuntime(runtime_parts)
        world = World(
            self.machines,
            MemoryRuntime(self.clock),
            self.volumes,
            MemoryObjects(),
            self.recorder,
            self.api,
            self.clock,
            lambda: NodeFacts("192.0.2.1", 8000, 16 * GIB),
            NodeImageAccess(self.world.root.with_name("image-access")),
        )
        node = admission.Node("mac", "darwin", 100_000, 100 * GIB, 100, {}, 8, 16 * GIB)
        self.supervisor = Supervisor(world, self.directories, lambda: node, workers=4, resync_s=60.0)
        await self.supervisor.resume()
        for pod in list(self.api.pods.values()):
            self.supervisor.seen(pod)
        await self.supervisor.synced(list(self.api.pods))

    async def _driver(self) -> VzDriver:
        version = tuple(json.loads((self.mac.directory / "host.json").read_text())["version"])
        if version not in _capabilities:
            interpreter = Interpreter.find(self._setup.settings.helper_app, self._setup.environment)
            _capabilities[version] = await asyncio.to_thread(ask, interpreter)
        driver = VzDriver(self.world.root, self._setup, lambda _: _capabilities[version])
        await driver.adopt()
        return driver

    async def close(self) -> None:
        """The daemon ends; nothing of what it let run does."""
        await self.supervisor.close()
        await self.machines.close()
        await self.driver.close()

    async def restart(self) -> None:
        await self.close()
        await self.open()

    # --- What the API server and people do ----------------------------------------------------------------------------

    def bind(self, *command: str, uid: str = UID, policy: str = "Always") -> None:
        pod = vz_pod(*command, uid=uid, policy=policy)
        self.supervisor.seen(self.api.put(pod))

    def delete(self, grace_s: int = 30, uid: str = UID) -> None:
        pod = self.api.pods[uid]
        at = datetime.fromtimestamp(int(self.clock.time()), tz=UTC) + timedelta(seconds=grace_s)
        metadata = msgspec.structs.replace(
            pod.metadata, deletion_timestamp=at, deletion_grace_period_seconds=grace_s, generation=2
        )
        self.supervisor.seen(self.api.put(msgspec.structs.replace(pod, metadata=metadata)))

    def after(self, seconds: float, uid: str = UID) -> None:
        """So much later: what waited for it happens."""
        self.clock.jump(seconds)
        self.supervisor.seen(self.api.pods[uid])

    def tell_guest(self, order: str, uid: str = UID) -> None:
        self.mac.tell(self.world.machine_state(uid).mac, order)

    # --- What is seen -------------------------------------------------------------------------------------------------

    async def until(self, condition: Callable[[], bool]) -> None:
        """Raises AssertionError with what is known when it does not come true."""
        try:
            async with asyncio.timeout(WAIT_S):
                while not condition():
                    await asyncio.sleep(0.02)
        except TimeoutError:
            statuses = [(pod.metadata.name, pod.status.phase, self.statuses(uid)) for uid, pod in self.api.pods.items()]
            raise AssertionError(f"not so after {WAIT_S:.0f} s: {statuses}, {self.recorder.events}") from None

    def statuses(self, uid: str = UID) -> list[api.ContainerStatus]:
        pod = self.api.pods.get(uid)
        return [] if pod is None else pod.status.container_statuses or []

    def phase(self, uid: str = UID) -> str:
        return self.api.pods[uid].status.phase

    def _state(self, uid: str = UID) -> api.ContainerState:
        known = self.statuses(uid)
        return known[0].state if known else api.ContainerState()

    async def running(self, restarts: int = 0, uid: str = UID) -> api.ContainerStatus:
        await self.until(
            lambda: self._state(uid).running is not None and self.statuses(uid)[0].restart_count == restarts
        )
        return self.statuses(uid)[0]

    async def waiting(self, reason: str, uid: str = UID) -> str:
        """The message of a container that waits for this reason."""

        def found() -> bool:
            waiting = self._state(uid).waiting
            return waiting is not None and waiting.reason == reason

        await self.until(found)
        waiting = self._state(uid).waiting
        assert waiting is not None
        return waiting.message

    async def terminated(self, uid: str = UID) -> api.ContainerStateTerminated:
        """How the container has ended, for good."""
        await self.until(lambda: self._state(uid).terminated is not None)
        found = self._state(uid).terminated
        assert found is not None
        return found

    async def gone(self, uid: str = UID) -> None:
        await self.until(lambda: all(worker.ref.uid != uid for worker in self.supervisor.workers()))

    async def deleted(self, grace_s: int = 30, uid: str = UID) -> None:
        self.delete(grace_s, uid)
        await self.gone(uid)

    def warnings(self) -> list[Told]:
        """Warnings about containers, in order."""
        split = [event.split("|", 3) for event in self.recorder.events]
        return [Told(type_, reason, text) for _, type_, reason, text in split if type_ == "Warning"]

    def condition(self) -> Condition:
        """VirtualMachineLimit of the node."""
        said = conditions(Pressure(), [], self.clock.time(), self.limit.message)
        return next(each for each in said if each.type == errors.MACHINE_LIMIT_REASON)

    # --- What is left -------------------------------------------------------------------------------------------------

    def held(self) -> list[str]:
        """What machines hold of the host; empty while none runs."""
        identities = self.world.host_directory / IDENTITIES
        locks = identities.glob("*.lock") if identities.exists() else ()
        return [
            *self.world.leftovers(),
            *self.world.host_leftovers(),
            *(f"process {line}" for line in _processes_on(self.mac)),
            *(f"dead process {pid} that nobody asked about" for pid in sorted(_zombies() - self._zombies)),
            *(f"identity {path.name}" for path in locks if _is_locked(path)),
            *(f"running {path.name}" for path in self.mac.running() if _is_locked(path)),
        ]

    def leftovers(self) -> list[str]:
        """What is left of pods, while there are none."""
        return [
            *self.held(),
            *(f"directory of pod {uid}" for uid in self.directories.uids()),
            *(f"volumes of pod {uid}" for uid in self.volumes.owners),
            *([] if _stamps(self.world.image.disk.parent) == self._image_files else ["a change of the image"]),
        ]


@contextlib.asynccontextmanager
async def open_node(
    world: VzWorld, *, waits: Waits | None = None, path: Sequence[Path] = (), is_open: bool = True
) -> AsyncIterator[VzNode]:
    """A node whose pods are deleted at the end of the block; AssertionError when anything of them is left then."""
    node = VzNode(world, waits=waits, path=path)
    descriptors, tasks = _descriptors(), _other_tasks()
    with mock.patch.object(ArpTable, "read", functools.partial(_answering, world.mac)):
        if is_open:
            await node.open()
        try:
            yield node
        finally:
            await _removed(node)
    assert node.leftovers() == []
    assert _other_tasks() == tasks
    assert _descriptors() == descriptors


async def _removed(node: VzNode) -> None:
    for uid in list(node.api.pods):
        del node.api.pods[uid]
        node.supervisor.gone(uid)
    for worker in node.supervisor.workers():
        await node.gone(worker.ref.uid)
    await node.close()


async def _answering(mac: MacHost) -> list[ArpEntry]:
    """What ``arp -an`` would show on this Mac: whoever got an address answers there."""
    leases = bootpd_leases(mac.leases.read_text()) if mac.leases.exists() else []
    return [ArpEntry(lease.ip, lease.mac, "bridge100") for lease in leases]


def vz_pod(*command: str, uid: str = UID, policy: str = "Always") -> api.Pod:
    """One machine container, ``vm``; without a command it is the machine itself."""
    resources = api.ResourceRequirements(requests={"cpu": "2", "memory": "2Gi"})
    vm = api.Container(name="vm", image="registry.test/guest:1", command=list(command), resources=resources)
    metadata = meta.ObjectMeta(name=f"p-{uid[:8]}", namespace="ns", uid=uid, generation=1)
    spec = api.PodSpec(containers=[vm], restart_policy=policy)
    scheduled = api.PodCondition(type="PodScheduled", status="True")
    return api.Pod(metadata=metadata, spec=spec, status=api.PodStatus(phase="Pending", conditions=[scheduled]))


def _stamps(directory: Path) -> Mapping[str, tuple[int, int]]:
    """Size and time of change of the files in a directory."""
    return {path.name: (path.stat().st_size, path.stat().st_mtime_ns) for path in directory.iterdir()}


def _is_locked(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _processes_on(mac: MacHost) -> list[str]:
    """Processes of this Mac other than the test's own."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get("VZ_DOUBLE_HOST") == str(mac.directory):
                found.append(f"{process.pid} {' '.join(process.cmdline()[-3:])}")
    return found


def _zombies() -> set[int]:
    return {child.pid for child in psutil.Process().children() if child.status() == psutil.STATUS_ZOMBIE}


def _other_tasks() -> set[str]:
    return {task.get_name() for task in asyncio.all_tasks() - {asyncio.current_task()}}


def _descriptors() -> set[tuple[str, str]]:
    """What this process has open."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found.add((entry.name, str(entry.readlink())))
    return {each for each in found if not each[1].startswith(f"/proc/{os.getpid()}/fd")}
