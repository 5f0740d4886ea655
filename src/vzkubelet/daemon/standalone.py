"""Pods on this machine without a cluster: the same rooms, with the pod's own file in the API server's place.

Each pod has a state root of its own (``<cache>/standalone/<name>``) that one ``run`` process holds by a lock; the other
verbs read it, reach the guest through it, or ask that process to stop.
"""

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from vzkubelet import aio, errors, files, ports
from vzkubelet.aio import SystemClock
from vzkubelet.config import Config
from vzkubelet.daemon.parts import Parts, StateRoot
from vzkubelet.model import pod as api
from vzkubelet.model import timestamp
from vzkubelet.model.identity import PodRef
from vzkubelet.pods import local
from vzkubelet.pods.directory import PodDirectory
from vzkubelet.pods.manifest import Manifest
from vzkubelet.pods.supervisor import Supervisor
from vzkubelet.pods.world import NodeFacts
from vzkubelet.podstate import admission, phase, record, restart
from vzkubelet.wire import log_lines

_log = logging.getLogger(__name__)
STOP_POLL_S = 0.1
NOT_RUN_EXIT_CODE = 1


@dataclass(frozen=True, slots=True)
class LocalPod:
    """A standalone pod as it is on disk."""

    root: StateRoot
    pod: api.Pod
    known: record.Pod


def local_pods(cache_dir: Path) -> list[LocalPod]:
    """All standalone pods of this cache, by name."""
    found = []
    for name in files.children(cache_dir / "standalone"):
        root = StateRoot(cache_dir / "standalone" / name)
        for uid in files.children(root.pods):
            directory = PodDirectory(root.pods / uid)
            try:
                pod, known = directory.load_pod(), directory.load_record()
            except errors.Integrity as exc:
                _log.warning("pod %s is left out: %s", name, exc)
                continue
            if pod is not None and known is not None:
                found.append(LocalPod(root, pod, known))
    return found


def local_pod(cache_dir: Path, name: str) -> LocalPod:
    """Raises NotFound."""
    for found in local_pods(cache_dir):
        if found.pod.metadata.name == name:
            return found
    raise errors.NotFound(f'pod "{name}" does not exist on this machine: `macos-vz-kubelet ps` lists those that do')


async def run(config: Config, manifest: Manifest, write: Callable[[bytes], object]) -> int:
    """Run a pod to its end, its first container's log to `write`; SIGINT and SIGTERM delete it gracefully.

    Returns the exit code of the first container. A pod of that name that an earlier process left running goes on.
    """
    name = manifest.pod.metadata.name
    root = StateRoot(config.cache_dir / "standalone" / name)
    with _held(root, name):
        async with _opened(config, root, manifest) as (parts, supervisor):
            code = await _run_to_end(parts, supervisor, manifest.pod, write)
        files.remove_tree(root.path)
    return code


@contextlib.asynccontextmanager
async def _opened(config: Config, root: StateRoot, manifest: Manifest) -> AsyncIterator[tuple[Parts, Supervisor]]:
    parts = Parts(config, root)
    try:
        limits = parts.driver.limits()
        await parts.open()
    except BaseException:
        await parts.close()
        raise
    facts = NodeFacts("127.0.0.1", limits.cpu_max * 1000, limits.memory_max_bytes)
    world = parts.world(local.LocalObjects(manifest), local.EventPrinter(), local.LocalStatus(), lambda: facts)
    asked = manifest.pod.spec.os.name if manifest.pod.spec.os is not None else ""
    systems = [platform.os for platform in parts.driver.platforms]
    operating_system = asked if asked in systems else systems[0]
    node = admission.Node(
        "localhost",
        operating_system,
        facts.allocatable_cpu_milli,
        facts.allocatable_memory_bytes,
        1,
        {},
        limits.cpu_max,
        limits.memory_max_bytes,
    )
    supervisor = Supervisor(world, parts.directories, lambda: node, workers=1, resync_s=60.0)
    try:
        await supervisor.resume()
        yield parts, supervisor
    finally:
        await supervisor.close()
        await parts.tear_down_network()
        await parts.close()


async def _run_to_end(parts: Parts, supervisor: Supervisor, pod: api.Pod, write: Callable[[bytes], object]) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    supervisor.seen(pod)
    worker = supervisor.find(pod.metadata.namespace, pod.metadata.name)
    printing = aio.spawn(_print_log(parts, worker.ref, pod, lambda: worker.known, write), name="log")
    ended = aio.spawn(_until_terminal(lambda: worker.current().status.phase), name="end of the pod")
    stopping = aio.spawn(stop.wait(), name="stop")
    try:
        await asyncio.wait({ended, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if ended.done():  # however slow the reader of our output is: Ctrl-C ends the wait
            await asyncio.wait({printing, stopping}, return_when=asyncio.FIRST_COMPLETED)
        rejection = worker.known.rejection
        code = _exit_code(worker.known.container(pod.spec.containers[0].name))
        supervisor.seen(_deleted(pod, parts.clock.time()))
        await _until_empty(supervisor, stop, pod.metadata.name)
        if code is None:
            code = _exit_code(worker.known.container(pod.spec.containers[0].name))
    finally:
        await aio.cancel(printing, ended, stopping)
    if rejection is not None:
        raise errors.InvalidInput(rejection.message, reason=rejection.reason)
    return NOT_RUN_EXIT_CODE if code is None else code


async def _until_empty(supervisor: Supervisor, stop: asyncio.Event, name: str) -> None:
    """Until nothing of the pod is left; another signal ends the wait.

    Raises:
        Unavailable: it was ended, and something is left.
    """
    stop.clear()
    emptying = aio.spawn(supervisor.wait_empty(), name="nothing left")
    stopping = aio.spawn(stop.wait(), name="stop waiting")
    try:
        await asyncio.wait({emptying, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not emptying.done():
            raise errors.Unavailable(
                f'pod "{name}" is not released yet: '
                f"`macos-vz-kubelet rm {name}` removes it once what it waits for is back"
            )
    finally:
        await aio.cancel(emptying, stopping)


def _exit_code(entry: record.Container) -> int | None:
    return entry.state.exit_code if isinstance(entry.state, record.Terminated) else None


def _deleted(pod: api.Pod, now: float) -> api.Pod:
    grace_s = pod.spec.termination_grace_period_seconds or 0
    metadata = msgspec.structs.replace(
        pod.metadata,
        deletion_timestamp=timestamp.from_epoch(now + grace_s),
        deletion_grace_period_seconds=grace_s,
    )
    return msgspec.structs.replace(pod, metadata=metadata)


async def _until_terminal(current: Callable[[], str]) -> None:
    while current() not in phase.TERMINAL:  # noqa: ASYNC110 - the worker tells the API server, which is absent here
        await asyncio.sleep(STOP_POLL_S)


async def _print_log(
    parts: Parts, ref: PodRef, pod: api.Pod, known: Callable[[], record.Pod], write: Callable[[bytes], object]
) -> None:
    """The log of every attempt of the first container, in turn, until the pod has ended."""
    name = pod.spec.containers[0].name
    attempt = 0
    while True:
        entry = known().container(name)
        begun = entry.restart_count >= attempt and (
            entry.container_id != "" or not isinstance(entry.state, record.Waiting)
        )
        if begun:
            formatter = log_lines.Formatter()
            with contextlib.suppress(errors.NotFound):
                async for line in parts.machines.logs(ref, name, attempt, ports.LogOptions(follow=True)):
                    write(formatter.format(line))
            attempt += 1
        elif known().rejection is not None or _finished(pod, entry, attempt):
            return
        else:
            await asyncio.sleep(STOP_POLL_S)


def _finished(pod: api.Pod, entry: record.Container, attempt: int) -> bool:
    if not isinstance(entry.state, record.Terminated) or entry.restart_count >= attempt:
        return False
    return not restart.should_restart(pod.spec, pod.spec.containers[0], entry.state.exit_code)


async def execute(
    config: Config, name: str, container: str | None, request: ports.ExecRequest, streams: ports.Streams
) -> int:
    """Run a command in a container of a standalone pod; its exit code."""
    found = local_pod(config.cache_dir, name)
    parts = Parts(config, found.root)
    try:
        target = _container(found, container)
        if target == found.pod.spec.containers[0].name:
            runtime: ports.ContainerRuntime = parts.machines
        else:
            runtime = parts.sidecars
        return (await runtime.exec(found.known.ref, target, request, streams)).code
    finally:
        await parts.close()


async def logs(
    config: Config,
    name: str,
    container: str | None,
    previous: bool,
    options: ports.LogOptions,
    write: Callable[[bytes], object],
) -> None:
    """Print a container's log; with `follow` until it has ended."""
    found = local_pod(config.cache_dir, name)
    target = _container(found, container)
    attempt = found.known.container(target).restart_count - (1 if previous else 0)
    parts = Parts(config, found.root)
    formatter = log_lines.Formatter(timestamps=options.timestamps, limit_bytes=options.limit_bytes)
    try:
        if target == found.pod.spec.containers[0].name:
            entries = parts.machines.logs(found.known.ref, target, attempt, options)
        else:
            entries = parts.sidecars.logs(found.known.ref, target, attempt, options)
        async for entry in entries:
            write(formatter.format(entry))
            if formatter.exhausted:
                return
    finally:
        await parts.close()


def _container(found: LocalPod, name: str | None) -> str:
    names = [container.name for container in found.pod.spec.containers]
    if name is None:
        return names[0]
    if name not in names:
        raise errors.NotFound(
            f'container "{name}" is not in pod "{found.pod.metadata.name}": it has {", ".join(names)}'
        )
    return name


async def remove(config: Config, name: str) -> None:
    """Delete a standalone pod: by the process that runs it where one does, by this one otherwise."""
    found = local_pod(config.cache_dir, name)
    manifest = Manifest(found.pod)
    while True:
        try:
            with found.root.held():
                # Before its worker looks at it: it would start what it finds missing.
                doomed = _deleted(found.pod, SystemClock().time())
                PodDirectory(found.root.pods / doomed.metadata.uid).save_pod(doomed)
                async with _opened(config, found.root, manifest) as (_, supervisor):
                    supervisor.seen(doomed)
                    await supervisor.wait_empty()
                files.remove_tree(found.root.path)
                return
        except errors.AlreadyExists:
            await _ask_owner(found.root)
            if not found.root.path.exists():
                return


async def _ask_owner(root: StateRoot) -> None:
    """Send SIGTERM to the process that runs the pod and wait until it has let go."""
    pid = root.holder()
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    while root.is_held():  # noqa: ASYNC110 - a lock of another process has no event
        await asyncio.sleep(STOP_POLL_S)


@contextlib.contextmanager
def _held(root: StateRoot, name: str) -> Iterator[None]:
    try:
        with root.held():
            yield
    except errors.AlreadyExists as exc:
        raise errors.AlreadyExists(
            f'pod "{name}" is being run by another process: `macos-vz-kubelet rm {name}` stops it'
        ) from exc
