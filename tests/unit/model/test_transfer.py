import pytest

from vzkubelet.model import transfer

GIB, MIB = 2**30, 2**20


@pytest.mark.parametrize(
    ("done", "total", "speed", "told"),
    [
        (12.3 * GIB, 34.1 * GIB, 210 * MIB, "12.3 of 34.1 GiB, 210 MiB/s, 1m46s left"),
        (0, 34.1 * GIB, 0, "0.0 of 34.1 GiB"),
        (100 * MIB, 34.1 * GIB, 9.54 * MIB, "0.1 of 34.1 GiB, 9.5 MiB/s, 1h0m left"),
        (34.1 * GIB, 34.1 * GIB, 1.25 * GIB, "34.1 of 34.1 GiB, 1.2 GiB/s, 0s left"),
        (1.5 * MIB, 3 * MIB, 300 * 1024, "1.5 of 3.0 MiB, 300 KiB/s, 5s left"),
        (0, 800, 80, "0 of 800 B, 80 B/s, 10s left"),
        (0, 300 * GIB, MIB, "0.0 of 300.0 GiB, 1.0 MiB/s, 85h20m left"),
    ],
)
def test_text(done: float, total: float, speed: float, told: str) -> None:
    assert transfer.text(round(done), round(total), speed) == told


def test_speed_is_that_of_the_last_seconds() -> None:
    speed = transfer.Speed()
    assert speed.bytes_per_s(0) == 0
    for second in range(100):
        speed.add(second, second * 10)
    for second in range(100, 130):
        speed.add(second, 1000 + (second - 100) * 50)
    assert speed.bytes_per_s(129) == pytest.approx(50)


def test_a_stall_lowers_the_speed() -> None:
    speed = transfer.Speed()
    for second in range(20):
        speed.add(second, second * 100)
    assert speed.bytes_per_s(19 + 1000) < 2


def test_what_was_there_before_is_no_speed() -> None:
    """Hazard: a resumed pull of 30 GiB tells 30 GiB/s in its first second."""
    speed = transfer.Speed()
    speed.add(0.0, 30 * GIB)
    speed.add(1.0, 30 * GIB + MIB)
    assert speed.bytes_per_s(1.0) == pytest.approx(MIB)


def test_a_transfer_that_begins_anew_has_no_negative_speed() -> None:
    speed = transfer.Speed()
    for second in range(5):
        speed.add(second, second * 100)
    speed.add(5, 0)
    speed.add(6, 100)
    assert speed.bytes_per_s(6) == pytest.approx(100)


def test_many_reports_take_little_memory_and_lose_nothing() -> None:
    speed = transfer.Speed()
    for step in range(100_000):
        speed.add(step / 1000, step)
    assert speed.bytes_per_s(99.999) == pytest.approx(1000, rel=0.05)
    assert len(speed._seen) < 100
