"""The rows of the table from the steps of a run: what is compared with what, and the limits."""

from bench.images import job, run
from bench.images.rows import Row
from bench.images.run import Run, Steps

BARE_SHARE = 0.8


def rows(found: Run) -> list[Row]:
    return [*_pulls(found.steps), *_pushes(found), *_update(found), *_host(found)]


def _pulls(steps: Steps) -> list[Row]:
    return [
        _times_faster("pull agoda : Go project", steps, run.REFERENCE_PULL, run.AGODA_PULL, 3.0),
        _times_faster("pull agoda : bare loop", steps, run.BARE_GZIP, run.AGODA_PULL, BARE_SHARE),
        _times_faster("pull chunked : pull agoda", steps, run.AGODA_PULL, run.CHUNKED_PULL, 1.3),
        _times_faster("pull chunked : bare loop", steps, run.BARE_CHUNKED, run.CHUNKED_PULL, BARE_SHARE),
    ]


def _pushes(found: Run) -> list[Row]:
    steps = found.steps
    data_mib, blob_mib = found.inputs.data_mib, found.traffic.full_push_bytes / job.MIB
    read_mib = {step: min(o.read_mib for o in steps.outcomes[step]) for step in (run.AGODA_PUSH, run.CHUNKED_PUSH)}
    most_mib = max(read_mib.values())
    return [
        _times_faster("push agoda : Go project", steps, run.REFERENCE_PUSH, run.AGODA_PUSH, 3.0),
        _times_faster("push chunked : Go project", steps, run.REFERENCE_PUSH, run.CHUNKED_PUSH, 4.0),
        Row(
            "push reads no holes",
            round(most_mib),
            "MiB",
            # Once from the disk; what was compressed may be read back from a temporary file to be uploaded.
            round(data_mib + 1.2 * blob_mib + 64),
            detail=f"of a disk of {found.inputs.layout.size_bytes / job.MIB:.0f} MiB",
        ),
        _share_of_time("push agoda again", steps, run.AGAIN_AGODA, run.AGODA_PUSH, 50),
        _share_of_time("push chunked again", steps, run.AGAIN_CHUNKED, run.CHUNKED_PUSH, 50),
        Row("blobs uploaded by these", found.traffic.again_blobs, "", 0),
    ]


def _update(found: Run) -> list[Row]:
    went, steps = found.traffic, found.steps
    shares = run.SHARING_UPDATE in steps.times
    # Without shared blocks the old version has to be copied, which is most of the work of a pull.
    copied = _share_of_time("update: time, blocks copied", steps, run.UPDATE_PULL, run.CHUNKED_PULL, 100.0)
    return [
        _share_of_bytes("update: bytes pulled", went.update_pull_bytes, went.full_pull_bytes, 4.0),
        *([_share_of_time("update: time", steps, run.SHARING_UPDATE, run.SHARING_PULL, 15.0)] if shares else []),
        copied,
        _share_of_bytes("update: bytes pushed", went.update_push_bytes, went.full_push_bytes, 5.0),
    ]


def _host(found: Run) -> list[Row]:
    steps, outcomes = found.steps, found.steps.outcomes
    pulls = (run.AGODA_PULL, run.CHUNKED_PULL, run.UPDATE_PULL)
    clones = [outcome for step in (run.CLONE, run.SHARING_CLONE) for outcome in outcomes.get(step, [])]
    memory = {step: max(outcome.peak_rss_mib for outcome in outcomes[step]) for step in pulls}
    lag = {step: min(outcome.lag_p99_ms for outcome in outcomes[step]) for step in pulls}
    return [
        Row("cached start", round(1000 * steps.best_s(run.FIND), 2), "ms", 20.0, detail="slowest of 20"),
        Row("cached start: requests", found.traffic.cached_requests, "", 0),
        Row("cached start: bytes read", outcomes[run.FIND][0].read_mib, "MiB", 2.0, detail="20 starts"),
        *(Row(f"clone, {c.how}", round(1000 * c.seconds, 2), "ms", 10.0, detail="median of 20") for c in clones),
        *(Row(f"memory above idle, {step}", memory[step], "MiB", 200.0, detail="most of all rounds") for step in pulls),
        *(Row(f"event loop p99, {step}", round(lag[step], 1), "ms", 20.0, detail="best round") for step in pulls),
    ]


def _times_faster(measure: str, steps: Steps, slow: str, fast: str, limit: float) -> Row:
    slow_s, fast_s = steps.best_s(slow), steps.best_s(fast)
    detail = f"{slow_s:.2f} s : {fast_s:.2f} s"
    return Row(measure, round(slow_s / fast_s, 2), "x", limit, at_least=True, detail=detail)


def _share_of_time(measure: str, steps: Steps, part: str, whole: str, limit: float) -> Row:
    part_s, whole_s = steps.best_s(part), steps.best_s(whole)
    return Row(measure, round(100 * part_s / whole_s, 1), "%", limit, detail=f"{part_s:.2f} of {whole_s:.2f} s")


def _share_of_bytes(measure: str, part: int, whole: int, limit: float) -> Row:
    detail = f"{part / job.MIB:.1f} of {whole / job.MIB:.1f} MiB"
    return Row(measure, round(100 * part / whole, 2), "%", limit, detail=detail)
