"""The obligations of `ports.ContainerRuntime`, checked on machine containers with the synthetic driver.

Its guests understand ``sleep``, ``exit`` and lists of these; what needs a real shell is checked on real guests.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

from tests.conformance.containers import Pod, pod_ref
from tests.support.memory_images import Published
from tests.support.memory_streams import MemoryStreams
from tests.support.synthetic_bench_fixtures import SyntheticBench
from vzkubelet import aio, errors
from vzkubelet.machines.synthetic import SyntheticTiming
from vzkubelet.pods.machine_state import MachineContainer
from vzkubelet.ports import ContainerMount, ContainerPhase, ImageDefaults, LogOptions, MachinePhase, OutputStream

FOREVER = ("sleep", "infinity")
ODD = ("no-synthetic-program",)
"""Runs until it is signalled, and says so on its stderr: the one program here with output."""


@pytest.fixture
def bench(synthetic_bench: SyntheticBench) -> SyntheticBench:
    return synthetic_bench


@pytest_asyncio.fixture
async def pod(bench: SyntheticBench, tmp_path: Path) -> AsyncIterator[Pod]:
    made = Pod(bench, tmp_path / "unused")
    yield made
    await made.runtime.remove_pod(made.ref)
    assert not await bench.leftovers(made.ref)


async def start(pod: Pod, *command: str, attempt: int = 0, **changes: object) -> object:
    return await pod.start(*command, attempt=attempt, log_path=None, **changes)


# --- Life --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 1, 3, 137, 255])
async def test_exit_code(pod: Pod, bench: SyntheticBench, code: int) -> None:
    before = time.time()
    await start(pod, "sh", "-c", f"exit {code}")
    state = await pod.wait()
    assert (state.phase, state.exit.code) == (ContainerPhase.EXITED, code)
    assert state.reason == ("Completed" if code == 0 else "Error")
    assert before - 1 <= state.started_at <= state.finished_at <= time.time() + 1
    assert state.id.startswith("synthetic://")
    assert (await bench.driver.status(pod.ref.uid)).phase is MachinePhase.STOPPED


async def test_container_that_was_never_started_is_not_found(pod: Pod) -> None:
    assert await pod.runtime.find(pod.ref, "main") is None
    for call in (pod.runtime.wait(pod.ref, "main"), pod.runtime.stop(pod.ref, "main", 1), pod.entries()):
        with pytest.raises(errors.NotFound):
            await call
    await pod.runtime.remove(pod.ref, "main")


async def test_prepare_may_be_repeated_and_starts_nothing(pod: Pod) -> None:
    spec = await pod.spec(*FOREVER, log_path=None)
    assert await pod.runtime.prepare(spec) == await pod.runtime.prepare(spec) != ""
    assert await pod.runtime.find(pod.ref, "main") is None
    with pytest.raises(errors.NotFound):
        await pod.runtime.wait(pod.ref, "main")
    assert pod.ref.uid in await pod.runtime.pods()


async def test_starting_twice_does_not_double(pod: Pod) -> None:
    first = await start(pod, *FOREVER)
    spec = await pod.spec(*FOREVER, log_path=None)
    await pod.runtime.prepare(spec)
    assert await pod.runtime.start(spec) == first


async def test_repeating_the_start_of_an_attempt_that_has_ended_does_not_run_it_again(pod: Pod) -> None:
    await start(pod, "sh", "-c", "exit 7")
    ended = await pod.wait()
    spec = await pod.spec("sh", "-c", "exit 7", log_path=None)
    await pod.runtime.prepare(spec)
    assert await pod.runtime.start(spec) == ended


async def test_repeating_the_start_of_an_attempt_whose_machine_died_does_not_run_it_again(
    pod: Pod, bench: SyntheticBench
) -> None:
    await start(pod, *FOREVER)
    await pod.runtime.close()
    await bench.driver.crash(pod.ref.uid, "it died")
    pod.runtime = await bench.restarted()
    spec = await pod.spec(*FOREVER, log_path=None)
    await pod.runtime.prepare(spec)
    await pod.runtime.start(spec)
    state = await pod.wait()
    assert (state.exit.code, state.message) == (137, "the virtual machine stopped: it died")


async def test_machine_that_dies_ends_its_container(pod: Pod, bench: SyntheticBench) -> None:
    await start(pod, *FOREVER)
    await bench.driver.crash(pod.ref.uid, "it died")
    state = await pod.wait()
    assert (state.exit.code, state.reason) == (137, "Error")
    assert state.message == "the virtual machine stopped: it died"


async def test_guest_that_powers_off_under_its_process_is_an_error(pod: Pod, bench: SyntheticBench) -> None:
    await start(pod, *FOREVER)
    await bench.driver.crash(pod.ref.uid, "")
    state = await pod.wait()
    assert (state.exit.code, state.message) == (137, "the guest powered off while the process was running")


async def test_machine_that_is_gone_ends_its_container(pod: Pod, bench: SyntheticBench) -> None:
    await start(pod, *FOREVER)
    await pod.runtime.close()
    await bench.driver.delete(pod.ref.uid)
    pod.runtime = await bench.restarted()
    state = await pod.wait()
    assert (state.exit.code, state.reason) == (137, "ContainerStatusUnknown")


async def test_container_without_a_command_is_the_machine_itself(pod: Pod, bench: SyntheticBench) -> None:
    await start(pod)
    assert [entry.data for entry in await pod.entries()] in ([], [b"synthetic machine: there is no guest"])
    await bench.driver.crash(pod.ref.uid, "")
    state = await pod.wait()
    assert (state.exit.code, state.reason) == (0, "Completed")
    assert await pod.lines() == ["synthetic machine: there is no guest"]


async def test_defaults_of_the_image_are_the_command(pod: Pod, bench: SyntheticBench) -> None:
    bench.registry.publish("registry.test/job:1", Published(b"job", defaults=ImageDefaults(("exit",), ("4",))))
    image = await pod.runtime.pull_image("registry.test/job:1", ())
    await start(pod, image=image)
    assert (await pod.wait()).exit.code == 4


async def test_image_of_another_architecture_is_refused(pod: Pod, bench: SyntheticBench) -> None:
    bench.registry.publish("registry.test/odd:1", Published(b"odd", architecture="s390x"))
    with pytest.raises(errors.InvalidInput, match="linux/s390x") as caught:
        await pod.runtime.pull_image("registry.test/odd:1", ())
    assert caught.value.reason == "ErrImagePull"


async def test_mounts_become_shares(pod: Pod, bench: SyntheticBench, tmp_path: Path) -> None:
    await start(pod, *FOREVER, mounts=(ContainerMount("work", tmp_path, "/scratch", read_only=True),))
    [share] = bench.driver.directory(pod.ref.uid).read_record().shares
    assert (share.tag, Path(share.path), share.read_only) == ("v0", tmp_path, True)


# --- Stopping ----------------------------------------------------------------------------------------------------


async def test_stop_is_graceful_and_may_be_repeated(pod: Pod) -> None:
    await start(pod, *FOREVER)
    await pod.runtime.stop(pod.ref, "main", 30)
    state = await pod.wait()
    assert (state.exit.code, state.exit.signal) == (143, 15)
    await pod.runtime.stop(pod.ref, "main", 30)
    assert await pod.wait() == state


async def test_stop_of_a_machine_without_a_command_powers_it_off(pod: Pod) -> None:
    await start(pod)
    await pod.runtime.stop(pod.ref, "main", 30)
    assert (await pod.wait()).exit.code == 0


async def test_stop_kills_after_its_grace_and_a_shorter_one_shortens_it(tmp_path: Path) -> None:
    bench = SyntheticBench(tmp_path, SyntheticTiming(power_off_s=3600))
    await bench.open()
    pod = Pod(bench, tmp_path)
    await start(pod)
    first = aio.spawn(pod.runtime.stop(pod.ref, "main", 3600), name="first stop")
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await pod.runtime.stop(pod.ref, "main", 0.05)
        await first
    state = await pod.wait()
    assert (state.exit.code, state.exit.signal, state.message) == (137, 9, "")
    await pod.runtime.remove_pod(pod.ref)
    await bench.close()


async def test_cancelled_wait_and_cancelled_stop_leave_a_machine_that_still_can_be_waited_for(pod: Pod) -> None:
    await start(pod)
    waiting = aio.spawn(pod.wait(), name="wait")
    await asyncio.sleep(0)
    await aio.cancel(waiting)
    found = await pod.runtime.find(pod.ref, "main")
    assert found is not None
    assert found.phase is ContainerPhase.RUNNING
    await pod.runtime.stop(pod.ref, "main", 30)
    assert (await pod.wait()).phase is ContainerPhase.EXITED


# --- Attempts and logs -------------------------------------------------------------------------------------------


async def test_logs_of_the_current_and_the_previous_attempt(pod: Pod) -> None:
    for attempt in range(3):
        await start(pod, *ODD, attempt=attempt)
        await pod.runtime.stop(pod.ref, "main", 30)
        assert (await pod.wait()).attempt == attempt
    for attempt in (1, 2):
        [entry] = await pod.entries(attempt=attempt)
        assert entry.stream is OutputStream.STDERR
    with pytest.raises(errors.NotFound):
        await pod.entries(attempt=0)
    await pod.runtime.remove(pod.ref, "main")
    assert len(await pod.entries(attempt=2)) == 1


async def test_log_is_there_as_soon_as_the_container_runs(pod: Pod) -> None:
    await start(pod, *FOREVER)
    assert await pod.entries() == []


async def test_follow_ends_with_the_container(pod: Pod) -> None:
    await start(pod, *ODD)
    following = aio.spawn(pod.entries(follow=True), name="follow")
    await asyncio.sleep(0.05)
    assert not following.done()
    await pod.runtime.stop(pod.ref, "main", 30)
    assert len(await following) == 1


async def test_attach_ends_with_the_process_and_shows_output_from_now_on(pod: Pod) -> None:
    await start(pod, *ODD)
    async for _ in pod.runtime.logs(pod.ref, "main", 0, LogOptions(follow=True)):
        break
    streams = MemoryStreams([b"x"], stdin_open=True)
    attached = aio.spawn(pod.runtime.attach(pod.ref, "main", False, streams), name="attach")
    await asyncio.sleep(0.05)
    await pod.runtime.stop(pod.ref, "main", 30)
    await attached
    assert bytes(streams.out + streams.err) == b""
    with pytest.raises(errors.Conflict):
        await pod.runtime.attach(pod.ref, "main", False, streams)


# --- exec and figures --------------------------------------------------------------------------------------------


async def test_exec_needs_a_running_container(pod: Pod) -> None:
    with pytest.raises(errors.Conflict):
        await pod.exec("true")
    await start(pod, *FOREVER)
    assert [(await pod.exec("exit", str(code))).code for code in (0, 3, 255)] == [0, 3, 255]
    used = await pod.runtime.usage(pod.ref, "main")
    assert used.cpu_ns > 0
    assert used.working_set_bytes > 0
    await pod.runtime.stop(pod.ref, "main", 1)
    with pytest.raises(errors.Conflict):
        await pod.exec("true")
    with pytest.raises(errors.Conflict):
        await pod.runtime.usage(pod.ref, "main")


# --- After a restart of the daemon, and the end ------------------------------------------------------------------


async def test_new_daemon_finds_what_the_old_one_started(pod: Pod, bench: SyntheticBench) -> None:
    started = await start(pod, *FOREVER)
    await pod.runtime.close()
    pod.runtime = await bench.restarted()
    assert await pod.runtime.find(pod.ref, "main") == started
    assert (await pod.exec("exit", "5")).code == 5
    await pod.runtime.stop(pod.ref, "main", 10)
    assert (await pod.wait()).exit.code == 143


async def test_new_daemon_learns_of_an_end_that_came_meanwhile(pod: Pod, bench: SyntheticBench) -> None:
    await start(pod, "sh", "-c", "sleep 0.1; exit 6")
    await pod.runtime.close()
    await asyncio.sleep(0.2)
    pod.runtime = await bench.restarted()
    assert (await pod.wait()).exit.code == 6


async def test_exit_is_on_disk_before_the_machine_goes(
    pod: Pod, bench: SyntheticBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    kill = bench.driver.kill

    async def recorded(uid: str) -> None:
        path = bench.directories.of(uid).container_file("main")
        seen.append(msgspec.json.decode(path.read_bytes(), type=MachineContainer).phase)
        await kill(uid)

    spec = await pod.spec("exit", "3", log_path=None)
    await pod.runtime.prepare(spec)
    monkeypatch.setattr(bench.driver, "kill", recorded)
    await pod.runtime.start(spec)
    await pod.wait()
    assert seen == ["exited"]


async def test_watch_that_fails_is_tried_again(
    pod: Pod, bench: SyntheticBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vzkubelet.pods.machine_session.WATCH_RETRY_S", 0.01)
    wait, faults = bench.driver.wait, [errors.Unavailable("busy"), errors.MachineFault("odd")]

    async def faulty(uid: str) -> object:
        if faults:
            raise faults.pop()
        return await wait(uid)

    spec = await pod.spec("sh", "-c", "sleep 0.1; exit 8", log_path=None)
    await pod.runtime.prepare(spec)
    monkeypatch.setattr(bench.driver, "wait", faulty)
    await pod.runtime.start(spec)
    assert (await pod.wait()).exit.code == 8
    assert not faults


async def test_damaged_state_counts_as_lost_and_the_next_attempt_starts(pod: Pod, bench: SyntheticBench) -> None:
    await start(pod, *FOREVER)
    await pod.runtime.close()
    bench.directories.of(pod.ref.uid).container_file("main").write_bytes(b"{")
    pod.runtime = await bench.restarted()
    assert await pod.runtime.find(pod.ref, "main") is None
    with pytest.raises(errors.NotFound):
        await pod.wait()
    await start(pod, "exit", "2", attempt=1)
    assert (await pod.wait()).exit.code == 2


async def test_removing_a_running_container_ends_it_and_wakes_who_waits(pod: Pod) -> None:
    await start(pod, *FOREVER)
    waiting = aio.spawn(pod.wait(), name="wait")
    await asyncio.sleep(0.05)
    await pod.runtime.remove(pod.ref, "main")
    assert (await waiting).exit.code == 137
    found = await pod.runtime.find(pod.ref, "main")
    assert found is not None
    assert found.phase is ContainerPhase.EXITED


async def test_removing_a_pod_leaves_nothing_and_wakes_who_waits(pod: Pod, bench: SyntheticBench) -> None:
    await start(pod, *FOREVER)
    waiting = aio.spawn(pod.wait(), name="wait", on_crash=lambda _: None)
    await asyncio.sleep(0.05)
    await pod.runtime.remove_pod(pod.ref)
    with pytest.raises(errors.NotFound):
        await waiting
    assert not await bench.leftovers(pod.ref)
    assert pod.ref.uid not in await pod.runtime.pods()
    assert await pod.runtime.find(pod.ref, "main") is None
    await pod.runtime.remove_pod(pod.ref)


async def test_removing_an_unknown_pod_does_nothing(bench: SyntheticBench) -> None:
    await bench.runtime().remove_pod(pod_ref())


@pytest.mark.parametrize("turns", range(0, 60, 4))
async def test_cancelled_start_is_completed_by_the_next(pod: Pod, bench: SyntheticBench, turns: int) -> None:
    spec = await pod.spec(*FOREVER, log_path=None)

    async def begin() -> None:
        await pod.runtime.prepare(spec)
        await pod.runtime.start(spec)

    starting = aio.spawn(begin(), name="start")
    for _ in range(turns):
        await asyncio.sleep(0.001)
    await aio.cancel(starting)
    pod.runtime = await bench.restarted()
    await pod.runtime.prepare(spec)
    state = await pod.runtime.start(spec)
    assert state.phase is ContainerPhase.RUNNING
    assert list(await bench.driver.machines()) == [pod.ref.uid]
