"""One stream or several: what links of different kinds lead to."""

from collections.abc import Callable

from vzkubelet.images.pace import ROUND_MAX_BYTES, ROUND_MIN_BYTES, Pace

MIB = 1024 * 1024


def download(pace: Pace, total_bytes: int, rate: Callable[[bool], float], consumer: float = 1e12) -> dict[bool, int]:
    """Bytes by way; `rate` is what the link gives to several, `consumer` what the reader takes, both per second."""
    moved = {False: 0, True: 0}
    while sum(moved.values()) < total_bytes:
        several, size = pace.is_several, pace.round_bytes
        assert ROUND_MIN_BYTES <= size <= ROUND_MAX_BYTES
        duration_s = size / min(rate(several), consumer)
        pace.measured(size, duration_s, duration_s if rate(several) < consumer else 0.0, several=several)
        moved[several] += size
    return moved


def test_link_that_gives_little_to_each_stream() -> None:
    moved = download(Pace(), 10_000 * MIB, lambda several: (200 if several else 40) * MIB)
    assert moved[True] >= 9_500 * MIB


def test_registry_that_is_slower_with_several() -> None:
    moved = download(Pace(), 10_000 * MIB, lambda several: (50 if several else 100) * MIB)
    assert moved[False] >= 9_500 * MIB


def test_link_that_is_full_with_one() -> None:
    moved = download(Pace(), 10_000 * MIB, lambda _: 110 * MIB)
    assert moved[False] >= 9_500 * MIB


def test_nothing_is_tried_while_the_consumer_is_what_is_slow() -> None:
    moved = download(Pace(), 5_000 * MIB, lambda _: 200 * MIB, consumer=100 * MIB)
    assert moved[True] == 0


def test_nothing_is_tried_near_by() -> None:
    assert download(Pace(), 5_000 * MIB, lambda _: 1500 * MIB)[True] == 0


def test_choice_holds_for_the_next_blob_and_follows_the_link() -> None:
    pace = Pace()
    download(pace, 2_000 * MIB, lambda several: (200 if several else 40) * MIB)
    assert download(pace, 1_000 * MIB, lambda several: (200 if several else 40) * MIB)[False] <= 50 * MIB
    moved = download(pace, 30_000 * MIB, lambda several: (20 if several else 100) * MIB)
    assert moved[False] >= 25_000 * MIB


def test_small_blobs_say_nothing_about_a_link() -> None:
    """A manifest's config and an auxiliary storage are the time of a request: several ranges would always win."""
    pace = Pace()
    for size in (1, 100_000, ROUND_MIN_BYTES - 1):
        pace.measured(size, 0.1, 0.1, several=False)
    assert download(pace, 5_000 * MIB, lambda _: 100 * MIB)[False] >= 4_800 * MIB


def test_small_gain_of_several_is_not_worth_their_requests() -> None:
    moved = download(Pace(), 10_000 * MIB, lambda several: (130 if several else 100) * MIB)
    assert moved[False] >= 9_500 * MIB


def test_trials_that_always_fail_become_rare() -> None:
    moved = download(Pace(), 200_000 * MIB, lambda several: (10 if several else 100) * MIB)
    assert moved[True] <= 12 * 40 * MIB


def test_round_of_the_other_way_is_not_counted() -> None:
    pace = Pace()
    pace.measured(8 * MIB, 1.0, 1.0, several=True)
    assert (pace.is_several, pace.round_bytes) == (False, ROUND_MIN_BYTES)


def test_round_that_took_no_time() -> None:
    pace = Pace()
    pace.measured(ROUND_MIN_BYTES, 0.0, 0.0, several=False)
    assert pace.round_bytes == ROUND_MAX_BYTES
