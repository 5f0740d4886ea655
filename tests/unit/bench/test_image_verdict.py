"""Which steps are compared with which, and which way round."""

from pathlib import Path
from types import SimpleNamespace
from typing import cast

from bench.images import disk, run, verdict
from bench.images.job import Outcome
from bench.images.run import Inputs, Steps, Traffic

BEST_S = {
    run.REFERENCE_PUSH: 30.0,
    run.AGODA_PUSH: 10.0,
    run.CHUNKED_PUSH: 7.0,
    run.REFERENCE_PULL: 21.0,
    run.AGODA_PULL: 7.0,
    run.BARE_GZIP: 6.0,
    run.CHUNKED_PULL: 5.0,
    run.BARE_CHUNKED: 4.5,
    run.AGAIN_AGODA: 4.0,
    run.AGAIN_CHUNKED: 3.0,
    run.UPDATE_PUSH: 3.0,
    run.UPDATE_PULL: 3.0,
    run.SHARING_PULL: 5.0,
    run.SHARING_UPDATE: 0.5,
    run.FIND: 0.004,
    run.CLONE: 0.002,
    run.SHARING_CLONE: 0.001,
}


def found(**changed: float) -> run.Run:
    """A run with these times, in which all else is fine."""
    times = {**BEST_S, **{step: changed[name] for name, step in vars(run).items() if name in changed}}
    steps = Steps(Path(), lambda _: None)
    steps.times = {step: [seconds, seconds * 1.5] for step, seconds in times.items()}
    steps.outcomes = {step: [Outcome(seconds, 30.0, 5.0, 0.5)] for step, seconds in times.items()}
    inputs = Inputs(Path(), Path(), Path(), disk.Layout.of(512 * 2**20, 1), Path())
    made = SimpleNamespace(steps=steps, inputs=inputs, traffic=Traffic(1000, 30, 1000, 40, 0, 0))
    return cast(run.Run, made)


def failed(**changed: float) -> set[str]:
    return {row.measure for row in verdict.rows(found(**changed)) if not row.passed}


def test_a_run_that_keeps_every_limit_fails_nothing() -> None:
    assert failed() == set()


def test_a_slow_step_fails_the_rows_that_are_about_it() -> None:
    assert failed(AGODA_PULL=7.4) == {"pull agoda : Go project"}
    assert failed(BARE_GZIP=5.0) == {"pull agoda : bare loop"}
    assert failed(CHUNKED_PULL=5.6) == {"pull chunked : pull agoda"}
    assert failed(BARE_CHUNKED=3.9) == {"pull chunked : bare loop"}
    assert failed(AGODA_PUSH=10.5) == {"push agoda : Go project"}
    assert failed(CHUNKED_PUSH=7.6) == {"push chunked : Go project"}
    assert failed(SHARING_UPDATE=0.8) == {"update: time"}
    assert failed(FIND=0.021) == {"cached start"}
    assert failed(CLONE=0.011) == {"clone, "}


def test_bytes_requests_and_memory_have_their_limits() -> None:
    made = found()
    made.traffic = Traffic(1000, 41, 1000, 51, 1, 1)
    made.steps.outcomes[run.AGODA_PULL] = [Outcome(7.0, 201.0, 21.0, 0.5)]
    assert {row.measure for row in verdict.rows(made) if not row.passed} == {
        "update: bytes pulled",
        "update: bytes pushed",
        "blobs uploaded by these",
        "cached start: requests",
        f"memory above idle, {run.AGODA_PULL}",
        f"event loop p99, {run.AGODA_PULL}",
    }


def test_without_shared_blocks_the_time_of_an_update_has_no_verdict() -> None:
    made = found()
    for step in (run.SHARING_PULL, run.SHARING_UPDATE, run.SHARING_CLONE):
        del made.steps.times[step], made.steps.outcomes[step]
    measures = [row.measure for row in verdict.rows(made)]
    assert "update: time" not in measures
    assert "update: time, blocks copied" in measures
