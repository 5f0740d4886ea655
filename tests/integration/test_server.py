"""Streams of the kubelet API over real TLS sockets: exec and attach, and everything that goes wrong with them."""

import asyncio
import contextlib
import hashlib
import json
import os
from typing import Any

import aiohttp
import pytest

from tests.support import exec_client
from tests.support.exec_client import ExecClient, UpgradeRefused, exec_path, exit_code
from tests.support.server_fixtures import Served, until
from vzkubelet.server import remote_session

SHELL = ("sh", "-c")


@pytest.mark.parametrize("code", [0, 1, 3, 137, 255])
async def test_exec_returns_the_exit_code(served: Served, code: int):
    async with served.client(*SHELL, f"echo out; echo err >&2; exit {code}", output=True, error=True) as client:
        await client.open("error", "stdout", "stderr")
        assert exit_code(await client.outcome()) == code
        assert (bytes(client.received["stdout"]), bytes(client.received["stderr"])) == (b"out\n", b"err\n")
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
