"""The store under any order of what is done to it: what is found is right, and what is used stays."""

import os
import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.unit.images.test_store import add_image
from vzkubelet.images import eviction
from vzkubelet.images.collection import Rules
from vzkubelet.images.store import Store
from vzkubelet.model.reference import parse

TAGS = tuple(f"r.io/{name}:1" for name in "abc")
DISKS = tuple(bytes([65 + number]) * 5000 for number in range(3))
AUX = b"aux"
tags, disks = st.sampled_from(TAGS), st.sampled_from(DISKS)


class StoreOperations(RuleBasedStateMachine):
    """Models which tag has which disk, which machines there are, and what was damaged since it was last looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
        self.store = Store(self.directory / "images")
        self.expected: dict[str, bytes] = {}
        self.pinned: set[str] = set()
        self.machines: dict[Path, bytes] = {}

    def teardown(self) -> None:
        """With all that needs them gone, contents are gone."""
        for base in self.machines:
            base.unlink()
        self.store.remove(list(self.store.references()))
        self.store.sweep(unreferenced_images=True, leftover_age_s=-10)
        assert self.store.contents.digests() == []
        shutil.rmtree(self.directory)

    @rule(tag=tags, disk=disks)
    def pull(self, tag: str, disk: bytes) -> None:
        with self.store.pulling():
            add_image(self.store, tag, disk, number=DISKS.index(disk) + 1)
        self.expected[tag] = disk

    @precondition(lambda self: self.expected)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        tag = data.draw(st.sampled_from(sorted(self.expected)))
        self.store.remove([record for record in self.store.references() if record.reference == tag])
        del self.expected[tag]
        self.pinned.discard(tag)

    @precondition(lambda self: self.expected)
    @rule(data=st.data())
    def pin(self, data: st.DataObject) -> None:
        tag = data.draw(st.sampled_from(sorted(self.expected)))
        self.store.pin(tag)
        self.pinned.add(tag)

    @precondition(lambda self: self.expected)
    @rule(data=st.data())
    def make_machine(self, data: st.DataObject) -> None:
        found = self.store.find(parse(data.draw(st.sampled_from(sorted(self.expected)))))
        assert found is not None
        base = self.directory / f"machine-{len(self.machines)}-{os.urandom(4).hex()}"
        digest = found[1].disk.digest
        base.symlink_to(self.store.content_path(digest))
        self.store.users_path(digest).mkdir(exist_ok=True)
        (self.store.users_path(digest) / base.name).symlink_to(base)
        self.machines[base] = self.store.content_path(digest).read_bytes()

    @precondition(lambda self: self.machines)
    @rule(data=st.data())
    def delete_machine(self, data: st.DataObject) -> None:
        base = data.draw(st.sampled_from(sorted(self.machines)))
        base.unlink()
        del self.machines[base]

    @precondition(lambda self: self.expected)
    @rule(data=st.data())
    def damage(self, data: st.DataObject) -> None:
        """A disk is written to, and every tag that has it is not here any more when it is looked for."""
        disk = self.expected[data.draw(st.sampled_from(sorted(self.expected)))]
        image = self.store.image_record(f"sha256:{DISKS.index(disk) + 1:064x}")
        assert image is not None
        path = self.store.content_path(image.disk.digest)
        path.chmod(0o600)
        path.write_bytes(b"damaged")
        for tag in [tag for tag, other in self.expected.items() if other == disk]:
            assert self.store.find(parse(tag)) is None
            self.store.remove([record for record in self.store.references() if record.reference == tag])
            del self.expected[tag]
            self.pinned.discard(tag)
        for base in [base for base, other in self.machines.items() if other == disk]:
            assert base.read_bytes() in (b"damaged", disk)
            base.unlink()
            del self.machines[base]

    @rule()
    def touch(self) -> None:
        for digest in self.store.contents.digests():
            if self.store.contents.size_bytes(digest) is not None:
                os.utime(self.store.content_path(digest), (1, 1))

    @rule()
    def restart(self) -> None:
        self.store = Store(self.directory / "images")

    @rule(age=st.sampled_from([0.0, 1e6]))
    def sweep(self, age: float) -> None:
        self.store.sweep(unreferenced_images=False, leftover_age_s=age)

    @rule(in_use=st.sets(tags))
    def collect(self, in_use: set[str]) -> None:
        eviction.collect(self.store, Rules(0, 0, min_age_s=0), in_use, 0.0)
        here = {record.reference for record in self.store.references()}
        gone = self.expected.keys() - here
        assert not gone & (in_use | self.pinned), "what is in use or pinned was removed"
        for tag in gone:
            del self.expected[tag]

    @invariant()
    def what_is_expected_is_found_and_right(self) -> None:
        assert {record.reference for record in self.store.references()} == self.expected.keys()
        for tag, disk in self.expected.items():
            found = self.store.find(parse(tag))
            assert found is not None
            assert self.store.content_path(found[1].disk.digest).read_bytes() == disk
            assert self.store.content_path(found[1].aux.digest).read_bytes() == AUX
        assert self.store.pins() == self.pinned

    @invariant()
    def machines_have_what_they_were_made_from(self) -> None:
        for base, disk in self.machines.items():
            assert base.read_bytes() == disk


TestStoreOperations = StoreOperations.TestCase
TestStoreOperations.settings = settings(
    max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
