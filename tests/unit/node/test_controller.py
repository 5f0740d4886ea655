"""The controller and the lease against an API server in memory that keeps one node and one lease."""

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import msgspec
import pytest

from tests.unit.kube.api import Answer, Api, LoopClock, failure
from tests.unit.node.test_status import MINE, PLENTY
from vzkubelet import aio
from vzkubelet.errors import Unavailable
from vzkubelet.kube.transport import Request
from vzkubelet.model.node import ContainerImage
from vzkubelet.node.controller import NodeController
from vzkubelet.node.facts import Readings
from vzkubelet.ports import EventType

NODE = "/api/v1/nodes/mac-1"
LEASE = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/mac-1"


class Recorded:
    def __init__(self) -> None:
        self.node: list[tuple[str, str]] = []

    def pod_event(self, *_: object, **__: object) -> None:
        raise AssertionError("an event about a pod")

    def node_event(self, type_: EventType, reason: str, message: str) -> None:
        self.node.append((reason, message))

    @property
    def reasons(self) -> list[str]:
        return [reason for reason, _ in self.node]


class Server:
    """Just enough of nodes and leases. Merges patches shallowly, which is all that these tests look at."""

    def __init__(self) -> None:
        self.api = Api(self.answer)
        self.node: dict[str, Any] | None = None
        self.lease: dict[str, Any] | None = None
        self.down = False
        self.uids = 0
        self.version = 100
        self.renewals: list[float] = []
        self.writes: list[float] = []
        self._events: list[asyncio.Queue[bytes]] = []

    def answer(self, request: Request) -> Answer:
        if self.down:
            raise Unavailable("refused")
        query = dict(request.query)
        match request.method, request.path:
            case "GET", "/api/v1/nodes":
                assert query["fieldSelector"] == "metadata.name=mac-1"
                return Answer(stream=self._watch) if "watch" in query else self._list()
            case "GET", "/api/v1/nodes/mac-1":
                return failure(404, "NotFound") if self.node is None else Answer(body=self.node)
            case "POST", "/api/v1/nodes":
                if self.node is not None:
                    return failure(409, "AlreadyExists")
                self.uids += 1
                self.node = msgspec.json.decode(request.body or b"")
                self.node["metadata"]["uid"] = f"uid-{self.uids}"
                return self._changed("ADDED")
            case "PATCH", "/api/v1/nodes/mac-1/status":
                if self.node is None:
                    return failure(404, "NotFound")
                self._patch_node(msgspec.json.decode(request.body or b""))
                return self._changed("MODIFIED")
            case "PATCH", path if path == LEASE:
                if self.lease is None:
                    return failure(404, "NotFound")
                self.lease = msgspec.json.decode(request.body or b"")
                self.renewals.append(asyncio.get_running_loop().time())
                return Answer(body=self.lease)
            case "POST", path if path == LEASE.rpartition("/")[0]:
                self.lease = msgspec.json.decode(request.body or b"")
                self.renewals.append(asyncio.get_running_loop().time())
                return Answer(201, self.lease)
        raise AssertionError(f"{request.method} {request.path}")

    def delete_node(self) -> None:
        assert self.node is not None
        self._send("DELETED", self.node)
        self.node = None

    def change(self, **spec: Any) -> None:
        assert self.node is not None
        self.node["spec"] = {**self.node.get("spec", {}), **spec}
        self._changed("MODIFIED")

    def condition(self, type_: str) -> dict[str, Any]:
        assert self.node is not None
        return next(c for c in self.node["status"]["conditions"] if c["type"] == type_)

    def _patch_node(self, patch: dict[str, Any]) -> None:
        assert self.node is not None
        status = patch["status"]
        status.pop("$setElementOrder/conditions")
        status["addresses"] = [a for a in status["addresses"] if "$patch" not in a]
        self.node["status"] = {**self.node["status"], **status}
        labels = patch.get("metadata", {}).get("labels", {})
        self.node["metadata"]["labels"] = {**self.node["metadata"].get("labels", {}), **labels}

    def _list(self) -> Answer:
        items = [self.node] if self.node is not None else []
        return Answer(body={"metadata": {"resourceVersion": str(self.version)}, "items": items})

    def _changed(self, kind: str) -> Answer:
        assert self.node is not None
        self.version += 1
        self.node["metadata"]["resourceVersion"] = str(self.version)
        self.writes.append(asyncio.get_running_loop().time())
        self._send(kind, self.node)
        return Answer(body=self.node)

    def _send(self, kind: str, node: dict[str, Any]) -> None:
        for queue in self._events:
            queue.put_nowait(msgspec.json.encode({"type": kind, "object": node}) + b"\n")

    async def _watch(self) -> AsyncGenerator[bytes, None]:
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        self._events.append(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self._events.remove(queue)


class Agent:
    def __init__(self, server: Server) -> None:
        self.server = server
        self.faults: list[str] = []
        self.machine_limit: str | None = None
        self.images: list[ContainerImage] | None = None
        self.readings: Readings | Exception = PLENTY
        self.recorded = Recorded()
        self.controller = NodeController(
            server.api.client(),
            self.recorded,
            MINE,
            self._read,
            lambda: self.faults,
            LoopClock(),
            random.Random(3),
            machine_limit=lambda: self.machine_limit,
            images=lambda: self.images,
        )

    async def _read(self) -> Readings:
        if isinstance(self.readings, Exception):
            raise self.readings
        return self.readings

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Agent"]:
        task = aio.spawn(self.controller.run(), name="controller")
        try:
            await asyncio.sleep(0.05)
            yield self
            assert not task.done(), task.exception()
        finally:
            await aio.cancel(task)


async def test_a_fresh_node_is_registered_ready_with_taint_and_events() -> None:
    server = Server()
    async with Agent(server).running() as agent:
        await asyncio.wait_for(agent.controller.wait_ready(), 1)
    assert server.node is not None
    assert server.node["spec"]["taints"][0]["effect"] == "NoSchedule"
    assert agent.recorded.reasons == [
        "Starting",
        "NodeHasSufficientMemory",
        "NodeHasNoDiskPressure",
        "NodeHasSufficientPID",
        "NodeReady",
    ]
    assert agent.recorded.node[-1][1] == "Node mac-1 status is now: NodeReady"


async def test_an_idle_node_writes_its_status_every_five_minutes_and_polls_nothing() -> None:
    server = Server()
    async with Agent(server).running():
        await asyncio.sleep(60)
        before, writes = len(server.api.requests), len(server.writes)
        await asyncio.sleep(3000)
    requests = server.api.requests[before:]
    assert 8 <= len(server.writes) - writes <= 11
    methods = {(r.method, r.path) for r in requests}
    assert methods == {("PATCH", NODE + "/status"), ("PATCH", LEASE)}
    assert len(requests) / 50 <= 6.2


async def test_images_are_told_when_they_come_and_go_and_not_again() -> None:
    server = Server()
    async with Agent(server).running() as agent:
        await asyncio.sleep(30)
        before = len(server.writes)
        agent.images = [ContainerImage(names=["repo@sha256:1", "repo:1"], size_bytes=7)]
        agent.controller.refresh()
        await asyncio.sleep(60)
        assert server.node is not None
        assert server.node["status"]["images"] == [{"names": ["repo@sha256:1", "repo:1"], "sizeBytes": 7}]
        assert len(server.writes) == before + 1
        agent.images = []
        await asyncio.sleep(20)
        assert server.node["status"]["images"] == []


async def test_an_agent_that_has_not_looked_yet_keeps_what_was_told_of_images() -> None:
    """Hazard: each restart of the agent empties the list, and the scheduler prefers other nodes for a while."""
    server = Server()
    async with Agent(server).running() as agent:
        agent.images = [ContainerImage(names=["repo:1"], size_bytes=7)]
        agent.controller.refresh()
        await asyncio.sleep(1)
    async with Agent(server).running():
        await asyncio.sleep(400)
    assert server.node is not None
    assert server.node["status"]["images"] == [{"names": ["repo:1"], "sizeBytes": 7}]


async def test_ready_heartbeats_are_further_apart_than_forty_seconds() -> None:
    server = Server()
    async with Agent(server).running():
        await asyncio.sleep(2000)
    gaps = [after - before for before, after in zip(server.writes, server.writes[1:], strict=False)]
    assert min(gaps) > 40


async def test_a_known_node_is_taken_over_without_taints_and_without_repeated_events() -> None:
    server = Server()
    async with Agent(server).running():
        pass
    assert server.node is not None
    server.node["metadata"]["labels"] = {"of": "others"}
    server.node["spec"] = {}
    async with Agent(server).running() as second:
        await asyncio.wait_for(second.controller.wait_ready(), 1)
    assert server.uids == 1
    assert server.node["metadata"]["labels"]["of"] == "others"
    assert server.node["metadata"]["labels"]["kubernetes.io/os"] == "darwin"
    assert "taints" not in str(server.api.bodies("PATCH"))
    assert second.recorded.reasons == ["Starting"]


async def test_a_node_that_was_deleted_is_registered_again_and_its_lease_follows() -> None:
    server = Server()
    async with Agent(server).running():
        await asyncio.sleep(1)
        server.delete_node()
        server.lease = None  # the garbage collector's work
        await asyncio.sleep(0.2)
        assert server.node is not None
        assert server.node["spec"]["taints"]
        await asyncio.sleep(11)
        assert server.lease is not None
        assert server.lease["metadata"]["ownerReferences"][0]["uid"] == "uid-2"


async def test_a_node_that_was_deleted_unseen_is_registered_again_at_the_next_report() -> None:
    server = Server()
    agent = Agent(server)
    async with agent.running():
        await asyncio.sleep(1)
        server.node = None  # and no event tells
        await asyncio.sleep(700)
        assert server.node is not None
        assert server.uids == 2


async def test_a_fault_shows_within_seconds_and_goes_again() -> None:
    server = Server()
    async with Agent(server).running() as agent:
        agent.faults.append("docker is down")
        await asyncio.sleep(11)
        assert server.condition("Ready")["status"] == "False"
        assert server.condition("Ready")["message"] == "docker is down"
        agent.faults.clear()
        agent.controller.refresh()
        await asyncio.sleep(0.1)
        assert server.condition("Ready")["status"] == "True"
    assert agent.recorded.reasons[-2:] == ["NodeNotReady", "NodeReady"]


async def test_a_host_that_cannot_be_measured_is_not_ready_and_says_why() -> None:
    server = Server()
    agent = Agent(server)
    agent.readings = Unavailable("/cache cannot be used: No such file or directory")
    async with agent.running():
        assert server.condition("Ready")["message"] == "/cache cannot be used: No such file or directory"
        assert server.condition("MemoryPressure")["status"] == "False"
        agent.readings = PLENTY
        await asyncio.wait_for(agent.controller.wait_ready(), 15)


async def test_an_unknown_ready_condition_is_set_right() -> None:
    server = Server()
    async with Agent(server).running():
        await asyncio.sleep(1)
        server.condition("Ready")["status"] = "Unknown"  # the node lifecycle controller, after an outage
        server.change()
        await asyncio.sleep(10.5)
        assert server.condition("Ready")["status"] == "True"


async def test_cordon_and_uncordon_are_told() -> None:
    server = Server()
    async with Agent(server).running() as agent:
        await asyncio.sleep(1)
        server.change(unschedulable=True)
        await asyncio.sleep(0.1)
        server.change(unschedulable=False)
        await asyncio.sleep(0.1)
    assert agent.recorded.reasons[-2:] == ["NodeNotSchedulable", "NodeSchedulable"]


async def test_a_reboot_is_told_once() -> None:
    server = Server()
    async with Agent(server).running():
        pass
    assert server.node is not None
    server.node["status"]["nodeInfo"]["bootID"] = "before"
    async with Agent(server).running() as agent:
        await asyncio.sleep(30)
    assert agent.recorded.node.count(("Rebooted", "Node mac-1 has been rebooted, boot id: b")) == 1


async def test_an_api_server_that_is_away_at_the_start_is_waited_for() -> None:
    server = Server()
    server.down = True
    async with Agent(server).running() as agent:
        await asyncio.sleep(60)
        server.down = False
        await asyncio.wait_for(agent.controller.wait_ready(), 7.1)


async def test_the_lease_is_renewed_every_ten_seconds_with_six_digits() -> None:
    server = Server()
    async with Agent(server).running():
        await asyncio.sleep(100)
    gaps = [after - before for before, after in zip(server.renewals, server.renewals[1:], strict=False)]
    assert all(10 <= gap <= 10.4 for gap in gaps)
    assert server.lease is not None
    spec = server.lease["spec"]
    assert (spec["holderIdentity"], spec["leaseDurationSeconds"]) == ("mac-1", 40)
    assert len(spec["renewTime"].partition(".")[2]) == 7
    assert server.lease["metadata"]["ownerReferences"] == [
        {"apiVersion": "v1", "kind": "Node", "name": "mac-1", "uid": "uid-1"}
    ]


async def test_the_lease_is_tried_again_quickly_so_that_a_short_outage_does_not_cost_the_node() -> None:
    server = Server()
    async with Agent(server).running():
        await asyncio.sleep(1)
        server.down = True
        await asyncio.sleep(30)
        server.down = False
        await asyncio.sleep(7.1)
        last = server.renewals[-1]
        assert last > 31


async def test_a_bug_in_one_part_ends_the_controller_and_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()
    agent = Agent(server)

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(agent.controller, "_on_delta", broken)
    agent.controller._watch._on_delta = broken
    with pytest.raises(ZeroDivisionError):
        await agent.controller.run()


async def test_a_limit_of_machines_shows_at_once_and_goes_again() -> None:
    server = Server()
    agent = Agent(server)
    agent.machine_limit = ""

    def limit() -> dict[str, Any]:
        assert server.node is not None
        found = [c for c in server.node["status"]["conditions"] if c["type"] == "VirtualMachineLimit"]
        return found[0] if found else {}

    async with agent.running():
        assert limit()["status"] == "False"
        agent.machine_limit = "two macOS guests run; delete one"
        agent.controller.refresh()
        await asyncio.sleep(0.1)
        assert (limit()["status"], limit()["message"]) == ("True", "two macOS guests run; delete one")
        agent.machine_limit = ""
        agent.controller.refresh()
        await asyncio.sleep(0.1)
        assert limit()["status"] == "False"
    assert agent.recorded.reasons.count("VirtualMachineLimitReached") == 1
