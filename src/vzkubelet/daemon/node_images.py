"""What a node does about images besides pulling them for its pods: ahead of pods, in its status, and with old ones."""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from vzkubelet import aio
from vzkubelet.config import Config
from vzkubelet.daemon import image_inventory
from vzkubelet.daemon.image_inventory import ImageInventory
from vzkubelet.daemon.image_keeper import ImageKeeper
from vzkubelet.daemon.parts import Parts
from vzkubelet.daemon.prepull import Prepull
from vzkubelet.model.node import ContainerImage
from vzkubelet.model.reference import parse
from vzkubelet.pods.worker import Worker
from vzkubelet.ports import MachineImage, Recorder


class NodeImages:
    """`workers` are those of the pods. Joins the loops; `inventory` is what the node's status lists."""

    def __init__(
        self, settings: Config, parts: Parts, recorder: Recorder, workers: Callable[[], Iterable[Worker]]
    ) -> None:
        self._parts = parts
        self._workers = workers
        self._wanted = settings.images.prepull
        self._old_cache: Path = settings.cache_dir
        self._library = parts.ahead_library(settings)
        parts.images_in_use = self.in_use
        self.inventory = ImageInventory((self._machine_images, self._container_images), settings.images.status_max)
        self._prepull = Prepull(
            self._wanted,
            settings.images.prepull_interval_s,
            self._pull_ahead,
            parts.pull_slots,
            recorder,
            parts.clock,
            on_change=self.inventory.refresh,
        )
        self._keeper = ImageKeeper(
            parts.upkeep,
            settings.images.scrub_interval_s,
            recorder,
            forget=self._forget,
            on_change=self.inventory.refresh,
            on_damage=self._prepull.refresh,
        )

    async def run(self) -> None:
        """For ever."""
        tasks = [
            aio.spawn(work, name=name, on_crash=lambda _: None)  # told by whoever awaits `run`
            for name, work in (
                ("images listed", self.inventory.run()),
                ("images ahead", self._prepull.run()),
                ("images kept", self._keeper.run(self._old_cache)),
            )
        ]
        try:
            await asyncio.gather(*tasks)
        finally:
            await aio.cancel(*tasks)

    async def close(self) -> None:
        if self._library is not self._parts.images:
            await self._library.close()

    def in_use(self) -> frozenset[str]:
        """References and image IDs that are not to be collected: of pods, and of the images that are to be here."""
        return frozenset((*self._wanted, *images_of(self._workers())))

    async def _pull_ahead(self, reference: str) -> MachineImage:
        """With the node's own logins. Like what a person pulls, it is nobody's secret among the pods of this host."""
        candidates = await self._parts.image_access.node_candidates(parse(reference))
        return await self._library.pull(reference, [candidate.login for candidate in candidates])

    async def _forget(self, before: float) -> None:
        await self._parts.image_access.prune(self._parts.image_finders(), before)

    async def _machine_images(self) -> list[ContainerImage]:
        return image_inventory.machine_images((await self._parts.upkeep.usage()).images)

    async def _container_images(self) -> list[ContainerImage]:
        return await self._parts.sidecars.listed_images()


def images_of(workers: Iterable[Worker]) -> Iterator[str]:
    """References and image IDs of pods that hold anything of their machine, be it one that has ended."""
    for worker in workers:
        if not worker.is_released:
            entry = worker.known.containers[0]
            yield entry.image
            if entry.image_id:  # what runs, wherever the tag has moved since
                yield entry.image_id
