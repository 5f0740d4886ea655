"""Container logs and documents of the kubelet API over real TLS sockets."""

import asyncio
import json

import aiohttp
import msgspec
import pytest

from tests.cluster import pki
from tests.support.server_fixtures import Served, pod, until
from vzkubelet import errors
from vzkubelet.model.logs import LogEntry, OutputStream
from vzkubelet.model.pod import (
    ContainerState,
    ContainerStateRunning,
    ContainerStateTerminated,
    ContainerStateWaiting,
    ContainerStatus,
    Pod,
)

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
