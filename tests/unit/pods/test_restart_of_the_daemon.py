"""The daemon is killed at any moment and another takes over: nothing is lost, nothing doubled."""

import asyncio
import logging

import msgspec
import pytest

from tests.unit.pods.node import UID, Node, pod
from vzkubelet import aio, errors
from vzkubelet.podstate import record


async def test_running_pod_is_taken_over_unchanged(node: Node) -> None:
    node.bind(pod("vm", "web"))
    await node.running("vm", "web")
    before, events = node.api.pods[UID].status, list(node.recorder.events)
    await node.restart()
    await asyncio.sleep(100)
    assert node.api.pods[UID].status == before
    assert node.recorder.events == events
    node.machines.end(UID, "vm", 1)
    await node.started(1)


async def test_container_that_ended_while_no_daemon_looked(node: Node) -> None:
    node.bind(pod(policy="Never"))
    await node.running()
    await node.kill()
    node.machines.end(UID, "vm", 4)
    await node.restart()
    await node.phase("Failed")
    terminated = node.statuses()[0].state.terminated
    assert terminated is not None
    assert terminated.exit_code == 4


async def test_container_that_is_lost(node: Node) -> None:
    node.bind(pod(policy="Never"))
    await node.running()
    await node.kill()
    node.machines.held.clear()
    await node.restart()
    await node.phase("Failed")
    terminated = node.statuses()[0].state.terminated
    assert terminated is not None
    assert (terminated.exit_code, terminated.reason) == (137, "ContainerStatusUnknown")


@pytest.mark.parametrize("ended", [False, True])
async def test_container_that_was_started_and_not_recorded_is_not_started_again(node: Node, ended: bool) -> None:
    """Killed between the start and its record. A Job that had ended meanwhile was run a second time."""
    node.bind(pod(policy="Never"))
    await node.running()
    await node.kill()
    directory = node.directories.of(UID)
    known = directory.load_record()
    assert known is not None
    directory.save_record(known.with_container(record.Container("vm", "image-of-vm")))
    if ended:
        node.machines.end(UID, "vm", 5)
    launched = node.machines.launch.passed
    await node.restart()
    if ended:
        await node.phase("Failed")
    await asyncio.sleep(30)
    assert node.machines.launch.passed == launched
    assert node.machines.starts == {(UID, "vm", 0): 1}


async def test_engine_that_is_away_at_the_restart_is_asked_again(node: Node) -> None:
    """A container whose look-up failed was never watched again: its end went unnoticed."""
    node.bind(pod("vm", "web", policy="Never"))
    await node.running("vm", "web")
    await node.kill()
    node.sidecars.lookup.faults, node.sidecars.lookup.stays_broken = [errors.Unavailable("no engine")], True
    await node.restart()
    await asyncio.sleep(50)
    node.sidecars.lookup.faults.clear()
    await asyncio.sleep(60)
    node.sidecars.end(UID, "web", 0)
    node.machines.end(UID, "vm", 0)
    await node.phase("Succeeded")


async def test_watch_that_a_bug_broke_is_made_again(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    node.machines.lookup.faults = []
    node.bind(pod(policy="Never"))
    await node.running()
    await node.kill()
    wait, faults = node.machines.wait, [RuntimeError("a bug")]

    async def faulty(*args: object) -> object:
        if faults:
            raise faults.pop()
        return await wait(*args)  # type: ignore[arg-type]

    node.machines.wait = faulty  # type: ignore[method-assign,assignment]
    with caplog.at_level(logging.CRITICAL):
        await node.restart()
        await asyncio.sleep(10)
    node.machines.end(UID, "vm", 0)
    await node.phase("Succeeded")


async def test_back_off_is_not_doubled_by_a_restart(node: Node) -> None:
    node.bind(pod())
    for attempt in range(2):
        await node.started(attempt)
        node.machines.end(UID, "vm", 1)
    await node.until(lambda: isinstance(node.known().container("vm").state, record.Waiting))
    before, told = node.known().container("vm"), node.recorder.reasons().count("BackOff")
    await node.restart()
    await asyncio.sleep(1)
    assert node.known().container("vm") == before
    assert node.recorder.reasons().count("BackOff") == told


@pytest.mark.parametrize("policy", ["Never", "Always"])
@pytest.mark.parametrize("moment", range(0, 40, 2))
async def test_killed_at_any_moment_of_a_start(node: Node, policy: str, moment: int) -> None:
    node.bind(pod("vm", "web", policy=policy))
    for _ in range(moment):
        await asyncio.sleep(0)
    await node.restart()
    await node.running("vm", "web")
    assert [s.restart_count for s in node.statuses()] == [0, 0]


@pytest.mark.parametrize("moment", range(0, 50, 2))
async def test_killed_at_any_moment_of_a_deletion(node: Node, moment: int) -> None:
    node.bind(pod("vm", "web"))
    await node.running("vm", "web")
    node.delete(10)
    for _ in range(moment):
        await asyncio.sleep(0)
    await node.restart()
    await node.gone()
    await node.supervisor.synced(list(node.api.pods))
    assert node.api.deleted == [UID] or UID not in node.api.pods
    assert node.api.phases()[-1] == "Succeeded", "how it ended is not lost"
    assert node.leftovers() == []


@pytest.mark.parametrize("moment", range(0, 30, 2))
async def test_killed_at_any_moment_of_an_end(node: Node, moment: int) -> None:
    node.bind(pod(policy="Never"))
    await node.running()
    node.machines.end(UID, "vm", 3)
    for _ in range(moment):
        await asyncio.sleep(0)
    await node.restart()
    await node.phase("Failed")
    terminated = node.statuses()[0].state.terminated
    assert terminated is not None
    assert terminated.exit_code == 3


async def test_killed_between_the_removal_of_its_directory_and_the_delete(node: Node) -> None:
    """Without a record the pod was taken for one that never ran, and its Succeeded overwritten by Failed."""
    node.bind(pod())
    await node.running()
    node.api.deletion.hold()
    node.delete()
    await node.api.deletion.reached.wait()
    await node.kill()
    node.directories.of(UID).remove()
    node.api.deletion.release()
    await node.restart()
    await node.gone()
    assert node.api.phases()[-1] == "Succeeded"
    assert node.api.deleted == [UID]


async def test_terminal_pod_being_deleted_that_was_never_seen_is_deleted_and_not_rewritten(node: Node) -> None:
    bound = pod()
    ended = msgspec.structs.replace(bound, status=msgspec.structs.replace(bound.status, phase="Succeeded"))
    node.api.put(ended)
    node.delete(0)
    await node.gone()
    assert node.api.history == []
    assert node.api.deleted == [UID]


async def test_damaged_record_is_taken_from_the_api_server(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    node.bind(pod())
    await node.running()
    node.machines.end(UID, "vm", 1)
    await node.started(1)
    await node.until(lambda: node.statuses()[0].restart_count == 1)
    before = node.api.pods[UID].status
    await node.kill()
    node.directories.of(UID).record_file.write_bytes(b'{"namespace":')
    await node.restart()
    await node.running()
    await asyncio.sleep(5)
    assert node.api.pods[UID].status == before
    assert "damaged" in caplog.text


async def test_node_that_was_silent_makes_its_pods_ready_again(node: Node) -> None:
    """The node controller marks the pods of a silent node as not ready; nobody but the node can take that back."""
    node.bind(pod())
    await node.running()
    await node.kill()
    stored = node.api.pods[UID]
    conditions = [
        msgspec.structs.replace(c, status="False", reason="NodeNotReady") if c.type == "Ready" else c
        for c in stored.status.conditions or []
    ]
    node.api.put(msgspec.structs.replace(stored, status=msgspec.structs.replace(stored.status, conditions=conditions)))
    await node.restart()
    await node.until(lambda: node.condition("Ready").status == "True", 60)
    assert node.condition("Ready").reason == ""


async def test_orphans_of_an_earlier_time_are_removed(node: Node) -> None:
    node.bind(pod())
    await node.running()
    await node.kill()
    del node.api.pods[UID]
    node.directories.of(UID).remove()
    await node.restart()
    assert node.leftovers() == []


async def test_orphans_go_where_no_docker_engine_is(node: Node) -> None:
    node.bind(pod())
    await node.running()
    await node.kill()
    del node.api.pods[UID]
    node.directories.of(UID).remove()
    for gate in (node.sidecars.lookup, node.sidecars.removal):
        gate.faults, gate.stays_broken = [errors.Unavailable("no engine")], True
    await node.restart()
    assert node.leftovers() == []


async def test_pod_that_comes_while_orphans_are_looked_up_is_none(node: Node) -> None:
    """The look-up may wait for Docker; a pod that came meanwhile owns a machine and is not in the list."""
    answered = asyncio.Event()

    async def late() -> list[str]:
        await answered.wait()
        return [UID]

    node.sidecars.pods = late  # type: ignore[method-assign]
    removing = aio.spawn(node.supervisor.remove_orphans(set()), name="orphans")
    node.machines.place.hold()
    node.bind(pod())
    await node.machines.place.reached.wait()
    answered.set()
    await removing
    assert node.directories.of(UID).path.exists()
    assert node.volumes.owners == {UID}
    node.machines.place.release()
    await node.running()


async def test_deleted_while_the_daemon_was_away(node: Node) -> None:
    node.bind(pod())
    await node.running()
    await node.kill()
    del node.api.pods[UID]
    await node.restart()
    await node.gone()
    assert node.leftovers() == []
    assert node.machines.stops == [("vm", 1.0)]


async def test_ended_pod_keeps_its_logs_over_a_restart_and_is_not_told_again(node: Node) -> None:
    node.bind(pod(policy="Never"))
    await node.running()
    node.machines.end(UID, "vm", 0)
    await node.phase("Succeeded")
    written = len(node.api.history)
    await node.restart()
    await asyncio.sleep(100)
    assert len(node.api.history) == written
    assert [worker.ref.uid for worker in node.supervisor.workers()] == [UID]


async def test_worker_that_crashed_is_started_again(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    node.bind(pod(policy="Never"))
    await node.running()
    node.machines.removal.faults = [RuntimeError("a bug")]
    node.machines.end(UID, "vm", 0)
    await node.phase("Succeeded")
    assert "worker of pod ns/p crashed" in caplog.text
