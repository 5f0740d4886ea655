"""What happened to a pod, and how each happening changes its record. Events are past tense."""

from dataclasses import dataclass
from typing import assert_never

import msgspec

from vzkubelet.errors import MACHINE_LIMIT_REASON
from vzkubelet.podstate import back_off, record

CONFIG_RETRY_S = 10.0
"""The kubelet retries CreateContainerConfigError and its like at every sync of the pod, which is about 10 s apart."""

_PULL_REASONS = frozenset({"ErrImagePull", "ErrImageNeverPull", "InvalidImageName", "ImageInspectError"})
_BEFORE_START = frozenset({"ContainerCreating", "ErrImagePull", "ImagePullBackOff"})


@dataclass(frozen=True, slots=True)
class VolumesPrepared:
    pass


@dataclass(frozen=True, slots=True)
class VolumesFailed:
    message: str


@dataclass(frozen=True, slots=True)
class AddressLearned:
    """The pod's own address became known."""

    ip: str


@dataclass(frozen=True, slots=True)
class PullProgressed:
    """A container's image is on its way; `message` says how far."""

    container: str
    message: str


@dataclass(frozen=True, slots=True)
class ImageReady:
    container: str
    image_id: str


@dataclass(frozen=True, slots=True)
class ImageStillAbsent:
    """Nobody has brought the image of a container that waits for its next pull."""

    container: str


@dataclass(frozen=True, slots=True)
class StartFailed:
    """A container could not be started; `reason` is a waiting reason of the kubelet."""

    container: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class BackedOff:
    """A container waits for its next try."""

    container: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class RestartBegan:
    """A restart was begun: the next one waits longer."""

    container: str


@dataclass(frozen=True, slots=True)
class ContainerStarted:
    container: str
    attempt: int
    container_id: str
    image_id: str
    started_at: float


@dataclass(frozen=True, slots=True)
class ContainerExited:
    container: str
    attempt: int
    exit: record.Terminated
    image_id: str = ""


@dataclass(frozen=True, slots=True)
class NetworkChanged:
    """A running container lost its network (`fault`), or has it again (empty)."""

    container: str
    attempt: int
    fault: str


@dataclass(frozen=True, slots=True)
class PodRejected:
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class PodVanished:
    """The API server has no such pod any more (forced deletion)."""


Event = (
    VolumesPrepared
    | VolumesFailed
    | AddressLearned
    | PullProgressed
    | ImageReady
    | ImageStillAbsent
    | StartFailed
    | BackedOff
    | RestartBegan
    | ContainerStarted
    | ContainerExited
    | NetworkChanged
    | PodRejected
    | PodVanished
)


def apply(pod: record.Pod, event: Event, now: float) -> record.Pod:
    """The record after the event. Applying an event twice changes nothing further."""
    match event:
        case VolumesPrepared():
            return msgspec.structs.replace(pod, volumes_ready=True, volumes_back_off=record.BackOff())
        case VolumesFailed():
            entry = back_off.next_entry(pod.volumes_back_off, now, back_off.VOLUME_INITIAL_S, back_off.VOLUME_MAX_S)
            return msgspec.structs.replace(pod, volumes_back_off=entry, volumes_retry_at=now + entry.delay_s)
        case AddressLearned(ip):
            return msgspec.structs.replace(pod, ip=ip)
        case PullProgressed(name, message):
            return pod.with_container(_pulling(pod.container(name), message))
        case ImageReady(name, image_id):
            container = _pulling(pod.container(name), "")
            return pod.with_container(
                msgspec.structs.replace(container, image_id=image_id, pull_back_off=record.BackOff())
            )
        case ImageStillAbsent(name):
            container = pod.container(name)
            return pod.with_container(msgspec.structs.replace(container, look_at=now + back_off.PULL_LOOK_S))
        case StartFailed(name, reason, message):
            return pod.with_container(_start_failed(pod.container(name), reason, message, now))
        case BackedOff(name, reason, message):
            return pod.with_container(_waiting(pod.container(name), record.Waiting(reason, message)))
        case RestartBegan(name):
            return pod.with_container(_restart_began(pod.container(name), now))
        case ContainerStarted():
            return pod.with_container(_started(pod.container(event.container), event))
        case ContainerExited():
            return pod.with_container(_exited(pod.container(event.container), event))
        case NetworkChanged(name, attempt, fault):
            container = pod.container(name)
            if container.attempt != attempt or not isinstance(container.state, record.Running):
                return pod
            return pod.with_container(msgspec.structs.replace(container, network_fault=fault))
        case PodRejected(reason, message):
            if pod.rejection is not None:
                return pod
            return msgspec.structs.replace(pod, rejection=record.Rejection(reason, message))
        case PodVanished():
            return msgspec.structs.replace(pod, vanished=True)
        case _:
            assert_never(event)


def _pulling(container: record.Container, message: str) -> record.Container:
    """What a container that waits for its image shows; one that waits for something else shows that."""
    state = container.state
    if not isinstance(state, record.Waiting) or state.reason not in _BEFORE_START:
        return container
    return msgspec.structs.replace(container, state=record.Waiting(message=message))


def _start_failed(container: record.Container, reason: str, message: str, now: float) -> record.Container:
    if reason == "ErrImagePull":
        entry = back_off.next_entry(container.pull_back_off, now, back_off.PULL_INITIAL_S, back_off.PULL_MAX_S)
        container = msgspec.structs.replace(
            container, pull_back_off=entry, retry_at=now + entry.delay_s, look_at=now + back_off.PULL_LOOK_S
        )
    elif reason == MACHINE_LIMIT_REASON:
        entry = back_off.next_entry(
            container.limit_back_off, now, back_off.MACHINE_LIMIT_INITIAL_S, back_off.MACHINE_LIMIT_MAX_S
        )
        container = msgspec.structs.replace(container, limit_back_off=entry, retry_at=now + entry.delay_s)
    else:
        container = msgspec.structs.replace(container, retry_at=now + CONFIG_RETRY_S)
    return _waiting(container, record.Waiting(reason, message))


def _waiting(container: record.Container, state: record.Waiting) -> record.Container:
    last = container.state if isinstance(container.state, record.Terminated) else container.last
    return msgspec.structs.replace(container, state=state, last=last)


def _restart_began(container: record.Container, now: float) -> record.Container:
    ended = container.state if isinstance(container.state, record.Terminated) else container.last
    since = ended.finished_at if ended is not None and ended.finished_at else now
    entry = back_off.next_entry(container.crash_back_off, since, back_off.CRASH_INITIAL_S, back_off.CRASH_MAX_S)
    return msgspec.structs.replace(container, crash_back_off=entry)


def _started(container: record.Container, event: ContainerStarted) -> record.Container:
    last = container.state if isinstance(container.state, record.Terminated) else container.last
    return msgspec.structs.replace(
        container,
        state=record.Running(event.started_at),
        last=last,
        attempt=event.attempt,
        restart_count=event.attempt,
        container_id=event.container_id,
        image_id=event.image_id or container.image_id,
        limit_back_off=record.BackOff(),
        network_fault="",
        retry_at=0.0,
    )


def _exited(container: record.Container, event: ContainerExited) -> record.Container:
    told = isinstance(container.state, record.Terminated) or (
        isinstance(container.state, record.Waiting) and container.last is not None  # its back-off has begun
    )
    if (told and container.attempt == event.attempt) or event.attempt < container.restart_count:
        return container
    return msgspec.structs.replace(
        container,
        state=event.exit,
        network_fault="",
        attempt=event.attempt,
        restart_count=event.attempt,
        container_id=event.exit.container_id or container.container_id,
        image_id=event.image_id or container.image_id,
    )


def is_pull_reason(reason: str) -> bool:
    """Whether a waiting reason speaks of the image, so that the kubelet's image texts apply."""
    return reason in _PULL_REASONS
