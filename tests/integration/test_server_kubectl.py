"""The kubelet API behind a real API server, driven by the real kubectl on every way that a session can take.

The node is an object that points at our listener; its containers are local processes. Tokens and permissions are
reviewed by the API server on behalf of the node's own identity.
"""

import asyncio
import contextlib
import dataclasses
import fcntl
import hashlib
import os
import pty
import signal
import struct
import termios
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.cluster.api import ApiClient, ApiError
from tests.cluster.control_plane import ControlPlane
from tests.cluster.node_credential import NodeCredential
from tests.integration.kube_support import connected, until
from tests.support.cluster_fixtures import MintCredential
from tests.support.local_backend import LocalBackend
from vzkubelet.config.settings import ServerSettings
from vzkubelet.kube.reviews import Reviews
from vzkubelet.model.logs import LogEntry, OutputStream
from vzkubelet.model.meta import ObjectMeta
from vzkubelet.model.pod import (
    Container,
    ContainerState,
    ContainerStateRunning,
    ContainerStatus,
    Pod,
    PodSpec,
    PodStatus,
)
from vzkubelet.server.listener import Listener
from vzkubelet.wire import channels, spdy

TIMEOUT_S = 60.0


@dataclasses.dataclass
class Node:
    """A pod `pod` with the containers main and side, and kubectl."""

    cluster: ControlPlane
    backend: LocalBackend
    listener: Listener
    name: str
    namespace: str
    declared: list[str] = dataclasses.field(default_factory=list)

    async def start(self, *arguments: str, way: str = "websocket", **options: int) -> asyncio.subprocess.Process:
        await self.declare(way)
        environment = {
            **os.environ,
            "KUBECONFIG": str(self.cluster.admin_kubeconfig),
            "HOME": str(self.cluster.directory),
            "KUBECTL_REMOTE_COMMAND_WEBSOCKETS": "false" if way == "spdy" else "true",
        }
        pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), asyncio.subprocess.PIPE) | options
        return await asyncio.create_subprocess_exec(
            self.cluster.kubectl, "-n", self.namespace, *arguments, env=environment, **pipes
        )

    async def declare(self, way: str) -> None:
        """The API server hands WebSockets to nodes that say they know them."""
        features = ["ExtendWebSocketsToKubelet"] if way == "websocket" else []
        if features == self.declared:
            return
        self.declared = features
        await asyncio.to_thread(
            self.cluster.api.request,
            "PATCH",
            f"/api/v1/nodes/{self.name}/status",
            {"status": {"declaredFeatures": features or None}},
            "application/merge-patch+json",
        )

    async def kubectl(self, *arguments: str, stdin: bytes = b"", way: str = "websocket") -> tuple[int, bytes, bytes]:
        """Exit code, stdout, stderr."""
        process = await self.start(*arguments, way=way)
        try:
            async with asyncio.timeout(TIMEOUT_S):
                out, err = await process.communicate(stdin)
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        assert process.returncode is not None
        return process.returncode, out, err


def create_node(api: ApiClient, credential: NodeCredential, port: int) -> None:
    node = {
        "metadata": {"name": credential.node_name},
        "status": {
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
        },
    }
    credential.api().create("/api/v1/nodes", node)


def create_pod(api: ApiClient, namespace: str, node: str) -> Pod:
    """On the node, and running as far as the API server knows."""
    containers = [{"name": name, "image": "none", "stdin": True} for name in ("main", "side")]
    spec = {"nodeName": node, "containers": containers, "tolerations": [{"operator": "Exists"}]}
    uid = api.create(f"/api/v1/namespaces/{namespace}/pods", {"metadata": {"name": "pod"}, "spec": spec})["metadata"][
        "uid"
    ]
    running: list[dict[str, object]] = [
        {"name": container["name"], "state": {"running": {}}, "ready": True, "image": "none", "imageID": "",
         "restartCount": 0, "containerID": "test://1"}
        for container in containers
    ]  # fmt: skip
    status = {"status": {"phase": "Running", "containerStatuses": running}}
    api.request(
        "PATCH", f"/api/v1/namespaces/{namespace}/pods/pod/status", status, "application/strategic-merge-patch+json"
    )
    state = ContainerState(running=ContainerStateRunning())
    return Pod(
        metadata=ObjectMeta(name="pod", namespace=namespace, uid=uid),
        spec=PodSpec(containers=[Container(name="main"), Container(name="side")]),
        status=PodStatus(container_statuses=[ContainerStatus(name=name, state=state) for name in ("main", "side")]),
    )


@pytest_asyncio.fixture
async def node(cluster: ControlPlane, mint_credential: MintCredential) -> AsyncIterator[Node]:
    credential = await asyncio.to_thread(mint_credential)
    namespace = f"test-{uuid.uuid4().hex[:8]}"
    settings = ServerSettings(
        bind_address="127.0.0.1",
        port=0,
        cert_file=credential.serving.certificate,
        key_file=credential.serving.key,
        client_ca_file=credential.ca_certificate,
        verify_clients=True,
        token_webhook=True,
        token_cache_s=120.0,
        authorized_cache_s=300.0,
        unauthorized_cache_s=30.0,
    )
    async with connected(credential) as client:
        backend = LocalBackend()
        listener = Listener(settings, credential.node_name, backend, Reviews(client))
        await listener.start()
        try:
            api = cluster.api
            await asyncio.to_thread(create_node, api, credential, listener.port)
            await asyncio.to_thread(api.create, "/api/v1/namespaces", {"metadata": {"name": namespace}})
            await wait_for_account(api, namespace)
            backend.known = [await asyncio.to_thread(create_pod, api, namespace, credential.node_name)]
            yield Node(cluster, backend, listener, credential.node_name, namespace)
            await until(lambda: backend.running == 0 and listener._routes.sessions == 0, "all sessions over")
        finally:
            await listener.close()
            pod = f"/api/v1/namespaces/{namespace}/pods/pod?gracePeriodSeconds=0"
            for path in (pod, f"/api/v1/namespaces/{namespace}", f"/api/v1/nodes/{credential.node_name}"):
                with contextlib.suppress(Exception):
                    await asyncio.to_thread(api.delete, path)


async def wait_for_account(api: ApiClient, namespace: str) -> None:
    """Pods are refused until the namespace has its default service account."""

    def exists() -> bool:
        accounts = api.get(f"/api/v1/namespaces/{namespace}/serviceaccounts")["items"]
        return any(account["metadata"]["name"] == "default" for account in accounts)

    async with asyncio.timeout(TIMEOUT_S):
        while not await asyncio.to_thread(exists):
            await asyncio.sleep(0.05)


every_way = pytest.mark.parametrize("way", ["websocket", "translated", "spdy"])
"""WebSocket all the way to us, WebSocket translated to SPDY by the API server, SPDY all the way."""


@every_way
async def test_exec_exit_codes_and_outputs(node: Node, way: str):
    for code in (0, 1, 3, 137, 255):
        script = f"echo out; echo err >&2; exit {code}"
        got, out, err = await node.kubectl("exec", "pod", "-c", "main", "--", "sh", "-c", script, way=way)
        assert (got, out) == (code, b"out\n"), err
        assert err.startswith(b"err\n")


@every_way
async def test_fifty_megabytes_in_and_out(node: Node, way: str):
    data = os.urandom(50_000_000)
    code, out, err = await node.kubectl("exec", "-i", "pod", "--", "sha256sum", stdin=data, way=way)
    assert (code, out.split()[0].decode()) == (0, hashlib.sha256(data).hexdigest()), err
    code, out, err = await node.kubectl("exec", "pod", "--", "head", "-c", "50000000", "/dev/zero", way=way)
    assert (code, len(out)) == (0, 50_000_000), err


@pytest.mark.parametrize("way", ["websocket", "spdy"])
async def test_a_slow_reader_gets_every_byte_and_the_exit_code(node: Node, way: str):
    """Not where the API server translates: it closes towards kubectl while bytes wait, and the next ping loses them.

    Whatever is written fits into the buffers on the way, so that the command is over long before the reader.
    """
    total, rate = 16_000_000, 1_600_000
    script = f"head -c {total} /dev/zero; exit 9"
    process = await node.start("exec", "pod", "--", "sh", "-c", script, way=way)
    assert process.stdout is not None
    assert process.stderr is not None
    started, received = time.monotonic(), 0
    while chunk := await process.stdout.read(64 * 1024):
        received += len(chunk)
        await asyncio.sleep(max(0.0, received / rate - (time.monotonic() - started)))
    assert (received, await process.wait()) == (total, 9), await process.stderr.read()


@every_way
async def test_input_that_nobody_wants(node: Node, way: str):
    code, _, err = await node.kubectl("exec", "-i", "pod", "--", "sh", "-c", "exit 4", stdin=bytes(20_000_000), way=way)
    assert code == 4, err


@every_way
async def test_a_terminal_works_and_follows_the_window(node: Node, way: str):
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 31, 101, 0, 0))
    try:
        process = await node.start(
            "exec", "-it", "pod", "--", "sh", "-c", "echo ready; read line; stty size; echo got $line; exit 6",
            way=way, stdin=slave, stdout=slave, stderr=slave,
        )  # fmt: skip
        await seen(master, b"ready")
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 44, 133, 0, 0))
        process.send_signal(signal.SIGWINCH)
        await asyncio.sleep(1.0)
        os.write(master, b"typed\r")
        output = await seen(master, b"got typed")
        assert b"44 133" in output
        assert await process.wait() == 6
    finally:
        os.close(slave)
        os.close(master)


async def seen(master: int, text: bytes) -> bytes:
    """What the terminal shows, up to the text."""
    shown = b""
    async with asyncio.timeout(TIMEOUT_S):
        while text not in shown:
            shown += await asyncio.to_thread(os.read, master, 4096)
    return shown


@every_way
async def test_attach_reaches_the_process(node: Node, way: str):
    code, out, err = await node.kubectl("attach", "-i", "pod", "-c", "main", stdin=b"hello\n", way=way)
    assert (code, out) == (0, b"hello\n"), err
    assert node.backend.calls[-1][0] == "attach"


@every_way
async def test_a_killed_kubectl_ends_the_command(node: Node, way: str):
    process = await node.start("exec", "-i", "pod", "--", "sleep", "600", way=way)
    await until(lambda: node.backend.running == 1, "command runs")
    (session,) = node.listener._routes._sessions
    assert isinstance(session._session._connection, channels.Connection if way == "websocket" else spdy.Connection)
    process.kill()
    await process.wait()
    await until(lambda: node.backend.running == 0, "command is gone", 15.0)


async def test_errors_reach_the_user(node: Node):
    code, _, err = await node.kubectl("exec", "pod", "--", "/no/such/program")
    assert code == 1
    assert b"/no/such/program: No such file or directory" in err
    code, _, err = await node.kubectl("logs", "pod", "-c", "main", "--previous")
    assert code == 1
    assert b'previous terminated container "main" in pod "pod" not found' in err


async def test_logs(node: Node):
    noon_ns = 1_795_262_400_000_000_000
    log = [LogEntry(noon_ns, OutputStream.STDOUT, f"line {number}".encode()) for number in range(3)]
    node.backend.log["main"] = log
    assert (await node.kubectl("logs", "pod", "-c", "main"))[1] == b"line 0\nline 1\nline 2\n"
    stamped = await node.kubectl("logs", "pod", "-c", "main", "--tail=1", "--timestamps")
    assert stamped[1] == b"2026-11-21T12:00:00.000000000Z line 2\n"
    process = await node.start("logs", "pod", "-c", "main", "-f", "--tail=0")
    assert process.stdout is not None
    await until(lambda: node.backend.followers == 1, "kubectl follows")
    for number in range(3, 6):
        log.append(LogEntry(noon_ns, OutputStream.STDERR, f"line {number}".encode()))
        node.backend.grown.set()
        assert await process.stdout.readline() == f"line {number}\n".encode()
    process.kill()
    await process.wait()
    await until(lambda: node.backend.followers == 0, "nobody follows")


async def test_documents_for_the_clusters_admin(node: Node):
    """Straight to the kubelet port: the API server's node proxy refuses loopback addresses."""
    keys = node.cluster.pki
    admin = ApiClient(f"https://127.0.0.1:{node.listener.port}", keys.ca.certificate, keys.admin)
    assert await asyncio.to_thread(admin.get, "/healthz") == "ok"
    pods = await asyncio.to_thread(admin.get, "/pods")
    assert [pod["metadata"]["name"] for pod in pods["items"]] == ["pod"]
    summary = await asyncio.to_thread(admin.get, "/stats/summary")
    assert summary["node"]["nodeName"] == "node"


async def test_who_may_is_the_api_servers_decision(node: Node, tmp_path: Path):
    """A service account's token, straight to the kubelet port: refused until a role lets it read stats."""
    token = (await node.kubectl("create", "token", "default"))[1].decode().strip()
    tls_ca = node.cluster.pki.ca.certificate
    direct = ApiClient(f"https://127.0.0.1:{node.listener.port}", tls_ca, token=token)
    unknown = ApiClient(f"https://127.0.0.1:{node.listener.port}", tls_ca, token="stolen")

    async def status(client: ApiClient, path: str) -> int:
        try:
            await asyncio.to_thread(client.get, path)
        except ApiError as error:
            return error.status
        return 200

    assert await status(unknown, "/stats/summary") == 401
    assert await status(direct, "/stats/summary") == 403
    role = f"stats-{node.namespace}"
    account = f"{node.namespace}:default"
    await node.kubectl("create", "clusterrole", role, "--verb=get", "--resource=nodes/metrics")
    await node.kubectl("create", "clusterrolebinding", role, f"--clusterrole={role}", f"--serviceaccount={account}")
    try:
        async with asyncio.timeout(TIMEOUT_S):
            while await status(direct, "/metrics/resource") != 404:  # allowed, and not served yet
                await asyncio.sleep(1.0)
        assert await status(direct, "/healthz") == 403
    finally:
        await node.kubectl("delete", "clusterrolebinding", role)
        await node.kubectl("delete", "clusterrole", role)
