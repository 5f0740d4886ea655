"""The helper as a process: who may own a machine, how it ends, what it leaves, and what kills it."""

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.apple_double import VERSIONS, MacHost
from tests.support.vz_machines import (
    MAC,
    RunningHelper,
    efi_plan,
    end_of,
    helper,
    kernel_plan,
    machine_directory,
    macos_plan,
)
from vzkubelet.errors import (
    AlreadyExists,
    Conflict,
    Error,
    InvalidInput,
    MachineFault,
    NotFound,
    Unavailable,
)
from vzkubelet.machines.directory import MachineDirectory, listen
from vzkubelet.machines.vz import plan as plans
from vzkubelet.machines.vz.client import Client
from vzkubelet.machines.vz.helper import own
from vzkubelet.machines.vz.plan import (
    MIB,
    FileSystemShare,
    SharedDirectory,
    Waits,
)
from vzkubelet.machines.vz.protocol import VMState

WAIT_S = 20.0
ENDED = 0


@pytest.fixture
def mac(tmp_path: Path) -> Iterator[MacHost]:
    host = MacHost(tmp_path / "mac", version=[15, 1])
    yield host
    host.check()


@pytest.fixture
def directory(tmp_path: Path) -> MachineDirectory:
    return machine_directory(tmp_path)


@pytest.fixture
async def running(mac: MacHost, directory: MachineDirectory) -> AsyncIterator[RunningHelper]:
    """A helper whose guest runs."""
    async with helper(mac, directory, macos_plan()) as one:
        client = await one.client()
        await client.start()
        client.close()
        yield one


async def told(mac: MacHost, order: str) -> None:
    await asyncio.to_thread(mac.tell, MAC, order)


async def until_closed(client: Client) -> None:
    async with asyncio.timeout(WAIT_S):
        with pytest.raises(Unavailable):
            await client.network_change("")


# --- A life --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS, ids=str)
async def test_a_guest_runs_and_powers_off(
    mac: MacHost,
    directory: MachineDirectory,
    version: tuple[int, int],
) -> None:
    mac.configure(version=list(version))
    async with helper(mac, directory, macos_plan()) as one:
        client = await one.client()
        hello = await client.hello()
        assert hello.plan_digest == plans.digest(directory.plan.read_bytes())
        assert (hello.pid, hello.status.state) == (one.process.pid, VMState.STOPPED)
        await client.start()
        status = await client.status()
        assert status.state is VMState.RUNNING
        assert status.started_at is not None
        await told(mac, "console hello from the guest")
        await client.request_stop()
        assert await one.exit() == ENDED
        await until_closed(client)
    end = end_of(directory)
    assert (end.fault, end.killed, end.pid) == ("", False, one.process.pid)
    assert "hello from the guest" in directory.console.read_text()
    assert not directory.helper_socket.exists()
    assert mac.running() == []


async def test_linux_guests_run_too(mac: MacHost, directory: MachineDirectory) -> None:
    for plan in (efi_plan(), kernel_plan(directory)):
        async with helper(mac, directory, plan) as one:
            client = await one.client()
            await client.start()
            await client.kill()
            assert await one.exit() == ENDED
            client.close()


async def test_a_guest_that_crashes_leaves_its_reason(mac: MacHost, running: RunningHelper) -> None:
    client = await running.client()
    await told(mac, "crash 1 The guest panicked.")
    await until_closed(client)
    assert await running.exit() == ENDED
    end = end_of(running.directory)
    assert "The guest panicked" in end.fault
    assert (end.code, end.reason, end.killed) == (1, "GuestStopped", False)


async def test_a_guest_that_fills_the_hosts_disk_says_so(mac: MacHost, running: RunningHelper) -> None:
    await told(mac, "crash 8")
    assert await running.exit() == ENDED
    end = end_of(running.directory)
    assert (end.code, end.reason) == (8, "DiskFull")
    assert "`df -h`" in end.fault


async def test_a_client_sees_pause_resume_save_and_restore(
    mac: MacHost,
    directory: MachineDirectory,
) -> None:
    saved = directory.path / "saved"
    async with helper(mac, directory, macos_plan(suspendable=True)) as one:
        client = await one.client()
        await client.start()
        await client.pause()
        assert (await client.status()).state is VMState.PAUSED
        await client.save(saved)
        await client.kill()
        assert await one.exit() == ENDED
        client.close()
    async with helper(mac, directory, macos_plan(suspendable=True)) as one:
        client = await one.client()
        await client.restore(saved)
        assert (await client.status()).state is VMState.PAUSED
        await client.resume()
        with pytest.raises(Conflict, match="already"):
            await client.start()
        await client.kill()
        client.close()


async def test_a_failed_restore_leaves_the_machine_to_be_started(
    mac: MacHost,
    directory: MachineDirectory,
) -> None:
    (directory.path / "saved").write_bytes(b"of another host")
    mac.fail("restore", code=12)
    async with helper(mac, directory, macos_plan()) as one:
        client = await one.client()
        with pytest.raises(MachineFault) as caught:
            await client.restore(Path("saved"))
        assert caught.value.code == 12
        await client.start()
        client.close()


async def test_shares_change_and_the_balloon_moves_while_the_guest_runs(
    mac: MacHost,
    directory: MachineDirectory,
    tmp_path: Path,
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    async with helper(mac, directory, macos_plan(shares=(FileSystemShare(tag=plans.AUTOMOUNT_TAG),))) as one:
        client = await one.client()
        await client.start()
        await client.set_share(plans.AUTOMOUNT_TAG, (SharedDirectory(path=str(shared), name="data"),))
        await client.set_balloon(1024 * MIB)
        [live] = mac.guest(MAC)["shares"]
        assert live["directories"] == {"data": {"path": str(shared), "read_only": False}}
        with pytest.raises(NotFound, match="nowhere"):
            await client.set_share(plans.AUTOMOUNT_TAG, (SharedDirectory(path="/nowhere", name="data"),))
        with pytest.raises(InvalidInput, match="'a/b'"):
            await client.set_share(plans.AUTOMOUNT_TAG, (SharedDirectory(path="/", name="a/b"),))
        client.close()


async def test_a_descriptor_into_the_guest_is_passed_on(mac: MacHost, running: RunningHelper) -> None:
    ports = mac.directory / "guests" / f"{MAC}.vsock"
    ports.mkdir(exist_ok=True)
    client = await running.client()
    with socket.socket(socket.AF_UNIX) as guest:
        descriptor = os.open(ports, os.O_RDONLY | os.O_DIRECTORY)
        guest.bind(f"/proc/self/fd/{descriptor}/8080")
        os.close(descriptor)
        guest.listen()
        with await client.vsock_connect(8080) as connection:
            peer, _ = guest.accept()
            with peer:
                peer.sendall(b"hello")
                assert connection.recv(10) == b"hello"
    with pytest.raises(Unavailable, match="listens"):
        await client.vsock_connect(9)
    client.close()


async def test_before_the_start_nothing_can_be_asked_of_the_guest(
    mac: MacHost,
    directory: MachineDirectory,
) -> None:
    async with helper(mac, directory, macos_plan()) as one:
        client = await one.client()
        for ask in (client.pause, client.resume, client.request_stop):
            with pytest.raises(Conflict, match="start it first"):
                await ask()
        await client.kill()
        assert await one.exit() == ENDED
        client.close()
    assert end_of(directory).killed


async def test_a_broken_network_is_attached_again_and_told(mac: MacHost, running: RunningHelper) -> None:
    client = await running.client()
    await told(mac, "disconnect")
    async with asyncio.timeout(WAIT_S):
        fault = await client.network_change("")
        assert "network" in fault
        assert await client.network_change(fault) == ""
    assert (await client.status()).network_fault == ""
    client.close()


# --- Owners --------------------------------------------------------------------------------------------------------


async def test_a_second_owner_is_refused_with_the_first_ones_process(
    mac: MacHost,
    running: RunningHelper,
) -> None:
    end_before = running.directory.end.exists()
    second = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "vzkubelet.machines.vz.helper", str(running.directory.path)],
        env=mac.environment(),
        capture_output=True,
        text=True,
        timeout=WAIT_S,
    )
    assert second.returncode == AlreadyExists.exit_code
    assert f"process {running.process.pid}" in second.stderr
    assert running.directory.end.exists() == end_before
    assert (await (await running.client()).status()).state is VMState.RUNNING
    with pytest.raises(AlreadyExists):
        own(running.directory)


async def test_a_listening_socket_can_be_inherited(mac: MacHost, directory: MachineDirectory) -> None:
    directory.plan.write_bytes(plans.encode(macos_plan()))
    server = listen(directory.helper_socket)
    client_task = asyncio.ensure_future(Client.connect(directory.helper_socket, timeout_s=WAIT_S))  # noqa: TID251
    with directory.helper_log.open("ab") as log:
        command = [sys.executable, "-m", "vzkubelet.machines.vz.helper", str(directory.path)]
        process = subprocess.Popen(
            [*command, "--listen-fd", str(server.fileno())],
            env=mac.environment(), stdout=log, stderr=log, pass_fds=[server.fileno()],
        )  # fmt: skip
    try:
        server.close()
        client = await client_task
        await client.kill()
        client.close()
        assert await asyncio.to_thread(process.wait, WAIT_S) == ENDED
    finally:
        process.kill()
        process.wait()


async def test_a_socket_in_a_deep_directory_is_served(mac: MacHost, tmp_path: Path) -> None:
    deep = machine_directory(tmp_path / ("x" * 60) / ("y" * 60))
    async with helper(mac, deep, macos_plan()) as one:
        client = await one.client()
        await client.kill()
        assert await one.exit() == ENDED
        client.close()


# --- Ends from outside ---------------------------------------------------------------------------------------------


async def test_the_helper_goes_on_when_its_daemon_dies(mac: MacHost, directory: MachineDirectory) -> None:
    directory.plan.write_bytes(plans.encode(macos_plan()))
    daemon = (
        "import subprocess, sys, time\n"
        "p = subprocess.Popen([sys.executable, '-m', 'vzkubelet.machines.vz.helper', sys.argv[1], *sys.argv[2:]])\n"
        "print(p.pid, flush=True)\ntime.sleep(600)\n"
    )
    with directory.helper_log.open("ab") as log:
        parent = subprocess.Popen(
            [sys.executable, "-c", daemon, str(directory.path)],
            env=mac.environment(), stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True,
        )  # fmt: skip
    assert parent.stdout is not None
    pid = int(await asyncio.to_thread(parent.stdout.readline))
    parent.stdout.close()
    one = psutil.Process(pid)
    try:
        while not directory.helper_socket.exists():
            await asyncio.sleep(0.01)
        client = await Client.connect(directory.helper_socket, timeout_s=WAIT_S)
        await client.start()
        assert os.getsid(pid) == pid  # a signal to the daemon's session does not reach it
        client.close()
        os.killpg(parent.pid, signal.SIGKILL)
        parent.wait()
        again = await Client.connect(directory.helper_socket)
        assert (await again.status()).state is VMState.RUNNING
        await again.kill()
        again.close()
        await asyncio.to_thread(one.wait, WAIT_S)
    finally:
        parent.kill()
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()


async def test_with_its_parent_it_ends_when_that_does(mac: MacHost, directory: MachineDirectory) -> None:
    directory.plan.write_bytes(plans.encode(macos_plan()))
    parent_code = (
        "import subprocess, sys, time\n"
        "subprocess.Popen([sys.executable, '-m', 'vzkubelet.machines.vz.helper', sys.argv[1], '--with-parent'])\n"
        "time.sleep(600)\n"
    )
    with directory.helper_log.open("ab") as log:
        parent = subprocess.Popen(
            [sys.executable, "-c", parent_code, str(directory.path)], env=mac.environment(), stdout=log, stderr=log
        )
    try:
        while not directory.helper_socket.exists():
            await asyncio.sleep(0.01)
        client = await Client.connect(directory.helper_socket, timeout_s=WAIT_S)
        await client.start()
        parent.kill()
        parent.wait()
        await until_closed(client)
    finally:
        parent.kill()
        parent.wait()
    assert end_of(directory).killed


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_the_machine_and_is_no_fault(running: RunningHelper, number: signal.Signals) -> None:
    running.process.send_signal(number)
    assert await running.exit() == ENDED
    end = end_of(running.directory)
    assert (end.killed, end.fault) == (True, "")


async def test_a_hang_up_is_survived(running: RunningHelper) -> None:
    running.process.send_signal(signal.SIGHUP)
    client = await running.client()
    assert (await client.status()).state is VMState.RUNNING
    client.close()


async def test_a_helper_that_is_shot_leaves_no_end_no_guest_and_no_lock(
    mac: MacHost,
    running: RunningHelper,
) -> None:
    await told(mac, "console before the shot")
    running.process.kill()
    await running.exit()
    assert not running.directory.end.exists()
    assert "before the shot" in running.directory.console.read_text()
    async with helper(mac, running.directory) as again:
        client = await again.client()
        await client.start()
        assert "before the shot" in running.directory.console.read_text()
        client.close()


async def test_a_stop_that_never_completes_ends_with_the_process(mac: MacHost, directory: MachineDirectory) -> None:
    mac.fail("stop", never=True)
    async with helper(mac, directory, macos_plan(waits=Waits(stop_s=0.5))) as one:
        client = await one.client()
        await client.start()
        await client.kill()
        assert await one.exit() == ENDED
        client.close()
    assert end_of(directory).killed
    assert not any(_is_locked(path) for path in mac.running())


def _is_locked(path: Path) -> bool:
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


async def test_kill_does_not_wait_for_a_start_that_never_completes(
    mac: MacHost,
    directory: MachineDirectory,
) -> None:
    mac.fail("start", never=True)
    async with helper(mac, directory, macos_plan()) as one:
        starting, killing = await one.client(), await one.client()
        start = asyncio.ensure_future(starting.start())  # noqa: TID251 - never answered
        while (await killing.status()).state is not VMState.STARTING:
            await asyncio.sleep(0.01)
        await killing.kill()
        assert await one.exit() == ENDED
        with pytest.raises(Error):
            await start
        starting.close()
        killing.close()
    assert end_of(directory).killed
