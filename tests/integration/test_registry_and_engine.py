"""The private registry and Docker engine: they work together, several live side by side, nothing stays behind."""

import hashlib
import http.client
import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.cluster.bridges import link_exists
from tests.cluster.docker_api import DockerApiError
from tests.cluster.docker_engine import DockerEngine
from tests.cluster.registry import BasicAuth, Registry
from tests.support.cluster_fixtures import StartDockerEngine, StartRegistry

# Names the container processes of this run among those of others on the machine.
SECONDS = str(4_000_000 + os.getpid())
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


def ports_of(bridge: str) -> set[str]:
    """Interfaces that are attached to a bridge."""
    shown = json.loads(subprocess.check_output(["ip", "-json", "link", "show", "master", bridge]))
    return {link["ifname"] for link in shown}


def manifest(registry: Registry, name: str, tag: str) -> dict[str, Any]:
    request = urllib.request.Request(f"{registry.url}/v2/{name}/manifests/{tag}", headers={"Accept": MANIFEST})
    with urllib.request.urlopen(request) as response:
        content: dict[str, Any] = json.load(response)
    return content


def running(command: list[str]) -> bool:
    return any(process.info["cmdline"] == command for process in psutil.process_iter(["cmdline"]))


def test_engine_pushes_to_the_registry_and_a_corrupt_blob_is_seen(
    docker_engine: DockerEngine, registry_factory: StartRegistry
) -> None:
    registry = registry_factory()
    reference = docker_engine.push_busybox(registry, "corrupt/busybox:1")
    assert reference == f"{registry.host}/corrupt/busybox:1"
    layer = manifest(registry, "corrupt/busybox", "1")["layers"][0]["digest"]
    blob = registry.blob_path(layer)
    assert f"sha256:{hashlib.sha256(blob.read_bytes()).hexdigest()}" == layer
    size = blob.stat().st_size
    registry.corrupt_blob(layer, offset=100)
    assert blob.stat().st_size == size
    with urllib.request.urlopen(f"{registry.url}/v2/corrupt/busybox/blobs/{layer}") as response:
        assert f"sha256:{hashlib.sha256(response.read()).hexdigest()}" != layer


def test_registry_keeps_port_and_content_over_a_restart(
    docker_engine: DockerEngine, registry_factory: StartRegistry
) -> None:
    registry = registry_factory()
    docker_engine.push_busybox(registry, "kept:1")
    registry.stop()
    with pytest.raises(OSError, match="refused"):
        manifest(registry, "kept", "1")
    registry.start()
    assert manifest(registry, "kept", "1")["layers"]


def test_registry_with_basic_auth_knows_one_user(docker_engine: DockerEngine, registry_factory: StartRegistry) -> None:
    registry = registry_factory(basic_auth=BasicAuth("alice", "correct horse"))
    docker_engine.push_busybox(registry, "private:1")
    registry.basic_auth = BasicAuth("alice", "wrong")
    with pytest.raises(DockerApiError, match="auth"):
        docker_engine.push_busybox(registry, "private:2")


def test_two_engines_live_side_by_side(docker_engine: DockerEngine, docker_engine_factory: StartDockerEngine) -> None:
    other = docker_engine_factory()
    other.import_busybox()
    engines = (docker_engine, other)
    containers = [engine.api.start_container("busybox:test", "sleep", "60", name="same") for engine in engines]
    addresses = [e.api.container_address(c) for e, c in zip(engines, containers, strict=True)]
    subnets = {address.rpartition(".")[0] for address in addresses}
    assert len(subnets) == 2, addresses
    docker_engine.api.remove_all_containers()


def test_engine_that_crashed_leaves_nothing_when_it_is_stopped(tmp_path: Path) -> None:
    engine = DockerEngine(tmp_path / "docker")
    engine.start()
    runtime = engine.socket.parent
    assert engine.bridge
    engine.import_busybox()
    engine.api.start_container("busybox:test", "sleep", SECONDS)
    assert running(["sleep", SECONDS])
    links = {engine.bridge, *ports_of(engine.bridge)}
    assert len(links) == 2
    engine.kill()
    engine.stop()
    assert not running(["sleep", SECONDS])
    assert not runtime.exists()
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
    assert str(runtime) not in Path("/proc/self/mountinfo").read_text()
    assert not any(map(link_exists, links))
    assert not [p for p in psutil.process_iter(["cmdline"]) if str(runtime) in " ".join(p.info["cmdline"] or [])]


def test_engine_comes_back_on_its_socket_after_a_crash(docker_engine_factory: StartDockerEngine) -> None:
    engine = docker_engine_factory()
    image = engine.import_busybox()
    engine.kill()
    with pytest.raises((OSError, http.client.HTTPException)):
        engine.api.image_id("busybox:test")
    engine.restart_dockerd()
    assert engine.api.image_id("busybox:test") == image


def test_next_engine_clears_up_after_a_test_run_that_was_killed(tmp_path: Path) -> None:
    script = (
        "import pathlib, sys, time\n"
        "from tests.cluster.docker_engine import DockerEngine\n"
        "engine = DockerEngine(pathlib.Path(sys.argv[1]))\n"
        "engine.start(); engine.import_busybox(); engine.api.start_container('busybox:test', 'sleep', sys.argv[2])\n"
        "print(engine.socket.parent, engine.bridge, sep='\\n', flush=True); time.sleep(60)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "killed"), SECONDS]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout
        runtime, bridge = Path(run.stdout.readline().strip()), run.stdout.readline().strip()
        assert runtime.is_dir()
        links = {bridge, *ports_of(bridge)}
        run.kill()
    with DockerEngine(tmp_path / "next"):
        assert not runtime.exists()
        assert not running(["sleep", SECONDS])
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
    assert not any(map(link_exists, links))
