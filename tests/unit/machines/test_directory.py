"""A machine exists whole or not at all, whatever crashed in between."""

import os
from pathlib import Path

import pytest

from vzkubelet.errors import AlreadyExists, Exhausted, InvalidInput, NotFound, Unavailable
from vzkubelet.machines.directory import (
    MachineRecord,
    MachineRoot,
    MachineState,
    ShareRecord,
    os_fault,
    reachable_socket_path,
)
from vzkubelet.ports import MachinePhase

RECORD = MachineRecord(
    driver="test",
    namespace="ns",
    name="pod",
    uid="u1",
    image="i",
    image_id="i@sha256:0",
    os="linux",
    architecture="amd64",
    cpus=1,
    memory_bytes=1,
    shares=(ShareRecord("data", "/srv", True),),
)


@pytest.fixture
def root(tmp_path: Path) -> MachineRoot:
    return MachineRoot(tmp_path / "machines")


def make(root: MachineRoot, uid: str = "u1") -> None:
    with root.staged(uid) as directory:
        directory.write_record(RECORD)
        directory.write_state(MachineState())


def names(root: MachineRoot) -> list[str]:
    return sorted(entry.name for entry in root.path.iterdir())


def test_record_and_state_read_back(root: MachineRoot) -> None:
    make(root)
    machine = root.machine("u1")
    assert machine.read_record() == RECORD
    machine.write_state(MachineState(phase=MachinePhase.STOPPED, stopped_at=2.5, fault="x"))
    assert machine.read_state(MachineState).status().fault == "x"
    assert root.uids() == ["u1"]


def test_a_second_creation_is_refused_and_leaves_the_first(root: MachineRoot) -> None:
    make(root)
    with pytest.raises(AlreadyExists):
        make(root)
    assert names(root) == ["u1"]


def test_two_creations_at_once_make_one_machine(root: MachineRoot) -> None:
    with pytest.raises(AlreadyExists), root.staged("u1"):
        make(root)
    assert names(root) == ["u1"]


def test_a_failed_creation_leaves_nothing(root: MachineRoot) -> None:
    with pytest.raises(RuntimeError), root.staged("u1"):
        raise RuntimeError
    assert names(root) == []


def test_a_full_disk_is_exhaustion_and_leaves_nothing(root: MachineRoot) -> None:
    with pytest.raises(Exhausted, match="free space"), root.staged("u1"):
        raise OSError(28, os.strerror(28))
    assert names(root) == []


def test_leftovers_of_the_dead_go_and_those_of_the_living_stay(root: MachineRoot) -> None:
    with root.staged("u2") as living:
        for name in (".staging-u1-dead", ".removing-u3-dead"):
            (root.path / name).mkdir()
            (root.path / name / "disk.img").write_bytes(b"x")
        assert sorted(root.remove_leftovers()) == [".removing-u3-dead", ".staging-u1-dead"]
        living.write_record(RECORD)
    assert names(root) == ["u2"]


def test_removal_can_be_repeated(root: MachineRoot) -> None:
    make(root)
    root.remove("u1")
    root.remove("u1")
    assert names(root) == []
    with pytest.raises(NotFound):
        root.machine("u1").read_record()


def test_a_lock_excludes_other_objects_and_ends_with_its_descriptor(root: MachineRoot) -> None:
    make(root)
    held = root.machine("u1").try_lock()
    assert held is not None
    assert root.machine("u1").try_lock() is None
    os.close(held)
    again = root.machine("u1").try_lock()
    assert again is not None
    os.close(again)


def test_a_machine_that_is_gone_cannot_be_locked_into_existence(root: MachineRoot) -> None:
    with pytest.raises(NotFound):
        root.machine("u1").try_lock()


@pytest.mark.parametrize("uid", ["", ".", "..", ".staging-x", "a/b", "../x", "a\0b", "x" * 200, "a,b"])
def test_a_uid_never_leads_out_of_the_root(root: MachineRoot, uid: str) -> None:
    with pytest.raises(InvalidInput):
        root.machine(uid)


def test_a_damaged_state_says_so(root: MachineRoot) -> None:
    make(root)
    root.machine("u1").state_file.write_bytes(b'{"phase": ')
    with pytest.raises(Unavailable, match="damaged"):
        root.machine("u1").read_state(MachineState)


@pytest.mark.parametrize("descriptors", ["/proc/self/fd", "/there/is/no/proc/on/a/mac"])
def test_a_deep_directory_has_a_short_name_for_its_sockets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, descriptors: str
) -> None:
    monkeypatch.setattr("vzkubelet.machines.directory._DESCRIPTORS", Path(descriptors))
    deep = tmp_path / ("d" * 120)
    deep.mkdir()
    (deep / "qmp.sock").write_bytes(b"here")
    with reachable_socket_path(deep / "qmp.sock") as name:
        assert len(name) < 100
        assert Path(name).read_bytes() == b"here"
    assert not Path(name).exists(), "the short name is for the length of the block"


def test_an_os_error_keeps_its_words() -> None:
    assert "Permission denied" in str(os_fault(PermissionError(13, "Permission denied"), "cannot do it"))
