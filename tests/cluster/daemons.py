"""The components as daemons of a state directory: what `make cluster-up`, `node-up` and `down` are made of.

Each `ensure_*` does nothing when its component runs already. Callers hold `RunState.locked()`.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from tests.cluster import node_credential
from tests.cluster.control_plane import COMPONENTS, ControlPlane
from tests.cluster.docker_engine import DockerEngine
from tests.cluster.processes import Lifetime, ProcessRecord
from tests.cluster.registry import Registry
from tests.cluster.run_state import RunState


def control_plane(state: RunState) -> ControlPlane:
    """The control plane of this state directory, to ask or to mint credentials from; it is not started here."""
    return ControlPlane(state.directory / "cluster", lifetime=Lifetime.PERSISTENT, on_start=state.record)


def ensure_control_plane(state: RunState) -> ControlPlane:
    """Start the control plane unless all of it runs; writes `kubeconfig` and sets KUBECONFIG and KUBECTL.

    After a crash or a reboot it comes back with its objects, on its old ports.
    Raises: ComponentFailed, BuildFailed.
    """
    cluster = control_plane(state)
    if not (all(map(state.is_alive, COMPONENTS)) and cluster.api.is_ready()):
        state.stop(*COMPONENTS)
        cluster.start()
    admin = state.directory / "kubeconfig"
    admin.touch(mode=0o600)
    shutil.copyfile(cluster.admin_kubeconfig, admin)
    state.set_environment(KUBECONFIG=str(admin), KUBECTL=str(cluster.kubectl))
    return cluster


def ensure_node_credential(
    state: RunState, node_name: str, addresses: Sequence[str] = ("127.0.0.1",)
) -> node_credential.NodeCredential:
    """Mint the credential of a node into `nodes/<name>`, anew each time; sets NODE_NAME.

    Raises: CredentialFailed, ApiError.
    """
    directory = state.directory / "nodes" / node_name
    credential = node_credential.mint(control_plane(state), node_name, directory, addresses=addresses)
    state.set_environment(NODE_NAME=node_name)
    return credential


def ensure_registry(state: RunState) -> str:
    """Start the registry; sets REGISTRY and returns it, `127.0.0.1:<port>`. A later life keeps port and content.

    Raises: ComponentFailed.
    """
    port_file = state.directory / "registry.port"
    port = int(port_file.read_text()) if port_file.exists() else None
    registry = Registry(state.directory / "registry", port=port, lifetime=Lifetime.PERSISTENT, on_start=state.record)
    if not state.is_alive("registry"):
        port_file.write_text(str(registry.port))
        registry.start()
    state.set_environment(REGISTRY=registry.host)
    return registry.host


def ensure_docker_engine(state: RunState, bridge: str | None = None) -> str:
    """Start a private Docker engine; sets DOCKER_HOST and returns it.

    Raises: ComponentFailed.
    """
    if state.is_alive("dockerd") and state.is_alive("containerd"):
        return state.environment["DOCKER_HOST"]
    state.stop("dockerd", "containerd")
    engine = DockerEngine(
        state.directory / "docker",
        bridge=bridge,
        lifetime=Lifetime.PERSISTENT,
        on_start=state.record,
        on_leftovers=state.record_leftovers,
    )
    engine.start()
    state.set_environment(DOCKER_HOST=engine.host)
    return engine.host


def down(state: RunState) -> list[ProcessRecord]:
    """Stop everything that is recorded, last started first; returns what was running.

    The cluster's objects and keys and the engine's containers go, logs and the registry's content stay.
    """
    stopped = state.stop()
    for name in (
        "cluster/etcd",
        "cluster/pki",
        "cluster/ports.json",
        "nodes",
        "kubeconfig",
        "docker/docker",
        "docker/containerd",
    ):
        _remove(state.directory / name)
    return stopped


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
