"""What a container runtime tells of a container, as events of the pod rules."""

from vzkubelet import ports
from vzkubelet.podstate import events, record, status

LOST_EXIT_CODE = 137


def exited(state: ports.ContainerState) -> events.ContainerExited:
    """The end that the runtime saw."""
    ended = record.Terminated(
        exit_code=state.exit.code,
        reason=state.reason or ("Completed" if state.exit.code == 0 else "Error"),
        message=state.message,
        signal=state.exit.signal,
        started_at=state.started_at,
        finished_at=state.finished_at,
        container_id=state.id,
    )
    return events.ContainerExited(state.name, state.attempt, ended, state.image_id)


def lost(entry: record.Container) -> events.ContainerExited:
    """The end of a container that ran and of which the runtime knows nothing any more."""
    ended = record.Terminated(exit_code=LOST_EXIT_CODE, reason="ContainerStatusUnknown", message=status.LOST)
    return events.ContainerExited(entry.name, entry.attempt, ended)


def found(state: ports.ContainerState | None, entry: record.Container, known_ip: str) -> list[events.Event]:
    """What the record has to learn from a runtime that was asked after a restart of the daemon."""
    if state is None:
        return [lost(entry)] if isinstance(entry.state, record.Running) else []
    learnt: list[events.Event] = []
    if state.address and not known_ip:
        learnt.append(events.AddressLearned(state.address))
    if state.phase is ports.ContainerPhase.EXITED:
        return [*learnt, exited(state)]
    if not isinstance(entry.state, record.Running) or entry.attempt != state.attempt:
        learnt.append(events.ContainerStarted(state.name, state.attempt, state.id, state.image_id, state.started_at))
    return learnt
