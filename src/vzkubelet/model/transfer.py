"""Texts about bytes on their way: ``12.3 of 34.1 GiB``, ``210 MiB/s``, ``1m40s left``."""

from collections import deque

_UNITS = (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))
WINDOW_S = 15.0
"""Long enough to smooth over the gaps of retries, short enough to show a link that became slower."""


class Speed:
    """Bytes per second over the last `WINDOW_S`. Time is an argument, in seconds that only go forward."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def add(self, now: float, done_bytes: int) -> None:
        """`done_bytes` is a total; a smaller one than before is a transfer that began anew."""
        if self._seen and done_bytes < self._seen[-1][1]:
            self._seen.clear()
        if len(self._seen) > 1 and now - self._seen[-2][0] < WINDOW_S / 30:
            self._seen[-1] = (now, done_bytes)  # callers may report every block
            return
        self._seen.append((now, done_bytes))
        while len(self._seen) > 2 and now - self._seen[1][0] >= WINDOW_S:
            self._seen.popleft()

    def bytes_per_s(self, now: float) -> float:
        """0 while nothing can be said."""
        if not self._seen or now <= self._seen[0][0]:
            return 0.0
        began, first_bytes = self._seen[0]
        return (self._seen[-1][1] - first_bytes) / (now - began)


def text(done_bytes: int, total_bytes: int, bytes_per_s: float) -> str:
    """``12.3 of 34.1 GiB, 210 MiB/s, 1m40s left``; without speed and time where nothing moves."""
    amount = f"{_in_unit(done_bytes, total_bytes)} of {_size(total_bytes)}"
    if bytes_per_s < 1:
        return amount
    return f"{amount}, {rate(bytes_per_s)}, {_duration((total_bytes - done_bytes) / bytes_per_s)} left"


def rate(bytes_per_s: float) -> str:
    """``210 MiB/s``, ``9.5 MiB/s``, ``1.2 GiB/s``."""
    for unit, factor in _UNITS:
        if bytes_per_s >= factor:
            value = bytes_per_s / factor
            return f"{value:.0f} {unit}/s" if value >= 10 else f"{value:.1f} {unit}/s"
    return f"{bytes_per_s:.0f} B/s"


def _size(size_bytes: int) -> str:
    unit = next((unit for unit, factor in _UNITS if size_bytes >= factor), "B")
    return f"{_in_unit(size_bytes, size_bytes)} {unit}"


def _in_unit(size_bytes: int, total_bytes: int) -> str:
    """In the unit that fits the total."""
    factor = next((factor for _, factor in _UNITS if total_bytes >= factor), 1)
    return f"{size_bytes / factor:.1f}" if factor > 1 else str(size_bytes)


def _duration(seconds: float) -> str:
    """Whole seconds, from an hour on whole minutes, as Go writes durations."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole % 3600 // 60
    if hours:
        return f"{hours}h{minutes}m"
    return f"{minutes}m{whole % 60}s" if minutes else f"{whole}s"
