"""What pulls rely on, in one process and in several."""

import os
import threading
from pathlib import Path

import pytest

from vzkubelet.images.claims import Claims


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "claims"


def claimed(directory: Path) -> frozenset[str]:
    """As another process sees it."""
    with Claims(directory).settled() as names:
        return names


def test_a_claim_holds_as_long_as_any_pull_of_its_process(directory: Path) -> None:
    claims = Claims(directory)
    with claims.held():
        claims.claim("a", "b")
        with claims.held():
            claims.claim("c", "a")
        assert claimed(directory) == {"a", "b", "c"}
    assert claimed(directory) == frozenset()
    assert [path.name for path in directory.iterdir()] == ["lock"]


def test_a_claim_without_a_pull_is_none(directory: Path) -> None:
    Claims(directory).claim("a")
    assert claimed(directory) == frozenset()


def test_claims_of_an_earlier_pull_do_not_come_back(directory: Path) -> None:
    claims = Claims(directory)
    with claims.held():
        claims.claim("a")
    with claims.held():
        claims.claim("b")
        assert claimed(directory) == {"b"}


def test_what_a_dead_process_claimed_is_free(directory: Path) -> None:
    directory.mkdir()
    (directory / "0123456789abcdef").write_text("a\nb\n")
    assert claimed(directory) == frozenset()
    assert not (directory / "0123456789abcdef").exists()


def test_many_claims_at_once_are_all_there(directory: Path) -> None:
    claims = Claims(directory)
    names = [f"{number:064x}" for number in range(2000)]  # more than there is room reserved for

    def claim(part: int) -> None:
        for name in names[part::8]:
            claims.claim(name)

    with claims.held():
        threads = [threading.Thread(target=claim, args=(part,)) for part in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert claimed(directory) == set(names)


def test_nobody_claims_while_another_one_removes(directory: Path) -> None:
    claims = Claims(directory)
    with claims.held():
        with Claims(directory).settled() as before:
            claiming = threading.Thread(target=claims.claim, args=("a",))
            claiming.start()
            claiming.join(0.05)
            assert claiming.is_alive()
            assert before == frozenset()
        claiming.join()
        assert claimed(directory) == {"a"}


def test_a_claim_that_finds_no_room_leaves_nothing(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    claims = Claims(directory)
    with monkeypatch.context() as volume:
        volume.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="No space"), claims.held():
            pass
    assert [path.name for path in directory.iterdir()] == ["lock"]
    with claims.held():
        claims.claim("a")
        assert claimed(directory) == {"a"}
