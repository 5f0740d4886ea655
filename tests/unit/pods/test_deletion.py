"""How a pod ends: gracefully, shorter, by force, in every step of its start; and what the API server is told."""

import asyncio

import msgspec
import pytest

from tests.unit.pods.node import UID, Node, pod
from vzkubelet import errors
from vzkubelet.model import pod as api


async def test_graceful_deletion_tells_the_end_before_the_object_goes(node: Node) -> None:
    node.bind(pod())
    await node.running()
    before = len(node.api.history)
    node.delete(30)
    await node.gone()
    [(name, grace_s)] = node.machines.stops
    assert (name, round(grace_s)) == ("vm", 30)
    assert [status.phase for status in node.api.history[before:]] in (["Succeeded"], ["Running", "Succeeded"])
    last = node.api.history[-1]
    assert last.container_statuses is not None
    assert last.container_statuses[0].state.terminated is not None
    assert last.observed_generation == 2
    assert node.api.deleted == [UID]
    assert node.leftovers() == []
    assert node.recorder.events[-1] == "vm|Normal|Killing|Stopping container vm"


async def test_terminated_containers_and_terminal_phase_are_told_in_one_write(node: Node) -> None:
    node.bind(pod())
    await node.running()
    node.delete()
    await node.gone()
    ended = [s for s in node.api.history if s.container_statuses and s.container_statuses[0].state.terminated]
    assert [status.phase for status in ended] == ["Succeeded"]


async def test_second_deletion_with_a_shorter_grace_is_honoured(node: Node) -> None:
    node.machines.obeys = False
    node.bind(pod())
    await node.running()
    node.delete(3600)
    await node.until(lambda: len(node.machines.stops) == 1)
    began = node.clock.time()
    node.delete(5)
    await node.gone()
    assert node.clock.time() - began < 8
    assert [round(grace_s) for _, grace_s in node.machines.stops] in ([3600, 5], [3600, 4])
    assert node.api.phases()[-1] == "Failed"
    assert node.recorder.reasons().count("Killing") == 1


async def test_pod_gone_from_the_api_server_is_stopped_and_nothing_is_told(node: Node) -> None:
    node.bind(pod("vm", "web"))
    await node.running("vm", "web")
    before = len(node.api.history)
    node.force_delete()
    await node.gone()
    assert sorted(node.machines.stops + node.sidecars.stops) == [("vm", 1.0), ("web", 1.0)]
    assert node.leftovers() == []
    assert node.api.deleted == []
    assert len(node.api.history) == before


@pytest.mark.parametrize("step", ["pull", "place", "launch"])
@pytest.mark.parametrize("forced", [False, True])
async def test_deletion_during_a_start_cancels_it_once_and_leaves_nothing(node: Node, step: str, forced: bool) -> None:
    gate = getattr(node.machines, step)
    gate.hold()
    node.bind(pod())
    await gate.reached.wait()
    if forced:
        node.force_delete()
    else:
        node.delete(30)
        node.delete(20)
    await node.gone()
    assert gate.cancelled == 1
    assert node.leftovers() == []
    assert node.machines.starts == {}
    assert node.api.deleted == ([] if forced else [UID])


async def test_deletion_during_a_start_tells_no_terminal_phase_before_the_machine_is_gone(node: Node) -> None:
    node.machines.launch.hold()
    node.bind(pod())
    await node.machines.launch.reached.wait()
    node.machines.removal.hold()
    node.delete()
    await node.machines.removal.reached.wait()
    assert node.api.pods[UID].status.phase == "Pending"
    node.machines.removal.release()
    await node.gone()
    assert node.api.phases()[-1] == "Failed"


async def test_deletion_before_anything_began(node: Node) -> None:
    node.volumes.setup.hold()
    node.bind(pod())
    await node.volumes.setup.reached.wait()
    node.delete()
    node.volumes.setup.release()
    await node.gone()
    assert node.leftovers() == []


async def test_deletion_while_it_waits_for_a_restart(node: Node) -> None:
    node.bind(pod())
    for attempt in range(2):
        await node.started(attempt)
        node.machines.end(UID, "vm", 1)
    await node.until(lambda: node.statuses()[0].state.waiting is not None)
    node.delete()
    await node.gone()
    assert node.leftovers() == []
    assert node.machines.stops == []


async def test_late_watch_event_does_not_bring_a_finished_pod_back(node: Node) -> None:
    node.bind(pod())
    await node.running()
    node.delete()
    stale = node.api.pods[UID]
    await node.gone()
    node.supervisor.seen(stale)
    assert list(node.supervisor.workers()) == []
    node.supervisor.gone(UID)


async def test_finalizer_of_others_keeps_the_object_and_not_the_worker(node: Node) -> None:
    node.bind(pod())
    await node.running()
    node.delete()
    stored = node.api.pods[UID]
    await node.gone()
    node.supervisor.seen(node.api.put(stored))
    assert list(node.supervisor.workers()) == []
    assert node.api.deleted == [UID]


async def test_api_server_that_is_away_when_a_pod_ends_is_told_later(node: Node) -> None:
    node.bind(pod())
    await node.running()
    node.api.write.faults, node.api.write.stays_broken = [errors.Unavailable("away")], True
    node.delete(5)
    await node.until(lambda: node.machines.removed == ["vm"])
    await asyncio.sleep(100)
    assert node.api.deleted == []
    assert node.directories.of(UID).record_file.exists(), "it alone knows how the pod ended"
    node.api.write.faults.clear()
    await node.gone()
    assert node.api.phases()[-1] == "Succeeded"
    assert node.api.deleted == [UID]


async def test_delete_that_fails_is_tried_again_soon(node: Node) -> None:
    node.bind(pod())
    await node.running()
    node.api.deletion.faults = [errors.Unavailable("away"), errors.Conflict("later")]
    began = node.clock.time()
    node.delete()
    await node.gone()
    assert node.clock.time() - began < 10, "not a resync later"
    assert node.api.deleted == [UID]


async def test_release_that_fails_is_tried_again_soon(node: Node) -> None:
    node.bind(pod("vm", "web"))
    await node.running("vm", "web")
    node.sidecars.removal.faults = [errors.Unavailable("no engine")] * 3
    began = node.clock.time()
    node.delete()
    await node.gone()
    assert node.clock.time() - began < 10
    assert node.leftovers() == []


async def test_stop_that_fails_is_told_and_tried_again(node: Node) -> None:
    node.bind(pod("vm", "web"))
    await node.running("vm", "web")
    node.sidecars.stopping.faults = [errors.Unavailable("no engine"), RuntimeError("a bug")]
    node.delete()
    await node.gone()
    assert "web|Warning|FailedKillPod|error killing container web: no engine" in node.recorder.events
    assert node.leftovers() == []


async def test_status_answered_with_not_found_ends_the_pod(node: Node) -> None:
    node.bind(pod())
    await node.running()
    del node.api.pods[UID]
    node.machines.end(UID, "vm", 1)
    await node.gone()
    assert node.leftovers() == []


async def test_terminal_phase_that_others_wrote_ends_the_pod(node: Node) -> None:
    node.bind(pod())
    await node.running()
    stored = node.api.pods[UID]
    evicted = msgspec.structs.replace(stored.status, phase="Failed", reason="NodeLost")
    node.supervisor.seen(node.api.put(msgspec.structs.replace(stored, status=evicted)))
    await node.until(lambda: node.machines.removed == ["vm"])
    assert node.machines.stops == [("vm", 30.0)]
    assert node.api.pods[UID].status.reason == "NodeLost"


async def test_new_pod_of_the_same_name_is_another_pod(node: Node) -> None:
    node.machines.obeys = False
    node.bind(pod())
    await node.running()
    node.delete(30)
    await node.until(lambda: len(node.machines.stops) == 1)
    node.bind(pod(uid="u-2"))
    await node.running(uid="u-2")
    assert node.supervisor.find("ns", "p").ref.uid == "u-2"
    assert node.supervisor.find("ns", "p", UID).ref.uid == UID
    await node.gone()
    assert node.supervisor.find("ns", "p").ref.uid == "u-2"
    assert [s.state.running is not None for s in node.statuses("u-2")] == [True]
    with pytest.raises(errors.NotFound, match="pod does not exist"):
        node.supervisor.find("ns", "p", UID)


async def test_others_conditions_stay(node: Node) -> None:
    bound = pod()
    gate = api.PodCondition(type="example.com/gate", status="True")
    conditions = [*(bound.status.conditions or []), gate]
    node.bind(msgspec.structs.replace(bound, status=api.PodStatus(phase="Pending", conditions=conditions)))
    await node.running()
    assert node.condition("example.com/gate").status == "True"
