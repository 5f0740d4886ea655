"""Figures and their presentation: percentiles, tables, the report as JSON. Pure."""

import math
from collections.abc import Mapping, Sequence

import msgspec


class Spread(msgspec.Struct, frozen=True):
    """Percentiles of one measured quantity, in seconds."""

    p50_s: float
    p95_s: float
    count: int

    @classmethod
    def of(cls, values_s: Sequence[float]) -> "Spread":
        return cls(round(percentile(values_s, 0.5), 4), round(percentile(values_s, 0.95), 4), len(values_s))


class Host(msgspec.Struct, frozen=True):
    """What a figure must be read with."""

    cpus: int
    accelerator: str
    load_before: float
    load_after: float
    """Load averages over one minute."""


class PodStart(msgspec.Struct, frozen=True):
    total: Spread
    steps: Mapping[str, Spread]
    """In the order in which they happen."""


class ExecRoundTrip(msgspec.Struct, frozen=True):
    ways: Mapping[str, Spread]
    ratios: Mapping[str, float]
    """Medians of the rounds' quotients: these are comparable between machines, the times are not."""


class Idle(msgspec.Struct, frozen=True):
    """`cpu_percent` of one processor over the window."""

    window_s: float
    rss_mib: float
    cpu_percent: float
    requests_per_minute: float
    requests: Mapping[str, int]
    """`verb resource` and how often it came in the window."""


class Report(msgspec.Struct, frozen=True):
    host: Host
    pod_start: PodStart
    exec_round_trip: ExecRoundTrip
    idle: Mapping[str, Idle]
    """By what was there: no pod, one pod."""


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of all values do not exceed (nearest rank): always a measured one.

    Raises: ValueError without values.
    """
    if not values:
        raise ValueError("no values")
    return sorted(values)[max(math.ceil(share * len(values)), 1) - 1]


def ratio(first_s: Sequence[float], second_s: Sequence[float]) -> float:
    """Median of the quotients of values that were measured one right after the other."""
    return round(percentile([a / b for a, b in zip(first_s, second_s, strict=True)], 0.5), 2)


def as_json(report: Report) -> bytes:
    return msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"


def as_text(report: Report) -> str:
    """The report as tables for people."""
    host, start, trip = report.host, report.pod_start, report.exec_round_trip
    steps = [(name, *_milliseconds(spread)) for name, spread in start.steps.items()]
    idle = [
        (name, f"{found.rss_mib:.1f}", f"{found.cpu_percent:.2f}", f"{found.requests_per_minute:.1f}")
        for name, found in report.idle.items()
    ]
    sections = (
        f"{host.cpus} CPUs, {host.accelerator}, load average {host.load_before:.1f} before and "
        f"{host.load_after:.1f} after",
        table(
            (f"Pod bound -> Ready (image cached, {start.total.count} pods)", "p50 ms", "p95 ms"),
            [*steps, ("all", *_milliseconds(start.total))],
        ),
        table(
            ("Running `true` in the guest", "p50 ms", "p95 ms"),
            [(f"{name} ({spread.count})", *_milliseconds(spread)) for name, spread in trip.ways.items()],
        ),
        table(("Ratio (median of the rounds)", ""), [(name, f"{value:.2f}") for name, value in trip.ratios.items()]),
        table(("Idle agent", "RSS MiB", "CPU %", "API requests/min"), idle),
        table(
            ("Its requests", "count"),
            [(f"{name}: {what}", str(n)) for name, found in report.idle.items() for what, n in found.requests.items()],
        ),
    )
    return "\n\n".join(sections) + "\n"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns aligned: text to the left, figures to the right."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = [_line(row, widths) for row in rows]
    return "\n".join([_line(head, widths), "  ".join("-" * width for width in widths), *lines])


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
    return "  ".join(cells).rstrip()


def _milliseconds(spread: Spread) -> tuple[str, str]:
    return f"{spread.p50_s * 1000:.0f}", f"{spread.p95_s * 1000:.0f}"
