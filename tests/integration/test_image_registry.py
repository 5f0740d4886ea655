"""The registry client against Distribution's own registry, and against servers that do not behave."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web
from yarl import URL

from tests.cluster.ports import free_port
from tests.cluster.registry import BasicAuth
from tests.support.cluster_fixtures import StartRegistry
from tests.support.http_fixtures import Handler, Serve
from tests.support.token_server import TokenServer
from tests.support.vm_images import make_files, push
from vzkubelet.errors import Error, Forbidden, Integrity, InvalidInput, NotFound, Unauthenticated, Unavailable
from vzkubelet.images import Library
from vzkubelet.images.registry import Repository
from vzkubelet.images.transport import Transport
from vzkubelet.model.oci import Descriptor
from vzkubelet.model.reference import parse
from vzkubelet.ports import RegistryCredential

LOGIN = RegistryCredential("ci", "secret")
DIGEST = "sha256:" + "a" * 64


@pytest_asyncio.fixture
async def transport() -> AsyncIterator[Transport]:
    opened = Transport()
    yield opened
    await opened.close()


def repository(transport: Transport, host: str, credential: RegistryCredential | None = None) -> Repository:
    return Repository(transport, parse(f"{host}/team/vm:1"), credential or RegistryCredential())


async def blob(target: Repository, size: int = 4) -> bytes:
    descriptor = Descriptor(media_type="x", digest=DIGEST, size=size)
    async with target.blobs.range(descriptor, 0, size) as answer:
        return b"".join([chunk async for chunk in answer.chunks])


# --- Logins, on the real registry


async def round_trip(tmp_path: Path, host: str, credential: RegistryCredential) -> bool:
    files = make_files(tmp_path / "files", data_bytes=64 * 1024)
    await push(files, f"{host}/team/vm:1", credential=credential)
    library = Library(tmp_path / "cache")
    try:
        pulled = await library.pull(f"{host}/team/vm:1", [credential])
        return files.same_as(pulled.disk, pulled.aux)
    finally:
        await library.close()


async def test_basic_login(tmp_path: Path, registry_factory: StartRegistry) -> None:
    registry = registry_factory(basic_auth=BasicAuth("ci", "secret"))
    assert await round_trip(tmp_path, registry.host, LOGIN)
    with pytest.raises(Unauthenticated, match='refuses the login of user "ci"'):
        await push(make_files(tmp_path / "x"), f"{registry.host}/a:1", credential=RegistryCredential("ci", "no"))
    with pytest.raises(Unauthenticated, match="wants a login and none was given"):
        await push(make_files(tmp_path / "x"), f"{registry.host}/a:1")


@pytest_asyncio.fixture
async def tokens(tmp_path: Path) -> AsyncIterator[TokenServer]:
    async with TokenServer(tmp_path, username="ci", password="secret", identity_token="id-token") as server:
        yield server


@pytest.mark.parametrize("credential", [LOGIN, RegistryCredential(identity_token="id-token")])
async def test_bearer_token(
    tmp_path: Path, registry_factory: StartRegistry, tokens: TokenServer, credential: RegistryCredential
) -> None:
    registry = registry_factory(extra=tokens.registry_auth())
    assert await round_trip(tmp_path, registry.host, credential)
    # One token serves a whole push, one a whole pull.
    assert [asked["scope"] for asked in tokens.asked] == ["repository:team/vm:pull,push", "repository:team/vm:pull"]
    assert {asked["service"] for asked in tokens.asked} == {"registry of the tests"}
    assert {asked["method"] for asked in tokens.asked} == {"POST" if credential.identity_token else "GET"}


@pytest.mark.parametrize(
    ("credential", "words"),
    [
        (RegistryCredential("ci", "wrong"), 'refuses the login of user "ci"'),
        (RegistryCredential(identity_token="stolen"), "refuses the identity token"),
        (RegistryCredential(), "wants a login"),
    ],
)
async def test_token_service_refuses(
    tmp_path: Path, registry_factory: StartRegistry, tokens: TokenServer, credential: RegistryCredential, words: str
) -> None:
    registry = registry_factory(extra=tokens.registry_auth())
    with pytest.raises(Unauthenticated, match=words) as caught:
        await push(make_files(tmp_path / "x"), f"{registry.host}/a:1", credential=credential)
    assert len(tokens.asked) == 1
    assert "wrong" not in str(caught.value)


async def test_token_that_expires_on_the_way_is_asked_for_once_more_only(
    tmp_path: Path, registry_factory: StartRegistry, tokens: TokenServer, transport: Transport
) -> None:
    registry = registry_factory(extra=tokens.registry_auth())
    await push(make_files(tmp_path / "x"), f"{registry.host}/team/vm:1", credential=LOGIN)
    target = repository(transport, registry.host, LOGIN)
    await target.manifest("1")
    tokens.asked.clear()
    tokens.lifetime_s = 0
    with pytest.raises(Unauthenticated):
        await repository(transport, registry.host, LOGIN).manifest("1")
    assert len(tokens.asked) == 1


async def test_token_that_the_registry_takes_no_more_is_replaced(serve: Serve, transport: Transport) -> None:
    valid, issued = "t1", 0

    async def answer(request: web.Request) -> web.Response:
        nonlocal issued
        if request.path == "/token":
            issued += 1
            return web.json_response({"token": f"t{issued}"})
        if request.headers.get("Authorization") == f"Bearer {valid}":
            return web.Response(text="{}")
        return web.Response(status=401, headers={"WWW-Authenticate": f'Bearer realm="http://{request.host}/token"'})

    target = repository(transport, await serve(answer), LOGIN)
    await target.manifest("1")
    valid = "t2"
    await target.manifest("1")
    assert issued == 2


async def test_token_service_is_down(
    registry_factory: StartRegistry, tokens: TokenServer, transport: Transport
) -> None:
    registry = registry_factory(extra=tokens.registry_auth())
    await tokens._runner.cleanup()
    with pytest.raises(Unavailable, match="cannot be reached"):
        await repository(transport, registry.host, LOGIN).manifest("1")


# --- Answers


async def test_registry_is_down(transport: Transport) -> None:
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:\d+ cannot be reached: .*Connect"):
        await repository(transport, f"127.0.0.1:{free_port()}").manifest("1")


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (404, NotFound),
        (403, Forbidden),
        (401, Unauthenticated),
        (429, Unavailable),
        (500, Unavailable),
        (400, Unavailable),
        (204, Unavailable),
    ],
)
async def test_answers_and_no_second_try(serve: Serve, transport: Transport, status: int, error: type[Error]) -> None:
    asked = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.path)
        body = {"errors": [{"code": "DENIED", "message": "because\nof reasons"}]}
        return web.json_response(body if status != 204 else None, status=status)

    host = await serve(answer)
    with pytest.raises(error) as caught:
        await repository(transport, host, LOGIN).manifest("1")
    assert asked == ["/v2/team/vm/manifests/1"]
    assert f"{host}/team/vm:1" in str(caught.value)
    assert caught.value.reason == "ErrImagePull"
    if status not in (204,):
        assert "DENIED because of reasons" in str(caught.value)


async def test_tls_on_one_side_only_is_told_with_the_way_out(serve: Serve, transport: Transport) -> None:
    """Hazards: WRONG_VERSION_NUMBER for a forgotten --plain-http; a bare 400 where the registry on loopback has TLS."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=400, text="Client sent an HTTP request to an HTTPS server.\n")

    host = await serve(answer)
    with pytest.raises(Unavailable, match="answers 400 to plain HTTP; if it wants TLS, name it by its host name"):
        await repository(transport, host).manifest("1")
    with pytest.raises(Unavailable, match=f"no TLS with {host}: .*if it is a registry without TLS, --plain-http"):
        await transport.send("GET", URL(f"https://{host}/v2/"), "vm:1")


async def test_login_is_not_sent_before_it_is_asked_for(serve: Serve, transport: Transport) -> None:
    sent: list[str | None] = []

    async def answer(request: web.Request) -> web.Response:
        sent.append(request.headers.get("Authorization"))
        if sent[-1] is None:
            return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="x"'})
        return web.Response(text="{}")

    target = repository(transport, await serve(answer), LOGIN)
    await target.manifest("1")
    await target.manifest("1")
    assert sent == [None, "Basic Y2k6c2VjcmV0", "Basic Y2k6c2VjcmV0"]


async def test_manifest_that_is_not_what_its_digest_says(serve: Serve, transport: Transport) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(text="{}")

    with pytest.raises(Integrity, match="the manifest has digest sha256:44136f"):
        await repository(transport, await serve(answer)).manifest(DIGEST)


async def test_manifest_without_end_is_not_read_to_its_end(serve: Serve, transport: Transport) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(bytes(65536))

    with pytest.raises(InvalidInput, match="more than 4194304 bytes"):
        await repository(transport, await serve(answer)).manifest("1")


async def test_body_that_breaks_off(serve: Serve, transport: Transport) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "100"})
        await response.prepare(request)
        await response.write(b"half")
        assert request.transport is not None
        request.transport.close()
        return response

    with pytest.raises(Unavailable, match=r"the connection to 127.* broke"):
        await blob(repository(transport, await serve(answer)), 100)


# --- Redirects


def redirect(location: str) -> Handler:
    async def answer(request: web.Request) -> web.Response:
        if "Authorization" not in request.headers:
            return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="x"'})
        return web.Response(status=307, headers={"Location": location})

    return answer


async def test_login_is_kept_from_where_a_blob_is_redirected_to(serve: Serve, transport: Transport) -> None:
    seen: list[web.Request] = []

    async def storage(request: web.Request) -> web.Response:
        seen.append(request)
        return web.Response(body=b"blob")

    signed = f"http://{await serve(storage)}/bucket/blob?Signature=a%2Fb%2Bc&X=1"
    assert await blob(repository(transport, await serve(redirect(signed)), LOGIN)) == b"blob"
    assert len(seen) == 1
    assert "Authorization" not in seen[0].headers
    # A signed URL must arrive as it was signed.
    assert seen[0].raw_path == "/bucket/blob?Signature=a%2Fb%2Bc&X=1"


async def test_redirect_within_the_registry_keeps_the_login(serve: Serve, transport: Transport) -> None:
    seen: list[str | None] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.path == "/elsewhere":
            seen.append(request.headers.get("Authorization"))
            return web.Response(body=b"blob")
        return await redirect("/elsewhere")(request)

    assert await blob(repository(transport, await serve(answer), LOGIN)) == b"blob"
    assert seen == ["Basic Y2k6c2VjcmV0"]


async def test_redirect_to_plain_http_elsewhere_is_refused(serve: Serve, transport: Transport) -> None:
    with pytest.raises(InvalidInput, match=r"refusing plain http to storage\.example"):
        await blob(repository(transport, await serve(redirect("http://storage.example/blob")), LOGIN))


async def test_redirects_in_circles(serve: Serve, transport: Transport) -> None:
    with pytest.raises(Unavailable, match="redirects in circles"):
        await blob(repository(transport, await serve(redirect("/again")), LOGIN))


@pytest.mark.parametrize("location", ["http://[::1", "http://127.0.0.1:99999/x", "http://127.0.0.1:port/"])
@pytest.mark.parametrize("verb", ["blob", "manifest"])
async def test_redirect_to_what_is_no_url_is_an_error_like_others(
    serve: Serve, transport: Transport, verb: str, location: str
) -> None:
    """Hazard: a header of the registry ends a pull with an exception that nobody expects."""
    target = repository(transport, await serve(redirect(location)), LOGIN)
    with pytest.raises(Unavailable, match="is no URL"):
        await (blob(target) if verb == "blob" else target.manifest("1"))


async def test_upload_that_goes_on_at_what_is_no_url_is_an_error_like_others(
    serve: Serve, transport: Transport
) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=202, headers={"Location": "http://[::1"})

    with pytest.raises(Unavailable, match="is no URL"):
        await repository(transport, await serve(answer)).begin_upload()


@pytest.mark.parametrize("token", ["line\nbreak", "zero\0"])
async def test_token_that_no_header_takes_is_an_error_like_others(
    serve: Serve, transport: Transport, token: str
) -> None:
    """Hazard: a token service ends a pull with an exception that nobody expects."""

    async def answer(request: web.Request) -> web.Response:
        if request.path == "/token":
            return web.json_response({"token": token})
        return web.Response(status=401, headers={"WWW-Authenticate": f'Bearer realm="http://{request.host}/token"'})

    with pytest.raises(Unavailable, match="no request can be made"):
        await repository(transport, await serve(answer)).manifest("1")


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 2z0 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nblob",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
    ids=["status", "header", "body"],
)
async def test_signature_of_a_url_stays_out_of_messages(serve: Serve, transport: Transport, answer: bytes) -> None:
    """Hazard: storage that answers nonsense brings the signed URL, which opens the image, into events of pods."""

    async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    storage = await asyncio.start_server(nonsense, "127.0.0.1", 0)
    async with storage:
        signed = f"http://127.0.0.1:{storage.sockets[0].getsockname()[1]}/blob?Signature=SECRET"
        with pytest.raises(Unavailable, match="does not answer in HTTP: ") as caught:
            await blob(repository(transport, await serve(redirect(signed)), LOGIN))
    assert "SECRET" not in str(caught.value)


async def test_storage_that_refuses(serve: Serve, transport: Transport) -> None:
    async def storage(_: web.Request) -> web.Response:
        return web.Response(status=403, text="<xml>expired</xml>")

    with pytest.raises(Forbidden, match="denies access"):
        await blob(repository(transport, await serve(redirect(f"http://{await serve(storage)}/x")), LOGIN))


async def test_cancelling_a_download_closes_its_connection(serve: Serve, transport: Transport) -> None:
    gone = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(bytes(65536))
        finally:
            gone.set()

    async with AsyncExitStack() as stack:
        descriptor = Descriptor(media_type="x", digest=DIGEST, size=2**40)
        blobs = repository(transport, await serve(answer)).blobs
        answered = await stack.enter_async_context(blobs.range(descriptor, 0, descriptor.size))
        assert await anext(answered.chunks)
    await asyncio.wait_for(gone.wait(), 10)


async def test_json_answers_are_not_trusted_to_be_json(serve: Serve, transport: Transport) -> None:
    async def answer(request: web.Request) -> web.Response:
        if request.path == "/token":
            return web.Response(text=json.dumps({"no": "token"}))
        challenge = f'Bearer realm="http://{request.host}/token",service="x"'
        return web.Response(status=401, headers={"WWW-Authenticate": challenge}, text="not json")

    with pytest.raises(Unavailable, match="answers no token"):
        await repository(transport, await serve(answer)).manifest("1")


async def test_json_that_is_nested_without_end_is_an_error_like_others(
    tmp_path: Path, serve: Serve, transport: Transport
) -> None:
    """Hazard: 100 KB of brackets end a pull with an exception that nobody expects."""
    nested = '{"mediaType": ' + "[" * 100_000

    async def token(request: web.Request) -> web.Response:
        if request.path == "/token":
            return web.Response(text=nested)
        challenge = f'Bearer realm="http://{request.host}/token",service="x"'
        return web.Response(status=401, headers={"WWW-Authenticate": challenge})

    async def refusal(_request: web.Request) -> web.Response:
        return web.Response(status=403, text=nested)

    async def manifest(_request: web.Request) -> web.Response:
        return web.Response(text=nested, content_type="application/vnd.oci.image.manifest.v1+json")

    with pytest.raises(Unavailable, match="answers no token"):
        await repository(transport, await serve(token)).manifest("1")
    with pytest.raises(Forbidden):
        await repository(transport, await serve(refusal)).manifest("1")
    library = Library(tmp_path / "cache")
    try:
        with pytest.raises(InvalidInput, match="manifest is malformed"):
            await library.pull(f"{await serve(manifest)}/team/vm:1", [])
    finally:
        await library.close()
