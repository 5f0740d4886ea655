"""The HTTPS listener: TLS, who asks, whether they may, then the routes."""

import asyncio
import logging
import socket
from typing import Final
from weakref import WeakKeyDictionary

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from vzkubelet import errors
from vzkubelet.aio import Clock, SystemClock
from vzkubelet.config.settings import ServerSettings
from vzkubelet.model.review import UserInfo
from vzkubelet.server import authentication, authorization, routes, tls
from vzkubelet.server.backend import Backend
from vzkubelet.server.reviews import Reviews

_log = logging.getLogger(__name__)

HANDSHAKE_TIMEOUT_S: Final = 10.0
"""Go's net/http gives TLS handshakes the read-header timeout; a peer that is slower than this is not one of ours."""
REQUEST_LINE_BYTES: Final = 1024 * 1024
"""Go's MaxHeaderBytes: the arguments of an exec travel in the query."""
HEADER_BYTES: Final = 64 * 1024
KEEP_ALIVE_S: Final = 90.0
"""Kubelet: http.Server IdleTimeout."""
STOP_TIMEOUT_S: Final = 10.0


class Listener:
    """The kubelet API on one address. `start` binds and serves; `close` ends streams with a reason, then stops."""

    def __init__(
        self,
        settings: ServerSettings,
        node_name: str,
        backend: Backend,
        reviews: Reviews | None,
        clock: Clock | None = None,
    ) -> None:
        """Raises InvalidInput: a certificate that is missing or unusable, or clients to verify and no reviews."""
        if settings.cert_file is None or settings.key_file is None:
            raise errors.InvalidInput("the kubelet API needs a serving certificate and its key")
        clock = clock or SystemClock()
        self._settings = settings
        self._routes = routes.Routes(backend, clock)
        self._gate = _gate(settings, node_name, reviews, clock)
        ca_file = settings.client_ca_file if settings.verify_clients else None
        self._tls = tls.ServingContext(settings.cert_file, settings.key_file, ca_file)
        self._runner: web.AppRunner | None = None
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        """The port in use, also where the settings said "any"; 0 before `start`."""
        if self._server is None or not self._server.sockets:
            return 0
        return int(self._server.sockets[0].getsockname()[1])

    async def start(self) -> None:
        """Raises Unavailable when the address cannot be bound."""
        application = web.Application(middlewares=[_errors_to_text, self._gate])
        self._routes.add_to(application.router)
        runner = web.AppRunner(
            application,
            access_log=None,
            handle_signals=False,
            handler_cancellation=True,
            keepalive_timeout=KEEP_ALIVE_S,
            shutdown_timeout=STOP_TIMEOUT_S,
            max_line_size=REQUEST_LINE_BYTES,
            max_field_size=HEADER_BYTES,
        )
        await runner.setup()
        assert runner.server is not None
        address, port = self._settings.bind_address, self._settings.port
        try:
            self._server = await asyncio.get_running_loop().create_server(
                runner.server,
                address or None,
                port,
                ssl=self._tls.context,
                ssl_handshake_timeout=HANDSHAKE_TIMEOUT_S,
                reuse_address=True,
                family=socket.AF_UNSPEC,
            )
        except OSError as exc:
            await runner.cleanup()
            raise errors.Unavailable(
                f"cannot serve the kubelet API on {address or '*'}:{port}: {exc.strerror or exc}; "
                "another kubelet may run here, or choose another port"
            ) from exc
        self._runner = runner
        if not self._settings.verify_clients:
            _log.warning(
                "THE KUBELET API ON %s:%d LETS ANYBODY IN (--no-verify-clients): whoever reaches this port can run "
                "commands in every pod of this node",
                address or "*",
                self.port,
            )
        _log.info("kubelet API on %s:%d", address or "*", self.port)

    async def close(self) -> None:
        """Stop accepting, end streams and logs, close what is left. May be repeated."""
        server, self._server = self._server, None
        runner, self._runner = self._runner, None
        if server is None or runner is None:
            return
        server.close()
        self._routes.stop_sessions("the node agent is shutting down")
        await runner.cleanup()
        await server.wait_closed()


def _gate(settings: ServerSettings, node_name: str, reviews: Reviews | None, clock: Clock) -> Middleware:
    """The middleware that lets a request in or not."""
    if not settings.verify_clients:

        @web.middleware
        async def open_gate(request: web.Request, handler: Handler) -> web.StreamResponse:
            return await handler(request)

        return open_gate
    if reviews is None:
        raise errors.InvalidInput("clients cannot be verified without an API server; it takes --no-verify-clients")
    authenticator = authentication.Authenticator(
        reviews if settings.token_webhook else None, settings.token_cache_s, clock
    )
    authorizer = authorization.Authorizer(
        reviews,
        node_name,
        authorized_cache_s=settings.authorized_cache_s,
        unauthorized_cache_s=settings.unauthorized_cache_s,
        clock=clock,
    )
    certificates = _Certificates()

    @web.middleware
    async def gate(request: web.Request, handler: Handler) -> web.StreamResponse:
        user = await _authenticate(authenticator, certificates, request)
        if user is None:
            return web.Response(status=401, text="Unauthorized")
        asked = authorization.attributes(request.method, request.path)
        try:
            allowed = await authorizer.allowed(user, asked)
        except errors.Error as exc:
            _log.warning("cannot authorize %s for %s %s: %s", user.username, request.method, request.path, exc)
            return web.Response(
                status=500,
                text=f"Authorization error (user={user.username}, verb={asked.verb}, resource=nodes, "
                f"subresource={asked.subresources[0]})",
            )
        if not allowed:
            _log.info("forbidden: user %s, %s %s", user.username, request.method, request.path)
            return web.Response(status=403, text=authorization.forbidden_text(user, asked))
        return await handler(request)

    return gate


async def _authenticate(
    authenticator: authentication.Authenticator, certificates: "_Certificates", request: web.Request
) -> UserInfo | None:
    try:
        return await authenticator.authenticate(
            certificates.of(request.transport), request.headers.get("Authorization", "")
        )
    except errors.Error as exc:
        _log.warning("cannot authenticate a request from %s: %s", request.remote, exc)
        return None


class _Certificates:
    """What the certificate of each connection says, read once per connection."""

    def __init__(self) -> None:
        self._known: WeakKeyDictionary[asyncio.BaseTransport, authentication.CertificateIdentity | None] = (
            WeakKeyDictionary()
        )

    def of(self, transport: asyncio.BaseTransport | None) -> authentication.CertificateIdentity | None:
        if transport is None:
            return None
        if transport not in self._known:
            connection = transport.get_extra_info("ssl_object")
            der = connection.getpeercert(binary_form=True) if connection is not None else None
            self._known[transport] = authentication.read_certificate(der) if der else None
        return self._known[transport]


@web.middleware
async def _errors_to_text(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Our errors by their attributes, unknown paths as the kubelet, bugs without their details."""
    try:
        return await handler(request)
    except errors.Error as exc:
        return routes.error_response(exc)
    except web.HTTPNotFound:
        return web.Response(status=404, text="404: Page Not Found")
    except web.HTTPException:
        raise
    except ConnectionError:
        raise
    except Exception:  # noqa: BLE001 - a bug must not end the connection without an answer
        _log.exception("%s %s failed in the agent itself", request.method, request.path)
        return web.Response(status=500, text="internal error of the node agent")
