"""Parts of blobs from registries that cut, refuse, expire, throttle and lie: the right bytes, or a clear error."""

import asyncio
import email.utils
import hashlib
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path

import pytest
import pytest_asyncio

from tests.cluster.registry import Registry
from tests.support.cluster_fixtures import StartRegistry
from tests.support.hostile_registry import (
    BlobRequest,
    Challenge,
    Cut,
    Fault,
    HostileRegistry,
    Long,
    OtherSize,
    Several,
    Shifted,
    Short,
    Stall,
    Status,
    Whole,
    always,
    cuts,
    only,
)
from tests.support.token_server import TokenServer
from tests.support.vm_images import MIB, RawRepository
from vzkubelet.errors import Error, Forbidden, Integrity, NotFound, Unauthenticated, Unavailable
from vzkubelet.images.patience import Patience
from vzkubelet.images.ranges import WINDOW_BYTES, RangedBlob
from vzkubelet.images.rate import RateLimit
from vzkubelet.images.registry import Repository
from vzkubelet.images.throttling import Holds
from vzkubelet.images.transport import Transport
from vzkubelet.model.oci import Descriptor
from vzkubelet.model.reference import parse
from vzkubelet.ports import RegistryCredential

CONTENT = random.Random(5).randbytes(20 * MIB + 12345)
DIGEST = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
DESCRIPTOR = Descriptor(media_type="x", digest=DIGEST, size=len(CONTENT))
QUICK = Patience(delay_s=0.01, delay_max_s=0.05, read_timeout_s=10)
LOGIN = RegistryCredential("ci", "secret")
Ranged = Callable[..., RangedBlob]


@pytest_asyncio.fixture
async def hostile(registry: Registry) -> AsyncIterator[HostileRegistry]:
    await asyncio.to_thread(RawRepository(registry.url, "ranges/vm").put_blob, CONTENT)
    async with HostileRegistry(registry.url) as started:
        yield started


@pytest_asyncio.fixture
async def transport() -> AsyncIterator[Transport]:
    opened = Transport()
    yield opened
    await opened.close()


@pytest.fixture(params=["one", "several"])
def ranged(hostile: HostileRegistry, transport: Transport, request: pytest.FixtureRequest) -> Ranged:
    """Makes a blob that is read by one range at a time, or by several."""

    def make(*, limit: RateLimit | None = None, patience: Patience = QUICK, concurrency: int = 8) -> RangedBlob:
        repository = Repository(transport, parse(f"{hostile.host}/ranges/vm:1"), RegistryCredential())
        if request.param == "several":
            repository.blobs.pace = Several()
        else:
            concurrency = 1
        return RangedBlob(repository, DESCRIPTOR, concurrency=concurrency, limit=limit, patience=patience)

    return make


async def read(blob: RangedBlob, start: int = 0, end: int | None = None) -> bytes:
    async with aclosing(blob.read(start, end)) as pieces:
        return b"".join([piece async for piece in pieces])


async def test_parts_of_every_kind(hostile: HostileRegistry, ranged: Ranged) -> None:
    size = len(CONTENT)
    for start, end in ((0, size), (0, 0), (0, 1), (size - 1, size), (7, WINDOW_BYTES + 9), (3 * MIB, 3 * MIB + 5)):
        assert await read(ranged(), start, end) == CONTENT[start:end]
        assert await ranged().fetch(start, end) == CONTENT[start:end]
    assert await read(ranged(), size - 10) == CONTENT[-10:]
    assert not hostile.storage_headers


async def test_all_ranges_are_closed_and_each_byte_is_asked_for_once(hostile: HostileRegistry, ranged: Ranged) -> None:
    assert await read(ranged()) == CONTENT
    asked = sorted((seen.start or 0, seen.end or 0) for seen in hostile.seen)
    assert [start for start, _ in asked] == [0, *[end for _, end in asked][:-1]]
    assert asked[-1][1] == len(CONTENT)
    assert hostile.sent_bytes == len(CONTENT)


async def test_several_at_a_time_hold_no_more_than_the_window(hostile: HostileRegistry, transport: Transport) -> None:
    repository = Repository(transport, parse(f"{hostile.host}/ranges/vm:1"), RegistryCredential())
    repository.blobs.pace = Several()
    taken = 0
    async with aclosing(RangedBlob(repository, DESCRIPTOR, concurrency=8, patience=QUICK).read()) as pieces:
        async for piece in pieces:
            taken += len(piece)
            furthest = max(seen.end or 0 for seen in hostile.seen)
            assert furthest - taken <= WINDOW_BYTES
            await asyncio.sleep(0.001)  # a consumer that is slower than the registry
    assert len(hostile.seen) == -(-len(CONTENT) // MIB)


# --- Connections


@pytest.mark.parametrize("seed", range(3))
async def test_connections_cut_at_random(hostile: HostileRegistry, ranged: Ranged, seed: int) -> None:
    hostile.plan = cuts(seed, share=0.5, longest_bytes=2 * MIB)
    assert await read(ranged()) == CONTENT
    # It goes on where it broke off: what is sent twice is what was in socket buffers.
    assert hostile.sent_bytes < 1.6 * len(CONTENT)


async def test_fetch_goes_on_where_it_broke_off(hostile: HostileRegistry, ranged: Ranged) -> None:
    hostile.plan = only({0, 1, 2}, Cut(MIB))
    assert await ranged().fetch(MIB, 10 * MIB) == CONTENT[MIB : 10 * MIB]
    starts = [seen.start or 0 for seen in hostile.seen]
    assert starts == sorted(starts)
    assert len(set(starts)) == 4


async def test_registry_that_always_cuts_fails_after_bounded_tries(hostile: HostileRegistry, ranged: Ranged) -> None:
    hostile.plan = always(Cut(0))
    with pytest.raises(Unavailable, match=r"127.*/ranges/vm:1: the connection to 127.* broke"):
        await read(ranged())
    assert len(hostile.seen) <= 8 * QUICK.attempts
    assert max(starts_of(hostile).values()) == QUICK.attempts


async def test_a_byte_at_a_time_is_no_progress(hostile: HostileRegistry, ranged: Ranged) -> None:
    hostile.plan = always(Cut(1))
    with pytest.raises(Unavailable):
        await read(ranged())
    assert len(hostile.seen) <= 8 * QUICK.attempts


async def test_connection_without_a_byte_is_given_up_and_made_anew(hostile: HostileRegistry, ranged: Ranged) -> None:
    hostile.plan = only({1}, Stall(100_000))
    begun_s = time.monotonic()
    assert await read(ranged(patience=Patience(delay_s=0.01, read_timeout_s=0.5))) == CONTENT
    assert time.monotonic() - begun_s < 10


async def test_blob_that_ends_early_without_saying_so(hostile: HostileRegistry, ranged: Ranged) -> None:
    hostile.plan = only({0, 2, 3}, Short(1000))
    assert await read(ranged()) == CONTENT


async def test_registry_that_is_gone(transport: Transport, registry_factory: StartRegistry) -> None:
    registry = registry_factory()
    repository = Repository(transport, parse(f"{registry.host}/vm:1"), RegistryCredential())
    registry.stop()
    with pytest.raises(Unavailable, match="cannot be reached"):
        await RangedBlob(repository, DESCRIPTOR, patience=QUICK).fetch(0, 10)


# --- Ranges that are none


def starts_of(hostile: HostileRegistry) -> dict[int | None, int]:
    starts = [seen.start for seen in hostile.seen]
    return {start: starts.count(start) for start in starts}


@pytest.mark.parametrize("fault", [Whole(), Whole(is_chunked=True)])
async def test_server_without_ranges_is_read_as_one_stream(
    hostile: HostileRegistry, ranged: Ranged, fault: Fault
) -> None:
    hostile.plan = always(fault)
    assert await read(ranged(), 5 * MIB + 1, 17 * MIB) == CONTENT[5 * MIB + 1 : 17 * MIB]
    hostile.seen.clear()
    assert await ranged().fetch(MIB + 1, 2 * MIB) == CONTENT[MIB + 1 : 2 * MIB]
    assert len(hostile.seen) == 1


async def test_server_that_forgets_ranges_half_way(hostile: HostileRegistry, ranged: Ranged) -> None:
    hostile.plan = lambda request: Whole() if request.number >= 2 else None
    assert await read(ranged()) == CONTENT
    whole = [seen for seen in hostile.seen if seen.number >= 2]
    assert len(whole) <= 9  # those under way together, and the one that is kept


async def test_stream_without_ranges_that_breaks_off_is_read_again(hostile: HostileRegistry, ranged: Ranged) -> None:
    def plan(request: BlobRequest) -> Fault:
        return Whole() if request.number != 0 else Cut(1)

    hostile.plan = plan
    assert await read(ranged()) == CONTENT


@pytest.mark.parametrize("fault", [Status(416), Status(416, {"Content-Range": f"bytes */{len(CONTENT)}"})])
async def test_server_that_refuses_ranges(hostile: HostileRegistry, ranged: Ranged, fault: Fault) -> None:
    hostile.plan = lambda request: fault if request.start is not None else None
    assert await read(ranged()) == CONTENT


async def test_another_range_than_asked_for_is_not_taken(hostile: HostileRegistry, ranged: Ranged) -> None:
    hostile.plan = only({1}, Shifted(4096))
    assert await read(ranged(), 0, 19 * MIB) == CONTENT[: 19 * MIB]
    hostile.plan = lambda request: Shifted(1) if request.start else None
    with pytest.raises(Unavailable, match=r"answers another range of blob sha256:.* than it was asked for"):
        await read(ranged(), MIB, 2 * MIB)


async def test_longer_answer_than_asked_for_is_cut(hostile: HostileRegistry, ranged: Ranged) -> None:
    hostile.plan = always(Long(100_000))
    assert await read(ranged(), 0, 15 * MIB) == CONTENT[: 15 * MIB]
    assert await ranged().fetch(0, 100) == CONTENT[:100]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (OtherSize(1), f"is longer than its {len(CONTENT)} bytes: damaged in the registry or on the way"),
        (OtherSize(-1), f"ends after {len(CONTENT) - 1} bytes: damaged in the registry or on the way"),
        (Whole(extra=b"x"), f"is longer than its {len(CONTENT)} bytes"),
        (Whole(is_chunked=True, extra=b"x"), f"is longer than its {len(CONTENT)} bytes"),
    ],
)
async def test_blob_of_another_size_fails_at_once(
    hostile: HostileRegistry, ranged: Ranged, fault: Fault, words: str
) -> None:
    hostile.plan = always(fault)
    with pytest.raises(Integrity, match=words):
        await read(ranged())
    assert len(hostile.seen) <= 9  # those under way together, and one stream of which only the end told


# --- Answers that no other try can mend


@pytest.mark.parametrize(("status", "error"), [(404, NotFound), (403, Forbidden), (401, Unauthenticated)])
async def test_final_answers_are_not_asked_for_twice(
    hostile: HostileRegistry, ranged: Ranged, status: int, error: type[Error]
) -> None:
    hostile.plan = always(Status(status))
    with pytest.raises(error, match="/ranges/vm:1") as caught:
        await ranged().fetch(5, 10)
    assert len(hostile.seen) == 1
    assert caught.value.reason == "ErrImagePull"


async def test_final_answer_in_the_middle(hostile: HostileRegistry, ranged: Ranged) -> None:
    hostile.plan = lambda request: Status(404) if (request.start or 0) >= 9 * MIB else Cut(12 * MIB)
    received = bytearray()

    async def receive() -> None:
        async with aclosing(ranged().read()) as pieces:
            async for piece in pieces:
                received.extend(piece)

    with pytest.raises(NotFound, match="is missing at"):
        await receive()
    assert len(received) >= 8 * MIB
    assert CONTENT.startswith(received)


# --- Throttling


@pytest.mark.parametrize(("status", "is_date"), [(429, False), (503, True)])
async def test_retry_after_holds_all_ranges_of_the_registry(
    hostile: HostileRegistry, ranged: Ranged, status: int, is_date: bool
) -> None:
    refused_at_s: list[float] = []
    asked_at_s: list[float] = []

    def plan(request: BlobRequest) -> Fault | None:
        asked_at_s.append(time.monotonic())
        if request.number != 2:
            return None
        refused_at_s.append(time.monotonic())
        wanted = email.utils.formatdate(time.time() + 3, usegmt=True) if is_date else "2"
        return Status(status, {"Retry-After": wanted})

    hostile.plan = plan
    assert await read(ranged()) == CONTENT
    later = [at_s - refused_at_s[0] for at_s in asked_at_s if at_s > refused_at_s[0] + 0.5]
    assert later
    assert min(later) >= 1.9  # whole seconds, in a date


async def test_throttled_for_ever(hostile: HostileRegistry, ranged: Ranged) -> None:
    hostile.plan = always(Status(429, {"Retry-After": "0"}))
    with pytest.raises(Unavailable, match="limits the rate of requests"):
        await read(ranged())
    assert len(hostile.seen) <= 8 * QUICK.attempts


async def test_one_request_at_a_time_allowed(
    hostile: HostileRegistry, ranged: Ranged, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every second request is refused, for a hundredth of what the registry says."""
    hold = Holds.hold
    monkeypatch.setattr(Holds, "hold", lambda self, host, duration_s: hold(self, host, duration_s / 100))
    hostile.plan = lambda request: Status(429, {"Retry-After": "1"}) if request.number % 2 else None
    assert await read(ranged()) == CONTENT


async def test_rate_limit(hostile: HostileRegistry, ranged: Ranged) -> None:
    begun_s = time.monotonic()
    limit = RateLimit(20 * MIB)
    assert await read(ranged(limit=limit), 0, 10 * MIB) == CONTENT[: 10 * MIB]
    elapsed_s = time.monotonic() - begun_s
    assert elapsed_s >= 0.2  # without what the bucket holds at the beginning
    assert hostile.sent_bytes == 10 * MIB


# --- Redirects and tokens


async def test_redirects_that_expire(hostile: HostileRegistry, ranged: Ranged) -> None:
    hostile.redirect_uses = 3
    hostile.plan = cuts(1, share=0.3, longest_bytes=MIB)
    assert await read(ranged()) == CONTENT
    assert len(hostile.storage_headers) > 3
    assert not any("Authorization" in headers for headers in hostile.storage_headers)


async def test_redirect_is_asked_for_once_while_it_works(
    hostile: HostileRegistry, ranged: Ranged, registry: Registry
) -> None:
    hostile.redirect_uses = 1000
    blob = ranged()
    assert await blob.fetch(0, MIB) == CONTENT[:MIB]
    hostile.redirect_uses = None  # a blob that is asked for at the registry would now come from it
    hostile_seen = len(hostile.storage_headers)
    hostile.redirect_uses = 1000
    assert await read(blob) == CONTENT
    assert len(hostile.storage_headers) - hostile_seen == len(hostile.seen) - 1


async def test_storage_that_refuses_a_fresh_redirect(hostile: HostileRegistry, ranged: Ranged) -> None:
    hostile.redirect_uses = 0
    with pytest.raises(Forbidden, match="denies access to blob sha256"):
        await ranged().fetch(0, 10)
    assert len(hostile.storage_headers) == 1


@pytest_asyncio.fixture
async def tokens(tmp_path: Path) -> AsyncIterator[TokenServer]:
    async with TokenServer(tmp_path, username="ci", password="secret", identity_token="id-token") as server:
        yield server


@pytest_asyncio.fixture
async def private(
    tmp_path: Path, tokens: TokenServer, registry_factory: StartRegistry, transport: Transport
) -> AsyncIterator[HostileRegistry]:
    """Before a registry that wants a token for everything."""
    registry = registry_factory(extra=tokens.registry_auth())
    repository = Repository(transport, parse(f"{registry.host}/ranges/vm:1"), LOGIN, push=True)
    upload = await repository.begin_upload()
    await upload.send(CONTENT)
    await upload.finish(DIGEST)
    tokens.asked.clear()
    async with HostileRegistry(registry.url) as started:
        yield started


async def test_token_that_expires_in_the_middle_is_got_anew_once_for_all_ranges(
    private: HostileRegistry, tokens: TokenServer, transport: Transport
) -> None:
    private.token_uses = 10
    repository = Repository(transport, parse(f"{private.host}/ranges/vm:1"), LOGIN)
    repository.blobs.pace = Several()
    assert await read(RangedBlob(repository, DESCRIPTOR, patience=QUICK)) == CONTENT
    requests = -(-len(CONTENT) // MIB)
    assert len(tokens.asked) == -(-requests // private.token_uses)


async def test_token_that_is_refused_in_the_middle_is_final(
    private: HostileRegistry, tokens: TokenServer, transport: Transport
) -> None:
    private.plan = lambda request: Challenge() if (request.start or 0) >= 3 * MIB else None
    repository = Repository(transport, parse(f"{private.host}/ranges/vm:1"), LOGIN)
    repository.blobs.pace = Several()
    with pytest.raises(Unauthenticated, match='refuses the login of user "ci"'):
        await read(RangedBlob(repository, DESCRIPTOR, patience=QUICK))
    assert len(tokens.asked) <= 1 + 8  # each range asks at most once


# --- Ends


async def test_closing_in_the_middle_leaves_nothing(hostile: HostileRegistry, ranged: Ranged) -> None:
    before = asyncio.all_tasks()
    async with aclosing(ranged().read()) as pieces:
        assert await anext(pieces)
    assert not [task for task in asyncio.all_tasks() - before if task.get_name().startswith("bytes ")]


async def test_cancelling_in_the_middle_leaves_nothing(hostile: HostileRegistry, ranged: Ranged) -> None:
    hostile.plan = lambda request: Stall(10) if (request.start or 0) > 0 else None
    before = asyncio.all_tasks()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await read(ranged(), 5)
    assert not [task for task in asyncio.all_tasks() - before if task.get_name().startswith("bytes ")]
