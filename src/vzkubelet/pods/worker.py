"""One pod's worker: asks `podstate.decision` what to do, does it, and turns what comes back into events.

All changes of the record happen in one task, in the order of the events. Slow work (pulls, boots, stops, waits) runs in
tasks of its own that only post events. The record is on disk before anything acts on it, so that a killed daemon's
successor decides the same again.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, assert_never

import msgspec

from vzkubelet import aio, errors, ports
from vzkubelet.model import pod as api
from vzkubelet.model.identity import PodRef
from vzkubelet.pods.directory import PodDirectory
from vzkubelet.pods.reporter import Reporter
from vzkubelet.pods.start import ContainerStart
from vzkubelet.pods.world import World
from vzkubelet.podstate import decision, events, record, status
from vzkubelet.ports import EventType

_log = logging.getLogger(__name__)
DELETE_RETRY_S = 1.0
DELETE_RETRY_MAX_S = 30.0


def first_record(pod: api.Pod, now: float) -> record.Pod:
    """The record of a pod that is seen for the first time."""
    meta = pod.metadata
    containers = tuple(record.Container(c.name, c.image) for c in pod.spec.containers)
    return record.Pod(meta.namespace, meta.name, meta.uid, containers, start_time=float(int(now)))


def rejected_record(pod: api.Pod, rejection: record.Rejection) -> record.Pod:
    """The record of a pod that the node does not take: it never starts."""
    return msgspec.structs.replace(first_record(pod, 0.0), start_time=0.0, rejection=rejection)


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
        self._volumes_task: asyncio.Task[None] | None = None
        self._starting: dict[str, asyncio.Task[None]] = {}
        self._abandoned: set[str] = set()
        self._stopping: dict[str, float] = {}
        self._stop_tasks: set[asyncio.Task[None]] = set()
        self._waiting: dict[str, asyncio.Task[None]] = {}
        self._released = False
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
            await self._adopt()
            await self._save(self._known)
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
        for command in decided.commands:
            if isinstance(command, decision.FinishPod):
                if await self._finish():
                    return True
            else:
                await self._execute(command)
        timeout_s = self._resync_s if decided.wake_at is None else min(self._resync_s, max(decided.wake_at - now, 0.0))
        await self._take(timeout_s)
        return False

    async def _take(self, timeout_s: float) -> None:
        """Wait for something to happen, then take all that has."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._apply(await self._queue.get())
        except TimeoutError:
            return
        while not self._queue.empty():
            await self._apply(self._queue.get_nowait())

    async def _apply(self, item: events.Event | api.Pod | None) -> None:
        match item:
            case None:
                return
            case api.Pod():
                self._reporter.update_pod(item)
                await aio.run_blocking(self._directory.save_pod, item)
            case _:
                _log.debug("pod %s < %s", self.ref.key, item)
                await self._save(events.apply(self._known, item, self._world.clock.time()))
                if isinstance(item, events.ContainerStarted):
                    self._watch(item.container)

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
                self._volumes_task = self._run(self._prepare_volumes(), "volumes")
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
                await self._apply(events.PodRejected("DeadlineExceeded", text))
            case decision.FinishPod():
                raise AssertionError("the caller finishes")
            case _:
                assert_never(command)

    def _run(self, work: Coroutine[Any, Any, None], what: str) -> asyncio.Task[None]:
        """Work whose outcome is posted as events; its end wakes the worker, whatever it was."""
        task = aio.spawn(work, name=f"{what} {self.ref.key}")
        task.add_done_callback(lambda _: self._queue.put_nowait(None))
        return task

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
        finally:
            self._volumes_task = None

    async def _begin_start(self, container: str, attempt: int) -> None:
        entry = self._known.container(container)
        backed_off = isinstance(entry.state, record.Waiting) and entry.state.reason == "CrashLoopBackOff"
        if backed_off or isinstance(entry.state, record.Terminated):
            await self._apply(events.RestartBegan(container))
        self._starting[container] = self._run(self._start(container, attempt), f"start {container} of")

    async def _start(self, container: str, attempt: int) -> None:
        try:
            if self._volumes is None:  # after a restart of the daemon the volumes are there, but not known
                self._volumes = await self._world.volumes.prepare(self._reporter.pod)
            start = ContainerStart(
                self._world, self._reporter.pod, self._known, self._directory, self._volumes, self.post
            )
            await start.run(container, attempt)
        except errors.Error as exc:
            self.post(events.StartFailed(container, "CreateContainerError", exc.message))
        except Exception:
            self.post(events.StartFailed(container, "CreateContainerError", "internal error, see the agent's log"))
            raise
        finally:
            del self._starting[container]
            self._abandoned.discard(container)

    def _stop(self, container: str, grace_s: float) -> None:
        if container not in self._stopping:
            self._world.recorder.pod_event(
                self.ref, EventType.NORMAL, "Killing", f"Stopping container {container}", container
            )
        self._stopping[container] = self._world.clock.time() + grace_s
        task = self._run(self._stop_container(container, grace_s), f"stop {container} of")
        self._stop_tasks.add(task)
        task.add_done_callback(self._stop_tasks.discard)

    async def _stop_container(self, container: str, grace_s: float) -> None:
        runtime = self._world.runtime_of(self._reporter.pod, container)
        try:
            await runtime.stop(self.ref, container, grace_s)
            self._post_exit(await runtime.wait(self.ref, container))
        except errors.NotFound:
            self.post(events.ContainerExited(container, self._known.container(container).attempt, _lost()))
        except errors.Error as exc:
            text = f"error killing container {container}: {exc.message}"
            self._world.recorder.pod_event(self.ref, EventType.WARNING, "FailedKillPod", text, container)
            _log.warning("pod %s: %s; trying again", self.ref.key, text)
            await asyncio.sleep(DELETE_RETRY_S)
        finally:
            self._stopping.pop(container, None)

    def _report_back_off(self, container: str, reason: str, message: str) -> None:
        image = self._known.container(container).image
        if reason == "ImagePullBackOff":
            text, type_ = f'Back-off pulling image "{image}"', EventType.NORMAL
            self._world.recorder.pod_event(self.ref, EventType.WARNING, "Failed", f"Error: {reason}", container)
        else:
            text, type_ = f"Back-off restarting failed container {container} in pod {self.ref}", EventType.WARNING
        self._world.recorder.pod_event(self.ref, type_, "BackOff", text, container)
        self.post(events.BackedOff(container, reason, message))

    # --- What runs ------------------------------------------------------------------------------------------------

    async def _adopt(self) -> None:
        """Take over what an earlier daemon started: running containers are watched, ended ones are told."""
        for container in self._reporter.pod.spec.containers:
            try:
                state = await self._world.runtime_of(self._reporter.pod, container.name).find(self.ref, container.name)
            except errors.Error as exc:
                _log.warning("pod %s: container %s not looked up: %s", self.ref.key, container.name, exc)
                continue
            entry = self._known.container(container.name)
            if state is None:
                if isinstance(entry.state, record.Running):
                    self.post(events.ContainerExited(container.name, entry.attempt, _lost()))
            elif state.phase is ports.ContainerPhase.EXITED:
                self._post_exit(state)
            elif isinstance(entry.state, record.Running) and entry.attempt == state.attempt:
                self._watch(container.name)
            else:
                self.post(
                    events.ContainerStarted(container.name, state.attempt, state.id, state.image_id, state.started_at)
                )
            if state is not None and state.address and not self._known.ip:
                self.post(events.AddressLearned(state.address))

    def _watch(self, container: str) -> None:
        if container not in self._waiting:
            self._waiting[container] = self._run(self._wait(container), f"wait for {container} of")

    async def _wait(self, container: str) -> None:
        runtime = self._world.runtime_of(self._reporter.pod, container)
        delay_s = DELETE_RETRY_S
        try:
            while True:
                try:
                    self._post_exit(await runtime.wait(self.ref, container))
                except errors.NotFound:
                    entry = self._known.container(container)
                    self.post(events.ContainerExited(container, entry.attempt, _lost()))
                except errors.Error as exc:
                    _log.warning("pod %s: waiting for container %s: %s", self.ref.key, container, exc)
                    await asyncio.sleep(delay_s)
                    delay_s = min(delay_s * 2, DELETE_RETRY_MAX_S)
                    continue
                return
        finally:
            self._waiting.pop(container, None)

    def _post_exit(self, state: ports.ContainerState) -> None:
        if state.phase is not ports.ContainerPhase.EXITED:
            return
        ended = record.Terminated(
            exit_code=state.exit.code,
            reason=state.reason or ("Completed" if state.exit.code == 0 else "Error"),
            message=state.message,
            signal=state.exit.signal,
            started_at=state.started_at,
            finished_at=state.finished_at,
            container_id=state.id,
        )
        self.post(events.ContainerExited(state.name, state.attempt, ended, state.image_id))

    # --- The end --------------------------------------------------------------------------------------------------

    async def _finish(self) -> bool:
        """Release what the pod holds; if it is being deleted, delete it. True when nothing of it is left."""
        pod = self._reporter.pod
        deleting = pod.metadata.deletion_timestamp is not None
        try:
            if not self._released:
                await self._release(keep_logs=not (deleting or self._known.vanished))
                self._released = True
            if self._known.vanished:
                await self._forget()
                return True
            if not deleting or not self._reporter.terminal_stored:
                return False  # the final status goes before the object, so that nobody misses how the pod ended
            await self._remove_pod()
            await self._world.api_server.delete(self.ref)
        except errors.Error as exc:
            _log.warning("pod %s: not released, trying again: %s", self.ref.key, exc)
            await self._take(DELETE_RETRY_S)
            return False
        await aio.run_blocking(self._directory.remove)
        return True

    async def _release(self, *, keep_logs: bool) -> None:
        pod = self._reporter.pod
        for container in pod.spec.containers:
            runtime = self._world.runtime_of(pod, container.name)
            await runtime.remove(self.ref, container.name)
        if not keep_logs:
            await self._remove_pod()
        await self._world.volumes.remove(self.ref.uid)

    async def _remove_pod(self) -> None:
        if len(self._reporter.pod.spec.containers) > 1:
            await self._world.sidecars.remove_pod(self.ref)
        await self._world.machines.remove_pod(self.ref)

    async def _forget(self) -> None:
        await self._remove_pod()
        await aio.run_blocking(self._directory.remove)


def _lost() -> record.Terminated:
    return record.Terminated(exit_code=137, reason="ContainerStatusUnknown", message=status.LOST)
