"""Writing the status: coalesced, tried again, put right after others, silent after the terminal one."""

import asyncio
import dataclasses
import logging
from collections.abc import AsyncIterator

import msgspec
import pytest
import pytest_asyncio

from tests.unit.pods.node import EPOCH, UID, Node, pod
from vzkubelet import aio, errors
from vzkubelet.pods import local
from vzkubelet.pods.reporter import Reporter
from vzkubelet.podstate import events, record, restored


class Desk:
    """A reporter that runs, and what it called."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.known = restored.record_of(pod(), EPOCH)
        self.gone = 0
        self.terminal = 0
        self.reporter = Reporter(
            node.world,
            node.api.put(pod()),
            self.known,
            asyncio.Semaphore(1),
            on_gone=self._on_gone,
            on_terminal=self._on_terminal,
        )
        self.running = aio.spawn(self.reporter.run(), name="reporter")

    def _on_gone(self) -> None:
        self.gone += 1

    def _on_terminal(self) -> None:
        self.terminal += 1

    def happened(self, event: events.Event) -> None:
        self.known = events.apply(self.known, event, self.node.clock.time())
        self.reporter.update_record(self.known)

    def started(self) -> None:
        self.happened(events.ContainerStarted("vm", 0, "memory://1", "image", EPOCH))


@pytest_asyncio.fixture
async def desk(node: Node) -> AsyncIterator[Desk]:
    made = Desk(node)
    yield made
    await aio.cancel(made.running)


async def test_changes_during_a_write_become_one_further_write(desk: Desk) -> None:
    desk.node.api.write.hold()
    desk.reporter.update_record(desk.known)
    await desk.node.api.write.reached.wait()
    for ip in ("10.0.0.3", "10.0.0.4", "10.0.0.5"):
        desk.happened(events.AddressLearned(ip))
    desk.node.api.write.release()
    await asyncio.sleep(1)
    assert [status.pod_ip for status in desk.node.api.history] == ["", "10.0.0.5"]


async def test_nothing_is_written_when_nothing_changed(desk: Desk) -> None:
    desk.started()
    await asyncio.sleep(1)
    written = desk.node.api.write.passed
    for _ in range(3):
        desk.reporter.update_pod(desk.node.api.pods[UID])
        desk.reporter.update_record(desk.known)
        await asyncio.sleep(100)
    assert desk.node.api.write.passed == written


async def test_write_that_fails_is_tried_again_with_what_is_true_then(desk: Desk) -> None:
    desk.node.api.write.faults = [errors.Unavailable("away"), errors.Conflict("changed"), errors.Forbidden("no")]
    desk.reporter.update_record(desk.known)
    await asyncio.sleep(0.1)
    desk.started()
    await asyncio.sleep(10)
    assert [status.phase for status in desk.node.api.history] == ["Running"]


async def test_conflict_for_ever_is_neither_a_busy_loop_nor_the_end(desk: Desk) -> None:
    desk.node.api.write.faults, desk.node.api.write.stays_broken = [errors.Conflict("changed")], True
    tries = 0

    async def counted(*_: object) -> None:
        nonlocal tries
        tries += 1
        raise errors.Conflict("changed")

    desk.node.api.write_status = counted  # type: ignore[method-assign,assignment]
    desk.reporter.update_record(desk.known)
    await asyncio.sleep(600)
    assert 20 <= tries <= 30
    assert not desk.running.done()
    assert desk.gone == 0


async def test_bug_in_a_write_does_not_end_the_reporter(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    desk.node.api.write.faults = [RuntimeError("a bug")]
    with caplog.at_level(logging.CRITICAL):
        desk.reporter.update_record(desk.known)
        await asyncio.sleep(60)
    assert len(desk.node.api.history) == 1


async def test_pod_that_is_not_found_is_told_once(desk: Desk) -> None:
    del desk.node.api.pods[UID]
    desk.reporter.update_record(desk.known)
    await asyncio.sleep(100)
    assert desk.gone == 1
    assert desk.running.done()


async def test_status_that_others_overwrote_is_put_right(desk: Desk) -> None:
    desk.started()
    await asyncio.sleep(1)
    stored = desk.node.api.pods[UID]
    broken = msgspec.structs.replace(stored.status, pod_ip="203.0.113.9", container_statuses=None)
    desk.reporter.update_pod(desk.node.api.put(msgspec.structs.replace(stored, status=broken)))
    await asyncio.sleep(1)
    assert desk.node.api.pods[UID].status.container_statuses == stored.status.container_statuses
    assert desk.node.api.pods[UID].status.pod_ip == ""


async def test_watch_that_lags_behind_our_write_changes_nothing(desk: Desk) -> None:
    old = desk.node.api.pods[UID]
    desk.started()
    await asyncio.sleep(1)
    since = desk.node.condition("Ready").last_transition_time
    written = desk.node.api.write.passed
    await asyncio.sleep(50)
    desk.reporter.update_pod(old)
    await asyncio.sleep(1)
    assert desk.node.api.write.passed == written
    assert desk.node.condition("Ready").last_transition_time == since


async def test_watch_that_is_faster_than_the_answer_to_our_write_wins(desk: Desk) -> None:
    store = desk.node.api.write_status

    async def slow(*args: object) -> object:
        answer = await store(*args)  # type: ignore[arg-type]
        metadata = msgspec.structs.replace(answer.metadata, labels={"new": "label"})
        desk.reporter.update_pod(desk.node.api.put(msgspec.structs.replace(answer, metadata=metadata)))
        await asyncio.sleep(1)
        return answer

    desk.node.api.write_status = slow  # type: ignore[method-assign,assignment]
    desk.started()
    await asyncio.sleep(5)
    assert desk.reporter.pod.metadata.labels == {"new": "label"}
    assert desk.reporter.pod.status.phase == "Running"


async def test_nothing_is_written_after_the_terminal_phase(desk: Desk) -> None:
    desk.happened(events.PodRejected("DeadlineExceeded", "too long"))
    await asyncio.sleep(1)
    assert desk.terminal == 0
    assert desk.node.api.history[-1].phase == "Pending"
    assert desk.node.api.history[-1].reason == "", "why comes with the phase"
    desk.reporter.settle()
    await asyncio.sleep(1)
    assert desk.terminal >= 1
    assert (desk.node.api.history[-1].phase, desk.node.api.history[-1].reason) == ("Failed", "DeadlineExceeded")
    written = len(desk.node.api.history)
    desk.started()
    await asyncio.sleep(1)
    assert len(desk.node.api.history) == written
    assert desk.reporter.current().status == desk.node.api.history[-1]


async def test_pod_without_an_api_server_keeps_its_own_status(node: Node) -> None:
    bound = pod()
    known = restored.record_of(bound, EPOCH)
    reporter = Reporter(
        dataclasses.replace(node.world, api_server=local.LocalStatus()),
        bound,
        known,
        asyncio.Semaphore(1),
        on_gone=lambda: None,
        on_terminal=lambda: None,
    )
    running = aio.spawn(reporter.run(), name="reporter")
    entry = msgspec.structs.replace(known.container("vm"), state=record.Running(EPOCH))
    reporter.update_record(known.with_container(entry))
    await asyncio.sleep(1)
    first = reporter.pod.status
    assert first.phase == "Running"
    await asyncio.sleep(50)
    reporter.update_pod(bound)
    assert reporter.current().status == first, "transition times included"
    await aio.cancel(running)
