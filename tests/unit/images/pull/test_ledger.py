"""What the ledger keeps over a kill at any byte of it, another boot, and another plan."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vzkubelet.images.pull import ledger as ledgers
from vzkubelet.images.pull.ledger import Checkpoint, Kept, Ledger, done_bytes

PLAN = "sha256:plan"


def write(path: Path, plan: str = PLAN) -> None:
    ledger = Ledger(path, plan)
    ledger.checkpoint(0, Checkpoint(10, 100), 10)
    ledger.checkpoint(1, Checkpoint(5, 50), 15)
    ledger.finished(1, 20)
    ledger.synced(20)
    ledger.chunks(7, 3, 25)
    ledger.checkpoint(0, Checkpoint(30, 300), 45)
    ledger.close()


def kept(path: Path, plan: str = PLAN) -> Kept:
    ledger = Ledger(path, plan)
    ledger.close()
    return ledger.kept


def test_what_was_written_is_kept(tmp_path: Path) -> None:
    write(tmp_path / "ledger")
    assert kept(tmp_path / "ledger") == Kept(True, {0: Checkpoint(30, 300)}, {1}, [(7, 3)], 45)
    assert done_bytes(tmp_path / "ledger") == 45


def test_another_plan_begins_anew(tmp_path: Path) -> None:
    write(tmp_path / "ledger")
    assert not kept(tmp_path / "ledger", "sha256:other")
    assert not kept(tmp_path / "ledger"), "the other one's ledger took its place"


def test_killed_at_any_byte_of_it(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    write(path)
    whole = path.read_bytes()
    size = len(whole) // 8
    states = [Kept(), Kept(), Kept(), kept_after(1), kept_after(2), kept_after(3), kept_after(3), kept_after(4)]
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        assert kept(path) == states[cut // size]
        ledger = Ledger(path, PLAN)
        ledger.checkpoint(9, Checkpoint(1, 2), 3)
        ledger.close()
        assert kept(path).checkpoints[9] == Checkpoint(1, 2), "a half record is written over"


def kept_after(records: int) -> Kept:
    checkpoints = {0: Checkpoint(10, 100)}
    if records == 2:
        checkpoints[1] = Checkpoint(5, 50)
    return Kept(
        True, checkpoints, {1} if records > 2 else set(), [(7, 3)] if records > 3 else [], (10, 15, 20, 25)[records - 1]
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, 8 * 36 - 1), bit=st.integers(0, 7))
def test_a_flipped_bit_ends_what_is_believed(tmp_path: Path, position: int, bit: int) -> None:
    path = tmp_path / "ledger"
    path.unlink(missing_ok=True)
    write(path)
    whole = bytearray(path.read_bytes())
    whole[position] ^= 1 << bit
    path.write_bytes(whole)
    found = kept(path)
    assert found.checkpoints.get(0) in (None, Checkpoint(10, 100), Checkpoint(30, 300))
    assert found.chunks in ([], [(7, 3)])


def test_of_an_earlier_boot_only_what_was_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledgers, "boot_id", lambda: "one")
    write(tmp_path / "ledger")
    monkeypatch.setattr(ledgers, "boot_id", lambda: "two")
    found = kept(tmp_path / "ledger")
    assert found == Kept(False, {0: Checkpoint(10, 100)}, {1}, [], 20)
    ledger = Ledger(tmp_path / "ledger", PLAN)
    ledger.renew(Kept(True, {}, {1}, [], 10))
    ledger.close()
    assert kept(tmp_path / "ledger") == Kept(True, {}, {1}, [], 10)


def test_nobody_has_begun(tmp_path: Path) -> None:
    assert done_bytes(tmp_path / "ledger") == 0
    (tmp_path / "ledger").write_bytes(b"half")
    assert done_bytes(tmp_path / "ledger") == 0
