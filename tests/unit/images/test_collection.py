"""The kubelet's rules of which images go, over all orders of ages, uses and shared contents."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vzkubelet.images.collection import (
    FREE_DISK_SPACE_FAILED,
    INVALID_DISK_CAPACITY,
    Collection,
    Rules,
    StoredImage,
    Volume,
    bytes_to_free,
    choose,
    evictable,
    overaged,
    reclaimed_bytes,
    size_text,
)

GIB = 1024**3
NOW = 1_000_000.0


def image(
    digest: str, *contents: str, came_at: float = 0.0, last_used_at: float = 0.0, is_kept: bool = False
) -> StoredImage:
    return StoredImage(digest, frozenset(contents or (digest,)), came_at, last_used_at, is_kept)


contents = st.sampled_from([f"content-{number}" for number in range(6)])
sizes = st.fixed_dictionaries({f"content-{number}": st.integers(0, 1000) for number in range(6)})
times = st.floats(0, NOW * 1.1)


@st.composite
def stores(draw: st.DrawFn) -> list[StoredImage]:
    return [
        StoredImage(
            digest=f"image-{number}",
            contents=frozenset(draw(st.sets(contents, min_size=1, max_size=2))),
            came_at=draw(times),
            last_used_at=draw(times),
            is_kept=draw(st.booleans()),
        )
        for number in range(draw(st.integers(0, 8)))
    ]


# --- How much


@pytest.mark.parametrize(
    ("available", "high", "low", "expected"),
    [
        (20, 85, 80, 0),  # 80 % used: below the threshold
        (16, 85, 80, 0),  # 84 %
        (15, 85, 80, 5),  # 85 % is at it
        (0, 85, 80, 20),
        (0, 100, 100, 0),  # there is nothing above 100 %
        (0, 101, 80, 0),  # switched off
        (200, 85, 80, 0),  # more available than there is, as some file systems say
        (20, 0, 0, 80),
    ],
)
def test_use_above_the_high_threshold_is_freed_down_to_the_low_one(
    available: int, high: int, low: int, expected: int
) -> None:
    assert bytes_to_free(Volume(100, available), Rules(high, low)) == expected


@given(
    st.just(0) | st.integers(4096, 10**15),  # a volume has a block at least
    st.integers(0, 10**15),
    st.integers(0, 100),
    st.integers(0, 100),
)
def test_freeing_what_is_told_reaches_the_low_threshold(capacity: int, available: int, one: int, other: int) -> None:
    rules = Rules(max(one, other), min(one, other))
    volume = Volume(capacity, available)
    amount = bytes_to_free(volume, rules)
    assert 0 <= amount <= capacity
    if not capacity or volume.used_percent < rules.high_percent:
        assert amount == 0
    else:
        after = Volume(capacity, min(available, capacity) + amount)
        # The kubelet's whole percents: the last one may remain.
        assert after.used_percent <= rules.low_percent + 1


# --- Which, and in which order


@given(stores(), st.floats(0, NOW))
def test_only_what_is_unused_unpinned_and_old_enough_goes_and_the_least_recent_first(
    images: list[StoredImage], min_age_s: float
) -> None:
    order = evictable(images, NOW, min_age_s)
    for candidate in order:
        assert not candidate.is_kept
        assert candidate.last_used_at < NOW
        assert NOW - candidate.came_at >= min_age_s
    assert [one.last_used_at for one in order] == sorted(one.last_used_at for one in order)
    for left in set(images) - set(order):
        assert left.is_kept or left.last_used_at >= NOW or NOW - left.came_at < min_age_s


@given(stores(), sizes, st.integers(0, 5000), st.sets(contents), st.floats(0, NOW))
def test_as_few_go_as_are_needed_and_none_that_frees_nothing(
    images: list[StoredImage], size_of: dict[str, int], wanted: int, held: set[str], min_age_s: float
) -> None:
    order = evictable(images, NOW, min_age_s)
    chosen = choose(order, images, size_of, wanted, held)
    assert chosen == [one for one in order if one in chosen], "the order of eviction was changed"
    users = Counter(content for one in images for content in one.contents)
    freed = reclaimed_bytes(chosen, users, size_of, held)
    everything = reclaimed_bytes(order, users, size_of, held)
    if freed < wanted:
        assert freed == everything, "something that would have helped was left"
    else:
        # Without the last one that frees something it would not have been enough.
        for number in range(len(chosen)):
            assert reclaimed_bytes(chosen[:number], users, size_of, held) < wanted
    for number, one in enumerate(chosen):
        others = chosen[:number] + chosen[number + 1 :]
        assert reclaimed_bytes(others, users, size_of, held) < freed or not wanted, f"{one.digest} went for nothing"


def test_content_that_an_image_in_use_shares_frees_nothing() -> None:
    old = image("old", "shared", last_used_at=1)
    new = image("new", "shared", last_used_at=2, is_kept=True)
    assert choose(evictable([old, new], NOW, 0), [old, new], {"shared": 100}, 50) == []


def test_two_images_of_one_content_go_together() -> None:
    one, other = image("one", "shared", last_used_at=1), image("other", "shared", last_used_at=3)
    between = image("between", "own", last_used_at=2)
    images = [one, between, other]
    sizes = {"shared": 100, "own": 10}
    assert choose(evictable(images, NOW, 0), images, sizes, 10) == [between]
    assert choose(evictable(images, NOW, 0), images, sizes, 50) == images


def test_what_machines_refer_to_frees_nothing() -> None:
    one = image("one")
    assert choose([one], [one], {"one": 100}, 1, held={"one"}) == []


def test_an_image_that_was_never_used_goes_by_when_it_came() -> None:
    early, late = image("b", came_at=1, last_used_at=1), image("a", came_at=2, last_used_at=2)
    assert evictable([late, early], NOW, 0) == [early, late]


# --- Age


@given(stores(), st.floats(0, NOW), st.floats(1, NOW))
def test_age_alone_takes_what_was_not_used_for_longer(
    images: list[StoredImage], watched_since: float, max_age_s: float
) -> None:
    gone = overaged(images, NOW, watched_since, Rules(max_age_s=max_age_s))
    if NOW - watched_since <= max_age_s:
        assert gone == [], "uses were not watched for long enough to know"
        return
    assert set(gone) == {one for one in images if not one.is_kept and NOW - one.last_used_at > max_age_s}


def test_no_age_is_too_old_unless_one_is_set() -> None:
    assert overaged([image("one")], NOW, 0.0, Rules()) == []


# --- What is told


def test_a_shortage_is_told_in_the_words_of_the_kubelet() -> None:
    result = Collection(Volume(100 * GIB, 10 * GIB), 10 * GIB, 3, 0)
    assert result.event_reason == FREE_DISK_SPACE_FAILED
    assert result.shortage == (
        "Insufficient free disk space on the node's image filesystem (90% of 100.0 GiB used). "
        "Failed to free sufficient space by deleting unused images (freed 3 bytes). "
        "Investigate disk usage, as it could be used by active images, logs, volumes, or other data."
    )


def test_enough_is_no_event() -> None:
    result = Collection(Volume(100, 10), 10, 10, 10)
    assert (result.event_reason, result.shortage) == ("", "")


def test_a_volume_without_capacity_is_told() -> None:
    result = Collection(Volume(0, 0), 0, 0, 0)
    assert (result.event_reason, result.shortage) == (INVALID_DISK_CAPACITY, "invalid capacity 0 on image filesystem")


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536 * 1024, "1.5 MiB"), (1 << 41, "2.0 TiB")]
)
def test_sizes_are_told_as_the_kubelet_does(size: int, text: str) -> None:
    assert size_text(size) == text
