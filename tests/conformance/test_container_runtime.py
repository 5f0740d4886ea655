"""The obligations of `ports.ContainerRuntime`, checked on every implementation.

A further one joins with a fixture ``<name>_bench`` that gives a `containers.Bench`, and its name in `BENCHES`.
"""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.conformance.containers import Bench, Pod, pod_ref
from tests.support.memory_streams import MemoryStreams
from vzkubelet import aio, errors
from vzkubelet.ports import ContainerMount, ContainerPhase, LogOptions, OutputStream, TerminalSize

BENCHES = ["sidecar"]
FOLLOW = LogOptions(follow=True)
SLEEP = ("sh", "-c", "trap 'exit 0' TERM; echo ready; while :; do sleep 0.05; done")
STUBBORN = ("sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done")


@pytest.fixture(params=BENCHES)
def bench(request: pytest.FixtureRequest) -> Bench:
    found: Bench = request.getfixturevalue(f"{request.param}_bench")
    return found


@pytest_asyncio.fixture
async def pod(bench: Bench, tmp_path: Path) -> AsyncIterator[Pod]:
    made = Pod(bench, tmp_path / "logs")
    yield made
    await made.runtime.remove_pod(made.ref)
    assert not await bench.leftovers(made.ref)


async def ready(pod: Pod, attempt: int = 0) -> None:
    """Until the script has said so: its trap is set then."""
    async with asyncio.timeout(30):
        async for entry in pod.runtime.logs(pod.ref, "main", attempt, FOLLOW):
            if entry.data == b"ready":
                return


# --- Life --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 1, 3, 137, 255])
async def test_exit_code(pod: Pod, code: int) -> None:
    before = time.time()
    state = await pod.run(f"exit {code}")
    assert (state.phase, state.exit.code) == (ContainerPhase.EXITED, code)
    assert state.reason == ("Completed" if code == 0 else "Error")
    assert before - 1 <= state.started_at <= state.finished_at <= time.time() + 1
    assert "://" in state.id


async def test_command_and_args_environment_and_directory(pod: Pod) -> None:
    script = 'echo "$0 $1"; echo "$A|$B"; pwd; hostname'
    await pod.start(
        "sh",
        "-c",
        script,
        "zero",
        args=("one",),
        env=(("A", "1"), ("B", "two words = $x \"'")),
        working_dir="/tmp",
    )
    await pod.wait()
    assert await pod.lines() == ["zero one", "1|two words = $x \"'", "/tmp", pod.ref.name]


async def test_user(pod: Pod) -> None:
    await pod.run("id -u; id -g", user="1000:2000")
    assert await pod.lines() == ["1000", "2000"]


async def test_starting_twice_does_not_double(pod: Pod) -> None:
    first = await pod.start(*SLEEP)
    again = await pod.runtime.start(await pod.spec(*SLEEP))
    assert (again.id, again.started_at) == (first.id, first.started_at)
    assert again.phase is ContainerPhase.RUNNING


async def test_starting_an_ended_attempt_tells_its_end(pod: Pod) -> None:
    await pod.run("exit 7")
    again = await pod.runtime.start(await pod.spec("sh", "-c", "exit 7"))
    assert (again.phase, again.exit.code) == (ContainerPhase.EXITED, 7)


async def test_container_that_was_never_started_is_not_found(pod: Pod) -> None:
    assert await pod.runtime.find(pod.ref, "main") is None
    with pytest.raises(errors.NotFound):
        await pod.runtime.wait(pod.ref, "main")
    with pytest.raises(errors.NotFound):
        await pod.entries()
    await pod.runtime.remove(pod.ref, "main")


async def test_prepare_may_be_repeated_and_starts_nothing(pod: Pod) -> None:
    spec = await pod.spec(*SLEEP)
    assert await pod.runtime.prepare(spec) == await pod.runtime.prepare(spec)
    assert await pod.runtime.find(pod.ref, "main") is None
    assert pod.ref.uid in await pod.runtime.pods()


async def test_program_that_does_not_exist(pod: Pod) -> None:
    with pytest.raises(errors.NotFound, match="/no/such/program") as caught:
        await pod.start("/no/such/program")
    assert caught.value.reason == "StartError"


async def test_program_that_is_none(pod: Pod) -> None:
    with pytest.raises(errors.Forbidden, match="permission denied") as caught:
        await pod.start("/etc/passwd")
    assert caught.value.reason == "StartError"


# --- Stopping ----------------------------------------------------------------------------------------------------


async def test_stop_is_graceful(pod: Pod) -> None:
    await pod.start(*SLEEP)
    await ready(pod)
    await pod.runtime.stop(pod.ref, "main", 30)
    state = await pod.wait()
    assert (state.phase, state.exit.code) == (ContainerPhase.EXITED, 0)
    await pod.runtime.stop(pod.ref, "main", 30)


async def test_stop_kills_after_its_grace(pod: Pod) -> None:
    await pod.start(*STUBBORN)
    await ready(pod)
    began = time.monotonic()
    await pod.runtime.stop(pod.ref, "main", 1)
    assert 1 <= time.monotonic() - began < 10
    assert (await pod.wait()).exit.code == 137


async def test_shorter_grace_shortens_a_stop_that_runs(pod: Pod) -> None:
    await pod.start(*STUBBORN)
    await ready(pod)
    first = aio.spawn(pod.runtime.stop(pod.ref, "main", 600), name="first stop")
    await asyncio.sleep(0.2)
    async with asyncio.timeout(30):
        await pod.runtime.stop(pod.ref, "main", 0.5)
        await first
    assert (await pod.wait()).exit.code == 137


async def test_wait_that_began_before_the_end_sees_it(pod: Pod) -> None:
    await pod.start(*SLEEP)
    waiting = aio.spawn(pod.wait(), name="wait")
    await ready(pod)
    await pod.runtime.stop(pod.ref, "main", 30)
    assert (await waiting).exit.code == 0


async def test_cancelled_wait_leaves_the_container_alone(pod: Pod) -> None:
    await pod.start(*SLEEP)
    waiting = aio.spawn(pod.wait(), name="wait")
    await ready(pod)
    await aio.cancel(waiting)
    found = await pod.runtime.find(pod.ref, "main")
    assert found is not None
    assert found.phase is ContainerPhase.RUNNING


# --- Attempts and logs -------------------------------------------------------------------------------------------


async def test_logs_of_the_current_and_the_previous_attempt(pod: Pod) -> None:
    for attempt in range(3):
        await pod.run(f"echo attempt {attempt}", attempt=attempt)
    newest = await pod.runtime.find(pod.ref, "main")
    assert newest is not None
    assert newest.attempt == 2
    assert await pod.lines(attempt=2) == ["attempt 2"]
    assert await pod.lines(attempt=1) == ["attempt 1"]
    await pod.runtime.remove(pod.ref, "main")
    assert await pod.lines(attempt=2) == ["attempt 2"]
    assert await pod.lines(attempt=1) == ["attempt 1"]


async def test_log_entries(pod: Pod) -> None:
    before = time.time_ns()
    await pod.run("echo out; echo err >&2; echo; printf 'no newline'")
    entries = await pod.entries()
    out = [(e.data, e.partial) for e in entries if e.stream is OutputStream.STDOUT]
    assert out == [(b"out", False), (b"", False), (b"no newline", True)]
    assert [e.data for e in entries if e.stream is OutputStream.STDERR] == [b"err"]
    assert all(before - 10**9 <= e.time_ns <= time.time_ns() + 10**9 for e in entries)


async def test_long_line_comes_whole(pod: Pod) -> None:
    await pod.run("head -c 100000 /dev/zero | tr '\\0' x; echo; echo next")
    entries = await pod.entries()
    assert b"".join(e.data for e in entries[:-1]) == b"x" * 100000
    assert [e.partial for e in entries[-2:]] == [False, False]
    assert entries[-1].data == b"next"


async def test_tail_and_since(pod: Pod) -> None:
    await pod.run("for i in 1 2 3 4 5; do echo $i; done; sleep 0.3; echo 6")
    assert await pod.lines(tail_lines=2) == ["5", "6"]
    assert await pod.lines(tail_lines=0) == []
    assert await pod.lines(tail_lines=100) == ["1", "2", "3", "4", "5", "6"]
    entries = await pod.entries()
    assert await pod.lines(since_ns=entries[-1].time_ns) == ["6"]
    assert await pod.lines(since_ns=entries[-1].time_ns + 1) == []


async def test_follow_ends_with_the_container_and_misses_nothing(pod: Pod) -> None:
    count = 2000
    await pod.start("sh", "-c", f"i=0; while [ $i -lt {count} ]; do echo $i; i=$((i+1)); done; sleep 0.5; echo end")
    lines = await pod.lines(follow=True)
    assert lines == [*map(str, range(count)), "end"]


async def test_abandoned_follow_harms_nobody(pod: Pod) -> None:
    await pod.start(*SLEEP)
    await ready(pod)
    assert await pod.lines() == ["ready"]


# --- Volumes -----------------------------------------------------------------------------------------------------


async def test_mounts_are_shared_and_read_only_is_honoured(pod: Pod, tmp_path: Path) -> None:
    work, settings = tmp_path / "work", tmp_path / "settings"
    for directory in (work, settings):
        directory.mkdir()
    work.chmod(0o777)
    (settings / "key").write_text("value")
    mounts = (
        ContainerMount("work", work, "/scratch"),
        ContainerMount("settings", settings, "/etc/settings", read_only=True),
    )
    state = await pod.run("cat /etc/settings/key > /scratch/copy; echo x > /etc/settings/new || exit 9", mounts=mounts)
    assert state.exit.code == 9
    assert (work / "copy").read_text() == "value"
    assert not (settings / "new").exists()


# --- exec --------------------------------------------------------------------------------------------------------


async def test_exec_exit_codes_and_streams(pod: Pod) -> None:
    await pod.start(*SLEEP)
    for code in (0, 1, 3, 137, 255):
        assert (await pod.exec("sh", "-c", f"exit {code}")).code == code
    streams = MemoryStreams()
    await pod.exec("sh", "-c", "echo out; echo err >&2", streams=streams)
    assert (bytes(streams.out), bytes(streams.err)) == (b"out\n", b"err\n")


async def test_exec_has_the_containers_environment_directory_and_user(pod: Pod) -> None:
    await pod.start(*SLEEP, env=(("COLOUR", "blue"),), working_dir="/tmp", user="1000")
    assert await pod.output("sh", "-c", "echo $COLOUR; pwd; id -u") == "blue\n/tmp\n1000\n"


async def test_exec_of_an_argument_with_every_character(pod: Pod) -> None:
    await pod.start(*SLEEP)
    odd = "a b\t$HOME `id` \"q\" 'q' \\ * ü é\n-n"
    assert await pod.output("printf", "%s", odd) == odd


async def test_stdin_of_exec_ends_while_its_output_goes_on(pod: Pod) -> None:
    await pod.start(*SLEEP)
    streams = MemoryStreams([b"one\n", b"two\n"])
    status = await pod.exec("sh", "-c", "cat; sleep 0.3; echo after; exit 5", streams=streams)
    assert (bytes(streams.out), status.code) == (b"one\ntwo\nafter\n", 5)


async def test_fifty_megabytes_into_an_exec(pod: Pod) -> None:
    await pod.start(*SLEEP)
    chunk = bytes(range(256)) * 256
    count = 50_000_000 // len(chunk)
    streams = MemoryStreams([chunk] * count)
    await pod.exec("sha256sum", streams=streams)
    assert bytes(streams.out).split()[0].decode() == hashlib.sha256(chunk * count).hexdigest()


async def test_fifty_megabytes_out_of_an_exec(pod: Pod) -> None:
    await pod.start(*SLEEP)
    streams = MemoryStreams(keep=False)
    await pod.exec("head", "-c", "50000000", "/dev/zero", streams=streams)
    assert streams.out_bytes == 50_000_000
    assert streams.out_digest.hexdigest() == hashlib.sha256(bytes(50_000_000)).hexdigest()


async def test_input_waits_for_a_reader_that_does_not_read(pod: Pod) -> None:
    await pod.start(*SLEEP)
    streams = MemoryStreams([bytes(65536)] * 800)
    await pod.exec("sleep", "1", streams=streams)
    assert streams.stdin_taken_bytes < 20_000_000


async def test_command_waits_for_a_reader_that_does_not_read(pod: Pod) -> None:
    await pod.start(*SLEEP)

    class Stuck(MemoryStreams):
        async def write_stdout(self, data: bytes) -> None:
            await super().write_stdout(data)
            await asyncio.Event().wait()

    streams = Stuck()
    script = "while head -c 1000000 /dev/zero; do echo x >> /tmp/megabytes; done"
    session = aio.spawn(pod.exec("sh", "-c", script, streams=streams), name="exec")
    async with asyncio.timeout(30):
        await streams.wrote.wait()
    await asyncio.sleep(1)
    assert int(await pod.output("sh", "-c", "touch /tmp/megabytes; wc -l < /tmp/megabytes")) < 20
    await aio.cancel(session)


async def test_output_waits_for_a_slow_reader(pod: Pod) -> None:
    await pod.start(*SLEEP)
    streams = MemoryStreams(stdout_bytes_per_s=4_000_000, keep=False)
    await pod.exec("head", "-c", "8000000", "/dev/zero", streams=streams)
    assert streams.out_bytes == 8_000_000


async def test_exec_with_a_terminal_knows_its_size(pod: Pod) -> None:
    await pod.start(*SLEEP)
    sizes = [TerminalSize(columns=132, rows=43)]
    streams = MemoryStreams([], stdin_open=True, sizes=sizes)
    script = "test -t 0 && test -t 1 && while [ \"$(stty size 2>&-)\" != '43 132' ]; do sleep 0.05; done; echo sized"
    assert (await pod.exec("sh", "-c", script, streams=streams, tty=True)).code == 0
    assert bytes(streams.out) == b"sized\r\n"


async def test_ctrl_p_reaches_a_terminal(pod: Pod) -> None:
    await pod.start(*SLEEP)
    streams = MemoryStreams([b"a\x10b\n"], stdin_open=True, sizes=[TerminalSize(80, 24)])
    await pod.exec("sh", "-c", 'read line; printf %s "$line" | od -An -tx1', streams=streams, tty=True)
    assert b"61 10 62" in streams.out


async def test_exec_ends_with_its_command_though_a_child_holds_the_output(pod: Pod) -> None:
    await pod.start(*SLEEP)
    began = time.monotonic()
    streams = MemoryStreams()
    assert (await pod.exec("sh", "-c", "sleep 600 & echo started; exit 4", streams=streams)).code == 4
    assert bytes(streams.out) == b"started\n"
    assert time.monotonic() - began < 30


async def test_exec_of_a_missing_program_fails_and_says_so(pod: Pod) -> None:
    await pod.start(*SLEEP)
    streams = MemoryStreams()
    status = await pod.exec("no-such-program", streams=streams)
    assert status.code in {126, 127}
    assert b"no-such-program" in streams.out + streams.err


async def test_exec_needs_a_running_container(pod: Pod) -> None:
    with pytest.raises((errors.NotFound, errors.Conflict)):
        await pod.exec("true")
    await pod.run("true")
    with pytest.raises((errors.NotFound, errors.Conflict)):
        await pod.exec("true")


async def test_cancelled_exec_leaves_the_container_alone(pod: Pod) -> None:
    await pod.start(*SLEEP)
    streams = MemoryStreams()
    session = aio.spawn(pod.exec("sh", "-c", "echo begun; sleep 600", streams=streams), name="exec")
    async with asyncio.timeout(30):
        await streams.until_stdout(b"begun")
    await aio.cancel(session)
    assert await pod.output("echo", "alive") == "alive\n"


# --- attach ------------------------------------------------------------------------------------------------------


async def test_attach_sees_output_from_now_on_and_ends_with_the_process(pod: Pod) -> None:
    await pod.start(
        "sh", "-c", "echo before; while read line; do echo got $line; [ $line = end ] && exit; done", stdin=True
    )
    async with asyncio.timeout(30):
        async for entry in pod.runtime.logs(pod.ref, "main", 0, FOLLOW):
            assert entry.data == b"before"
            break
    streams = MemoryStreams([b"one\n", b"end\n"], stdin_open=True)
    async with asyncio.timeout(30):
        await pod.runtime.attach(pod.ref, "main", False, streams)
    assert bytes(streams.out) == b"got one\ngot end\n"
    assert (await pod.wait()).exit.code == 0


async def test_attach_needs_a_running_container(pod: Pod) -> None:
    await pod.run("true")
    with pytest.raises((errors.NotFound, errors.Conflict)):
        await pod.runtime.attach(pod.ref, "main", False, MemoryStreams())


# --- Figures -----------------------------------------------------------------------------------------------------


async def test_usage_is_never_zero(pod: Pod) -> None:
    await pod.start("sh", "-c", "i=0; while :; do i=$((i+1)); [ $((i % 5000)) = 0 ] && sleep 0.05; done")
    used = None
    async with asyncio.timeout(30):
        while used is None:
            try:
                used = await pod.runtime.usage(pod.ref, "main")
            except errors.Unavailable:
                await asyncio.sleep(0.1)
    assert used.cpu_ns > 0
    assert used.working_set_bytes > 0
    assert abs(used.sampled_at - time.time()) < 10


# --- After a restart of the daemon, and the end ------------------------------------------------------------------


async def test_new_daemon_finds_what_the_old_one_started(pod: Pod, bench: Bench) -> None:
    started = await pod.start(*SLEEP)
    await ready(pod)
    await pod.runtime.close()
    pod.runtime = bench.runtime()
    found = await pod.runtime.find(pod.ref, "main")
    assert found is not None
    assert (found.id, found.attempt, found.started_at) == (started.id, 0, started.started_at)
    assert found.phase is ContainerPhase.RUNNING
    assert found.image_id == started.image_id
    assert await pod.output("echo", "hello") == "hello\n"
    await pod.runtime.stop(pod.ref, "main", 10)
    assert (await pod.wait()).exit.code == 0


async def test_new_daemon_learns_of_an_end_that_came_meanwhile(pod: Pod, bench: Bench) -> None:
    await pod.start("sh", "-c", "sleep 0.5; exit 6")
    await pod.runtime.close()
    await asyncio.sleep(1)
    pod.runtime = bench.runtime()
    assert (await pod.wait()).exit.code == 6


async def test_removing_a_pod_leaves_nothing(pod: Pod, bench: Bench) -> None:
    await pod.start(*SLEEP)
    await pod.runtime.remove_pod(pod.ref)
    assert not await bench.leftovers(pod.ref)
    assert pod.ref.uid not in await pod.runtime.pods()
    assert await pod.runtime.find(pod.ref, "main") is None
    await pod.runtime.remove_pod(pod.ref)


async def test_removing_an_unknown_pod_does_nothing(bench: Bench) -> None:
    await bench.runtime().remove_pod(pod_ref())


@pytest.mark.parametrize("moment_s", [0.0, 0.01, 0.05, 0.1, 0.2])
async def test_cancelled_start_is_completed_by_the_next_or_removed(pod: Pod, bench: Bench, moment_s: float) -> None:
    spec = await pod.spec(*SLEEP)

    async def start() -> None:
        await pod.runtime.prepare(spec)
        await pod.runtime.start(spec)

    starting = aio.spawn(start(), name="start")
    await asyncio.sleep(moment_s)
    await aio.cancel(starting)
    await pod.runtime.prepare(spec)
    state = await pod.runtime.start(spec)
    assert state.phase is ContainerPhase.RUNNING
