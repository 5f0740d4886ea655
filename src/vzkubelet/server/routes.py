"""The paths of the API and what answers them. Authentication and authorization come before any path is looked up."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
from aiohttp import web

from vzkubelet import errors
from vzkubelet.aio import Clock
from vzkubelet.model.pod import Pod
from vzkubelet.model.stats import only_cpu_and_memory
from vzkubelet.ports import ExecRequest, Streams
from vzkubelet.server import container_logs, handshake
from vzkubelet.server.backend import Backend
from vzkubelet.server.remote_session import RemoteSession
from vzkubelet.server.upgrade import switch_protocols
from vzkubelet.wire import remote_command

_log = logging.getLogger(__name__)

_NAMES: Final = "/{namespace}/{pod}/{container}"
_NAMES_UID: Final = "/{namespace}/{pod}/{uid}/{container}"


def error_response(exc: errors.Error) -> web.Response:
    """Errors to HTTP by their attributes; the body is plain text, as the kubelet's."""
    return web.Response(status=exc.http_status, text=str(exc))


@dataclass(frozen=True, slots=True)
class _Target:
    namespace: str
    pod: Pod
    uid: str | None
    container: str


class Routes:
    """Handlers of one server. `stop_sessions` ends what still streams."""

    def __init__(self, backend: Backend, clock: Clock) -> None:
        self._backend = backend
        self._clock = clock
        self._sessions: set[RemoteSession] = set()
        self._log_readers: set[asyncio.Task[object]] = set()
        self._stopping = False

    def add_to(self, router: web.UrlDispatcher) -> None:
        for names in (_NAMES, _NAMES_UID):
            for method in ("GET", "POST"):
                router.add_route(method, f"/exec{names}", self._exec)
                router.add_route(method, f"/attach{names}", self._attach)
        for path, handler in (
            (f"/containerLogs{_NAMES}", self._container_logs),
            ("/pods", self._pods),
            ("/pods/", self._pods),
            ("/stats/summary", self._summary),
            ("/healthz", self._healthz),
            ("/healthz/ping", self._ping),
            ("/healthz/syncloop", self._healthz),
        ):
            router.add_route("GET", path, handler)

    @property
    def sessions(self) -> int:
        """Streams that are open now."""
        return len(self._sessions)

    def stop_sessions(self, reason: str) -> None:
        """End all streams, telling their clients, and logs being read; new streams are refused."""
        self._stopping = True
        for session in tuple(self._sessions):
            session.stop(reason)
        for reader in tuple(self._log_readers):
            reader.cancel()

    # --- Streams ---

    async def _exec(self, request: web.Request) -> web.StreamResponse:
        options = remote_command.Options.of_query(request.query)
        target = self._target(request)
        argv = tuple(request.query.getall("command", ()))
        if not argv:
            raise errors.InvalidInput("you must specify at least one command for the container")

        async def work(streams: Streams) -> remote_command.Outcome:
            status = await self._backend.exec(
                target.namespace,
                target.pod.metadata.name,
                target.uid,
                target.container,
                ExecRequest(argv, tty=options.tty),
                streams,
            )
            return remote_command.Exited(status.code if 0 <= status.code <= 255 else 255)

        return await self._stream(request, options, work, "error executing command in container")

    async def _attach(self, request: web.Request) -> web.StreamResponse:
        options = remote_command.Options.of_query(request.query)
        target = self._target(request)

        async def work(streams: Streams) -> remote_command.Outcome:
            await self._backend.attach(
                target.namespace, target.pod.metadata.name, target.uid, target.container, streams
            )
            return remote_command.Exited(0)

        return await self._stream(request, options, work, "error attaching to container")

    async def _stream(
        self,
        request: web.Request,
        options: remote_command.Options,
        work: Callable[[Streams], Awaitable[remote_command.Outcome]],
        failure: str,
    ) -> web.StreamResponse:
        """From the upgrade to the closed connection."""
        if self._stopping:
            raise errors.Unavailable("the node agent is shutting down")
        try:
            agreed = handshake.agree(request, options)
        except errors.Forbidden as exc:
            response = error_response(exc)
            for accepted in remote_command.PROTOCOLS:
                response.headers.add(remote_command.ACCEPTED_PROTOCOLS_HEADER, accepted)
            return response

        async def guarded(streams: Streams) -> remote_command.Outcome:
            try:
                return await work(streams)
            except errors.Error as exc:
                return remote_command.Failed(f"{failure}: {exc}")

        upgraded, connection = await switch_protocols(request, agreed.headers)
        session = RemoteSession(connection, agreed.connection, options, agreed.protocol)
        self._sessions.add(session)
        try:
            await session.run(guarded)
        finally:
            self._sessions.discard(session)
        return upgraded

    # --- Logs ---

    async def _container_logs(self, request: web.Request) -> web.StreamResponse:
        query = container_logs.parse_query(request.query, self._clock.time())
        names = request.match_info
        pod = self._pod(names["namespace"], names["pod"], f'pod "{names["pod"]}" does not exist')
        container = names["container"]
        if not _has_container(pod, container):
            raise errors.NotFound(f'container "{container}" not found in pod "{names["pod"]}"')
        container_logs.require_log(pod, container, previous=query.previous)
        reader = asyncio.current_task()
        assert reader is not None
        self._log_readers.add(reader)
        try:
            entries = self._backend.logs(
                names["namespace"], names["pod"], pod.metadata.uid, container, query.previous, query.options
            )
            return await container_logs.answer(request, entries, query.options)
        except errors.Error as exc:
            return web.Response(status=400, text=str(exc))  # whatever the runtime says, as the kubelet does
        finally:
            self._log_readers.discard(reader)

    # --- Documents ---

    async def _pods(self, _request: web.Request) -> web.StreamResponse:
        pods = {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": self._backend.pods()}
        return _json(pods)

    async def _summary(self, request: web.Request) -> web.StreamResponse:
        summary = await self._backend.summary()
        slim = request.query.get("only_cpu_and_memory", "").lower() in ("true", "1")
        return _json(only_cpu_and_memory(summary) if slim else summary)

    async def _ping(self, _request: web.Request) -> web.StreamResponse:
        return web.Response(text="ok")

    async def _healthz(self, _request: web.Request) -> web.StreamResponse:
        trouble = self._backend.healthy()
        if trouble is None:
            return web.Response(text="ok")
        return web.Response(status=500, text=f"healthz check failed: {trouble}\n")

    # --- Lookup ---

    def _pod(self, namespace: str, name: str, missing: str) -> Pod:
        for pod in self._backend.pods():
            if pod.metadata.name == name and pod.metadata.namespace == namespace:
                return pod
        raise errors.NotFound(missing)

    def _target(self, request: web.Request) -> _Target:
        names = request.match_info
        pod = self._pod(names["namespace"], names["pod"], "pod does not exist")
        uid, container = names.get("uid"), names["container"]
        if not _has_container(pod, container) or (uid and uid != pod.metadata.uid):
            raise errors.Error(f'container not found ("{container}")')  # 500, as the kubelet
        return _Target(names["namespace"], pod, uid or pod.metadata.uid, container)


def _has_container(pod: Pod, name: str) -> bool:
    containers: Sequence[object] = pod.spec.containers
    return any(
        getattr(container, "name", None) == name for container in (*containers, *(pod.spec.init_containers or ()))
    )


def _json(value: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")
