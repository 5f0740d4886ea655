"""The parts of the image bench that decide: disks, traffic and verdicts."""

import json
from pathlib import Path

import pytest

from bench.images import disk, rows, traffic
from bench.images.disk import Kind, Layout
from bench.images.rows import Circumstances, Report, Row, Timing

MIB = 2**20


def test_a_disk_is_half_holes_a_quarter_prose_a_quarter_noise() -> None:
    layout = Layout.of(512 * MIB, 1)
    assert [layout.extents.count(kind) for kind in Kind] == [64, 32, 32]
    assert layout.size_bytes == 512 * MIB
    assert layout.data_blocks == 4096


def test_a_size_that_cannot_be_shared_out_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple"):
        Layout.of(511 * MIB, 1)


def test_an_update_changes_runs_that_do_not_overlap_and_lie_in_data() -> None:
    """Hazard: runs that overlap change less than is said, and a smaller delta looks like a better one."""
    layout = Layout.of(512 * MIB, 1)
    starts = layout.changed_runs(0.02, 7)
    assert starts == layout.changed_runs(0.02, 7)
    changed = [block for start in starts for block in range(start, start + disk.RUN_BLOCKS)]
    assert len(changed) == len(set(changed)) == round(layout.data_blocks * 0.02 / 16) * 16
    assert all(layout.extents[block // disk.EXTENT_BLOCKS] is not Kind.HOLE for block in changed)


def test_disks_are_the_same_each_time_and_differ_where_they_should(tmp_path: Path) -> None:
    layout = Layout.of(16 * MIB, 3)
    for name in ("a", "b"):
        disk.write(tmp_path / name, layout, 5)
    first = (tmp_path / "a").read_bytes()
    assert first == (tmp_path / "b").read_bytes()
    disk.write_update(tmp_path / "c", tmp_path / "a", layout, 0.25, 6)
    second = (tmp_path / "c").read_bytes()
    size = disk.BLOCK_BYTES
    differing = [n for n in range(len(first) // size) if first[n * size :][:size] != second[n * size :][:size]]
    runs = layout.changed_runs(0.25, 6)
    assert differing == [block for start in runs for block in range(start, start + disk.RUN_BLOCKS)]


LOG = """\
time="2026-11-21T18:55:28Z" level=info msg="response completed" http.request.method=GET http.response.written=1438
127.0.0.1 - - [21/Nov/2026:18:55:28 +0000] "GET /v2/ HTTP/1.1" 200 2 "" "x"
127.0.0.1 - - [21/Nov/2026:18:55:28 +0000] "GET /v2/bench/ref/manifests/1 HTTP/1.1" 200 1438 "" "oras-go"
127.0.0.1 - - [21/Nov/2026:18:55:28 +0000] "HEAD /v2/bench/ref/blobs/sha256:44 HTTP/1.1" 200 0 "" ""
127.0.0.1 - - [21/Nov/2026:18:55:28 +0000] "GET /v2/bench/ref/blobs/sha256:44 HTTP/1.1" 206 1000 "" ""
127.0.0.1 - - [21/Nov/2026:18:55:28 +0000] "POST /v2/bench/ref/blobs/uploads/?mount=sha256:44 HTTP/1.1" 201 0 "" ""
127.0.0.1 - - [21/Nov/2026:18:55:28 +0000] "PUT /v2/bench/ref/blobs/uploads/95?digest=sha256%3A9e HTTP/1.1" 201 0 "" ""
127.0.0.1 - - [21/Nov/2026:18:55:28 +0000] "PUT /v2/bench/ref/manifests/1 HTTP/1.1" 201 0 "" "oras-go"
"""


def test_traffic_counts_each_answer_once() -> None:
    assert traffic.downloaded_bytes(LOG) == 2438
    assert traffic.blobs_completed(LOG) == 1
    assert len(list(traffic.requests(LOG))) == 6


def test_verdicts_go_the_right_way() -> None:
    assert Row("faster", 3.0, "x", 3.0, at_least=True).passed
    assert not Row("faster", 2.99, "x", 3.0, at_least=True).passed
    assert Row("small", 20.0, "ms", 20.0).passed
    assert not Row("small", 20.1, "ms", 20.0).passed


def test_a_report_says_what_failed_in_both_of_its_forms() -> None:
    report = Report(
        Circumstances(2, 8 * 2**30, 3, 0.1, 2.5, 300.0),
        [Row("pull", 2.5, "x", 3.0, at_least=True, detail="8.1 s"), Row("memory", 120.0, "MiB", 200.0)],
        [Timing("pull", [3.0, 2.0])],
    )
    text = rows.as_text(report)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "pull 2.50 x >= 3 FAIL 8.1 s" in lines
    assert "memory 120 MiB <= 200 pass" in lines
    document = json.loads(rows.as_json(report))
    assert [row["passed"] for row in document["rows"]] == [False, True]
    assert document["timings"][0]["best_s"] == 2.0
