"""What to do next with a pod: a pure function of its spec, its record, what is under way, and the time.

Level-triggered: it is asked again after every event and at `Decision.wake_at`, and says the same until something
changes. Commands are imperative; those under way (`busy`) are not repeated.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from vzkubelet.model import pod as api
from vzkubelet.model import timestamp
from vzkubelet.podstate import back_off, phase, record, restart

DEFAULT_GRACE_S = 30.0
FORCED_GRACE_S = 1.0
"""A pod that the API server no longer knows is stopped with the shortest grace that still sends SIGTERM."""
MINIMUM_GRACE_S = 1.0
SHORTER_BY_S = 1.0
"""A second deletion counts as shorter from here on; less is the rounding of timestamps."""


@dataclass(frozen=True, slots=True)
class PrepareVolumes:
    pass


@dataclass(frozen=True, slots=True)
class StartContainer:
    """Make the image present, resolve the environment and start this attempt; earlier attempts are replaced. While
    its pull backs off, only if the image has come by itself."""

    container: str
    attempt: int


@dataclass(frozen=True, slots=True)
class StopContainer:
    container: str
    grace_s: float


@dataclass(frozen=True, slots=True)
class AbandonStart:
    """Cancel a start that is under way: the pod is ending."""

    container: str


@dataclass(frozen=True, slots=True)
class ReportBackOff:
    """The container waits for its restart or its image: say so in its state and in an event."""

    container: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class ExceedDeadline:
    """activeDeadlineSeconds is over."""


@dataclass(frozen=True, slots=True)
class FinishPod:
    """Everything has stopped for good: release what it holds; delete it from the API if it is being deleted."""


Command = PrepareVolumes | StartContainer | StopContainer | AbandonStart | ReportBackOff | ExceedDeadline | FinishPod


@dataclass(frozen=True, slots=True)
class Decision:
    commands: tuple[Command, ...] = ()
    wake_at: float | None = None


@dataclass(frozen=True, slots=True)
class Busy:
    """Operations under way, by container name; a stop with the moment at which it kills."""

    volumes: bool = False
    starting: frozenset[str] = frozenset()
    stopping: Mapping[str, float] = field(default_factory=dict)


def decide(pod: api.Pod, known: record.Pod, busy: Busy, now: float) -> Decision:
    """The next commands. What ends the pod goes before everything else; a terminal phase in the API server does too."""
    deleted = known.vanished or pod.metadata.deletion_timestamp is not None
    if deleted or known.rejection is not None or pod.status.phase in phase.TERMINAL:
        return _end(pod, known, busy, now)
    deadline = _deadline(pod, known)
    if deadline is not None and now >= deadline:
        return Decision((ExceedDeadline(),))
    decision = _run(pod, known, busy, now)
    return Decision(decision.commands, _earliest(decision.wake_at, deadline))


def _run(pod: api.Pod, known: record.Pod, busy: Busy, now: float) -> Decision:
    if _finished(pod, known):
        return Decision() if busy.starting or busy.stopping else Decision((FinishPod(),))
    if not known.volumes_ready:
        if busy.volumes or now < known.volumes_retry_at:
            return Decision(wake_at=None if busy.volumes else known.volumes_retry_at)
        return Decision((PrepareVolumes(),))
    commands: list[Command] = []
    wake_at: float | None = None
    for index, container in enumerate(pod.spec.containers):
        if index > 0 and not known.ip:
            break  # side-cars see the pod's address, so they follow the machine
        if container.name in busy.starting or container.name in busy.stopping:
            continue
        step = _container_step(pod, container, known, now)
        commands.extend(step.commands)
        wake_at = _earliest(wake_at, step.wake_at)
    return Decision(tuple(commands), wake_at)


def _container_step(pod: api.Pod, container: api.Container, known: record.Pod, now: float) -> Decision:
    entry = known.container(container.name)
    match entry.state:
        case record.Running():
            return Decision()
        case record.Terminated(exit_code=code):
            if not restart.should_restart(pod.spec, container, code):
                return Decision()
            return _restart_step(known, entry, entry.state, now)
        case record.Waiting(reason="CrashLoopBackOff"):
            ended = entry.last
            assert ended is not None
            return _restart_step(known, entry, ended, now)
        case record.Waiting():
            return _first_start_step(container, entry, now)


def _first_start_step(container: api.Container, entry: record.Container, now: float) -> Decision:
    waiting = entry.state
    assert isinstance(waiting, record.Waiting)
    attempt = entry.restart_count if entry.last is None else entry.restart_count + 1
    if now < entry.retry_at:
        if waiting.reason == "ErrImagePull":
            shown_until = entry.pull_back_off.updated_at + back_off.PULL_FAULT_SHOWN_S
            if now < shown_until:
                return Decision(wake_at=shown_until)
            message = f'Back-off pulling image "{entry.image}": ErrImagePull: {waiting.message}'
            return Decision((ReportBackOff(entry.name, "ImagePullBackOff", message),), entry.retry_at)
        if waiting.reason != "ImagePullBackOff" or container.image_pull_policy == "Always":
            return Decision(wake_at=entry.retry_at)
        if now < entry.look_at:
            return Decision(wake_at=min(entry.look_at, entry.retry_at))
    return Decision((StartContainer(entry.name, attempt),))


def _restart_step(known: record.Pod, entry: record.Container, ended: record.Terminated, now: float) -> Decision:
    finished_at = ended.finished_at or now
    until = back_off.waits_until(entry.crash_back_off, finished_at, back_off.CRASH_MAX_S)
    if until is not None and now < until:
        if isinstance(entry.state, record.Waiting):
            return Decision(wake_at=until)
        delay = back_off.format_delay(entry.crash_back_off.delay_s)
        message = f"back-off {delay} restarting failed container={entry.name} pod={known.ref}"
        return Decision((ReportBackOff(entry.name, "CrashLoopBackOff", message),), until)
    return Decision((StartContainer(entry.name, entry.restart_count + 1),))


def _end(pod: api.Pod, known: record.Pod, busy: Busy, now: float) -> Decision:
    grace_s = grace(pod, known, now)
    commands: list[Command] = [AbandonStart(name) for name in sorted(busy.starting)]
    commands.extend(
        StopContainer(entry.name, grace_s)
        for entry in known.containers
        if isinstance(entry.state, record.Running)
        and entry.name not in busy.starting
        and now + grace_s < busy.stopping.get(entry.name, math.inf) - SHORTER_BY_S
    )
    if commands or busy.stopping or busy.volumes:
        return Decision(tuple(commands))
    return Decision((FinishPod(),))


def grace(pod: api.Pod, known: record.Pod, now: float) -> float:
    """Seconds the containers have to end by themselves, counted from now.

    After a restart of the daemon only the rest of the deletion's grace is left; clocks that disagree never lengthen it.
    """
    if known.vanished:
        return FORCED_GRACE_S
    if pod.metadata.deletion_timestamp is not None and pod.metadata.deletion_grace_period_seconds is not None:
        asked = float(pod.metadata.deletion_grace_period_seconds)
        rest = timestamp.to_epoch(pod.metadata.deletion_timestamp) - now
        return max(MINIMUM_GRACE_S, min(asked, rest) if rest < asked else asked)
    configured = pod.spec.termination_grace_period_seconds
    return DEFAULT_GRACE_S if configured is None else max(MINIMUM_GRACE_S, float(configured))


def _finished(pod: api.Pod, known: record.Pod) -> bool:
    return all(
        isinstance(entry.state, record.Terminated) and not restart.should_restart(pod.spec, c, entry.state.exit_code)
        for c in pod.spec.containers
        for entry in (known.container(c.name),)
    )


def _deadline(pod: api.Pod, known: record.Pod) -> float | None:
    if pod.spec.active_deadline_seconds is None or not known.start_time or _finished(pod, known):
        return None
    return known.start_time + pod.spec.active_deadline_seconds


def _earliest(*moments: float | None) -> float | None:
    known = [moment for moment in moments if moment is not None]
    return min(known) if known else None
