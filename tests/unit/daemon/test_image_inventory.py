import asyncio
from collections.abc import Iterable

from vzkubelet import aio
from vzkubelet.daemon.image_inventory import ImageInventory, machine_images
from vzkubelet.errors import Unavailable
from vzkubelet.images import Machine
from vzkubelet.images.records import ContentRecord, ImageRecord, ReferenceRecord
from vzkubelet.images.usage import ImageUsage
from vzkubelet.model.node import ContainerImage
from vzkubelet.model.reference import parse

A, B, INDEX = (f"sha256:{letter * 64}" for letter in "abc")
LINUX = Machine("linux", "amd64")
CONTENT = ContentRecord("sha256:0", 1)


def stored(digest: str, size_bytes: int, *references: str, adopted: bool = False, index: str = "") -> ImageUsage:
    record = ImageRecord.of(digest, LINUX, CONTENT, CONTENT, adopted=adopted)
    pointers = tuple(
        ReferenceRecord(
            reference=name,
            repository=parse(name).repository,
            resolved_digest=index or digest,
            manifest_digest=digest,
            pulled_at="2026-11-21T00:00:00Z",
        )
        for name in references
    )
    return ImageUsage(record, pointers, 2**40, size_bytes, 0, 0.0, 0.0, is_pinned=False)


def test_references_to_one_image_are_its_names_behind_its_digests() -> None:
    found = machine_images([stored(A, 7, "ghcr.io/a/b:1", "ghcr.io/a/b:2", "r.test/x:1"), stored(B, 9, "r.test/c:1")])
    assert found == [
        ContainerImage(
            names=[f"ghcr.io/a/b@{A}", f"r.test/x@{A}", "ghcr.io/a/b:1", "ghcr.io/a/b:2", "r.test/x:1"], size_bytes=7
        ),
        ContainerImage(names=[f"r.test/c@{B}", "r.test/c:1"], size_bytes=9),
    ]


def test_an_image_out_of_an_index_has_both_digests() -> None:
    (found,) = machine_images([stored(A, 7, "r.test/x:1", index=INDEX)])
    assert found.names == [f"r.test/x@{A}", f"r.test/x@{INDEX}", "r.test/x:1"]


def test_an_adopted_image_has_no_digest_and_one_without_a_reference_no_name() -> None:
    assert [image.names for image in machine_images([stored(A, 7, "r.test/x:1", adopted=True), stored(B, 9)])] == [
        ["r.test/x:1"],
        [],
    ]


async def test_changes_are_told_and_an_engine_that_fails_keeps_its_last_word() -> None:
    """Hazard: the Docker engine restarts, and the node's status loses and regains fifty images."""
    docker: list[ContainerImage] | None = [ContainerImage(names=["d:1"], size_bytes=1)]
    machines = [ContainerImage(names=["m:1"], size_bytes=2)]
    changes, is_broken = 0, False

    def changed() -> None:
        nonlocal changes
        changes += 1

    async def look_at_docker() -> Iterable[ContainerImage]:
        if is_broken:
            raise RuntimeError("a bug")
        if docker is None:
            raise Unavailable("no engine")
        return docker

    async def look_at_machines() -> Iterable[ContainerImage]:
        return machines

    inventory = ImageInventory((look_at_machines, look_at_docker), 50, changed)
    assert inventory.listed() is None
    task = aio.spawn(inventory.run(), name="inventory")
    await asyncio.sleep(1)
    assert [image.names for image in inventory.listed() or []] == [["m:1"], ["d:1"]]
    docker = None
    await asyncio.sleep(100)
    is_broken = True
    await asyncio.sleep(100)
    assert changes == 1
    machines.clear()
    inventory.refresh()
    await asyncio.sleep(1)
    assert [image.names for image in inventory.listed() or []] == [["d:1"]]
    assert changes == 2
    await aio.cancel(task)
