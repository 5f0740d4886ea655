import pytest

from vzkubelet.errors import Unavailable
from vzkubelet.guests import linux
from vzkubelet.ports import GuestMount, GuestUsage

FIGURES = """cpu  100 5 50 9000 200 3 2 1 40 0
MemTotal:         247832 kB
MemFree:          180000 kB
MemAvailable:     200000 kB
HugePages_Total:       0
Filesystem     1024-blocks   Used Available Capacity Mounted on
tmpfs               123916  40000     83916      33% /
"""


def test_figures_are_read() -> None:
    assert linux.usage(FIGURES, 12.5) == GuestUsage(
        cpu_ns=(100 + 5 + 50 + 3 + 2 + 1) * 10_000_000,
        memory_total_bytes=247832 * 1024,
        memory_available_bytes=200000 * 1024,
        disk_total_bytes=123916 * 1024,
        disk_used_bytes=40000 * 1024,
        sampled_at=12.5,
    )


@pytest.mark.parametrize("text", ["", "cpu\n", FIGURES.replace("MemAvailable", "Other"), FIGURES + "\n\n"])
def test_figures_that_are_not_there_are_never_zero(text: str) -> None:
    with pytest.raises(Unavailable):
        linux.usage(text, 0.0)


def test_a_share_is_mounted_once_for_all_its_places() -> None:
    script = linux.prepare("it's", [GuestMount("t", "/a", "/sub/"), GuestMount("t", "/b", read_only=True)])
    lines = script.splitlines()
    assert lines.count("share 't'") == 1
    assert lines[-4:] == ["name 'it'\\''s'", "share 't'", "place 't' 'sub' '/a' 'rw'", "place 't' '' '/b' 'ro'"]


def test_a_linux_guest_is_not_sent_the_login_password() -> None:
    assert [linux.become_root(is_root, "s3cret") for is_root in (True, False)] == ["root=\n", "root='sudo -n'\n"]
