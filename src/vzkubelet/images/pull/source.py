"""Where the bytes of a pull come from: blobs of one repository, as one row of bytes, at one pace."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from vzkubelet.images.ranges import RangedBlob
from vzkubelet.images.rate import RateLimit
from vzkubelet.images.registry import Repository
from vzkubelet.model.oci import Descriptor


@dataclass(frozen=True, slots=True)
class Source:
    """A repository, and how it may be asked."""

    repository: Repository
    concurrency: int = 8
    """Ranges on their way at the same time."""
    limit: RateLimit | None = None

    @property
    def name(self) -> str:
        return self.repository.name

    def blob(self, descriptor: Descriptor, concurrency: int | None = None) -> RangedBlob:
        return RangedBlob(self.repository, descriptor, concurrency=concurrency or self.concurrency, limit=self.limit)

    async def read(
        self, blobs: Sequence[Descriptor], start: int, concurrency: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        """The joined blobs from `start` on. Raises what `RangedBlob.read` does."""
        for descriptor in blobs:
            if start < descriptor.size:
                async with aclosing(self.blob(descriptor, concurrency).read(start)) as pieces:
                    async for piece in pieces:
                        yield piece
            start = max(0, start - descriptor.size)

    async def fetch(self, blobs: Sequence[Descriptor], start: int, end: int) -> bytes:
        """A few bytes of the joined blobs. Raises what `RangedBlob.fetch` does."""
        parts = []
        for descriptor in blobs:
            if start < descriptor.size and end > 0:
                parts.append(await self.blob(descriptor).fetch(max(0, start), min(end, descriptor.size)))
            start, end = start - descriptor.size, end - descriptor.size
        return b"".join(parts)
