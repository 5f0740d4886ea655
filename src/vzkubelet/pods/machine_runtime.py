"""A container that is a virtual machine: `ports.ContainerRuntime` on top of a machine driver and a guest channel.

The container's process runs in the guest under its supervisor; the machine ends with it. Without a command the
container is the machine itself: it runs until the guest powers off and its log is the console.
"""

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence

import msgspec

from vzkubelet import aio, errors, files, ports
from vzkubelet.model.identity import PodRef
from vzkubelet.pods import container_log, machine_session
from vzkubelet.pods.machine_state import (
    MachineContainer,
    Phase,
    Process,
    combined_argv,
    combined_env,
)
from vzkubelet.podstate import resources


class MachineRuntime:
    """One for the node; a session per pod holds the connection to its guest."""

    def __init__(self, parts: machine_session.Parts) -> None:
        self._parts = parts
        self._sessions: dict[str, machine_session.Session] = {}

    async def find_image(self, reference: str) -> ports.MachineImage | None:
        return await self._parts.images.find(reference)

    async def pull_image(
        self,
        reference: str,
        credentials: Sequence[ports.RegistryCredential],
        progress: Callable[[ports.PullProgress], None] | None = None,
    ) -> ports.MachineImage:
        image = await self._parts.images.pull(reference, credentials, progress)
        self._check_image(image)
        return image

    def _check_image(self, image: ports.MachineImage) -> None:
        if image.platform not in self._parts.driver.platforms:
            runs = " and ".join(map(str, self._parts.driver.platforms))
            raise errors.InvalidInput(
                f"image {image.reference} is for {image.platform}, this node runs {runs} guests",
                reason="ErrImagePull",
            )

    async def prepare(self, spec: ports.ContainerSpec) -> str:
        assert isinstance(spec.image, ports.MachineImage)
        self._check_image(spec.image)
        return await self._session(spec.pod).prepare(spec, spec.image, self._machine_spec(spec, spec.image))

    def _machine_spec(self, spec: ports.ContainerSpec, image: ports.MachineImage) -> ports.MachineSpec:
        limits = self._parts.driver.limits()
        if spec.mounts and not limits.shares:
            raise errors.Unsupported(
                f"driver {self._parts.driver.name} cannot share directories with a guest on this host: remove the "
                "volume mounts, also the service account's (automountServiceAccountToken: false)",
                reason="CreateContainerError",
            )
        for mount in spec.mounts:
            if not mount.source.is_dir():
                raise errors.Unsupported(
                    f"{mount.mount_path}: a single file cannot be mounted into a virtual machine, only a directory",
                    reason="CreateContainerConfigError",
                )
        size = resources.machine_size(
            spec.resources.cpu_request_milli,
            spec.resources.memory_request_bytes,
            max(image.cpu_min, limits.cpu_min),
            max(image.memory_min_bytes, limits.memory_min_bytes),
        )
        shares = tuple(
            ports.Share(f"v{index}", mount.source, mount.read_only) for index, mount in enumerate(spec.mounts)
        )
        return ports.MachineSpec(spec.pod, image, size.cpus, size.memory_bytes, shares)

    async def start(self, spec: ports.ContainerSpec) -> ports.ContainerState:
        assert isinstance(spec.image, ports.MachineImage)
        defaults = spec.image.defaults
        argv = combined_argv(spec, defaults)
        process = None
        if argv:
            process = Process(
                id=f"{spec.name}-{spec.attempt}",
                argv=argv,
                env=combined_env(spec, defaults),
                working_dir=spec.working_dir or defaults.working_dir,
                user=spec.user or defaults.user,
                stdin=spec.stdin,
            )
        return (await self._session(spec.pod).start(spec, process)).observed()

    async def find(self, pod: PodRef, name: str) -> ports.ContainerState | None:
        state = self._load(pod, name)
        if state is None or state.phase is Phase.PREPARING:
            return None
        if state.phase is Phase.RUNNING:
            self._session(pod).adopt(state)
        return state.observed()

    async def wait(self, pod: PodRef, name: str) -> ports.ContainerState:
        while (state := self._begun(pod, name)).phase is not Phase.EXITED:
            session = self._session(pod)
            session.adopt(state)
            await session.ended.wait()
        return state.observed()

    async def network_change(self, pod: PodRef, name: str, known: str) -> str | None:
        if self._begun(pod, name).phase is not Phase.RUNNING:
            return None
        return await self._parts.driver.network_change(pod.uid, known)

    async def stop(self, pod: PodRef, name: str, grace_s: float) -> None:
        state = self._begun(pod, name)
        if state.phase is Phase.RUNNING:
            await self._session(pod).stop(state, grace_s)

    async def remove(self, pod: PodRef, name: str) -> None:
        session = await self._discarded(pod)
        state = self._load(pod, name)
        if state is not None and state.phase is Phase.RUNNING:
            text = "the virtual machine was removed while it ran"
            state = state.exited(machine_session.KILLED, 9, "Error", text, self._parts.clock.time())
            await aio.run_blocking(
                files.write_atomic, self._parts.directories.of(pod.uid).container_file(name), msgspec.json.encode(state)
            )
        if session is not None:
            session.ended.set()

    async def remove_pod(self, pod: PodRef) -> None:
        session = await self._discarded(pod)
        directory = self._parts.directories.of(pod.uid)
        container_log.forget(directory.path)
        await aio.run_blocking(directory.remove)
        if session is not None:
            session.ended.set()

    async def _discarded(self, pod: PodRef) -> machine_session.Session | None:
        """Remove the machine and forget its session, whose waiters the caller wakes."""
        session = self._sessions.pop(pod.uid, None)
        ended_os = "" if session is None else session.running_os
        if session is not None:
            await session.close()
        await self._parts.driver.delete(pod.uid)
        if ended_os:
            self._parts.limit.freed(ended_os)
        return session

    async def pods(self) -> Sequence[str]:
        return await self._parts.driver.machines()

    async def exec(
        self, pod: PodRef, name: str, request: ports.ExecRequest, streams: ports.Streams
    ) -> ports.ExitStatus:
        state = self._running(pod, name)
        guest = await self._session(pod).guest()
        return await guest.exec(request, state.process.port() if state.process else None, streams)

    async def attach(self, pod: PodRef, name: str, tty: bool, streams: ports.Streams) -> None:
        state = self._running(pod, name)
        chunks = streams.stdin()
        feeding = None
        if chunks is not None and state.process is not None and state.process.stdin:
            guest = await self._session(pod).guest()
            feeding = aio.spawn(
                guest.write_stdin(state.process.id, chunks), name=f"stdin of {pod.key}", on_crash=lambda _: None
            )
        try:
            options = ports.LogOptions(follow=True, tail_lines=0)
            async with contextlib.aclosing(self._entries(pod, name, state.attempt, options)) as entries:
                async for entry in entries:
                    data = entry.data if entry.partial else entry.data + b"\n"
                    is_error = entry.stream is ports.OutputStream.STDERR and not tty
                    await (streams.write_stderr(data) if is_error else streams.write_stdout(data))
        finally:
            await aio.cancel(feeding)

    def logs(self, pod: PodRef, name: str, attempt: int, options: ports.LogOptions) -> AsyncIterator[ports.LogEntry]:
        return self._entries(pod, name, attempt, options)

    async def _entries(
        self, pod: PodRef, name: str, attempt: int, options: ports.LogOptions
    ) -> AsyncGenerator[ports.LogEntry, None]:
        def has_ended() -> bool:
            state = self._load(pod, name)
            return state is None or state.attempt != attempt or state.phase is not Phase.RUNNING

        path = self._parts.directories.of(pod.uid).log_file(name, attempt)
        async with contextlib.aclosing(container_log.read(path, options, has_ended)) as entries:
            async for entry in entries:
                yield entry

    async def usage(self, pod: PodRef, name: str) -> ports.ContainerUsage:
        self._running(pod, name)
        used = await self._parts.driver.usage(pod.uid)
        return ports.ContainerUsage(used.cpu_ns, used.memory_bytes, used.disk_bytes, used.sampled_at)

    async def close(self) -> None:
        for session in list(self._sessions.values()):
            await session.close()
        self._sessions.clear()

    def _session(self, pod: PodRef) -> machine_session.Session:
        session = self._sessions.get(pod.uid)
        if session is None:
            session = machine_session.Session(self._parts, pod)
            self._sessions[pod.uid] = session
        return session

    def _load(self, pod: PodRef, name: str) -> MachineContainer | None:
        return machine_session.load(self._parts.directories.of(pod.uid).container_file(name))

    def _begun(self, pod: PodRef, name: str) -> MachineContainer:
        state = self._load(pod, name)
        if state is None or state.phase is Phase.PREPARING:
            raise errors.NotFound(f"container {name} of pod {pod} does not exist")
        return state

    def _running(self, pod: PodRef, name: str) -> MachineContainer:
        state = self._load(pod, name)
        if state is None or state.phase is not Phase.RUNNING:
            raise errors.Conflict(f"container {name} of pod {pod} is not running")
        return state
