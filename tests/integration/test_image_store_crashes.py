"""``kill -9`` between any two changes of the file system: what can be seen is complete, and nothing is lost or left."""

import fcntl
import hashlib
import json
import os
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.go_cache import GO_REFERENCE, write_go_image
from vzkubelet.errors import Unavailable
from vzkubelet.images.contents import Contents
from vzkubelet.images.go_cache import adopt
from vzkubelet.images.pacing import Pacer
from vzkubelet.images.records import ContentRecord, ImageRecord, ReferenceRecord
from vzkubelet.images.store import Store
from vzkubelet.images.verification import list_chunks
from vzkubelet.machines.clone import clone_disk_for_qemu
from vzkubelet.machines.directory import MachineRoot
from vzkubelet.model.reference import parse

REFERENCE = "registry.test/guest:1"
DISK, AUX = os.urandom(300_000), os.urandom(5000)
KEY = "sha256:" + "a" * 64
MANIFEST = "sha256:" + "1" * 64
_CHANGES = frozenset(
    {
        "os.chmod", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate",
        "os.utime",
    }
)  # fmt: skip
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_MOST_STEPS = 300


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """In memory: a kill leaves what was written wherever it is, and nothing waits for a disk here."""
    directory = Path(tempfile.mkdtemp(dir="/dev/shm"))
    yield directory
    shutil.rmtree(directory)


def killed_before(step: int, work: Callable[[], object]) -> bool:
    """Do `work` in a process that is killed before its `step`-th change; False when it ended before that."""
    child = os.fork()
    if child == 0:
        seen = 0

        def count(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal seen
            is_change = event in _CHANGES or (
                event == "open" and isinstance(arguments[2], int) and bool(arguments[2] & _WRITING)
            )
            seen += is_change
            if is_change and seen == step:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        try:
            work()
        except BaseException:  # noqa: BLE001 - told by the exit status
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert not os.WIFEXITED(status) or os.WEXITSTATUS(status) == 0, "the work failed in the child, see its traceback"
    return os.WIFSIGNALED(status)


def every_step(tmp_path: Path, prepare: Callable[[Path], None], work: Callable[[Path], object]) -> Iterator[Path]:
    """A directory for each step that `work` can be killed before, as the kill left it; the last is of work done."""
    for step in range(1, _MOST_STEPS):
        directory = tmp_path / str(step)
        directory.mkdir()
        prepare(directory)
        was_killed = killed_before(step, lambda place=directory: work(place))  # type: ignore[misc]
        yield directory
        shutil.rmtree(directory)
        if not was_killed:
            assert step > 3, "nothing was changed: the steps are not seen"
            return
    raise AssertionError("the work never ends")


def nothing(directory: Path) -> None:
    """No preparation."""


# --- What is done


def pull(directory: Path) -> None:
    """As a pull does: a tree that came under another key, a raw file, the image, the reference."""
    store = Store(directory / "images")
    with store.pulling():
        contents = []
        for data, key, is_tree in ((AUX, "", False), (DISK, KEY, True)):
            content, chunks = described(directory, data, is_tree)
            contents.append(content)
            if store.has_content(content):
                continue
            staging = store.stage(key or content.digest)
            assert staging is not None
            staging.data.write_bytes(data)
            store.commit_content(staging, content, chunks)
        aux, disk = contents
        image = ImageRecord(manifest_digest=MANIFEST, os="linux", architecture="amd64", disk=disk, aux=aux)
        store.commit_image(image, b"{}")
        target = parse(REFERENCE)
        store.commit_reference(
            target,
            ReferenceRecord(
                reference=str(target),
                repository=target.repository,
                resolved_digest=MANIFEST,
                manifest_digest=MANIFEST,
                pulled_at="2026-01-01T00:00:00Z",
            ),
        )


def described(directory: Path, data: bytes, is_tree: bool) -> tuple[ContentRecord, bytes | None]:
    if not is_tree:
        return ContentRecord(f"sha256:{hashlib.sha256(data).hexdigest()}", len(data)), None
    (directory / "raw").write_bytes(data)
    chunks = list_chunks(directory / "raw", len(data), 65536)
    return ContentRecord(chunks.digest(), len(data)), chunks.to_bytes()


def clone(directory: Path, uid: str = "uid") -> None:
    """As the driver of QEMU does; needs a pulled image."""
    store, root = Store(directory / "images"), MachineRoot(directory / "machines")
    found = store.find(parse(REFERENCE))
    assert found is not None
    digest = found[1].disk.digest
    with root.staged(uid) as machine:
        place = root.machine(uid).path
        clone_disk_for_qemu(store.content_path(digest), machine, users=store.users_path(digest), place=place)
        machine.record_file.write_text("{}")


def clone_makes_overlays(directory: Path) -> bool:
    return (MachineRoot(directory / "machines").machine("uid").base).is_symlink()


def damage(directory: Path) -> ContentRecord:
    store = Store(directory / "images")
    record = store.image_record(MANIFEST)
    assert record is not None
    path = store.content_path(record.disk.digest)
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.write(b"damaged")
    path.chmod(0o444)
    return record.disk


# --- What is checked


def check_visible(store: Store, reference: str = REFERENCE) -> bool:
    """What is found is right, to the last bit."""
    found = store.find(parse(reference))
    if found is None:
        return False
    assert store.content_path(found[1].disk.digest).read_bytes() == DISK
    assert store.content_path(found[1].aux.digest).read_bytes() == AUX
    return True


def check_nothing_is_left(store: Store) -> None:
    """Once all is removed and old there is nothing but locks."""
    for record in list(store.references()):
        store.remove_reference(record)
    for path in store.root.rglob("*"):
        os.utime(path, (0, 0), follow_symlinks=False)
    store.sweep(unreferenced_images=True, leftover_age_s=0)
    left = [path for path in store.root.rglob("*") if path.name != "lock" and (path.is_symlink() or path.is_file())]
    assert left == []


# --- The tests


def test_a_pull_leaves_nothing_half_visible_and_the_next_one_completes_it(tmp_path: Path) -> None:
    steps = 0
    for directory in every_step(tmp_path, nothing, pull):
        store = Store(directory / "images")
        check_visible(store)
        store.sweep(unreferenced_images=False)
        check_visible(store)
        pull(directory)
        assert check_visible(store)
        check_nothing_is_left(store)
        steps += 1
    assert steps > 30


def test_a_crash_after_the_rename_costs_no_second_download(tmp_path: Path) -> None:
    """The content is there without its record, and no image refers to it yet: the next pull finds it."""
    found = 0
    for directory in every_step(tmp_path, nothing, pull):
        contents = Contents(directory / "images")
        for digest in contents.digests():
            if contents.record(digest) is None:
                size_bytes = contents.size_bytes(digest)
                assert size_bytes is not None
                assert contents.has(ContentRecord(digest, size_bytes)), "a good content was not recognised"
                found += 1
    assert found >= 2


def test_a_removal_leaves_no_image_without_its_content(tmp_path: Path) -> None:
    def remove(directory: Path) -> None:
        Store(directory / "images").remove_image(MANIFEST)

    for directory in every_step(tmp_path, pull, remove):
        store = Store(directory / "images")
        check_visible(store)
        store.remove_image(MANIFEST)
        store.sweep(unreferenced_images=True)
        assert store.find(parse(REFERENCE)) is None
        assert store.contents.digests() == []
        check_nothing_is_left(store)


def test_a_machine_that_exists_has_its_base_whatever_is_removed_then(tmp_path: Path) -> None:
    made = abandoned = 0
    for directory in every_step(tmp_path, pull, clone):
        store, root = Store(directory / "images"), MachineRoot(directory / "machines")
        exists = root.uids() == ["uid"]
        if exists and not clone_makes_overlays(directory):
            pytest.skip("this file system shares blocks, so no overlay is made on it")
        store.remove_image(MANIFEST)
        store.sweep(unreferenced_images=True)
        if exists:
            assert root.machine("uid").base.read_bytes() == DISK
            root.remove("uid")
            made += 1
        else:
            abandoned += 1
        root.remove_leftovers()
        store.sweep(unreferenced_images=True)
        assert store.contents.digests() == [], "the image is held by a machine that is no more"
        check_nothing_is_left(store)
    assert made
    assert abandoned > 3


def test_a_machine_keeps_its_base_while_that_is_quarantined(tmp_path: Path) -> None:
    def prepare(directory: Path) -> None:
        pull(directory)
        clone(directory)
        damage(directory)

    def notice(directory: Path) -> None:
        assert Store(directory / "images").find(parse(REFERENCE)) is None

    for directory in every_step(tmp_path, prepare, notice):
        store, root = Store(directory / "images"), MachineRoot(directory / "machines")
        if not clone_makes_overlays(directory):
            pytest.skip("this file system shares blocks, so no overlay is made on it")
        base = root.machine("uid").base
        assert base.read_bytes().startswith(b"damaged"), "the machine lost its base"
        assert store.find(parse(REFERENCE)) is None
        assert base.read_bytes().startswith(b"damaged")
        reasons = [record for record in (store.root / "quarantine").glob("*.json") if not record.name.startswith(".")]
        assert reasons
        assert all(json.loads(record.read_text())["ranges"] == [[0, 65536]] for record in reasons)
        pull(directory)
        assert check_visible(store)
        assert base.read_bytes() == DISK
        root.remove("uid")
        check_nothing_is_left(store)


def test_an_adoption_has_each_file_in_one_place_or_the_other_and_goes_on(tmp_path: Path) -> None:
    def prepare(directory: Path) -> None:
        write_go_image(directory, GO_REFERENCE, DISK, AUX)

    def take_over(directory: Path) -> None:
        adopt(Store(directory / "images"), directory, Pacer())

    for directory in every_step(tmp_path, prepare, take_over):
        store = Store(directory / "images")
        found = {path.read_bytes() for path in directory.rglob("*") if path.is_file() and path.stat().st_size > 1000}
        assert {DISK, AUX} <= found, "a file was lost"
        store.sweep(unreferenced_images=True)  # as the agent does when it starts
        check_visible(store, GO_REFERENCE)
        take_over(directory)
        assert check_visible(store, GO_REFERENCE)
        assert not (directory / "blobs").exists() or list((directory / "blobs").rglob("*.img")) == []
        check_nothing_is_left(store)


def test_machines_and_removals_at_once_leave_no_machine_without_base(tmp_path: Path) -> None:
    """Two processes race: one makes machines of an image, the other removes it."""
    pull(tmp_path)
    clone(tmp_path)
    if not clone_makes_overlays(tmp_path):
        pytest.skip("this file system shares blocks, so no overlay is made on it")
    root, store = MachineRoot(tmp_path / "machines"), Store(tmp_path / "images")
    root.remove("uid")
    made = missed = 0
    for number in range(60):
        pull(tmp_path)
        ready = os.open(tmp_path / "ready", os.O_RDWR | os.O_CREAT)
        fcntl.flock(ready, fcntl.LOCK_EX)
        child = os.fork()
        if child == 0:
            waiting = os.open(tmp_path / "ready", os.O_RDWR)
            fcntl.flock(waiting, fcntl.LOCK_SH)
            Store(tmp_path / "images").remove_image(MANIFEST)
            os._exit(0)
        record = store.image_record(MANIFEST)
        assert record is not None
        digest = record.disk.digest
        fcntl.flock(ready, fcntl.LOCK_UN)
        os.close(ready)
        try:
            with root.staged(f"uid-{number}") as machine:
                place = root.machine(f"uid-{number}").path
                clone_disk_for_qemu(store.content_path(digest), machine, users=store.users_path(digest), place=place)
                machine.record_file.write_text("{}")
        except Unavailable:  # the image was removed before
            missed += 1
        assert os.waitpid(child, 0)[1] == 0
        for uid in root.uids():
            assert root.machine(uid).base.read_bytes() == DISK
            root.remove(uid)
            made += 1
    assert made + missed == 60
