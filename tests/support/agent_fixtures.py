"""Pytest fixtures for the whole agent: a guest image in a registry, a node on a real control plane, pods on it."""

import contextlib
import json
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.cluster import agent as agents
from tests.cluster.control_plane import ControlPlane
from tests.cluster.docker_engine import DockerEngine
from tests.cluster.node_credential import mint
from tests.cluster.registry import Registry
from tests.support.mac_host import QemuMac
from vzkubelet.machines.qemu.bridge import tap_name

POD_TIMEOUT_S = 120.0
VZ_HELPER = "vzkubelet.machines.vz.helper"


def pytest_addoption(parser: pytest.Parser) -> None:
    help_text = "driver of the nodes under test; vz runs over the double of Apple's frameworks, with QEMU's guests"
    parser.addoption("--machine-driver", choices=("qemu", "vz"), default="qemu", help=help_text)


@pytest.fixture(scope="session")
def machine_driver(pytestconfig: pytest.Config) -> str:
    """Of the session's nodes: qemu or vz."""
    return str(pytestconfig.getoption("--machine-driver"))


@pytest.fixture(scope="session")
def linux_guest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The guest image as files, with its firmware: disk.img, aux.img, image-config.json, firmware.fd."""
    return agents.build_guest(tmp_path_factory.mktemp("guest") / "image")


@pytest.fixture(scope="session")
def mac_guest(linux_guest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same guest, said to be for a Mac: what the double's host pulls is arm64."""
    return _for_mac(linux_guest, tmp_path_factory.mktemp("mac-guest") / "image")


def _for_mac(guest: Path, target: Path) -> Path:
    shutil.copytree(guest, target, copy_function=os.link)
    (target / "image-config.json").unlink()  # it is written to: no link
    shutil.copyfile(guest / "image-config.json", target / "image-config.json")
    agents.label_guest(target, "arm64")
    return target


@pytest.fixture(scope="session")
def guest_directory(request: pytest.FixtureRequest, machine_driver: str) -> Path:
    """The guest image as files, for the session's driver."""
    found: Path = request.getfixturevalue("mac_guest" if machine_driver == "vz" else "linux_guest")
    return found


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
def mac(linux_guest: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[QemuMac]:
    """A Mac with real guests behind it; in the end nothing runs on it and nothing would have aborted a process."""
    with QemuMac(tmp_path_factory.mktemp("mac"), firmware=linux_guest / "firmware.fd") as host:
        yield host
        assert host.processes() == []
        assert host.taps() == set()
        host.check()


@dataclass(frozen=True, slots=True)
class NodeHost:
    """What agents of one driver are started on."""

    driver: str
    docker_host: str
    environment: dict[str, str]
    mac: QemuMac | None = None

    @contextlib.contextmanager
    def agent(
        self, directory: Path, cluster: ControlPlane, name: str = "", *, flags: tuple[str, ...] = ()
    ) -> Iterator[agents.Agent]:
        """A node, Ready; torn down with all that it ran when the block ends."""
        name = name or f"vz-{uuid.uuid4().hex[:8]}"
        made = agents.Agent(
            directory,
            mint(cluster, name, directory / "credential"),
            name=name,
            docker_host=self.docker_host,
            driver=self.driver,
            flags=flags,
            environment=self.environment,
        )
        made.start()
        try:
            made.wait_ready(cluster)
            yield made
        finally:
            made.tear_down()

    def taps(self, agent: agents.Agent) -> set[str]:
        """Interfaces of this agent's guests; other nodes on this machine have theirs."""
        if self.mac is not None:
            return self.mac.taps()
        listed = subprocess.run(["ip", "-o", "link", "show", "type", "tun"], capture_output=True, text=True, check=True)
        own = tap_name(agent.cache / "node" / "machines", "")[:8]
        return {name for line in listed.stdout.splitlines() if (name := line.split(":")[1].strip()).startswith(own)}


@pytest.fixture(scope="session")
def node_host(
    request: pytest.FixtureRequest, machine_driver: str, docker_engine: DockerEngine, guest_directory: Path
) -> NodeHost:
    """Where the nodes of the session's driver run: a Mac, or this machine."""
    if machine_driver == "vz":
        host: NodeHost = request.getfixturevalue("mac_node_host")
        return host
    firmware = {"VZ_QEMU_FIRMWARE": str(guest_directory / "firmware.fd")}  # it boots emulated guests faster
    return NodeHost("qemu", docker_engine.host, firmware)


@pytest.fixture(scope="session")
def mac_node_host(mac: QemuMac, docker_engine: DockerEngine) -> NodeHost:
    return NodeHost("vz", docker_engine.host, mac.environment(), mac)


@pytest.fixture(scope="session")
def node(
    cluster: ControlPlane, node_host: NodeHost, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[agents.Agent]:
    """The session's node, Ready."""
    with node_host.agent(tmp_path_factory.mktemp("node"), cluster) as agent:
        yield agent


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
    """Command lines of the processes that are machines below `state`: QEMU and virtiofsd, known by their environment,
    and the helpers of the vz driver, which name their machine's directory."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            command = process.cmdline()
            if process.name().startswith(("qemu-system", "virtiofsd")):
                is_machine = any(str(state) in value for value in process.environ().values())
            else:
                is_machine = VZ_HELPER in command and any(str(state) in word for word in command)
            if is_machine:
                found.append(" ".join(command))
    return found


@contextlib.contextmanager
def running(command: list[str], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is ended with the block."""
    with subprocess.Popen(command, **options) as process:
        try:
            yield process
        finally:
            process.kill()
