"""The private registry and Docker engine: they work together, several live side by side, nothing stays behind."""

import hashlib
import http.client
import json
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.cluster.docker_api import DockerApiError
from tests.cluster.docker_engine import DockerEngine
from tests.cluster.registry import BasicAuth, Registry
from tests.support.cluster_fixtures import StartDockerEngine, StartRegistry

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


def links() -> set[str]:
    return {link["ifname"] for link in json.loads(subprocess.check_output(["ip", "-json", "link", "show"]))}


def manifest(registry: Registry, name: str, tag: str) -> dict[str, Any]:
    request = urllib.request.Request(f"{registry.url}/v2/{name}/manifests/{tag}", headers={"Accept": MANIFEST})
    with urllib.request.urlopen(request) as response:
        content: dict[str, Any] = json.load(response)
    return content


def run_container(engine: DockerEngine, *arguments: str) -> str:
    command = ["docker", "--host", engine.host, "run", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


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
    names = [
        run_container(engine, "--detach", "--name=same", "busybox:test", "sleep", "60")
        for engine in (docker_engine, other)
    ]
    assert names[0] != names[1]
    addresses = {
        run_container(e, "--rm", "busybox:test", "hostname", "-i").rpartition(".")[0] for e in (docker_engine, other)
    }
    assert len(addresses) == 2
    docker_engine.api.remove_all_containers()


def test_engine_that_crashed_leaves_nothing_when_it_is_stopped(tmp_path: Path) -> None:
    engine = DockerEngine(tmp_path / "docker")
    before = links()
    engine.start()
    runtime = engine.socket.parent
    engine.import_busybox()
    run_container(engine, "--detach", "busybox:test", "sleep", "4242")
    engine.kill()
    engine.stop()
    assert not [p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == ["sleep", "4242"]]
    assert not runtime.exists()
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
    assert str(runtime) not in Path("/proc/self/mountinfo").read_text()
    assert not {name for name in links() - before if name.startswith("vzkd")}
    assert not [p for p in psutil.process_iter(["cmdline"]) if str(runtime) in " ".join(p.info["cmdline"] or [])]


def test_containers_survive_a_crash_of_dockerd(docker_engine_factory: StartDockerEngine) -> None:
    engine = docker_engine_factory()
    engine.import_busybox()
    run_container(engine, "--detach", "--name=goes-on", "busybox:test", "sleep", "60")
    engine.kill()
    with pytest.raises((OSError, http.client.HTTPException)):
        engine.api.image_id("busybox:test")
    engine.restart_dockerd()
    assert engine.api.image_id("busybox:test")
