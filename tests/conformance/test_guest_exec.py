"""Commands beside the container's process in a real system: streams, terminals, exit codes, ends."""

import asyncio
import hashlib
import os
import resource
import time
from collections.abc import AsyncIterator

import pytest

from tests.support.guest_fixtures import connect, fresh_id
from tests.support.guest_streams import MemoryStreams
from tests.support.ssh_systems import SshSystem
from vzkubelet.aio import cancel, spawn
from vzkubelet.errors import Error, Forbidden, NotFound, Unavailable
from vzkubelet.guests.guest import SshGuest
from vzkubelet.ports import ExecRequest, ExitStatus, GuestProcess, TerminalSize

PATH = ("PATH", "/usr/local/bin:/usr/bin:/bin")
ODD = ("", "a b", "'", '"', "\\", "\n", "line\nline\n", "$HOME", "`id`", "--", "ä€😀", "a=b")


def beside(**fields: object) -> GuestProcess:
    return GuestProcess(fresh_id(), ("unused",), **{"env": (PATH,), **fields})  # type: ignore[arg-type]


def request(*argv: str, tty: bool = False) -> ExecRequest:
    return ExecRequest(argv, tty)


async def run(guest: SshGuest, *argv: str, **fields: object) -> MemoryStreams:
    streams = MemoryStreams()
    assert await guest.exec(request(*argv), beside(**fields), streams) == ExitStatus(0), streams.stderr
    return streams


async def settled(condition: object, timeout_s: float = 5.0) -> None:
    """Wait until the callable is true."""
    deadline = time.monotonic() + timeout_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it did not come true"
        await asyncio.sleep(0.05)


# --- What a command gets --------------------------------------------------------------------------------------------


async def test_arguments_environment_directory_and_user(ssh_guest: SshGuest) -> None:
    streams = await run(ssh_guest, "sh", "-c", 'printf "%s\\0" "$@"', *ODD)
    assert bytes(streams.stdout).split(b"\0")[:-1] == [text.encode() for text in ODD[1:]]
    env = (PATH, ("data-1", "two\nlines"), ("Q", "it's"))
    streams = await run(ssh_guest, "cat", "/proc/self/environ", env=env)
    assert sorted(bytes(streams.stdout).split(b"\0")[:-1]) == sorted(f"{k}={v}".encode() for k, v in env)
    assert (await run(ssh_guest, "pwd", working_dir="/usr")).stdout == b"/usr\n"
    assert (await run(ssh_guest, "id", "-u", user="runner")).stdout == b"1000\n"
    assert (await run(ssh_guest, "id", "-u", user="4321:77")).stdout == b"4321\n"


async def test_without_a_process_it_is_the_login_users_own(ssh_guest: SshGuest) -> None:
    streams = MemoryStreams()
    assert await ssh_guest.exec(request("sh", "-c", 'echo $USER; [ "$PWD" = "$HOME" ]'), None, streams) == ExitStatus(0)
    assert streams.stdout == b"root\n"


@pytest.mark.parametrize("tty", [False, True])
@pytest.mark.parametrize(
    ("program", "kind", "text"),
    [
        ("no-such", NotFound, 'exec: "no-such": executable file not found in $PATH'),
        ("/no/such", NotFound, 'exec: "/no/such": stat /no/such: no such file or directory'),
        ("/etc/passwd", Forbidden, 'exec: "/etc/passwd": permission denied'),
    ],
)
async def test_what_cannot_be_executed_is_an_error_and_no_output(
    ssh_guest: SshGuest, program: str, kind: type[Error], text: str, tty: bool
) -> None:
    for process in (beside(), None, beside(user="runner")):
        streams = MemoryStreams()
        with pytest.raises(kind) as caught:
            await ssh_guest.exec(request(program, tty=tty), process, streams)
        assert caught.value.message == text
        assert streams.stdout == streams.stderr == b""


# --- Streams --------------------------------------------------------------------------------------------------------


async def test_stdin_ends_with_its_chunks_and_outputs_stay_apart(ssh_guest: SshGuest) -> None:
    streams = MemoryStreams([b"one\n", b"two\n"])
    status = await ssh_guest.exec(request("sh", "-c", "cat; echo err >&2; exit 3"), beside(), streams)
    assert (status, bytes(streams.stdout), bytes(streams.stderr)) == (ExitStatus(3), b"one\ntwo\n", b"err\n")


async def test_without_stdin_the_command_reads_nothing(ssh_guest: SshGuest) -> None:
    assert (await run(ssh_guest, "cat")).stdout == b""


async def test_fifty_megabytes_in_and_out_are_exact(ssh_guest: SshGuest) -> None:
    data = os.urandom(50_000_000)
    chunks = [data[at : at + 65_536] for at in range(0, len(data), 65_536)]
    streams = MemoryStreams(chunks)
    assert await ssh_guest.exec(request("sha256sum"), beside(), streams) == ExitStatus(0)
    assert bytes(streams.stdout).split()[0].decode() == hashlib.sha256(data).hexdigest()
    echo = MemoryStreams(chunks)
    assert await ssh_guest.exec(request("cat"), beside(), echo) == ExitStatus(0)
    assert bytes(echo.stdout) == data


async def test_a_slow_reader_loses_nothing_and_costs_no_memory(ssh_guest: SshGuest) -> None:
    streams = MemoryStreams(bytes_per_s=4_000_000)
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    status = await ssh_guest.exec(request("head", "-c", "12000000", "/dev/zero"), beside(), streams)
    assert status == ExitStatus(0)
    assert len(streams.stdout) == 12_000_000
    # What the test itself keeps, the channel's window, and the allocator's slack.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 12_000 + 24_000


async def test_a_command_that_does_not_read_holds_its_writer_back(ssh_guest: SshGuest) -> None:
    taken = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        while True:
            taken += 65_536
            yield b"x" * 65_536

    running = spawn(ssh_guest.exec(request("sleep", "60"), beside(), MemoryStreams(endless())), name="exec")
    await asyncio.sleep(1.0)
    held = taken
    await asyncio.sleep(0.5)
    assert taken == held < 8 * 1024 * 1024
    await cancel(running)


async def test_a_command_that_ends_early_ends_the_session_though_input_goes_on(ssh_guest: SshGuest) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 65_536
            await asyncio.sleep(0)

    streams = MemoryStreams(endless())
    assert await ssh_guest.exec(request("head", "-c", "5"), beside(), streams) == ExitStatus(0)
    assert streams.stdout == b"xxxxx"


# --- Ends -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 1, 3, 126, 127, 137, 255])
async def test_exit_codes(ssh_guest: SshGuest, code: int) -> None:
    assert (await ssh_guest.exec(request("sh", "-c", f"exit {code}"), beside(), MemoryStreams())).code == code


@pytest.mark.parametrize("number", [9, 15])
async def test_death_by_signal_is_told(ssh_guest: SshGuest, number: int) -> None:
    status = await ssh_guest.exec(request("sh", "-c", f"kill -{number} $$"), beside(), MemoryStreams())
    assert status == ExitStatus(128 + number, number)


async def test_children_that_hold_the_output_do_not_hold_the_session(ssh_guest: SshGuest) -> None:
    begun = time.monotonic()
    streams = MemoryStreams()
    status = await ssh_guest.exec(request("sh", "-c", "sleep 60 & echo words; exit 1"), beside(), streams)
    assert status == ExitStatus(1)
    assert streams.stdout == b"words\n"
    assert time.monotonic() - begun < 3


async def test_children_that_write_for_ever_do_not_hold_the_session(ssh_guest: SshGuest) -> None:
    begun = time.monotonic()
    flood = "(timeout 20 yes) & sleep 0.2; exit 2"
    assert await ssh_guest.exec(request("sh", "-c", flood), beside(), MemoryStreams()) == ExitStatus(2)
    assert time.monotonic() - begun < 10


@pytest.mark.parametrize("tty", [False, True])
async def test_a_cancelled_command_does_not_linger(ssh_system: SshSystem, ssh_guest: SshGuest, tty: bool) -> None:
    async def silence() -> AsyncIterator[bytes]:
        await asyncio.sleep(3600)
        yield b""

    mark = f"3600.{int(tty)}5"
    for argv, known in ((("sh", "-c", f"trap '' HUP TERM; sleep {mark}"), mark), (("cat", "-"), "cat -")):
        process = beside()
        running = spawn(ssh_guest.exec(request(*argv, tty=tty), process, MemoryStreams(silence())), name="exec")
        await settled(lambda known=known: any(known in line for line in ssh_system.processes()))
        await cancel(running)
        await settled(lambda known=known: not any(known in line for line in ssh_system.processes()))


async def test_a_command_that_is_cancelled_before_its_start_is_known_does_not_linger(
    ssh_system: SshSystem, ssh_guest: SshGuest
) -> None:
    mark = "3601.5"
    for moment in range(12):
        command = request("sh", "-c", f"trap '' HUP TERM; sleep {mark}")
        running = spawn(ssh_guest.exec(command, beside(), MemoryStreams()), name="exec")
        await asyncio.sleep(0.005 * moment)
        await cancel(running)
    await settled(lambda: not any(mark in line for line in ssh_system.processes()))


async def test_a_peer_that_leaves_ends_the_command(ssh_system: SshSystem, ssh_guest: SshGuest) -> None:
    class Gone(MemoryStreams):
        async def write_stdout(self, data: bytes) -> None:
            raise Unavailable("the client went away")

    with pytest.raises(Unavailable, match="went away"):
        await ssh_guest.exec(request("sh", "-c", "echo; sleep 3611"), beside(), Gone())
    await settled(lambda: not any("sleep 3611" in line for line in ssh_system.processes()))


async def test_a_lost_connection_ends_a_command_clearly_and_the_next_one_works(
    ssh_system: SshSystem, ssh_guest: SshGuest
) -> None:
    streams = MemoryStreams()
    running = spawn(
        ssh_guest.exec(request("sh", "-c", "echo up; sleep 60"), beside(), streams),
        name="exec",
        on_crash=lambda _: None,
    )
    await streams.until(b"up\n")
    ssh_system.cut_connections()
    with pytest.raises(Unavailable, match="lost"):
        await running
    assert (await run(ssh_guest, "echo", "again")).stdout == b"again\n"


async def test_more_commands_at_once_than_a_server_allows(ssh_guest: SshGuest) -> None:
    results = await asyncio.gather(*(run(ssh_guest, "sh", "-c", f"sleep 0.3; echo {n}") for n in range(40)))
    assert [bytes(result.stdout) for result in results] == [f"{n}\n".encode() for n in range(40)]


# --- Terminals ------------------------------------------------------------------------------------------------------


async def test_a_terminal_has_its_size_and_follows_it(ssh_guest: SshGuest) -> None:
    resized, typed = asyncio.Event(), asyncio.Event()

    async def sizes() -> AsyncIterator[TerminalSize]:
        yield TerminalSize(100, 40)
        await resized.wait()
        yield TerminalSize(132, 50)
        await asyncio.sleep(3600)

    async def keys() -> AsyncIterator[bytes]:
        yield b"stty size; echo first-$TERM\n"
        await typed.wait()
        yield b"stty size; echo second-$((40 + 2))\nexit 9\n"
        await asyncio.sleep(3600)

    streams = MemoryStreams(keys(), sizes())
    running = spawn(ssh_guest.exec(request("sh", tty=True), beside(user="runner"), streams), name="exec")
    await streams.until(b"first-xterm")
    resized.set()
    await asyncio.sleep(0.2)  # nothing tells when the size has arrived
    typed.set()
    assert await running == ExitStatus(9)
    assert b"40 100" in streams.stdout
    assert b"50 132" in streams.stdout
    assert b"second-42" in streams.stdout
    assert streams.stderr == b""


async def test_a_terminal_turns_keys_into_signals(ssh_guest: SshGuest) -> None:
    ready = asyncio.Event()

    async def keys() -> AsyncIterator[bytes]:
        await ready.wait()
        yield b"\x03"
        await asyncio.sleep(3600)

    streams = MemoryStreams(keys())
    script = "trap 'echo interrupted; exit 5' INT; echo ready; while :; do sleep 0.1; done"
    running = spawn(ssh_guest.exec(request("sh", "-c", script, tty=True), beside(), streams), name="exec")
    await streams.until(b"ready")
    ready.set()
    assert await running == ExitStatus(5)
    assert b"interrupted" in streams.stdout


async def test_secrets_of_a_command_are_not_in_the_process_list(ssh_system: SshSystem) -> None:
    guest = await connect(ssh_system)
    try:
        process = beside(env=(PATH, ("TOKEN", "hunter3")), user="runner")
        for tty in (False, True):
            running = spawn(guest.exec(request("sleep", "3622", tty=tty), process, MemoryStreams()), name="exec")
            await settled(lambda: any(line == "sleep 3622" for line in ssh_system.processes()))
            assert not [line for line in ssh_system.processes() if "hunter3" in line]
            await cancel(running)
            await settled(lambda: not any("sleep 3622" in line for line in ssh_system.processes()))
    finally:
        await guest.close()
