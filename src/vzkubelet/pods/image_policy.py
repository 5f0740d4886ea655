"""Making a container's image present: imagePullPolicy, pull secrets, and the kubelet's events about both."""

from collections.abc import Callable, Sequence

from vzkubelet import errors, ports
from vzkubelet.model import docker_config, duration, reference
from vzkubelet.model import pod as api
from vzkubelet.model.identity import PodRef
from vzkubelet.pods.world import World
from vzkubelet.ports import EventType

Progress = Callable[[ports.PullProgress], None]


async def ensure(
    world: World, pod: api.Pod, ref: PodRef, container: api.Container, progress: Progress | None = None
) -> ports.Image:
    """The image, pulled where the policy asks for it.

    Raises:
        Error: reason ErrImagePull, ErrImageNeverPull or InvalidImageName; events have been recorded.
    """
    runtime = world.runtime_of(pod, container.name)
    try:
        present = None if container.image_pull_policy == "Always" else await runtime.find_image(container.image)
        if present is not None:
            text = f'Container image "{container.image}" already present on machine and can be accessed by the pod'
            world.recorder.pod_event(ref, EventType.NORMAL, "Pulled", text, container.name)
            return present
        if container.image_pull_policy == "Never":
            text = f'Container image "{container.image}" is not present with pull policy of Never'
            raise errors.NotFound(text, reason="ErrImageNeverPull")
        return await _pull(world, pod, ref, container, runtime, progress)
    except errors.Error as exc:
        raise _as_pull_error(world, ref, container, exc) from exc


async def _pull(
    world: World,
    pod: api.Pod,
    ref: PodRef,
    container: api.Container,
    runtime: ports.ContainerRuntime,
    progress: Progress | None,
) -> ports.Image:
    credentials = await _credentials(world, pod, ref, container.image)
    world.recorder.pod_event(ref, EventType.NORMAL, "Pulling", f'Pulling image "{container.image}"', container.name)
    began = world.clock.monotonic()
    image = await runtime.pull_image(container.image, credentials, progress)
    took = duration.format_go(world.clock.monotonic() - began)
    text = (
        f'Successfully pulled image "{container.image}" in {took} ({took} including waiting). '
        f"Image size: {image.size_bytes} bytes."
    )
    world.recorder.pod_event(ref, EventType.NORMAL, "Pulled", text, container.name)
    return image


async def _credentials(world: World, pod: api.Pod, ref: PodRef, image: str) -> Sequence[ports.RegistryCredential]:
    secrets, missing = [], []
    for wanted in pod.spec.image_pull_secrets or []:
        try:
            secrets.append(await world.objects.secret(pod.metadata.namespace, wanted.name))
        except (errors.NotFound, errors.Forbidden):
            missing.append(wanted.name)
    if missing:
        text = (
            f"Unable to retrieve some image pull secrets ({', '.join(missing)}); "
            "attempting to pull the image may not succeed."
        )
        world.recorder.pod_event(ref, EventType.WARNING, "FailedToRetrieveImagePullSecret", text)
    return docker_config.candidates(secrets, reference.parse(image))


def _as_pull_error(world: World, ref: PodRef, container: api.Container, exc: errors.Error) -> errors.Error:
    """Whatever went wrong, in the kubelet's words; the original reason is kept where it is one of the kubelet's."""
    reason = exc.reason if exc.reason in {"InvalidImageName", "ErrImageNeverPull"} else "ErrImagePull"
    if reason == "InvalidImageName":
        text = f'Failed to apply default image tag "{container.image}": {exc.message}'
        world.recorder.pod_event(ref, EventType.WARNING, "InspectFailed", text, container.name)
    elif reason == "ErrImageNeverPull":
        world.recorder.pod_event(ref, EventType.WARNING, reason, exc.message, container.name)
        text = exc.message
    else:
        text = f'failed to pull image "{container.image}": {exc.message}'
        world.recorder.pod_event(ref, EventType.WARNING, "Failed", text[0].upper() + text[1:], container.name)
    world.recorder.pod_event(ref, EventType.WARNING, "Failed", f"Error: {reason}", container.name)
    return type(exc)(text, reason=reason)
