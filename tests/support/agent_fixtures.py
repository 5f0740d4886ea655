"""Pytest fixtures for the whole agent: a guest image in a registry, a node on a real control plane, pods on it."""

import contextlib
import json
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.cluster import agent as agents
from tests.cluster.control_plane import ControlPlane
from tests.cluster.docker_engine import DockerEngine
from tests.cluster.node_credential import mint
from tests.cluster.registry import Registry

POD_TIMEOUT_S = 120.0


@pytest.fixture(scope="session")
def guest_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The guest image as files: disk.img, aux.img, image-config.json."""
    return agents.build_guest(tmp_path_factory.mktemp("guest") / "image")


@pytest.fixture(scope="session")
def guest_image(guest_directory: Path, registry: Registry) -> str:
    """The guest image in the session's registry."""
    reference = f"{registry.host}/linux-guest:latest"
    agents.push_guest(guest_directory, reference)
    return reference


@pytest.fixture(scope="session")
def busybox_image(docker_engine: DockerEngine, registry: Registry) -> str:
    """The side-cars' image in the session's registry."""
    return docker_engine.push_busybox(registry)


@pytest.fixture(scope="session")
def node(
    cluster: ControlPlane,
    docker_engine: DockerEngine,
    guest_directory: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[agents.Agent]:
    """The session's node with the qemu driver, Ready."""
    name, directory = f"vz-{uuid.uuid4().hex[:8]}", tmp_path_factory.mktemp("node")
    credential = mint(cluster, name, directory / "credential")
    agent = agents.Agent(directory, credential, name=name, docker_host=docker_engine.host, guest=guest_directory)
    agent.start()
    try:
        agent.wait_ready(cluster)
        yield agent
    finally:
        agent.tear_down()


class Pods:
    """Pods of one test in a namespace of its own."""

    def __init__(self, cluster: ControlPlane, namespace: str, node: str, image: str) -> None:
        self._cluster = cluster
        self.namespace = namespace
        self._node = node
        self._image = image

    def kubectl(self, *arguments: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[bytes]:
        return self._cluster.run_kubectl("-n", self.namespace, *arguments, check=check, **options)

    def apply(self, *documents: dict[str, Any]) -> None:
        self.kubectl("apply", "-f", "-", stdin="\n---\n".join(map(json.dumps, documents)).encode())

    def pod(self, name: str, *command: str, **spec: Any) -> dict[str, Any]:
        """A pod with one machine on this test's node; `spec` adds fields, `vm` adds fields of the container."""
        vm = {
            "name": "vm",
            "image": self._image,
            "resources": {"requests": {"cpu": "1", "memory": "256Mi"}},
            **({"command": list(command)} if command else {}),
            **spec.pop("vm", {}),
        }
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": {
                "nodeName": self._node,
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 2,
                "tolerations": [{"operator": "Exists"}],
                "containers": [vm, *spec.pop("sidecars", [])],
                **spec,
            },
        }

    def get(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.kubectl("get", "pod", name, "-o", "json").stdout)
        return found

    def wait(
        self, name: str, until: Callable[[dict[str, Any]], bool], what: str, timeout_s: float = POD_TIMEOUT_S
    ) -> dict[str, Any]:
        """The pod once `until` holds for it; what it was instead is in the failure."""
        deadline = time.monotonic() + timeout_s
        while True:
            pod = self.get(name)
            if until(pod):
                return pod
            if time.monotonic() > deadline:
                events = self.kubectl(
                    "get", "events", "--field-selector", f"involvedObject.name={name}"
                ).stdout.decode()
                status = json.dumps(pod["status"], indent=1)
                pytest.fail(f"pod {name} is not {what} after {timeout_s:.0f} s:\n{status}\n{events}")
            time.sleep(0.2)

    def wait_phase(self, name: str, *phases: str) -> dict[str, Any]:
        return self.wait(name, lambda pod: pod["status"].get("phase") in phases, " or ".join(phases))

    def wait_ready(self, name: str) -> dict[str, Any]:
        return self.wait(name, is_ready, "Ready")

    def exec(self, name: str, *command: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
        return self.kubectl("exec", name, "-c", "vm", "--", *command, **options)

    def logs(self, name: str, *flags: str) -> str:
        return self.kubectl("logs", name, *flags).stdout.decode()

    def events(self, name: str) -> list[tuple[str, str, str]]:
        """Type, reason and message of the pod's events."""
        listed = json.loads(
            self.kubectl("get", "events", "--field-selector", f"involvedObject.name={name}", "-o", "json").stdout
        )
        return [(item["type"], item["reason"], item["message"]) for item in listed["items"]]


def is_ready(pod: dict[str, Any]) -> bool:
    conditions = {c["type"]: c["status"] for c in pod["status"].get("conditions", [])}
    return conditions.get("Ready") == "True"


def container_status(pod: dict[str, Any], name: str = "vm") -> dict[str, Any]:
    return next(status for status in pod["status"]["containerStatuses"] if status["name"] == name)


@pytest.fixture
def pods(cluster: ControlPlane, node: agents.Agent, guest_image: str, namespace: str) -> Iterator[Pods]:
    """Pods on the session's node; all are gone when the test is over, and the agent still lives."""
    made = Pods(cluster, namespace, node.name, guest_image)
    yield made
    made.kubectl("delete", "pods", "--all", "--wait", "--timeout=60s", timeout_s=90.0)
    assert node.child is not None
    assert node.child.exit_code() is None, "the agent died"


def machine_processes(state: Path) -> list[str]:
    """Command lines of QEMU and virtiofsd processes that belong to machines below `state`, by their environment."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            is_machine = process.name().startswith(("qemu-system", "virtiofsd"))
            if is_machine and any(str(state) in value for value in process.environ().values()):
                found.append(" ".join(process.cmdline()))
    return found


@contextlib.contextmanager
def running(command: list[str], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is ended with the block."""
    with subprocess.Popen(command, **options) as process:
        try:
            yield process
        finally:
            process.kill()
