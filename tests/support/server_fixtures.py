"""The kubelet API on a free port of loopback, with local processes as its containers."""

import asyncio
import contextlib
import dataclasses
import ssl
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from tests.cluster import pki
from tests.cluster.pki import KeyPair, Pki
from tests.support import exec_client
from tests.support.exec_client import ExecClient, exec_path
from tests.support.local_backend import LocalBackend
from vzkubelet import errors
from vzkubelet.config.settings import ServerSettings
from vzkubelet.model.meta import ObjectMeta
from vzkubelet.model.pod import (
    Container,
    ContainerState,
    ContainerStateRunning,
    ContainerStatus,
    Pod,
    PodSpec,
    PodStatus,
)
from vzkubelet.model.review import UserInfo
from vzkubelet.server.listener import Listener

SETTLE_S = 10.0


@dataclasses.dataclass
class FakeReviews:
    """Whose tokens are known and who may do what; counts questions."""

    tokens: dict[str, UserInfo] = dataclasses.field(default_factory=dict)
    grants: set[tuple[str, str, str]] = dataclasses.field(default_factory=set)
    failing: bool = False
    questions: list[tuple[str, ...]] = dataclasses.field(default_factory=list)

    async def token_review(self, token: str) -> UserInfo | None:
        self.questions.append(("token", token))
        return self.tokens.get(token)

    async def subject_access_review(self, *, user: str, verb: str, subresource: str, name: str, **more: Any) -> bool:
        assert more["resource"] == "nodes"
        assert "system:authenticated" in more["groups"]
        self.questions.append((user, verb, name, subresource))
        if self.failing:
            raise errors.Unavailable("no API server")
        return (user, verb, subresource) in self.grants


@dataclasses.dataclass
class Served:
    listener: Listener
    backend: LocalBackend
    reviews: FakeReviews
    files: Pki
    settings: ServerSettings

    @property
    def port(self) -> int:
        return self.listener.port

    def tls(self, identity: KeyPair | None = None) -> ssl.SSLContext:
        return exec_client.client_tls(self.files.ca.certificate, identity or self.files.kubelet_client)

    def client(self, *command: str, **flags: bool) -> contextlib.AbstractAsyncContextManager[ExecClient]:
        asked: dict[str, Any] = dict(flags) or {"output": True}
        return ExecClient.connect(self.port, self.tls(), exec_path(command, **asked))

    async def get(self, path: str, tls: ssl.SSLContext | None = None, **headers: str) -> tuple[int, str]:
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls or self.tls())) as http,
            http.get(f"https://127.0.0.1:{self.port}{path}", headers=headers) as response,
        ):
            return response.status, await response.text()


def pod(**states: ContainerStatus) -> Pod:
    running = {
        "main": ContainerStatus(
            name="main", state=ContainerState(running=ContainerStateRunning()), container_id="vm://1"
        )
    }
    statuses = running | states
    return Pod(
        metadata=ObjectMeta(name="pod", namespace="default", uid="uid-1"),
        spec=PodSpec(containers=[Container(name=name) for name in statuses]),
        status=PodStatus(container_statuses=list(statuses.values())),
    )


@pytest.fixture(scope="session")
def server_pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return pki.create(tmp_path_factory.mktemp("server") / "pki", server_addresses=(), service_address="10.0.0.1")


@pytest.fixture
def server_settings(server_pki: Pki) -> ServerSettings:
    return ServerSettings(
        bind_address="127.0.0.1",
        port=0,
        cert_file=server_pki.apiserver.certificate,
        key_file=server_pki.apiserver.key,
        client_ca_file=server_pki.ca.certificate,
        verify_clients=True,
        token_webhook=True,
        token_cache_s=60.0,
        authorized_cache_s=60.0,
        unauthorized_cache_s=60.0,
    )


@contextlib.asynccontextmanager
async def serving(settings: ServerSettings, files: Pki) -> AsyncIterator[Served]:
    backend = LocalBackend(known=[pod()])
    reviews = FakeReviews(grants={(pki.KUBELET_CLIENT_USER, verb, "proxy") for verb in ("get", "create")})
    listener = Listener(settings, "node", backend, reviews)
    await listener.start()
    try:
        yield Served(listener, backend, reviews, files, settings)
    finally:
        await listener.close()


@pytest_asyncio.fixture
async def served(server_settings: ServerSettings, server_pki: Pki) -> AsyncIterator[Served]:
    """A listener; what it started has ended when the test is over."""
    async with serving(server_settings, server_pki) as running:
        yield running
    this = asyncio.current_task()
    await until(lambda: not asyncio.all_tasks() - {this})
    assert running.backend.running == 0
    assert running.backend.followers == 0


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SETTLE_S):
        while not condition():
            await asyncio.sleep(0.01)
