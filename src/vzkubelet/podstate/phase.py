"""The pod phase (kubelet ``getPhase``), for pods without init containers."""

from dataclasses import dataclass

from vzkubelet.model import pod as api
from vzkubelet.podstate import record, restart

PENDING, RUNNING, SUCCEEDED, FAILED = "Pending", "Running", "Succeeded", "Failed"
TERMINAL = frozenset({SUCCEEDED, FAILED})


@dataclass(slots=True)
class _Count:
    running: int = 0
    waiting: int = 0
    stopped: int = 0
    stopped_for_good: int = 0
    succeeded: int = 0


def compute(pod: api.Pod, known: record.Pod) -> str:
    """The phase. A terminal phase is only reported once nothing runs any more, and is never left."""
    if pod.status.phase in TERMINAL:
        return pod.status.phase
    count = _count(pod.spec, known)
    ending = known.rejection is not None or pod.metadata.deletion_timestamp is not None
    if ending and known.stopped:
        return _ended(known, count)
    if count.waiting:
        return PENDING
    if count.running:
        return RUNNING
    if count.stopped != count.stopped_for_good:
        return RUNNING
    if not count.stopped:
        return PENDING
    return SUCCEEDED if count.stopped == count.succeeded else FAILED


def _ended(known: record.Pod, count: _Count) -> str:
    if known.rejection is not None or count.waiting or not count.stopped:
        return FAILED
    return SUCCEEDED if count.stopped == count.succeeded else FAILED


def _count(spec: api.PodSpec, known: record.Pod) -> _Count:
    count = _Count()
    for container in spec.containers:
        entry = known.container(container.name)
        ended = entry.last if isinstance(entry.state, record.Waiting) else entry.state
        match ended:
            case record.Running():
                count.running += 1
            case record.Terminated(exit_code=code):
                count.stopped += 1
                if not restart.should_restart(spec, container, code):
                    count.stopped_for_good += 1
                if code == 0 and isinstance(entry.state, record.Terminated):
                    count.succeeded += 1
            case _:
                count.waiting += 1
    return count
