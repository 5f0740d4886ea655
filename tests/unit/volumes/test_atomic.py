"""The layout of atomically written volumes, and what a writer that was killed leaves."""

from pathlib import Path

import pytest

from vzkubelet.errors import InvalidInput
from vzkubelet.volumes import atomic
from vzkubelet.volumes.atomic import File


def test_layout_is_the_kubelets(tmp_path: Path) -> None:
    assert atomic.write(tmp_path, {"key": File(b"1"), "sub/file": File(b"2")})
    assert (tmp_path / "key").readlink() == Path("..data/key")
    assert (tmp_path / "sub").readlink() == Path("..data/sub")
    version = (tmp_path / "..data").readlink()
    assert version.name.startswith("..20")
    assert (tmp_path / version / "sub/file").read_bytes() == b"2"


def test_nothing_changes_for_equal_files(tmp_path: Path) -> None:
    atomic.write(tmp_path, {"a": File(b"1")})
    assert not atomic.write(tmp_path, {"a": File(b"1")})
    assert atomic.write(tmp_path, {"a": File(b"1", 0o600)})
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600


def test_link_that_was_lost_is_made_again(tmp_path: Path) -> None:
    atomic.write(tmp_path, {"a": File(b"1")})
    (tmp_path / "a").unlink()
    assert not atomic.write(tmp_path, {"a": File(b"1")})
    assert (tmp_path / "a").read_bytes() == b"1"


def test_leftovers_of_a_killed_writer_are_cleared(tmp_path: Path) -> None:
    atomic.write(tmp_path, {"a": File(b"1")})
    (tmp_path / "..2026_01_01_00_00_00.abc").mkdir()
    (tmp_path / "..data_tmp").symlink_to("..2026_01_01_00_00_00.abc")
    atomic.write(tmp_path, {"a": File(b"2")})
    assert (tmp_path / "a").read_bytes() == b"2"
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != (tmp_path / "..data").readlink().name) == [
        "..data",
        "a",
    ]


def test_failed_write_leaves_the_old_version(tmp_path: Path) -> None:
    atomic.write(tmp_path, {"a": File(b"1")})
    with pytest.raises(OSError):
        atomic.write(tmp_path, {"a": File(b"2"), "a/b": File(b"3")})
    assert (tmp_path / "a").read_bytes() == b"1"
    assert len(list(tmp_path.glob("..2*"))) == 1


@pytest.mark.parametrize("path", ["", ".", "./."])
def test_path_that_names_no_file(path: str) -> None:
    with pytest.raises(InvalidInput):
        atomic.checked_path(path)


@pytest.mark.parametrize(("path", "normalised"), [("a//b", "a/b"), ("./a", "a"), ("a/./b", "a/b"), ("a..b", "a..b")])
def test_path_is_normalised(path: str, normalised: str) -> None:
    assert atomic.checked_path(path) == normalised
