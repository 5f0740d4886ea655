"""Durations: Go syntax (``1m30s``, ``1.5h``, ``500ms``) and plain seconds (``90``)."""

import re

from vzkubelet.errors import InvalidInput

_UNIT_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")


def parse(text: str | int | float) -> float:
    """Seconds.

    Raises:
        InvalidInput: neither a Go duration nor a number of seconds, or negative.
    """
    raw = str(text).strip()
    if re.fullmatch(r"\d+(\.\d+)?", raw):
        return float(raw)
    total, end = 0.0, 0
    for match in _PART.finditer(raw):
        if match.start() != end:
            break
        total += float(match[1]) * _UNIT_S[match[2]]
        end = match.end()
    if end == 0 or end != len(raw):
        raise InvalidInput(f'"{raw}" is not a duration: write 90 (seconds) or Go syntax such as 1m30s')
    return total


def format_go(seconds: float) -> str:
    """A duration as Go prints it to the kubelet's events (``1.234s``, ``1m2.5s``); milliseconds are the finest unit."""
    millis = round(seconds * 1000)
    if millis < 1000:
        return f"{millis}ms"
    minutes, rest_ms = divmod(millis, 60_000)
    hours, minutes = divmod(minutes, 60)
    tail = f"{rest_ms / 1000:.3f}".rstrip("0").rstrip(".") + "s"
    if hours:
        return f"{hours}h{minutes}m{tail}"
    return f"{minutes}m{tail}" if minutes else tail
