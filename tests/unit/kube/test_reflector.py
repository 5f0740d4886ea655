import asyncio
import itertools
import random
from collections.abc import AsyncGenerator, Callable
from typing import Any

import msgspec
import pytest

from tests.unit.kube.api import Answer, Api, failure
from vzkubelet import aio
from vzkubelet.errors import RemoteProtocolError, Unavailable
from vzkubelet.kube import reflector
from vzkubelet.kube.reflector import Added, Deleted, Delta, Modified, Reflector, Synced
from vzkubelet.model.pod import Pod

PATH = "/api/v1/pods"


def pod(name: str, version: int, uid: str = "", **more: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "ns", "uid": uid or f"uid-{name}", "resourceVersion": str(version)}
    return {"metadata": metadata, "spec": {"containers": [{"name": "c"}]}, "status": {}, **more}


def listed(version: int, *pods: dict[str, Any]) -> Answer:
    return Answer(body={"kind": "PodList", "metadata": {"resourceVersion": str(version)}, "items": list(pods)})


def event(kind: str, obj: dict[str, Any]) -> bytes:
    return msgspec.json.encode({"type": kind, "object": obj}) + b"\n"


def bookmark(version: int) -> bytes:
    """As an API server sends it: a zero pod, null lists included."""
    metadata = {"resourceVersion": str(version), "creationTimestamp": None}
    return event("BOOKMARK", {"kind": "Pod", "metadata": metadata, "spec": {"containers": None}, "status": {}})


def watch(*chunks: bytes | Exception | float) -> Answer:
    """Chunks; a float is silence of so many seconds, an exception a broken connection, the end a clean close."""

    async def stream() -> AsyncGenerator[bytes, None]:
        for chunk in chunks:
            match chunk:
                case float():
                    await asyncio.sleep(chunk)
                case bytes():
                    yield chunk
                case _:
                    raise chunk

    return Answer(stream=stream)


FOREVER = 1e6
BROKEN = Unavailable("connection reset")


class Run:
    """A reflector against a script of answers; the last one is a watch that stays."""

    def __init__(self, *answers: Answer | Exception) -> None:
        self.deltas: list[tuple[str, str]] = []
        self.api = Api([*answers, watch(FOREVER)])
        self._changed = asyncio.Event()
        self.api.on_request = self._changed.set
        self.reflector = Reflector(
            self.api.client(),
            PATH,
            Pod,
            self._on_delta,
            field_selector="spec.nodeName=n",
            jitter=random.Random(1),
        )

    def _on_delta(self, delta: Delta[Pod]) -> None:
        self._changed.set()
        match delta:
            case Synced():
                self.deltas.append(("Synced", ""))
            case Added(obj) | Modified(obj) | Deleted(obj):
                self.deltas.append((type(delta).__name__, f"{obj.metadata.name}@{obj.metadata.resource_version}"))

    async def until(self, done: Callable[[], bool]) -> None:
        task = aio.spawn(self.reflector.run(), name="reflector")
        try:
            while not done():
                assert not task.done(), task.exception()
                self._changed.clear()
                await self._changed.wait()
        finally:
            await aio.cancel(task)

    async def until_requests(self, count: int) -> None:
        await self.until(lambda: len(self.api.requests) >= count)

    def query(self, index: int) -> dict[str, str]:
        return dict(self.api.requests[index].query)


async def test_a_list_is_followed_by_a_watch_from_its_position() -> None:
    run = Run(
        listed(7, pod("a", 5)),
        watch(event("ADDED", pod("b", 8)), event("MODIFIED", pod("a", 9)), event("DELETED", pod("b", 10)), FOREVER),
    )
    await run.until(lambda: len(run.deltas) == 5)
    assert run.deltas == [
        ("Added", "a@5"),
        ("Synced", ""),
        ("Added", "b@8"),
        ("Modified", "a@9"),
        ("Deleted", "b@10"),
    ]
    assert run.query(0) == {"fieldSelector": "spec.nodeName=n"}
    watched = run.query(1)
    assert watched["watch"] == "true"
    assert watched["allowWatchBookmarks"] == "true"
    assert watched["resourceVersion"] == "7"
    assert watched["fieldSelector"] == "spec.nodeName=n"
    assert 1800 <= int(watched["timeoutSeconds"]) <= 3600


async def test_the_first_list_is_consistent_so_that_no_orphan_is_made_of_a_running_pod() -> None:
    run = Run(listed(7))
    await run.until_requests(2)
    assert "resourceVersion" not in run.query(0)


async def test_a_clean_close_resumes_at_once_from_the_bookmark() -> None:
    run = Run(listed(7), watch(bookmark(42), 2.0))
    began = asyncio.get_running_loop().time()
    await run.until_requests(3)
    assert run.query(2)["resourceVersion"] == "42"
    assert asyncio.get_running_loop().time() - began < 2.1
    assert ("Deleted", "") not in run.deltas


async def test_a_server_that_closes_every_watch_at_once_is_not_asked_in_a_hot_loop() -> None:
    run = Run(listed(7), *[watch() for _ in range(5)])
    began = asyncio.get_running_loop().time()
    await run.until_requests(7)
    assert asyncio.get_running_loop().time() - began > 20


async def test_gone_as_status_lists_again_and_synthesizes_deletions() -> None:
    run = Run(
        listed(7, pod("a", 5), pod("b", 6), pod("c", 6)),
        watch(BROKEN),
        failure(410, "Expired"),
        listed(20, pod("a", 5), pod("b", 19), pod("d", 18)),
    )
    await run.until(lambda: run.deltas.count(("Synced", "")) == 2)
    assert run.deltas[4:] == [("Deleted", "c@6"), ("Modified", "b@19"), ("Added", "d@18"), ("Synced", "")]
    assert run.query(2)["resourceVersion"] == "7"


async def test_gone_inside_the_stream_lists_again() -> None:
    expired = {"kind": "Status", "status": "Failure", "reason": "Expired", "message": "too old", "code": 410}
    run = Run(listed(7, pod("a", 5)), watch(2.0, event("ERROR", expired)), listed(9))
    await run.until(lambda: len(run.deltas) == 4)
    assert run.deltas[2:] == [("Deleted", "a@5"), ("Synced", "")]


async def test_a_server_that_answers_gone_to_every_position_is_not_asked_in_a_hot_loop() -> None:
    answers = [answer for n in range(5) for answer in (listed(n + 1), failure(410, "Expired"))]
    run = Run(*answers)
    began = asyncio.get_running_loop().time()
    await run.until_requests(11)
    assert asyncio.get_running_loop().time() - began > 20


async def test_after_an_outage_gone_is_answered_with_a_list_without_further_delay() -> None:
    outage = [Unavailable("refused") for _ in range(5)]
    run = Run(listed(7), watch(BROKEN), *outage, failure(410, "Expired"), listed(9))
    await run.until_requests(9)
    assert run.api.times[8] == run.api.times[7]


async def test_a_pod_that_was_made_again_under_its_name_is_deleted_and_added() -> None:
    run = Run(listed(7, pod("a", 5, "one")), watch(BROKEN), failure(410, "Expired"), listed(9, pod("a", 8, "two")))
    await run.until(lambda: run.deltas.count(("Synced", "")) == 2)
    assert run.deltas[2:] == [("Deleted", "a@5"), ("Added", "a@8"), ("Synced", "")]


async def test_events_split_at_any_byte_are_put_together() -> None:
    whole = event("ADDED", pod("a", 8)) + event("MODIFIED", pod("a", 9))
    run = Run(listed(7), watch(*[whole[i : i + 1] for i in range(len(whole))], FOREVER))
    await run.until(lambda: len(run.deltas) == 3)
    assert run.deltas[1:] == [("Added", "a@8"), ("Modified", "a@9")]


async def test_half_an_event_before_a_break_is_not_taken() -> None:
    half = event("ADDED", pod("a", 8))[:-5]
    run = Run(listed(7), watch(half))
    await run.until_requests(3)
    assert run.deltas == [("Synced", "")]
    assert run.query(2)["resourceVersion"] == "7"


async def test_a_repeated_event_makes_no_delta() -> None:
    run = Run(listed(7, pod("a", 5)), watch(event("ADDED", pod("a", 5)), event("MODIFIED", pod("a", 8)), FOREVER))
    await run.until(lambda: len(run.deltas) == 3)
    assert run.deltas == [("Added", "a@5"), ("Synced", ""), ("Modified", "a@8")]


async def test_one_unreadable_pod_stops_no_other_and_is_not_taken_for_deleted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    unreadable = {**pod("bad", 8), "spec": {"containers": 7}}
    run = Run(
        listed(7, pod("bad", 5)),
        watch(event("MODIFIED", unreadable), event("ADDED", pod("a", 9)), BROKEN),
        failure(410, "Expired"),
        listed(10, unreadable, pod("a", 9)),
    )
    await run.until(lambda: run.deltas.count(("Synced", "")) == 2)
    assert run.deltas == [("Added", "bad@5"), ("Synced", ""), ("Added", "a@9"), ("Synced", "")]
    assert [r.levelname for r in caplog.records if "cannot be read" in r.message] == ["ERROR"]


async def test_unreadable_pods_are_known_to_exist_until_they_are_gone() -> None:
    """After a restart of the agent nothing else keeps their machines from being removed as orphans."""
    bad, worse = ({**pod(name, 5), "spec": {"containers": 7}} for name in ("bad", "worse"))
    run = Run(
        listed(7, bad, worse, pod("a", 5)),
        watch(5.0, event("DELETED", bad), event("ADDED", pod("b", 9)), 5.0, BROKEN),
        failure(410, "Expired"),
        listed(10, pod("a", 5), pod("b", 9)),
    )
    known: dict[int, set[str]] = {}

    def relisted() -> bool:
        known[len(run.deltas)] = set(run.reflector.undecodable)
        return run.deltas.count(("Synced", "")) == 2

    await run.until(relisted)
    assert run.deltas == [("Added", "a@5"), ("Synced", ""), ("Added", "b@9"), ("Synced", "")]
    assert [known[count] for count in (2, 3, 4)] == [{"uid-bad", "uid-worse"}, {"uid-worse"}, set()]


async def test_a_silent_connection_is_given_up_and_made_again() -> None:
    run = Run(listed(7), watch(FOREVER))
    began = asyncio.get_running_loop().time()
    await run.until_requests(3)
    assert reflector.IDLE_LIMIT_S < asyncio.get_running_loop().time() - began < reflector.IDLE_LIMIT_S + 2


async def test_the_wait_after_failures_grows_to_its_limit_and_is_forgotten_after_progress() -> None:
    refused = [Unavailable("refused") for _ in range(7)]
    run = Run(listed(1), *refused, watch(bookmark(3), BROKEN))
    await run.until_requests(10)
    gaps = [after - before for before, after in itertools.pairwise(run.api.times[1:])]
    for gap, whole in zip(gaps, [1, 2, 4, 8, 16, 30, 30, 1], strict=True):
        assert 0.75 * whole <= gap <= 1.25 * whole


async def test_an_endless_line_is_refused_instead_of_kept() -> None:
    async def endless() -> AsyncGenerator[bytes, None]:
        while True:
            yield b"x" * (1 << 20)

    chunks = endless()
    with pytest.raises(RemoteProtocolError, match="longer than"):
        async for _ in reflector.lines(chunks, 1):
            pass
    await chunks.aclose()


async def test_objects_are_what_was_told() -> None:
    run = Run(listed(7, pod("a", 5), pod("b", 5)), watch(event("DELETED", pod("a", 8)), FOREVER))
    await run.until(lambda: len(run.deltas) == 4)
    assert list(run.reflector.objects) == ["uid-b"]
