"""What a guest uses, on a Mac that is not there."""

import os
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from vzkubelet.machines.vz import usage

Times = namedtuple("Times", "user system")
Memory = namedtuple("Memory", "rss")
Opened = namedtuple("Opened", "path")


class Service:
    def __init__(self, *opened: str) -> None:
        self._opened = opened

    def name(self) -> str:
        return "com.apple.Virtualization.VirtualMachine"[:15]

    def open_files(self) -> list[Opened]:
        return [Opened(path) for path in self._opened]

    def cpu_times(self) -> Times:
        return Times(2.0, 1.0)

    def memory_info(self) -> Memory:
        return Memory(4096)


@pytest.fixture
def services(monkeypatch: pytest.MonkeyPatch) -> list[Service]:
    found: list[Service] = []

    def each() -> Iterator[Service]:
        return iter(found)

    helper = SimpleNamespace(
        children=lambda recursive: [], cpu_times=lambda: Times(0.5, 0.5), memory_info=lambda: Memory(100)
    )
    monkeypatch.setattr("sys.platform", "darwin")
    monkeypatch.setattr(psutil, "process_iter", each)
    monkeypatch.setattr(psutil, "Process", lambda pid: helper)
    return found


def test_a_cache_directory_behind_a_link_does_not_hide_what_its_guests_use(
    tmp_path: Path, services: list[Service]
) -> None:
    """The kernel tells the path of the file itself, the setting leads to it in another way."""
    (tmp_path / "real").mkdir()
    disk = tmp_path / "real" / "disk.img"
    disk.touch()
    (tmp_path / "cache").symlink_to("real")
    services += [Service("/dev/null", str(disk)), Service(os.devnull, str(tmp_path / "gone"))]
    assert usage.guest_usage(7, tmp_path / "cache" / "disk.img") == (4_000_000_000, 4196)


def test_a_service_of_another_guest_does_not_count(tmp_path: Path, services: list[Service]) -> None:
    for name in ("mine.img", "other.img"):
        (tmp_path / name).touch()
    services.append(Service(str(tmp_path / "other.img")))
    assert usage.guest_usage(7, tmp_path / "mine.img") == (1_000_000_000, 100)
