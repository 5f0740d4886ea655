"""The table: each measured value, its limit and whether it holds. Pure."""

from collections.abc import Sequence

import msgspec

from bench.figures import table


class Row(msgspec.Struct, frozen=True):
    """`limit` is the most that the value may be, or the least where `at_least`."""

    measure: str
    value: float
    unit: str
    limit: float
    at_least: bool = False
    detail: str = ""

    @property
    def passed(self) -> bool:
        return self.value >= self.limit if self.at_least else self.value <= self.limit


class Timing(msgspec.Struct, frozen=True):
    """All rounds of one step, in seconds; the smallest counts, for what disturbs only adds."""

    step: str
    rounds_s: Sequence[float]
    cpu_s: float = 0.0
    """Of the processor, the least of all rounds, the process' start included and the registry's not. It hardly depends
    on who else uses the machine."""

    @property
    def best_s(self) -> float:
        return min(self.rounds_s)


class Circumstances(msgspec.Struct, frozen=True):
    cpus: int
    disk_bytes: int
    rounds: int
    load_before: float
    load_after: float
    took_s: float


class Report(msgspec.Struct, frozen=True):
    circumstances: Circumstances
    rows: Sequence[Row]
    timings: Sequence[Timing]


def as_json(report: Report) -> bytes:
    document = msgspec.to_builtins(report)
    for row, encoded in zip(report.rows, document["rows"], strict=True):
        encoded["passed"] = row.passed
    for timing, encoded in zip(report.timings, document["timings"], strict=True):
        encoded["best_s"] = timing.best_s
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def as_text(report: Report) -> str:
    met = report.circumstances
    head = (
        f"{met.cpus} CPUs, raw disk of {met.disk_bytes / 2**30:g} GiB, {met.rounds} rounds, load average "
        f"{met.load_before:.1f} before and {met.load_after:.1f} after, {met.took_s:.0f} s in all"
    )
    rows = [
        (
            row.measure,
            f"{_figure(row.value)} {row.unit}".strip(),
            f"{'>=' if row.at_least else '<='} {_figure(row.limit)}",
            "pass" if row.passed else "FAIL",
            row.detail,
        )
        for row in report.rows
    ]
    times = [
        (t.step, f"{t.best_s:.2f}", f"{t.cpu_s:.2f}", " ".join(f"{s:.2f}" for s in t.rounds_s)) for t in report.timings
    ]
    return (
        "\n\n".join(
            (
                head,
                table(("Measure", "value", "limit", "", ""), rows),
                table(("Step", "best s", "CPU s", "rounds"), times),
            )
        )
        + "\n"
    )


def _figure(value: float) -> str:
    if value == int(value) or value >= 100:
        return f"{value:.0f}"
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"
