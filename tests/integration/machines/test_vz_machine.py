"""One virtual machine on its queue: operations, faults of each, ends told by several sides, and nothing that aborts."""

import asyncio
import gc
import importlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support.apple_double import VERSIONS, MacHost, imported_frameworks
from tests.support.vz_machines import MAC, machine_directory, macos_plan
from vzkubelet.errors import Conflict, DeadlineExceeded, Error, Exhausted, MachineFault, NotFound, Unavailable
from vzkubelet.machines.directory import MachineDirectory
from vzkubelet.machines.vz import apple, configuration, faults, shares
from vzkubelet.machines.vz import machine as machines
from vzkubelet.machines.vz.availability import MacOS
from vzkubelet.machines.vz.delegate import Observer
from vzkubelet.machines.vz.faults import Operation, Situation
from vzkubelet.machines.vz.machine import Ending, Listener, VirtualMachine
from vzkubelet.machines.vz.plan import MIB, FileSystemShare, MachinePlan, SharedDirectory
from vzkubelet.machines.vz.protocol import VMState
from vzkubelet.machines.vz.queue import Queue

WAIT_S = 20.0
CODES = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12)


@dataclass
class Told:
    """What a machine tells its listener."""

    states: list[VMState] = field(default_factory=list)
    endings: list[Ending] = field(default_factory=list)
    disconnections: list[Error] = field(default_factory=list)
    something: asyncio.Event = field(default_factory=asyncio.Event)

    def listener(self) -> Listener:
        def into(kept: list[Any]) -> Callable[[Any], None]:
            def note(value: Any) -> None:
                kept.append(value)
                self.something.set()

            return note

        return Listener(into(self.states), into(self.endings), into(self.disconnections))

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_S):
            while not condition():
                self.something.clear()
                await self.something.wait()


@dataclass(frozen=True)
class Mac:
    host: MacHost
    directory: MachineDirectory
    macos: MacOS
    told: Told

    async def machine(self, plan: MachinePlan | None = None) -> VirtualMachine:
        what = plan or macos_plan()
        situation = Situation(Operation.CONFIGURE, what.is_macos, self.macos)

        def build() -> tuple[Any, tuple[object, ...]]:
            built = configuration.build(what, self.directory, self.macos, situation, None)
            return built.configuration, built.keep

        return await VirtualMachine.create(Queue("test"), build, situation, self.told.listener())

    async def tell_guest(self, order: str) -> Any:
        return await asyncio.to_thread(self.host.tell, MAC, order)


async def open_mac(tmp_path: Path, version: tuple[int, int]) -> AsyncIterator[Mac]:
    host = MacHost(tmp_path / "mac", version=list(version))
    with imported_frameworks(host):
        yield Mac(host, machine_directory(tmp_path), apple.host(), Told())
        gc.collect()
    host.check()


@pytest.fixture(params=VERSIONS, ids=lambda version: ".".join(map(str, version)))
async def mac(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Mac]:
    async for one in open_mac(tmp_path, request.param):
        yield one


@pytest.fixture
async def sequoia(tmp_path: Path) -> AsyncIterator[Mac]:
    async for one in open_mac(tmp_path, (15, 1)):
        yield one


# --- A life --------------------------------------------------------------------------------------------------------


async def test_a_machine_runs_pauses_and_stops(mac: Mac) -> None:
    machine = await mac.machine()
    assert await machine.state() is VMState.STOPPED
    await machine.start()
    assert await machine.state() is VMState.RUNNING
    await machine.pause()
    assert await machine.state() is VMState.PAUSED
    await machine.resume()
    await machine.stop()
    assert machine.has_ended
    assert mac.told.endings == [Ending()]
    await machine.drain(WAIT_S)
    assert mac.told.states == [
        VMState.STARTING, VMState.RUNNING, VMState.PAUSING, VMState.PAUSED, VMState.RESUMING, VMState.RUNNING,
        VMState.STOPPING, VMState.STOPPED,
    ]  # fmt: skip
    assert mac.host.running() == []


async def test_a_guest_that_powers_off_is_told_once(mac: Mac) -> None:
    machine = await mac.machine()
    await machine.start()
    await machine.request_stop()
    await mac.told.until(lambda: bool(mac.told.endings))
    assert mac.told.endings == [Ending()]
    await machine.stop()  # it has ended: nothing to do
    assert mac.told.endings == [Ending()]


async def test_a_guest_that_crashes_tells_why(mac: Mac) -> None:
    machine = await mac.machine()
    await machine.start()
    await mac.tell_guest("crash 1 The guest panicked.")
    await mac.told.until(lambda: bool(mac.told.endings))
    [ending] = mac.told.endings
    assert isinstance(ending.error, MachineFault)
    assert (ending.error.code, ending.error.reason) == (1, "GuestStopped")
    assert "The guest panicked" in ending.error.message


async def test_the_delegate_outlives_every_collection(sequoia: Mac) -> None:
    machine = await sequoia.machine()
    await machine.start()
    gc.collect()
    await sequoia.tell_guest("power-off")
    await sequoia.told.until(lambda: bool(sequoia.told.endings))
    assert machine.has_ended


async def test_an_exception_of_ours_in_a_callback_does_not_reach_the_framework(
    sequoia: Mac, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a defect of ours")

    monkeypatch.setattr(VirtualMachine, "_observer", lambda self: Observer(broken, broken, broken))
    machine = await sequoia.machine()
    await machine.start()
    await sequoia.tell_guest("disconnect")
    await sequoia.tell_guest("power-off")
    async with asyncio.timeout(WAIT_S):
        while await machine.state() is not VMState.STOPPED:
            await asyncio.sleep(0.01)
    assert caplog.text.count("RuntimeError: a defect of ours") == 2  # and the double recorded no abort


# --- Save and restore ----------------------------------------------------------------------------------------------


async def test_a_paused_machine_is_saved_and_another_restored_from_it(mac: Mac, tmp_path: Path) -> None:
    plan, path = macos_plan(suspendable=mac.macos >= MacOS(14)), tmp_path / "saved"
    machine = await mac.machine(plan)
    await machine.start()
    await machine.pause()
    if mac.macos < MacOS(14):
        with pytest.raises(Error, match="macOS 14"):
            await machine.save(path, mac.macos)
        with pytest.raises(Error, match="macOS 14"):
            await machine.restore(path, mac.macos)
        return
    await machine.save(path, mac.macos)
    assert path.is_file()
    await machine.stop()
    restored = await mac.machine(plan)
    await restored.restore(path, mac.macos)
    assert await restored.state() is VMState.PAUSED
    await restored.resume()
    assert await restored.state() is VMState.RUNNING
    await restored.stop()


async def test_a_running_machine_is_not_saved_and_leaves_no_file(sequoia: Mac, tmp_path: Path) -> None:
    machine = await sequoia.machine()
    await machine.start()
    with pytest.raises(Conflict) as caught:
        await machine.save(tmp_path / "saved", sequoia.macos)
    assert faults.code_of(caught.value) == 3
    assert not list(tmp_path.glob("*saved*"))


async def test_a_restore_that_fails_leads_to_a_cold_start(sequoia: Mac, tmp_path: Path) -> None:
    path = tmp_path / "saved"
    path.write_bytes(b"of another host")
    sequoia.host.fail("restore", code=12)
    machine = await sequoia.machine()
    with pytest.raises(MachineFault, match="start the machine without it") as caught:
        await machine.restore(path, sequoia.macos)
    assert caught.value.code == 12
    await machine.start()
    assert await machine.state() is VMState.RUNNING


async def test_a_file_that_is_not_there_is_not_restored(sequoia: Mac, tmp_path: Path) -> None:
    machine = await sequoia.machine()
    with pytest.raises(NotFound):
        await machine.restore(tmp_path / "none", sequoia.macos)


# --- Faults --------------------------------------------------------------------------------------------------------


async def _started(mac: Mac) -> VirtualMachine:
    machine = await mac.machine()
    await machine.start()
    return machine


async def _paused(mac: Mac) -> VirtualMachine:
    machine = await _started(mac)
    await machine.pause()
    return machine


Step = tuple[str, Callable[[Mac], Awaitable[VirtualMachine]], Callable[[VirtualMachine, Mac, Path], Awaitable[object]]]

STEPS: list[Step] = [
    ("start", lambda mac: mac.machine(), lambda machine, mac, path: machine.start()),
    ("stop", _started, lambda machine, mac, path: machine.stop()),
    ("pause", _started, lambda machine, mac, path: machine.pause()),
    ("resume", _paused, lambda machine, mac, path: machine.resume()),
    ("save", _paused, lambda machine, mac, path: machine.save(path / "new", mac.macos)),
    ("restore", lambda mac: mac.machine(), lambda machine, mac, path: machine.restore(path / "old", mac.macos)),
    ("connect", _started, lambda machine, mac, path: machine.connect(1234)),
]


@pytest.mark.parametrize(
    "step",
    [*STEPS, ("request-stop", _started, lambda machine, mac, path: machine.request_stop())],
    ids=lambda step: str(step[0]),
)
async def test_each_code_at_each_operation_is_an_error_with_that_code(sequoia: Mac, step: Step, tmp_path: Path) -> None:
    operation, prepare, act = step
    (tmp_path / "old").write_bytes(b"saved")
    machine = await prepare(sequoia)
    before = await machine.state()
    for code in CODES:
        sequoia.host.fail(operation, code=code, text=f"Refused with {code}.")
        with pytest.raises(Error) as caught:
            await act(machine, sequoia, tmp_path)
        assert faults.code_of(caught.value) == code
        assert f"Refused with {code}." in caught.value.message
        assert not sequoia.host.pending_faults()
        assert not list(tmp_path.glob("*new"))
        assert await machine.state() in (before, VMState.ERROR)  # nothing half done
    assert machine.has_ended is False


@pytest.mark.parametrize("step", STEPS, ids=lambda step: str(step[0]))
async def test_a_handler_that_is_never_called_names_the_operation(
    sequoia: Mac, step: Step, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    operation, prepare, act = step
    (tmp_path / "old").write_bytes(b"saved")
    machine = await prepare(sequoia)
    monkeypatch.setattr(machines, "TIMEOUTS_S", dict.fromkeys(machines.TIMEOUTS_S, 0.2))
    sequoia.host.fail(operation, never=True)
    with pytest.raises(DeadlineExceeded, match=r"did not answer within 0\.2 s"):
        await act(machine, sequoia, tmp_path)


@pytest.mark.parametrize("step", STEPS, ids=lambda step: str(step[0]))
async def test_a_late_answer_to_an_operation_that_was_given_up_harms_nobody(
    sequoia: Mac, step: Step, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    operation, prepare, act = step
    (tmp_path / "old").write_bytes(b"saved")
    machine = await prepare(sequoia)
    monkeypatch.setattr(machines, "TIMEOUTS_S", dict.fromkeys(machines.TIMEOUTS_S, 0.05))
    sequoia.host.fail(operation, delay_s=0.3)
    with pytest.raises(DeadlineExceeded):
        await act(machine, sequoia, tmp_path)
    await asyncio.sleep(0.4)  # the double's own clock: the answer comes now
    await machine.drain(WAIT_S)


async def test_a_third_mac_waits_for_a_slot(mac: Mac, tmp_path: Path) -> None:
    others = []
    for number in (2, 3):
        directory = machine_directory(tmp_path / str(number))
        other = Mac(mac.host, directory, mac.macos, Told())
        others.append(await other.machine(macos_plan(mac=f"02:00:00:00:00:0{number}")))
        await others[-1].start()
    machine = await mac.machine()
    with pytest.raises(Exhausted) as caught:
        await machine.start()
    assert caught.value.reason == "VirtualMachineLimit"
    await others[0].stop()
    await machine.start()


@pytest.mark.parametrize("version", [(15, 1), (26, 0)], ids=str)
async def test_a_locked_keychain_names_the_command_that_unlocks_it(tmp_path: Path, version: tuple[int, int]) -> None:
    async for mac in open_mac(tmp_path, version):
        mac.host.configure(keychain="locked")
        machine = await mac.machine()
        with pytest.raises(Unavailable, match="`security unlock-keychain") as caught:
            await machine.start()
        assert caught.value.reason == "KeychainLocked"
        mac.host.configure(keychain="unlocked")
        await machine.start()


# --- Ends in the midst of an operation -----------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_guest_that_powers_off_around_the_end_of_its_start_has_run(sequoia: Mac, when: str) -> None:
    sequoia.host.fail("start", event="guest-stopped", event_when=when)
    machine = await sequoia.machine()
    await machine.start()
    await sequoia.told.until(lambda: bool(sequoia.told.endings))
    assert sequoia.told.endings == [Ending()]


async def test_a_guest_that_crashes_while_it_starts_fails_the_start(
    sequoia: Mac, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machines, "_COMPLETION_GRACE_S", 0.1)
    sequoia.host.fail("start", event="stopped-with-error", event_code=1, event_text="No boot.", never=True)
    machine = await sequoia.machine()
    with pytest.raises(MachineFault, match="No boot"):
        await machine.start()
    assert len(sequoia.told.endings) == 1


@pytest.mark.parametrize("operation", ["stop", "pause"])
@pytest.mark.parametrize("event", ["guest-stopped", "stopped-with-error"])
@pytest.mark.parametrize("when", ["before", "after"])
async def test_an_end_around_another_operation_is_told_once(
    sequoia: Mac, operation: str, event: str, when: str
) -> None:
    machine = await _started(sequoia)
    sequoia.host.fail(operation, event=event, event_when=when, event_code=1, event_text="It fell.")
    if operation == "stop":
        await machine.stop()
    else:
        with pytest.raises(Error) if when == "before" else _nothing():
            await machine.pause()
    await sequoia.told.until(lambda: bool(sequoia.told.endings))
    await machine.drain(WAIT_S)
    await asyncio.sleep(0)
    assert len(sequoia.told.endings) == 1


class _nothing:  # noqa: N801 - reads as a context
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


async def test_a_stop_that_comes_too_late_is_no_error(sequoia: Mac) -> None:
    machine = await _started(sequoia)
    sequoia.host.fail("stop", code=3, event="guest-stopped", event_when="before")
    await machine.stop()
    assert len(sequoia.told.endings) == 1


async def test_a_cancelled_start_leaves_no_callback_that_hurts(sequoia: Mac) -> None:
    sequoia.host.fail("start", delay_s=0.2)
    machine = await sequoia.machine()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await machine.start()
    await sequoia.told.until(lambda: VMState.RUNNING in sequoia.told.states)
    await machine.stop()


def test_a_callback_after_the_loop_was_closed_is_swallowed(tmp_path: Path) -> None:
    host = MacHost(tmp_path / "mac", version=[15, 1])
    directory = machine_directory(tmp_path)
    kept: list[VirtualMachine] = []
    with imported_frameworks(host):
        host.fail("pause", delay_s=0.2)

        async def abandon() -> None:
            machine = await Mac(host, directory, apple.host(), Told()).machine()
            await machine.start()
            kept.append(machine)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await machine.pause()

        asyncio.run(abandon())
        assert importlib.import_module("vzdouble.queues").wait_until_idle(WAIT_S)  # the handler came meanwhile
    host.check()


# --- Devices of a running machine ----------------------------------------------------------------------------------


async def test_a_share_shows_another_directory_while_the_guest_runs(mac: Mac, tmp_path: Path) -> None:
    for name in ("before", "after"):
        (tmp_path / name).mkdir()

    def share(name: str) -> FileSystemShare:
        return FileSystemShare(tag="data", directories=(SharedDirectory(path=str(tmp_path / name)),))

    machine = await mac.machine(macos_plan(shares=(share("before"),)))
    await machine.start()
    await machine.set_share("data", lambda: shares.share_of(share("after"), mac.directory))
    [live] = mac.host.guest(MAC)["shares"]
    assert [one["path"] for one in live["directories"].values()] == [str(tmp_path / "after")]
    with pytest.raises(NotFound, match="'other'"):
        await machine.set_share("other", lambda: shares.share_of(share("after"), mac.directory))


async def test_a_memory_target_reaches_the_guest(mac: Mac) -> None:
    machine = await _started(mac)
    await machine.set_memory_target(1024 * MIB)
    assert 1024 * MIB in mac.host.guest(MAC).values()
    without = await Mac(mac.host, mac.directory, mac.macos, Told()).machine(macos_plan(balloon=False))
    with pytest.raises(Conflict, match="balloon"):
        await without.set_memory_target(1024 * MIB)


async def test_a_connection_into_the_guest_survives_the_framework_letting_go(mac: Mac) -> None:
    machine = await _started(mac)
    ports = mac.host.directory / "guests" / f"{MAC}.vsock"
    ports.mkdir(parents=True, exist_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        descriptor = os.open(ports, os.O_RDONLY | os.O_DIRECTORY)
        listener.bind(f"/proc/self/fd/{descriptor}/8080")
        os.close(descriptor)
        listener.listen()
        ours = await machine.connect(8080)
        gc.collect()
        with socket.socket(fileno=ours) as host_end:
            guest_end, _ = listener.accept()
            with guest_end:
                host_end.sendall(b"hello")
                assert guest_end.recv(10) == b"hello"


async def test_a_port_that_nobody_listens_on_is_told(sequoia: Mac) -> None:
    machine = await _started(sequoia)
    with pytest.raises(Unavailable, match="listens"):
        await machine.connect(9)


async def test_a_network_that_broke_is_attached_again(mac: Mac) -> None:
    machine = await _started(mac)
    await mac.tell_guest("disconnect 3")
    await mac.told.until(lambda: len(mac.told.disconnections) == 3)
    assert mac.host.guest(MAC)["nics"][0]["kind"] == "none"
    plan = macos_plan()

    def attach() -> tuple[Any, tuple[object, ...]]:
        attached = configuration.network_attachment(plan, mac.macos, None)
        return attached.attachment, attached.keep

    await machine.reattach_network(attach)
    assert mac.host.guest(MAC)["nics"][0]["kind"] == "nat"
