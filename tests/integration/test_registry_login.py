"""Logins that many requests of one pull share: one answer of the token service for all of them."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from aiohttp import web

from tests.support.http_fixtures import Serve
from vzkubelet.aio import spawn
from vzkubelet.errors import Unauthenticated, Unavailable
from vzkubelet.images.authorization import Answered, Login, parse_challenges
from vzkubelet.images.registry import Repository
from vzkubelet.images.transport import Transport
from vzkubelet.model.reference import parse
from vzkubelet.ports import RegistryCredential

LOGIN = RegistryCredential("ci", "secret")
DIGEST = "sha256:" + "a" * 64


class Clock:
    now_s = 1000.0

    def time(self) -> float:
        return self.now_s

    def monotonic(self) -> float:
        return self.now_s


class Service:
    """A registry and its token service: tokens are numbers, and only the latest one is good."""

    def __init__(self) -> None:
        self.issued = 0
        self.status = 200
        self.expires_in = 300
        self.unauthorized = 0
        self.host = ""

    async def answer(self, request: web.Request) -> web.Response:
        if request.path == "/token":
            self.issued += 1
            issued = self.issued
            await asyncio.sleep(0.1)  # the time in which a stampede would happen
            return web.json_response({"token": str(issued), "expires_in": self.expires_in}, status=self.status)
        if request.headers.get("Authorization") == f"Bearer {self.issued}":
            return web.Response()
        self.unauthorized += 1
        return web.Response(status=401, headers={"WWW-Authenticate": f'Bearer realm="http://{self.host}/token"'})


@pytest_asyncio.fixture
async def service(serve: Serve) -> Service:
    made = Service()
    made.host = await serve(made.answer)
    return made


@pytest_asyncio.fixture
async def transport() -> AsyncIterator[Transport]:
    opened = Transport()
    yield opened
    await opened.close()


async def asked(repository: Repository, times: int) -> list[bool | BaseException]:
    return await asyncio.gather(*[repository.has_blob(DIGEST) for _ in range(times)], return_exceptions=True)


async def test_one_token_for_requests_that_begin_together(service: Service, transport: Transport) -> None:
    repository = Repository(transport, parse(f"{service.host}/vm:1"), LOGIN)
    assert await asked(repository, 20) == [True] * 20
    assert service.issued == 1
    assert await asked(repository, 20) == [True] * 20
    assert service.issued == 1


async def test_one_token_for_requests_that_are_refused_together(service: Service, transport: Transport) -> None:
    repository = Repository(transport, parse(f"{service.host}/vm:1"), LOGIN)
    await repository.has_blob(DIGEST)
    service.issued += 1  # the token that is in use is no longer the latest
    assert await asked(repository, 20) == [True] * 20
    assert service.issued == 3


@pytest.mark.parametrize(("status", "error"), [(401, Unauthenticated), (500, Unavailable)])
async def test_refusal_is_shared_as_well(
    service: Service, transport: Transport, status: int, error: type[Exception]
) -> None:
    service.status = status
    repository = Repository(transport, parse(f"{service.host}/vm:1"), LOGIN)
    assert {type(outcome) for outcome in await asked(repository, 20)} == {error}
    assert service.issued == 1


async def test_who_is_cancelled_leaves_the_token_to_the_others(service: Service, transport: Transport) -> None:
    repository = Repository(transport, parse(f"{service.host}/vm:1"), LOGIN)
    first = spawn(repository.has_blob(DIGEST), name="first")
    while not service.issued:
        await asyncio.sleep(0.01)
    others = asyncio.gather(*[repository.has_blob(DIGEST) for _ in range(5)])
    await asyncio.sleep(0.05)
    first.cancel()
    assert await others == [True] * 5
    assert service.issued == 2


async def test_expired_token_is_replaced_before_anything_is_sent_with_it(
    service: Service, transport: Transport
) -> None:
    clock = Clock()
    login = Login(transport, LOGIN, scope="repository:vm:pull", name="vm", clock=clock)
    assert await login.current() is None
    challenges = parse_challenges([f'Bearer realm="http://{service.host}/token"'])
    assert await login.answer(challenges, None) is Answered.ASKED
    assert await login.current() == "Bearer 1"
    clock.now_s += 300
    assert await asyncio.gather(*[login.current() for _ in range(5)]) == ["Bearer 2"] * 5
    assert await login.answer(challenges, "Bearer 1") is Answered.SHARED
    assert service.issued == 2
