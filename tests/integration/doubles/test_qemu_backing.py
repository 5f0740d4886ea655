"""The double's guests in QEMU: what the framework promises of a virtual machine holds for them."""

import asyncio
import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncssh
import psutil
import pytest

from tests.doubles.apple.vzdouble.backing import GuestFault
from tests.doubles.apple.vzdouble.description import (
    Boot,
    Disk,
    GuestDescription,
    Nic,
    SerialPort,
    Share,
    SharedDirectory,
)
from tests.doubles.apple.vzdouble.host import Host
from tests.doubles.apple.vzdouble.qemu import open_backing
from tests.support.apple_double import DOUBLE
from tests.support.mac_host import QemuMac
from vzkubelet.machines.addresses import MacAddress, macos_leases

MAC = "02:00:00:0a:0b:0c"
PATIENCE_S = 60.0
SAVE_FAILED = 11
"""VZErrorSave"""


@pytest.fixture(scope="module")
def mac(linux_guest: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[QemuMac]:
    with QemuMac(tmp_path_factory.mktemp("mac"), firmware=linux_guest / "firmware.fd") as host:
        yield host
        assert host.taps() == set()


@pytest.fixture
def description(linux_guest: Path, tmp_path: Path) -> GuestDescription:
    for name in ("disk.img", "aux.img"):
        shutil.copyfile(linux_guest / name, tmp_path / name)
    return GuestDescription(
        kind="linux-efi",
        cpus=1,
        memory_bytes=256 << 20,
        boot=Boot(variable_store=str(tmp_path / "aux.img")),
        disks=(Disk(str(tmp_path / "disk.img"), read_only=False),),
        nics=(Nic(MAC, "nat"),),
        shares=(),
        serial_ports=(SerialPort(str(tmp_path / "console.log"), append=True),),
        displays=(),
        entropy=True,
        balloon=True,
    )


class Heard:
    """What a guest told of itself."""

    def __init__(self) -> None:
        self.told: list[GuestFault | None] = []
        self._event = threading.Event()

    def guest_stopped(self) -> None:
        self.told.append(None)
        self._event.set()

    def stopped_with_error(self, fault: GuestFault) -> None:
        self.told.append(fault)
        self._event.set()

    def network_disconnected(self, device: int, fault: GuestFault) -> None:
        raise AssertionError(f"device {device} lost its network: {fault}")

    def wait(self) -> GuestFault | None:
        assert self._event.wait(PATIENCE_S), "the guest did not end"
        return self.told[-1]


def done(operation: Callable[..., None], *arguments: object) -> GuestFault | None:
    """The operation's completion."""
    outcome: list[GuestFault | None] = []
    completed = threading.Event()

    def complete(fault: GuestFault | None) -> None:
        outcome.append(fault)
        completed.set()

    operation(*arguments, complete)
    assert completed.wait(PATIENCE_S), "the operation did not complete"
    return outcome[0]


def in_guest(mac: QemuMac, *commands: str) -> list[str]:
    """Outputs of commands that run in the guest, as soon as it lets us in."""

    async def run() -> list[str]:
        connection = await _login(mac)
        try:
            return [str((await connection.run(command)).stdout).strip() for command in commands]
        finally:
            connection.close()
            await connection.wait_closed()

    return asyncio.run(run())


async def _login(mac: QemuMac) -> asyncssh.SSHClientConnection:
    login: dict[str, Any] = {"username": "root", "password": "vz", "known_hosts": None, "client_keys": None}
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                return await asyncssh.connect(_address(mac), **login, agent_path=None, config=None)
            except (OSError, asyncssh.Error, LookupError):
                await asyncio.sleep(0.1)
    raise AssertionError("a time-out raises")


def _address(mac: QemuMac) -> str:
    leases = {lease.mac: lease.ip for lease in macos_leases(mac.leases.read_text() if mac.leases.exists() else "")}
    found = MacAddress.parse(MAC)
    assert found is not None
    return leases[found]


def test_guest_is_paused_saved_restored_and_powered_off(
    mac: QemuMac, description: GuestDescription, tmp_path: Path
) -> None:
    backing, heard, saved = open_backing(Host(mac.directory)), Heard(), tmp_path / "state"
    guest = backing.guest(description, heard)
    assert done(guest.start) is None
    (before,) = in_guest(mac, "cat /proc/sys/kernel/random/boot_id")
    assert done(guest.pause) is None
    assert done(guest.save, saved) is None
    assert done(guest.stop) is None
    assert heard.told == []
    again = backing.guest(description, heard)
    assert done(again.restore, saved) is None
    assert done(again.resume) is None
    assert in_guest(mac, "cat /proc/sys/kernel/random/boot_id", "until pidof acpid; do sleep 0.1; done")[0] == before
    assert again.request_stop() is None
    assert heard.wait() is None
    assert "Power down" in (tmp_path / "console.log").read_text()


def test_shares_read_only_and_by_name(mac: QemuMac, description: GuestDescription, tmp_path: Path) -> None:

    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "file").write_text("from the host")
    shares = (
        Share("single", {"": SharedDirectory(str(tmp_path / "b"), read_only=False)}),
        Share(
            "both",
            {
                "ro": SharedDirectory(str(tmp_path / "a"), read_only=True),
                "rw": SharedDirectory(str(tmp_path / "b"), read_only=False),
            },
        ),
    )
    guest = open_backing(Host(mac.directory)).guest(dataclasses.replace(description, shares=shares), Heard())
    assert done(guest.start) is None
    found = in_guest(
        mac,
        "mkdir -p /m/single /m/both && mount -t virtiofs single /m/single && mount -t virtiofs both /m/both; echo $?",
        "cat /m/both/ro/file",
        "touch /m/both/ro/no; echo $?",
        "echo from the guest > /m/both/rw/answer; cat /m/single/answer",
    )
    assert found == ["0", "from the host", "1", "from the guest"]
    assert (tmp_path / "b" / "answer").read_text() == "from the guest\n"
    assert done(guest.pause) is None
    refused = done(guest.save, tmp_path / "state")
    assert refused is not None
    assert refused.code == SAVE_FAILED, "a share has no state to save"
    assert not (tmp_path / "state").exists()
    assert done(guest.stop) is None


def test_start_that_fails_and_a_crash_are_told_in_qemus_words(mac: QemuMac, description: GuestDescription) -> None:

    backing, heard = open_backing(Host(mac.directory)), Heard()
    absent = dataclasses.replace(description, disks=(Disk("/absent/disk.img", read_only=False),))
    fault = done(backing.guest(absent, heard).start)
    assert fault is not None
    assert "/absent/disk.img" in fault.text
    assert heard.told == []
    guest = backing.guest(description, heard)
    assert done(guest.start) is None
    (victim,) = qemus(description)
    victim.send_signal(signal.SIGKILL)
    crashed = heard.wait()
    assert crashed is not None
    assert "-9" in crashed.text


def test_guest_dies_with_its_process(mac: QemuMac, description: GuestDescription, tmp_path: Path) -> None:
    script = (
        "import sys, threading\n"
        "from pathlib import Path\n"
        "from vzdouble.description import *\n"
        "from vzdouble.host import Host\n"
        "from vzdouble.qemu import open_backing\n"
        f"guest = open_backing(Host(Path({str(mac.directory)!r}))).guest({description!r}, None)\n"
        "guest.start(lambda fault: print(fault, flush=True))\n"
        "threading.Event().wait()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(DOUBLE)}
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=environment) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"None\n"
        (victim,) = qemus(description)
        owner.kill()
    assert psutil.wait_procs([victim], timeout=PATIENCE_S)[1] == []
    deadline = time.monotonic() + PATIENCE_S
    while mac.taps():
        assert time.monotonic() < deadline, "the guest's tap is left"
        time.sleep(0.05)


def qemus(description: GuestDescription) -> list[psutil.Process]:
    disk = description.disks[0].path
    return [
        process
        for process in psutil.process_iter(["name", "cmdline"])
        if (process.info["name"] or "").startswith("qemu-system") and any(disk in w for w in process.info["cmdline"])
    ]
