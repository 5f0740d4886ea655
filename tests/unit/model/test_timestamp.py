from datetime import UTC, datetime

from vzkubelet.model import timestamp

NOON = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)


def test_from_epoch_truncates_like_the_kubelet() -> None:
    assert timestamp.from_epoch(NOON.timestamp() + 0.999) == NOON


def test_epoch_round_trip() -> None:
    assert timestamp.from_epoch(timestamp.to_epoch(NOON)) == NOON


def test_micro_time_has_six_digits_even_on_a_whole_second() -> None:
    assert timestamp.micro_time(NOON.timestamp()) == "2026-11-21T12:00:00.000000Z"
    assert timestamp.micro_time(NOON.timestamp() + 0.25) == "2026-11-21T12:00:00.250000Z"


def test_rfc3339_nano_keeps_every_nanosecond() -> None:
    assert timestamp.rfc3339_nano(int(NOON.timestamp()) * 10**9 + 7) == "2026-11-21T12:00:00.000000007Z"
