"""A Mac that runs as many machines as Apple allows: what a pod too many shows, and what its node does."""

import json
from typing import Any

import pytest

from tests.cluster import agent as agents
from tests.cluster.control_plane import ControlPlane
from tests.e2e.test_mac_nodes import mac_node as mac_node
from tests.e2e.test_mac_nodes import mac_pods as mac_pods
from tests.support.agent_fixtures import Pods, container_status
from tests.support.mac_host import QemuMac


def limit(cluster: ControlPlane, node: agents.Agent) -> dict[str, Any]:
    found = json.loads(cluster.run_kubectl("get", "node", node.name, "-o", "json").stdout)
    conditions = found["status"]["conditions"]
    condition: dict[str, Any] = next(c for c in conditions if c["type"] == "VirtualMachineLimit")
    return condition


@pytest.mark.timeout(240)
def test_pod_without_a_slot_is_pending_with_its_cause_and_runs_when_there_is_one(
    cluster: ControlPlane,
    mac: QemuMac,
    mac_node: agents.Agent,
    mac_pods: Pods,
) -> None:
    assert limit(cluster, mac_node)["status"] == "False"
    mac.fail("start", code=6, times=2)
    mac_pods.apply(mac_pods.pod("p", "sleep", "3600"))

    def is_refused(pod: dict[str, Any]) -> bool:
        waiting = container_status(pod)["state"].get("waiting", {}) if pod["status"].get("containerStatuses") else {}
        return bool(waiting.get("reason") == "VirtualMachineLimit")

    refused = mac_pods.wait("p", is_refused, "refused")
    assert refused["status"]["phase"] == "Pending"
    assert "two running macOS guests" in container_status(refused)["state"]["waiting"]["message"]
    condition = limit(cluster, mac_node)
    assert (condition["status"], condition["reason"]) == ("True", "VirtualMachineLimitReached")
    assert "pgrep -fl com.apple.Virtualization.VirtualMachine" in condition["message"]
    uid = refused["metadata"]["uid"]
    events = mac_pods.kubectl("get", "events", "--field-selector", f"involvedObject.uid={uid}", "-o", "wide").stdout
    assert b"VirtualMachineLimit" in events

    ready = mac_pods.wait_ready("p")
    assert container_status(ready)["restartCount"] == 0
    assert mac.pending_faults() == []
    assert limit(cluster, mac_node)["status"] == "False"
    mac.check()
