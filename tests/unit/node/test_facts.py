import plistlib
from pathlib import Path

import pytest

from vzkubelet.errors import Unavailable
from vzkubelet.node import facts, stats


def test_the_name_of_the_system_is_found_among_others() -> None:
    text = 'NAME="Debian"\nVERSION_ID="12"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n'
    assert facts.pretty_name(text) == "Debian GNU/Linux 12 (bookworm)"
    assert facts.pretty_name("PRETTY_NAME=Alpine\n") == "Alpine"
    assert facts.pretty_name("") == ""


def test_the_platform_uuid_is_read_from_a_property_list() -> None:
    entries = [{"IORegistryEntryName": "J314sAP", "IOPlatformUUID": "0F1E-2D"}]
    assert facts.platform_uuid(plistlib.dumps(entries)) == "0F1E-2D"


@pytest.mark.parametrize(
    "output",
    [
        b"",
        b"not a plist",
        b'<?xml version="1.0"?><plist><dict></plist>',
        plistlib.dumps([]),
        plistlib.dumps([{"a": 1}]),
    ],
)
def test_a_host_that_does_not_tell_its_uuid_has_none(output: bytes) -> None:
    assert facts.platform_uuid(output) == ""


def test_this_host_can_be_described(tmp_path: Path) -> None:
    host = facts.host()
    assert host.operating_system in ("linux", "darwin")
    assert host.architecture in ("amd64", "arm64")
    assert host.cpus >= 1
    assert host.memory_bytes > 1 << 28
    assert host.boot_id
    room = facts.readings(tmp_path)
    assert 0 < room.memory_available_bytes <= host.memory_bytes
    assert 0 < room.disk.available_bytes <= room.disk.capacity_bytes


@pytest.mark.looptime(False)
async def test_a_directory_that_is_gone_is_a_fault_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="gone cannot be used: No such file"):
        await facts.read(tmp_path / "gone")


def test_the_cpu_counter_leaves_idle_and_twice_counted_time_out() -> None:
    times = {"user": 3.0, "system": 1.0, "idle": 100.0, "iowait": 5.0, "guest": 2.0}
    assert stats.busy_ns(times) == 4_000_000_000


def test_a_cpu_rate_needs_two_samples_and_time_between_them() -> None:
    first = stats.sampled(None, 1_000_000_000, 10.0)
    assert first.rate_ns is None
    assert stats.sampled(first, 1_100_000_000, 10.5) is first
    assert stats.sampled(first, 2_000_000_000, 12.0).rate_ns == 500_000_000


@pytest.mark.looptime(False)
async def test_the_nodes_figures_are_of_this_host(tmp_path: Path) -> None:
    figures = await stats.NodeFigures("n", facts.host(), tmp_path, "192.0.2.1").read()
    assert figures.node_name == "n"
    assert figures.cpu is not None
    assert figures.cpu.usage_core_nano_seconds
    assert figures.memory is not None
    assert figures.memory.working_set_bytes
    assert figures.fs is not None
    assert figures.fs.capacity_bytes
    assert figures.network is None  # the address is nobody's
