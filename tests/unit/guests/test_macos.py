import base64
import struct

import pytest

from vzkubelet.errors import Unavailable
from vzkubelet.guests import macos
from vzkubelet.guests.users import Place, User
from vzkubelet.ports import GuestMount, GuestUsage

TICKS = base64.b64encode(struct.pack("<4I", 1000, 500, 90_000, 20)).decode()

FIGURES = f"""ticks {TICKS}
   0:01.50   1:02.25 120:00.00 01-02:03:04
hw.memsize: 8589934592
Mach Virtual Memory Statistics: (page size of 16384 bytes)
Pages free:                               10000.
Pages active:                            200000.
Pages inactive:                          100000.
Pages speculative:                         3000.
Pages throttled:                              0.
Pages wired down:                        100000.
Pages purgeable:                            500.
"Translation faults":                 193846723.
Pages stored in compressor:               77777.
Pages occupied by compressor:             33333.
Filesystem   1024-blocks     Used Available Capacity  Mounted on
/dev/disk3s5    61202244 30000000  25000000    55%    /System/Volumes/Data
"""


def test_figures_are_read() -> None:
    assert macos.usage(FIGURES, 12.5) == GuestUsage(
        cpu_ns=(1000 + 500 + 20) * 10_000_000,
        memory_total_bytes=8 * 1024**3,
        memory_available_bytes=(10_000 + 100_000 + 3_000 + 500) * 16384,
        disk_total_bytes=61202244 * 1024,
        disk_used_bytes=(61202244 - 25000000) * 1024,  # the container's other volumes take their part
        sampled_at=12.5,
    )


def test_without_the_kernels_counter_the_processes_are_summed() -> None:
    text = FIGURES.replace(f"ticks {TICKS}", "ticks ")
    seconds = 1.5 + 62.25 + 7200 + (26 * 3600 + 3 * 60 + 4)
    assert macos.usage(text, 0.0).cpu_ns == round(seconds * 1_000_000_000)


@pytest.mark.parametrize(
    "text",
    [
        "",
        FIGURES.replace("page size of 16384 bytes", ""),
        FIGURES.replace("Pages free", "Other"),
        FIGURES.replace("hw.memsize", "hw.other"),
        FIGURES + "\n\n",
        FIGURES.replace("   0:01.50", "nonsense").replace(TICKS, ""),
    ],
)
def test_figures_that_are_not_there_are_never_zero(text: str) -> None:
    with pytest.raises(Unavailable):
        macos.usage(text, 0.0)


def test_places_follow_the_name() -> None:
    mounts = [GuestMount("t", "/a b", "/sub/"), GuestMount("t", "/it's", read_only=True)]
    assert macos.prepare("pod", mounts).splitlines()[-5:] == [
        "elevate",
        "name 'pod'",
        "place 't' 'sub' '/a b' 'rw'",
        "place 't' '' '/it'\\''s' 'ro'",
        "exit 0",
    ]


def test_a_terminal_keeps_its_process_group_and_others_get_their_own() -> None:
    user = User(501, 20, "admin", False, "sudo", (20, 12))
    for place in (Place.SUPERVISED, Place.SESSION):
        assert "setpgrp" in user.switch("true", place)
    assert "setpgrp" not in user.switch("true", Place.TERMINAL)
    assert user.switch("true", Place.TERMINAL).endswith(" true <&3")
    assert "'501 20 20 12'" in user.switch("true", Place.SESSION)


def test_a_macos_guest_gets_the_password_for_a_sudo_that_asks() -> None:
    assert macos.become_root(False, "it's") == "root='sudo -n' password='it'\\''s'\n"
    assert macos.become_root(True, "it's") == "root= password=\n"
