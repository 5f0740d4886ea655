"""The obligations of `ports.MachineImages`, checked on the real library with a real registry and on the fake."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import pytest_asyncio

from tests.cluster.registry import BasicAuth, Registry
from tests.support.cluster_fixtures import StartRegistry
from tests.support.memory_images import MemoryImages, MemoryRegistry, Published
from tests.support.registry_proxy import RegistryProxy
from tests.support.vm_images import LINUX, RawRepository, make_files, push
from vzkubelet.aio import spawn
from vzkubelet.errors import Integrity, InvalidInput, NotFound, Unauthenticated, Unavailable
from vzkubelet.images import Library
from vzkubelet.ports import ImageDefaults, MachineImages, PullProgress, RegistryCredential

LOGIN = RegistryCredential("puller", "right")
WRONG = RegistryCredential("puller", "wrong")
CMD = ImageDefaults(entrypoint=("/init",), cmd=("-v",), env=(("A", "b"),), working_dir="/srv", user="ci")


@dataclass(frozen=True, slots=True)
class Expected:
    """A published image: where, and the bytes of its disk."""

    reference: str
    disk: bytes


class World(ABC):
    """An implementation with its registry."""

    @abstractmethod
    def images(self) -> MachineImages:
        """A new object on the host's one store, as after a restart of the daemon."""

    @abstractmethod
    async def publish(self, name: str, seed: int = 1, *, private: bool = False) -> Expected: ...

    @abstractmethod
    async def publish_container(self, name: str) -> str: ...

    @abstractmethod
    def damage(self, image: Expected) -> None:
        """Change the disk's blob in the registry; once more repairs it."""

    @abstractmethod
    def set_down(self, down: bool) -> None: ...

    @abstractmethod
    async def held(self) -> None:
        """From now on transfers stop half way; returns when one has."""

    @abstractmethod
    def let_go(self) -> None: ...

    @abstractmethod
    def hold(self) -> None: ...

    @abstractmethod
    def transfers(self) -> int:
        """Disks moved so far."""

    @abstractmethod
    def leftovers(self) -> list[Path]:
        """Files that belong to no visible image."""


class RealWorld(World):
    def __init__(self, tmp: Path, registry: Registry, secured: Registry, proxy: RegistryProxy) -> None:
        self._tmp, self._registry, self._secured, self._proxy = tmp, registry, secured, proxy
        self.opened: list[Library] = []
        self._disks: set[str] = set()

    def images(self) -> MachineImages:
        library = Library(self._tmp / "cache")
        self.opened.append(library)
        return library

    def _path(self, name: str) -> str:
        return f"{self._tmp.name.lower()}/{name}"

    async def publish(self, name: str, seed: int = 1, *, private: bool = False) -> Expected:
        files = make_files(self._tmp / "files", seed)
        path = self._path(name)
        if private:
            reference = f"{self._secured.host}/{path}"
            await push(files, reference, credential=LOGIN)
            return Expected(reference, files.disk.read_bytes())
        config: dict[str, object] = {
            "config": {"Entrypoint": ["/init"], "Cmd": ["-v"], "Env": ["A=b"], "WorkingDir": "/srv", "User": "ci"}
        }
        machine = replace(LINUX, cpu_min=2, memory_min_bytes=2**30)
        await push(files, f"{self._registry.host}/{path}", machine=machine, image_config=config)
        repository, _, tag = path.partition(":")
        self._disks.add(RawRepository(self._registry.url, repository).layer_digest(tag or "latest", "disk"))
        return Expected(f"{self._proxy.host}/{path}", files.disk.read_bytes())

    async def publish_container(self, name: str) -> str:
        path = self._path(name)
        repository = RawRepository(self._registry.url, path)
        digest = repository.put_blob(b"{}")
        config = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest, "size": 2}
        repository.put_manifest("latest", {"schemaVersion": 2, "config": config, "layers": []})
        return f"{self._proxy.host}/{path}"

    def damage(self, image: Expected) -> None:
        repository = RawRepository(self._registry.url, image.reference.partition("/")[2])
        self._registry.corrupt_blob(repository.layer_digest("latest", "disk"), offset=100_000)

    def set_down(self, down: bool) -> None:
        self._proxy.is_down = down

    def hold(self) -> None:
        self._proxy.hold_after_bytes = 500_000

    async def held(self) -> None:
        await asyncio.wait_for(self._proxy.held.wait(), 20)

    def let_go(self) -> None:
        self._proxy.release.set()

    def transfers(self) -> int:
        return sum(digest in self._disks for digest in self._proxy.blob_downloads())

    def leftovers(self) -> list[Path]:
        return [path for path in (self._tmp / "cache" / "staging").rglob("*") if path.is_file()]


class MemoryWorld(World):
    def __init__(self, tmp: Path) -> None:
        self._tmp = tmp
        self._registry = MemoryRegistry()

    def images(self) -> MachineImages:
        return MemoryImages(self._tmp / "store", self._registry)

    async def publish(self, name: str, seed: int = 1, *, private: bool = False) -> Expected:
        reference = f"memory.test/{name}"
        image = Published(
            make_files(self._tmp / "files", seed).disk.read_bytes(),
            defaults=CMD,
            cpu_min=2,
            memory_min_bytes=2**30,
            login=LOGIN if private else None,
        )
        self._registry.publish(reference, image)
        return Expected(reference, image.disk)

    async def publish_container(self, name: str) -> str:
        self._registry.publish(f"memory.test/{name}", Published(b"", is_machine=False))
        return f"memory.test/{name}"

    def damage(self, image: Expected) -> None:
        self._registry.damaged ^= {self._registry.images[f"{image.reference}:latest"].digest}

    def set_down(self, down: bool) -> None:
        self._registry.is_down = down

    def hold(self) -> None:
        self._registry.hold = True

    async def held(self) -> None:
        await self._registry.held.wait()

    def let_go(self) -> None:
        self._registry.release.set()

    def transfers(self) -> int:
        return self._registry.transfers

    def leftovers(self) -> list[Path]:
        return []


@pytest_asyncio.fixture(params=["real", "memory"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    if request.param == "memory":
        yield MemoryWorld(tmp_path)
        return
    registry: Registry = request.getfixturevalue("registry")
    start: StartRegistry = request.getfixturevalue("registry_factory")
    # Only the tests of logins need a second registry; starting one takes a quarter of a second.
    needs_login = "login" in request.node.name
    secured = start(basic_auth=BasicAuth(LOGIN.username, LOGIN.password)) if needs_login else registry
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(RegistryProxy(registry.url))
        real = RealWorld(tmp_path, registry, secured, proxy)
        yield real
        for library in real.opened:
            await library.close()


async def test_what_was_never_pulled_is_not_found_and_nobody_is_asked(world: World) -> None:
    image = await world.publish("vm")
    world.set_down(True)
    assert await world.images().find(image.reference) is None


async def test_pulled_image_is_whole_and_found_again(world: World) -> None:
    published = await world.publish("vm")
    images = world.images()
    pulled = await images.pull(published.reference, [])
    assert pulled.disk.read_bytes() == published.disk
    assert pulled.disk_size_bytes == len(published.disk)
    assert pulled.disk.stat().st_mode & 0o222 == 0
    assert pulled.aux.stat().st_mode & 0o222 == 0
    assert pulled.size_bytes == len(published.disk) + pulled.aux.stat().st_size
    assert pulled.image_id == f"{published.reference}@{pulled.manifest_digest}"
    assert (pulled.os, pulled.architecture) == ("linux", "amd64")
    assert pulled.defaults == CMD
    assert (pulled.cpu_min, pulled.memory_min_bytes) == (2, 2**30)
    world.set_down(True)
    assert await images.find(published.reference) == pulled
    assert await world.images().find(published.reference) == pulled


async def test_short_and_full_reference_are_the_same(world: World) -> None:
    published = await world.publish("vm")
    images = world.images()
    pulled = await images.pull(published.reference, [])
    assert await images.find(f"{published.reference}:latest") == pulled
    assert await images.find(f"{published.reference}:other") is None


async def test_digest_reference_means_the_image_of_that_digest(world: World) -> None:
    published = await world.publish("vm")
    images = world.images()
    pulled = await images.pull(published.reference, [])
    by_digest = await images.find(pulled.image_id)
    assert by_digest is not None
    assert by_digest.image_id == pulled.image_id
    assert (await images.pull(pulled.image_id, [])).disk == pulled.disk
    assert await images.find(f"{published.reference}@sha256:{'0' * 64}") is None


async def test_progress_grows_to_the_total(world: World) -> None:
    published = await world.publish("vm")
    heard: list[PullProgress] = []
    await world.images().pull(published.reference, [], heard.append)
    done = [progress.done_bytes for progress in heard]
    assert done == sorted(done)
    assert heard[-1].done_bytes == heard[-1].total_bytes > 0


async def test_second_pull_moves_nothing(world: World) -> None:
    published = await world.publish("vm")
    images = world.images()
    first = await images.pull(published.reference, [])
    assert await world.images().pull(published.reference, []) == first
    assert world.transfers() == 1


async def test_moved_tag_is_resolved_again(world: World) -> None:
    published = await world.publish("vm", seed=1)
    images = world.images()
    old = await images.pull(published.reference, [])
    newer = await world.publish("vm", seed=2)
    found = await images.find(published.reference)
    assert found is not None
    assert found.image_id == old.image_id
    new = await images.pull(published.reference, [])
    assert new.image_id != old.image_id
    assert new.disk.read_bytes() == newer.disk
    assert await images.find(published.reference) == new
    assert old.disk.read_bytes() == published.disk


async def test_pull_always_asks_the_registry(world: World) -> None:
    published = await world.publish("vm")
    images = world.images()
    pulled = await images.pull(published.reference, [])
    world.set_down(True)
    with pytest.raises(Unavailable) as caught:
        await images.pull(published.reference, [])
    assert caught.value.reason == "ErrImagePull"
    assert await images.find(published.reference) == pulled


@pytest.mark.parametrize("malformed", ["team/UPPER", "", "a b", "vm:tag:tag"])
async def test_malformed_name(world: World, malformed: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        await world.images().pull(malformed, [])
    assert caught.value.reason == "InvalidImageName"
    assert f'couldn\'t parse image name "{malformed}"' in str(caught.value)


async def test_missing_tag(world: World) -> None:
    published = await world.publish("vm")
    with pytest.raises(NotFound) as caught:
        await world.images().pull(f"{published.reference}:nope", [])
    assert caught.value.reason == "ErrImagePull"
    assert f"{published.reference}:nope" in str(caught.value)


async def test_ordinary_container_image(world: World) -> None:
    reference = await world.publish_container("app")
    images = world.images()
    with pytest.raises(InvalidInput, match="ordinary container image") as caught:
        await images.pull(reference, [])
    assert caught.value.reason == "ErrImagePull"
    assert await images.find(reference) is None


@pytest.mark.parametrize("credentials", [[], [WRONG], [WRONG, RegistryCredential("nobody", "x")]])
async def test_login_refused(world: World, credentials: list[RegistryCredential]) -> None:
    published = await world.publish("vm", private=True)
    images = world.images()
    with pytest.raises(Unauthenticated) as caught:
        await images.pull(published.reference, credentials)
    assert caught.value.reason == "ErrImagePull"
    assert published.reference in str(caught.value)
    assert "wrong" not in str(caught.value)
    assert await images.find(published.reference) is None


async def test_every_login_is_tried(world: World) -> None:
    published = await world.publish("vm", private=True)
    pulled = await world.images().pull(published.reference, [WRONG, LOGIN])
    assert pulled.disk.read_bytes() == published.disk


async def test_damaged_image_is_never_visible_and_pulled_when_repaired(world: World) -> None:
    published = await world.publish("vm", seed=77)
    world.damage(published)
    images = world.images()
    with pytest.raises(Integrity) as caught:
        await images.pull(published.reference, [])
    assert caught.value.reason == "ErrImagePull"
    assert await images.find(published.reference) is None
    assert world.leftovers() == []
    world.damage(published)
    assert (await images.pull(published.reference, [])).disk.read_bytes() == published.disk


async def test_pulls_at_the_same_time_share_the_work(world: World) -> None:
    published = await world.publish("vm")
    images = world.images()
    world.hold()
    pulls = [spawn(images.pull(published.reference, []), name="pull") for _ in range(5)]
    await world.held()
    world.let_go()
    assert len({str(pulled.disk) for pulled in await asyncio.gather(*pulls)}) == 1
    assert world.transfers() == 1


async def test_cancelled_pull_leaves_nothing_and_one_that_waits_goes_on(world: World) -> None:
    published = await world.publish("vm")
    images = world.images()
    world.hold()
    first, second = (spawn(images.pull(published.reference, []), name="pull") for _ in range(2))
    await world.held()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert await images.find(published.reference) is None
    world.let_go()
    assert (await second).disk.read_bytes() == published.disk


async def test_pull_after_the_only_one_was_cancelled(world: World) -> None:
    published = await world.publish("vm")
    images = world.images()
    world.hold()
    pull = spawn(images.pull(published.reference, []), name="pull")
    await world.held()
    pull.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pull
    assert await images.find(published.reference) is None
    world.let_go()
    assert (await images.pull(published.reference, [])).disk.read_bytes() == published.disk
    assert world.leftovers() == []
