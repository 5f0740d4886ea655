"""The content store: nothing is visible before it is complete, nothing is removed that is used."""

import hashlib
import os
from pathlib import Path

import pytest

from vzkubelet.errors import NotFound
from vzkubelet.images.records import ContentRecord, ImageRecord, ReferenceRecord
from vzkubelet.images.store import Store
from vzkubelet.images.usage import snapshot
from vzkubelet.model.reference import Reference, parse


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "images")


def add_content(store: Store, data: bytes) -> ContentRecord:
    content = ContentRecord(f"sha256:{hashlib.sha256(data).hexdigest()}", len(data))
    if not store.has_content(content):
        staging = store.stage(content.digest)
        assert staging is not None
        staging.data.write_bytes(data)
        store.commit_content(staging, content)
    return content


def add_image(store: Store, reference: str, disk: bytes = b"disk", resolved: str = "", number: int = 1) -> ImageRecord:
    target = parse(reference)
    image = ImageRecord(
        manifest_digest=f"sha256:{number:064x}",
        os="linux",
        architecture="amd64",
        disk=add_content(store, disk),
        aux=add_content(store, b"aux"),
        env=(("A", "b"),),
    )
    store.commit_image(image, b"{}")
    store.commit_reference(target, pointer(target, image.manifest_digest, resolved))
    return image


def pointer(target: Reference, manifest: str, resolved: str = "") -> ReferenceRecord:
    return ReferenceRecord(
        reference=str(target),
        repository=target.repository,
        resolved_digest=resolved or manifest,
        manifest_digest=manifest,
        pulled_at="2026-01-01T00:00:00Z",
    )


def files(store: Store) -> list[str]:
    return sorted(str(path.relative_to(store.root)) for path in store.root.rglob("*") if path.is_file())


def test_empty_store_is_not_written_to(store: Store) -> None:
    assert store.find(parse("r.io/a:1")) is None
    assert list(store.images()) == []
    assert list(store.references()) == []
    assert store.sweep(unreferenced_images=True) == 0
    assert not store.root.exists()


def test_image_is_found_under_its_reference_only(store: Store) -> None:
    image = add_image(store, "r.io/a:1")
    found = store.find(parse("r.io/a:1"))
    assert found is not None
    assert found[1] == image
    assert store.find(parse("r.io/a:2")) is None
    assert store.find(parse("r.io/b:1")) is None


def test_image_is_found_by_manifest_and_by_index_digest_in_its_repository(store: Store) -> None:
    index = "sha256:" + "e" * 64
    image = add_image(store, "r.io/a:1", resolved=index)
    assert store.find(parse(f"r.io/a@{image.manifest_digest}"))
    assert store.find(parse(f"r.io/a:other@{index}"))
    assert store.find(parse(f"r.io/b@{image.manifest_digest}")) is None


def test_content_is_read_only_and_named_by_its_digest(store: Store) -> None:
    content = add_content(store, b"disk")
    path = store.content_path(content.digest)
    assert path.name == hashlib.sha256(b"disk").hexdigest()
    assert path.stat().st_mode & 0o777 == 0o444
    assert list(store.staging_root.iterdir()) == []


def test_content_is_invisible_until_it_is_committed(store: Store) -> None:
    content = ContentRecord("sha256:" + "a" * 64, 3)
    staging = store.stage(content.digest)
    assert staging is not None
    staging.data.write_bytes(b"abc")
    assert not store.has_content(content)
    staging.discard()
    assert files(store) == []


def test_content_is_staged_by_one_at_a_time(store: Store, tmp_path: Path) -> None:
    content = ContentRecord("sha256:" + "a" * 64, 3)
    staging = store.stage(content.digest)
    assert staging is not None
    other = Store(tmp_path / "images")
    assert other.stage(content.digest) is None
    staging.discard()
    again = other.stage(content.digest)
    assert again is not None
    again.discard()


def test_what_is_discarded_is_nobodys_until_it_is_gone(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hazard: the lock goes before the data, another pull takes the place, and the data is removed under its hands."""
    staging = store.stage(f"sha256:{1:064x}")
    assert staging is not None
    for name in ("data", "ledger"):
        (staging.directory / name).touch()
    taken_with: list[list[str]] = []
    unlink = os.unlink

    def noted(path: str | Path, **options: int) -> None:
        unlink(path, **options)
        other = store.stage(f"sha256:{1:064x}")
        if other is not None:
            taken_with.append(sorted(file.name for file in other.directory.iterdir()))
            other.release()

    monkeypatch.setattr(os, "unlink", noted)
    staging.discard()
    assert taken_with == [["lock"]]


def test_private_images_are_private_whoever_made_the_directory(store: Store) -> None:
    """Hazard: the records of pulls are written first, and make the directory for everybody's eyes."""
    (store.root / "access").mkdir(parents=True)
    store.root.chmod(0o755)
    with store.pulling():
        assert store.root.stat().st_mode & 0o777 == 0o700
    add_content(store, b"disk")
    store.root.chmod(0o750)
    with store.pulling():
        assert store.root.stat().st_mode & 0o777 == 0o750, "what a person has chosen since stays"


def test_what_a_killed_pull_left_is_there_for_the_next_one(store: Store) -> None:
    staging = store.stage("sha256:" + "a" * 64)
    assert staging is not None
    staging.data.write_bytes(b"half")
    staging.ledger.write_bytes(b"4")
    staging.release()  # as the end of its process does
    again = store.stage("sha256:" + "a" * 64)
    assert again is not None
    assert (again.data.read_bytes(), again.ledger.read_bytes()) == (b"half", b"4")
    again.discard()
    assert files(store) == []


def test_image_with_content_of_another_size_is_not_there(store: Store) -> None:
    image = add_image(store, "r.io/a:1")
    path = store.content_path(image.disk.digest)
    path.chmod(0o600)
    path.write_bytes(b"shorter than before"[:3])
    assert store.find(parse("r.io/a:1")) is None


def test_image_whose_record_is_damaged_is_pulled_again(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    add_image(store, "r.io/a:1")
    record = next(store.root.glob("manifests/sha256/*/image.json"))
    record.write_bytes(b"{half")
    assert store.find(parse("r.io/a:1")) is None
    assert "image.json" in caplog.text


def test_same_content_under_two_tags_is_stored_once(store: Store) -> None:
    add_image(store, "r.io/a:1", number=1)
    add_image(store, "r.io/a:2", number=2)
    assert len(store.contents.digests()) == 2


def test_sweep_spares_what_another_reference_uses(store: Store) -> None:
    add_image(store, "r.io/a:1", b"shared", number=1)
    add_image(store, "r.io/a:2", b"shared", number=2)
    found = store.find(parse("r.io/a:1"))
    assert found is not None
    store.remove_reference(found[0])
    store.sweep(unreferenced_images=True)
    assert store.find(parse("r.io/a:2"))
    found = store.find(parse("r.io/a:2"))
    assert found is not None
    store.remove_reference(found[0])
    assert store.sweep(unreferenced_images=True) == 4096 * 2
    assert files(store) == ["claims/lock"]


def test_sweep_at_start_spares_images_whose_tag_has_moved(store: Store) -> None:
    old = add_image(store, "r.io/a:1", b"old", number=1)
    add_image(store, "r.io/a:1", b"new", number=2)
    store.sweep(unreferenced_images=False)
    assert store.image(old.manifest_digest)
    store.sweep(unreferenced_images=True)
    assert store.image(old.manifest_digest) is None
    assert store.find(parse("r.io/a:1"))


def test_sweep_removes_what_crashes_leave(store: Store) -> None:
    add_image(store, "r.io/a:1")
    before = files(store)
    add_content(store, b"aux of a pull that died")
    (store.staging_root / "dead").mkdir(parents=True)
    (store.staging_root / "dead" / "data").write_bytes(b"x" * 5000)
    os.utime(store.staging_root / "dead" / "data", (0, 0))
    os.utime(store.staging_root / "dead", (0, 0))
    half_written = store.root / "references" / ".staging-abcd-x.json"
    half_written.write_bytes(b"")
    os.utime(half_written, (0, 0))
    (store.root / "manifests/sha256" / ("9" * 64)).mkdir()
    assert store.sweep(unreferenced_images=False) == 4096 + 8192
    assert files(store) == sorted({*before, "claims/lock"})
    assert not (store.root / "manifests/sha256" / ("9" * 64)).exists()


def test_what_a_pull_relies_on_is_not_swept(store: Store, tmp_path: Path) -> None:
    other = Store(tmp_path / "images")
    with store.pulling():
        add_content(store, b"not yet referred to")
        assert other.sweep(unreferenced_images=True) == 0
        assert store.contents.digests()
    assert other.sweep(unreferenced_images=True) == 4096


def test_long_references_make_file_names(store: Store) -> None:
    path = "/".join(["part"] * 50)
    one, two = f"r.io/{path}:{'t' * 127}1", f"r.io/{path}:{'t' * 127}2"
    add_image(store, one, number=1)
    assert store.find(parse(one))
    assert store.find(parse(two)) is None


# --- Uses and pins


def test_a_start_counts_as_a_use_and_a_list_does_not(store: Store) -> None:
    image = add_image(store, "r.io/a:1")
    came_at = store.came_at(image.manifest_digest)
    assert store.last_used_at(image.manifest_digest) == came_at
    mark = store.root / "manifests/sha256" / image.manifest_digest.removeprefix("sha256:") / "used"
    store.find(parse("r.io/a:1"), verify=False)
    assert not mark.exists()
    for use in (lambda: store.find(parse("r.io/a:1")), lambda: store.mark_used("r.io/a:1")):
        use()
        os.utime(mark, (5, 5))
        assert store.last_used_at(image.manifest_digest) == 5
        use()
        assert store.last_used_at(image.manifest_digest) > 5
    assert store.came_at(image.manifest_digest) == came_at
    store.mark_used("r.io/nobody:1")
    assert store.last_used_at("sha256:" + "9" * 64) == 0


def test_pins_follow_the_reference_and_go_with_it(store: Store) -> None:
    add_image(store, "r.io/a:1", b"one", number=1)
    with pytest.raises(NotFound, match="pull it first"):
        store.pin("r.io/b:1")
    store.pin("r.io/a:1")
    store.pin("r.io/a:1")
    assert store.pins() == {"r.io/a:1"}
    add_image(store, "r.io/a:1", b"two", number=2)  # pulled again
    assert store.pins() == {"r.io/a:1"}
    assert snapshot(store).digests_of(["r.io/a:1"]) == {f"sha256:{2:064x}"}
    assert [image.is_pinned for image in snapshot(store).images] == [False, True]
    assert store.unpin("r.io/a:1")
    assert not store.unpin("r.io/a:1")
    store.pin("r.io/a:1")
    store.remove(list(store.references()))
    assert store.pins() == frozenset()


def test_removing_a_reference_leaves_the_old_versions_of_others(store: Store) -> None:
    old = add_image(store, "r.io/a:1", b"old", number=1)
    add_image(store, "r.io/a:1", b"new", number=2)
    add_image(store, "r.io/b:1", b"b", number=3)
    found = store.find(parse("r.io/b:1"))
    assert found is not None
    assert store.remove([found[0]]) == 4096
    assert store.image_record(old.manifest_digest) is not None
    assert store.image_record(f"sha256:{3:064x}") is None


def test_an_image_that_a_pull_relies_on_is_not_removed(store: Store, tmp_path: Path) -> None:
    image = add_image(store, "r.io/a:1")
    other = Store(tmp_path / "images")
    with store.pulling():
        assert store.image(image.manifest_digest)
        assert other.remove_image(image.manifest_digest) is None
        assert other.find(parse("r.io/a:1"))
    assert other.remove_image(image.manifest_digest) == 8192
    assert other.find(parse("r.io/a:1")) is None


def test_figures_tell_what_removing_an_image_frees(store: Store, tmp_path: Path) -> None:
    add_image(store, "r.io/a:1", b"a", number=1)
    image = add_image(store, "r.io/b:1", b"b", number=2)
    assert [(row.size_bytes, row.allocated_bytes, row.unique_bytes) for row in snapshot(store).images] == [
        (4, 8192, 4096)
    ] * 2
    users = store.users_path(image.disk.digest)
    (tmp_path / "base.img").symlink_to(store.content_path(image.disk.digest))
    (users / "machine").symlink_to(tmp_path / "base.img")
    state = snapshot(store)
    assert [row.unique_bytes for row in state.images] == [4096, 0]
    assert state.held == {image.disk.digest}


@pytest.mark.parametrize(
    "name", ["r.io/a:1", "r.io/a@sha256:" + f"{1:064x}", "sha256:" + f"{1:064x}", "r.io/a@sha256:" + "e" * 64]
)
def test_images_in_use_are_known_by_any_of_their_names(store: Store, name: str) -> None:
    add_image(store, "r.io/a:1", resolved="sha256:" + "e" * 64)
    add_image(store, "r.io/b:1", number=2)
    assert snapshot(store).digests_of([name, "not a reference!", "r.io/c:1"]) == {f"sha256:{1:064x}"}
