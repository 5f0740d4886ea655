"""Who waits for somebody else's download, and does not share his refusal."""

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

from vzkubelet.aio import spawn
from vzkubelet.errors import Error, Forbidden, NotFound, Unauthenticated, Unavailable
from vzkubelet.images.fetches import Fetches
from vzkubelet.images.formats.artifact import Encoding, single
from vzkubelet.images.records import ContentRecord
from vzkubelet.images.registry import Repository
from vzkubelet.images.store import Store
from vzkubelet.model.oci import Descriptor

RAW = f"sha256:{'a' * 64}"
CONTENT = single(Descriptor(media_type="disk", digest=f"sha256:{'b' * 64}", size=5), Encoding.GZIP, 7, RAW)
RECORD = ContentRecord(RAW, 7)
REFUSED, WELCOME = cast(Repository, "refused"), cast(Repository, "welcome")


class Scripted(Fetches):
    """Ends the first download with `fault` once somebody else waits for it, and completes all others."""

    def __init__(self, root: Path, fault: Error) -> None:
        async def room(size_bytes: int, name: str) -> int:
            return size_bytes

        super().__init__(Store(root), room)
        self.fault = fault
        self.is_joined = asyncio.Event()

    async def _run(self, content: Any, repository: Repository, family: str, fetch: Any) -> ContentRecord:
        try:
            if repository is REFUSED:
                await self.is_joined.wait()
                raise self.fault
            return RECORD
        finally:
            self._forget(fetch, content)


def ignore(_done_bytes: int, _stage: str) -> None:
    pass


@pytest.mark.parametrize("fault", [Unauthenticated("who?"), Forbidden("not you"), NotFound("what?")])
async def test_a_good_login_does_not_share_the_refusal_of_another(fault: Error, tmp_path: Path) -> None:
    fetches = Scripted(tmp_path, fault)
    first = spawn(fetches.ensure(CONTENT, REFUSED, "host/a", ignore), name="first", on_crash=lambda _: None)
    while not fetches._running:
        await asyncio.sleep(0)
    second = spawn(fetches.ensure(CONTENT, WELCOME, "host/b", ignore), name="second")
    while fetches._running[CONTENT.key].waiting < 2:
        await asyncio.sleep(0)
    fetches.is_joined.set()
    with pytest.raises(type(fault)):
        await first
    assert await second == RECORD


async def test_what_is_no_refusal_is_everybodys(tmp_path: Path) -> None:
    fetches = Scripted(tmp_path, Unavailable("down"))
    both = [
        spawn(fetches.ensure(CONTENT, REFUSED, "host/a", ignore), name="pull", on_crash=lambda _: None)
        for _ in range(2)
    ]
    while not fetches._running or fetches._running[CONTENT.key].waiting < 2:
        await asyncio.sleep(0)
    fetches.is_joined.set()
    for waiting in both:
        with pytest.raises(Unavailable):
            await waiting
