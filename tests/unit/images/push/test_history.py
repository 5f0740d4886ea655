"""The record of pushes: found by digest and by size, bounded, and of no harm when damaged."""

import os
from pathlib import Path

import pytest

from vzkubelet.images.push import history as module
from vzkubelet.images.push.history import BlobRecord, History
from vzkubelet.images.push.job import agreement


def record(raw: str, *, size: int = 10, digest: str = "sha256:d", prefixes: tuple[str, ...] = ()) -> BlobRecord:
    return BlobRecord(raw_digest=f"sha256:{raw}", raw_size_bytes=size, digest=digest, size_bytes=5, prefixes=prefixes)


def test_blob_and_where_it_is(tmp_path: Path) -> None:
    history = History(tmp_path)
    history.add_blob("gzip-1", record("a"), "r/one")
    history.add_blob("gzip-1", record("a"), "r/two")
    found = history.blob("gzip-1", "sha256:a", 10)
    assert found is not None
    assert found.repositories == ("r/two", "r/one")
    assert history.blob("gzip-2", "sha256:a", 10) is None
    assert history.blob("gzip-1", "sha256:a", 11) is None


def test_other_compressor_made_another_blob(tmp_path: Path) -> None:
    history = History(tmp_path)
    history.add_blob("gzip-1", record("a"), "r/one")
    history.add_blob("gzip-1", record("a", digest="sha256:e"), "r/two")
    found = history.blob("gzip-1", "sha256:a", 10)
    assert found is not None
    assert (found.digest, found.repositories) == ("sha256:e", ("r/two",))


def test_candidates_have_the_size(tmp_path: Path) -> None:
    history = History(tmp_path)
    for raw, size in (("a", 10), ("b", 10), ("c", 11)):
        history.add_blob("gzip-1", record(raw, size=size), "r/one")
    (tmp_path / "blobs/gzip-1/10/garbage.json").write_bytes(b"\xff")
    assert [found.raw_digest for found in history.candidates("gzip-1", 10)] == ["sha256:a", "sha256:b"]


def test_old_records_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_KEPT_RECORDS", 4)
    history = History(tmp_path)
    for number in range(5):
        history.add_blob("gzip-1", record(str(number)), "r/one")
        path = tmp_path / f"blobs/gzip-1/10/{number}.json"
        if path.exists():
            os.utime(path, (number, number))
    assert [found.raw_digest for found in history.candidates("gzip-1", 10)] == ["sha256:2", "sha256:3", "sha256:4"]


def test_newest_image(tmp_path: Path) -> None:
    history = History(tmp_path)
    assert history.image("r/one") is None
    history.set_image("r/one", "sha256:a")
    history.set_image("r/one", "sha256:b")
    assert (history.image("r/one"), history.image("r/two")) == ("sha256:b", None)


def test_disk_is_compared_only_while_it_begins_like_another() -> None:
    agrees = agreement([record("a", prefixes=("p0", "p1")), record("b", prefixes=("p0", "q1"))])
    assert agrees(0, "p0")
    assert agrees(1, "q1")
    assert agrees(2, "beyond")
    agrees = agreement([record("a", prefixes=("p0", "p1"))])
    assert not agrees(0, "x")
    # A record of another tool says nothing of beginnings.
    assert agreement([record("a")])(0, "x")
