"""`python -m tests.cluster.node up`: everything that one node needs, as daemons of a state directory."""

import argparse
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.cluster import agent, daemons
from tests.cluster.api import ApiError
from tests.cluster.binary import BuildFailed
from tests.cluster.control_plane import ControlPlane
from tests.cluster.docker_engine import busybox_archive
from tests.cluster.node_credential import CredentialFailed, NodeCredential
from tests.cluster.processes import ComponentFailed, Lifetime
from tests.cluster.run_state import RunState

NODE_NAME = "vz-demo"
SYSTEM_DOCKER = "unix:///var/run/docker.sock"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.node", description=__doc__)
    parser.add_argument("--state", type=Path, default=Path(".run"), help="state directory (default: .run)")
    parser.add_argument("verb", choices=["up", "reset"])
    arguments = parser.parse_args()
    state = RunState(arguments.state)
    try:
        with state.locked():
            if arguments.verb == "reset":
                reset(state)
                return 0
            up(state)
    except (ComponentFailed, BuildFailed, CredentialFailed, ApiError, OSError, subprocess.CalledProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"\nUse it: . {os.path.relpath(state.environment_file)}; $KUBECTL get nodes    Stop it: make down")
    return 0


def up(state: RunState) -> None:
    """Start what does not run; says what it does and how long that took."""
    with _step("control plane (first time: builds it, 4 to 8 min)"):
        cluster = daemons.ensure_control_plane(state)
    with _step("registry"):
        registry = daemons.ensure_registry(state)
    with _step("Docker engine"):
        docker = _docker(state)
    with _step("guest image (first time: downloads Debian packages, 30 s)"):
        guest = agent.build_guest(state.directory / "guest")
    with _step("push of the guest image and of busybox for side-cars"):
        reference = f"{registry}/linux-guest:latest"
        agent.push_guest(guest, reference)
        _push_busybox(docker, registry)
    with _step("node agent"):
        _ensure_agent(state, docker, guest)
        state.set_environment(
            GUEST_IMAGE=reference,
            BUSYBOX_IMAGE=f"{registry}/busybox:latest",
            VZ_QEMU_FIRMWARE=str(guest / "firmware.fd"),
            **agent.LOGIN,
        )
    with _step("node Ready"):
        _wait_ready(lambda: agent.node_is_ready(cluster, NODE_NAME) and _answers_on_its_port(cluster))


def reset(state: RunState) -> None:
    """Stop the agent and take back what it left on this host, while its Docker engine still runs."""
    state.stop("agent")
    node = state.directory / "node"
    environment = {**os.environ, **agent.LOGIN, **state.environment}
    subprocess.run([agent.program(), "reset", "--cache-dir", str(node / "cache")], env=environment, check=True)
    shutil.rmtree(node)


@contextlib.contextmanager
def _step(what: str) -> Iterator[None]:
    print(f"  {what} ... ", end="", flush=True)
    began = time.monotonic()
    yield
    print(f"{time.monotonic() - began:.1f} s", flush=True)


def _docker(state: RunState) -> str:
    """The engine that the user runs already, else one of our own."""
    if not state.is_alive("dockerd") and _answers(SYSTEM_DOCKER):
        state.set_environment(DOCKER_HOST=SYSTEM_DOCKER)
        return SYSTEM_DOCKER
    return daemons.ensure_docker_engine(state)


def _answers(host: str) -> bool:
    return subprocess.run(["docker", "--host", host, "info"], capture_output=True, check=False).returncode == 0


def _push_busybox(docker: str, registry: str) -> None:
    reference = f"{registry}/busybox:latest"
    _run_docker(docker, "import", "--change", 'CMD ["sh"]', "-", reference, input_=busybox_archive())
    _run_docker(docker, "push", reference)


def _run_docker(host: str, *arguments: str, input_: bytes | None = None) -> None:
    done = subprocess.run(["docker", "--host", host, *arguments], input=input_, check=False, capture_output=True)
    if done.returncode != 0:
        reason = done.stderr.decode(errors="replace").strip()
        raise ComponentFailed(f"docker {arguments[0]} failed at {host}: {reason}")


def _answers_on_its_port(cluster: ControlPlane) -> bool:
    """After a crash the API server still shows the old agent's Ready, and its port."""
    query = "jsonpath={.status.daemonEndpoints.kubeletEndpoint.Port}"
    port = cluster.run_kubectl("get", "node", NODE_NAME, "-o", query).stdout.decode()
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", int(port)), timeout=1):
        return True
    return False


def _ensure_agent(state: RunState, docker: str, guest: Path) -> None:
    if state.is_alive("agent"):
        return
    credential: NodeCredential = daemons.ensure_node_credential(state, NODE_NAME)
    node = agent.Agent(
        state.directory / "node",
        credential,
        name=NODE_NAME,
        docker_host=docker,
        guest=guest,
        lifetime=Lifetime.PERSISTENT,
    )
    child = node.start()
    state.record(child.record)


def _wait_ready(ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + agent.READY_TIMEOUT_S
    while not ready():
        if time.monotonic() > deadline:
            raise ComponentFailed(f"the node is not Ready after {agent.READY_TIMEOUT_S:.0f} s: see .run/node/agent.log")
        time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
