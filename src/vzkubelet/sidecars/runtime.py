"""`ports.ContainerRuntime` on a Docker engine."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence

from vzkubelet import aio, errors, ports
from vzkubelet.model.identity import PodRef
from vzkubelet.model.node import ContainerImage
from vzkubelet.sidecars import containers, images, logs, naming, network, objects, sandbox, sessions
from vzkubelet.sidecars.engine import Engine
from vzkubelet.sidecars.naming import Known
from vzkubelet.sidecars.stats import UsageReader

_log = logging.getLogger(__name__)
_RETRY_S = 0.5
_RETRY_MAX_S = 30.0
_KILL_DEADLINE_S = 60.0
"""A killed process that is still there then hangs in the kernel; the caller tries again."""
_LOGS_KEPT = 2
"""Ended attempts of a container that are kept for their logs: the current one and the one before it."""
_DEFAULT_STOP_SIGNAL = "SIGTERM"


class Sidecars:
    """See `ports.ContainerRuntime`.

    `owner` tells this node's containers from those of other nodes on the same engine and must stay the same over
    restarts. `network` is what the machine driver offers; without it side-cars are on the engine's own bridge.
    """

    def __init__(self, docker_host: str, network: ports.HostNetwork | None, owner: str) -> None:
        self._engine = Engine(docker_host)
        self._network = network
        self._owner = owner
        self._usage = UsageReader(self._engine)
        self._locks: dict[str, asyncio.Lock] = {}
        self._asked_to_stop: set[str] = set()

    async def find_image(self, reference: str) -> ports.Image | None:
        return await images.find(self._engine, reference)

    async def pull_image(
        self,
        reference: str,
        credentials: Sequence[ports.RegistryCredential],
        progress: Callable[[ports.PullProgress], None] | None = None,
    ) -> ports.Image:
        return await images.pull(self._engine, reference, credentials)  # the engine counts by layer: no progress

    async def listed_images(self) -> list[ContainerImage]:
        """Of the whole engine, whoever pulled them."""
        return await images.listed(self._engine)

    async def prepare(self, spec: ports.ContainerSpec) -> str:
        async with self._lock(spec.pod):
            with _failing_as("CreatePodSandboxError", f"sandbox of pod {spec.pod}"):
                present = await self._list(spec.pod.uid)
                await self._ensure_sandbox(spec, present)
                earlier = [k for k in _attempts(present, spec.name) if k.attempt < spec.attempt]
                await self._delete(earlier[_LOGS_KEPT - 1 :])
        return ""

    async def start(self, spec: ports.ContainerSpec) -> ports.ContainerState:
        async with self._lock(spec.pod):
            with _failing_as("CreateContainerError", f"container {spec.name}"):
                present = await self._list(spec.pod.uid)
                same = [known for known in _attempts(present, spec.name) if known.attempt == spec.attempt]
                started = [known for known in same if containers.was_started(known.status)]
                if started:
                    return await self._observe(started[0].id)
                await self._delete(same)
                sandbox_id = await self._ensure_sandbox(spec, present)
                container_id = await aio.uninterrupted(self._launch(spec, sandbox_id), name=f"start {spec.name}")
                return await self._observe(container_id)

    async def find(self, pod: PodRef, name: str) -> ports.ContainerState | None:
        newest = await self._newest(pod, name)
        if newest is None:
            return None
        try:
            return await self._observe(newest.id)
        except errors.NotFound:
            return None

    async def wait(self, pod: PodRef, name: str) -> ports.ContainerState:
        return await self._ended((await self._require(pod, name)).id)

    async def network_change(self, pod: PodRef, name: str, known: str) -> str | None:
        return None

    async def stop(self, pod: PodRef, name: str, grace_s: float) -> None:
        container_id = (await self._require(pod, name)).id
        try:
            async with asyncio.timeout(max(grace_s, 0.0)):
                await self._ask_to_stop(container_id)
                await self._ended(container_id)
                return
        except TimeoutError:
            _log.info("container %s of pod %s did not stop in %.1f s and is killed", name, pod.key, grace_s)
        finally:
            self._asked_to_stop.discard(container_id)
        await self._kill(container_id)

    async def remove(self, pod: PodRef, name: str) -> None:
        async with self._lock(pod):
            present = await self._list(pod.uid)
            ended = []
            for known in _attempts(present, name):
                if not containers.was_started(known.status):
                    await self._delete([known])
                    continue
                if not containers.has_ended(known.status):
                    await self._kill(known.id)
                ended.append(known)
            await self._delete(ended[_LOGS_KEPT:])
            others = [known for known in present if known.name != name and not known.is_sandbox]
            if all(containers.has_ended(known.status) for known in others):
                await self._delete([known for known in present if known.is_sandbox])

    async def remove_pod(self, pod: PodRef) -> None:
        async with self._lock(pod):
            present = await self._list(pod.uid)
            await self._delete(sorted(present, key=lambda known: known.is_sandbox))
            if present and await self._list(pod.uid):
                raise errors.Unavailable(f"containers of pod {pod} are still being removed by the Docker engine")
        self._locks.pop(pod.uid, None)

    async def pods(self) -> Sequence[str]:
        return sorted({known.uid for known in await self._list(None)})

    async def exec(
        self, pod: PodRef, name: str, request: ports.ExecRequest, streams: ports.Streams
    ) -> ports.ExitStatus:
        return await sessions.run(self._engine, await self._running(pod, name), request, streams)

    async def attach(self, pod: PodRef, name: str, tty: bool, streams: ports.Streams) -> None:
        await sessions.attach(self._engine, await self._running(pod, name), tty, streams)

    async def logs(
        self, pod: PodRef, name: str, attempt: int, options: ports.LogOptions
    ) -> AsyncIterator[ports.LogEntry]:
        for known in _attempts(await self._list(pod.uid), name):
            if known.attempt == attempt and containers.was_started(known.status):
                async with contextlib.aclosing(logs.read(self._engine, known.id, options)) as entries:
                    async for entry in entries:
                        yield entry
                return
        raise errors.NotFound(f"container {name} of pod {pod} has no log of attempt {attempt}")

    async def usage(self, pod: PodRef, name: str) -> ports.ContainerUsage:
        return await self._usage.read(await self._running(pod, name))

    async def sandbox_address(self, pod: PodRef) -> str:
        """The address that the pod's side-cars share, which probes of theirs go to; empty when there is none."""
        for known in await self._list(pod.uid):
            if known.is_sandbox and known.status == "running":
                return await sandbox.address(self._engine, known.id)
        return ""

    async def tear_down(self) -> None:
        """Give back the network on the machines' bridge. Raises Conflict while containers are on it."""
        if self._network is not None:
            await network.remove_network(self._engine, self._network)

    async def close(self) -> None:
        await self._engine.close()

    # --- What the engine knows ------------------------------------------------------------------------------------

    async def _list(self, uid: str | None) -> list[Known]:
        listed = await self._engine.get(
            "containers/json",
            list[objects.ListedContainer],
            all="true",
            filters=naming.label_filter(self._owner, uid),
        )
        return [naming.known(entry) for entry in listed]

    async def _newest(self, pod: PodRef, name: str) -> Known | None:
        started = [k for k in _attempts(await self._list(pod.uid), name) if containers.was_started(k.status)]
        return started[0] if started else None

    async def _require(self, pod: PodRef, name: str) -> Known:
        newest = await self._newest(pod, name)
        if newest is None:
            raise errors.NotFound(f"container {name} of pod {pod} does not exist")
        return newest

    async def _running(self, pod: PodRef, name: str) -> str:
        newest = await self._require(pod, name)
        if newest.status != "running":
            raise errors.Conflict(f"container {name} of pod {pod} is not running")
        return newest.id

    async def _observe(self, container_id: str) -> ports.ContainerState:
        return containers.observed(await self._engine.get(f"containers/{container_id}/json", objects.Container))

    # --- What is done to it -----------------------------------------------------------------------------------------

    async def _ensure_sandbox(self, spec: ports.ContainerSpec, present: Sequence[Known]) -> str:
        # Not cancelled half way: the engine would go on and make what the next listing does not show yet.
        making = sandbox.ensure(self._engine, self._owner, self._network, spec, present)
        return await aio.uninterrupted(making, name=f"sandbox of {spec.pod.key}")

    async def _launch(self, spec: ports.ContainerSpec, sandbox_id: str) -> str:
        """Create and start a container; one that cannot start is removed."""
        config = containers.sidecar_config(spec, self._owner, sandbox_id)
        name = naming.docker_name(spec.pod, spec.name, spec.attempt)
        created = await self._engine.post("containers/create", objects.Created, config, name=name)
        try:
            await self._engine.command(f"containers/{created.id}/start")
        except errors.Error as exc:
            fault = containers.start_fault(exc)
            with contextlib.suppress(errors.Error):  # the next start or removal finds what is left
                await self._engine.delete(f"containers/{created.id}", force="true", v="true")
            raise fault from exc
        return created.id

    async def _ended(self, container_id: str) -> ports.ContainerState:
        """Wait for the end, as long as it takes, whatever the engine does meanwhile.

        Raises:
            NotFound: somebody removed the container.
        """
        delay_s = _RETRY_S
        while True:
            try:
                await self._engine.wait_until_stopped(container_id)
                state = await self._observe(container_id)
                if state.phase is ports.ContainerPhase.EXITED:
                    self._usage.forget(container_id)
                    return state
            except (errors.Unavailable, errors.DeadlineExceeded) as exc:
                _log.warning("waiting for container %.12s: %s; trying again in %.1f s", container_id, exc, delay_s)
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * 2, _RETRY_MAX_S)

    async def _ask_to_stop(self, container_id: str) -> None:
        """The image's stop signal, once however many calls wait for the end."""
        if container_id in self._asked_to_stop:
            return
        self._asked_to_stop.add(container_id)
        found = await self._engine.get(f"containers/{container_id}/json", objects.Container)
        signal = found.config.stop_signal or _DEFAULT_STOP_SIGNAL
        with contextlib.suppress(errors.Conflict):  # it has ended
            await self._engine.command(f"containers/{container_id}/kill", signal=signal)

    async def _kill(self, container_id: str) -> None:
        with contextlib.suppress(errors.Conflict):
            await self._engine.command(f"containers/{container_id}/kill", signal="SIGKILL")
        try:
            async with asyncio.timeout(_KILL_DEADLINE_S):
                await self._ended(container_id)
        except TimeoutError as exc:
            text = f"container {container_id[:12]} was killed and is still there after {_KILL_DEADLINE_S:.0f} s"
            raise errors.DeadlineExceeded(text) from exc

    async def _delete(self, doomed: Sequence[Known]) -> None:
        for known in doomed:
            with contextlib.suppress(errors.Conflict):  # its removal is in progress already
                await self._engine.delete(f"containers/{known.id}", force="true", v="true")
            self._usage.forget(known.id)

    def _lock(self, pod: PodRef) -> asyncio.Lock:
        """One change of a pod's containers at a time: two side-cars must not make two sandboxes."""
        return self._locks.setdefault(pod.uid, asyncio.Lock())


def _attempts(present: Sequence[Known], name: str) -> list[Known]:
    """The attempts of one side-car, newest first."""
    own = [known for known in present if known.name == name and not known.is_sandbox]
    return sorted(own, key=lambda known: known.attempt, reverse=True)


@contextlib.contextmanager
def _failing_as(reason: str, what: str) -> Iterator[None]:
    """Give errors the reason of the step, unless they have a reason of a container's start already."""
    try:
        yield
    except errors.Error as exc:
        if exc.reason in containers.START_REASONS:
            raise
        raise type(exc)(f"{what}: {exc.message}", reason=reason) from exc
