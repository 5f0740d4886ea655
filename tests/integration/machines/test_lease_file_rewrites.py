"""The lease file read while another process writes it, by rename as bootpd does, and in place."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from vzkubelet.machines.vz.observation import LeaseFile

WRITER = """
import os, sys, time
path, how = sys.argv[1:]
def block(generation, number):
    mac = f"1,2:0:0:{generation:x}:0:{number:x}"
    fields = [f"name=g{generation}", f"ip_address=10.{generation}.0.{number}", f"hw_address={mac}", f"identifier={mac}"]
    fields.append(f"lease=0xffff{generation:02x}")
    return "{" + "".join(f"\\n\\t{field}" for field in fields) + "\\n}\\n"
generation = 0
while True:
    generation = generation % 200 + 1
    text = "".join(block(generation, number) for number in range(1, 1 + generation % 90)).encode()
    if how == "rename":
        with open(path + "-", "wb") as file:
            file.write(text)
        os.rename(path + "-", path)
    else:
        with open(path, "wb", buffering=0) as file:
            for start in range(0, len(text), 97):
                file.write(text[start : start + 97])
    time.sleep(0.0003)
"""


@pytest.mark.parametrize("how", ["rename", "in-place"])
def test_a_lease_is_never_pieced_together_of_two_writes(tmp_path: Path, how: str) -> None:
    """Every lease carries the number of the write it is of, in each of its fields."""
    path = tmp_path / "dhcpd_leases"
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path), how])
    try:
        file, seen = LeaseFile(path), set()
        until = time.monotonic() + 2
        while time.monotonic() < until:
            for lease in file.read():
                assert lease.mac is not None
                generation = lease.mac.octets[3]
                assert lease.ip == f"10.{generation}.0.{lease.mac.octets[5]}"
                assert (lease.name, lease.expires_at) == (f"g{generation}", float(0xFFFF00 + generation))
                seen.add(generation)
            assert writer.poll() is None
            time.sleep(0.0005)
        assert len(seen) > 5
    finally:
        writer.kill()
        writer.wait()


def test_the_last_write_is_read_in_the_end(tmp_path: Path) -> None:
    """A read that fell into a write must not be taken for the file's last state."""
    path = tmp_path / "dhcpd_leases"
    for how in ("rename", "in-place"):
        file = LeaseFile(path)
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path), how])
        try:
            until = time.monotonic() + 1
            while time.monotonic() < until:
                file.read()
                time.sleep(0.0005)
        finally:
            writer.kill()
            writer.wait()
        assert file.read() == LeaseFile(path).read()
