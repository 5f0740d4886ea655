"""Side-cars beyond the port's suite: images from real registries, Docker's own view, networks, engines that die."""

import asyncio
import contextlib
import hashlib
import json
import logging
import subprocess
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.cluster.bridges import create_bridge, delete_bridge, link_exists
from tests.cluster.docker_engine import DockerEngine
from tests.cluster.ports import free_port
from tests.cluster.registry import BasicAuth, Registry
from tests.conformance.containers import Pod, pod_ref
from tests.support.cluster_fixtures import StartDockerEngine, StartRegistry
from tests.support.memory_streams import MemoryStreams
from tests.support.sidecar_fixtures import SidecarBench
from vzkubelet import aio, errors
from vzkubelet.ports import (
    ContainerMount,
    ContainerPhase,
    ContainerResources,
    HostNetwork,
    LogOptions,
    RegistryCredential,
    TerminalSize,
)
from vzkubelet.sidecars import Sidecars, remove_network
from vzkubelet.sidecars.engine import Engine
from vzkubelet.sidecars.network import name_of

SLEEP = ("sleep", "600")
ALICE = RegistryCredential("alice", "correct horse")
MALLORY = RegistryCredential("alice", "wrong")


@pytest_asyncio.fixture
async def pod(sidecar_bench: SidecarBench, tmp_path: Path) -> AsyncIterator[Pod]:
    made = Pod(sidecar_bench, tmp_path / "logs")
    yield made
    await made.runtime.remove_pod(made.ref)


@pytest.fixture
def private_registry(docker_engine: DockerEngine, registry_factory: StartRegistry) -> tuple[Registry, str]:
    """A registry that knows alice, and the reference of an image in it."""
    registry = registry_factory(basic_auth=BasicAuth(ALICE.username, ALICE.password))
    return registry, docker_engine.push_busybox(registry, "private/busybox:1")


async def refused(bench: SidecarBench, reference: str, *logins: RegistryCredential) -> errors.Error:
    with pytest.raises(errors.Error) as caught:
        await bench.runtime().pull_image(reference, logins)
    return caught.value


# --- Images ------------------------------------------------------------------------------------------------------


async def test_pull_gives_the_digest_of_the_repository(sidecar_bench: SidecarBench, registry: Registry) -> None:
    reference = sidecar_bench.engine.push_busybox(registry, "pulled/busybox:1")
    runtime = sidecar_bench.runtime()
    assert await runtime.find_image(reference) is None
    image = await runtime.pull_image(reference, ())
    assert image.reference == reference
    assert image.image_id.startswith(f"{registry.host}/pulled/busybox@sha256:")
    assert image.size_bytes > 100_000
    assert await runtime.find_image(reference) == image
    listed = {name: entry for entry in await runtime.listed_images() for name in entry.names or []}
    assert listed[reference] == listed[image.image_id]
    assert listed[reference].size_bytes == image.size_bytes
    by_digest = await runtime.pull_image(image.image_id, ())
    assert by_digest.image_id == image.image_id
    await sidecar_bench.docker("rmi", "--force", reference, image.image_id)


async def test_logins_are_tried_in_turn(sidecar_bench: SidecarBench, private_registry: tuple[Registry, str]) -> None:
    _, reference = private_registry
    image = await sidecar_bench.runtime().pull_image(reference, (MALLORY, ALICE))
    assert "@sha256:" in image.image_id
    await sidecar_bench.docker("rmi", reference)


@pytest.mark.parametrize("logins", [(), (MALLORY,)])
async def test_wrong_or_missing_login(
    sidecar_bench: SidecarBench, private_registry: tuple[Registry, str], logins: tuple[RegistryCredential, ...]
) -> None:
    _, reference = private_registry
    fault = await refused(sidecar_bench, reference, *logins)
    assert isinstance(fault, errors.Unauthenticated)
    assert fault.reason == "ErrImagePull"
    assert reference in fault.message
    assert "correct horse" not in fault.message


async def test_tag_that_does_not_exist(sidecar_bench: SidecarBench, registry: Registry) -> None:
    fault = await refused(sidecar_bench, f"{registry.host}/no/such:image")
    assert (type(fault), fault.reason) == (errors.NotFound, "ErrImagePull")
    assert f"{registry.host}/no/such:image" in fault.message


async def test_registry_that_is_down(sidecar_bench: SidecarBench) -> None:
    reference = f"127.0.0.1:{free_port()}/x:1"
    fault = await refused(sidecar_bench, reference)
    assert (type(fault), fault.reason) == (errors.Unavailable, "ErrImagePull")
    assert reference in fault.message
    assert "connection refused" in fault.message


async def test_malformed_reference(sidecar_bench: SidecarBench) -> None:
    for call in (sidecar_bench.runtime().find_image, lambda text: sidecar_bench.runtime().pull_image(text, ())):
        with pytest.raises(errors.InvalidInput) as caught:
            await call("Not A Reference")
        assert caught.value.reason == "InvalidImageName"


async def test_machine_image_is_no_container_image(sidecar_bench: SidecarBench, registry: Registry) -> None:
    push_artifact(registry, "machines/linux", "application/vnd.agoda.macosvz.config.v1+json")
    fault = await refused(sidecar_bench, f"{registry.host}/machines/linux:1")
    assert (type(fault), fault.reason) == (errors.InvalidInput, "ErrImagePull")
    assert "is not a container image, which a side-car needs" in fault.message


def push_artifact(registry: Registry, name: str, config_type: str) -> None:
    config, layer = b"{}", b"disk" * 100
    descriptors = []
    for content, type_ in ((config, config_type), (layer, "application/vnd.agoda.macosvz.disk.image.v1")):
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        start = urllib.request.Request(f"{registry.url}/v2/{name}/blobs/uploads/", method="POST")
        with urllib.request.urlopen(start) as response:
            location = response.headers["Location"]
        put(f"{location}{'&' if '?' in location else '?'}digest={digest}", content, "application/octet-stream")
        descriptors.append({"mediaType": type_, "digest": digest, "size": len(content)})
    kind = "application/vnd.oci.image.manifest.v1+json"
    manifest = {"schemaVersion": 2, "mediaType": kind, "config": descriptors[0], "layers": descriptors[1:]}
    put(f"{registry.url}/v2/{name}/manifests/1", json.dumps(manifest).encode(), kind)


def put(url: str, content: bytes, type_: str) -> None:
    request = urllib.request.Request(url, data=content, method="PUT", headers={"Content-Type": type_})
    urllib.request.urlopen(request).close()


# --- Docker's own view -------------------------------------------------------------------------------------------


async def test_names_labels_limits_and_log_driver(pod: Pod, sidecar_bench: SidecarBench) -> None:
    limits = ContainerResources(cpu_request_milli=250, cpu_limit_milli=500, memory_limit_bytes=32 * 2**20)
    state = await pod.start(*SLEEP, attempt=1, resources=limits)
    found: Any = await sidecar_bench.inspect(state.id)
    assert found["Name"] == f"/k8s_main_{pod.ref.name}_{pod.ref.namespace}_{pod.ref.uid}_1"
    labels = found["Config"]["Labels"]
    assert labels["io.kubernetes.pod.uid"] == pod.ref.uid
    assert labels["io.kubernetes.pod.name"] == pod.ref.name
    assert labels["io.kubernetes.pod.namespace"] == pod.ref.namespace
    assert labels["io.kubernetes.container.name"] == "main"
    assert labels["io.macos-vz-kubelet.owner"] == sidecar_bench.owner
    host = found["HostConfig"]
    assert (host["CpuShares"], host["CpuQuota"], host["CpuPeriod"]) == (256, 50_000, 100_000)
    assert (host["Memory"], host["MemorySwap"]) == (32 * 2**20, 32 * 2**20)
    assert host["LogConfig"]["Type"] == "json-file"
    assert host["RestartPolicy"]["Name"] == "no"


async def test_out_of_memory(pod: Pod) -> None:
    # The first process itself: Docker tells of no other.
    await pod.start("tail", "/dev/zero", resources=ContainerResources(memory_limit_bytes=16 * 2**20))
    state = await pod.wait()
    assert (state.reason, state.exit.code) == ("OOMKilled", 137)


async def test_sidecars_of_a_pod_share_network_and_host_name(pod: Pod) -> None:
    await pod.start("sh", "-c", "hostname; echo hello | nc -l -p 9000", name="main")
    await pod.run("hostname; until nc 127.0.0.1 9000; do sleep 0.05; done", name="client")
    assert await pod.lines("client") == [pod.ref.name, "hello"]


async def test_pod_has_one_sandbox_however_many_start_at_once(pod: Pod, sidecar_bench: SidecarBench) -> None:
    await asyncio.gather(*(pod.start(*SLEEP, name=f"c{i}") for i in range(4)))
    names = await sidecar_bench.leftovers(pod.ref)
    assert len([name for name in names if name.startswith("k8s_POD_")]) == 1
    assert len(names) == 5


async def test_sandbox_goes_with_the_last_container(pod: Pod, sidecar_bench: SidecarBench) -> None:
    for name in ("one", "two"):
        await pod.start(*SLEEP, name=name)
    await pod.runtime.remove(pod.ref, "one")
    assert any(name.startswith("k8s_POD_") for name in await sidecar_bench.leftovers(pod.ref))
    await pod.runtime.remove(pod.ref, "two")
    assert not any(name.startswith("k8s_POD_") for name in await sidecar_bench.leftovers(pod.ref))


async def test_ended_containers_are_kept_for_two_attempts(pod: Pod, sidecar_bench: SidecarBench) -> None:
    for attempt in range(4):
        await pod.run("true", attempt=attempt)
    kept = [name for name in await sidecar_bench.leftovers(pod.ref) if name.startswith("k8s_main")]
    assert sorted(name.rpartition("_")[2] for name in kept) == ["2", "3"]


async def test_nodes_on_one_engine_do_not_see_each_other(pod: Pod, sidecar_bench: SidecarBench) -> None:
    await pod.start(*SLEEP)
    stranger = Sidecars(sidecar_bench.engine.host, None, "somebody-else")
    try:
        assert pod.ref.uid not in await stranger.pods()
        assert await stranger.find(pod.ref, "main") is None
        await stranger.remove_pod(pod.ref)
    finally:
        await stranger.close()
    found = await pod.runtime.find(pod.ref, "main")
    assert found is not None
    assert found.phase is ContainerPhase.RUNNING


async def test_missing_mount_source(pod: Pod, tmp_path: Path, sidecar_bench: SidecarBench) -> None:
    with pytest.raises(errors.InvalidInput, match="does not exist") as caught:
        await pod.start(*SLEEP, mounts=(ContainerMount("v", tmp_path / "gone", "/v"),))
    assert caught.value.reason == "CreateContainerError"
    assert not (tmp_path / "gone").exists()


async def test_mount_that_docker_cannot_make(pod: Pod, tmp_path: Path, sidecar_bench: SidecarBench) -> None:
    with pytest.raises(errors.InvalidInput, match="mounting") as caught:
        await pod.start(*SLEEP, mounts=(ContainerMount("v", tmp_path, "/etc/passwd"),))
    assert caught.value.reason == "CreateContainerError"
    assert not [name for name in await sidecar_bench.leftovers(pod.ref) if name.startswith("k8s_main")]


async def test_terminal_of_a_container(pod: Pod) -> None:
    script = "stty -echo; echo ready; read line; stty size; echo got $line; head -c 40000 /dev/zero | tr '\\0' x; echo"
    await pod.start("sh", "-c", script, tty=True, stdin=True)
    async with asyncio.timeout(30):
        async for entry in pod.runtime.logs(pod.ref, "main", 0, LogOptions(follow=True)):
            if entry.data == b"ready\r":
                break
    streams = MemoryStreams([b"x\n"], stdin_open=True, sizes=[TerminalSize(columns=100, rows=30)])
    async with asyncio.timeout(30):
        await pod.runtime.attach(pod.ref, "main", True, streams)
    await pod.wait()
    assert b"got x" in streams.out
    entries = await pod.entries()
    assert b"".join(e.data for e in entries if e.data.startswith(b"xx")).rstrip(b"\r") == b"x" * 40000


async def test_stdin_once_ends_with_the_first_session(pod: Pod) -> None:
    await pod.start("cat", stdin=True, stdin_once=True)
    async with asyncio.timeout(30):
        await pod.runtime.attach(pod.ref, "main", False, streams := MemoryStreams([b"all of it\n"]))
    assert bytes(streams.out) == b"all of it\n"
    assert (await pod.wait()).exit.code == 0


# --- Networks ----------------------------------------------------------------------------------------------------


@pytest.fixture
def host_network() -> Iterator[HostNetwork]:
    bridge = create_bridge("tguest")
    try:
        subnet = bridge.gateway.network
        yield HostNetwork(bridge.name, str(subnet), str(bridge.gateway.ip), f"{subnet[128]}/25")
    finally:
        delete_bridge(bridge.name)


@contextlib.contextmanager
def guest(network: HostNetwork) -> Iterator[tuple[str, str]]:
    """A network namespace on the bridge, as a machine's tap is: its name and its address."""
    name = f"g{network.bridge[-8:]}"
    address = network.gateway.rpartition(".")[0] + ".7"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        for command in (
            f"link add v{name} type veth peer name eth0 netns {name}",
            f"link set v{name} master {network.bridge} up",
            f"-n {name} address add {address}/24 dev eth0",
            f"-n {name} link set eth0 up",
        ):
            subprocess.run(["ip", *command.split()], check=True)
        yield name, address
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)


async def test_guests_and_sidecars_reach_each_other(
    docker_engine: DockerEngine, host_network: HostNetwork, tmp_path: Path
) -> None:
    bench = SidecarBench(docker_engine, host_network)
    pod = Pod(bench, tmp_path)
    try:
        with guest(host_network) as (name, guest_address):
            await pod.start("sh", "-c", "while :; do echo from side-car | nc -l -p 9000; done")
            address = await bench.runtime().sandbox_address(pod.ref)
            assert int(address.rpartition(".")[2]) >= 128
            command = f"until echo | nc {address} 9000; do sleep 0.05; done"
            answer = await asyncio.to_thread(
                subprocess.check_output, ["ip", "netns", "exec", name, "busybox", "sh", "-c", command], timeout=30
            )
            assert answer == b"from side-car\n"
            assert (await pod.exec("ping", "-c", "1", "-W", "5", guest_address)).code == 0
            # A later daemon uses the network that is there; other pods join it.
            other = Pod(SidecarBench(docker_engine, host_network), tmp_path)
            await other.start(*SLEEP)
            await other.runtime.close()
            other.runtime = other.bench.runtime()
            await other.runtime.remove_pod(other.ref)
            await other.runtime.close()
        engine = Engine(docker_engine.host)
        with pytest.raises(errors.Conflict, match="in use"):
            await remove_network(engine, host_network)
        await pod.runtime.remove_pod(pod.ref)
        await remove_network(engine, host_network)
        await remove_network(engine, host_network)
        await engine.close()
        assert name_of(host_network) not in await bench.docker("network", "ls")
        assert link_exists(host_network.bridge)
    finally:
        await pod.runtime.remove_pod(pod.ref)
        await bench.close()


async def test_network_whose_addresses_changed_is_made_again(
    docker_engine: DockerEngine, host_network: HostNetwork, tmp_path: Path
) -> None:
    bench = SidecarBench(docker_engine, host_network)
    pod = Pod(bench, tmp_path)
    await pod.start(*SLEEP)
    await pod.runtime.remove_pod(pod.ref)
    half = f"{host_network.subnet.rpartition('.')[0]}.64/26"
    bench.network = HostNetwork(host_network.bridge, host_network.subnet, host_network.gateway, half)
    changed = Pod(bench, tmp_path)
    try:
        await changed.start(*SLEEP)
        address = await bench.runtime().sandbox_address(changed.ref)
        assert 64 <= int(address.rpartition(".")[2]) < 128
    finally:
        await changed.runtime.remove_pod(changed.ref)
        engine = Engine(docker_engine.host)
        await remove_network(engine, host_network)
        await engine.close()
        await bench.close()


async def test_engine_without_a_bridge(docker_engine_factory: StartDockerEngine, tmp_path: Path) -> None:
    engine = docker_engine_factory(bridge="none")
    engine.import_busybox()
    bench = SidecarBench(engine)
    pod = Pod(bench, tmp_path)
    await pod.run("true")
    assert await bench.runtime().sandbox_address(pod.ref) == ""
    await pod.runtime.remove_pod(pod.ref)
    await bench.close()


# --- Engines that are away ---------------------------------------------------------------------------------------


async def test_no_engine(tmp_path: Path) -> None:
    runtime = Sidecars(f"unix://{tmp_path}/docker.sock", None, "me")
    text = f"Cannot connect to the Docker engine at unix://{tmp_path}/docker.sock: start it or set DOCKER_HOST"
    for call in (runtime.pods(), runtime.find_image("busybox"), runtime.find(pod_ref(), "main")):
        with pytest.raises(errors.Unavailable) as caught:
            await call
        assert caught.value.message.startswith(text)
    await runtime.close()


async def test_engine_over_tcp_that_is_down() -> None:
    port = free_port()
    runtime = Sidecars(f"tcp://127.0.0.1:{port}", None, "me")
    with pytest.raises(errors.Unavailable, match=f"Cannot connect to the Docker engine at tcp://127.0.0.1:{port}"):
        await runtime.pods()
    await runtime.close()


@contextlib.asynccontextmanager
async def served_over_tcp(engine: DockerEngine) -> AsyncIterator[str]:
    """The engine's API on a port of loopback, both directions ended apart; gives the value for DOCKER_HOST."""

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
            writer.write_eof()

    async def carry_both(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_reader, to_writer = await asyncio.open_unix_connection(str(engine.socket))
        await asyncio.gather(carry(reader, to_writer), carry(to_reader, writer))
        for end in (writer, to_writer):
            end.close()
            with contextlib.suppress(OSError):
                await end.wait_closed()

    connections: list[asyncio.Task[None]] = []

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(aio.spawn(carry_both(reader, writer), name="tcp to docker"))

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    async with server:
        yield f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with asyncio.timeout(30):  # the client has closed its ends
        await asyncio.gather(*connections)


async def test_engine_over_tcp(docker_engine: DockerEngine, tmp_path: Path) -> None:
    class TcpBench(SidecarBench):
        def runtime(self) -> Sidecars:
            self._made.append(Sidecars(host, None, self.owner))
            return self._made[-1]

    async with served_over_tcp(docker_engine) as host:
        bench = TcpBench(docker_engine)
        pod = Pod(bench, tmp_path)
        try:
            await pod.start(*SLEEP)
            chunks = [bytes(range(256)) * 256] * 32
            streams = MemoryStreams(chunks)
            assert (await pod.exec("sh", "-c", "sha256sum; exit 3", streams=streams)).code == 3
            assert streams.out.split()[0].decode() == hashlib.sha256(b"".join(chunks)).hexdigest()
        finally:
            await pod.runtime.remove_pod(pod.ref)
            await bench.close()


async def test_wait_and_log_survive_a_crash_of_the_engine(
    docker_engine_factory: StartDockerEngine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    engine = docker_engine_factory()
    engine.import_busybox()
    bench = SidecarBench(engine)
    pod = Pod(bench, tmp_path)
    await pod.start("sh", "-c", "echo begun; sleep 600")
    waiting = aio.spawn(pod.wait(), name="wait")
    following = aio.spawn(pod.lines(follow=True), name="follow")
    await asyncio.sleep(0.5)
    await asyncio.to_thread(engine.kill)
    await asyncio.sleep(0.5)
    with pytest.raises(errors.Unavailable):
        await pod.runtime.find(pod.ref, "main")
    assert not waiting.done()
    assert not following.done()
    await asyncio.to_thread(engine.restart_dockerd)
    # Without live restore a new daemon kills what the old one left.
    state = await waiting
    assert state.phase is ContainerPhase.EXITED
    assert state.exit.code != 0
    assert await following == ["begun"]
    # The sandbox died as well: the next attempt gets it back.
    again = await pod.run("echo again; exit 3", attempt=1)
    assert again.exit.code == 3
    assert await pod.lines(attempt=1) == ["again"]
    await pod.runtime.remove_pod(pod.ref)
    assert not await bench.leftovers(pod.ref)
    await bench.close()


async def test_container_removed_behind_our_back(pod: Pod, sidecar_bench: SidecarBench) -> None:
    state = await pod.start(*SLEEP)
    waiting = aio.spawn(pod.runtime.wait(pod.ref, "main"), name="wait")
    await asyncio.sleep(0.3)
    await sidecar_bench.docker("rm", "--force", state.id.removeprefix("docker://"))
    async with asyncio.timeout(30):
        # Either the end is seen before the container is gone, or only that it is gone.
        with contextlib.suppress(errors.NotFound):
            assert (await waiting).exit.code == 137
    assert await pod.runtime.find(pod.ref, "main") is None


async def test_sandbox_image_that_was_pruned_is_made_again(pod: Pod, sidecar_bench: SidecarBench) -> None:
    await pod.run("true")
    await pod.runtime.remove_pod(pod.ref)
    image = (await sidecar_bench.docker("images", "--quiet", "macos-vz-kubelet/pause")).split()
    assert len(image) == 1
    with contextlib.suppress(subprocess.CalledProcessError):  # other tests may use it at this moment
        await sidecar_bench.docker("rmi", *image)
    assert (await pod.run("exit 2")).exit.code == 2
