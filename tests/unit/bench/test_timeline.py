"""The steps of a pod's start as the agent's log tells them."""

import pytest

from bench import timeline

POD = "default/web"
FIELDS = "{'pod': 'default/web'}"
BOUND_AT = 1795262400.0  # 2026-11-21T12:00:00Z
MESSAGES = (
    "pod default/web > PrepareVolumes()",
    "pod default/web < VolumesPrepared()",
    "pod default/web < ImageReady(container='vm', image_id='sha256:aa')",
    f"machine create done in 0.100 s {FIELDS}",
    f"machine start done in 0.100 s {FIELDS}",
    f"machine address done in 5.000 s {FIELDS}",
    f"guest connect done in 1.000 s {FIELDS}",
    f"guest prepare done in 0.100 s {FIELDS}",
    f"process start done in 0.100 s {FIELDS}",
    "pod default/web < ContainerStarted(container='vm', attempt=0)",
)


def line(second: float, message: str, logger: str = "pods.worker") -> str:
    whole, milliseconds = divmod(round(second * 1000), 1000)
    return f"2026-11-21T12:00:{whole:02d}.{milliseconds:03d}Z DEBUG   {logger}: {message}"


def log(*extra: str) -> str:
    return "\n".join([*extra, *(line(number + 1, message) for number, message in enumerate(MESSAGES))])


def test_every_step_lasts_from_the_mark_before_to_its_own() -> None:
    found = timeline.steps(log(), POD, BOUND_AT + 0.5, BOUND_AT + 12)
    assert list(found) == [*(mark.step for mark in timeline.MARKS), timeline.LAST_STEP]
    assert list(found.values()) == pytest.approx([0.5, *[1.0] * 9, 2.0])


def test_the_steps_add_up_to_the_whole() -> None:
    found = timeline.steps(log(), POD, BOUND_AT + 0.25, BOUND_AT + 11.5)
    assert sum(found.values()) == pytest.approx(11.25)


def test_lines_of_other_pods_levels_and_loggers_are_passed_over() -> None:
    others = (
        line(0.1, "pod default/web-2 > PrepareVolumes()"),
        line(0.2, "pod other/web > PrepareVolumes()"),
        line(0.3, "pod default/web > PrepareVolumes()").replace("DEBUG  ", "INFO   "),
        line(0.4, "pod default/web > PrepareVolumes()", logger="asyncssh"),
        "Traceback (most recent call last):",
    )
    assert timeline.steps(log(*others), POD, BOUND_AT, BOUND_AT + 12) == timeline.steps(
        log(), POD, BOUND_AT, BOUND_AT + 12
    )


def test_a_machine_of_another_pod_ends_no_step() -> None:
    content = log().splitlines()
    content.insert(3, line(3.5, "machine create done in 0.100 s {'pod': 'default/other'}"))
    found = timeline.steps("\n".join(content), POD, BOUND_AT, BOUND_AT + 12)
    assert found["machine created (disk cloned)"] == pytest.approx(1.0)


def test_a_failed_step_ends_no_step() -> None:
    content = log().replace("machine start done", "machine start failed")
    with pytest.raises(timeline.LogIncomplete, match="machine start done"):
        timeline.steps(content, POD, BOUND_AT, BOUND_AT + 12)


@pytest.mark.parametrize("missing", range(len(MESSAGES)))
def test_a_missing_mark_is_named(missing: int) -> None:
    content = log().splitlines()
    del content[missing]
    with pytest.raises(timeline.LogIncomplete, match="default/web: no line"):
        timeline.steps("\n".join(content), POD, BOUND_AT, BOUND_AT + 12)


def test_the_login_is_the_last_one() -> None:
    content = "\n".join(
        line(1, f"ssh connect done in 0.4 s {{'guest': 'root@{host}'}}", logger="guests.guest")
        for host in ("10.0.0.4:22", "10.0.0.9:2222")
    )
    assert timeline.login(content) == ("root", "10.0.0.9", 2222)


def test_a_login_that_failed_is_none() -> None:
    with pytest.raises(timeline.LogIncomplete, match="no SSH login"):
        timeline.login(line(1, "ssh connect failed in 9 s {'guest': 'root@10.0.0.4:22'}", logger="guests.guest"))
