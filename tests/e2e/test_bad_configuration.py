"""An agent that cannot work says so at start, and ends."""

import os
import socket
import subprocess
from pathlib import Path

from tests.cluster import agent as agents
from tests.cluster.control_plane import ControlPlane
from tests.support.cluster_fixtures import MintCredential


def start(tmp_path: Path, environment: dict[str, str], *flags: str) -> subprocess.CompletedProcess[str]:
    command = [agents.program(), "--cache-dir", str(tmp_path / "cache"), "--machine-driver", "synthetic", *flags]
    return subprocess.run(
        command, env={**os.environ, **agents.LOGIN, **environment}, capture_output=True, text=True, timeout=30
    )


def test_port_in_use(tmp_path: Path, mint_credential: MintCredential) -> None:
    credential = mint_credential("vz-port")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        flags = ("--nodename", "vz-port", "--kubelet-port", port, "--bind-address", "127.0.0.1")
        done = start(tmp_path, credential.environment(), *flags)
    assert done.returncode != 0
    assert f"cannot serve the kubelet API on 127.0.0.1:{port}" in done.stderr
    assert "Traceback" not in done.stderr


def test_credential_of_another_node(tmp_path: Path, mint_credential: MintCredential) -> None:
    credential = mint_credential("vz-one")
    done = start(tmp_path, credential.environment(), "--nodename", "vz-two", "--kubelet-port", "0")
    assert done.returncode == 2
    assert 'the kubeconfig is for user "system:node:vz-one"' in done.stderr
    assert "--nodename vz-one" in done.stderr


def test_kubeconfig_that_is_none(tmp_path: Path, mint_credential: MintCredential) -> None:
    broken = tmp_path / "kubeconfig"
    broken.write_text("clusters: 7\n")
    environment = {**mint_credential("vz-broken").environment(), "KUBECONFIG": str(broken)}
    done = start(tmp_path, environment, "--nodename", "vz-broken", "--kubelet-port", "0")
    assert done.returncode == 2
    assert str(broken) in done.stderr
    assert "Traceback" not in done.stderr


def test_a_client_authority_that_is_none_leaves_no_network_behind(
    tmp_path: Path, mint_credential: MintCredential
) -> None:
    garbage = tmp_path / "ca.crt"
    garbage.write_text("garbage")
    flags = ("--nodename", "vz-ca", "--kubelet-port", "0", "--client-verify-ca", str(garbage))
    done = start(tmp_path, mint_credential("vz-ca").environment(), *flags, "--machine-driver", "qemu")
    assert done.returncode == 2
    assert f"the client CA {garbage} (--client-verify-ca)" in done.stderr
    assert not (tmp_path / "cache").exists(), "the network is made after the state"


def test_every_mistake_at_once(tmp_path: Path) -> None:
    done = start(tmp_path, {"KUBECONFIG": str(tmp_path / "absent")}, "--kubelet-port", "99999", "--log-level", "loud")
    assert done.returncode == 2
    for part in ("mistakes in the configuration", "--kubelet-port", "--log-level", "absent", "APISERVER_CERT_LOCATION"):
        assert part in done.stderr


def test_two_agents_on_one_cache(tmp_path: Path, cluster: ControlPlane, mint_credential: MintCredential) -> None:
    credential = mint_credential("vz-twice")
    first = agents.Agent(tmp_path, credential, name="vz-twice", driver="synthetic")
    first.start()
    try:
        lock = first.cache / "node" / "lock"
        while not (lock.exists() and lock.read_text()):
            assert first.child is not None
            assert first.child.exit_code() is None
        done = start(tmp_path, credential.environment(), "--nodename", "vz-twice", "--kubelet-port", "0")
    finally:
        first.stop()
        cluster.run_kubectl("delete", "node", "vz-twice", "--ignore-not-found")  # or the scheduler goes on using it
    assert done.returncode == 4
    assert "is in use by process" in done.stderr
