"""What the worker is told to do next."""

import msgspec
import pytest

from tests.unit.podstate.making import NOW, ended, known, pod
from vzkubelet.podstate import decision, events, record

IDLE = decision.Busy()


def commands(of: object, record_: record.Pod, busy: decision.Busy = IDLE, now: float = NOW) -> list[decision.Command]:
    return list(decision.decide(of, record_, busy, now).commands)  # type: ignore[arg-type]


def test_volumes_come_before_any_container() -> None:
    assert commands(pod(), known(pod(), volumes_ready=False)) == [decision.PrepareVolumes()]


def test_volumes_under_way_are_not_prepared_twice() -> None:
    assert commands(pod(), known(pod(), volumes_ready=False), decision.Busy(volumes=True)) == []


def test_failed_volumes_are_tried_again_after_a_growing_delay() -> None:
    first = events.apply(known(pod(), volumes_ready=False), events.VolumesFailed("x"), NOW)
    assert decision.decide(pod(), first, IDLE, NOW) == decision.Decision((), NOW + 0.5)
    second = events.apply(first, events.VolumesFailed("x"), NOW + 1)
    assert decision.decide(pod(), second, IDLE, NOW + 1).wake_at == NOW + 2


def test_sidecars_wait_for_the_address_of_the_machine() -> None:
    two = pod("vm", "web")
    assert commands(two, known(two, ip="")) == [decision.StartContainer("vm", 0)]
    assert commands(two, known(two)) == [decision.StartContainer("vm", 0), decision.StartContainer("web", 0)]


def test_a_running_pod_needs_nothing() -> None:
    assert commands(pod(), known(pod(), vm=record.Running(NOW))) == []


@pytest.mark.parametrize(
    ("policy", "code", "expected"),
    [
        ("Always", 0, decision.StartContainer("vm", 1)),
        ("Always", 1, decision.StartContainer("vm", 1)),
        ("OnFailure", 0, decision.FinishPod()),
        ("OnFailure", 1, decision.StartContainer("vm", 1)),
        ("Never", 0, decision.FinishPod()),
        ("Never", 1, decision.FinishPod()),
    ],
)
def test_restart_policy(policy: str, code: int, expected: decision.Command) -> None:
    of = pod(policy=policy)
    assert commands(of, known(of, vm=ended(code))) == [expected]


def test_crash_loop_delays_double_to_five_minutes_and_are_forgotten_after_ten() -> None:
    of = pod()
    state = known(of, vm=record.Running(NOW))
    now, delays = NOW, []
    for attempt in range(1, 9):
        state = events.apply(state, events.ContainerExited("vm", attempt - 1, ended(1, now)), now)
        waited_from = now
        while decision.StartContainer("vm", attempt) not in commands(of, state, now=now):
            for command in commands(of, state, now=now):
                assert isinstance(command, decision.ReportBackOff)
                state = events.apply(state, events.BackedOff(command.container, command.reason, command.message), now)
            wake_at = decision.decide(of, state, IDLE, now).wake_at
            assert wake_at is not None
            now = wake_at
        delays.append(now - waited_from)
        state = events.apply(state, events.RestartBegan("vm"), now)
        state = events.apply(state, events.ContainerStarted("vm", attempt, f"id-{attempt}", "", now), now)
    assert delays == [0, 10, 20, 40, 80, 160, 300, 300]
    later = now + 700
    state = events.apply(state, events.ContainerExited("vm", 8, ended(1, later)), later)
    assert commands(of, state, now=later) == [decision.StartContainer("vm", 9)]


def test_back_off_message_is_the_kubelets() -> None:
    of = pod()
    state = known(of, vm=ended(1))
    state = events.apply(state, events.RestartBegan("vm"), NOW)
    [command] = commands(of, state, now=NOW + 1)
    text = "back-off 10s restarting failed container=vm pod=p_ns(u-1)"
    assert command == decision.ReportBackOff("vm", "CrashLoopBackOff", text)


def test_image_pull_backs_off_and_says_so_once() -> None:
    of = pod()
    state = events.apply(known(of), events.StartFailed("vm", "ErrImagePull", "no such tag"), NOW)
    assert decision.decide(of, state, IDLE, NOW + 1) == decision.Decision((), NOW + 5), "the fault can be seen"
    [command] = commands(of, state, now=NOW + 5)
    text = 'Back-off pulling image "image-of-vm": ErrImagePull: no such tag'
    assert command == decision.ReportBackOff("vm", "ImagePullBackOff", text)
    state = events.apply(state, events.BackedOff("vm", "ImagePullBackOff", text), NOW + 5)
    assert decision.decide(of, state, IDLE, NOW + 5) == decision.Decision((), NOW + 10)
    assert commands(of, state, now=NOW + 10) == [decision.StartContainer("vm", 0)]


def test_an_image_that_others_bring_is_looked_for_while_its_pull_backs_off() -> None:
    """Hazard: a pod waits five minutes for an image that `image pull` has brought meanwhile."""
    of, state = pod(), known(pod())
    for _ in range(4):
        state = events.apply(state, events.StartFailed("vm", "ErrImagePull", "no such tag"), NOW)
    state = events.apply(state, events.BackedOff("vm", "ImagePullBackOff", "text"), NOW + 5)
    assert decision.decide(of, state, IDLE, NOW + 5) == decision.Decision((), NOW + 10)
    assert commands(of, state, now=NOW + 10) == [decision.StartContainer("vm", 0)]
    state = events.apply(state, events.ImageStillAbsent("vm"), NOW + 11)
    assert decision.decide(of, state, IDLE, NOW + 11) == decision.Decision((), NOW + 21)
    assert state.container("vm").retry_at == NOW + 80, "looking puts nothing off"
    state = events.apply(state, events.ImageStillAbsent("vm"), NOW + 75)
    assert decision.decide(of, state, IDLE, NOW + 75) == decision.Decision((), NOW + 80)
    always = [msgspec.structs.replace(container, image_pull_policy="Always") for container in of.spec.containers]
    of = msgspec.structs.replace(of, spec=msgspec.structs.replace(of.spec, containers=always))
    assert decision.decide(of, state, IDLE, NOW + 30) == decision.Decision((), NOW + 80)


def test_back_off_of_image_pulls_doubles_from_10_s_to_300_s() -> None:
    of, now, gaps = pod(), NOW, []
    state = known(of)
    for _ in range(7):
        state = events.apply(state, events.StartFailed("vm", "ErrImagePull", "no such tag"), now)
        gaps.append(state.container("vm").retry_at - now)
        now = state.container("vm").retry_at
    assert gaps == [10, 20, 40, 80, 160, 300, 300]
    state = events.apply(state, events.ImageReady("vm", "id"), now)
    state = events.apply(state, events.StartFailed("vm", "ErrImagePull", "no such tag"), now)
    assert state.container("vm").retry_at - now == 10


def test_deletion_stops_what_runs_with_the_grace_that_is_left() -> None:
    of = pod("vm", "web", deleted_at=NOW + 30)
    state = known(of, vm=record.Running(NOW), web=record.Running(NOW))
    assert commands(of, state) == [decision.StopContainer("vm", 30.0), decision.StopContainer("web", 30.0)]
    assert commands(of, state, now=NOW + 25)[0] == decision.StopContainer("vm", 5.0)


def test_a_clock_behind_the_api_server_does_not_lengthen_the_grace() -> None:
    of = pod(deleted_at=NOW + 500, grace_s=30)
    assert commands(of, known(of, vm=record.Running(NOW))) == [decision.StopContainer("vm", 30.0)]


def test_a_second_deletion_with_a_shorter_grace_is_honoured() -> None:
    stopping = decision.Busy(stopping={"vm": NOW + 30})
    same, shorter = pod(deleted_at=NOW + 30), pod(deleted_at=NOW + 5, grace_s=5)
    assert commands(same, known(same, vm=record.Running(NOW)), stopping) == []
    assert commands(shorter, known(shorter, vm=record.Running(NOW)), stopping) == [decision.StopContainer("vm", 5.0)]


def test_deletion_abandons_a_start_that_is_under_way() -> None:
    of = pod(deleted_at=NOW + 30)
    assert commands(of, known(of), decision.Busy(starting=frozenset({"vm"}))) == [decision.AbandonStart("vm")]


def test_a_vanished_pod_is_stopped_at_once() -> None:
    of = pod()
    state = events.apply(known(of, vm=record.Running(NOW)), events.PodVanished(), NOW)
    assert commands(of, state) == [decision.StopContainer("vm", decision.FORCED_GRACE_S)]


def test_active_deadline_ends_the_pod() -> None:
    of = pod(deadline_s=60)
    state = known(of, vm=record.Running(NOW))
    assert decision.decide(of, state, IDLE, NOW) == decision.Decision((), NOW + 60)
    assert commands(of, state, now=NOW + 60) == [decision.ExceedDeadline()]


def test_a_late_exit_of_an_earlier_attempt_changes_nothing() -> None:
    of = pod()
    state = events.apply(known(of), events.ContainerStarted("vm", 1, "id-1", "", NOW), NOW)
    assert events.apply(state, events.ContainerExited("vm", 0, ended(1)), NOW) == state


def test_an_exit_told_twice_counts_once() -> None:
    of = pod()
    state = events.apply(known(of, vm=record.Running(NOW)), events.ContainerExited("vm", 0, ended(1)), NOW)
    assert events.apply(state, events.ContainerExited("vm", 0, ended(2, NOW + 5)), NOW + 5) == state


def test_record_survives_its_way_to_disk() -> None:
    of = pod("vm", "web")
    state = events.apply(known(of, vm=ended(3), web=record.Running(NOW)), events.RestartBegan("vm"), NOW)
    assert msgspec.json.decode(msgspec.json.encode(state), type=record.Pod) == state
