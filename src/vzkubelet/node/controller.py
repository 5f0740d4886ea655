"""Keeps the node registered, its lease renewed and its status true.

The status is computed every 10 s and written when something changed, or every 5 minutes. What the API server has is
known from a watch of our own node, so an idle node polls nothing, and a node that was deleted is registered again.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence

from vzkubelet import aio
from vzkubelet.aio import Clock, SystemClock
from vzkubelet.errors import MACHINE_LIMIT_REASON, Error, NotFound
from vzkubelet.kube import paths
from vzkubelet.kube.client import Client
from vzkubelet.kube.reflector import Added, Deleted, Delta, Modified, Reflector, Synced
from vzkubelet.model.node import ContainerImage, Node, NodeStatus
from vzkubelet.node import identity as identities
from vzkubelet.node import registration, status
from vzkubelet.node.facts import Disk, Readings
from vzkubelet.node.identity import Identity
from vzkubelet.node.lease import NodeLease
from vzkubelet.ports import EventType, Recorder

_log = logging.getLogger(__name__)

UPDATE_S = 10.0
REPORT_S = 300.0
"""nodeStatusUpdateFrequency and nodeStatusReportFrequency of the kubelet."""

_TRANSITION_EVENTS = {
    ("MemoryPressure", "True"): "NodeHasInsufficientMemory",
    ("MemoryPressure", "False"): "NodeHasSufficientMemory",
    ("DiskPressure", "True"): "NodeHasDiskPressure",
    ("DiskPressure", "False"): "NodeHasNoDiskPressure",
    ("PIDPressure", "False"): "NodeHasSufficientPID",
    (MACHINE_LIMIT_REASON, "True"): "VirtualMachineLimitReached",
    ("Ready", "True"): "NodeReady",
    ("Ready", "False"): "NodeNotReady",
}


class NodeController:
    """`read` measures the host; `faults` says why no pod can be run now (empty = Ready); `machine_limit` why no further
    machine (`status.conditions`); `images` lists what is on this host, None while nobody has looked.

    `run` never returns but by cancellation or a bug.
    """

    def __init__(
        self,
        client: Client,
        recorder: Recorder,
        identity: Identity,
        read: Callable[[], Awaitable[Readings]],
        faults: Callable[[], Sequence[str]],
        clock: Clock | None = None,
        jitter: random.Random | None = None,
        machine_limit: Callable[[], str | None] = lambda: None,
        images: Callable[[], Sequence[ContainerImage] | None] = lambda: None,
    ) -> None:
        self._client = client
        self._recorder = recorder
        self._identity = identity
        self._read = read
        self._faults = faults
        self._machine_limit = machine_limit
        self._images = images
        self._clock = clock or SystemClock()
        self._random = jitter or random.Random()  # noqa: S311  spreads load, keeps no secret
        self._watch = Reflector(
            client, paths.NODES, Node, self._on_delta, field_selector=f"metadata.name={identity.name}", jitter=jitter
        )
        self._node: Node | None = None
        self._ready = asyncio.Event()
        self._wake = asyncio.Event()
        self._readings = Readings(0, Disk(0, 0, 0, 0, 0))
        self._pressure = status.Pressure()
        self._told_unschedulable = False
        self._told_reboot = False
        self._next_report_at = 0.0

    @property
    def node(self) -> Node | None:
        """The node as the API server has it; None while it is not registered."""
        return self._node

    async def wait_ready(self) -> None:
        """Until the API server knows the node as Ready."""
        await self._ready.wait()

    def refresh(self) -> None:
        """Look again now: a fault came or went."""
        self._wake.set()

    async def run(self) -> None:
        self._recorder.node_event(EventType.NORMAL, "Starting", "Starting kubelet.")
        await self._register()
        lease = NodeLease(self._client, self._identity.name, self._uid, self._clock, self._random)
        tasks = [
            aio.spawn(coroutine, name=name, on_crash=lambda _: None)  # reported by whoever awaits `run`
            for name, coroutine in (
                ("node lease", lease.run()),
                ("node watch", self._watch.run()),
                ("node status", self._report()),
            )
        ]
        try:
            await asyncio.gather(*tasks)
        finally:
            await aio.cancel(*tasks)

    async def _report(self) -> None:
        while True:
            try:
                async with asyncio.timeout(UPDATE_S):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            try:
                await self._update()
            except NotFound:
                self._node = None
                self._wake.set()
            except Error as exc:
                _log.warning("status of node %s not written: %s", self._identity.name, exc)

    async def _update(self) -> None:
        if self._node is None:
            await self._register()
            return
        compute = await self._compute()
        before = self._node
        wanted = compute(before.status)
        changed = status.has_changed(before.status, wanted) or not self._labelled(before)
        if not changed and self._clock.monotonic() < self._next_report_at:
            return
        stored = await registration.write(self._client, before, wanted, self._identity)
        self._stored(stored, before.status, changed=changed)

    async def _register(self) -> None:
        compute = await self._compute()
        registered = await registration.register(self._client, self._identity, compute)
        self._stored(registered.node, registered.before, changed=True)

    def _stored(self, node: Node, before: NodeStatus, *, changed: bool) -> None:
        self._node = node
        # After a change the period starts at a random place, so that a fleet does not report in step.
        spread = self._random.random() - 0.5 if changed else 0.0
        self._next_report_at = self._clock.monotonic() + REPORT_S * (1 + spread)
        ready = status.find(node.status.conditions, "Ready")
        if ready is not None and ready.status == "True":
            self._ready.set()
        self._tell(before, node)

    async def _compute(self) -> registration.Compute:
        """Measure now; the result computes a status for whatever the API server has."""
        now = self._clock.time()
        faults = list(self._faults())
        try:
            self._readings = await self._read()
        except Error as exc:
            faults.append(str(exc))
        else:
            self._pressure = status.pressure(self._readings, self._pressure, now)
        readings, images = self._readings, self._images()
        wanted = status.conditions(self._pressure, faults, now, self._machine_limit())

        def compute(before: NodeStatus) -> NodeStatus:
            self._notice_reboot(before)
            return status.compute(self._identity, readings, wanted, before, now, images)

        return compute

    def _on_delta(self, delta: Delta[Node]) -> None:
        match delta:
            case Added(node) | Modified(node):
                self._node = node
                self._tell_schedulable(node)
            case Deleted(node):
                if self._node is None or self._node.metadata.uid == node.metadata.uid:
                    _log.warning("node %s was deleted, registering it again", self._identity.name)
                    self._node = None
                    self._wake.set()
            case Synced():
                if self._node is not None and self._node.metadata.uid not in self._watch.objects:
                    self._node = None  # deleted before we watched
                    self._wake.set()

    def _tell(self, before: NodeStatus, node: Node) -> None:
        """Events of the conditions that are not what they were."""
        for condition in node.status.conditions or []:
            known = status.find(before.conditions, condition.type)
            reason = _TRANSITION_EVENTS.get((condition.type, condition.status))
            if reason is not None and (known is None or known.status != condition.status):
                self._tell_status(reason)
                if reason == "NodeNotReady":
                    _log.warning("node %s is not ready: %s", self._identity.name, condition.message)
        self._tell_schedulable(node)

    def _tell_schedulable(self, node: Node) -> None:
        if node.spec.unschedulable != self._told_unschedulable:
            self._told_unschedulable = node.spec.unschedulable
            self._tell_status("NodeNotSchedulable" if node.spec.unschedulable else "NodeSchedulable")

    def _tell_status(self, reason: str) -> None:
        message = f"Node {self._identity.name} status is now: {reason}"
        self._recorder.node_event(EventType.NORMAL, reason, message)

    def _notice_reboot(self, before: NodeStatus) -> None:
        known, now = before.node_info.boot_id, self._identity.host.boot_id
        if known and now and known != now and not self._told_reboot:
            self._told_reboot = True
            message = f"Node {self._identity.name} has been rebooted, boot id: {now}"
            self._recorder.node_event(EventType.WARNING, "Rebooted", message)

    def _labelled(self, node: Node) -> bool:
        known = node.metadata.labels or {}
        return all(known.get(key) == value for key, value in identities.labels(self._identity).items())

    def _uid(self) -> str:
        return self._node.metadata.uid if self._node is not None else ""
