"""Events about pods and the node (`ports.Recorder`), written in the background as the kubelet's are."""

import asyncio
import contextlib
import logging
from collections import deque
from dataclasses import dataclass

import msgspec

from vzkubelet import aio
from vzkubelet.aio import Clock, SystemClock
from vzkubelet.errors import AlreadyExists, Error, NotFound, Retry
from vzkubelet.kube.client import Client, Patch
from vzkubelet.kube.correlation import Correlator, Count, Create, Drop
from vzkubelet.kube.paths import namespaced
from vzkubelet.kube.rate import TokenBucket
from vzkubelet.model.event import Event, EventSource
from vzkubelet.model.identity import PodRef
from vzkubelet.model.meta import ObjectMeta, ObjectReference
from vzkubelet.model.timestamp import from_epoch
from vzkubelet.ports import EventType

_log = logging.getLogger(__name__)

COMPONENT = "kubelet"
"""What tools and users filter by; it is also what RBAC-minded admission policies expect of a node."""
PER_S = 50.0
BURST = 100
"""eventRecordQPS and eventBurst of the kubelet."""
QUEUE_LIMIT = 1000
"""Of the watch.Broadcaster in client-go."""
RETRY_S = 10.0
RETRIES = 12
"""client-go ``tools/record/event.go``: for two minutes, then the event is lost."""
MESSAGE_LIMIT = 1024
FLUSH_S = 2.0


@dataclass(frozen=True, slots=True)
class _Happening:
    at_ns: int
    event: Event


class EventRecorder:
    """`start` runs it; what is recorded before is kept. `close` writes what is left for at most `FLUSH_S`."""

    def __init__(self, client: Client, node_name: str, clock: Clock | None = None) -> None:
        self._client = client
        self._node_name = node_name
        self._clock = clock or SystemClock()
        self._queue: deque[_Happening] = deque()
        self._filled = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._correlator = Correlator()
        self._limit = TokenBucket(PER_S, BURST, self._clock)
        self._last_ns = 0
        self._lost = 0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = aio.spawn(self._run(), name="events")

    def pod_event(
        self, pod: PodRef, type_: EventType, reason: str, message: str, container: str = "", init: bool = False
    ) -> None:
        field_path = f"spec.{'initContainers' if init else 'containers'}{{{container}}}" if container else ""
        about = ObjectReference(
            api_version="v1", kind="Pod", namespace=pod.namespace, name=pod.name, uid=pod.uid, field_path=field_path
        )
        self._put(about, pod.namespace, type_, reason, message)

    def node_event(self, type_: EventType, reason: str, message: str) -> None:
        # The kubelet's reference to its node carries the name as UID, and `kubectl describe node` looks for that.
        about = ObjectReference(api_version="v1", kind="Node", name=self._node_name, uid=self._node_name)
        self._put(about, "default", type_, reason, message)

    async def close(self) -> None:
        """Stop; what cannot be written in time is counted in the log and lost."""
        if self._task is None:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_S):
                await self._idle.wait()
        await aio.cancel(self._task)
        self._task = None
        if self._queue:
            _log.warning("%d events were not written before the end", len(self._queue))

    def _put(self, about: ObjectReference, namespace: str, type_: EventType, reason: str, message: str) -> None:
        at_ns = max(int(self._clock.time() * 1e9), self._last_ns + 1)  # the name must be new
        self._last_ns = at_ns
        moment = from_epoch(at_ns / 1e9)
        event = Event(
            metadata=ObjectMeta(name=f"{about.name}.{at_ns:x}", namespace=namespace),
            involved_object=about,
            reason=reason,
            message=message if len(message) <= MESSAGE_LIMIT else message[: MESSAGE_LIMIT - 1] + "…",
            source=EventSource(component=COMPONENT, host=self._node_name),
            first_timestamp=moment,
            last_timestamp=moment,
            count=1,
            type=type_.value,
            reporting_component=COMPONENT,
            reporting_instance=self._node_name,
        )
        if len(self._queue) >= QUEUE_LIMIT:
            self._queue.popleft()
            self._lost += 1
        self._queue.append(_Happening(at_ns, event))
        self._idle.clear()
        self._filled.set()

    async def _run(self) -> None:
        while True:
            if not self._queue:
                self._idle.set()
                self._filled.clear()
                await self._filled.wait()
            if self._lost:
                _log.warning("%d events were lost: they came faster than the API server takes them", self._lost)
                self._lost = 0
            happening = self._queue[0]
            await self._record(happening)
            if self._queue and self._queue[0] is happening:
                self._queue.popleft()

    async def _record(self, happening: _Happening) -> None:
        decision = self._correlator.take(happening.event, happening.at_ns / 1e9)
        if isinstance(decision, Drop):
            _log.debug("event %s %s dropped: too many", happening.event.metadata.name, happening.event.reason)
            return
        for attempt in range(RETRIES):
            try:
                await self._limit.take()
                await self._write(decision)
            except AlreadyExists:  # the try before was answered into a broken connection
                self._correlator.stored(decision.key, decision.event)
                return
            except Error as exc:
                if exc.retry is Retry.NEVER:
                    # The namespace is going, or the API server finds the event invalid; again would not help.
                    _log.info("event %s %s not written: %s", decision.event.metadata.name, decision.event.reason, exc)
                    return
                if attempt == 0:
                    _log.warning("events wait for the API server: %s", exc)
                await asyncio.sleep(RETRY_S)
            else:
                return
        _log.warning("event %s %s lost after %d tries", decision.event.metadata.name, decision.event.reason, RETRIES)

    async def _write(self, decision: Create | Count) -> None:
        event = decision.event
        namespace = event.metadata.namespace
        if isinstance(decision, Count):
            body = {
                "count": event.count,
                "lastTimestamp": event.last_timestamp,
                "message": event.message,
            }
            path = namespaced(namespace, "events", event.metadata.name)
            try:
                await self._client.patch(path, Patch.STRATEGIC, body, Event)
            except NotFound:  # expired meanwhile: begin a new one that goes on counting, under a new name
                self._correlator.lost(decision.key)
                self._last_ns += 1
                name = f"{event.involved_object.name}.{self._last_ns:x}"
                event = msgspec.structs.replace(event, metadata=ObjectMeta(name=name, namespace=namespace))
                await self._client.create(namespaced(namespace, "events"), event, Event)
        else:
            await self._client.create(namespaced(namespace, "events"), event, Event)
        self._correlator.stored(decision.key, event)
