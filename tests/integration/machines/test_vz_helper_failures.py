"""Helpers whose machine never runs, or loses a part: cause and remedy reach the daemon, nothing is left."""

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.apple_double import MacHost
from tests.support.vz_machines import (
    MAC,
    end_of,
    helper,
    machine_directory,
    macos_plan,
)
from vzkubelet.errors import (
    Error,
    Exhausted,
    Forbidden,
    InvalidInput,
    NotFound,
    Unavailable,
    Unsupported,
)
from vzkubelet.machines.directory import MachineDirectory
from vzkubelet.machines.vz import plan as plans
from vzkubelet.machines.vz.plan import (
    BridgedNetwork,
    FileHandleNetwork,
    Identity,
    IdentityPolicy,
    MachinePlan,
)

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


ENTITLED = "com.apple.security.virtualization"


@pytest.mark.parametrize(
    ("settings", "plan", "kind", "reason", "remedy"),
    [
        ({"entitlements": []}, {}, Forbidden, "NotEntitled", "`macos-vz-kubelet sign`"),
        (
            {"entitlements": [ENTITLED]},
            {"network": BridgedNetwork(interface="en0")},
            Forbidden,
            "NotEntitled",
            "use NAT",
        ),
        ({"keychain": "locked"}, {}, Unavailable, "KeychainLocked", "`security unlock-keychain"),
        ({"limits": {"macos_guests": 0}}, {}, Exhausted, "VirtualMachineLimit", "shutdown -r"),
        ({"supported": False}, {}, Unsupported, "UnsupportedHost", "kern.hv_support"),
        ({"arch": "x86_64"}, {}, Unsupported, "UnsupportedArchitecture", "Intel"),
        ({"version": [12, 6]}, {}, Unsupported, "UnsupportedHost", "needs macOS 13"),
        ({}, {"cpus": 64}, InvalidInput, "Invalid", "1 to 8"),
        ({}, {"disks": (plans.Disk(path="gone.img"),)}, NotFound, "FileNotFound", "gone.img"),
    ],
    ids=lambda value: getattr(value, "__name__", None) or (value if isinstance(value, str) else None),
)
async def test_a_start_that_fails_tells_cause_and_remedy_and_leaves_nothing(
    mac: MacHost,
    directory: MachineDirectory,
    settings: dict[str, object],
    plan: dict[str, object],
    kind: type[Error],
    reason: str,
    remedy: str,
) -> None:
    mac.configure(**settings)
    async with helper(mac, directory, macos_plan(**plan)) as one:
        client = await one.client()
        with pytest.raises(kind) as caught:
            await client.start()
        assert await one.exit() == ENDED
        client.close()
    assert caught.value.reason == reason
    assert remedy in caught.value.message
    end = end_of(directory)
    assert (end.fault, end.reason, end.killed) == (caught.value.message, reason, False)
    assert mac.running() == []
    assert not directory.helper_socket.exists()


@pytest.mark.parametrize("code", range(1, 13))
async def test_every_code_at_the_start_reaches_the_daemon(
    mac: MacHost,
    directory: MachineDirectory,
    code: int,
) -> None:
    mac.fail("start", code=code)
    async with helper(mac, directory, macos_plan()) as one:
        client = await one.client()
        with pytest.raises(Error, match=f"VZErrorDomain {code}"):
            await client.start()
        assert await one.exit() == ENDED
        client.close()
    assert end_of(directory).code == code


async def test_a_guest_that_powers_off_before_its_start_completes_has_run(
    mac: MacHost,
    directory: MachineDirectory,
) -> None:
    mac.fail("start", event="guest-stopped", event_when="before", delay_s=0.2)
    async with helper(mac, directory, macos_plan()) as one:
        client = await one.client()
        with contextlib.suppress(Unavailable):  # the end may overtake the answer
            await client.start()
        assert await one.exit() == ENDED
        client.close()
    assert end_of(directory).fault == ""


async def test_an_identifier_in_use_refuses_the_second_machine(mac: MacHost, tmp_path: Path) -> None:
    def plan(number: int, policy: IdentityPolicy) -> MachinePlan:
        identity = Identity(
            machine_id=macos_plan().identity.machine_id, policy=policy, locks=str(tmp_path / "identities")
        )
        return macos_plan(identity=identity, mac=f"02:00:00:00:00:0{number}")

    first, second = machine_directory(tmp_path / "1"), machine_directory(tmp_path / "2")
    async with (
        helper(mac, first, plan(1, IdentityPolicy.KEEP)) as one,
        helper(mac, second, plan(2, IdentityPolicy.FAIL_IF_RUNNING)) as other,
    ):
        client, late = await one.client(), await other.client()
        await client.start()
        with pytest.raises(Exhausted) as caught:
            await late.start()
        assert caught.value.reason == "MachineIdentityInUse"
        client.close()
        late.close()
        one.process.kill()
        await one.exit()
        await other.exit()
    async with helper(mac, second, plan(2, IdentityPolicy.FAIL_IF_RUNNING)) as again:  # the kernel let go
        client = await again.client()
        await client.start()
        client.close()


@pytest.mark.parametrize(
    "content",
    [None, b"{", b'{"boot": {"type": "windows"}}', plans.encode(macos_plan(version=plans.PLAN_VERSION + 1))],
    ids=["none", "cut", "unknown", "newer"],
)
async def test_a_plan_that_cannot_be_read_is_told_in_the_end(
    mac: MacHost,
    directory: MachineDirectory,
    content: bytes | None,
) -> None:
    if content is not None:
        directory.plan.write_bytes(content)
    async with helper(mac, directory) as one:
        assert await one.exit() != ENDED
    assert "vz.json" in end_of(directory).fault


async def test_a_directory_that_is_not_there_is_told(mac: MacHost, tmp_path: Path) -> None:
    gone = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "vzkubelet.machines.vz.helper", str(tmp_path / "none")],
        env=mac.environment(),
        capture_output=True,
        text=True,
        timeout=WAIT_S,
    )
    assert gone.returncode == NotFound.exit_code
    assert "there is no machine" in gone.stderr


async def test_a_packet_filter_that_ends_at_once_is_told_in_the_end(
    mac: MacHost,
    directory: MachineDirectory,
) -> None:
    plan = macos_plan(network=FileHandleNetwork(command=("/bin/sh", "-c", "echo no rights >&2; exit 3")))
    async with helper(mac, directory, plan) as one:
        assert await one.exit() != ENDED
    assert "no rights" in end_of(directory).fault


async def test_a_packet_filter_lives_as_long_as_the_machine(
    mac: MacHost,
    directory: MachineDirectory,
) -> None:
    plan = macos_plan(network=FileHandleNetwork(command=("/bin/sleep", "600")))
    async with helper(mac, directory, plan) as one:
        client = await one.client()
        await client.start()
        assert mac.guest(MAC)["nics"][0]["kind"] == "file-handle"
        children = psutil.Process(one.process.pid).children(recursive=True)
        assert "sleep" in {child.name() for child in children}
        await client.kill()
        assert await one.exit() == ENDED
        client.close()
    _, alive = psutil.wait_procs(children, timeout=WAIT_S)
    assert alive == []


async def test_a_packet_filter_that_dies_is_a_network_fault(
    mac: MacHost,
    directory: MachineDirectory,
) -> None:
    plan = macos_plan(network=FileHandleNetwork(command=("/bin/sleep", "600")))
    async with helper(mac, directory, plan) as one:
        client = await one.client()
        await client.start()
        for child in psutil.Process(one.process.pid).children(recursive=True):
            if child.name() == "sleep":
                child.kill()
        async with asyncio.timeout(WAIT_S):
            while not (fault := (await client.status()).network_fault):
                await asyncio.sleep(0.05)
        assert "sleep" in fault
        client.close()
