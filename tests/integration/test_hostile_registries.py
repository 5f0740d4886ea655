"""Whole images from registries that cut, refuse, expire, throttle and lie: bit for bit, or a clear error, no trace."""

import asyncio
import contextlib
import gzip
import hashlib
import random
import struct
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from tests.cluster.registry import Registry
from tests.integration.test_image_commands import run
from tests.support.cluster_fixtures import StartRegistry
from tests.support.hostile_registry import (
    BlobRequest,
    Cut,
    Fault,
    Flipped,
    HostileRegistry,
    Long,
    One,
    OtherSize,
    Plan,
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
from tests.support.vm_images import LINUX, MIB, RawRepository, VmFiles, make_files
from vzkubelet.aio import cancel, spawn
from vzkubelet.errors import Error, Integrity, InvalidInput, NotFound, Unavailable
from vzkubelet.images import Library, Pusher, PushRequest, blobs
from vzkubelet.images.formats import agoda, tart
from vzkubelet.images.patience import Patience
from vzkubelet.images.push import FORMATS
from vzkubelet.images.transport import Transport
from vzkubelet.model.reference import parse
from vzkubelet.ports import RegistryCredential
from vzkubelet.wire import apple_lz4

LOGIN = RegistryCredential("ci", "secret")
DISK_BYTES, DATA_BYTES = 40 * MIB, 20 * MIB
MEMORY_LIMIT_BYTES = 200 * MIB


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many tries as ever, after short delays."""
    monkeypatch.setattr(Transport, "patience", Patience(delay_s=0.01, delay_max_s=0.1, read_timeout_s=5))


@dataclass
class World:
    """Images of every format in the real registry, the hostile one before it, and a host that pulls."""

    hostile: HostileRegistry
    files: VmFiles
    cache: Path
    library: Library
    name: str
    peak_bytes: int = 0
    errors: list[Error] = field(default_factory=list)

    @property
    def reference(self) -> str:
        return f"{self.hostile.host}/{self.name}:1"

    async def pull(self, credential: RegistryCredential | None = None) -> bool:
        """Whether what was pulled is what was pushed."""
        async with self._memory_watched():
            image = await self.library.pull(self.reference, [credential] if credential else [])
        return await asyncio.to_thread(self.files.same_as, image.disk, image.aux)

    def disk_bytes(self) -> int:
        return sum(path.lstat().st_blocks * 512 for path in self.cache.rglob("*") if path.is_file())

    @contextlib.asynccontextmanager
    async def _memory_watched(self) -> AsyncIterator[None]:
        process = psutil.Process()
        before = process.memory_info().rss

        async def watch() -> None:
            while True:
                self.peak_bytes = max(self.peak_bytes, process.memory_info().rss - before)
                await asyncio.sleep(0.01)

        watching = spawn(watch(), name="memory")
        try:
            yield
        finally:
            await cancel(watching)


async def put_images(host: str, name: str, files: VmFiles, format_: str, credential: RegistryCredential) -> None:
    pusher = Pusher(files.disk.parent, credential, progress=lambda _: None)
    try:
        await pusher.push(PushRequest(files.disk, files.aux, LINUX, format=format_), [parse(f"{host}/{name}:1")])
    finally:
        await pusher.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> VmFiles:
    return make_files(tmp_path_factory.mktemp("hostile"), size_bytes=DISK_BYTES, data_bytes=DATA_BYTES)


@pytest.fixture(scope="module")
def published(registry: Registry, files: VmFiles) -> Registry:
    """Has ``hostile/<format>:1`` for every format."""
    for format_ in FORMATS:
        asyncio.run(put_images(registry.host, f"hostile/{format_}", files, format_, RegistryCredential()))
    return registry


@pytest_asyncio.fixture(params=FORMATS)
async def world(
    request: pytest.FixtureRequest, tmp_path: Path, published: Registry, files: VmFiles
) -> AsyncIterator[World]:
    name, registry = f"hostile/{request.param}", published
    async with HostileRegistry(registry.url) as hostile:
        library = Library(tmp_path / "cache")
        made = World(hostile, files, tmp_path / "cache", library, name)
        yield made
        await library.close()


async def leaves_nothing_visible(world: World) -> None:
    assert await world.library.find(world.reference) is None
    assert world.disk_bytes() <= DATA_BYTES + 2 * MIB


# --- Right results


def throttled(request: BlobRequest) -> Fault | None:
    return Status(429, {"Retry-After": "0"}) if request.number % 3 == 1 else None


def forgets_ranges(request: BlobRequest) -> Fault | None:
    return Whole() if request.number >= 3 else None


def refuses_ranges(request: BlobRequest) -> Fault | None:
    return Status(416) if request.start is not None else None


def anything(seed: int) -> Plan:
    """Of all that a pull can come through, drawn by lot for every second request."""
    lots = random.Random(seed)

    def plan(request: BlobRequest) -> Fault | None:
        if lots.random() < 0.5:
            return None
        faults: list[Fault] = [
            Cut(lots.randrange(4 * MIB)),
            Status(429, {"Retry-After": "0"}),
            Status(500),
            Status(503),
            Shifted(lots.randrange(1, 5000)),
        ]
        if request.start is not None:  # of a whole blob, another length says that it is another one
            faults += [Short(lots.randrange(1, 5000)), Long(lots.randrange(1, 5000))]
        return lots.choice(faults)

    return plan


WAYS = {"one": One, "several": Several}
"""By one range at a time, or by several; which one is chosen depends on the load of the machine."""


@pytest.mark.parametrize(
    ("way", "plan"),
    [
        pytest.param("one", cuts(1, share=0.5, longest_bytes=4 * MIB), id="one-cuts"),
        pytest.param("several", cuts(2, share=0.5, longest_bytes=2 * MIB), id="several-cuts"),
        pytest.param("one", always(Whole()), id="no ranges"),
        pytest.param("several", always(Whole(is_chunked=True)), id="no ranges and no lengths"),
        pytest.param("several", forgets_ranges, id="forgets ranges"),
        pytest.param("one", refuses_ranges, id="refuses ranges"),
        pytest.param("several", throttled, id="throttled"),
        pytest.param("one", anything(7), id="one-anything"),
        pytest.param("several", anything(8), id="several-anything"),
    ],
)
async def test_comes_through(world: World, monkeypatch: pytest.MonkeyPatch, way: str, plan: Plan) -> None:
    monkeypatch.setattr(blobs, "Pace", WAYS[way])
    # Lots that fall badly are no reason to give up here: a few large requests meet them in a row.
    monkeypatch.setattr(Transport, "patience", Patience(attempts=20, delay_s=0.02))
    world.hostile.plan = plan
    assert await world.pull()
    assert world.peak_bytes <= MEMORY_LIMIT_BYTES
    assert world.disk_bytes() <= DATA_BYTES + 2 * MIB


async def test_connection_that_brings_nothing_more(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Transport, "patience", Patience(delay_s=0.01, read_timeout_s=0.5))
    world.hostile.plan = only({2, 4}, Stall(50_000))
    assert await world.pull()


@pytest.mark.parametrize("way", WAYS)
async def test_redirects_that_expire(world: World, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    monkeypatch.setattr(blobs, "Pace", WAYS[way])
    world.hostile.redirect_uses = 2
    assert await world.pull()
    assert not any("Authorization" in headers for headers in world.hostile.storage_headers)


@pytest.mark.parametrize("format_", FORMATS)
async def test_token_that_expires_in_the_middle(
    tmp_path: Path, registry_factory: StartRegistry, files: VmFiles, monkeypatch: pytest.MonkeyPatch, format_: str
) -> None:
    monkeypatch.setattr(blobs, "Pace", Several)
    async with TokenServer(tmp_path, username="ci", password="secret", identity_token="id") as tokens:
        registry = registry_factory(extra=tokens.registry_auth())
        await put_images(registry.host, "private/vm", files, format_, LOGIN)
        tokens.asked.clear()
        async with HostileRegistry(registry.url) as hostile:
            # More than requests are under way together: a token that is new is good.
            hostile.token_uses = 4 if format_ == "chunked" else 10
            library = Library(tmp_path / "cache")
            world = World(hostile, files, tmp_path / "cache", library, "private/vm")
            try:
                assert await world.pull(LOGIN)
            finally:
                await library.close()
        assert len(tokens.asked) > 1


# --- Clear errors


async def test_wrong_byte_on_the_way_is_noticed_or_mended(world: World) -> None:
    """A format that has a digest for every chunk asks for it once more, the others for the whole again next time."""
    world.hostile.plan = always(Flipped(300_000))  # the documents are shorter
    with pytest.raises(Integrity, match="damaged in the registry or on the way") as caught:
        await world.pull()
    assert world.reference in str(caught.value)
    await leaves_nothing_visible(world)
    world.hostile.plan = lambda _: None
    assert await world.pull()


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        (OtherSize(1), Integrity, "is longer than its"),
        (Whole(extra=b"more"), Integrity, "is longer than its"),
        (Whole(is_chunked=True, extra=b"more"), Integrity, "is longer than its"),
        (Cut(0), Unavailable, "broke"),
        (Short(100), Unavailable, "broke off after"),
        (Status(429), Unavailable, "limits the rate of requests"),
        (Status(500), Unavailable, "answers 500 for blob"),
        (Status(404), NotFound, "is missing at"),
    ],
)
async def test_fails_after_bounded_tries(
    world: World, monkeypatch: pytest.MonkeyPatch, fault: Fault, error: type[Error], words: str
) -> None:
    monkeypatch.setattr("vzkubelet.images.blobs.RETRY_AFTER_DEFAULT_S", 0.01)
    # The documents come as they should; so does the auxiliary storage, where it is small.
    applies = (lambda request: request.start is not None) if isinstance(fault, Short) else (lambda _: True)
    world.hostile.plan = lambda request: fault if request.number > 2 and applies(request) else None
    begun_s = time.monotonic()
    with pytest.raises(error, match=words) as caught:
        await world.pull()
    assert world.reference in str(caught.value)
    assert caught.value.reason == "ErrImagePull"
    assert time.monotonic() - begun_s < 30
    await leaves_nothing_visible(world)
    world.hostile.plan = lambda _: None
    assert await world.pull()


# --- Bombs


def gzip_of_zeros(size_bytes: int) -> bytes:
    """In members, which are one stream to any reader."""
    member_bytes = 16 * MIB
    return gzip.compress(bytes(member_bytes), 9, mtime=0) * (size_bytes // member_bytes)


Publish = Callable[[str, str, bytes, int | None], World]


@pytest_asyncio.fixture
async def bomb(tmp_path: Path, registry: Registry) -> AsyncIterator[Publish]:
    """Publishes an image with another blob in the place of its first layer of a media type."""
    name = f"hostile/{hashlib.sha256(str(tmp_path).encode()).hexdigest()[:12]}"
    files = make_compressible(tmp_path / "files")
    library = Library(tmp_path / "cache")
    async with HostileRegistry(registry.url) as hostile:
        for format_ in FORMATS:
            await put_images(registry.host, f"{name}/{format_}", files, format_, RegistryCredential())

        def publish(format_: str, media_type: str, blob: bytes, declared_bytes: int | None) -> World:
            repository = RawRepository(registry.url, f"{name}/{format_}")
            manifest = repository.manifest("1")
            layer = next(layer for layer in manifest["layers"] if media_type in layer["mediaType"])
            if layer["size"] > len(blob):
                blob += registry.blob_path(layer["digest"]).read_bytes()[len(blob) :]
            layer.update(digest=repository.put_blob(blob), size=len(blob))
            for annotation in (agoda.UNCOMPRESSED_SIZE, tart.RAW_SIZE):
                if declared_bytes is not None and annotation in layer["annotations"]:
                    layer["annotations"][annotation] = str(declared_bytes)
            repository.put_manifest("1", manifest)
            return World(hostile, files, tmp_path / "cache", library, f"{name}/{format_}")

        yield publish
        await library.close()


def make_compressible(directory: Path) -> VmFiles:
    """1 MiB of text: every chunk of it is compressed."""
    files = make_files(directory, size_bytes=MIB, data_bytes=0)
    files.disk.write_bytes(bytes(random.Random(3).choices(b"0123456789abcdef", k=MIB)))
    return files


async def goes_off(world: World, error: type[Error], words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        await world.pull()
    assert world.reference in str(caught.value)
    assert world.peak_bytes <= MEMORY_LIMIT_BYTES
    assert world.disk_bytes() <= 4 * MIB


@pytest.mark.parametrize(
    ("declared_bytes", "error", "words"),
    [
        (MIB, Integrity, f"is longer than {MIB} bytes"),  # stopped where it says it ends
        (1025 * MIB, Integrity, f"has {1024 * MIB} of {1025 * MIB} bytes"),  # written whole: zeros take no room
        (100 * 1024**3, InvalidInput, "cannot expand to"),  # gzip never gets that much out of it
        (2**62, InvalidInput, "cannot expand to"),
    ],
)
async def test_bomb_of_gzip(bomb: Publish, declared_bytes: int, error: type[Error], words: str) -> None:
    await goes_off(bomb("agoda", agoda.DISK, gzip_of_zeros(1024 * MIB), declared_bytes), error, words)


@pytest.mark.parametrize(
    ("blob", "words"),
    [
        pytest.param(lambda: apple_lz4.encode(bytes(256 * MIB)), "is longer than", id="many blocks"),
        pytest.param(
            lambda: b"bv41" + struct.pack("<II", 2**32 - 1, 1000) + bytes(1000) + b"bv4$",
            "a block of 4294967295 bytes",
            id="one block",
        ),
        pytest.param(
            lambda: b"bv4-" + struct.pack("<I", 2**32 - 1) + bytes(1000) + b"bv4$", "is longer than", id="stored block"
        ),
    ],
)
async def test_bomb_of_lz4(bomb: Publish, blob: Callable[[], bytes], words: str) -> None:
    await goes_off(bomb("tart", "disk.v2", blob(), None), Integrity, words)


@pytest.mark.parametrize("says_its_size", [False, True])
async def test_bomb_of_zstd(bomb: Publish, says_its_size: bool) -> None:
    """1 GiB of zeros as a frame in the place of a chunk's, with what is left of the pack behind it."""
    run = struct.pack("<I", 128 * 1024 << 3 | 1 << 1)[:3] + b"\0"  # RFC 8878, 3.1.1.2: a block of one byte repeated
    last = struct.pack("<I", 128 * 1024 << 3 | 1 << 1 | 1)[:3] + b"\0"
    head = b"\xc0" + b"\x38" + struct.pack("<Q", 1024 * MIB) if says_its_size else b"\x00" + b"\x38"
    frame = b"\x28\xb5\x2f\xfd" + head + run * 8191 + last
    assert len(frame) < 40_000
    await goes_off(bomb("chunked", "disk.pack", frame, None), Integrity, "does not expand to|is no zstd frame")


# --- The command line


async def test_command_line_comes_through(world: World, tmp_path: Path) -> None:
    world.hostile.plan = cuts(3, share=0.4, longest_bytes=4 * MIB)
    status, output = await run(tmp_path, "pull", "--platform", "linux/amd64", world.reference)
    assert status == 0, output
    image = await Library(tmp_path / "daemon" / "images").find(world.reference)
    assert image is not None
    assert await asyncio.to_thread(world.files.same_as, image.disk, image.aux)


async def test_command_line_says_what_is_wrong(world: World, tmp_path: Path) -> None:
    world.hostile.plan = always(OtherSize(1))
    status, output = await run(tmp_path, "pull", "--platform", "linux/amd64", world.reference)
    assert status == Integrity.exit_code, output
    assert f"error: {world.reference}: blob sha256:" in output
    assert "is longer than its" in output
    assert "Traceback" not in output
