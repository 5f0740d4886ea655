import itertools

from tests.unit.podstate import making
from tests.unit.podstate.making import NOW
from vzkubelet.podstate import events, pull_progress, record

GIB = 2**30


def told(seconds: float, *, every_s: float = 0.1) -> list[tuple[float, pull_progress.Telling]]:
    """What a pull of this length tells, that reports so often."""
    progress = pull_progress.PullProgress(100.0)
    found = []
    for step in range(int(seconds / every_s)):
        now = 100.0 + step * every_s
        telling = progress.heard(int(GIB * step * every_s / seconds), GIB, now)
        if telling is not None:
            found.append((now - 100.0, telling))
    return found


def test_a_short_pull_is_not_told() -> None:
    assert told(1.9) == []


def test_messages_come_seconds_apart_however_often_the_pull_reports() -> None:
    moments = [moment for moment, _ in told(60)]
    assert moments[0] >= pull_progress.MESSAGE_FIRST_S
    assert all(b - a >= pull_progress.MESSAGE_S - 0.001 for a, b in itertools.pairwise(moments))
    assert 11 <= len(moments) <= 13


def test_events_become_rarer_and_leave_the_pod_most_of_its_burst() -> None:
    """Hazard: the spam filter drops what happens to the pod after a pull of hours (25 events, then one in 300 s)."""
    hours = 10
    events_told = [moment for moment, telling in told(hours * 3600, every_s=1.0) if telling.event]
    assert events_told[0] < 40
    for moment in events_told:
        so_far = [other for other in events_told if other <= moment]
        assert len(so_far) <= 10 + moment / 300


def test_message() -> None:
    message = told(100)[10][1].message
    assert message.startswith("Pulling ")
    assert " of 1.0 GiB, 10 MiB/s, " in message
    assert message.endswith("s left")


def test_what_is_done_while_no_bytes_move_is_told_instead_of_a_speed() -> None:
    progress = pull_progress.PullProgress(0.0)
    progress.heard(0, GIB, 1.0)
    telling = progress.heard(GIB // 2, GIB, 10.0, "looking for an older version")
    assert telling is not None
    assert telling.message == "Pulling 0.5 of 1.0 GiB, looking for an older version"


def test_nothing_is_told_before_the_size_is_known() -> None:
    progress = pull_progress.PullProgress(0.0)
    assert progress.heard(0, 0, 10.0) is None


def test_a_waiting_container_shows_the_progress_until_its_image_is_there() -> None:
    before = making.known(making.pod())
    pulling = events.apply(before, events.PullProgressed("vm", "Pulling 1 of 2 GiB"), NOW)
    assert pulling.container("vm").state == record.Waiting("ContainerCreating", "Pulling 1 of 2 GiB")
    assert events.apply(pulling, events.PullProgressed("vm", "Pulling 1 of 2 GiB"), NOW) == pulling
    ready = events.apply(pulling, events.ImageReady("vm", "repo@sha256:1"), NOW)
    assert ready.container("vm").state == record.Waiting()


def test_a_pull_that_is_tried_again_is_no_failed_one() -> None:
    backed_off = making.known(making.pod(), vm=record.Waiting("ImagePullBackOff", "Back-off pulling image"))
    pulling = events.apply(backed_off, events.PullProgressed("vm", "Pulling"), NOW)
    assert pulling.container("vm").state == record.Waiting("ContainerCreating", "Pulling")


def test_progress_that_comes_late_changes_nothing() -> None:
    """Hazard: the last report of a pull is handled after the container has started, or in a crash loop's back-off."""
    for state in (
        record.Running(NOW),
        making.ended(1),
        record.Waiting("CrashLoopBackOff", "back-off 10s"),
    ):
        known = making.known(making.pod(), vm=state)
        assert events.apply(known, events.PullProgressed("vm", "Pulling"), NOW) == known


def test_the_end_of_another_waiting_is_kept() -> None:
    known = making.known(making.pod(), vm=record.Waiting("CrashLoopBackOff", "back-off 10s"))
    ready = events.apply(known, events.ImageReady("vm", "repo@sha256:1"), NOW)
    assert ready.container("vm").state == record.Waiting("CrashLoopBackOff", "back-off 10s")
