"""The agent may be killed at any moment: no machine is lost, none doubled, nothing leaks, no line is lost."""

import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import agent as agents
from tests.cluster.control_plane import ControlPlane
from tests.support.agent_fixtures import NodeHost, Pods, container_status, machine_processes

COUNT = "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.05; done"
KILLS = 10


@pytest.fixture
def own_node(cluster: ControlPlane, node_host: NodeHost, tmp_path: Path) -> Iterator[agents.Agent]:
    """A node that the test may kill."""
    with node_host.agent(tmp_path, cluster) as agent:
        yield agent


@pytest.fixture
def own_pods(cluster: ControlPlane, own_node: agents.Agent, guest_image: str, namespace: str) -> Pods:
    return Pods(cluster, namespace, own_node.name, guest_image)


def restart(agent: agents.Agent, cluster: ControlPlane) -> None:
    agent.kill()
    agent.log.rename(agent.log.with_suffix(f".{time.monotonic_ns()}"))
    agent.start()
    agent.wait_ready(cluster)


def identity(pod: dict[str, Any]) -> list[tuple[Any, ...]]:
    return [
        (s["name"], s["containerID"], s["restartCount"], s["state"].get("running", {}).get("startedAt"))
        for s in pod["status"]["containerStatuses"]
    ]


def host_leftovers(agent: agents.Agent) -> list[str]:
    """Processes, mounts, interfaces and temporary files that speak of this agent's machines."""
    root = str(agent.cache)
    mounts = Path("/proc/mounts").read_text()
    state = agent.cache / "node"
    machines = [f"file {path}" for kind in ("machines", "pods", "volumes") for path in (state / kind).glob("*-*-*-*-*")]
    staging = [f"file {path}" for path in agent.cache.rglob(".staging-*")]
    return [
        *machine_processes(agent.cache),
        *(line for line in mounts.splitlines() if root in line),
        *machines,
        *staging,
    ]


def machines_of(agent: agents.Agent, uid: str) -> list[str]:
    """QEMU processes of one pod."""
    return [line for line in machine_processes(agent.cache) if "qemu-system" in line and f"guest={uid}" in line]


def forget_image(agent: agents.Agent, image: str) -> None:
    command = [agents.program(), "--cache-dir", str(agent.cache), "image", "rm", image]
    subprocess.run(command, capture_output=True, check=True)


@pytest.mark.timeout(400)
def test_killed_agent_finds_everything_as_it_was(
    cluster: ControlPlane, own_node: agents.Agent, own_pods: Pods, busybox_image: str
) -> None:
    pods = own_pods
    side = {"name": "side", "image": busybox_image, "command": ["sleep", "3600"]}
    pods.apply(pods.pod("alive", "sh", "-c", COUNT, sidecars=[side]))
    before = pods.wait_ready("alive")
    boot_id = pods.exec("alive", "cat", "/proc/sys/kernel/random/boot_id").stdout
    started = pods.exec("alive", "sh", "-c", "sleep 3600 & echo $!").stdout.strip().decode()
    for _ in range(3):
        restart(own_node, cluster)
        assert pods.exec("alive", "cat", "/proc/sys/kernel/random/boot_id").stdout == boot_id
        assert identity(pods.get("alive")) == identity(before)
        assert pods.exec("alive", "kill", "-0", started).returncode == 0
        time.sleep(random.uniform(0.2, 1.0))
    lines = pods.logs("alive", "-c", "vm").splitlines()
    assert lines == [f"line {number}" for number in range(1, len(lines) + 1)]
    assert len(lines) > 50
    pods.kubectl("delete", "pod", "alive", "--wait", "--timeout=60s", timeout_s=90)
    assert host_leftovers(own_node) == []


@pytest.mark.timeout(800)
def test_kills_at_random_moments_lose_and_double_nothing(
    cluster: ControlPlane, node_host: NodeHost, own_node: agents.Agent, own_pods: Pods, guest_image: str
) -> None:
    pods = own_pods
    seed = random.randrange(1 << 32)
    moments = random.Random(seed)
    for attempt in range(KILLS):
        name = f"p{attempt}"
        pods.apply(pods.pod(name, "sh", "-c", COUNT))
        time.sleep(moments.uniform(0.0, moments.choice((0.6, 6.0))))  # in the pull, the boot, or while it runs
        restart(own_node, cluster)
        pod = pods.wait_ready(name)
        assert container_status(pod)["restartCount"] == 0, f"seed {seed}"
        assert len(node_host.taps(own_node)) == 1, f"seed {seed}"
        assert len(list((own_node.cache / "node" / "machines").glob(f"{pod['metadata']['uid']}"))) == 1
        uid = pod["metadata"]["uid"]
        assert len(machines_of(own_node, uid)) == 1, f"seed {seed}"
        pods.wait(name, lambda _, name=name: pods.logs(name) != "", "writing its log")  # type: ignore[misc]
        lines = pods.logs(name).splitlines()
        assert lines == [f"line {number}" for number in range(1, len(lines) + 1)], f"seed {seed}"
        pods.kubectl("delete", "pod", name, "--wait=false")
        time.sleep(moments.uniform(0.0, 2.5))
        if attempt % 2:
            restart(own_node, cluster)  # in the deletion
        pods.kubectl("wait", "--for=delete", f"pod/{name}", "--timeout=60s", timeout_s=90)
        deadline = time.monotonic() + 10
        while host_leftovers(own_node) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert host_leftovers(own_node) == [], f"seed {seed}"
        forget_image(own_node, guest_image)  # the next pod pulls it again
    assert node_host.taps(own_node) == set(), f"seed {seed}"


def test_pod_deleted_while_no_agent_runs_is_cleaned_up(
    cluster: ControlPlane, own_node: agents.Agent, own_pods: Pods
) -> None:
    own_pods.apply(own_pods.pod("orphan", "sleep", "3600"))
    own_pods.wait_ready("orphan")
    own_node.kill()
    own_pods.kubectl("delete", "pod", "orphan", "--grace-period=0", "--force")
    own_node.log.rename(own_node.log.with_suffix(".before"))
    own_node.start()
    own_node.wait_ready(cluster)
    deadline = time.monotonic() + 20
    while host_leftovers(own_node):
        assert time.monotonic() < deadline, host_leftovers(own_node)
        time.sleep(0.2)


def test_node_survives_an_api_server_that_restarts(
    cluster_factory: Any, node_host: NodeHost, guest_image: str, tmp_path: Path
) -> None:
    cluster: ControlPlane = cluster_factory()
    with node_host.agent(tmp_path, cluster, "vz-weather") as agent:
        pods = Pods(cluster, "default", agent.name, guest_image)
        pods.apply(pods.pod("steady", "sh", "-c", COUNT))
        before = pods.wait_ready("steady")
        cluster.restart_apiserver()
        pods.apply(pods.pod("after", "echo", "still here"))
        pods.wait_phase("after", "Succeeded")
        assert identity(pods.get("steady")) == identity(before)
