"""Percentiles, tables and the report's two forms."""

import json

import pytest

from bench import figures
from bench.figures import ExecRoundTrip, Host, Idle, PodStart, Report, Spread


def report() -> Report:
    return Report(
        Host(2, "tcg", 0.5, 1.25),
        PodStart(Spread.of([8.0, 9.0]), {"volumes": Spread.of([0.2, 0.3]), "SSH login": Spread.of([1.0, 2.0])}),
        ExecRoundTrip({"kubectl exec": Spread.of([0.25]), "ssh": Spread.of([0.5])}, {"kubectl exec : ssh": 0.5}),
        {"no pod": Idle(60.0, 71.04, 0.05, 6.0, {"patch leases": 6}), "one pod": Idle(30.0, 78.0, 0.1, 0.0, {})},
    )


@pytest.mark.parametrize(
    ("share", "expected"), [(0.0, 1.0), (0.25, 1.0), (0.26, 2.0), (0.5, 2.0), (0.75, 3.0), (0.95, 4.0), (1.0, 4.0)]
)
def test_a_percentile_is_the_smallest_measured_value_that_covers_its_share(share: float, expected: float) -> None:
    assert figures.percentile([4.0, 2.0, 1.0, 3.0], share) == expected


def test_the_95th_of_a_hundred_leaves_five_above_it() -> None:
    assert figures.percentile(range(1, 101), 0.95) == 95


def test_percentiles_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="no values"):
        Spread.of([])


def test_a_spread_counts_its_values_and_ignores_their_order() -> None:
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(p50_s=2.0, p95_s=3.0, count=3)


def test_a_ratio_compares_round_by_round_so_that_a_busy_round_weighs_once() -> None:
    assert figures.ratio([0.3, 9.0, 0.6], [0.2, 6.0, 0.5]) == 1.5


def test_a_ratio_needs_as_many_values_of_each() -> None:
    with pytest.raises(ValueError, match="shorter"):
        figures.ratio([0.3, 0.3], [0.2])


def test_a_table_aligns_text_left_and_figures_right() -> None:
    text = figures.table(("step", "ms"), [("a", "5"), ("longer", "1234")])
    assert text.splitlines() == ["step      ms", "------  ----", "a          5", "longer  1234"]


def test_a_table_without_rows_is_its_head() -> None:
    assert figures.table(("step", "ms"), []).splitlines() == ["step  ms", "----  --"]


def test_the_text_shows_steps_in_order_then_all_of_them_in_milliseconds() -> None:
    lines = [" ".join(line.split()) for line in figures.as_text(report()).splitlines()]
    start = lines.index("volumes 200 300")
    assert lines[start + 1 : start + 3] == ["SSH login 1000 2000", "all 8000 9000"]


def test_the_text_names_load_processors_and_accelerator() -> None:
    assert figures.as_text(report()).startswith("2 CPUs, tcg, load average 0.5 before and 1.2 after\n")


def test_the_text_shows_idle_figures_and_requests_of_each_case() -> None:
    lines = [" ".join(line.split()) for line in figures.as_text(report()).splitlines()]
    assert {"no pod 71.0 0.05 6.0", "one pod 78.0 0.10 0.0", "no pod: patch leases 6"} <= set(lines)


def test_the_json_carries_all_that_the_text_shows() -> None:
    decoded = json.loads(figures.as_json(report()))
    assert list(decoded) == ["host", "pod_start", "exec_round_trip", "idle"]
    assert list(decoded["pod_start"]["steps"]) == ["volumes", "SSH login"]
    assert decoded["pod_start"]["total"] == {"p50_s": 8.0, "p95_s": 9.0, "count": 2}
    assert decoded["idle"]["no pod"]["requests"] == {"patch leases": 6}
