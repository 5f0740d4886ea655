"""Processes as the kernel shows them; macOS' structures are read from bytes of their documented layout."""

import os
import struct

import psutil
import pytest

from vzkubelet.machines import process, process_table


def test_this_process_is_seen() -> None:
    found = process_table.sighting(os.getpid())
    assert found is not None
    assert not found.ended
    assert found == process_table.sighting(os.getpid())
    assert process_table.cpu_ns(os.getpid()) > 0
    assert process_table.resident_bytes(os.getpid()) > 0


def test_a_reference_to_a_reused_pid_is_not_alive() -> None:
    mine = process.reference(os.getpid())
    assert mine is not None
    assert process.is_alive(mine)
    other = process.ProcessRef(mine.pid, mine.start_ticks + 1, mine.boot_id)
    assert not process.is_alive(other)
    assert process.cpu_ns(other) == process.resident_bytes(other) == 0


def bsdinfo(status: int, seconds: int, microseconds: int) -> bytes:
    """``struct proc_bsdinfo`` of sys/proc_info.h: twelve u32, 16 + 32 bytes of names, six u32, two u64."""
    return struct.pack(
        "=12I16s32s6I2Q", 0, status, *[0] * 10, b"macos-vz-kubelet", b"", *[0] * 6, seconds, microseconds
    )


def test_the_start_of_a_process_on_a_mac_is_told_to_the_microsecond() -> None:
    raw = bsdinfo(2, 1_700_000_000, 123_456)
    assert len(raw) == 136
    assert process_table.read_bsdinfo(raw) == process_table.Sighting(1_700_000_000_123_456, ended=False)


def test_a_zombie_on_a_mac_has_ended() -> None:
    assert process_table.read_bsdinfo(bsdinfo(5, 1, 0)).ended


def test_marks_are_found_in_arguments_where_the_environment_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    class Entitled:
        def __init__(self, pid: int) -> None:
            self.pid = pid

        def environ(self) -> dict[str, str]:
            return {}

        def cmdline(self) -> list[str]:
            return ["/app/python", "-X", f"{process.OWNER}=/cache/machines/u-1", "-m", "helper"]

    monkeypatch.setattr("sys.platform", "darwin")
    monkeypatch.setattr("psutil.Process", Entitled)
    assert f"{process.OWNER}=/cache/machines/u-1".encode() in process_table.environment(7)


@pytest.mark.parametrize("refused", ["environ", "cmdline"])
def test_marks_are_found_where_the_other_half_is_refused(monkeypatch: pytest.MonkeyPatch, refused: str) -> None:
    """An entitled helper that nobody finds again runs on beside its successor."""
    mark = f"{process.OWNER}=/cache/machines/u-1"

    class Entitled:
        def __init__(self, pid: int) -> None:
            self.pid = pid

        def _told(self, name: str) -> None:
            if name == refused:
                raise psutil.AccessDenied(self.pid)

        def environ(self) -> dict[str, str]:
            self._told("environ")
            return dict([mark.split("=")])

        def cmdline(self) -> list[str]:
            self._told("cmdline")
            return ["/app/python", "-X", mark, "-m", "helper"]

    monkeypatch.setattr("sys.platform", "darwin")
    monkeypatch.setattr("psutil.Process", Entitled)
    assert mark.encode() in process_table.environment(7)
