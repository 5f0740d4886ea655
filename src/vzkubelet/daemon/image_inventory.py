"""What images this host has, for the node's status: looked at by interval and after each change."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence

from vzkubelet.errors import Error
from vzkubelet.images.usage import ImageUsage
from vzkubelet.model.node import ContainerImage
from vzkubelet.node import images

_log = logging.getLogger(__name__)
PERIOD_S = 30.0
"""Of the kubelet's cache of images."""

Look = Callable[[], Awaitable[Iterable[ContainerImage]]]


class ImageInventory:
    """`looks` are asked one after the other; one that fails keeps what it said last. `on_change` hears of changes."""

    def __init__(self, looks: Sequence[Look], limit: int, on_change: Callable[[], None] = lambda: None) -> None:
        self.on_change = on_change
        self._looks = looks
        self._limit = limit
        self._said: dict[Look, list[ContainerImage]] = {}
        self._listed: list[ContainerImage] | None = None
        self._wake = asyncio.Event()

    def listed(self) -> list[ContainerImage] | None:
        """As the status has them; None before the first look."""
        return self._listed

    def refresh(self) -> None:
        """Look again now."""
        self._wake.set()

    async def run(self) -> None:
        while True:
            self._wake.clear()
            await self._look()
            try:
                async with asyncio.timeout(PERIOD_S):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _look(self) -> None:
        for look in self._looks:
            try:
                self._said[look] = list(await look())
            except Error as exc:
                _log.debug("images not listed: %s", exc)
            except Exception:  # noqa: BLE001 - a bug of ours, which is no reason to end the agent
                _log.exception("images not listed, looking again in %.0f s", PERIOD_S)
        found = images.listed((image for said in self._said.values() for image in said), self._limit)
        if found != self._listed:
            self._listed = found
            self.on_change()


def machine_images(stored: Iterable[ImageUsage]) -> list[ContainerImage]:
    """By what pods' statuses call them, by the digests that their tags have at the registry, and by reference; with
    what they take of the volume."""
    return [ContainerImage(names=_names(image), size_bytes=image.allocated_bytes) for image in stored]


def _names(image: ImageUsage) -> list[str]:
    digests = [
        f"{pointer.repository}@{digest}"
        for pointer in image.references
        for digest in (pointer.manifest_digest, pointer.resolved_digest)
        if not image.record.adopted  # no registry knows the name of what came from a cache of files
    ]
    return list(dict.fromkeys([*digests, *(pointer.reference for pointer in image.references)]))
