"""When a download is given up, in virtual time."""

import asyncio

import pytest

from vzkubelet.errors import Unavailable
from vzkubelet.images.patience import Patience, Progress, Tries

FAULT = Unavailable("broke")
ENOUGH = 1024 * 1024


async def tries_until_given_up(tries: Tries, *, own: int = 0, shared: Progress | None = None, most: int = 100) -> int:
    for count in range(1, most + 1):
        tries.progressed(own)
        if shared is not None:
            shared.bytes += ENOUGH
        try:
            await tries.failed(FAULT)
        except Unavailable:
            return count
    return most


async def test_given_up_after_as_many_attempts() -> None:
    assert await tries_until_given_up(Tries(Patience(attempts=5))) == 5


async def test_progress_begins_the_count_anew() -> None:
    assert await tries_until_given_up(Tries(Patience()), own=ENOUGH) == 100


async def test_a_byte_each_time_is_no_progress() -> None:
    assert await tries_until_given_up(Tries(Patience()), own=1) == 5


async def test_range_that_fails_while_others_progress_is_given_up_later() -> None:
    shared = Progress()
    assert await tries_until_given_up(Tries(Patience(), shared), shared=shared) == 20


async def test_progress_before_the_first_failure_is_none_of_this_range() -> None:
    shared = Progress()
    shared.bytes = ENOUGH
    assert await tries_until_given_up(Tries(Patience(), shared)) == 5


@pytest.mark.parametrize("_", range(20))
async def test_waits_grow_with_jitter_up_to_the_longest(_: int) -> None:
    tries, waits = Tries(Patience(attempts=8, delay_s=1, delay_max_s=10)), []
    for _ in range(7):
        begun_s = asyncio.get_running_loop().time()
        await tries.failed(FAULT)
        waits.append(asyncio.get_running_loop().time() - begun_s)
    for wait_s, longest_s in zip(waits, (1, 2, 4, 8, 10, 10, 10), strict=True):
        assert longest_s / 2 - 0.01 <= wait_s <= longest_s + 0.01
