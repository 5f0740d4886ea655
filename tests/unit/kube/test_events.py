import asyncio
from collections.abc import Callable

import msgspec
import pytest

from tests.unit.kube.api import Answer, Api, LoopClock, failure
from vzkubelet.errors import Unavailable
from vzkubelet.kube import events
from vzkubelet.kube.events import EventRecorder
from vzkubelet.kube.transport import Request
from vzkubelet.model.event import Event
from vzkubelet.model.identity import PodRef
from vzkubelet.ports import EventType

POD = PodRef("ns", "web", "uid-1")


def echo(request: Request) -> Answer:
    return Answer(body=request.body)


def recorder(api: Api) -> EventRecorder:
    return EventRecorder(api.client(), "node-a", LoopClock())


async def recorded(api: Api, record: Callable[[EventRecorder], None]) -> None:
    recording = recorder(api)
    record(recording)
    recording.start()
    await asyncio.sleep(1)
    await recording.close()


async def test_a_pod_event_looks_like_the_kubelets() -> None:
    api = Api(echo)
    await recorded(api, lambda r: r.pod_event(POD, EventType.WARNING, "Failed", "no", container="app"))
    [request] = api.requests
    assert (request.method, request.path) == ("POST", "/api/v1/namespaces/ns/events")
    [body] = api.bodies("POST")
    name = body["metadata"].pop("name")
    assert name.startswith("web.")
    assert int(name.removeprefix("web."), 16) // 10**9 == 1_800_000_000
    assert body == {
        "metadata": {"namespace": "ns"},
        "involvedObject": {
            "apiVersion": "v1",
            "kind": "Pod",
            "namespace": "ns",
            "name": "web",
            "uid": "uid-1",
            "fieldPath": "spec.containers{app}",
        },
        "reason": "Failed",
        "message": "no",
        "source": {"component": "kubelet", "host": "node-a"},
        "firstTimestamp": "2027-01-15T08:00:00Z",
        "lastTimestamp": "2027-01-15T08:00:00Z",
        "count": 1,
        "type": "Warning",
        "reportingComponent": "kubelet",
        "reportingInstance": "node-a",
    }


async def test_an_init_container_has_its_own_field_path() -> None:
    api = Api(echo)
    await recorded(api, lambda r: r.pod_event(POD, EventType.NORMAL, "Started", "x", container="i", init=True))
    assert api.bodies("POST")[0]["involvedObject"]["fieldPath"] == "spec.initContainers{i}"


async def test_a_node_event_is_in_the_default_namespace_and_names_the_node_as_uid() -> None:
    api = Api(echo)
    await recorded(api, lambda r: r.node_event(EventType.NORMAL, "NodeReady", "x"))
    assert api.requests[0].path == "/api/v1/namespaces/default/events"
    assert api.bodies("POST")[0]["involvedObject"] == {
        "apiVersion": "v1",
        "kind": "Node",
        "name": "node-a",
        "uid": "node-a",
    }


async def test_repeats_become_one_event_with_a_count() -> None:
    api = Api(echo)

    def thrice(r: EventRecorder) -> None:
        for _ in range(3):
            r.pod_event(POD, EventType.WARNING, "BackOff", "again")

    await recorded(api, thrice)
    assert [r.method for r in api.requests] == ["POST", "PATCH", "PATCH"]
    name = api.bodies("POST")[0]["metadata"]["name"]
    assert {r.path for r in api.requests[1:]} == {f"/api/v1/namespaces/ns/events/{name}"}
    assert [body["count"] for body in api.bodies("PATCH")] == [2, 3]


async def test_an_expired_event_begins_anew_and_goes_on_counting() -> None:
    script = [echo, lambda _: failure(404, "NotFound"), echo, echo]
    api = Api(lambda request: script.pop(0)(request))

    def thrice(r: EventRecorder) -> None:
        for _ in range(3):
            r.pod_event(POD, EventType.WARNING, "BackOff", "again")

    await recorded(api, thrice)
    assert [r.method for r in api.requests] == ["POST", "PATCH", "POST", "PATCH"]
    first, second = api.bodies("POST")
    assert second["count"] == 2
    assert second["metadata"]["name"] != first["metadata"]["name"]
    assert api.requests[3].path.endswith(second["metadata"]["name"])


async def test_events_wait_for_an_api_server_that_is_away_and_keep_their_time() -> None:
    script: list[Answer | Exception] = [Unavailable("refused"), Unavailable("refused"), Answer(body=Event())]
    api = Api(script)
    recording = recorder(api)
    recording.start()
    recording.node_event(EventType.NORMAL, "Starting", "x")
    await asyncio.sleep(25)
    await recording.close()
    assert len(api.requests) == 3
    assert len({body["metadata"]["name"] for body in api.bodies("POST")}) == 1


async def test_an_event_that_was_stored_before_the_connection_broke_is_not_doubled() -> None:
    api = Api([Unavailable("reset"), failure(409, "AlreadyExists"), Answer(body=Event())])
    recording = recorder(api)
    recording.start()
    recording.pod_event(POD, EventType.NORMAL, "Pulled", "x")
    await asyncio.sleep(15)
    recording.pod_event(POD, EventType.NORMAL, "Pulled", "x")
    await asyncio.sleep(1)
    await recording.close()
    assert [r.method for r in api.requests] == ["POST", "POST", "PATCH"]


async def test_a_refused_event_does_not_hold_up_the_others() -> None:
    api = Api([failure(403, "Forbidden", "namespace is being terminated"), Answer(body=Event())])

    def two(r: EventRecorder) -> None:
        r.pod_event(POD, EventType.NORMAL, "Killing", "x")
        r.node_event(EventType.NORMAL, "Starting", "x")

    await recorded(api, two)
    assert [body["reason"] for body in api.bodies("POST")] == ["Killing", "Starting"]


async def test_a_burst_beyond_the_queue_is_counted_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    api = Api(echo)
    recording = recorder(api)
    for n in range(events.QUEUE_LIMIT + 7):
        recording.pod_event(PodRef("ns", f"p{n}", f"u{n}"), EventType.NORMAL, "Started", "x")
    recording.start()
    await asyncio.sleep(60)
    await recording.close()
    assert "7 events were lost" in caplog.text
    assert len(api.requests) == events.QUEUE_LIMIT


async def test_the_end_waits_for_what_is_queued_but_not_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    api = Api(lambda _: failure(500, "InternalError"))
    recording = recorder(api)
    recording.start()
    recording.node_event(EventType.NORMAL, "Shutdown", "x")
    before = asyncio.get_running_loop().time()
    await recording.close()
    assert asyncio.get_running_loop().time() - before <= events.FLUSH_S + 0.1
    assert "1 events were not written" in caplog.text


async def test_a_message_is_cut_to_what_the_api_server_takes() -> None:
    api = Api(echo)
    await recorded(api, lambda r: r.node_event(EventType.NORMAL, "Starting", "x" * 5000))
    assert len(msgspec.json.decode(api.requests[0].body or b"", type=Event).message) == events.MESSAGE_LIMIT
