"""What images this host has, for the node's status: looked at by interval and after each change."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence

from vzkubelet.errors import Error
from vzkubelet.images import Listing
from vzkubelet.model.node import ContainerImage
from vzkubelet.model.reference import parse
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
        found = images.listed((image for said in self._said.values() for image in said), self._limit)
        if found != self._listed:
            self._listed = found
            self.on_change()


def machine_images(listings: Iterable[Listing]) -> list[ContainerImage]:
    """References that point to one image are names of it, behind its digest in each of their repositories."""
    by_image: dict[str, list[Listing]] = {}
    for listing in listings:
        by_image.setdefault(listing.manifest_digest, []).append(listing)
    found = []
    for digest, rows in by_image.items():
        references = [parse(row.reference) for row in rows]
        digests = [f"{reference.repository}@{digest}" for reference in references]
        names = [*digests, *(str(reference) for reference in references)]
        found.append(ContainerImage(names=list(dict.fromkeys(names)), size_bytes=rows[0].allocated_bytes))
    return found
