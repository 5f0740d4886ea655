"""Contents with their records: the cheap check, what becomes of what differs, damaged and used contents."""

import fcntl
import hashlib
import os
import shutil
import threading
import time
from pathlib import Path

import msgspec
import pytest

from vzkubelet.images import quarantine, verification
from vzkubelet.images.chunk_lists import LIST_BYTES
from vzkubelet.images.contents import Contents
from vzkubelet.images.formats.tree import ChunkList
from vzkubelet.images.records import ContentKind, ContentRecord, Quarantined
from vzkubelet.images.staging import Staging, StagingRoot
from vzkubelet.images.verification import Damage, list_chunks

KIB = 1024
DATA = bytes(range(256)) * 4 * KIB  # 1 MiB


@pytest.fixture
def contents(tmp_path: Path) -> Contents:
    return Contents(tmp_path / "images")


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are hashed from now on."""
    names: list[str] = []
    extents = verification.extents

    def noted(path: Path, *rest: object, **named: object) -> object:
        names.append(path.name)
        return extents(path, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(verification, "extents", noted)
    return names


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def staged(tmp_path: Path, key: str, data: bytes) -> Staging:
    staging = StagingRoot(tmp_path / "images" / "staging").stage(key)
    assert staging is not None
    staging.data.write_bytes(data)
    return staging


def add(tmp_path: Path, contents: Contents, data: bytes = DATA) -> ContentRecord:
    content = ContentRecord(digest_of(data), len(data))
    contents.commit(staged(tmp_path, content.digest, data), content)
    return content


def add_tree(tmp_path: Path, contents: Contents, data: bytes = DATA, chunk_bytes: int = 64 * KIB) -> ContentRecord:
    (tmp_path / "raw").write_bytes(data)
    chunks = list_chunks(tmp_path / "raw", len(data), chunk_bytes)
    content = ContentRecord(chunks.digest(), len(data))
    contents.commit(staged(tmp_path, content.digest, data), content, chunks.to_bytes())
    return content


def change(path: Path, offset: int = 100, byte: bytes = b"\0") -> None:
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(byte)


# --- The cheap check


def test_a_committed_content_is_recorded_and_not_read_again(
    tmp_path: Path, contents: Contents, readings: list[str]
) -> None:
    content = add(tmp_path, contents)
    record = contents.record(content.digest)
    assert record is not None
    status = contents.path(content.digest).stat()
    assert (record.inode, record.ctime_ns, record.kind) == (status.st_ino, status.st_ctime_ns, ContentKind.RAW)
    assert contents.has(content)
    assert Contents(tmp_path / "images").has(content)
    assert readings == []


@pytest.mark.parametrize("keep_mtime", [False, True])
def test_a_changed_byte_is_noticed_whatever_the_mtime_says(
    tmp_path: Path, contents: Contents, keep_mtime: bool
) -> None:
    content = add(tmp_path, contents)
    path = contents.path(content.digest)
    before = path.stat()
    change(path)
    if keep_mtime:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        path.chmod(before.st_mode)
        assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert not contents.has(content)
    assert not path.exists()


@pytest.mark.parametrize("seconds", [0, 1e9, 4e9])
def test_another_mtime_costs_one_reading_and_changes_nothing(
    tmp_path: Path, contents: Contents, readings: list[str], seconds: float
) -> None:
    content = add(tmp_path, contents)
    os.utime(contents.path(content.digest), (seconds, seconds))
    assert contents.has(content)
    assert len(readings) == 1
    assert contents.has(content)
    assert len(readings) == 1, "the record was not renewed"


def test_another_file_under_the_name_is_read_before_it_is_used(
    tmp_path: Path, contents: Contents, readings: list[str]
) -> None:
    content = add(tmp_path, contents)
    path = contents.path(content.digest)
    copy = path.with_name("copy")
    shutil.copy2(path, copy)
    copy.replace(path)
    assert contents.has(content)
    assert len(readings) == 1


def test_a_store_of_before_is_verified_once_and_then_recorded(
    tmp_path: Path, contents: Contents, readings: list[str]
) -> None:
    content = ContentRecord(digest_of(DATA), len(DATA))
    contents.directory.mkdir(parents=True)
    contents.path(content.digest).write_bytes(DATA)
    contents.path(content.digest).chmod(0o444)
    assert contents.has(content)
    assert contents.has(content)
    assert len(readings) == 1


def test_a_store_of_before_with_damage_in_it_is_not_used(tmp_path: Path, contents: Contents) -> None:
    content = ContentRecord(digest_of(DATA), len(DATA))
    contents.directory.mkdir(parents=True)
    contents.path(content.digest).write_bytes(DATA[:-1] + b"?")
    assert not contents.has(content)
    assert not contents.path(content.digest).exists()


def test_lists_need_not_wait_for_a_verification(tmp_path: Path, contents: Contents, readings: list[str]) -> None:
    content = add(tmp_path, contents)
    contents.record_path(content.digest).unlink()
    assert contents.has(content, verify=False)
    assert readings == []


def test_a_record_of_something_else_does_not_count(tmp_path: Path, contents: Contents, readings: list[str]) -> None:
    one, other = add(tmp_path, contents), add(tmp_path, contents, b"other")
    shutil.copyfile(contents.record_path(other.digest), contents.record_path(one.digest))
    assert contents.has(one)
    assert len(readings) == 1


def test_a_content_of_another_size_than_wanted_is_not_it(tmp_path: Path, contents: Contents) -> None:
    content = add(tmp_path, contents)
    assert not contents.has(ContentRecord(content.digest, content.size_bytes + 1))
    assert contents.has(content), "the content was blamed for a wrong question"


def test_whoever_comes_meanwhile_waits_and_does_not_read_again(
    tmp_path: Path, contents: Contents, readings: list[str]
) -> None:
    content = add(tmp_path, contents)
    contents.record_path(content.digest).unlink()
    results: list[bool] = []
    threads = [threading.Thread(target=lambda: results.append(contents.has(content))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 4
    assert len(readings) == 1


# --- Trees


def test_a_tree_is_verified_by_its_list(tmp_path: Path, contents: Contents, readings: list[str]) -> None:
    content = add_tree(tmp_path, contents)
    record = contents.record(content.digest)
    assert record is not None
    assert (record.kind, record.chunk_bytes) == (ContentKind.TREE, 64 * KIB)
    contents.record_path(content.digest).unlink()
    readings.clear()
    assert contents.has(content)
    assert len(readings) == 1
    change(contents.path(content.digest))
    assert not contents.has(content)


@pytest.mark.parametrize("list_of_chunks", [None, b"damaged"])
def test_a_tree_whose_list_was_lost_is_not_lost_with_it(
    tmp_path: Path, contents: Contents, list_of_chunks: bytes | None
) -> None:
    content = add_tree(tmp_path, contents)
    path = contents.chunks_path(content.digest)
    before = path.read_bytes()
    path.unlink()
    if list_of_chunks is not None:
        path.write_bytes(list_of_chunks)
    assert contents.inspect(content).damage is None
    assert path.read_bytes() == before


def test_a_list_that_is_not_of_the_file_is_refused(tmp_path: Path, contents: Contents) -> None:
    content = ContentRecord(digest_of(DATA), len(DATA))
    chunks = ChunkList(5, 4096, hashlib.sha256(b"12345").digest())
    staging = staged(tmp_path, content.digest, DATA)
    with pytest.raises(ValueError, match="not of a file of"):
        contents.commit(staging, content, chunks.to_bytes())
    assert not contents.has(content)
    staging.discard()


def test_chunks_of_any_size_are_listed_once(tmp_path: Path, contents: Contents, readings: list[str]) -> None:
    content = add(tmp_path, contents)
    for _ in range(2):
        chunks = contents.chunk_list(content, 4096)
        assert chunks is not None
        assert (chunks.size_bytes, chunks.chunk_bytes, chunks.count) == (len(DATA), 4096, 256)
        assert chunks.chunk(3) == hashlib.sha256(DATA[3 * 4096 : 4 * 4096]).digest()
    assert len(readings) == 1
    assert contents.chunk_list(ContentRecord(digest_of(b"none"), 4), 4096) is None


def test_verifying_a_raw_file_makes_the_list_that_tells_where_it_is_damaged_later(
    tmp_path: Path, contents: Contents
) -> None:
    content = add(tmp_path, contents)
    assert contents.inspect(content).damage is None
    change(contents.path(content.digest), offset=LIST_BYTES + 1)
    damage = contents.inspect(content).damage
    assert damage is not None
    assert damage.ranges == ((LIST_BYTES, 2 * LIST_BYTES),)


def test_a_wrong_list_of_a_raw_file_is_made_again(tmp_path: Path, contents: Contents) -> None:
    content = add(tmp_path, contents)
    contents.lists.keep(content.digest, ChunkList(len(DATA), LIST_BYTES, bytes(32 * 4)))
    assert contents.inspect(content).damage is None
    kept = contents.lists.kept(content, LIST_BYTES)
    assert kept is not None
    assert kept.chunk(0) == hashlib.sha256(DATA[:LIST_BYTES]).digest()


# --- Keys


def test_a_content_is_found_under_the_key_it_came_by(tmp_path: Path, contents: Contents) -> None:
    key = "sha256:" + "a" * 64
    content = ContentRecord(digest_of(DATA), len(DATA))
    contents.commit(staged(tmp_path, key, DATA), content)
    assert contents.of_key(key) == content
    assert contents.of_key(content.digest) == content
    assert contents.of_key("sha256:" + "b" * 64) is None
    contents.remove(content.digest)
    assert contents.of_key(key) is None
    contents.sweep(frozenset())
    assert list((tmp_path / "images" / "keys").iterdir()) == []


def test_what_comes_under_a_second_key_leaves_the_file_that_machines_use(tmp_path: Path, contents: Contents) -> None:
    content = add(tmp_path, contents)
    inode = contents.path(content.digest).stat().st_ino
    contents.commit(staged(tmp_path, "sha256:" + "a" * 64, DATA), content)
    assert contents.path(content.digest).stat().st_ino == inode
    assert contents.of_key("sha256:" + "a" * 64) == content
    assert list((tmp_path / "images" / "staging").iterdir()) == []


# --- Damaged and used


def use(contents: Contents, content: ContentRecord, machine: Path) -> Path:
    """A machine whose base is the content, registered; returns the base."""
    machine.mkdir()
    (machine / "base.img").symlink_to(contents.path(content.digest))
    users = contents.users_path(content.digest)
    users.mkdir(exist_ok=True)
    (users / machine.name).symlink_to(machine / "base.img")
    return machine / "base.img"


def test_quarantine_says_when_and_why(tmp_path: Path, contents: Contents) -> None:
    content = add(tmp_path, contents)
    inode = contents.path(content.digest).stat().st_ino
    moved = contents.quarantine(content.digest, inode, Damage("it is bad", ((0, 10),)))
    assert moved is not None
    assert moved.read_bytes() == DATA
    reason = msgspec.json.decode(moved.with_name(moved.name + ".json").read_bytes(), type=Quarantined)
    assert (reason.digest, reason.reason, reason.ranges) == (content.digest, "it is bad", ((0, 10),))
    assert not contents.has(content)
    assert contents.digests() == [] or contents.size_bytes(content.digest) is None


def test_a_full_volume_does_not_keep_damage_in_use(
    tmp_path: Path, contents: Contents, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    content = add(tmp_path, contents)
    change(contents.path(content.digest))
    monkeypatch.setattr(quarantine, "write_record", full)
    assert not contents.has(content)
    assert len(list(contents.quarantine_directory.iterdir())) == 1
    assert "without a word why" in caplog.text


def test_another_file_that_took_the_name_is_not_quarantined(tmp_path: Path, contents: Contents) -> None:
    content = add(tmp_path, contents)
    assert contents.quarantine(content.digest, 12345, Damage("it is bad")) is None
    assert contents.has(content)


def test_a_damaged_base_stays_readable_until_the_image_is_pulled_again(tmp_path: Path, contents: Contents) -> None:
    content = add(tmp_path, contents)
    base = use(contents, content, tmp_path / "machine")
    change(contents.path(content.digest))
    damaged = base.read_bytes()
    assert not contents.has(content)
    assert base.read_bytes() == damaged, "the machine lost its base"
    assert contents.size_bytes(content.digest) is None, "the damaged file is still offered"
    assert contents.sweep_quarantine(time.time() + 10) == 0, "the base of a machine was swept"
    with base.open("rb") as running:
        add(tmp_path, contents)
        assert contents.has(content)
        assert base.read_bytes() == DATA, "a machine that starts now finds the right bytes"
        assert running.read() == damaged, "a running machine keeps what it has"
    assert contents.sweep_quarantine(time.time() + 10) > 0
    assert list(contents.quarantine_directory.iterdir()) == []


def test_quarantine_is_swept_after_its_time_and_when_its_machines_are_gone(tmp_path: Path, contents: Contents) -> None:
    content = add(tmp_path, contents)
    base = use(contents, content, tmp_path / "machine")
    change(contents.path(content.digest))
    assert not contents.has(content)
    shutil.rmtree(base.parent)
    assert contents.sweep_quarantine(time.time() - 10) == 0
    assert contents.sweep_quarantine(time.time() + 10) == len(DATA)
    contents.sweep(frozenset())
    assert list(contents.quarantine_directory.iterdir()) == list(contents.directory.iterdir()) == []


def test_content_that_a_machine_refers_to_is_not_removed(tmp_path: Path, contents: Contents) -> None:
    content = add(tmp_path, contents)
    base = use(contents, content, tmp_path / "machine")
    assert contents.remove(content.digest) is None
    assert contents.sweep(frozenset()) == 0
    assert base.read_bytes() == DATA
    shutil.rmtree(base.parent)
    assert contents.sweep(frozenset()) == len(DATA)
    assert list(contents.directory.iterdir()) == []


def test_a_machine_made_anew_from_another_image_releases_the_old_one(tmp_path: Path, contents: Contents) -> None:
    old, new = add(tmp_path, contents), add(tmp_path, contents, b"new")
    base = use(contents, old, tmp_path / "machine")
    base.unlink()
    base.symlink_to(contents.path(new.digest))
    assert contents.remove(old.digest) == len(DATA)


def test_content_is_not_removed_while_a_machine_is_being_made_of_it(tmp_path: Path, contents: Contents) -> None:
    content = add(tmp_path, contents)
    maker = os.open(contents.users_path(content.digest), os.O_RDONLY)
    fcntl.flock(maker, fcntl.LOCK_SH)
    assert contents.remove(content.digest) is None
    os.close(maker)
    assert contents.remove(content.digest) == len(DATA)


def test_links_of_dead_machines_are_forgotten_after_an_hour(tmp_path: Path, contents: Contents) -> None:
    content = add(tmp_path, contents)
    base = use(contents, content, tmp_path / "machine")
    shutil.rmtree(base.parent)
    link = contents.users_path(content.digest) / "machine"
    wanted = frozenset({content.digest.removeprefix("sha256:")})
    contents.sweep(wanted)
    assert link.is_symlink(), "it may be of a machine that is being made"
    os.utime(link, (0, 0), follow_symlinks=False)
    contents.sweep(wanted)
    assert not link.is_symlink()
    assert contents.has(content)


def test_a_machine_of_before_with_a_hard_link_lives_on(tmp_path: Path, contents: Contents) -> None:
    content = add(tmp_path, contents)
    base = tmp_path / "base.img"
    base.hardlink_to(contents.path(content.digest))
    assert contents.has(content), "the link changed the ctime, and the content was verified again"
    contents.sweep(frozenset())
    assert base.read_bytes() == DATA
    assert contents.digests() == []
