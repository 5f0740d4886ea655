"""The room node against a real API server: joining, heartbeat, status, outages."""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import audit
from tests.cluster.api import ApiError
from tests.cluster.control_plane import ControlPlane
from tests.cluster.node_credential import NodeCredential
from tests.integration.kube_support import connected, pod_body, until, until_true
from tests.support.cluster_fixtures import MintCredential
from vzkubelet import aio
from vzkubelet.errors import Unavailable
from vzkubelet.kube.events import EventRecorder
from vzkubelet.model.node import Taint
from vzkubelet.node import facts
from vzkubelet.node.controller import NodeController
from vzkubelet.node.identity import Identity
from vzkubelet.node.lease import NodeLease
from vzkubelet.node.status import KUBELET_VERSION

TAINT = Taint(key="virtual-kubelet.io/provider", value="macOS-vz", effect="NoSchedule")
LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"


def identity(credential: NodeCredential) -> Identity:
    return Identity(
        name=credential.node_name,
        address="127.0.0.1",
        port=10250,
        runtime_version="qemu://7.2",
        host=facts.host(),
        taints=(TAINT,),
        labels={"example.com/rack": "7"},
        max_pods=5,
    )


@dataclasses.dataclass
class Agent:
    controller: NodeController
    faults: list[str]


@contextlib.asynccontextmanager
async def running(credential: NodeCredential, directory: Path) -> AsyncIterator[Agent]:
    faults: list[str] = []
    async with connected(credential) as client:
        recorder = EventRecorder(client, credential.node_name)
        recorder.start()
        controller = NodeController(
            client, recorder, identity(credential), lambda: facts.read(directory), lambda: faults
        )
        task = aio.spawn(controller.run(), name="node")
        try:
            async with asyncio.timeout(30):
                await controller.wait_ready()
            yield Agent(controller, faults)
            assert not task.done(), task.exception()
        finally:
            await aio.cancel(task)
            await recorder.close()


def node_of(cluster: ControlPlane, name: str) -> dict[str, Any]:
    found: dict[str, Any] = cluster.api.get(f"/api/v1/nodes/{name}")
    return found


def renewed_at(cluster: ControlPlane, name: str) -> str:
    """Empty while there is no lease: a fresh cluster has no namespace for it yet."""
    try:
        return str(cluster.api.get(f"{LEASES}/{name}")["spec"]["renewTime"])
    except ApiError:
        return ""


def conditions(node: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {condition["type"]: condition for condition in node["status"]["conditions"]}


async def test_a_node_joins_as_itself(cluster: ControlPlane, mint_credential: MintCredential, tmp_path: Path) -> None:
    credential = await asyncio.to_thread(mint_credential)
    name = credential.node_name
    async with running(credential, tmp_path) as agent:
        node = node_of(cluster, name)
        assert {"key": TAINT.key, "value": TAINT.value, "effect": TAINT.effect} in node["spec"]["taints"]
        assert node["metadata"]["labels"]["kubernetes.io/hostname"] == name
        assert node["metadata"]["labels"]["example.com/rack"] == "7"
        status = node["status"]
        assert status["capacity"]["pods"] == "5"
        assert status["addresses"][0] == {"type": "InternalIP", "address": "127.0.0.1"}
        assert status["daemonEndpoints"]["kubeletEndpoint"]["Port"] == 10250
        assert status["nodeInfo"]["kubeletVersion"] == KUBELET_VERSION
        assert [c["type"] for c in status["conditions"]][-1] == "Ready"
        assert conditions(node)["Ready"]["status"] == "True"
        listed = cluster.run_kubectl("get", "node", name, "-o", "wide").stdout.decode()
        assert f"{name}   Ready" in listed
        assert "qemu://7.2" in listed

        def leased() -> bool:
            try:
                lease = cluster.api.get(f"{LEASES}/{name}")
            except ApiError:
                return False
            owner = lease["metadata"]["ownerReferences"][0]
            return bool(owner["kind"] == "Node" and owner["uid"] == node["metadata"]["uid"])

        await until_true(leased, "the lease")
        assert agent.controller.node is not None
        assert agent.controller.node.metadata.uid == node["metadata"]["uid"]
    reasons = {
        e["reason"]
        for e in cluster.api.get(f"/api/v1/namespaces/default/events?fieldSelector=involvedObject.name%3D{name}")[
            "items"
        ]
        if e.get("source", {}).get("component") == "kubelet"
    }
    assert {"Starting", "NodeHasSufficientMemory", "NodeReady"} <= reasons
    of_node = [e for e in cluster.audit_events if e.user.username == f"system:node:{name}"]
    assert of_node
    assert [str(e) for e in audit.forbidden_node_requests(of_node)] == []
    assert [str(e) for e in audit.requests_outside_node_grants(of_node)] == []


async def test_the_lease_moves_and_survives_being_taken_away(
    cluster: ControlPlane, mint_credential: MintCredential
) -> None:
    credential = await asyncio.to_thread(mint_credential)
    name = credential.node_name
    async with connected(credential) as client:
        lease = NodeLease(client, name, lambda: "")
        await lease.renew()
        first = cluster.api.get(f"{LEASES}/{name}")["spec"]
        await lease.renew()
        second = cluster.api.get(f"{LEASES}/{name}")["spec"]
        assert second["renewTime"] > first["renewTime"]
        assert (second["holderIdentity"], second["leaseDurationSeconds"]) == (name, 40)
        cluster.api.delete(f"{LEASES}/{name}")
        await lease.renew()
        assert cluster.api.get(f"{LEASES}/{name}")["spec"]["renewTime"] > second["renewTime"]


async def test_a_whole_second_is_a_renew_time_too(cluster: ControlPlane, mint_credential: MintCredential) -> None:
    """A MicroTime without its six digits is refused by the API server."""

    class Whole:
        def time(self) -> float:
            return 1_800_000_000.0

        def monotonic(self) -> float:
            return 0.0

    credential = await asyncio.to_thread(mint_credential)
    async with connected(credential) as client:
        await NodeLease(client, credential.node_name, lambda: "", Whole()).renew()
    lease = cluster.api.get(f"{LEASES}/{credential.node_name}")
    assert lease["spec"]["renewTime"] == "2027-01-15T08:00:00.000000Z"


async def test_taken_over_deleted_faulty_and_cordoned(
    cluster: ControlPlane, mint_credential: MintCredential, tmp_path: Path
) -> None:
    credential = await asyncio.to_thread(mint_credential)
    name = credential.node_name
    async with running(credential, tmp_path):
        pass
    uid = node_of(cluster, name)["metadata"]["uid"]
    cluster.run_kubectl("label", "node", name, "kubernetes.io/os-", "example.com/of=others")
    cluster.run_kubectl("taint", "node", name, f"{TAINT.key}-")
    async with running(credential, tmp_path) as agent:
        node = node_of(cluster, name)
        assert node["metadata"]["uid"] == uid
        assert node["metadata"]["labels"]["kubernetes.io/os"] == facts.host().operating_system
        assert node["metadata"]["labels"]["example.com/of"] == "others"
        assert TAINT.key not in [t["key"] for t in node["spec"].get("taints", [])], "taints are given at creation only"

        agent.faults.append("container runtime is down")
        agent.controller.refresh()
        await until_true(lambda: conditions(node_of(cluster, name))["Ready"]["status"] == "False", "NotReady")
        assert conditions(node_of(cluster, name))["Ready"]["message"] == "container runtime is down"
        agent.faults.clear()
        agent.controller.refresh()
        await until_true(lambda: conditions(node_of(cluster, name))["Ready"]["status"] == "True", "Ready again")

        cluster.run_kubectl("cordon", name)
        node_now = agent.controller
        await until(lambda: node_now.node is not None and node_now.node.spec.unschedulable, "the cordon is seen")

        await asyncio.to_thread(cluster.run_kubectl, "delete", "node", name)

        def made_again() -> bool:
            try:
                node = node_of(cluster, name)
            except ApiError:
                return False
            return bool(node["metadata"]["uid"] != uid)

        await until_true(made_again, "the node is registered again")
        assert TAINT.key in [t["key"] for t in node_of(cluster, name)["spec"]["taints"]]
    of_node = [e for e in cluster.audit_events if e.user.username == f"system:node:{name}"]
    assert [str(e) for e in audit.forbidden_node_requests(of_node)] == []


async def test_others_capacity_and_conditions_outlive_our_writes(
    cluster: ControlPlane, mint_credential: MintCredential, tmp_path: Path
) -> None:
    credential = await asyncio.to_thread(mint_credential)
    name = credential.node_name
    async with running(credential, tmp_path) as agent:
        patch = {
            "status": {
                "capacity": {"example.com/dongle": "2"},
                "conditions": [{"type": "NetworkUnavailable", "status": "False", "reason": "RouteCreated"}],
            }
        }
        cluster.api.request(
            "PATCH", f"/api/v1/nodes/{name}/status", patch, content_type="application/strategic-merge-patch+json"
        )
        controller = agent.controller
        await until(
            lambda: controller.node is not None and "example.com/dongle" in (controller.node.status.capacity or {}),
            "the watch tells",
        )
        agent.faults.append("x")
        controller.refresh()
        await until_true(lambda: conditions(node_of(cluster, name))["Ready"]["status"] == "False", "our next write")
        node = node_of(cluster, name)
        assert node["status"]["capacity"]["example.com/dongle"] == "2"
        assert "NetworkUnavailable" in conditions(node)
        assert [c["type"] for c in node["status"]["conditions"]][-1] == "Ready"
        writes = len([e for e in cluster.audit_events if e.verb == "patch" and f"nodes/{name}/status" in e.uri])
        controller.refresh()
        await asyncio.sleep(0.5)
        assert writes == len(
            [e for e in cluster.audit_events if e.verb == "patch" and f"nodes/{name}/status" in e.uri]
        ), "nothing differs, so nothing is written"


async def test_an_agent_outlives_its_api_server(
    cluster_factory: Callable[[], ControlPlane], mint_credential: MintCredential, tmp_path: Path
) -> None:
    cluster = await asyncio.to_thread(cluster_factory)
    credential = await asyncio.to_thread(lambda: mint_credential(cluster=cluster))
    name = credential.node_name
    async with running(credential, tmp_path):
        uid = node_of(cluster, name)["metadata"]["uid"]
        await until_true(lambda: renewed_at(cluster, name), "the lease")
        before = renewed_at(cluster, name)
        await asyncio.to_thread(cluster.kill_apiserver)
        await asyncio.sleep(3)
        await asyncio.to_thread(cluster.start_apiserver)
        await until_true(lambda: renewed_at(cluster, name) > before, "the lease moves")
        node = node_of(cluster, name)
        assert node["metadata"]["uid"] == uid
        assert conditions(node)["Ready"]["status"] == "True"
        await asyncio.to_thread(cluster.restart_apiserver)
        cluster.api.create("/api/v1/namespaces/default/pods", pod_body("p", name))


def test_the_own_address_is_the_one_that_reaches_the_api_server() -> None:
    assert facts.route_address("127.0.0.1", 6443) == "127.0.0.1"
    with pytest.raises(Unavailable, match="name it with --node-ip"):
        facts.route_address("api.invalid", 6443)
