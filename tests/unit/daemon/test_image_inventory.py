import asyncio
from collections.abc import Iterable

from vzkubelet import aio
from vzkubelet.daemon.image_inventory import ImageInventory, machine_images
from vzkubelet.errors import Unavailable
from vzkubelet.images import Listing
from vzkubelet.model.node import ContainerImage

A, B = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"


def listing(reference: str, digest: str, size_bytes: int) -> Listing:
    return Listing(reference, digest, "linux", "amd64", 2**40, size_bytes, "2026-11-21T00:00:00Z")


def test_references_to_one_image_are_its_names_behind_its_digests() -> None:
    found = machine_images(
        [
            listing("ghcr.io/a/b:1", A, 7),
            listing("ghcr.io/a/b:2", A, 7),
            listing("r.test/x:1", A, 7),
            listing("c:1", B, 9),
        ]
    )
    assert found == [
        ContainerImage(
            names=[f"ghcr.io/a/b@{A}", f"r.test/x@{A}", "ghcr.io/a/b:1", "ghcr.io/a/b:2", "r.test/x:1"], size_bytes=7
        ),
        ContainerImage(names=[f"docker.io/library/c@{B}", "docker.io/library/c:1"], size_bytes=9),
    ]


async def test_changes_are_told_and_an_engine_that_fails_keeps_its_last_word() -> None:
    """Hazard: the Docker engine restarts, and the node's status loses and regains fifty images."""
    docker: list[ContainerImage] | None = [ContainerImage(names=["d:1"], size_bytes=1)]
    machines = [ContainerImage(names=["m:1"], size_bytes=2)]
    changes = 0

    def changed() -> None:
        nonlocal changes
        changes += 1

    async def look_at_docker() -> Iterable[ContainerImage]:
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
    assert changes == 1
    machines.clear()
    inventory.refresh()
    await asyncio.sleep(1)
    assert [image.names for image in inventory.listed() or []] == [["d:1"]]
    assert changes == 2
    await aio.cancel(task)
