"""Starting one attempt of one container, step by step: image, place, environment, process."""

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from vzkubelet import errors, ports
from vzkubelet.model import pod as api
from vzkubelet.pods import image_policy
from vzkubelet.pods.directory import PodDirectory
from vzkubelet.pods.world import World
from vzkubelet.podstate import environment, events, pull_progress, record, resources
from vzkubelet.ports import EventType

START_ERROR_EXIT_CODE = 128
"""What containerd reports for a process that could not be executed."""

Post = Callable[[events.Event], None]


class ContainerStart:
    """One start. Every outcome is posted as an event; only cancellation leaves `run` with an exception."""

    def __init__(
        self,
        world: World,
        pod: api.Pod,
        known: record.Pod,
        directory: PodDirectory,
        mounts: Mapping[str, Path],
        post: Post,
    ) -> None:
        self._world = world
        self._pod = pod
        self._known = known
        self._directory = directory
        self._volumes = mounts
        self._post = post

    async def run(self, name: str, attempt: int) -> None:
        container = next(c for c in self._pod.spec.containers if c.name == name)
        if self._backs_off(name) and not await image_policy.is_usable(
            self._world, self._pod, self._known.ref, container
        ):
            self._post(events.ImageStillAbsent(name))
            return
        try:
            state = await self._start(container, attempt)
        except errors.Error as exc:
            self._failed(container, attempt, exc)
            return
        self._event(container, "Started", "Container started")
        self._post(events.ContainerStarted(name, attempt, state.id, state.image_id, state.started_at))

    def _backs_off(self, name: str) -> bool:
        entry = self._known.container(name)
        waits = isinstance(entry.state, record.Waiting) and entry.state.reason == "ImagePullBackOff"
        return waits and self._world.clock.time() < entry.retry_at

    async def _start(self, container: api.Container, attempt: int) -> ports.ContainerState:
        runtime = self._world.runtime_of(self._pod, container.name)
        image = await image_policy.ensure(
            self._world, self._pod, self._known.ref, container, self._pull_listener(container)
        )
        self._post(events.ImageReady(container.name, image.image_id))
        spec = self._spec(container, attempt, image, ())
        await self._require_objects(container)
        address = await runtime.prepare(spec)
        if address:
            self._post(events.AddressLearned(address))
        variables = await self._environment(container, address or self._known.ip)
        self._event(container, "Created", "Container created")
        return await runtime.start(self._spec(container, attempt, image, variables))

    def _pull_listener(self, container: api.Container) -> Callable[[ports.PullProgress], None]:
        clock = self._world.clock
        pull = pull_progress.PullProgress(clock.monotonic())

        def heard(progress: ports.PullProgress) -> None:
            telling = pull.heard(progress.done_bytes, progress.total_bytes, clock.monotonic(), progress.stage)
            if telling is not None:
                self._post(events.PullProgressed(container.name, telling.message))
                if telling.event:
                    self._event(container, "Pulling", telling.message)

        return heard

    async def _require_objects(self, container: api.Container) -> None:
        """A missing secret is told before a machine is booted for nothing."""
        await self._environment(container, self._known.ip)

    async def _environment(self, container: api.Container, pod_ip: str) -> tuple[tuple[str, str], ...]:
        namespace, source = self._pod.metadata.namespace, self._world.objects
        names = environment.references(container)
        node = self._world.node()
        facts = environment.Facts(
            secrets=await _present(source.secret, namespace, names.secrets),
            config_maps=await _present(source.config_map, namespace, names.config_maps),
            services=await source.services(namespace),
            pod_ip=pod_ip,
            host_ip=node.ip,
            allocatable_cpu_milli=node.allocatable_cpu_milli,
            allocatable_memory_bytes=node.allocatable_memory_bytes,
        )
        return environment.resolve(self._pod, container, facts)

    def _spec(
        self, container: api.Container, attempt: int, image: ports.Image, variables: tuple[tuple[str, str], ...]
    ) -> ports.ContainerSpec:
        parsed = resources.container_resources(container)
        return ports.ContainerSpec(
            pod=self._known.ref,
            name=container.name,
            attempt=attempt,
            image=image,
            command=environment.expand_all(container.command or None, variables),
            args=environment.expand_all(container.args or None, variables),
            env=variables,
            working_dir=container.working_dir,
            user=_user(self._pod, container),
            hostname=self._pod.spec.hostname or self._pod.metadata.name,
            stdin=container.stdin,
            stdin_once=container.stdin_once,
            tty=container.tty,
            mounts=self._mounts(container),
            resources=ports.ContainerResources(
                parsed.cpu_request_milli, parsed.cpu_limit_milli, parsed.memory_request_bytes, parsed.memory_limit_bytes
            ),
            security=_security(self._pod, container),
            log_path=self._directory.log_file(container.name, attempt),
        )

    def _mounts(self, container: api.Container) -> tuple[ports.ContainerMount, ...]:
        mounts = []
        written = {volume.name for volume in self._pod.spec.volumes or [] if _is_written_by_node(volume)}
        for mount in container.volume_mounts or []:
            source = self._volumes[mount.name]
            if mount.sub_path_expr:
                text = f'subPathExpr of volume "{mount.name}" is not supported by this node: use subPath'
                raise errors.Unsupported(text, reason=environment.CONFIG_ERROR)
            if mount.sub_path:
                source = _below(source, mount, is_written_by_node=mount.name in written)
            read_only = mount.read_only or mount.name in written
            mounts.append(ports.ContainerMount(mount.name, source, mount.mount_path, read_only))
        return tuple(mounts)

    def _failed(self, container: api.Container, attempt: int, exc: errors.Error) -> None:
        if exc.reason == "StartError":
            self._event(container, "Failed", f"Error: {exc.message}", EventType.WARNING)
            now = self._world.clock.time()
            ended = record.Terminated(START_ERROR_EXIT_CODE, "StartError", exc.message, 0, now, now)
            self._post(events.ContainerExited(container.name, attempt, ended))
            return
        reason = exc.reason if exc.reason in _WAITING_REASONS else "CreateContainerError"
        if reason == errors.MACHINE_LIMIT_REASON:
            self._event(container, reason, exc.message, EventType.WARNING)
        elif not events.is_pull_reason(reason):
            self._event(container, "Failed", f"Error: {exc.message}", EventType.WARNING)
        self._post(events.StartFailed(container.name, reason, exc.message))

    def _event(self, container: api.Container, reason: str, text: str, type_: EventType = EventType.NORMAL) -> None:
        self._world.recorder.pod_event(self._known.ref, type_, reason, text, container.name)


_WAITING_REASONS = frozenset(
    {
        "ErrImagePull",
        "ErrImageNeverPull",
        "ImageInspectError",
        "InvalidImageName",
        "CreateContainerConfigError",
        "CreateContainerError",
        "CreatePodSandboxError",
        "RunContainerError",
        errors.MACHINE_LIMIT_REASON,
    }
)


async def _present(
    read: Callable[[str, str], Awaitable[environment.T]], namespace: str, names: frozenset[str]
) -> dict[str, environment.T]:
    found = {}
    for name in sorted(names):
        try:
            found[name] = await read(namespace, name)
        except errors.NotFound:
            continue  # whether that matters is for the environment's rules to say
        except errors.Error as exc:
            raise type(exc)(exc.message, reason=environment.CONFIG_ERROR) from exc
    return found


def _is_written_by_node(volume: api.Volume) -> bool:
    """The kubelet mounts what it writes itself read-only, whatever the mount says."""
    sources = (volume.config_map, volume.secret, volume.projected, volume.downward_api)
    return any(source is not None for source in sources)


def _below(volume: Path, mount: api.VolumeMount, *, is_written_by_node: bool) -> Path:
    """A subPath, kept inside its volume.

    Only where the node alone writes: in a volume that a container writes, the path could become a link out of it
    between this look and the mount (as in CVE-2017-1002101).
    """
    parts = Path(mount.sub_path).parts
    if not is_written_by_node:
        text = (
            f'subPath "{mount.sub_path}" of volume "{mount.name}" is not supported by this node: it is offered for '
            "configMap, secret, projected and downwardAPI volumes only; mount the whole volume"
        )
        raise errors.Unsupported(text, reason=environment.CONFIG_ERROR)
    if Path(mount.sub_path).is_absolute() or ".." in parts:
        text = f'subPath "{mount.sub_path}" of volume "{mount.name}" must be relative and stay inside the volume'
        raise errors.InvalidInput(text, reason=environment.CONFIG_ERROR)
    source = volume.joinpath(*parts)
    if not source.exists():
        text = f'subPath "{mount.sub_path}" of volume "{mount.name}" does not exist'
        raise errors.NotFound(text, reason=environment.CONFIG_ERROR)
    return source


def _security(pod: api.Pod, container: api.Container) -> ports.ContainerSecurity:
    own, shared = container.security_context or api.SecurityContext(), pod.spec.security_context
    capabilities = own.capabilities or api.Capabilities()
    groups = list(shared.supplemental_groups or []) if shared else []
    if shared and shared.fs_group is not None:
        groups.append(shared.fs_group)
    return ports.ContainerSecurity(
        read_only_root=bool(own.read_only_root_filesystem),
        privileged=bool(own.privileged),
        allow_privilege_escalation=own.allow_privilege_escalation is not False,
        capabilities_add=tuple(capabilities.add or ()),
        capabilities_drop=tuple(capabilities.drop or ()),
        supplemental_groups=tuple(dict.fromkeys(groups)),
    )


def _user(pod: api.Pod, container: api.Container) -> str:
    own, shared = container.security_context, pod.spec.security_context
    user = own.run_as_user if own and own.run_as_user is not None else shared.run_as_user if shared else None
    non_root = own.run_as_non_root if own and own.run_as_non_root is not None else shared and shared.run_as_non_root
    if non_root and not user:
        # What user the image names may be root by another name, so only a number is believed.
        where = f"(pod: {pod.key}, container: {container.name})"
        text = f"container has runAsNonRoot and may run as root: set runAsUser to a number above 0 {where}"
        raise errors.InvalidInput(text, reason=environment.CONFIG_ERROR)
    group = own.run_as_group if own and own.run_as_group is not None else shared.run_as_group if shared else None
    if user is None:
        return "" if group is None else f"0:{group}"
    return str(user) if group is None else f"{user}:{group}"
