import threading
from pathlib import Path

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
