"""The kubelet API over real TLS sockets: streams, logs, who may do what, certificates that change."""

import asyncio
import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
import pytest_asyncio

from tests.cluster import pki
from tests.cluster.pki import KeyPair, Pki
from tests.support import exec_client
from tests.support.exec_client import ExecClient, UpgradeRefused, exec_path, exit_code
from tests.support.local_backend import LocalBackend
from vzkubelet import errors
from vzkubelet.config.settings import ServerSettings
from vzkubelet.model.logs import LogEntry, OutputStream
from vzkubelet.model.meta import ObjectMeta
from vzkubelet.model.pod import (
    Container,
    ContainerState,
    ContainerStateRunning,
    ContainerStateTerminated,
    ContainerStateWaiting,
    ContainerStatus,
    Pod,
    PodSpec,
    PodStatus,
)
from vzkubelet.model.review import UserInfo
from vzkubelet.server import remote_session
from vzkubelet.server.listener import Listener

SETTLE_S = 10.0
SHELL = ("sh", "-c")


@dataclasses.dataclass
class FakeReviews:
    """Whose tokens are known and who may do what; counts questions."""

    tokens: dict[str, UserInfo] = dataclasses.field(default_factory=dict)
    grants: set[tuple[str, str, str]] = dataclasses.field(default_factory=set)
    failing: bool = False
    questions: list[tuple[str, ...]] = dataclasses.field(default_factory=list)

    async def token_review(self, token: str) -> UserInfo | None:
        self.questions.append(("token", token))
        return self.tokens.get(token)

    async def subject_access_review(self, *, user: str, verb: str, subresource: str, name: str, **more: Any) -> bool:
        assert more["resource"] == "nodes"
        assert "system:authenticated" in more["groups"]
        self.questions.append((user, verb, name, subresource))
        if self.failing:
            raise errors.Unavailable("no API server")
        return (user, verb, subresource) in self.grants


@dataclasses.dataclass
class Served:
    listener: Listener
    backend: LocalBackend
    reviews: FakeReviews
    files: Pki
    settings: ServerSettings

    @property
    def port(self) -> int:
        return self.listener.port

    def tls(self, identity: KeyPair | None = None) -> ssl.SSLContext:
        return exec_client.client_tls(self.files.ca.certificate, identity or self.files.kubelet_client)

    def client(self, *command: str, **flags: bool) -> contextlib.AbstractAsyncContextManager[ExecClient]:
        return ExecClient.connect(self.port, self.tls(), exec_path(command, **(flags or {"output": True})))

    async def get(self, path: str, tls: ssl.SSLContext | None = None, **headers: str) -> tuple[int, str]:
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls or self.tls())) as http,
            http.get(f"https://127.0.0.1:{self.port}{path}", headers=headers) as response,
        ):
            return response.status, await response.text()


def pod(**states: ContainerStatus) -> Pod:
    running = {
        "main": ContainerStatus(
            name="main", state=ContainerState(running=ContainerStateRunning()), container_id="vm://1"
        )
    }
    statuses = running | states
    return Pod(
        metadata=ObjectMeta(name="pod", namespace="default", uid="uid-1"),
        spec=PodSpec(containers=[Container(name=name) for name in statuses]),
        status=PodStatus(container_statuses=list(statuses.values())),
    )


@pytest.fixture(scope="session")
def server_pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return pki.create(tmp_path_factory.mktemp("server") / "pki", server_addresses=(), service_address="10.0.0.1")


@pytest.fixture
def settings(server_pki: Pki) -> ServerSettings:
    return ServerSettings(
        bind_address="127.0.0.1",
        port=0,
        cert_file=server_pki.apiserver.certificate,
        key_file=server_pki.apiserver.key,
        client_ca_file=server_pki.ca.certificate,
        verify_clients=True,
        token_webhook=True,
        token_cache_s=60.0,
        authorized_cache_s=60.0,
        unauthorized_cache_s=60.0,
    )


@contextlib.asynccontextmanager
async def serving(settings: ServerSettings, files: Pki) -> AsyncIterator[Served]:
    backend = LocalBackend(known=[pod()])
    reviews = FakeReviews(grants={(pki.KUBELET_CLIENT_USER, verb, "proxy") for verb in ("get", "create")})
    listener = Listener(settings, "node", backend, reviews)
    await listener.start()
    try:
        yield Served(listener, backend, reviews, files, settings)
    finally:
        await listener.close()


@pytest_asyncio.fixture
async def served(settings: ServerSettings, server_pki: Pki) -> AsyncIterator[Served]:
    """A listener; what it started has ended when the test is over."""
    async with serving(settings, server_pki) as running:
        yield running
    this = asyncio.current_task()
    await until(lambda: not asyncio.all_tasks() - {this})
    assert running.backend.running == 0
    assert running.backend.followers == 0


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SETTLE_S):
        while not condition():
            await asyncio.sleep(0.01)


# --- Streams ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 1, 3, 137, 255])
async def test_exec_returns_the_exit_code(served: Served, code: int):
    async with served.client(*SHELL, f"echo out; echo err >&2; exit {code}", output=True, error=True) as client:
        await client.open("error", "stdout", "stderr")
        assert exit_code(await client.outcome()) == code
        assert (client.received["stdout"], client.received["stderr"]) == (b"out\n", b"err\n")
        await client.leave()


async def test_exec_names_what_was_asked_for(served: Served):
    path = exec_path(["echo", "a b", "c=d&e"], names="default/pod/uid-1/main", output=True)
    async with ExecClient.connect(served.port, served.tls(), path, method="GET") as client:
        await client.open("error", "stdout")
        assert exit_code(await client.outcome()) == 0
        assert client.received["stdout"] == b"a b c=d&e\n"
    assert served.backend.calls == [("exec", "default", "pod", "uid-1", "main", ("echo", "a b", "c=d&e"))]


async def test_arguments_may_be_long(served: Served):
    """A script given to ``sh -c`` is part of the request line."""
    async with served.client("echo", "x" * 100_000) as client:
        await client.open("error", "stdout")
        assert exit_code(await client.outcome()) == 0
        assert client.counts["stdout"] == 100_001


async def test_a_command_that_cannot_be_run_says_why(served: Served):
    async with served.client("/no/such/program") as client:
        await client.open("error", "stdout")
        status = await client.outcome()
    assert status["reason"] == "InternalError"
    assert status["message"] == (
        "Internal error occurred: error executing command in container: /no/such/program: No such file or directory"
    )


async def test_fifty_megabytes_of_input_arrive_whole(served: Served):
    data = os.urandom(1_000_000)
    async with served.client("sha256sum", input=True, output=True) as client:
        await client.open("error", "stdin", "stdout")
        for _ in range(50):
            await client.send("stdin", data)
        await client.end("stdin")
        assert exit_code(await client.outcome()) == 0
        expected = hashlib.sha256(data * 50).hexdigest()
        assert client.received["stdout"].split()[0].decode() == expected
        await client.leave()


async def test_a_slow_reader_gets_every_byte_and_the_exit_code(served: Served):
    """The hazard of the real kubelet: it closes after the last write, and TCP drops what was not read."""
    async with served.client(*SHELL, "head -c 20000000 /dev/zero; exit 7", output=True) as client:
        client.keep_output = True
        await client.open("error", "stdout")
        loop = asyncio.get_running_loop()
        started = loop.time()
        while "error" not in client.ended:
            await client.read(64 * 1024)
            lead = client.counts["stdout"] / 10_000_000 - (loop.time() - started)
            if lead > 0:
                await asyncio.sleep(lead)
            if client.counts["stdout"] % 3 == 0:
                client.connection.ping()  # a client that pings while it reads must not be cut off either
                await client.flush()
        assert client.counts["stdout"] == 20_000_000
        assert exit_code(await client.outcome()) == 7
        assert loop.time() - started > 1.5
        await client.leave()


async def test_output_waits_for_a_reader_that_does_not_read(served: Served):
    """Back pressure to the process: what the agent holds is bounded."""
    async with served.client(*SHELL, "head -c 100000000 /dev/zero; echo done >&2", output=True, error=True) as client:
        await client.open("error", "stdout", "stderr")
        await asyncio.sleep(0.5)
        session = next(iter(served.listener._routes._sessions))
        transport = session._connection._transport
        assert transport.get_write_buffer_size() < 1024 * 1024
        client.keep_output = False
        while "stdout" not in client.ended:
            await client.read()
        assert client.counts["stdout"] == 100_000_000
        assert exit_code(await client.outcome()) == 0


async def test_input_waits_for_a_command_that_does_not_take_it(served: Served):
    async with served.client(*SHELL, "sleep 1; wc -c", input=True, output=True) as client:
        await client.open("error", "stdin", "stdout")
        feeding = asyncio.ensure_future(send_all(client, 30_000_000))  # noqa: TID251
        await asyncio.sleep(0.5)
        session = next(iter(served.listener._routes._sessions))
        assert session._stdin_bytes <= remote_session.STDIN_HIGH_BYTES + 64 * 1024
        assert not feeding.done()
        await feeding
        assert exit_code(await client.outcome()) == 0
        assert client.received["stdout"].strip() == b"30000000"


async def send_all(client: ExecClient, total: int) -> None:
    for _ in range(total // 1_000_000):
        await client.send("stdin", bytes(1_000_000))
    await client.end("stdin")


async def test_a_command_that_ends_without_its_input_ends_the_session(served: Served):
    """``yes | kubectl exec -i pod -- true``: input keeps coming while the outcome waits to be read."""
    async with served.client(*SHELL, "exit 4", input=True, output=True) as client:
        await client.open("error", "stdin", "stdout")
        feeding = asyncio.ensure_future(send_all(client, 20_000_000))  # noqa: TID251
        assert exit_code(await client.outcome()) == 4
        assert "stdin" in client.ended
        await feeding
        await client.leave()


async def test_input_of_a_client_that_half_closes_is_end_of_file(served: Served):
    async with served.client("cat", input=True, output=True) as client:
        await client.open("error", "stdin", "stdout")
        await client.send("stdin", b"hello")
        while client.counts["stdout"] < 5:
            await client.read()
        await client.end("stdin")
        assert exit_code(await client.outcome()) == 0


async def test_a_terminal_has_the_clients_size_and_follows_it(served: Served):
    script = "stty size; read line; stty size; echo $line; exit 5"
    async with served.client(*SHELL, script, input=True, output=True, tty=True) as client:
        await client.open("error", "stdin", "stdout", "resize")
        await client.send("resize", b'{"Width":81,"Height":25}\n')
        await client.send("resize", b'{"Width":132,"Height":43}\n')
        await asyncio.sleep(0.3)
        await client.send("stdin", b"typed\n")
        assert exit_code(await client.outcome()) == 5
        lines = client.received["stdout"].decode().split()
        assert lines[-3:] == ["43", "132", "typed"]


async def test_a_terminal_without_a_size_still_gets_its_input(served: Served):
    async with served.client("cat", input=True, output=True, tty=True) as client:
        await client.open("error", "stdin", "stdout", "resize")
        await client.send("stdin", b"hello\n\x04")
        assert exit_code(await client.outcome()) == 0
        assert client.received["stdout"].replace(b"\r", b"").split(b"\n")[:2] == [b"hello", b"hello"]


async def test_attach_ends_with_success(served: Served):
    path = exec_path([], verb="attach", input=True, output=True)
    async with ExecClient.connect(served.port, served.tls(), path) as client:
        await client.open("error", "stdin", "stdout")
        await client.send("stdin", b"x")
        await client.end("stdin")
        assert exit_code(await client.outcome()) == 0
        assert client.received["stdout"] == b"x"
    assert served.backend.calls == [("attach", "default", "pod", "uid-1", "main")]


async def test_the_servers_pings_and_the_clients_are_answered(served: Served):
    async with served.client("sleep", "600", output=True) as client:
        await client.open("error", "stdout")
        client.connection.ping()
        await client.flush()
        while not client.events or not str(client.events[-1]).startswith("PongReceived"):
            await client.read()


@pytest.mark.parametrize("stage", ["no streams", "some streams", "running", "stalled input", "outcome unread"])
@pytest.mark.parametrize("how", ["close", "reset", "goodbye"])
async def test_a_client_that_leaves_at_any_stage_leaves_nothing_behind(
    served: Served, monkeypatch: pytest.MonkeyPatch, stage: str, how: str
):
    monkeypatch.setattr(remote_session, "PEER_CHECK_S", 0.2)
    command = {"outcome unread": "true", "stalled input": "sleep 600"}.get(stage, "yes & sleep 600")
    async with served.client(*SHELL, command, input=True, output=True) as client:
        if stage == "some streams":
            await client.open("error", "stdin")
        elif stage != "no streams":
            await client.open("error", "stdin", "stdout")
        if stage == "stalled input":
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.5):
                    await send_all(client, 20_000_000)
        elif stage == "outcome unread":
            await asyncio.sleep(0.2)
        elif stage == "running":
            await until(lambda: served.backend.running == 1)
        if how == "goodbye" and stage != "stalled input":
            await client.leave()
        elif how == "reset":
            client.writer.transport.abort()
        else:
            client.writer.close()
            if stage == "stalled input":
                client.writer.transport.abort()
        await until(lambda: served.listener._routes.sessions == 0)
    await until(lambda: served.backend.running == 0)


async def test_a_hostile_stream_is_dropped_and_the_server_lives(served: Served):
    async with served.client("sleep", "600") as client:
        await client.open("error", "stdout")
        client.writer.write(b"\x80\x02\x00\x01 this is not SPDY/3")
        while not client.eof:
            await client.read()
        assert "GoAwayReceived(status=1)" in map(str, client.events)
    assert (await served.get("/healthz"))[0] == 200


async def test_a_client_that_opens_too_few_streams_is_told(served: Served, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(remote_session, "CREATION_TIMEOUT_S", 0.2)
    async with served.client("true", output=True, error=True) as client:
        await client.open("error", "stdout")
        status = await client.outcome()
    assert status["message"].endswith("timed out waiting for client to create streams: stderr missing")
    assert served.backend.calls == []


async def test_an_idle_session_ends_with_a_reason(served: Served, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(remote_session, "IDLE_TIMEOUT_S", 0.3)
    async with served.client("sleep", "600") as client:
        await client.open("error", "stdout")
        status = await client.outcome()
    assert "nothing was sent or received" in status["message"]


async def test_a_client_that_stays_after_the_outcome_is_left(served: Served, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(remote_session, "LINGER_IDLE_S", 0.3)
    async with served.client("true") as client:
        await client.open("error", "stdout")
        assert exit_code(await client.outcome()) == 0
        while not client.eof:
            await client.read()
        assert "GoAwayReceived(status=0)" in map(str, client.events)


async def test_stopping_the_server_tells_every_client_why(served: Served):
    async with served.client("sleep", "600") as client:
        await client.open("error", "stdout")
        await until(lambda: served.backend.running == 1)
        stopping = asyncio.ensure_future(served.listener.close())  # noqa: TID251
        status = await client.outcome()
        assert status["message"] == "Internal error occurred: the node agent is shutting down"
        await client.leave()
        await stopping
    with pytest.raises(OSError):
        await served.get("/healthz")


async def test_many_idle_sessions(served: Served):
    async with contextlib.AsyncExitStack() as clients:
        for _ in range(50):
            client = await clients.enter_async_context(served.client("sleep", "600"))
            await client.open("error", "stdout")
        await until(lambda: served.backend.running == 50)
    await until(lambda: served.backend.running == 0)


async def test_a_websocket_session_from_start_to_close(served: Served):
    path = exec_path((*SHELL, "cat; echo err >&2; exit 3"), input=True, output=True, error=True)
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=served.tls())) as http,
        http.ws_connect(f"https://127.0.0.1:{served.port}{path}", protocols=("v5.channel.k8s.io",)) as socket,
    ):
        assert socket.protocol == "v5.channel.k8s.io"
        await socket.ping()
        await socket.send_bytes(b"\x00hello")
        await socket.send_bytes(b"\xff\x00")
        outputs: dict[int, bytes] = {}
        async for message in socket:
            outputs[message.data[0]] = outputs.get(message.data[0], b"") + message.data[1:]
        assert socket.close_code == 1000
        assert (outputs[1], outputs[2], exit_code(json.loads(outputs[3]))) == (b"hello", b"err\n", 3)


@pytest.mark.parametrize("protocols", [(), ("v4.channel.k8s.io",), ("base64.channel.k8s.io",)])
async def test_websocket_protocols_that_are_not_served_are_refused(served: Served, protocols: tuple[str, ...]):
    url = f"https://127.0.0.1:{served.port}{exec_path(['true'], output=True)}"
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=served.tls())) as http:
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await http.ws_connect(url, protocols=protocols)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("path", "protocols", "status", "text"),
    [
        (exec_path(["true"], output=True), (), 400, "unable to upgrade: X-Stream-Protocol-Version is required"),
        (exec_path(["true"], output=True), ("v9.channel.k8s.io",), 403, "unable to negotiate protocol"),
        (exec_path(["true"]), exec_client.OFFERED, 400, "you must specify at least 1 of stdin, stdout, stderr"),
        (exec_path([], output=True), exec_client.OFFERED, 400, "at least one command"),
        (exec_path(["true"], names="default/none/main", output=True), exec_client.OFFERED, 404, "pod does not exist"),
        (exec_path(["true"], names="other/pod/main", output=True), exec_client.OFFERED, 404, "pod does not exist"),
        (
            exec_path(["true"], names="default/pod/no", output=True),
            exec_client.OFFERED,
            500,
            'container not found ("no")',
        ),
        (
            exec_path(["true"], names="default/pod/u2/main", output=True),
            exec_client.OFFERED,
            500,
            "container not found",
        ),
    ],
)
async def test_refusals_before_the_upgrade(served: Served, path: str, protocols: Any, status: int, text: str):
    with pytest.raises(UpgradeRefused) as caught:
        async with ExecClient.connect(served.port, served.tls(), path, protocols=protocols):
            pass
    assert caught.value.status == status
    assert text in caught.value.body
    if status == 403:
        accepted = caught.value.headers["x-accepted-stream-protocol-versions"]
        assert accepted == ["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"]


async def test_a_request_without_upgrade_is_refused(served: Served):
    status, text = await served.get(exec_path(["true"], output=True))
    assert (status, text) == (400, "Upgrade request required: SPDY/3.1 or websocket")


# --- Logs ---------------------------------------------------------------------------------------------------------

NOON_NS = 1_795_262_400_000_000_000


def line(text: str, second: int = 0, *, partial: bool = False) -> LogEntry:
    return LogEntry(NOON_NS + second * 1_000_000_000, OutputStream.STDOUT, text.encode(), partial)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", "one\ntwo\nthree\n"),
        ("tailLines=1", "three\n"),
        ("tail=2", "two\nthree\n"),
        ("tail=all", "one\ntwo\nthree\n"),
        ("tailLines=0", ""),
        ("limitBytes=6", "one\ntw"),
        ("sinceTime=2026-11-21T12:00:02Z", "three\n"),
        ("tailLines=1&timestamps=true", "2026-11-21T12:00:02.000000000Z three\n"),
        ("unknown=1&follow=false&stream=All", "one\ntwo\nthree\n"),
    ],
)
async def test_log_options(served: Served, query: str, expected: str):
    served.backend.log["main"] = [line("one"), line("two", 1), line("three", 2)]
    assert await served.get(f"/containerLogs/default/pod/main?{query}") == (200, expected)


@pytest.mark.parametrize(
    ("query", "status", "text"),
    [
        ("tailLines=x", 400, '{"message": "Unable to decode query."}'),
        ("sinceTime=yesterday", 400, '{"message": "Unable to decode query."}'),
        ("sinceTime=2026-11-21T12:00:02", 400, '{"message": "Unable to decode query."}'),
        ("limitBytes=99999999999999999999", 400, '{"message": "Unable to decode query."}'),
        ("tailLines=-1", 422, '{"message": "Invalid request."}'),
        ("limitBytes=0", 422, '{"message": "Invalid request."}'),
        ("sinceSeconds=0", 422, '{"message": "Invalid request."}'),
        ("sinceSeconds=5&sinceTime=2026-11-21T12:00:02Z", 422, '{"message": "Invalid request."}'),
        ("stream=Stdout", 400, "unable to return the given log stream"),
    ],
)
async def test_bad_log_queries(served: Served, query: str, status: int, text: str):
    answered, body = await served.get(f"/containerLogs/default/pod/main?{query}")
    assert answered == status
    assert text in body


async def test_logs_of_what_is_not_there(served: Served):
    assert await served.get("/containerLogs/default/no/main") == (404, 'pod "no" does not exist')
    assert await served.get("/containerLogs/default/pod/no") == (404, 'container "no" not found in pod "pod"')


def waiting(reason: str) -> ContainerState:
    return ContainerState(waiting=ContainerStateWaiting(reason=reason))


RUNNING = ContainerState(running=ContainerStateRunning())
DEAD = ContainerState(terminated=ContainerStateTerminated(exit_code=1))


@pytest.mark.parametrize(
    ("state", "query", "text"),
    [
        (waiting("ContainerCreating"), "", "is waiting to start: ContainerCreating"),
        (waiting("ErrImagePull"), "", "image can't be pulled"),
        (waiting("ImagePullBackOff"), "", "trying and failing to pull image"),
        (RUNNING, "?previous=true", 'previous terminated container "side" in pod "pod" not found'),
        (ContainerState(), "", "is waiting to start - no logs yet"),
        (DEAD, "", 'container "side" in pod "pod" is terminated'),
    ],
)
async def test_containers_without_a_log_say_why(served: Served, state: ContainerState, query: str, text: str):
    served.backend.known = [pod(side=ContainerStatus(name="side", state=state))]
    status, body = await served.get(f"/containerLogs/default/pod/side{query}")
    assert status == 400
    assert text in body


async def test_a_restarting_container_still_has_its_last_log(served: Served):
    last = ContainerState(terminated=ContainerStateTerminated(exit_code=1, container_id="docker://x"))
    status = ContainerStatus(name="side", state=waiting("CrashLoopBackOff"), last_state=last)
    served.backend.known = [pod(side=status)]
    served.backend.log["side"] = [line("crashed")]
    assert await served.get("/containerLogs/default/pod/side") == (200, "crashed\n")
    assert await served.get("/containerLogs/default/pod/side?previous=true") == (200, "crashed\n")
    assert [call[5] for call in served.backend.calls] == [False, True]


async def test_a_followed_log_is_flushed_line_by_line_and_ends_with_its_reader(served: Served):
    log = served.backend.log["main"] = [line("first")]
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=served.tls())) as http,
        http.get(f"https://127.0.0.1:{served.port}/containerLogs/default/pod/main?follow=true") as response,
    ):
        assert response.headers["Transfer-Encoding"] == "chunked"
        assert await response.content.readline() == b"first\n"
        for number in range(3):
            log.append(line(f"line {number}"))
            served.backend.grown.set()
            assert await response.content.readline() == f"line {number}\n".encode()
        assert served.backend.followers == 1
        response.close()
    await until(lambda: served.backend.followers == 0)


async def test_stopping_the_server_does_not_wait_for_readers_of_logs(served: Served):
    served.backend.log["main"] = [line("first")]
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=served.tls())) as http,
        http.get(f"https://127.0.0.1:{served.port}/containerLogs/default/pod/main?follow=true") as response,
    ):
        assert await response.content.readline() == b"first\n"
        async with asyncio.timeout(3.0):
            await served.listener.close()
        with pytest.raises(aiohttp.ClientError):
            await response.content.readline()


async def test_following_a_silent_log_answers_at_once(served: Served):
    served.backend.log["main"] = []
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=served.tls())) as http,
        http.get(f"https://127.0.0.1:{served.port}/containerLogs/default/pod/main?follow=true") as response,
    ):
        assert response.status == 200


async def test_a_large_log_comes_whole_and_fast(served: Served):
    served.backend.log["main"] = [line("x" * 99)] * 200_000
    status, text = await served.get("/containerLogs/default/pod/main")
    assert status == 200
    assert len(text) == 20_000_000


async def test_log_errors_of_the_runtime_are_400_with_their_text(served: Served):
    served.backend.log_error = errors.Unavailable("the log is on a disk that is gone")
    assert await served.get("/containerLogs/default/pod/main") == (400, "the log is on a disk that is gone")


# --- Documents ----------------------------------------------------------------------------------------------------


async def test_pods_is_a_pod_list(served: Served):
    served.reviews.grants.add((pki.KUBELET_CLIENT_USER, "get", "pods"))
    status, text = await served.get("/pods")
    document = json.loads(text)
    assert (status, document["kind"], document["apiVersion"]) == (200, "PodList", "v1")
    assert msgspec.json.decode(msgspec.json.encode(document["items"][0]), type=Pod) == served.backend.known[0]


async def test_health(served: Served):
    assert await served.get("/healthz") == (200, "ok")
    served.backend.trouble = "pod worker of default/pod hangs"
    assert await served.get("/healthz") == (500, "healthz check failed: pod worker of default/pod hangs\n")
    assert await served.get("/healthz/ping") == (200, "ok")


async def test_summary(served: Served):
    served.reviews.grants.add((pki.KUBELET_CLIENT_USER, "get", "stats"))
    status, text = await served.get("/stats/summary")
    assert status == 200
    assert json.loads(text) == {"node": {"nodeName": "node", "startTime": "1970-01-01T00:00:00Z"}, "pods": []}
    assert (await served.get("/stats/summary?only_cpu_and_memory=true"))[0] == 200


async def test_unknown_paths(served: Served):
    assert await served.get("/nonsense") == (404, "404: Page Not Found")


# --- Who may ------------------------------------------------------------------------------------------------------

ROUTES = {
    "/pods": ["pods", "proxy"],
    "/healthz": ["healthz", "proxy"],
    "/healthz/ping": ["healthz", "proxy"],
    "/stats/summary": ["stats"],
    "/containerLogs/default/pod/main": ["proxy"],
    "/nonsense": ["proxy"],
    "/metrics/resource": ["metrics"],
    "/configz": ["configz", "proxy"],
    "/runningpods/": ["pods", "proxy"],
    "/logs/": ["log"],
}


@pytest.fixture
def nobody(server_pki: Pki) -> Iterator[KeyPair]:
    return server_pki.issue_client("nobody", "nobody", ["people"])


@pytest.mark.parametrize("path", ROUTES)
async def test_without_a_grant_every_route_is_forbidden_in_the_kubelets_words(
    served: Served, nobody: KeyPair, path: str
):
    subresources = ROUTES[path]
    status, text = await served.get(path, served.tls(nobody))
    listed = " ".join(subresources)
    assert (status, text) == (403, f"Forbidden (user=nobody, verb=get, resource=nodes, subresource(s)=[{listed}])\n")
    assert served.reviews.questions == [("nobody", "get", "node", subresource) for subresource in subresources]
    await served.get(path, served.tls(nobody))
    assert len(served.reviews.questions) == len(subresources), "denials are remembered for a while"


@pytest.mark.parametrize("path", ROUTES)
async def test_the_narrow_subresource_is_enough_and_so_is_the_fallback(served: Served, nobody: KeyPair, path: str):
    for subresource in ROUTES[path]:
        served.reviews.grants = {("nobody", "get", subresource)}
        async with serving(served.settings, served.files) as other:
            other.reviews.grants = served.reviews.grants
            other.backend.log["main"] = []
            status, _ = await other.get(path, other.tls(nobody))
        assert status in (200, 404)


@pytest.mark.parametrize("path", ROUTES)
async def test_nobody_in_particular_is_unauthorized_everywhere(served: Served, path: str):
    anonymous = exec_client.client_tls(served.files.ca.certificate, None)
    assert await served.get(path, anonymous) == (401, "Unauthorized")
    assert await served.get(path, anonymous, Authorization="Bearer stolen") == (401, "Unauthorized")
    assert await served.get(path, anonymous, Authorization="Basic eDp5") == (401, "Unauthorized")


async def test_reading_the_proxy_subresource_is_no_shell(served: Served, nobody: KeyPair):
    """A GET with upgrade is a stream all the same; the kubelet lets ``get nodes/proxy`` run commands."""
    served.reviews.grants = {("nobody", "get", "proxy")}
    path = exec_path(["true"], output=True)
    with pytest.raises(UpgradeRefused) as caught:
        async with ExecClient.connect(served.port, served.tls(nobody), path, method="GET"):
            pass
    assert caught.value.status == 403
    assert "verb=create" in caught.value.body


async def test_a_token_is_reviewed_once_and_its_groups_count(served: Served):
    anonymous = exec_client.client_tls(served.files.ca.certificate, None)
    served.reviews.tokens["good"] = UserInfo(username="robot", groups=["robots"])
    served.reviews.grants.add(("robot", "get", "healthz"))
    for _ in range(3):
        assert await served.get("/healthz", anonymous, Authorization="Bearer good") == (200, "ok")
    assert served.reviews.questions == [("token", "good"), ("robot", "get", "node", "healthz")]


async def test_certificates_of_another_ca_do_not_get_in(served: Served, tmp_path: Path):
    other = pki.create(tmp_path / "other", server_addresses=(), service_address="10.0.0.1")
    stranger = other.issue_client("stranger", pki.KUBELET_CLIENT_USER)
    with pytest.raises(aiohttp.ClientError):
        await served.get("/healthz", served.tls(stranger))


async def test_a_serving_certificate_is_no_client_certificate(served: Served):
    with pytest.raises(aiohttp.ClientError):
        await served.get("/healthz", served.tls(served.files.apiserver))


async def test_an_api_server_that_gives_no_opinion_is_500_and_asked_again(served: Served, nobody: KeyPair):
    served.reviews.failing = True
    status, text = await served.get("/stats/summary", served.tls(nobody))
    assert (status, text) == (500, "Authorization error (user=nobody, verb=get, resource=nodes, subresource=stats)")
    served.reviews.failing = False
    assert (await served.get("/stats/summary", served.tls(nobody)))[0] == 403


async def test_unverified_clients_are_let_in_and_the_log_is_loud(
    settings: ServerSettings, server_pki: Pki, caplog: pytest.LogCaptureFixture
):
    async with serving(dataclasses.replace(settings, verify_clients=False), server_pki) as served:
        anonymous = exec_client.client_tls(server_pki.ca.certificate, None)
        assert await served.get("/healthz", anonymous) == (200, "ok")
        assert served.reviews.questions == []
    assert "LETS ANYBODY IN" in caplog.text


# --- TLS ----------------------------------------------------------------------------------------------------------


async def test_changed_certificate_and_ca_are_used_for_new_connections(
    settings: ServerSettings, server_pki: Pki, tmp_path: Path
):
    cert, key, ca = tmp_path / "tls.crt", tmp_path / "tls.key", tmp_path / "ca.crt"
    shutil.copy(server_pki.apiserver.certificate, cert)
    shutil.copy(server_pki.apiserver.key, key)
    shutil.copy(server_pki.ca.certificate, ca)
    changed = dataclasses.replace(settings, cert_file=cert, key_file=key, client_ca_file=ca)
    renewed = pki.create(tmp_path / "renewed", server_addresses=(), service_address="10.0.0.1")
    async with serving(changed, server_pki) as served, served.client("cat", input=True, output=True) as old_client:
        await old_client.open("error", "stdin", "stdout")
        shutil.copy(renewed.apiserver.certificate, cert)  # the key is still the old one: half written
        assert (await served.get("/healthz"))[0] == 200
        shutil.copy(renewed.apiserver.key, key)
        shutil.copy(renewed.ca.certificate, ca)
        with pytest.raises(aiohttp.ClientError):
            await served.get("/healthz")
        tls = exec_client.client_tls(renewed.ca.certificate, renewed.kubelet_client)
        assert (await served.get("/healthz", tls))[0] == 200
        old_identity = exec_client.client_tls(renewed.ca.certificate, server_pki.kubelet_client)
        with pytest.raises(aiohttp.ClientError):
            await served.get("/healthz", old_identity)
        await old_client.send("stdin", b"still here")
        await old_client.end("stdin")
        assert exit_code(await old_client.outcome()) == 0
        assert old_client.received["stdout"] == b"still here"


async def test_only_http_1_1_and_tls_1_2_upwards(served: Served):
    tls = served.tls()
    tls.set_alpn_protocols(["h2", "http/1.1"])
    _, writer = await asyncio.open_connection("127.0.0.1", served.port, ssl=tls)
    assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
    await exec_client.close(writer)


def test_unusable_files_are_named(settings: ServerSettings, tmp_path: Path):
    with pytest.raises(errors.InvalidInput, match=r"missing\.crt"):
        Listener(
            dataclasses.replace(settings, cert_file=tmp_path / "missing.crt"), "node", LocalBackend(), FakeReviews()
        )
    with pytest.raises(errors.InvalidInput, match="no-verify-clients"):
        Listener(settings, "node", LocalBackend(), None)


async def test_a_port_in_use_is_named(served: Served):
    second = Listener(dataclasses.replace(served.settings, port=served.port), "node", served.backend, served.reviews)
    with pytest.raises(errors.Unavailable, match=f":{served.port}"):
        await second.start()
    await second.close()
