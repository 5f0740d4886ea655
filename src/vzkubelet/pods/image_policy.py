"""Making a container's image present: imagePullPolicy, credentials, and the kubelet's events about both.

The questions come in the order of the kubelet's ``images.imageManager.EnsureImageExists``; the texts are its own.
"""

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager

from vzkubelet import errors, ports
from vzkubelet.model import docker_config, duration, reference
from vzkubelet.model import pod as api
from vzkubelet.model.docker_config import Candidate
from vzkubelet.model.identity import PodRef
from vzkubelet.model.reference import Reference
from vzkubelet.pods.world import World
from vzkubelet.ports import EventType

Progress = Callable[[ports.PullProgress], None]


async def ensure(
    world: World, pod: api.Pod, ref: PodRef, container: api.Container, progress: Progress | None = None
) -> ports.Image:
    """The image, pulled where the policy asks for it, or where the pod must prove that it may use it.

    Raises:
        Error: reason ErrImagePull, ErrImageNeverPull, ImageInspectError or InvalidImageName; events have been recorded.
    """
    return await _Request(world, pod, ref, container, progress).ensure()


async def is_usable(world: World, pod: api.Pod, ref: PodRef, container: api.Container) -> bool:
    """Whether the image is here and the pod may use it as it is. Pulls nothing and never fails."""
    try:
        return await _Request(world, pod, ref, container, None).is_usable()
    except errors.Error:
        return False


def default_policy(image: Reference) -> str:
    """What the API server sets where a pod says nothing."""
    return "Always" if image.tag == reference.DEFAULT_TAG else "IfNotPresent"


class _Request:
    """One container's wish for its image, at one start."""

    def __init__(
        self, world: World, pod: api.Pod, ref: PodRef, container: api.Container, progress: Progress | None
    ) -> None:
        self._world = world
        self._pod = pod
        self._ref = ref
        self._container = container
        self._name = container.image
        self._progress = progress
        self._runtime = world.runtime_of(pod, container.name)
        self._candidates: tuple[Candidate, ...] | None = None

    async def ensure(self) -> ports.Image:
        image = self._parsed()
        policy = self._container.image_pull_policy or default_policy(image)
        present = None if policy == "Always" else await self._present()
        if present is not None and await self._may_use(image, present):
            text = f'Container image "{self._name}" already present on machine and can be accessed by the pod'
            self._event("Pulled", text)
            return present
        if policy == "Never":
            # The same words for an image that is here and not for this pod: its presence is nobody's business.
            text = f'Container image "{self._name}" is not present with pull policy of Never'
            raise self._failure("ErrImageNeverPull", errors.NotFound(text), "ErrImageNeverPull", text)
        try:
            return await self._pulled(image)
        except errors.Error as exc:
            raise self._pull_failure(exc) from exc

    async def is_usable(self) -> bool:
        image = reference.parse(self._name)
        if (self._container.image_pull_policy or default_policy(image)) == "Always":
            return False
        present = await self._runtime.find_image(self._name)
        return present is not None and await self._is_open(image, present)

    def _parsed(self) -> Reference:
        try:
            return reference.parse(self._name)
        except errors.InvalidInput as exc:
            text = f'Failed to apply default image tag "{self._name}": {exc.message}'
            raise self._failure("InvalidImageName", exc, "InspectFailed", text) from exc

    async def _present(self) -> ports.Image | None:
        try:
            return await self._runtime.find_image(self._name)
        except errors.Error as exc:
            text = f'Failed to inspect image "{self._name}": {exc.message}'
            raise self._failure("ImageInspectError", exc, "InspectFailed", text) from exc

    async def _may_use(self, image: Reference, present: ports.Image) -> bool:
        try:
            return await self._is_open(image, present)
        except errors.Error as exc:
            raise self._pull_failure(exc) from exc

    async def _is_open(self, image: Reference, present: ports.Image) -> bool:
        return await self._world.image_access.may_use(
            self._wanted(image), present.image_id, lambda: self._own_candidates(image)
        )

    def _wanted(self, image: Reference) -> ports.WantedImage:
        is_machine = self._runtime is self._world.machines
        kind = ports.ImageKind.MACHINE if is_machine else ports.ImageKind.SIDECAR
        return ports.WantedImage(self._name, image, kind)

    # --- Pull

    async def _pulled(self, image: Reference) -> ports.Image:
        access, clock = self._world.image_access, self._world.clock
        own = await self._own_candidates(image)
        first: Sequence[Candidate | None] = own or await access.node_candidates(image) or (None,)
        async with access.pulling(self._wanted(image)) as recording:
            self._event("Pulling", f'Pulling image "{self._name}"')
            waiting_since = clock.monotonic()
            async with self._slot():
                began = clock.monotonic()
                pulled, used = await self._pull_with(first, image if own else None)
                took = duration.format_go(clock.monotonic() - began)
            await recording.succeeded(pulled.image_id, used)
        with_waiting = duration.format_go(clock.monotonic() - waiting_since)
        text = (
            f'Successfully pulled image "{self._name}" in {took} ({with_waiting} including waiting). '
            f"Image size: {pulled.size_bytes} bytes."
        )
        self._event("Pulled", text)
        return pulled

    def _slot(self) -> AbstractAsyncContextManager[None]:
        """A machine's image takes a whole disk and network; a side-car's waits for nobody."""
        slots = self._world.pull_slots
        return contextlib.nullcontext() if slots is None or self._runtime is not self._world.machines else slots

    async def _pull_with(
        self, first: Sequence[Candidate | None], asks_node: Reference | None
    ) -> tuple[ports.Image, Candidate | None]:
        """With each login in turn until one works; None = anonymously. The node's logins for `asks_node` come last, and
        its helpers and plugins are not waited for where the pod's own login does."""
        faults: list[errors.Error] = []
        tried: set[ports.RegistryCredential] = set()
        waiting = list(first)
        while waiting:
            candidate = waiting.pop(0)
            logins = () if candidate is None else (candidate.login,)
            if tried.isdisjoint(logins):
                tried.update(logins)
                try:
                    return await self._runtime.pull_image(self._name, logins, self._progress), candidate
                except _OF_A_LOGIN as exc:
                    faults.append(exc)
            if not waiting and asks_node is not None:
                waiting += await self._world.image_access.node_candidates(asks_node)
                asks_node = None
        raise _aggregate(faults)

    async def _own_candidates(self, image: Reference) -> tuple[Candidate, ...]:
        """Of the pod's pull secrets; the API server has put those of its service account among them."""
        if self._candidates is None:
            keyring = docker_config.Keyring()
            missing = []
            for wanted in self._pod.spec.image_pull_secrets or []:
                if not wanted.name:  # the API server accepts those
                    continue
                try:
                    keyring.add_secret(await self._world.objects.secret(self._ref.namespace, wanted.name))
                except _OF_AN_OBJECT:
                    missing.append(wanted.name)
            if missing:
                text = (
                    f"Unable to retrieve some image pull secrets ({', '.join(missing)}); "
                    "attempting to pull the image may not succeed."
                )
                self._world.recorder.pod_event(self._ref, EventType.WARNING, "FailedToRetrieveImagePullSecret", text)
            self._candidates = keyring.candidates(image)
        return self._candidates

    # --- What went wrong, in the kubelet's words

    def _pull_failure(self, exc: errors.Error) -> errors.Error:
        text = f'ailed to pull image "{self._name}": {exc.message}'
        return self._failure("ErrImagePull", exc, "Failed", f"F{text}", f"f{text}")

    def _failure(self, reason: str, exc: errors.Error, event: str, text: str, message: str = "") -> errors.Error:
        """The error to raise, told in two events: what went wrong, and that the container does not start for it."""
        self._event(event, text, EventType.WARNING)
        self._event("Failed", f"Error: {reason}", EventType.WARNING)
        return type(exc)(message or text, reason=reason)

    def _event(self, reason: str, text: str, type_: EventType = EventType.NORMAL) -> None:
        self._world.recorder.pod_event(self._ref, type_, reason, text, self._container.name)


_OF_A_LOGIN = (errors.Unauthenticated, errors.Forbidden, errors.NotFound, errors.Unavailable)
"""What may be otherwise with another login: registries hide with "not found" what a login may not see, and token
services fail where they should refuse."""
_OF_AN_OBJECT = (errors.NotFound, errors.Forbidden, errors.Unavailable, errors.DeadlineExceeded)


def _aggregate(faults: Sequence[errors.Error]) -> errors.Error:
    """One error for all logins that were tried; several texts in brackets, as the kubelet aggregates them."""
    texts = list(dict.fromkeys(fault.message for fault in faults))
    last = faults[-1]
    if len(texts) == 1:
        return last
    summary = type(last)(f"[{', '.join(texts)}]", reason=last.reason)
    summary.__cause__ = last
    return summary
