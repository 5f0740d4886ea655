"""One pod's worker: asks `podstate.decision` what to do, does it, and turns what comes back into events.

All changes of the record happen in one task, in the order of the events. Slow work (pulls, boots, stops, waits) runs in
tasks of its own that only post events. The record is on disk before anything acts on it, so that a killed daemon's
successor decides the same again.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, assert_never

import msgspec

from vzkubelet import aio, errors, ports
from vzkubelet.model import pod as api
from vzkubelet.model.identity import PodRef
from vzkubelet.pods import observed
from vzkubelet.pods.directory import PodDirectory
from vzkubelet.pods.network_watch import NetworkWatch
from vzkubelet.pods.reporter import Reporter
from vzkubelet.pods.start import ContainerStart
from vzkubelet.pods.world import World
from vzkubelet.podstate import decision, events, record, restored
from vzkubelet.ports import EventType

_log = logging.getLogger(__name__)
RETRY_S = 1.0
RETRY_MAX_S = 30.0


def first_record(pod: api.Pod, now: float) -> record.Pod:
    """The record of a pod that is seen for the first time, or whose state on disk was lost."""
    return restored.record_of(pod, now)


def rejected_record(pod: api.Pod, rejection: record.Rejection) -> record.Pod:
    """The record of a pod that the node does not take: it never starts."""
    return msgspec.structs.replace(restored.record_of(pod, 0.0), start_time=0.0, rejection=rejection)


class Worker:
    """See the module. `on_finished` is called once, when nothing of the pod is left."""

    def __init__(
        self,
        world: World,
        directory: PodDirectory,
        pod: api.Pod,
        known: record.Pod,
        *,
        gate: asyncio.Semaphore,
        resync_s: float,
        on_finished: Callable[[str], None],
    ) -> None:
        self._world = world
        self._directory = directory
        self._known = known
        self._resync_s = resync_s
        self._on_finished = on_finished
        self._queue: asyncio.Queue[events.Event | api.Pod | None] = asyncio.Queue()
        self._volumes: Mapping[str, Path] | None = None
        self._volumes_lock = asyncio.Lock()
        self._volumes_task: asyncio.Task[None] | None = None
        self._starting: dict[str, asyncio.Task[None]] = {}
        self._abandoned: set[str] = set()
        self._stopping: dict[str, float] = {}
        self._stop_tasks: set[asyncio.Task[None]] = set()
        self._waiting: dict[str, asyncio.Task[None]] = {}
        self._released = False
        self._finish_at = 0.0
        self._reporter = Reporter(
            world,
            pod,
            known,
            gate,
            on_gone=lambda: self.post(events.PodVanished()),
            on_terminal=lambda: self._queue.put_nowait(None),
        )

    @property
    def ref(self) -> PodRef:
        return self._known.ref

    @property
    def known(self) -> record.Pod:
        return self._known

    @property
    def is_released(self) -> bool:
        """Whether the pod has ended and its machine, side-cars and volumes are gone."""
        return self._released

    def current(self) -> api.Pod:
        """The pod with its status as of now."""
        return self._reporter.current()

    def post(self, event: events.Event) -> None:
        """Hand in something that happened."""
        self._queue.put_nowait(event)

    def update(self, pod: api.Pod) -> None:
        """Hand in a newer pod from the API server."""
        self._queue.put_nowait(pod)

    async def run(self) -> None:
        """Until nothing of the pod is left. Cancelling lets go of the pod and stops nothing."""
        reporting = aio.spawn(self._reporter.run(), name=f"report {self.ref.key}")
        try:
            await aio.run_blocking(self._directory.save_pod, self._reporter.pod)
            await self._save(self._known)
            await self._adopt()
            finished = False
            while not finished:
                finished = await self._step()
        finally:
            tasks = [*self._starting.values(), *self._waiting.values(), *self._stop_tasks, self._volumes_task]
            await aio.cancel(reporting, *tasks)
        self._on_finished(self.ref.uid)

    # --- One turn -------------------------------------------------------------------------------------------------

    async def _step(self) -> bool:
        """Decide, act, and take what comes next. True when the pod is gone for good."""
        now = self._world.clock.time()
        stopping = dict(self._stopping)
        busy = decision.Busy(self._volumes_task is not None, frozenset(self._starting), stopping)
        decided = decision.decide(self._reporter.pod, self._known, busy, now)
        wake_at = decided.wake_at
        for command in decided.commands:
            if not isinstance(command, decision.FinishPod):
                await self._execute(command)
            elif now < self._finish_at:
                wake_at = self._finish_at
            elif await self._finish():
                return True
            elif self._finish_at > now:
                wake_at = self._finish_at
        await self._take(self._resync_s if wake_at is None else min(self._resync_s, max(wake_at - now, 0.0)))
        return False

    async def _take(self, timeout_s: float) -> None:
        """Wait for something to happen, then take all that has."""
        try:
            async with asyncio.timeout(timeout_s):
                item = await self._queue.get()
        except TimeoutError:
            return
        await self._apply(item)  # beyond the timeout: an event that was taken is never dropped half applied
        while not self._queue.empty():
            await self._apply(self._queue.get_nowait())

    async def _apply(self, item: events.Event | api.Pod | None) -> None:
        match item:
            case None:
                return
            case api.Pod():
                self._reporter.update_pod(item)
                await aio.run_blocking(self._directory.save_pod, self._reporter.pod)
            case _:
                _log.debug("pod %s < %s", self.ref.key, item)
                before = self._known
                await self._save(events.apply(before, item, self._world.clock.time()))
                if isinstance(item, events.ContainerStarted):
                    self._watch(item.container)
                elif isinstance(item, events.ContainerExited) and self._known != before:
                    self._report_exit(item)

    def _report_exit(self, exited: events.ContainerExited) -> None:
        """A process that ends is told by the status alone, as the kubelet does; a machine that failed under it has its
        cause in an event too."""
        ended, container = exited.exit, exited.container
        is_machine = self._reporter.pod.spec.containers[0].name == container
        if is_machine and ended.exit_code and ended.message and ended.reason != "StartError":
            self._world.recorder.pod_event(self.ref, EventType.WARNING, "Failed", f"Error: {ended.message}", container)

    async def _save(self, known: record.Pod) -> None:
        if known != self._known or not self._directory.record_file.exists():
            self._known = known
            await aio.run_blocking(self._directory.save_record, known)
        self._reporter.update_record(known)

    # --- Commands -------------------------------------------------------------------------------------------------

    async def _execute(self, command: decision.Command) -> None:
        _log.debug("pod %s > %s", self.ref.key, command)
        match command:
            case decision.PrepareVolumes():
                self._volumes_task = self._run(self._prepare_volumes(), "volumes", self._forget_volumes_task)
            case decision.StartContainer(container, attempt):
                await self._begin_start(container, attempt)
            case decision.AbandonStart(container):
                if container not in self._abandoned:
                    self._abandoned.add(container)
                    self._starting[container].cancel()
            case decision.StopContainer(container, grace_s):
                self._stop(container, grace_s)
            case decision.ReportBackOff(container, reason, message):
                self._report_back_off(container, reason, message)
            case decision.ExceedDeadline():
                text = "Pod was active on the node longer than the specified deadline"
                self._world.recorder.pod_event(self.ref, EventType.NORMAL, "DeadlineExceeded", text)
                self.post(events.PodRejected("DeadlineExceeded", text))
            case decision.FinishPod():
                raise AssertionError("the caller finishes")
            case _:
                assert_never(command)

    def _run(self, work: Coroutine[Any, Any, None], what: str, forget: Callable[[], object]) -> asyncio.Task[None]:
        """Work whose outcome is posted as events. At its end, even before its first step, it is forgotten and the
        worker woken."""
        task = aio.spawn(work, name=f"{what} {self.ref.key}")

        def ended(_: asyncio.Task[None]) -> None:
            forget()
            self._queue.put_nowait(None)

        task.add_done_callback(ended)
        return task

    def _forget_volumes_task(self) -> None:
        self._volumes_task = None

    async def _prepare_volumes(self) -> None:
        try:
            self._volumes = await self._world.volumes.prepare(self._reporter.pod)
        except errors.Error as exc:
            self._world.recorder.pod_event(self.ref, EventType.WARNING, "FailedMount", exc.message)
            self.post(events.VolumesFailed(exc.message))
        except Exception:
            self.post(events.VolumesFailed("internal error, see the agent's log"))
            raise
        else:
            self.post(events.VolumesPrepared())

    async def _known_volumes(self) -> Mapping[str, Path]:
        async with self._volumes_lock:
            if self._volumes is None:  # after a restart of the daemon the volumes are there, but not known
                self._volumes = await self._world.volumes.prepare(self._reporter.pod)
            return self._volumes

    async def _begin_start(self, container: str, attempt: int) -> None:
        entry = self._known.container(container)
        backed_off = isinstance(entry.state, record.Waiting) and entry.state.reason == "CrashLoopBackOff"
        if backed_off or isinstance(entry.state, record.Terminated):
            await self._apply(events.RestartBegan(container))

        def forget() -> None:
            del self._starting[container]
            self._abandoned.discard(container)

        self._starting[container] = self._run(self._start(container, attempt), f"start {container} of", forget)

    async def _start(self, container: str, attempt: int) -> None:
        try:
            volumes = await self._known_volumes()
            start = ContainerStart(self._world, self._reporter.pod, self._known, self._directory, volumes, self.post)
            await start.run(container, attempt)
        except errors.Error as exc:
            self.post(events.StartFailed(container, "CreateContainerError", exc.message))
        except Exception:
            self.post(events.StartFailed(container, "CreateContainerError", "internal error, see the agent's log"))
            raise

    def _stop(self, container: str, grace_s: float) -> None:
        if container not in self._stopping:
            self._world.recorder.pod_event(
                self.ref, EventType.NORMAL, "Killing", f"Stopping container {container}", container
            )
        self._stopping[container] = self._world.clock.time() + grace_s
        task = self._run(
            self._stop_container(container, grace_s),
            f"stop {container} of",
            lambda: self._stopping.pop(container, None),
        )
        self._stop_tasks.add(task)
        task.add_done_callback(self._stop_tasks.discard)

    async def _stop_container(self, container: str, grace_s: float) -> None:
        runtime = self._world.runtime_of(self._reporter.pod, container)
        try:
            with contextlib.suppress(errors.NotFound):
                await runtime.stop(self.ref, container, grace_s)
            self.post(await self._end_of(container, runtime))
        except errors.Error as exc:
            text = f"error killing container {container}: {exc.message}"
            self._world.recorder.pod_event(self.ref, EventType.WARNING, "FailedKillPod", text, container)
            _log.warning("pod %s: %s; trying again", self.ref.key, text)
            await asyncio.sleep(RETRY_S)
        except Exception:  # noqa: BLE001 - a bug, which must not keep the pod for ever
            _log.exception("pod %s: container %s not stopped, trying again", self.ref.key, container)
            await asyncio.sleep(RETRY_MAX_S)

    def _report_back_off(self, container: str, reason: str, message: str) -> None:
        recorder = self._world.recorder
        if reason == "ImagePullBackOff":
            text = f'Back-off pulling image "{self._known.container(container).image}"'
            recorder.pod_event(self.ref, EventType.NORMAL, "BackOff", text, container)
            recorder.pod_event(self.ref, EventType.WARNING, "Failed", f"Error: {reason}", container)
        else:
            text = f"Back-off restarting failed container {container} in pod {self.ref}"
            recorder.pod_event(self.ref, EventType.WARNING, "BackOff", text, container)
        self.post(events.BackedOff(container, reason, message))

    # --- What runs ------------------------------------------------------------------------------------------------

    async def _adopt(self) -> None:
        """Take over what an earlier daemon started, before anything is decided."""
        pod = self._reporter.pod
        if not self._known.start_time:
            return
        for name in [container.name for container in pod.spec.containers]:
            try:
                state = await self._world.runtime_of(pod, name).find(self.ref, name)
            except errors.Error as exc:
                # A start asks the runtime again and doubles nothing; what runs is asked for until there is an answer.
                _log.warning("pod %s: container %s not looked up: %s", self.ref.key, name, exc)
            else:
                for event in observed.found(state, self._known.container(name), self._known.ip):
                    await self._apply(event)
            if isinstance(self._known.container(name).state, record.Running):
                self._watch(name)

    def _watch(self, container: str) -> None:
        if container not in self._waiting:
            self._waiting[container] = self._run(
                self._wait(container), f"wait for {container} of", lambda: self._waiting.pop(container)
            )

    async def _wait(self, container: str) -> None:
        runtime = self._world.runtime_of(self._reporter.pod, container)
        entry = self._known.container(container)
        caring = NetworkWatch(self._world.recorder, runtime, self.ref, self.post).run(entry)
        network = aio.spawn(caring, name=f"watch the network of {container} of {self.ref.key}")
        try:
            await self._wait_for_end(container, runtime)
        finally:
            await aio.cancel(network)

    async def _wait_for_end(self, container: str, runtime: ports.ContainerRuntime) -> None:
        delay_s = RETRY_S
        while True:
            try:
                self.post(await self._end_of(container, runtime))
            except errors.Error as exc:
                _log.warning("pod %s: waiting for container %s: %s", self.ref.key, container, exc)
            except Exception:  # noqa: BLE001 - a bug, which must not hide the container's end for ever
                _log.exception("pod %s: waiting for container %s failed, trying again", self.ref.key, container)
            else:
                return
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * 2, RETRY_MAX_S)

    async def _end_of(self, container: str, runtime: ports.ContainerRuntime) -> events.ContainerExited:
        try:
            return observed.exited(await runtime.wait(self.ref, container))
        except errors.NotFound:
            return observed.lost(self._known.container(container))

    # --- The end --------------------------------------------------------------------------------------------------

    async def _finish(self) -> bool:
        """Release what the pod holds; if it is being deleted, delete it. True when nothing of it is left."""
        try:
            if not self._released:
                await self._release()
                self._released = True
            if not self._known.vanished:
                deleting = self._reporter.pod.metadata.deletion_timestamp is not None
                if not deleting or not self._reporter.terminal_stored:
                    return False  # the final status goes before the object, so that nobody misses how the pod ended
            await self._remove_pod()
            if not self._known.vanished:
                await self._world.api_server.delete(self.ref)
        except errors.Error as exc:
            _log.warning("pod %s: not released, trying again: %s", self.ref.key, exc)
            self._finish_at = self._world.clock.time() + RETRY_S
            return False
        await aio.run_blocking(self._directory.remove)
        return True

    async def _release(self) -> None:
        """Everything but the logs and the record: until the last status is stored they alone know how the pod ended."""
        pod = self._reporter.pod
        if self._known.start_time:  # a pod that was not admitted has nothing
            for container in pod.spec.containers:
                await self._world.runtime_of(pod, container.name).remove(self.ref, container.name)
        self._reporter.settle()
        await self._world.volumes.remove(self.ref.uid)

    async def _remove_pod(self) -> None:
        if len(self._reporter.pod.spec.containers) > 1 and self._known.start_time:
            await self._world.sidecars.remove_pod(self.ref)
        await self._world.machines.remove_pod(self.ref)
