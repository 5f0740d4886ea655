"""Capturing a guest's frames with a program that behaves like tcpdump, and without permission."""

import asyncio
import logging
import stat
import sys
from pathlib import Path

import psutil
import pytest

from vzkubelet import aio
from vzkubelet.machines.addresses import MacAddress
from vzkubelet.machines.vz.observation import Capture

MAC = MacAddress(bytes.fromhex("020000000001"))
TCPDUMP = """#!{python}
import struct, sys, time
with open({log!r}, "w") as log:
    log.write("\\n".join(sys.argv[1:]))
out = sys.stdout.buffer
def frame(source, ip):
    packet = bytes([0x45, 0, 0, 20]) + bytes(5) + b"\\x06" + bytes(2) + bytes(map(int, ip.split("."))) + bytes(4)
    return b"\\xff" * 6 + bytes.fromhex(source) + b"\\x08\\x00" + packet
out.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 1600, 1))
for one in (frame("020000000002", "10.0.0.2"), frame("020000000001", "169.254.0.1"), frame("020000000001", "10.0.0.1")):
    out.write(struct.pack("<IIII", 0, 0, len(one), len(one)))
    for byte in one:
        out.write(bytes([byte]))
        out.flush()
time.sleep({linger})
sys.stderr.write("tcpdump: en9: No such device exists\\n")
sys.exit(1)
"""


def tcpdump(directory: Path, linger: float) -> tuple[str, Path]:
    program, log = directory / "tcpdump", directory / "arguments"
    program.write_text(TCPDUMP.format(python=sys.executable, log=str(log), linger=linger))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return str(program), log


def running(program: str) -> list[int]:
    return [one.pid for one in psutil.process_iter(["cmdline"]) if program in (one.info["cmdline"] or [])]


async def test_only_the_guests_own_address_is_told_and_the_capture_ends_with_the_search(tmp_path: Path) -> None:
    program, log = tcpdump(tmp_path, 60)
    seen: asyncio.Queue[str] = asyncio.Queue()
    capture = Capture([program], tmp_path / "no-bpf")
    watching = aio.spawn(capture.watch("vlan7", MAC, seen.put_nowait), name="watch")
    assert await asyncio.wait_for(seen.get(), 10) == "10.0.0.1"
    assert seen.empty()
    assert running(program)
    await aio.cancel(watching)
    assert not running(program)
    arguments = log.read_text().splitlines()
    assert arguments[:2] == ["-i", "vlan7"]
    assert f"ether src {MAC}" in arguments[-1]


async def test_a_capture_that_ends_says_why_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    program, _ = tcpdump(tmp_path, 0)
    capture = Capture([program], tmp_path / "no-bpf")
    with caplog.at_level(logging.INFO, logger="vzkubelet"):
        await capture.watch("en9", MAC, lambda _: None)
        await capture.watch("en9", MAC, lambda _: None)
    (record,) = [record for record in caplog.records if record.name.startswith("vzkubelet.machines")]
    assert "No such device exists" in record.message


@pytest.mark.parametrize("program", ["no-such-tcpdump", "/bin/false"])
async def test_a_capture_that_is_not_possible_is_silent(
    program: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    capture = Capture([program], tmp_path / "no-bpf")
    with caplog.at_level(logging.INFO, logger="vzkubelet"):
        await capture.watch("en0", MAC, lambda _: None)
        await capture.watch("en0", MAC, lambda _: None)
    assert len(caplog.records) == 1
    assert caplog.records[0].levelno == logging.INFO
