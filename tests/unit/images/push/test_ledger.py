"""Ledgers: what a process that died has left is read by the next one, and nothing else."""

import os
from pathlib import Path

import pytest

from vzkubelet.images.formats.chunk_index import PackFrames
from vzkubelet.images.push.ledger import Ledger, Ledgers, UploadRecord

RECORD = UploadRecord(location="http://r/v2/x?_state=secret", offset=12, digest="sha256:aa")
FRAMES = PackFrames([5, 7], b"a" * 32 + b"b" * 32)


@pytest.fixture
def ledgers(tmp_path: Path) -> Ledgers:
    return Ledgers(tmp_path / "ledgers")


def opened(ledgers: Ledgers, *what: str) -> Ledger:
    ledger = ledgers.open(*what)
    assert ledger is not None
    return ledger


def test_upload_survives_its_process(ledgers: Ledgers) -> None:
    ledger = opened(ledgers, "a")
    assert ledger.upload() is None
    ledger.set_upload(UploadRecord(location="http://r/v2/" + "x" * 500, offset=5, digest="sha256:bb"))
    ledger.set_upload(RECORD)  # shorter than the one before
    ledger.close(done=False)
    ledger = opened(ledgers, "a")
    assert ledger.upload() == RECORD
    ledger.close(done=True)
    assert opened_upload(ledgers, "a") is None


def opened_upload(ledgers: Ledgers, what: str) -> UploadRecord | None:
    ledger = opened(ledgers, what)
    try:
        return ledger.upload()
    finally:
        ledger.close(done=True)


def test_each_push_has_its_own(ledgers: Ledgers) -> None:
    first = opened(ledgers, "a", "b")
    assert ledgers.open("a", "b") is None
    second = opened(ledgers, "ab")
    first.close(done=True)
    second.close(done=True)


def test_nobody_else_reads_where_an_upload_goes(ledgers: Ledgers, tmp_path: Path) -> None:
    ledger = opened(ledgers, "a")
    ledger.set_upload(RECORD)
    (path,) = (tmp_path / "ledgers").iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    ledger.close(done=True)
    assert not list((tmp_path / "ledgers").iterdir())


def test_packs_are_added(ledgers: Ledgers) -> None:
    ledger = opened(ledgers, "a")
    assert list(ledger.packs()) == []
    ledger.add_pack("sha256:aa", 12, FRAMES)
    ledger.add_pack("sha256:bb", 5, PackFrames([5], b"c" * 32))
    ledger.close(done=False)
    ledger = opened(ledgers, "a")
    assert [(record.digest, record.size_bytes, frames) for record, frames in ledger.packs()] == [
        ("sha256:aa", 12, FRAMES),
        ("sha256:bb", 5, PackFrames([5], b"c" * 32)),
    ]
    ledger.close(done=True)


@pytest.mark.parametrize(
    "garbage", [b"\xff\xff", b'\n{"digest": "sha256:cc", "si', b'\n{"digest":"d","sizeBytes":1,"chunks":"AAA="}\n']
)
def test_damage_spoils_nothing_but_itself(ledgers: Ledgers, tmp_path: Path, garbage: bytes) -> None:
    ledger = opened(ledgers, "a")
    ledger.add_pack("sha256:aa", 12, FRAMES)
    (path,) = (tmp_path / "ledgers").iterdir()
    with path.open("ab") as file:
        file.write(garbage)
    ledger.add_pack("sha256:bb", 12, FRAMES)
    assert [record.digest for record, _ in ledger.packs()] == ["sha256:aa", "sha256:bb"]
    ledger.close(done=True)
    upload = opened(ledgers, "b")
    (path,) = (tmp_path / "ledgers").iterdir()
    path.write_bytes(garbage)
    assert upload.upload() is None
    upload.close(done=True)


def test_old_ones_are_swept(ledgers: Ledgers, tmp_path: Path) -> None:
    ledgers.sweep()
    for what in ("old", "new"):
        ledger = opened(ledgers, what)
        ledger.set_upload(RECORD)
        ledger.close(done=False)
        if what == "old":
            os.utime(ledger.path, (0, 0))
    ledgers.sweep()
    assert opened_upload(ledgers, "old") is None
    assert opened_upload(ledgers, "new") == RECORD
