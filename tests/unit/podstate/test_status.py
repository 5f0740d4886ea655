"""What the API server is told."""

import json

import msgspec
import pytest

from tests.unit.podstate.making import NOW, ended, known, pod
from vzkubelet.model import pod as api
from vzkubelet.model import timestamp
from vzkubelet.podstate import events, phase, record, status

RUNNING = record.Running(NOW)


@pytest.mark.parametrize(
    ("policy", "states", "expected"),
    [
        ("Always", {}, phase.PENDING),
        ("Always", {"vm": RUNNING}, phase.PENDING),
        ("Always", {"vm": RUNNING, "web": RUNNING}, phase.RUNNING),
        ("Always", {"vm": RUNNING, "web": ended(1)}, phase.RUNNING),
        ("Always", {"vm": ended(0), "web": ended(0)}, phase.RUNNING),
        ("OnFailure", {"vm": ended(0), "web": ended(1)}, phase.RUNNING),
        ("OnFailure", {"vm": ended(0), "web": ended(0)}, phase.SUCCEEDED),
        ("Never", {"vm": ended(0), "web": ended(1)}, phase.FAILED),
        ("Never", {"vm": ended(0), "web": RUNNING}, phase.RUNNING),
        ("Never", {"vm": ended(0), "web": ended(0)}, phase.SUCCEEDED),
    ],
)
def test_phase_as_the_kubelet_computes_it(policy: str, states: dict[str, record.State], expected: str) -> None:
    of = pod("vm", "web", policy=policy)
    assert phase.compute(of, known(of, states=states)) == expected


def test_crash_looping_container_keeps_the_pod_running() -> None:
    of = pod()
    state = events.apply(known(of, vm=ended(1)), events.BackedOff("vm", "CrashLoopBackOff", ""), NOW)
    assert phase.compute(of, state) == phase.RUNNING


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ({}, phase.FAILED),
        ({"vm": RUNNING}, phase.RUNNING),
        ({"vm": ended(0)}, phase.SUCCEEDED),
        ({"vm": ended(143)}, phase.FAILED),
    ],
)
def test_deleted_pod_is_terminal_only_when_nothing_runs(states: dict[str, record.State], expected: str) -> None:
    of = pod(deleted_at=NOW)
    assert phase.compute(of, known(of, states=states)) == expected


def test_container_that_never_started_is_unknown_in_a_terminal_pod() -> None:
    of = pod(deleted_at=NOW)
    [container] = status.compute(of, known(of), "10.0.0.1", NOW).container_statuses or []
    assert container.state.terminated is not None
    assert (container.state.terminated.exit_code, container.state.terminated.reason) == (137, "ContainerStatusUnknown")


def test_rejected_pod_tells_reason_and_nothing_of_containers() -> None:
    of = pod()
    state = record.Pod(
        "ns", "p", "u-1", (record.Container("vm", "i"),), rejection=record.Rejection("OutOfcpu", "Pod was rejected: x")
    )
    told = status.compute(of, state, "10.0.0.1", NOW)
    assert (told.phase, told.reason, told.message, told.container_statuses) == (
        "Failed",
        "OutOfcpu",
        "Pod was rejected: x",
        None,
    )


def test_conditions_come_in_the_kubelets_order_with_its_texts() -> None:
    of = pod("vm", "web")
    told = status.compute(of, known(of, vm=RUNNING), "10.0.0.1", NOW)
    rows = [(c.type, c.status, c.reason, c.message) for c in told.conditions or []]
    unready = ("ContainersNotReady", "containers with unready status: [web]")
    assert rows == [
        ("PodReadyToStartContainers", "True", "", ""),
        ("Initialized", "True", "", ""),
        ("Ready", "False", *unready),
        ("ContainersReady", "False", *unready),
        ("PodScheduled", "True", "", ""),
    ]


def test_transition_time_moves_only_when_the_status_flips() -> None:
    of = pod()
    first = status.compute(of, known(of), "10.0.0.1", NOW)
    of = msgspec.structs.replace(of, status=first)
    later = status.compute(of, known(of, vm=RUNNING), "10.0.0.1", NOW + 50)
    times = {c.type: c.last_transition_time for c in later.conditions or []}
    assert times["Ready"] == timestamp.from_epoch(NOW + 50)
    assert times["PodScheduled"] == timestamp.from_epoch(NOW)


def test_readiness_gate_of_others_holds_ready_back_and_is_kept() -> None:
    of = pod()
    gate = api.PodReadinessGate(condition_type="example.com/ok")
    of = msgspec.structs.replace(of, spec=msgspec.structs.replace(of.spec, readiness_gates=[gate]))
    missing = status.compute(of, known(of, vm=RUNNING), "", NOW)
    assert {c.type: c.reason for c in missing.conditions or []}["Ready"] == "ReadinessGatesNotReady"
    theirs = api.PodCondition(type="example.com/ok", status="True")
    of = msgspec.structs.replace(of, status=api.PodStatus(conditions=[theirs]))
    met = status.compute(of, known(of, vm=RUNNING), "", NOW)
    assert {c.type: c.status for c in met.conditions or []}["Ready"] == "True"
    assert theirs in (met.conditions or [])


def test_patch_is_guarded_by_uid_and_leaves_others_conditions_alone() -> None:
    theirs = api.PodCondition(type="example.com/ok", status="True")
    of = msgspec.structs.replace(pod(), status=api.PodStatus(conditions=[theirs]))
    body = status.patch(of, status.compute(of, known(of, vm=RUNNING), "10.0.0.1", NOW))
    assert body is not None
    sent = json.loads(body)
    assert sent["metadata"] == {"uid": "u-1"}
    assert "example.com/ok" not in {c["type"] for c in sent["status"]["conditions"]}
    assert sent["status"]["podIPs"] == [{"$patch": "replace"}, {"ip": "10.0.0.2"}]


def test_unchanged_status_makes_no_patch() -> None:
    of = pod()
    told = status.compute(of, known(of, vm=RUNNING), "10.0.0.1", NOW)
    of = msgspec.structs.replace(of, status=told)
    assert status.patch(of, status.compute(of, known(of, vm=RUNNING), "10.0.0.1", NOW + 9)) is None


def test_a_field_that_is_gone_is_nulled() -> None:
    of = msgspec.structs.replace(pod(), status=api.PodStatus(reason="Old", message="old"))
    body = status.patch(of, status.compute(of, known(of, vm=RUNNING), "10.0.0.1", NOW))
    assert body is not None
    assert json.loads(body)["status"]["reason"] is None


def test_starting_again_clears_the_waiting_state() -> None:
    of = pod()
    state = events.apply(known(of, vm=ended(1)), events.BackedOff("vm", "CrashLoopBackOff", "m"), NOW)
    state = events.apply(state, events.ContainerStarted("vm", 1, "qemu://x", "i", NOW + 10), NOW + 10)
    [container] = status.compute(of, state, "", NOW + 10).container_statuses or []
    assert container.restart_count == 1
    assert container.state.running is not None
    assert container.last_state.terminated is not None
    assert container.last_state.terminated.exit_code == 1
