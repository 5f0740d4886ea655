"""The node agent of a cluster: everything joined, started in order, and let go of in the reverse one."""

import asyncio
import contextlib
import dataclasses
import logging
import signal
from collections.abc import Callable

import yarl

from vzkubelet import __version__, aio, config, errors
from vzkubelet.config import Config
from vzkubelet.daemon import inputs
from vzkubelet.daemon.backend import NodeBackend
from vzkubelet.daemon.node_images import NodeImages
from vzkubelet.daemon.parts import Parts, StateRoot
from vzkubelet.kube import credentials, kubeconfig, paths
from vzkubelet.kube.client import Client
from vzkubelet.kube.events import EventRecorder
from vzkubelet.kube.objects import KubeObjects
from vzkubelet.kube.pod_status import PodStatus
from vzkubelet.kube.reflector import Added, Deleted, Delta, Modified, Reflector, Synced
from vzkubelet.kube.reviews import Reviews
from vzkubelet.model.pod import Pod
from vzkubelet.node import facts, identity
from vzkubelet.node.controller import NodeController
from vzkubelet.pods.supervisor import Supervisor
from vzkubelet.pods.view import PodsView
from vzkubelet.pods.world import NodeFacts
from vzkubelet.podstate import admission
from vzkubelet.server.listener import Listener

_log = logging.getLogger(__name__)
NODE_STATE = "node"
"""Directory of the agent's own state in the cache; images are beside it."""


def run(settings: Config) -> int:
    """Until SIGTERM or SIGINT; what runs in pods goes on without us. The exit code.

    Raises:
        InvalidInput: files that cannot be used, before anything of the host is touched.
    """
    inputs.require(settings)
    return asyncio.run(_run(settings))


async def _run(settings: Config) -> int:
    root = StateRoot(settings.cache_dir / NODE_STATE)
    stop = asyncio.Event()
    crash: list[BaseException] = []

    def crashed(exc: BaseException) -> None:
        crash.append(exc)
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    with root.held():
        async with contextlib.AsyncExitStack() as closing:
            controller = await _start(settings, root, closing, crashed)
            await _until(stop, controller, settings.node.startup_timeout_s)
            _log.info("stopping; machines and side-cars go on")
    if crash:
        raise errors.Unavailable(f"the agent failed: {crash[0]}") from crash[0]
    return 0


async def _start(
    settings: Config,
    root: StateRoot,
    closing: contextlib.AsyncExitStack,
    crashed: Callable[[BaseException], None],
) -> NodeController:
    """Join the rooms and start them: first what runs here is taken over, then the API server is told of it."""
    parts = Parts(settings, root, evicts_images=True)
    closing.push_async_callback(parts.close)
    await aio.run_blocking(parts.driver.limits)  # a host that cannot run machines is told first
    client = await _connected(settings)
    closing.push_async_callback(client.close)
    await parts.open()
    try:
        return await _joined(settings, parts, client, closing, crashed)
    except errors.Error:
        await parts.tear_down_network()  # a start that fails leaves nothing behind
        raise


async def _joined(
    settings: Config,
    parts: Parts,
    client: Client,
    closing: contextlib.AsyncExitStack,
    crashed: Callable[[BaseException], None],
) -> NodeController:
    node = _identity(settings, parts, client)
    recorder = EventRecorder(client, node.name)
    objects = KubeObjects(client)
    supervisor = _supervisor(settings, parts, objects, recorder, PodStatus(client), node)
    closing.push_async_callback(supervisor.close)
    view = PodsView(supervisor.world, supervisor)
    backend = NodeBackend(view, node.name, node.host, settings.cache_dir, node.address)
    listener = Listener(settings.server, node.name, backend, Reviews(client))
    await listener.start()
    closing.push_async_callback(listener.close)
    recorder.start()
    closing.push_async_callback(recorder.close)

    node = dataclasses.replace(node, port=listener.port)
    node_images = NodeImages(settings, parts, recorder, supervisor.workers)
    closing.push_async_callback(node_images.close)
    controller = NodeController(
        client,
        recorder,
        node,
        lambda: facts.read(settings.cache_dir),
        backend.faults,
        machine_limit=(lambda: parts.limit.message) if parts.driver.limits().slots is not None else lambda: None,
        images=node_images.inventory.listed,
    )
    parts.limit.on_change = node_images.inventory.on_change = controller.refresh
    await supervisor.resume()  # before images are collected: it knows which ones are in use
    reflector = _pod_reflector(client, node.name, supervisor, objects, closing)
    for name, work in (("node", controller.run()), ("pods", reflector.run()), ("images", node_images.run())):
        closing.push_async_callback(aio.cancel, aio.spawn(work, name=name, on_crash=crashed))
    return controller


async def _connected(settings: Config) -> Client:
    """Raises InvalidInput: an unusable kubeconfig, or one that is not this node's."""
    access = kubeconfig.load(settings.kube.kubeconfig)
    client = Client(credentials.Credentials(access, environment=config.process_environment()))
    try:
        identity.require_own_user(await Reviews(client).own_name(), settings.node.name)
    except (errors.Unavailable, errors.DeadlineExceeded) as exc:
        _log.warning("the API server cannot say whether this is node %s's credential: %s", settings.node.name, exc)
    except BaseException:
        await client.close()
        raise
    return client


def _identity(settings: Config, parts: Parts, client: Client) -> identity.Identity:
    return identity.from_settings(
        settings.node,
        facts.host(),
        address=settings.node.ip or _own_address(client.server),
        port=settings.server.port,
        runtime_version=f"{parts.driver.name}://{__version__}",
        slots=parts.driver.limits().slots,
    )


def _own_address(server: str) -> str:
    url = yarl.URL(server)
    return facts.route_address(url.host or "", url.port or 443)


def _supervisor(
    settings: Config,
    parts: Parts,
    objects: KubeObjects,
    recorder: EventRecorder,
    api_server: PodStatus,
    node: identity.Identity,
) -> Supervisor:
    limits = parts.driver.limits()
    known = NodeFacts(
        node.address,
        node.cpu_milli or node.host.cpus * 1000,
        node.memory_bytes or node.host.memory_bytes,
    )
    admitting = admission.Node(
        name=node.name,
        operating_system=node.host.operating_system,
        cpu_milli=known.allocatable_cpu_milli,
        memory_bytes=known.allocatable_memory_bytes,
        pods=node.max_pods or identity.DEFAULT_MAX_PODS,
        labels=identity.labels(node),
        machine_cpu_max=max(limits.cpu_max, known.allocatable_cpu_milli // 1000),
        machine_memory_max_bytes=limits.memory_max_bytes,
        macos_guests=limits.slots,
        guest_os=parts.images.system_of,
    )
    world = parts.world(objects, recorder, api_server, lambda: known)
    return Supervisor(
        world, parts.directories, lambda: admitting, workers=settings.pods.workers, resync_s=settings.pods.resync_s
    )


def _pod_reflector(
    client: Client,
    node_name: str,
    supervisor: Supervisor,
    objects: KubeObjects,
    closing: contextlib.AsyncExitStack,
) -> Reflector[Pod]:
    orphans: list[asyncio.Task[None]] = []

    def on_delta(delta: Delta[Pod]) -> None:
        match delta:
            case Added(pod):
                objects.pod_bound(pod.metadata.namespace)
                supervisor.seen(pod)
            case Modified(pod):
                supervisor.seen(pod)
            case Deleted(pod):
                supervisor.gone(pod.metadata.uid)
            case Synced():
                uids = [*reflector.objects, *reflector.undecodable]
                orphans.append(aio.spawn(supervisor.synced(uids), name="orphans"))
                closing.push_async_callback(aio.cancel, orphans[-1])

    reflector = Reflector(client, paths.PODS, Pod, on_delta, field_selector=f"spec.nodeName={node_name}")
    return reflector


async def _until(stop: asyncio.Event, controller: NodeController, startup_timeout_s: float) -> None:
    """Run until told to stop. Raises DeadlineExceeded when the node is not Ready in time, where a time is set."""
    stopping = aio.spawn(stop.wait(), name="stop")
    ready = aio.spawn(controller.wait_ready(), name="node ready")
    try:
        timeout_s = startup_timeout_s or None
        await asyncio.wait({stopping, ready}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if not ready.done() and not stop.is_set():
            raise errors.DeadlineExceeded(f"the node was not Ready within {startup_timeout_s:g} s (--startup-timeout)")
        if ready.done():
            _log.info("node is ready")
        await stopping
    finally:
        await aio.cancel(stopping, ready)
