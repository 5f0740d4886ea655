"""The rate limit in virtual time: the right average, turns for everybody, nothing lost by who goes away."""

import asyncio

import pytest

from vzkubelet.aio import cancel, spawn
from vzkubelet.errors import InvalidInput
from vzkubelet.images.rate import RateLimit

RATE = 1000


def now_s() -> float:
    return asyncio.get_running_loop().time()


async def take(
    limit: RateLimit, total_bytes: int, piece_bytes: int, owner: str = "", log: list[str] | None = None
) -> float:
    """Take pieces one after the other; returns how long it took."""
    begun_s = now_s()
    for _ in range(total_bytes // piece_bytes):
        await limit.take(piece_bytes, owner)
        if log is not None:
            log.append(owner)
    return now_s() - begun_s


@pytest.mark.parametrize(("piece_bytes", "total_bytes"), [(1, 2000), (10, 20_000), (1000, 10**6), (10_000, 10**6)])
async def test_average_whatever_the_size_of_the_pieces(piece_bytes: int, total_bytes: int) -> None:
    elapsed_s = await take(RateLimit(RATE), total_bytes, piece_bytes)
    # What the bucket holds at the beginning comes at once, and the last piece is lent.
    assert total_bytes / RATE - 0.25 - piece_bytes / RATE - 0.1 <= elapsed_s <= total_bytes / RATE


async def test_unlimited() -> None:
    assert await take(RateLimit(0), 10**12, 10**9) == 0


async def test_negative_rate() -> None:
    with pytest.raises(InvalidInput, match="0 means unlimited"):
        RateLimit(-1)


async def test_idle_time_is_not_saved_up() -> None:
    limit = RateLimit(RATE)
    await take(limit, 1000, 100)
    await asyncio.sleep(3600)
    assert await take(limit, 10_000, 100) >= 9.5


async def test_owners_take_turns_however_many_ranges_one_has() -> None:
    limit = RateLimit(RATE)
    log: list[str] = []
    greedy = [spawn(take(limit, 10**6, 100, "greedy", log), name=f"greedy {n}") for n in range(8)]
    modest = spawn(take(limit, 10**6, 100, "modest", log), name="modest")
    await asyncio.sleep(100)
    await cancel(modest, *greedy)
    assert log.count("modest") >= 0.45 * len(log)
    assert log.count("greedy") >= 0.45 * len(log)


async def test_nobody_waits_for_ever_behind_large_pieces() -> None:
    limit = RateLimit(RATE)
    large = spawn(take(limit, 10**7, 10_000, "large"), name="large")
    await asyncio.sleep(1)
    begun_s = now_s()
    await limit.take(1, "small")
    assert now_s() - begun_s <= 20
    await cancel(large)


async def test_who_is_cancelled_while_waiting_costs_nothing() -> None:
    limit = RateLimit(RATE)
    await limit.take(1000)
    begun_s = now_s()
    gone = [spawn(limit.take(10_000, n), name=f"gone {n}") for n in range(5)]
    last = spawn(limit.take(10, "last"), name="last")
    await asyncio.sleep(0.1)
    await cancel(*gone)
    await last
    assert now_s() - begun_s <= 1.0


async def test_cancelled_in_the_moment_its_turn_comes() -> None:
    """Granted and cancelled in the same step of the loop: what was granted is given back."""
    limit = RateLimit(RATE)
    await limit.take(250 + 1000)
    waiting = spawn(limit.take(100_000, "gone"), name="gone")
    await asyncio.sleep(0)
    limit._balance_bytes = 1.0
    limit._serve()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    begun_s = now_s()
    await limit.take(10)
    await limit.take(10)
    assert now_s() - begun_s <= 0.1


async def test_cancelled_before_its_turn_is_passed_over() -> None:
    limit = RateLimit(RATE)
    await limit.take(1000)
    gone, stays = spawn(limit.take(5000, "a"), name="gone"), spawn(limit.take(1, "b"), name="stays")
    await asyncio.sleep(0)
    gone.cancel()
    limit._balance_bytes = 1.0
    limit._serve()  # before the cancelled one has run
    await stays
    with pytest.raises(asyncio.CancelledError):
        await gone
    assert limit._balance_bytes >= -10
    assert not limit._turns
