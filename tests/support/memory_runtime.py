"""`ports.ContainerRuntime`, `Volumes`, `Recorder` and `PodStatusWriter` in memory, for tests of the pod workers.

What a runtime or the API server holds outlives the workers, as a hypervisor does a daemon: make new workers on the same
objects to restart the daemon.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from vzkubelet import errors, ports
from vzkubelet.aio import Clock
from vzkubelet.model import pod as api
from vzkubelet.model.identity import PodRef

RUNNING, EXITED = ports.ContainerPhase.RUNNING, ports.ContainerPhase.EXITED


class Gate:
    """A step that a test may hold, and break. `reached` tells that somebody is there."""

    def __init__(self) -> None:
        self.faults: list[Exception] = []
        """Raised one after another, the last one for ever where `stays_broken`."""
        self.stays_broken = False
        self.reached = asyncio.Event()
        self.passed = 0
        self.cancelled = 0
        self._open = asyncio.Event()
        self._open.set()

    def hold(self) -> None:
        self.reached.clear()
        self._open.clear()

    def release(self) -> None:
        self._open.set()

    async def __call__(self) -> None:
        self.reached.set()
        try:
            await self._open.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.faults:
            raise self.faults[0] if self.stays_broken and len(self.faults) == 1 else self.faults.pop(0)
        self.passed += 1


@dataclass(slots=True)
class Held:
    """One container of the runtime."""

    state: ports.ContainerState
    spec: ports.ContainerSpec
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class MemoryRuntime:
    """`starts` counts the launches of each attempt: more than one is a container doubled."""

    def __init__(self, clock: Clock, *, address: str = "", obeys: bool = True) -> None:
        self._clock = clock
        self._address = address
        self.obeys = obeys
        """Whether containers end at SIGTERM; else they wait for the end of their grace."""
        self.images: dict[str, ports.Image] = {}
        self.registry: dict[str, ports.Image] = {}
        self.logins: list[Sequence[ports.RegistryCredential]] = []
        self.progress: Callable[[ports.PullProgress], None] | None = None
        """Who listens to the last pull that was begun."""
        self.pull, self.place, self.launch, self.lookup, self.removal, self.stopping = (Gate() for _ in range(6))
        self._network_faults: dict[tuple[str, str], str] = {}
        self._network_told = asyncio.Event()
        self.held: dict[tuple[str, str], Held] = {}
        self.prepared: set[str] = set()
        self.starts: dict[tuple[str, str, int], int] = {}
        self.stops: list[tuple[str, float]] = []
        self.removed: list[str] = []

    def publish(self, reference: str) -> None:
        self.registry[reference] = ports.Image(reference, f"{reference}@sha256:0", 4096)

    async def find_image(self, reference: str) -> ports.Image | None:
        return self.images.get(reference)

    async def pull_image(
        self,
        reference: str,
        credentials: Sequence[ports.RegistryCredential],
        progress: Callable[[ports.PullProgress], None] | None = None,
    ) -> ports.Image:
        self.logins.append(credentials)
        self.progress = progress
        await self.pull()
        if reference not in self.registry:
            raise errors.NotFound(f"{reference}: not found", reason="ErrImagePull")
        self.images[reference] = self.registry[reference]
        return self.registry[reference]

    async def prepare(self, spec: ports.ContainerSpec) -> str:
        self.prepared.add(spec.pod.uid)
        await self.place()
        return self._address

    async def start(self, spec: ports.ContainerSpec) -> ports.ContainerState:
        await self.launch()
        held = self.held.get((spec.pod.uid, spec.name))
        if held is not None and held.state.attempt == spec.attempt:
            return held.state
        key = (spec.pod.uid, spec.name, spec.attempt)
        self.starts[key] = self.starts.get(key, 0) + 1
        identity = f"memory://{spec.pod.uid}-{spec.name}-{spec.attempt}"
        state = ports.ContainerState(
            identity,
            spec.name,
            spec.attempt,
            RUNNING,
            self._clock.time(),
            image_id=spec.image.image_id,
            address=self._address,
        )
        self.held[spec.pod.uid, spec.name] = Held(state, spec)
        return state

    def end(self, uid: str, name: str, code: int, signal: int = 0) -> None:
        """Let a container end by itself."""
        held = self.held[uid, name]
        now = self._clock.time()
        held.state = replace(held.state, phase=EXITED, finished_at=now, exit=ports.ExitStatus(code, signal))
        held.ended.set()

    async def find(self, pod: PodRef, name: str) -> ports.ContainerState | None:
        await self.lookup()
        held = self.held.get((pod.uid, name))
        return None if held is None else held.state

    async def wait(self, pod: PodRef, name: str) -> ports.ContainerState:
        await self.lookup()
        held = self._require(pod, name)
        await held.ended.wait()
        return held.state

    def break_network(self, uid: str, name: str, fault: str) -> None:
        """Empty = mend it."""
        self._network_faults[uid, name] = fault
        self._network_told.set()

    async def network_change(self, pod: PodRef, name: str, known: str) -> str | None:
        while (fault := self._network_faults.get((pod.uid, name), "")) == known:
            self._network_told.clear()
            await self._network_told.wait()
        return fault

    async def stop(self, pod: PodRef, name: str, grace_s: float) -> None:
        held = self._require(pod, name)
        self.stops.append((name, grace_s))
        await self.stopping()
        if self.obeys:
            self.end(pod.uid, name, 0)
            return
        try:
            async with asyncio.timeout(grace_s):
                await held.ended.wait()
        except TimeoutError:
            self.end(pod.uid, name, 137, 9)

    async def remove(self, pod: PodRef, name: str) -> None:
        await self.removal()
        self.removed.append(name)
        self.prepared.discard(pod.uid)
        held = self.held.get((pod.uid, name))
        if held is not None and held.state.phase is RUNNING:
            self.end(pod.uid, name, 137, 9)

    async def remove_pod(self, pod: PodRef) -> None:
        await self.removal()
        self.prepared.discard(pod.uid)
        for uid, name in [key for key in self.held if key[0] == pod.uid]:
            self.held.pop((uid, name)).ended.set()

    async def pods(self) -> Sequence[str]:
        await self.lookup()
        return sorted({uid for uid, _ in self.held} | self.prepared)

    async def exec(
        self, pod: PodRef, name: str, request: ports.ExecRequest, streams: ports.Streams
    ) -> ports.ExitStatus:
        self._require(pod, name)
        return ports.ExitStatus(0)

    async def attach(self, pod: PodRef, name: str, tty: bool, streams: ports.Streams) -> None:
        self._require(pod, name)

    async def logs(
        self, pod: PodRef, name: str, attempt: int, options: ports.LogOptions
    ) -> AsyncIterator[ports.LogEntry]:
        yield ports.LogEntry(0, ports.OutputStream.STDOUT, f"{name} {attempt}".encode())

    async def usage(self, pod: PodRef, name: str) -> ports.ContainerUsage:
        raise errors.Unavailable("no figures")

    async def close(self) -> None:
        return

    def _require(self, pod: PodRef, name: str) -> Held:
        held = self.held.get((pod.uid, name))
        if held is None:
            raise errors.NotFound(f"container {name} of pod {pod} does not exist")
        return held


class MemoryVolumes:
    def __init__(self, root: Path) -> None:
        self._root = root
        self.setup, self.removal = Gate(), Gate()
        self.owners: set[str] = set()

    async def prepare(self, pod: api.Pod) -> Mapping[str, Path]:
        await self.setup()
        self.owners.add(pod.metadata.uid)
        return {volume.name: self._root / volume.name for volume in pod.spec.volumes or []}

    async def remove(self, uid: str) -> None:
        await self.removal()
        self.owners.discard(uid)

    async def pods(self) -> Sequence[str]:
        return sorted(self.owners)


class MemoryRecorder:
    """`events` as ``container|type|reason|message``."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def pod_event(
        self, pod: PodRef, type_: ports.EventType, reason: str, message: str, container: str = "", init: bool = False
    ) -> None:
        self.events.append(f"{container}|{type_}|{reason}|{message}")

    def node_event(self, type_: ports.EventType, reason: str, message: str) -> None:
        self.events.append(f"|{type_}|{reason}|{message}")

    def reasons(self) -> list[str]:
        return [event.split("|")[2] for event in self.events]


class MemoryApiServer:
    """Pods by UID with their resource versions; merges status patches as the API server does, as far as they need it.

    `history` holds every status that was stored, `deleted` the UIDs that were deleted by `delete`.
    """

    def __init__(self) -> None:
        self.pods: dict[str, api.Pod] = {}
        self.history: list[api.PodStatus] = []
        self.deleted: list[str] = []
        self.write, self.deletion = Gate(), Gate()
        self._version = 100

    def put(self, pod: api.Pod) -> api.Pod:
        """Store a pod as it is, as others than the node do; what a watch would bring."""
        self._version += 1
        metadata = msgspec.structs.replace(pod.metadata, resource_version=str(self._version))
        stored = msgspec.structs.replace(pod, metadata=metadata)
        self.pods[pod.metadata.uid] = stored
        return stored

    async def write_status(self, pod: api.Pod, patch: bytes) -> api.Pod:
        await self.write()
        current = self.pods.get(pod.metadata.uid)
        if current is None:
            raise errors.NotFound(f'pods "{pod.metadata.name}" not found')
        stored = msgspec.structs.replace(current, status=merged(current.status, patch))
        if stored == current:
            return current
        self.history.append(stored.status)
        return self.put(stored)

    async def delete(self, pod: PodRef) -> None:
        await self.deletion()
        self.pods.pop(pod.uid, None)
        self.deleted.append(pod.uid)

    def phases(self) -> list[str]:
        """Phases as they were stored, repetitions left out."""
        told: list[str] = []
        for status in self.history:
            if not told or told[-1] != status.phase:
                told.append(status.phase)
        return told


def merged(status: api.PodStatus, patch: bytes) -> api.PodStatus:
    """A strategic merge of the status: conditions by type in the order they came, address lists replaced."""
    old = msgspec.to_builtins(status)
    new = msgspec.json.decode(patch)["status"]
    conditions = {condition["type"]: condition for condition in old.get("conditions", [])}
    for condition in new.pop("conditions", None) or []:
        whole = {**conditions.get(condition["type"], {}), **condition}
        conditions[condition["type"]] = {key: value for key, value in whole.items() if value is not None}
    for key in ("podIPs", "hostIPs"):
        if new.get(key):
            new[key] = [entry for entry in new[key] if "$patch" not in entry]
    body = {key: value for key, value in {**old, **new}.items() if value is not None}
    return msgspec.convert({**body, "conditions": list(conditions.values())}, api.PodStatus)
