"""The control plane, registry and node that one run measures, all its own."""

import contextlib
import http.client
import json
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.cluster import agent as agents
from tests.cluster.control_plane import ControlPlane
from tests.cluster.node_credential import mint
from tests.cluster.processes import tail
from tests.cluster.registry import Registry
from tests.support.exec_client import client_tls

NODE = "vz-bench"
NAMESPACE = "default"
CONTAINER = "vm"
POD_TIMEOUT_S = 60.0

Say = Callable[[str], None]


class World:
    """A Ready node with the qemu driver on a private control plane."""

    def __init__(self, cluster: ControlPlane, agent: agents.Agent, ready_at: float) -> None:
        self.cluster = cluster
        self.agent = agent
        self.ready_at = ready_at
        """Monotonic time at which the node was Ready."""
        self.image = ""

    @property
    def agent_pid(self) -> int:
        assert self.agent.child is not None
        return self.agent.child.record.pid

    @property
    def log(self) -> str:
        return self.agent.log.read_text(errors="replace")

    @property
    def kubelet_port(self) -> int:
        node = self.cluster.api.get(f"/api/v1/nodes/{NODE}")
        port: int = node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"]
        return port

    @property
    def accelerator(self) -> str:
        """What the driver's trial decided; see machines.qemu.accelerator."""
        (verdict,) = self.agent.cache.rglob("kvm*.json")
        return "kvm" if json.loads(verdict.read_bytes())["works"] else "tcg"

    def run_pod(self, name: str) -> tuple[float, float]:
        """Create a pod and wait until it is Ready: when it was bound and when Ready was seen, seconds since the epoch.

        Bound is the moment at which the API server received the scheduler's binding. Raises: TimeoutError.
        """
        created = self.cluster.api.create(f"/api/v1/namespaces/{NAMESPACE}/pods", self._pod(name))
        ready_at = self._wait_ready(name, created["metadata"]["resourceVersion"])
        for event in self.cluster.audit_events:
            target = event.object
            if (target.resource, target.subresource, target.name) == ("pods", "binding", name):
                return datetime.fromisoformat(event.received).timestamp(), ready_at
        raise LookupError(f"the audit log has no binding of pod {name}")

    def delete_pod(self, name: str) -> None:
        """Delete and wait until the pod is gone from the API server, which is after its machine is."""
        self.cluster.run_kubectl("-n", NAMESPACE, "delete", "pod", name, "--wait", timeout_s=POD_TIMEOUT_S)

    def _wait_ready(self, name: str, version: str) -> float:
        path = (
            f"/api/v1/namespaces/{NAMESPACE}/pods?watch=1&resourceVersion={version}"
            f"&fieldSelector=metadata.name%3D{name}&timeoutSeconds={POD_TIMEOUT_S:.0f}"
        )
        for line, seen_at in self._lines(path):
            status = json.loads(line)["object"].get("status", {})
            if status.get("phase") in ("Failed", "Succeeded"):
                raise RuntimeError(f"pod {name} ended instead of becoming Ready: {json.dumps(status)}")
            if any(c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions", [])):
                return seen_at
        events = self.cluster.run_kubectl("-n", NAMESPACE, "describe", "pod", name).stdout.decode()
        raise TimeoutError(f"pod {name} is not Ready after {POD_TIMEOUT_S:.0f} s:\n{events}\n{tail(self.agent.log)}")

    def _lines(self, path: str) -> Iterator[tuple[bytes, float]]:
        """Lines of a streamed answer, and when each came."""
        keys = self.cluster.pki
        address = self.cluster.server.removeprefix("https://")
        tls = client_tls(keys.ca.certificate, keys.admin)
        connection = http.client.HTTPSConnection(address, context=tls, timeout=POD_TIMEOUT_S + 10)
        with contextlib.closing(connection):
            connection.request("GET", path)
            for line in connection.getresponse():
                yield line, time.time()

    def _pod(self, name: str) -> dict[str, Any]:
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {
                "nodeSelector": {"kubernetes.io/hostname": NODE},
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 2,
                "tolerations": [{"operator": "Exists"}],
                "containers": [
                    {
                        "name": CONTAINER,
                        "image": self.image,
                        "imagePullPolicy": "IfNotPresent",
                        "command": ["sleep", "3600"],
                        "resources": {"requests": {"cpu": "1", "memory": "256Mi"}},
                    }
                ],
            },
        }


@contextlib.contextmanager
def running(directory: Path, say: Say) -> Iterator[World]:
    """Start everything below `directory`; stop it, and take back what the node left on this host, at the end."""
    with contextlib.ExitStack() as closing:
        say("control plane (first time: builds it, 4 to 8 min)")
        cluster = closing.enter_context(ControlPlane(directory / "cluster"))
        say("registry and node")
        registry = closing.enter_context(Registry(directory / "registry"))
        credential = mint(cluster, NODE, directory / "credential")
        # No side-car runs here: the agent is pointed at an engine that does not exist, whatever this host has.
        no_engine = f"unix://{directory / 'no-engine.sock'}"
        agent = agents.Agent(directory / "node", credential, name=NODE, docker_host=no_engine)
        closing.callback(agent.tear_down)
        agent.start()
        agent.wait_ready(cluster)
        world = World(cluster, agent, time.monotonic())
        say("guest image")
        guest = agents.build_guest(directory / "guest" / "image")
        world.image = f"{registry.host}/linux-guest:bench"
        agents.push_guest(guest, world.image)
        yield world
