"""A machine's links in its image's directory of users: there while it is, gone with it."""

from pathlib import Path

import pytest

from vzkubelet.files import STAGING_PREFIX
from vzkubelet.machines import image_use
from vzkubelet.machines.directory import MachineDirectory, MachineRoot

UID = "6a7c5f5e-1111-2222-3333-444455556666"


@pytest.fixture
def root(tmp_path: Path) -> MachineRoot:
    return MachineRoot(tmp_path / "node" / "machines")


@pytest.fixture
def users(tmp_path: Path) -> Path:
    (tmp_path / "images" / "image").mkdir(parents=True)
    (tmp_path / "images" / "image.users").mkdir()
    return tmp_path / "images" / "image.users"


def refer(machine: MachineDirectory, users: Path, place: Path) -> None:
    for directory in (machine.path, place):
        image_use.register(users, directory / machine.base.name)
    image_use.remember(users, machine.path)
    machine.base.write_bytes(b"as good as a link")


def make(root: MachineRoot, users: Path) -> None:
    with root.staged(UID) as machine:
        refer(machine, users, root.machine(UID).path)
        machine.record_file.write_text("{}")
        assert len(list(users.iterdir())) == 2


def test_one_link_leads_to_a_machine_that_is_made_and_none_to_one_that_is_gone(root: MachineRoot, users: Path) -> None:
    make(root, users)
    [link] = users.iterdir()
    assert link.resolve() == root.machine(UID).base.resolve()
    root.remove(UID)
    assert list(users.iterdir()) == []


def test_a_second_creation_that_was_cut_off_leaves_the_link_of_the_machine_that_is_there(
    root: MachineRoot, users: Path
) -> None:
    make(root, users)
    half_made = MachineDirectory(root.path / f"{STAGING_PREFIX}{UID}-1")
    half_made.path.mkdir()
    refer(half_made, users, root.machine(UID).path)
    assert root.remove_leftovers() == [half_made.path.name]
    [link] = users.iterdir()
    assert link.resolve() == root.machine(UID).base.resolve()


def test_what_a_dead_process_left_half_made_takes_its_link_along(root: MachineRoot, users: Path) -> None:
    left = MachineDirectory(root.path / f"{STAGING_PREFIX}{UID}-1")
    left.path.mkdir(parents=True)
    image_use.register(users, left.base)
    image_use.remember(users, left.path)
    assert root.remove_leftovers() == [left.path.name]
    assert list(users.iterdir()) == []


def test_an_image_that_is_gone_keeps_no_machine_from_going(root: MachineRoot, users: Path) -> None:
    make(root, users)
    for link in users.iterdir():
        link.unlink()
    users.rmdir()
    root.remove(UID)
    assert root.uids() == []
