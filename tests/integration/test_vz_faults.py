"""What a pod and its node tell of each fault of Apple's framework, of a Mac, a helper or a daemon; nothing is left.

A row is one fault. What the driver makes of it is tested in tests/integration/machines; here it is seen from the API.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio

from tests.support.apple_double import MacHost, hardware_model_data
from tests.support.machine_worlds import MIB
from tests.support.vz_node import DEFECTIVE_HELPER, UID, Told, VzNode, open_node, vz_pod
from tests.support.vz_rows import CODES, fault, many_guests, some_at_a_time, uid_of
from tests.support.vz_world import VzWorld, vz_image
from vzkubelet.machines.vz.plan import Waits
from vzkubelet.ports import MachineImage

BACK_OFF_S = 10.0
"""The next try is so much later, whatever the refusal: kubelet's sync period, first step of the slot back-off."""
EVENT_BYTES_MAX = 1024
SECOND, THIRD = "5d0c8a52-0000-4000-8000-000000000002", "7f1d2c3b-0000-4000-8000-000000000003"

Guest = Callable[[VzNode, str], None]


@pytest.fixture
def mac(tmp_path: Path) -> MacHost:
    return MacHost(tmp_path / "mac", version=[15, 1])


@pytest.fixture
def world(tmp_path: Path, mac: MacHost) -> VzWorld:
    return VzWorld(tmp_path / "machines", vz_image(tmp_path / "image"), mac)


@pytest_asyncio.fixture
async def node(world: VzWorld) -> AsyncIterator[VzNode]:
    async with open_node(world) as made:
        yield made


# --- A machine that does not start --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Refusal:
    """The pod stays Pending, its container waits for `reason` with a message that names cause and remedy, a warning
    says the same, nothing is held meanwhile, and after the back-off it runs where the fault was mended."""

    name: str
    cause: tuple[str, ...]
    remedy: str
    faults: tuple[tuple[str, dict[str, Any]], ...] = ()
    host: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the Mac, made after the agent started."""
    mended: Mapping[str, Any] | None = None
    """Settings with which the next start succeeds; None = it would not, or another row shows it."""
    image: Mapping[str, Any] = field(default_factory=dict)
    auxiliary_model: bytes | None = None
    """Hardware model that the image's auxiliary storage was created with, where it tells."""
    bridge: str | None = None
    waits: Waits | None = None
    reason: str = "CreateContainerError"
    event: str = "Failed"
    limit: bool = False
    """Whether the node says VirtualMachineLimit."""


def refused_start(code: int, cause: str, remedy: str, **more: Any) -> Refusal:
    """VZErrorDomain's code, which can be looked up, is in the message too."""
    return Refusal(f"start-{code}", (cause, f"(VZErrorDomain {code})"), remedy, (fault("start", code=code),), **more)


OTHER_MODEL = hardware_model_data(platform_version=3)
SLOT: dict[str, Any] = {"reason": "VirtualMachineLimit", "event": "VirtualMachineLimit", "limit": True}
QUICK = Waits(start_s=1.5, stop_s=0.5)

REFUSALS = [
    # Each code at the start.
    refused_start(1, "Internal Virtualization error.", "`log show"),
    refused_start(2, "Invalid virtual machine configuration.", "`macos-vz-kubelet doctor --self-check`"),
    refused_start(3, "Invalid virtual machine state.", "delete the pod"),
    refused_start(4, "Invalid virtual machine state transition.", "delete the pod"),
    refused_start(5, "Invalid disk image.", "`macos-vz-kubelet image pull"),
    refused_start(6, "another program has both slots", "`sudo shutdown -r now`", mended={}, **SLOT),
    refused_start(7, "A network error occurred.", "`macos-vz-kubelet doctor`", mended={}),
    refused_start(8, "The disk is out of space.", "`macos-vz-kubelet image rm"),
    refused_start(9, "The operation was cancelled.", "do it again"),
    refused_start(10, "The operation is not supported.", "`macos-vz-kubelet doctor`"),
    refused_start(11, "could not be saved.", "`log show"),
    refused_start(12, "could not be restored.", "`log show"),
    refused_start(-9, "The operation failed (-9).", "`security unlock-keychain"),
    # Before the start: the configuration, its attachments, its validation.
    Refusal(
        "validate-2", ("does not take this.", "(VZErrorDomain 2)"), "`macos-vz-kubelet doctor --self-check`",
        (fault("validateWithError:", code=2, text="The host does not take this."),),
    ),
    Refusal(
        "disk-5", ("Invalid disk image.", "(VZErrorDomain 5)"), "`macos-vz-kubelet image pull",
        (fault("initWithURL:readOnly:cachingMode:synchronizationMode:error:", code=5),),
    ),
    Refusal(
        "disk-forbidden", ("Operation not permitted",), "Full Disk Access",
        (fault("initWithURL:readOnly:cachingMode:synchronizationMode:error:", code=1, domain="NSPOSIXErrorDomain",
               text="Operation not permitted"),),
    ),
    Refusal(
        "disk-in-use", ("Failed to lock",), "`lsof PATH`",
        (fault("start", code=2, text="Invalid virtual machine configuration. Failed to lock auxiliary storage."),),
    ),
    # Handlers that are never called, and ends around the completion.
    Refusal(
        "start-never", ("did not answer within 1.5 s",), "`sudo shutdown -r now`", (fault("start", never=True),),
        waits=QUICK, mended={},
    ),
    Refusal(
        "start-crash-before", ("No boot.", "(VZErrorDomain 1)"), "`log show",
        (fault("start", event="stopped-with-error", event_code=1, event_text="No boot.", never=True),),
        waits=QUICK, mended={},
    ),
    Refusal(
        "start-power-off-before", ("stopped while booting", "the guest powered off"), "`macos-vz-kubelet run`",
        (fault("start", event="guest-stopped", never=True),), waits=QUICK, mended={},
    ),
    # A Mac that is not prepared.
    Refusal(
        "keychain-locked", ("SecKeyCreateRandomKey_ios failed (-25308)",), "`security unlock-keychain",
        host={"keychain": "locked"}, mended={"keychain": "unlocked"},
    ),
    Refusal("runs-as-root", ("Internal Virtualization error.",), "LaunchAgent", host={"root": True}),
    Refusal(
        "not-entitled", ("com.apple.security.virtualization",), "`macos-vz-kubelet sign`",
        host={"entitlements": []}, mended={"entitlements": ["com.apple.security.virtualization"]},
    ),
    Refusal(
        "bridge-not-entitled", ("com.apple.vm.networking",), "`macos-vz-kubelet sign --help`", bridge="en0",
    ),
    Refusal("bridge-unknown", ("en7",), "en0", bridge="en7"),
    Refusal(
        "slots-of-others", ("another program has both slots", "(VZErrorDomain 6)"), "`sudo shutdown -r now`",
        host={"limits": {"macos_guests": 0}}, mended={"limits": {"macos_guests": 2}}, **SLOT,
    ),
    # An image that does not fit.
    Refusal(
        "auxiliary-storage-mismatch", ("auxiliary storage was not created with this hardware model",),
        "`macos-vz-kubelet image push`", auxiliary_model=OTHER_MODEL,
    ),
    Refusal(
        "hardware-model-unsupported", ("hardware model is not supported by macOS 15",), "`softwareupdate --list`",
        image={"hardware_model": hardware_model_data(minimum_os=(27, 0, 0))},
    ),
    Refusal(
        "hardware-model-unreadable", ("hardware model of the image is not valid data",), "push the image again",
        image={"hardware_model": b"none"},
    ),
    Refusal(
        "hardware-model-missing", ("names no hardware model",), "--hardware-model", image={"hardware_model": b""},
    ),
    Refusal(
        "machine-identifier-unreadable", ("machine identifier of the image is not valid data",),
        "`--vz-machine-id random`", image={"machine_id": b"none"},
    ),
]  # fmt: skip


@pytest.mark.parametrize("row", REFUSALS, ids=lambda row: row.name)
async def test_a_machine_that_does_not_start(row: Refusal, tmp_path: Path, mac: MacHost) -> None:
    image: MachineImage = replace(vz_image(tmp_path / "image"), **row.image)
    world = VzWorld(tmp_path / "machines", image, mac)
    world.setup = replace(world.setup, bridge_interface=row.bridge)
    if row.auxiliary_model is not None:
        image.aux.write_bytes(b"VZDOUBLE-AUX\n" + row.auxiliary_model.hex().encode() + b"\n" + bytes(4096))
    async with open_node(world, waits=row.waits) as node:
        mac.configure(**row.host)
        for operation, said in row.faults:
            mac.fail(operation, **said)
        node.bind()
        message = await node.waiting(row.reason)
        assert all(words in message for words in row.cause)
        assert row.remedy in message
        told = message if row.event == row.reason else f"Error: {message}"
        assert node.warnings() == [Told("Warning", row.event, told)]
        assert len(told) < EVENT_BYTES_MAX
        assert (node.phase(), node.statuses()[0].restart_count) == ("Pending", 0)
        assert (node.condition().status, row.limit and node.condition().message) == (
            ("True", message) if row.limit else ("False", False)
        )
        assert node.held() == []
        if row.mended is None:
            return
        mac.configure(**row.mended)
        node.after(BACK_OFF_S)
        await node.running()
        assert node.condition().status == "False"


@pytest.mark.parametrize("event", ["guest-stopped", "stopped-with-error"])
async def test_a_guest_that_ends_as_soon_as_it_is_up_is_told_and_started_again(node: VzNode, event: str) -> None:
    """Whether its address was learnt before is a race on a Mac too: Pending or restarted, never Failed."""
    node.mac.fail("start", event=event, event_text="No boot.", event_when="after")
    node.bind("sleep", "infinity")
    await node.until(lambda: bool(node.warnings()))
    node.after(BACK_OFF_S)
    await node.until(lambda: bool(node.statuses()) and node.statuses()[0].state.running is not None)
    [told] = node.warnings()
    assert (told.type, told.reason) == ("Warning", "Failed")
    assert ("No boot. (VZErrorDomain 1)" if event == "stopped-with-error" else "the guest powered off") in told.text
    assert node.phase() == "Running"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Half a MiB too small for a clone, and nothing to share blocks with."""
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "vz-small", str(place)], check=True)
    yield place
    subprocess.run(["umount", str(place)], check=True)


async def test_a_clone_that_does_not_fit_waits_for_room(tmp_path: Path, mac: MacHost, small_disk: Path) -> None:
    image = vz_image(tmp_path / "image")
    image.disk.write_bytes(os.urandom(MIB))
    async with open_node(VzWorld(small_disk / "machines", image, mac)) as node:
        node.bind()
        message = await node.waiting("CreateContainerError")
        assert "No space left on device" in message
        assert "`macos-vz-kubelet image rm REFERENCE`" in message
        assert node.warnings() == [Told("Warning", "Failed", f"Error: {message}")]
        assert node.held() == []
        assert (node.phase(), node.statuses()[0].restart_count) == ("Pending", 0)
        subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
        node.after(BACK_OFF_S)
        await node.running()


async def test_a_third_mac_waits_until_one_of_two_has_ended(node: VzNode) -> None:
    for uid in (UID, SECOND):
        node.bind(uid=uid)
        await node.running(uid=uid)
    node.bind(uid=THIRD)
    message = await node.waiting("VirtualMachineLimit", uid=THIRD)
    assert "2 macOS guests already" in message
    assert all(f"ns/p-{uid[:8]}" in message for uid in (UID, SECOND))
    assert "starts when one of them has ended" in message
    assert node.warnings() == [Told("Warning", "VirtualMachineLimit", message)]
    assert (node.condition().status, node.condition().message) == ("True", message)
    assert (node.phase(THIRD), node.statuses(THIRD)[0].restart_count) == ("Pending", 0)
    assert THIRD not in node.world.leftovers(), "a refused machine keeps no clone"
    node.after(BACK_OFF_S, THIRD)
    await node.until(lambda: len(node.warnings()) == 2)
    await node.deleted(uid=UID)
    assert node.condition().status == "False"
    node.after(2 * BACK_OFF_S, THIRD)
    await node.running(uid=THIRD)


# --- A machine that is lost while its pod runs --------------------------------------------------------------------


def guest(order: str) -> Guest:
    return lambda node, uid: node.tell_guest(order, uid)


def last_word(order: str) -> Guest:
    """Its helper may be gone before it can answer."""

    def tell(node: VzNode, uid: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            node.tell_guest(order, uid)

    return tell


def helper(number: signal.Signals) -> Guest:
    return lambda node, uid: os.kill(node.world.helper_pid(uid), number)


@dataclass(frozen=True)
class Loss:
    """The container ends with 137, `Error` and a message that names cause and remedy; one warning says the same. With
    restartPolicy Never the pod is Failed, with Always another machine runs at once."""

    name: str
    loses: Guest
    cause: tuple[str, ...]
    remedy: str
    restarts: bool = False
    path: tuple[Path, ...] = ()
    aborts: tuple[str, ...] = ()
    """What the double saw that would have ended a real process."""


def crash(code: int, cause: str, remedy: str, **more: Any) -> Loss:
    return Loss(f"crash-{code}", guest(f"crash {code}"), (cause, f"(VZErrorDomain {code})"), remedy, **more)


CRASHES = [
    # Each code with which a running guest may stop.
    crash(1, "Internal Virtualization error.", "`log show"),
    crash(2, "Invalid virtual machine configuration.", "`macos-vz-kubelet doctor --self-check`"),
    crash(3, "Invalid virtual machine state.", "delete the pod"),
    crash(4, "Invalid virtual machine state transition.", "delete the pod"),
    crash(5, "Invalid disk image.", "`diskutil verifyVolume"),
    crash(6, "maximum supported number of active virtual machines", "`sudo shutdown -r now`"),
    crash(7, "A network error occurred.", "`macos-vz-kubelet doctor`"),
    crash(8, "The disk is out of space.", "`macos-vz-kubelet image rm"),
    crash(9, "The operation was cancelled.", "do it again"),
    crash(10, "The operation is not supported.", "`macos-vz-kubelet doctor`"),
    crash(11, "could not be saved.", "`log show"),
    crash(12, "could not be restored.", "`log show"),
    # And as it is told by a guest of a later macOS.
    crash(99, "The operation failed (99).", "`log show"),
]
LOSSES = [
    Loss("crash-and-restart", guest("crash 1"), ("Internal Virtualization error.",), "`log show", restarts=True),
    # The helper.
    Loss("helper-killed", helper(signal.SIGKILL), ("killed by signal 9 (SIGKILL)",), "`log show", restarts=True),
    Loss("helper-crashed", helper(signal.SIGSEGV), ("killed by signal 11 (SIGSEGV)",), "DiagnosticReports"),
    Loss("helper-told-to-end", helper(signal.SIGTERM), ("told to end",), "`macos-vz-kubelet doctor`"),
    Loss(
        "callback-exception", last_word("disconnect"), ("killed by signal 6 (SIGABRT)",), "DiagnosticReports",
        restarts=True, path=(DEFECTIVE_HELPER,), aborts=("callback-exception",),
    ),
]  # fmt: skip


async def lost(node: VzNode, row: Loss, uid: str) -> None:
    node.bind("sleep", "infinity", uid=uid, policy="Always" if row.restarts else "Never")
    first = await node.running(uid=uid)
    row.loses(node, uid)
    if row.restarts:
        second = await node.running(restarts=1, uid=uid)
        assert second.container_id != first.container_id
        assert second.last_state is not None
        ended = second.last_state.terminated
    else:
        ended = await node.terminated(uid)
    assert ended is not None
    assert (ended.exit_code, ended.reason, ended.container_id) == (137, "Error", first.container_id)
    assert all(words in ended.message for words in row.cause), (row.name, ended.message)
    assert row.remedy in ended.message, (row.name, ended.message)
    assert len(ended.message) < EVENT_BYTES_MAX
    assert node.warnings().count(Told("Warning", "Failed", f"Error: {ended.message}")) == 1
    await node.until(lambda: node.phase(uid) == ("Running" if row.restarts else "Failed"))


@pytest.mark.parametrize("row", LOSSES, ids=lambda row: row.name)
async def test_a_machine_that_is_lost(row: Loss, world: VzWorld) -> None:
    async with open_node(world, path=row.path) as node:
        await lost(node, row, UID)
        assert [told.reason for told in node.warnings() if told.reason != "NetworkUnavailable"] == ["Failed"]
        node.mac.expect_aborts(*row.aborts)
        if not row.restarts:
            await node.until(lambda: node.held() == [])


async def test_guests_that_crash(tmp_path: Path, mac: MacHost) -> None:
    async with open_node(many_guests(tmp_path, mac)) as node:
        for rows in some_at_a_time(CRASHES):
            await asyncio.gather(*(lost(node, row, uid_of(row.name)) for row in rows))
        assert len(node.warnings()) == len(CRASHES)
        await node.until(lambda: node.held() == [])


async def test_a_machine_that_is_lost_again_and_again_backs_off(node: VzNode) -> None:
    node.bind("sleep", "infinity")
    await node.running()
    node.tell_guest("crash 1")
    await node.running(restarts=1)
    node.tell_guest("crash 1")
    message = await node.waiting("CrashLoopBackOff")
    assert message.startswith("back-off 10s restarting failed container=vm")
    assert [told.reason for told in node.warnings()] == ["Failed", "Failed", "BackOff"]
    assert node.phase() == "Running"
    node.after(BACK_OFF_S)
    await node.running(restarts=2)


@pytest.mark.parametrize("command", [(), ("sleep", "infinity")], ids=["machine", "process"])
async def test_a_guest_that_powers_off_is_no_fault_unless_a_process_ran_in_it(
    node: VzNode, command: tuple[str, ...]
) -> None:
    node.bind(*command, policy="Never")
    await node.running()
    node.tell_guest("power-off")
    ended = await node.terminated()
    if command:
        text = "the guest powered off while the process was running"
        assert (ended.exit_code, ended.reason, ended.message) == (137, "Error", text)
        await node.until(lambda: node.phase() == "Failed")
        assert node.warnings() == [Told("Warning", "Failed", f"Error: {text}")]
    else:
        assert (ended.exit_code, ended.reason, ended.message) == (0, "Completed", "")
        await node.until(lambda: node.phase() == "Succeeded")
        assert node.warnings() == []


# --- What a pod survives ------------------------------------------------------------------------------------------


async def test_a_network_that_breaks_is_told_and_the_container_runs_on(node: VzNode) -> None:
    node.bind("sleep", "infinity")
    first = await node.running()
    await node.until(lambda: has_listener(node.world.helper_pid(UID)))
    node.tell_guest("disconnect")
    await node.until(lambda: "NetworkAvailable" in node.recorder.reasons())
    [told] = node.warnings()
    assert (told.type, told.reason) == ("Warning", "NetworkUnavailable")
    assert "(VZErrorDomain 7)" in told.text
    assert "`macos-vz-kubelet doctor`" in told.text
    await node.until(lambda: node.statuses()[0].ready)
    assert (await node.running()).container_id == first.container_id
    assert node.mac.guest(node.world.machine_state(UID).mac)["nics"][0]["kind"] == "nat"


def has_listener(helper_pid: int) -> bool:
    """Whether somebody is connected to the helper's socket: the agent, to hear of the network."""
    connections = psutil.Process(helper_pid).net_connections("unix")
    return sum(str(each.laddr).endswith("helper.sock") for each in connections) > 1


async def test_a_guest_whose_vsock_fails_is_found_by_its_lease(node: VzNode) -> None:
    for code in CODES:
        node.mac.fail("connect", code=code)
    node.bind("sleep", "infinity")
    await node.running()
    assert node.warnings() == []
    for path in (node.mac.directory / "faults").glob("*.json"):
        path.unlink()  # how often vsock was tried is not the matter here


# --- A daemon that is killed --------------------------------------------------------------------------------------

DAEMON = """
import asyncio, sys
from pathlib import Path
from tests.support.apple_double import MacHost
from tests.support.vz_node import open_node
from tests.support.vz_rows import CODES, fault, many_guests, some_at_a_time, uid_of
from tests.support.vz_world import VzWorld, vz_image
from vzkubelet.machines.vz.plan import Waits

async def main(root: Path, moment: str) -> None:
    mac = MacHost(root / "mac", version=[15, 1])
    world = VzWorld(root / "machines", vz_image(root / "image"), mac)
    async with open_node(world, waits=Waits(stop_s=0.5)) as node:
        if moment == "starting":
            mac.fail("start", never=True)
        node.bind("sleep", "infinity")
        if moment == "starting":
            await node.until(lambda: not mac.pending_faults() and bool(node.held()))
            print("starting", flush=True)
        else:
            print((await node.running()).container_id, flush=True)
        await asyncio.sleep(3600)

asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
"""


async def killed_daemon(root: Path, moment: str) -> str:
    """The word that an agent said, which was killed at that moment."""
    with subprocess.Popen(
        [sys.executable, "-c", DAEMON, str(root), moment], stdout=subprocess.PIPE, text=True
    ) as agent:
        try:
            assert agent.stdout is not None
            return (await asyncio.to_thread(agent.stdout.readline)).strip()
        finally:
            agent.kill()


@contextlib.asynccontextmanager
async def next_daemon(root: Path) -> AsyncIterator[VzNode]:
    """An agent on what the killed one left; the API server says of the pod what it said at first."""
    world = VzWorld(root / "machines", vz_image(root / "image"), MacHost(root / "mac", version=[15, 1]))
    async with open_node(world, waits=Waits(stop_s=QUICK.stop_s), is_open=False) as node:
        node.api.put(vz_pod("sleep", "infinity"))
        yield node


async def test_a_daemon_killed_under_a_running_pod_changes_nothing_of_it(tmp_path: Path) -> None:
    container_id = await killed_daemon(tmp_path, "running")
    async with next_daemon(tmp_path) as node:
        await node.open()
        assert (await node.running()).container_id == container_id
        assert node.warnings() == []


async def test_a_daemon_killed_in_the_midst_of_a_start_is_made_good_by_the_next(tmp_path: Path) -> None:
    assert await killed_daemon(tmp_path, "starting") == "starting"
    async with next_daemon(tmp_path) as node:
        await node.open()
        await node.running()
        assert node.warnings() == []
        assert len(node.mac.running()) == 1


async def test_a_helper_that_dies_while_there_is_no_daemon_is_told_by_the_next(tmp_path: Path) -> None:
    container_id = await killed_daemon(tmp_path, "running")
    async with next_daemon(tmp_path) as node:
        os.kill(node.world.helper_pid(UID), signal.SIGKILL)
        await node.open()
        status = await node.running(restarts=1)
        assert status.last_state is not None
        ended = status.last_state.terminated
        assert ended is not None
        assert (ended.exit_code, ended.reason, ended.container_id) == (137, "Error", container_id)
        assert "crashed or was killed" in ended.message
        assert "DiagnosticReports" in ended.message
        assert node.warnings() == [Told("Warning", "Failed", f"Error: {ended.message}")]
