"""The status that the API server is told (kubelet ``generateAPIPodStatus``, ``status/generate.go``)."""

from typing import Any

import msgspec

from vzkubelet.model import pod as api
from vzkubelet.model import timestamp
from vzkubelet.podstate import phase, record

LOST = "The container could not be located when the pod was terminated"
OWNED_CONDITIONS = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")
"""In the order the kubelet writes them. All other conditions belong to somebody else and are kept."""


def compute(pod: api.Pod, known: record.Pod, host_ip: str, now: float, *, settled: bool = True) -> api.PodStatus:
    """The whole status. Transition times are taken from `pod.status`, which is what the API server holds.

    Until everything has `settled` (nothing runs, nothing is being started) a terminal phase is held back, as in the
    kubelet's ``mergePodStatus``: others take it as the sign that the pod's resources are free.
    """
    if known.rejection is not None and not known.start_time:
        return api.PodStatus(
            phase=phase.FAILED,
            reason=known.rejection.reason,
            message=known.rejection.message,
            conditions=pod.status.conditions,
            qos_class=pod.status.qos_class,
            observed_generation=pod.metadata.generation,
        )
    computed_phase = phase.compute(pod, known)
    current_phase = computed_phase if settled else _held_back(pod, computed_phase)
    told = known.rejection if current_phase in phase.TERMINAL else None
    containers = [_container_status(known.container(c.name), current_phase) for c in pod.spec.containers]
    ips = [api.PodIP(known.ip)] if known.ip else None
    return api.PodStatus(
        phase=current_phase,
        reason=told.reason if told else "",
        message=told.message if told else "",
        conditions=_conditions(pod, known, containers, (computed_phase, current_phase), now),
        host_ip=host_ip,
        host_ips=[api.PodIP(host_ip)] if host_ip else None,
        pod_ip=known.ip,
        pod_ips=ips,
        start_time=timestamp.from_epoch(known.start_time) if known.start_time else None,
        container_statuses=sorted(containers, key=lambda status: status.name),
        qos_class=pod.status.qos_class,
        observed_generation=pod.metadata.generation,
    )


def _held_back(pod: api.Pod, computed: str) -> str:
    if computed not in phase.TERMINAL or pod.status.phase in phase.TERMINAL:
        return computed
    return pod.status.phase or phase.PENDING


def _container_status(entry: record.Container, current_phase: str) -> api.ContainerStatus:
    running = isinstance(entry.state, record.Running)
    state, last = entry.state, entry.last
    if current_phase in phase.TERMINAL and not isinstance(state, record.Terminated):
        state = record.Terminated(exit_code=137, reason="ContainerStatusUnknown", message=LOST)
    return api.ContainerStatus(
        name=entry.name,
        state=container_state(state),
        last_state=container_state(last) if last is not None else api.ContainerState(),
        ready=running and not entry.network_fault,  # it runs on, and nobody reaches it
        restart_count=entry.restart_count,
        image=entry.image,
        image_id=entry.image_id,
        container_id=entry.container_id or msgspec.UNSET,
        started=running,
    )


def container_state(state: record.State) -> api.ContainerState:
    """One state in the API's shape; times cut to whole seconds."""
    match state:
        case record.Waiting(reason, message):
            return api.ContainerState(waiting=api.ContainerStateWaiting(reason=reason, message=message))
        case record.Running(started_at):
            return api.ContainerState(running=api.ContainerStateRunning(started_at=timestamp.from_epoch(started_at)))
        case record.Terminated():
            return api.ContainerState(
                terminated=api.ContainerStateTerminated(
                    exit_code=state.exit_code,
                    reason=state.reason,
                    message=state.message,
                    signal=state.signal,
                    started_at=None if state.started_at is None else timestamp.from_epoch(state.started_at),
                    finished_at=None if state.finished_at is None else timestamp.from_epoch(state.finished_at),
                    container_id=state.container_id,
                )
            )


def _conditions(
    pod: api.Pod, known: record.Pod, statuses: list[api.ContainerStatus], phases: tuple[str, str], now: float
) -> list[api.PodCondition]:
    computed_phase, shown_phase = phases
    containers_ready = _containers_ready(statuses, computed_phase)
    completed = "PodCompleted" if computed_phase == phase.SUCCEEDED else ""
    network = bool(known.ip) and shown_phase not in phase.TERMINAL
    wanted = {
        "PodReadyToStartContainers": ("True" if network else "False", "", ""),
        "Initialized": ("True", completed, ""),
        "Ready": _ready(pod, containers_ready),
        "ContainersReady": containers_ready,
        "PodScheduled": ("True", "", ""),
    }
    before = {condition.type: condition for condition in pod.status.conditions or []}
    generation = pod.metadata.generation
    owned = [_condition(name, *wanted[name], before.get(name), generation, now) for name in OWNED_CONDITIONS]
    return owned + [condition for name, condition in before.items() if name not in wanted]


def _containers_ready(statuses: list[api.ContainerStatus], current_phase: str) -> tuple[str, str, str]:
    if current_phase == phase.SUCCEEDED:
        return "False", "PodCompleted", ""
    if current_phase == phase.FAILED:
        return "False", "PodFailed", ""
    unready = [status.name for status in statuses if not status.ready]
    if unready:
        return "False", "ContainersNotReady", f"containers with unready status: [{' '.join(unready)}]"
    return "True", "", ""


def _ready(pod: api.Pod, containers_ready: tuple[str, str, str]) -> tuple[str, str, str]:
    if containers_ready[0] != "True":
        return containers_ready
    given = {condition.type: condition.status for condition in pod.status.conditions or []}
    messages = []
    for gate in pod.spec.readiness_gates or []:
        if gate.condition_type not in given:
            messages.append(f'corresponding condition of pod readiness gate "{gate.condition_type}" does not exist.')
        elif given[gate.condition_type] != "True":
            value = given[gate.condition_type]
            messages.append(f'the status of pod readiness gate "{gate.condition_type}" is not "True", but {value}')
    return ("False", "ReadinessGatesNotReady", ", ".join(messages)) if messages else containers_ready


def _condition(
    name: str, status: str, reason: str, message: str, before: api.PodCondition | None, generation: int, now: float
) -> api.PodCondition:
    unchanged = before is not None and before.status == status and before.last_transition_time is not None
    return api.PodCondition(
        type=name,
        status=status,
        reason=reason,
        message=message,
        last_transition_time=before.last_transition_time if before and unchanged else timestamp.from_epoch(now),
        observed_generation=generation,
    )


def patch(pod: api.Pod, status: api.PodStatus) -> bytes | None:
    """A strategic merge patch from `pod.status` to `status`, guarded by UID; None when nothing differs.

    Lists that merge by key (podIPs, hostIPs) are replaced, conditions are merged so that others' conditions stay, and a
    field that was set and no longer is becomes null.
    """
    if _comparable(status) == _comparable(pod.status):
        return None
    new: dict[str, Any] = msgspec.to_builtins(status)
    body: dict[str, Any] = {key: None for key in msgspec.to_builtins(pod.status) if key not in new}
    body.update(new)
    for key in ("podIPs", "hostIPs"):
        if body.get(key):
            body[key] = [{"$patch": "replace"}, *body[key]]
    body["conditions"] = [_condition_patch(c) for c in status.conditions or [] if c.type in OWNED_CONDITIONS]
    return msgspec.json.encode({"metadata": {"uid": pod.metadata.uid}, "status": body})


def _comparable(status: api.PodStatus) -> Any:
    """Conditions are a map by type: the API server keeps the order in which they came, which says nothing."""
    conditions = sorted(status.conditions or [], key=lambda condition: condition.type)
    return msgspec.to_builtins(msgspec.structs.replace(status, conditions=conditions))


def _condition_patch(condition: api.PodCondition) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(condition)
    return {"reason": None, "message": None, **fields}
