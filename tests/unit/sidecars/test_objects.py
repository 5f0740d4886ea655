"""Docker's time stamps and figures."""

import pytest

from vzkubelet.errors import Unavailable
from vzkubelet.sidecars.objects import MemoryStats, epoch_ns
from vzkubelet.sidecars.stats import working_set


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("2026-11-21T13:01:39.912392537Z", 1795266099912392537),
        ("2026-11-21T13:01:39.9Z", 1795266099900000000),
        ("2026-11-21T13:01:39Z", 1795266099000000000),
        ("2026-11-21T15:01:39.5+02:00", 1795266099500000000),
        ("0001-01-01T00:00:00Z", 0),
        ("", 0),
    ],
)
def test_time(text: str, nanoseconds: int) -> None:
    assert epoch_ns(text) == nanoseconds


def test_time_that_is_none() -> None:
    with pytest.raises(Unavailable, match="yesterday"):
        epoch_ns("yesterday")


@pytest.mark.parametrize(
    ("usage", "stats", "expected"),
    [
        (100, {"inactive_file": 30}, 70),
        (100, {"inactive_file": 5, "total_inactive_file": 40}, 60),
        (100, None, 100),
        (10, {"inactive_file": 30}, 0),
    ],
)
def test_working_set_of_both_control_group_versions(usage: int, stats: dict[str, int] | None, expected: int) -> None:
    assert working_set(MemoryStats(usage=usage, stats=stats)) == expected
