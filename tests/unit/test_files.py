import errno
import fcntl
import os
import threading
from pathlib import Path

import pytest

from vzkubelet import files


def test_writers_of_one_file_do_not_share_a_staging_file(tmp_path: Path) -> None:
    """A cancelled task's thread goes on writing while its successor begins."""
    path, contents = tmp_path / "state.json", [bytes([number]) * 100_000 for number in range(8)]
    faults: list[Exception] = []

    def write(content: bytes) -> None:
        try:
            for _ in range(10):
                files.write_atomic(path, content)
        except OSError as exc:
            faults.append(exc)

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert path.read_bytes() in contents
    assert [entry.name for entry in tmp_path.iterdir()] == ["state.json"]


def test_mode_is_closed_unless_asked_for(tmp_path: Path) -> None:
    files.write_atomic(tmp_path / "secret", b"")
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("refusal", "synced"),
    [(None, ["full"]), (errno.ENOTSUP, ["full", "fsync"]), (errno.ENOTTY, ["full", "fsync"])],
)  # fmt: skip
def test_a_loss_of_power_does_not_take_what_a_mac_keeps_in_its_drive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: int | None, synced: list[str]
) -> None:
    seen: list[str] = []

    def full(descriptor: int, command: int) -> int:
        assert command == 51
        seen.append("full")
        if refusal is not None:
            raise OSError(refusal, os.strerror(refusal))
        return 0

    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", full)
    monkeypatch.setattr(os, "fsync", lambda _: seen.append("fsync"))
    files.write_atomic(tmp_path / "state.json", b"x")
    assert seen == synced * 2, "the file and its directory"


def test_a_drive_that_fails_is_told_and_not_taken_for_one_that_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(descriptor: int, command: int) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", broken)
    with pytest.raises(OSError, match="Input/output"):
        files.write_atomic(tmp_path / "state.json", b"x")
    assert list(tmp_path.iterdir()) == []
