"""A pod of which only the API server knows anything."""

import msgspec
import pytest

from tests.unit.podstate.making import NOW, ended, known, pod
from vzkubelet.model import pod as api
from vzkubelet.podstate import decision, events, phase, record, restored, status

IDLE = decision.Busy()


def told(of: api.Pod, state: record.Pod) -> api.Pod:
    """The pod with the status that this record makes."""
    return msgspec.structs.replace(of, status=status.compute(of, state, "192.0.2.1", NOW))


def test_new_pod_has_an_empty_record() -> None:
    of = pod("vm", "web")
    assert restored.record_of(of, NOW + 0.7) == known(of, ip="", volumes_ready=False)


@pytest.mark.parametrize(
    "state",
    [record.Running(NOW), ended(0), ended(3), record.Waiting("ErrImagePull", "no such tag")],
    ids=["running", "completed", "failed", "waiting"],
)
def test_states_come_back_as_they_were_told(state: record.State) -> None:
    of = pod(policy="OnFailure")
    before = known(of, vm=state, volumes_ready=False)
    assert restored.record_of(told(of, before), NOW + 100) == before


def test_crash_loop_goes_on_with_its_next_attempt() -> None:
    of = pod()
    state = events.apply(known(of, vm=ended(1)), events.BackedOff("vm", "CrashLoopBackOff", "back-off"), NOW)
    again = msgspec.structs.replace(restored.record_of(told(of, state), NOW), volumes_ready=True)
    assert decision.decide(of, again, IDLE, NOW).commands == (decision.StartContainer("vm", 1),)


def test_crash_loop_without_an_earlier_end_is_a_first_start() -> None:
    of = pod()
    waiting = api.ContainerStateWaiting(reason="CrashLoopBackOff")
    entry = api.ContainerStatus(name="vm", state=api.ContainerState(waiting=waiting))
    odd = msgspec.structs.replace(of, status=api.PodStatus(container_statuses=[entry]))
    assert restored.record_of(odd, NOW).container("vm").state == record.Waiting()


@pytest.mark.parametrize("terminal", [phase.SUCCEEDED, phase.FAILED])
def test_terminal_phase_is_never_left_and_ends_what_runs(terminal: str) -> None:
    of = msgspec.structs.replace(pod(), status=api.PodStatus(phase=terminal))
    assert phase.compute(of, known(of, vm=record.Running(NOW))) == terminal
    assert phase.compute(of, known(of)) == terminal
    stop = decision.decide(of, known(of, vm=record.Running(NOW)), IDLE, NOW).commands
    assert stop == (decision.StopContainer("vm", 30.0),)
    assert decision.decide(of, known(of), IDLE, NOW).commands == (decision.FinishPod(),)


def test_end_that_is_told_again_after_its_back_off_began_changes_nothing() -> None:
    of = pod()
    state = events.apply(known(of, vm=ended(1)), events.BackedOff("vm", "CrashLoopBackOff", "back-off"), NOW)
    assert events.apply(state, events.ContainerExited("vm", 0, ended(1)), NOW + 1) == state


def test_terminal_phase_is_held_back_until_all_has_settled() -> None:
    of = msgspec.structs.replace(pod(policy="Never"), status=api.PodStatus(phase="Running"))
    held = status.compute(of, known(of, vm=ended(0)), "192.0.2.1", NOW, settled=False)
    assert held.phase == "Running"
    conditions = {condition.type: condition for condition in held.conditions or []}
    assert conditions["Ready"].reason == "PodCompleted"
    assert conditions["Initialized"].reason == "PodCompleted"
    assert conditions["PodReadyToStartContainers"].status == "True"
    assert status.compute(of, known(of, vm=ended(0)), "192.0.2.1", NOW).phase == "Succeeded"


def test_order_of_conditions_says_nothing() -> None:
    of = told(pod(), known(pod(), vm=record.Running(NOW)))
    reversed_ = msgspec.structs.replace(of.status, conditions=list(reversed(of.status.conditions or [])))
    assert status.patch(msgspec.structs.replace(of, status=reversed_), of.status) is None
