"""A record made from what the API server tells, for a pod of which this agent has none (any more)."""

from datetime import datetime

from vzkubelet.model import pod as api
from vzkubelet.model import timestamp
from vzkubelet.podstate import record

_CRASH_LOOP = "CrashLoopBackOff"


def record_of(pod: api.Pod, now: float) -> record.Pod:
    """The record of a pod that is seen for the first time, or whose state was lost.

    A container that the API server believes to run is taken as running: the runtime is asked for it next, and says so
    or that it is gone.
    """
    meta, status = pod.metadata, pod.status
    told = {entry.name: entry for entry in status.container_statuses or []}
    containers = tuple(_container(container, told.get(container.name)) for container in pod.spec.containers)
    start_time = float(int(now)) if status.start_time is None else timestamp.to_epoch(status.start_time)
    return record.Pod(meta.namespace, meta.name, meta.uid, containers, start_time=start_time, ip=status.pod_ip)


def _container(container: api.Container, told: api.ContainerStatus | None) -> record.Container:
    if told is None:
        return record.Container(container.name, container.image)
    last = None if told.last_state.terminated is None else _terminated(told.last_state.terminated)
    return record.Container(
        container.name,
        container.image,
        state=_state(told.state, last),
        last=last,
        attempt=told.restart_count,
        restart_count=told.restart_count,
        container_id=told.container_id or "",
        image_id=told.image_id,
    )


def _state(state: api.ContainerState, last: record.Terminated | None) -> record.State:
    if state.terminated is not None:
        return _terminated(state.terminated)
    if state.running is not None:
        return record.Running(_epoch(state.running.started_at) or 0.0)
    if state.waiting is None or (state.waiting.reason == _CRASH_LOOP and last is None):
        return record.Waiting()
    return record.Waiting(state.waiting.reason, state.waiting.message)


def _terminated(state: api.ContainerStateTerminated) -> record.Terminated:
    return record.Terminated(
        exit_code=state.exit_code,
        reason=state.reason,
        message=state.message,
        signal=state.signal,
        started_at=_epoch(state.started_at),
        finished_at=_epoch(state.finished_at),
        container_id=state.container_id,
    )


def _epoch(moment: datetime | None) -> float | None:
    return None if moment is None else timestamp.to_epoch(moment)
