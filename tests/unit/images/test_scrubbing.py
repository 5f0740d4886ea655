"""Reading everything little by little: what may be compared with, and what has to be proved first."""

import hashlib
import os
from pathlib import Path

import msgspec
import pytest

from vzkubelet.images.chunk_lists import LIST_BYTES
from vzkubelet.images.pacing import Pacer
from vzkubelet.images.records import ContentRecord
from vzkubelet.images.scrubbing import Scrubbing
from vzkubelet.images.store import Store

DATA = bytes(range(256)) * 4096  # 1 MiB


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "images")


def add(store: Store) -> ContentRecord:
    content = ContentRecord(f"sha256:{hashlib.sha256(DATA).hexdigest()}", len(DATA))
    staging = store.stage(content.digest)
    assert staging is not None
    staging.data.write_bytes(DATA)
    store.commit_content(staging, content)
    return content


def rot(store: Store, content: ContentRecord) -> None:
    """Change a byte without the file system's knowledge, as a medium does."""
    path, file = store.content_path(content.digest), store.contents.record_path(content.digest)
    path.chmod(0o644)
    with path.open("r+b") as opened:
        opened.seek(LIST_BYTES + 5)
        opened.write(b"\xff")
    record = store.contents.record(content.digest)
    assert record is not None
    changed = msgspec.structs.replace(record, ctime_ns=path.stat().st_ctime_ns)
    status = file.stat()
    file.write_bytes(msgspec.json.encode(changed))
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_list_made_of_a_file_that_had_rotted_does_not_vouch_for_it(store: Store) -> None:
    """Hazard: an update compares chunks with an older version, and damage that is there by then is right for ever."""
    content = add(store)
    rot(store, content)
    assert store.chunk_list(content, LIST_BYTES) is not None
    finding = Scrubbing(store).scrub(content, Pacer())
    assert finding is not None
    assert finding.moved_to is not None


def test_a_list_that_was_made_while_verifying_is_compared_with(store: Store) -> None:
    content = add(store)
    scrubbing = Scrubbing(store)
    assert scrubbing.scrub(content, Pacer()) is None, "verified in full, which makes the list"
    rot(store, content)
    finding = scrubbing.scrub(content, Pacer())
    assert finding is not None
    assert finding.ranges == ((LIST_BYTES, 2 * LIST_BYTES),)
