"""What an agent does about images besides pulling them for a pod: ahead of it, in its sight, and when they are old."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import agent as agents
from tests.cluster.control_plane import ControlPlane
from tests.cluster.registry import Registry
from tests.support.agent_fixtures import NodeHost, Pods, container_status
from tests.support.cluster_fixtures import StartRegistry
from tests.support.vm_images import make_files
from vzkubelet.images.store import Store

WAIT_S = 60.0
OFTEN = ("--image-gc-high-threshold", "1", "--image-gc-low-threshold", "0", "--minimum-image-ttl-duration", "0")
"""Every disk is fuller than that: at its first look, at its start, the agent removes what nobody uses."""
StartNode = Callable[..., agents.Agent]


@pytest.fixture
def start_node(cluster: ControlPlane, node_host: NodeHost, tmp_path: Path) -> Iterator[StartNode]:
    """Starts one node with flags of the test's own."""
    opened: list[Any] = []

    def start(*flags: str) -> agents.Agent:
        opened.append(node_host.agent(tmp_path / "node", cluster, flags=flags))
        agent: agents.Agent = opened[-1].__enter__()
        return agent

    yield start
    for context in opened:
        context.__exit__(None, None, None)


@pytest.fixture
def own_registry(registry_factory: StartRegistry) -> Registry:
    """One that the test may stop."""
    return registry_factory()


def listed_images(cluster: ControlPlane, node: str) -> dict[str, int]:
    """Sizes in the node's status by each of the names."""
    found = json.loads(cluster.run_kubectl("get", "node", node, "-o", "json").stdout)
    return {name: image["sizeBytes"] for image in found["status"].get("images", []) for name in image["names"]}


def node_events(cluster: ControlPlane, node: str) -> list[tuple[str, str]]:
    selector = f"involvedObject.kind=Node,involvedObject.name={node}"
    found = json.loads(
        cluster.run_kubectl("-n", "default", "get", "events", "--field-selector", selector, "-o", "json").stdout
    )
    return [(item["reason"], item["message"]) for item in found["items"]]


def wait_until(holds: Callable[[], bool], what: str, timeout_s: float = WAIT_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > deadline:
            pytest.fail(f"not {what} after {timeout_s:.0f} s")
        time.sleep(0.2)


def stored(agent: agents.Agent) -> set[str]:
    """References in the agent's store."""
    listing = image_command(agent, "ls", "--json")
    return {row["reference"] for row in json.loads(listing)}


def push_idle(guest: Path, directory: Path, seed: int, image: str) -> None:
    """An image of its own content, which nobody starts, for the same machines as the guest's."""
    files = make_files(directory, seed)
    for name, path in (("disk.img", files.disk), ("aux.img", files.aux)):
        path.rename(directory / name)
    shutil.copyfile(guest / "image-config.json", directory / "image-config.json")
    agents.push_guest(directory, image)


def image_command(agent: agents.Agent, *words: str) -> str:
    command = [agents.program(), "--cache-dir", str(agent.cache), "image", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **agents.LOGIN})
    return done.stdout


@pytest.mark.timeout(240)
def test_an_image_pulled_ahead_starts_pods_without_its_registry_and_is_in_the_nodes_status(
    cluster: ControlPlane, start_node: StartNode, own_registry: Registry, guest_directory: Path, namespace: str
) -> None:
    image = f"{own_registry.host}/ahead:1"
    agents.push_guest(guest_directory, image)
    node = start_node("--prepull", f"{image},{own_registry.host}/not-there:1")
    wait_until(lambda: image in listed_images(cluster, node.name), "in the status of its node")
    images = listed_images(cluster, node.name)
    (digest,) = (name for name in images if name.startswith(f"{own_registry.host}/ahead@sha256:"))
    assert images[digest] == images[image] > 2**20
    told = node_events(cluster, node.name)
    assert any(reason == "ImagePrePulled" and digest in text for reason, text in told)
    assert any(reason == "ImagePrePullFailed" and "not-there" in text for reason, text in told)

    own_registry.stop()
    pods = Pods(cluster, namespace, node.name, image)
    pods.apply(pods.pod("offline", "sleep", "600", vm={"imagePullPolicy": "IfNotPresent"}))
    ready = pods.wait_ready("offline")
    assert container_status(ready)["imageID"] == digest
    assert [reason for _, reason, _ in pods.events("offline")].count("Pulling") == 0
    pods.kubectl("delete", "pod", "offline", "--wait", timeout_s=60)


@pytest.mark.timeout(240)
def test_a_slow_pull_tells_how_far_it_is_and_writes_the_status_rarely(
    cluster: ControlPlane, start_node: StartNode, own_registry: Registry, guest_directory: Path, namespace: str
) -> None:
    image = f"{own_registry.host}/slow:1"
    agents.push_guest(guest_directory, image)
    size_bytes = sum(path.stat().st_size for path in own_registry.directory.rglob("data") if path.is_file())
    node = start_node("--image-pull-rate", str(size_bytes // 20))  # about twenty seconds
    pods = Pods(cluster, namespace, node.name, image)
    began = time.monotonic()
    pods.apply(pods.pod("slow", "sleep", "600"))

    def message(pod: dict[str, Any]) -> str:
        statuses = pod["status"].get("containerStatuses")
        return str(container_status(pod)["state"].get("waiting", {}).get("message", "")) if statuses else ""

    pulling = pods.wait("slow", lambda pod: message(pod).startswith("Pulling "), "telling its progress")
    assert " MiB" in message(pulling)
    assert message(pulling).endswith(" left")
    assert pulling["status"]["phase"] == "Pending"
    later = pods.wait("slow", lambda pod: message(pod) not in ("", message(pulling)), "telling more")
    assert message(later).startswith("Pulling ")
    ready = pods.wait_ready("slow")
    took_s = time.monotonic() - began
    name = f"system:node:{node.name}"
    writes = [
        event
        for event in cluster.audit_events
        if event.user.username == name and event.verb == "patch" and event.object.name == "slow"
    ]
    assert 3 <= len(writes) <= 6 + took_s / 5
    assert message(ready) == ""
    pods.kubectl("delete", "pod", "slow", "--wait", timeout_s=60)


@pytest.mark.timeout(180)
def test_damage_is_told_put_aside_and_pulled_again(
    cluster: ControlPlane, start_node: StartNode, own_registry: Registry, guest_directory: Path, tmp_path: Path
) -> None:
    image = f"{own_registry.host}/kept:1"
    push_idle(guest_directory, tmp_path / "idle", 1, image)
    node = start_node("--prepull", image, "--image-scrub-interval", "2s")
    wait_until(lambda: image in listed_images(cluster, node.name), "in the status of its node")
    (disk,) = (path for path in (node.cache / "images" / "content").rglob("*") if path.stat().st_size == 8 * 2**20)
    before, inode = disk.read_bytes(), disk.stat().st_ino
    with disk.open("r+b") as file:  # only root may, as bit rot does
        file.seek(1000)
        file.write(bytes([before[1000] ^ 1]))

    def is_whole_again() -> bool:
        return disk.exists() and disk.stat().st_ino != inode and disk.read_bytes() == before

    wait_until(is_whole_again, "pulled again")
    told = [text for reason, text in node_events(cluster, node.name) if reason == "ImageDamaged"]
    assert len(told) == 1
    assert image in told[0]


@pytest.mark.timeout(300)
def test_collection_removes_what_nobody_uses_and_nothing_that_runs_is_pulled_ahead_or_pinned(
    cluster: ControlPlane,
    start_node: StartNode,
    own_registry: Registry,
    guest_directory: Path,
    namespace: str,
    tmp_path: Path,
) -> None:
    """Hazard: an agent that has just started does not know its pods yet, and removes the images that they run."""
    host = own_registry.host
    running, ahead, pinned, unused = (f"{host}/{name}:1" for name in ("running", "ahead", "pinned", "unused"))
    agents.push_guest(guest_directory, running)
    for seed, image in enumerate((ahead, pinned, unused)):
        push_idle(guest_directory, tmp_path / "idle", seed, image)
    node = start_node("--prepull", ahead, *OFTEN)
    pods = Pods(cluster, namespace, node.name, running)
    pods.apply(pods.pod("runs", "sleep", "600"))
    before = pods.wait_ready("runs")
    for image in (pinned, unused):
        image_command(node, "pull", image)
    Store(node.cache / "images").pin(pinned)
    assert stored(node) == {running, ahead, pinned, unused}

    node.kill()
    node.start()
    node.wait_ready(cluster)
    wait_until(lambda: unused not in stored(node), "removed")
    assert stored(node) == {running, ahead, pinned}
    after = pods.wait_ready("runs")
    assert container_status(after)["containerID"] == container_status(before)["containerID"]
    assert pods.exec("runs", "cat", "/proc/uptime").returncode == 0
    wait_until(lambda: unused not in listed_images(cluster, node.name), "out of the status of its node")
    assert running in listed_images(cluster, node.name)
    assert any(reason == "FreeDiskSpaceFailed" for reason, _ in node_events(cluster, node.name))
    pods.kubectl("delete", "pod", "runs", "--wait", timeout_s=60)
