"""Uploads in chunks to the real registry, resumed by another process, and to servers with manners of their own."""

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from aiohttp import web

from tests.cluster.registry import Registry
from tests.support.cluster_fixtures import StartRegistry
from tests.support.http_fixtures import Serve
from tests.support.token_server import TokenServer
from tests.support.vm_images import MIB
from vzkubelet.errors import Integrity, InvalidInput, NotFound, Unavailable
from vzkubelet.images.registry import Repository
from vzkubelet.images.transport import Transport
from vzkubelet.model.reference import parse
from vzkubelet.ports import RegistryCredential

CONTENT = random.Random(6).randbytes(5 * MIB + 77)
DIGEST = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
WRONG = "sha256:" + "0" * 64
LOGIN = RegistryCredential("ci", "secret")


@pytest_asyncio.fixture
async def transport() -> AsyncIterator[Transport]:
    opened = Transport()
    yield opened
    await opened.close()


def repository(transport: Transport, host: str, path: str, credential: RegistryCredential | None = None) -> Repository:
    return Repository(transport, parse(f"{host}/{path}:1"), credential or RegistryCredential(), push=True)


async def test_upload_that_another_process_goes_on_with(registry_factory: StartRegistry, transport: Transport) -> None:
    registry = registry_factory()
    first = await repository(transport, registry.host, "a").begin_upload()
    assert first.offset == 0
    await first.send(CONTENT[: 2 * MIB])
    await first.send(memoryview(CONTENT)[2 * MIB : 3 * MIB + 1])
    assert first.offset == 3 * MIB + 1

    other = repository(transport, registry.host, "a")
    second = await other.resume_upload(first.location)
    assert second is not None
    assert second.offset == 3 * MIB + 1
    await second.send(bytearray(CONTENT[second.offset :]))
    assert not await other.has_blob(DIGEST)
    await second.finish(DIGEST)
    assert registry.blob_path(DIGEST).read_bytes() == CONTENT
    # What is finished is no upload any more.
    assert await other.resume_upload(first.location) is None


async def test_upload_of_nothing_yet_is_resumed_at_its_start(registry: Registry, transport: Transport) -> None:
    target = repository(transport, registry.host, "uploads/empty")
    begun = await target.begin_upload()
    resumed = await target.resume_upload(begun.location)
    assert resumed is not None
    assert resumed.offset == 0
    await resumed.finish(f"sha256:{hashlib.sha256(b'').hexdigest()}")


async def test_session_whose_chunk_broke_off_is_lost(registry: Registry, transport: Transport) -> None:
    """Distribution throws an upload away whose last chunk it has not answered: then the whole of it is sent again."""
    target = repository(transport, registry.host, "uploads/broken")
    upload = await target.begin_upload()
    await upload.send(CONTENT[:MIB])
    await cut_in_a_chunk(registry, upload.location)
    with pytest.raises(NotFound):
        await upload.send(CONTENT[MIB:])
    assert await target.resume_upload(upload.location) is None


async def cut_in_a_chunk(registry: Registry, location: str) -> None:
    """Sends half of what the header announces and closes; returns when the registry has noticed."""
    parts = urlsplit(location)
    reader, writer = await asyncio.open_connection("127.0.0.1", registry.port)
    head = f"PATCH {parts.path}?{parts.query} HTTP/1.1\r\nHost: {registry.host}\r\nContent-Length: 1000000\r\n\r\n"
    writer.write(head.encode() + bytes(500_000))
    writer.write_eof()
    await reader.read()
    writer.close()
    await writer.wait_closed()


async def test_content_that_is_not_what_its_digest_says(registry: Registry, transport: Transport) -> None:
    target = repository(transport, registry.host, "uploads/wrong")
    upload = await target.begin_upload()
    await upload.send(b"abc")
    with pytest.raises(Integrity, match="DIGEST_INVALID") as caught:
        await upload.finish(WRONG)
    assert caught.value.expected == WRONG


async def test_mount_from_another_repository(registry: Registry, transport: Transport) -> None:
    source, target = (repository(transport, registry.host, f"uploads/{name}") for name in ("source", "target"))
    upload = await source.begin_upload()
    await upload.send(CONTENT)
    await upload.finish(DIGEST)
    assert not await target.has_blob(DIGEST)
    assert await target.mount(DIGEST, "uploads/source")
    assert await target.has_blob(DIGEST)
    assert not await target.mount(WRONG, "uploads/source")
    # The session that the registry has begun instead is the next upload.
    fresh = await target.begin_upload()
    await fresh.send(b"abc")
    await fresh.finish(f"sha256:{hashlib.sha256(b'abc').hexdigest()}")


@pytest_asyncio.fixture
async def tokens(tmp_path: Path) -> AsyncIterator[TokenServer]:
    async with TokenServer(tmp_path, username="ci", password="secret", identity_token="id-token") as server:
        yield server


@pytest.mark.parametrize("credential", [LOGIN, RegistryCredential(identity_token="id-token")])
async def test_mount_asks_for_both_repositories_once(
    registry_factory: StartRegistry, tokens: TokenServer, transport: Transport, credential: RegistryCredential
) -> None:
    registry = registry_factory(extra=tokens.registry_auth())
    source, target = (repository(transport, registry.host, name, credential) for name in ("a/source", "b/target"))
    for content in (b"one", b"two"):
        upload = await source.begin_upload()
        await upload.send(content)
        await upload.finish(f"sha256:{hashlib.sha256(content).hexdigest()}")
    tokens.asked.clear()
    for content in (b"one", b"two"):
        assert await target.mount(f"sha256:{hashlib.sha256(content).hexdigest()}", "a/source")
    assert [asked["scope"] for asked in tokens.asked] == ["repository:b/target:pull,push repository:a/source:pull"]


# --- Servers with manners of their own


async def test_location_that_moves_with_every_chunk_and_is_signed(serve: Serve, transport: Transport) -> None:
    seen: list[tuple[str, str, str | None, int]] = []

    async def answer(request: web.Request) -> web.Response:
        body = await request.read()
        seen.append((request.method, request.raw_path, request.headers.get("Content-Range"), len(body)))
        step = len(seen)
        if request.method == "POST":
            headers = {"Location": f"/up/{step}?sig=a%2Fb", "OCI-Chunk-Min-Length": "65536"}
            return web.Response(status=202, headers=headers)
        if request.method == "PATCH":
            end = sum(size for *_, size in seen)
            return web.Response(status=202, headers={"Location": f"/up/{step}?sig=a%2Fb", "Range": f"0-{end - 1}"})
        return web.Response(status=201)

    upload = await repository(transport, await serve(answer), "x").begin_upload()
    assert upload.chunk_min_bytes == 65536
    await upload.send(bytes(70_000))
    await upload.send(b"")
    await upload.send(bytes(3 * MIB))
    await upload.finish(DIGEST)
    assert seen == [
        ("POST", "/v2/x/blobs/uploads/", None, 0),
        ("PATCH", "/up/1?sig=a%2Fb", "0-69999", 70_000),
        ("PATCH", "/up/2?sig=a%2Fb", f"70000-{70_000 + 3 * MIB - 1}", 3 * MIB),
        ("PUT", f"/up/3?sig=a%2Fb&digest={DIGEST.replace(':', '%3A')}", None, 0),
    ]


async def test_registry_that_took_less_than_was_sent(serve: Serve, transport: Transport) -> None:
    async def answer(request: web.Request) -> web.Response:
        await request.read()
        status = {"POST": 202, "PATCH": 202, "GET": 204}[request.method]
        return web.Response(status=status, headers={"Location": "/up", "Range": "0-99"})

    target = repository(transport, await serve(answer), "x")
    upload = await target.begin_upload()
    with pytest.raises(Unavailable, match="has 100 bytes of an upload where 1000 were sent"):
        await upload.send(bytes(1000))
    resumed = await target.resume_upload(upload.location)
    assert resumed is not None
    assert resumed.offset == 100


@pytest.mark.parametrize(
    ("status", "headers"), [(404, {}), (416, {}), (400, {}), (405, {}), (204, {}), (204, {"Range": "nonsense"})]
)
async def test_session_that_is_lost(serve: Serve, transport: Transport, status: int, headers: dict[str, str]) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status, headers=headers)

    host = await serve(answer)
    assert await repository(transport, host, "x").resume_upload(f"http://{host}/up") is None


async def test_registry_that_does_not_know_for_now(serve: Serve, transport: Transport) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=502)

    host = await serve(answer)
    with pytest.raises(Unavailable, match="answers 502"):
        await repository(transport, host, "x").resume_upload(f"http://{host}/up")


@pytest.mark.parametrize("location", ["http://storage.example/up", "ftp://127.0.0.1/up"])
async def test_nothing_is_sent_over_plain_http_elsewhere(serve: Serve, transport: Transport, location: str) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=202, headers={"Location": location})

    target = repository(transport, await serve(answer), "x")
    with pytest.raises(InvalidInput, match="refusing plain http"):
        await target.begin_upload()
    with pytest.raises(InvalidInput, match="refusing plain http"):
        await target.resume_upload(location)


async def test_mount_that_a_login_may_not_do_is_no_error(serve: Serve, transport: Transport) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=403)

    assert not await repository(transport, await serve(answer), "x").mount(DIGEST, "secret/vm")


async def test_registry_that_begins_no_upload(serve: Serve, transport: Transport) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=202)

    with pytest.raises(Unavailable, match="begins no upload"):
        await repository(transport, await serve(answer), "x").begin_upload()
