"""A node with the vz driver on the Mac of `tests/doubles/apple`: the short way through what the whole suite runs with
``--machine-driver vz`` (`make test-vz`)."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.cluster import agent as agents
from tests.cluster.control_plane import ControlPlane
from tests.cluster.registry import Registry
from tests.support.agent_fixtures import VZ_HELPER, NodeHost, Pods, container_status, machine_processes
from tests.support.mac_host import QemuMac

COUNT = "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.1; done"


@pytest.fixture
def mac_node(cluster: ControlPlane, mac_node_host: NodeHost, tmp_path: Path) -> Iterator[agents.Agent]:
    with mac_node_host.agent(tmp_path, cluster) as agent:
        yield agent


@pytest.fixture
def mac_pods(
    cluster: ControlPlane, mac_node: agents.Agent, mac_guest: Path, registry: Registry, namespace: str
) -> Pods:
    reference = f"{registry.host}/mac-guest:latest"
    agents.push_guest(mac_guest, reference)
    return Pods(cluster, namespace, mac_node.name, reference)


def helper_pids(agent: agents.Agent, uid: str) -> list[int]:
    """Of the helpers that run the pod's machine."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if VZ_HELPER in command and any(str(agent.cache) in word and uid in word for word in command):
            found.append(process.pid)
    return found


def started(pod: dict[str, Any]) -> list[tuple[Any, ...]]:
    statuses = pod["status"]["containerStatuses"]
    return [(s["name"], s["containerID"], s["restartCount"], s["state"]["running"]["startedAt"]) for s in statuses]


@pytest.mark.timeout(240)
def test_pod_with_a_sidecar_outlives_its_agent_and_restarts_when_its_helper_dies(
    cluster: ControlPlane, mac: QemuMac, mac_node: agents.Agent, mac_pods: Pods, busybox_image: str
) -> None:
    pods = mac_pods
    side = {"name": "side", "image": busybox_image, "command": ["sleep", "3600"]}
    pods.apply(pods.pod("p", "sh", "-c", COUNT, sidecars=[side], restartPolicy="Always"))
    ready = pods.wait_ready("p")
    uid = ready["metadata"]["uid"]
    assert f"ip_address={ready['status']['podIP']}\n" in mac.leases.read_text()
    assert pods.exec("p", "hostname").stdout == b"p\n"
    assert pods.exec("p", "sh", "-c", "exit 3", check=False).returncode == 3
    assert pods.logs("p", "-c", "vm").startswith("line 1\nline 2\n")

    helpers = helper_pids(mac_node, uid)
    assert len(helpers) == 1
    mac_node.kill()
    mac_node.log.rename(mac_node.log.with_suffix(".killed"))
    mac_node.start()
    mac_node.wait_ready(cluster)
    assert helper_pids(mac_node, uid) == helpers, "the machine was not adopted"
    assert started(pods.wait_ready("p")) == started(ready)
    lines = pods.logs("p", "-c", "vm").splitlines()
    assert lines == [f"line {number}" for number in range(1, len(lines) + 1)]

    os.kill(helpers[0], signal.SIGKILL)
    again = pods.wait("p", lambda pod: container_status(pod)["restartCount"] == 1, "restarted")
    last = container_status(again)["lastState"]["terminated"]
    assert last["exitCode"] != 0
    assert f"the helper process {helpers[0]} of the virtual machine" in last["message"]
    pods.wait_ready("p")
    new = helper_pids(mac_node, uid)
    assert len(new) == 1
    assert new != helpers
    assert len(mac.taps()) == 1
    pods.kubectl("delete", "pod", "p", "--wait", "--timeout=60s", timeout_s=90)
    assert machine_processes(mac_node.cache) == []
    mac.check()
