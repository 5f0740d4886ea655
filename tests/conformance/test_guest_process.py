"""The container's process in a real system: what it gets, what becomes of its output, and what ends it."""

import asyncio
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support import ssh_systems
from tests.support.guest_fixtures import connect, fresh_id
from tests.support.guest_streams import MemoryLog
from tests.support.ssh_systems import SshSystem
from vzkubelet.aio import cancel, spawn
from vzkubelet.errors import Error, Forbidden, InvalidInput, NotFound, Unavailable
from vzkubelet.guests.guest import SshGuest
from vzkubelet.guests.ssh import ConnectPolicy, Login
from vzkubelet.ports import ExitStatus, GuestProcess

PATH = ("PATH", "/usr/local/bin:/usr/bin:/bin")

ODD = (
    "",
    " ",
    "a b",
    "'",
    "''",
    '"',
    "\\",
    "\\n",
    "\n",
    "line\nline\n",
    "$HOME",
    "`id`",
    "*",
    "~",
    "!x",
    "-n",
    "--",
    "ä€😀",
    "\t",
    "a=b",
    "\x01\x7f",
)


def process(*argv: str, **fields: object) -> GuestProcess:
    return GuestProcess(fresh_id(), argv, **{"env": (PATH,), **fields})  # type: ignore[arg-type]


async def output_of(guest: SshGuest, started: GuestProcess) -> MemoryLog:
    await guest.start(started)
    log = MemoryLog()
    assert await guest.follow(started.id, log) == ExitStatus(0), log.stderr
    return log


# --- What a process gets --------------------------------------------------------------------------------------------


async def test_arguments_arrive_byte_for_byte(ssh_guest: SshGuest) -> None:
    log = await output_of(ssh_guest, process("sh", "-c", 'printf "%s\\0" "$0" "$@"', *ODD))
    assert log.stdout.split(b"\0")[:-1] == [text.encode() for text in ODD]


async def test_the_program_sees_the_name_it_was_given(ssh_guest: SshGuest) -> None:
    log = await output_of(ssh_guest, process("sh", "-c", "cat /proc/$$/cmdline; :"))
    assert log.stdout.split(b"\0")[0] == b"sh"


async def test_the_environment_is_exactly_the_given_one(ssh_guest: SshGuest) -> None:
    env = (PATH, *((f"V{number}", value) for number, value in enumerate(ODD)), ("data-1", "value-1"), ("-x.y", "1"))
    log = await output_of(ssh_guest, process("cat", "/proc/self/environ", env=env))
    assert sorted(log.stdout.split(b"\0")[:-1]) == sorted(f"{name}={value}".encode() for name, value in env)


def _signals(status: bytes) -> list[int]:
    """The masks of blocked and of ignored signals in a /proc/PID/status."""
    lines = sorted(line for line in status.splitlines() if line.startswith((b"SigBlk", b"SigIgn")))
    return [int(line.split(b"\t")[1], 16) for line in lines]


async def test_signals_and_descriptors_are_those_of_a_fresh_process(ssh_guest: SshGuest) -> None:
    look = "grep -E 'Sig(Blk|Ign)' /proc/self/status; umask"
    log = await output_of(ssh_guest, process("sh", "-c", look))
    # What this test was started with (by make, nohup, a CI) reaches the SSH server and cannot be undone in a shell.
    inherited = _signals(Path("/proc/self/status").read_bytes())
    assert [had & ~before for had, before in zip(_signals(log.stdout), inherited, strict=True)] == [0, 0]
    assert b"0022" in log.stdout.split()
    log = await output_of(ssh_guest, process("ls", "-1", "/proc/self/fd"))
    assert log.stdout.split() == [b"0", b"1", b"2", b"3"], "the last one is the directory that ls reads"


async def test_the_working_directory_is_made_and_entered(ssh_guest: SshGuest) -> None:
    where = f"/run/made {fresh_id()}/deep"
    log = await output_of(ssh_guest, process("pwd", working_dir=where))
    assert log.stdout.decode() == f"{where}\n"
    assert (await output_of(ssh_guest, process("pwd"))).stdout == b"/\n"


@pytest.mark.parametrize(
    ("user", "uid", "gid", "groups"),
    [
        ("runner", 1000, 1000, {1000, 2000}),
        ("1000", 1000, 1000, {1000, 2000}),
        ("runner:video", 1000, 44, set()),
        ("4321", 4321, 0, set()),
        ("4321:8765", 4321, 8765, set()),
        ("root", 0, 0, {0}),
        ("", 0, 0, {0}),
    ],
)
async def test_the_user_is_switched_as_runtimes_do(
    ssh_guest: SshGuest, user: str, uid: int, gid: int, groups: set[int]
) -> None:
    look = "grep -E '^(Uid|Gid|Groups)' /proc/self/status; echo again >/dev/stderr"
    log = await output_of(ssh_guest, process("sh", "-c", look, user=user))
    found = {line.split(b":")[0]: [int(number) for number in line.split()[1:]] for line in log.stdout.splitlines()}
    assert found[b"Uid"] == [uid] * 4
    assert found[b"Gid"] == [gid] * 4
    assert set(found[b"Groups"]) - {gid} == groups - {gid}
    assert log.stderr == b"again\n", "the process may open its own output again"


async def test_without_stdin_it_reads_nothing_and_with_it_what_is_written(ssh_guest: SshGuest) -> None:
    assert (await output_of(ssh_guest, process("cat"))).stdout == b""
    reader = process("head", "-c", "8", stdin=True)
    await ssh_guest.start(reader)
    for part in (b"part", b"two\n"):

        async def chunks(part: bytes = part) -> object:
            yield part

        await ssh_guest.write_stdin(reader.id, chunks())  # type: ignore[arg-type]
    log = MemoryLog()
    assert await ssh_guest.follow(reader.id, log) == ExitStatus(0)
    assert log.stdout == b"parttwo\n"


# --- What cannot be started -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "fields", "kind", "text"),
    [
        (("no-such",), {}, NotFound, 'exec: "no-such": executable file not found in $PATH'),
        (("",), {}, NotFound, 'exec: "": executable file not found in $PATH'),
        (("/no/such",), {}, NotFound, 'exec: "/no/such": stat /no/such: no such file or directory'),
        (("/etc/passwd",), {}, Forbidden, 'exec: "/etc/passwd": permission denied'),
        (("/run",), {}, Forbidden, 'exec: "/run": is a directory'),
        (("/run/bad-interpreter",), {}, NotFound, "exec /run/bad-interpreter: no such file or directory"),
        (("pwd",), {"working_dir": "/etc/passwd"}, Forbidden, 'chdir to cwd ("/etc/passwd") failed: not a directory'),
        (("pwd",), {"working_dir": "/run/private", "user": "runner"}, Forbidden, "failed: permission denied"),
        (("pwd",), {"user": "stranger"}, NotFound, "unable to find user stranger: no matching entries in passwd file"),
        (
            ("pwd",),
            {"user": "0:strangers"},
            NotFound,
            "unable to find group strangers: no matching entries in group file",
        ),
    ],
)
async def test_a_failed_start_says_what_runtimes_say(
    ssh_guest: SshGuest, argv: tuple[str, ...], fields: dict[str, object], kind: type[Error], text: str
) -> None:
    make = "printf '#! /no/interpreter -x\n' >/run/bad-interpreter; chmod 755 /run/bad-interpreter; "
    make += "mkdir -p -m 700 /run/private"
    await output_of(ssh_guest, process("sh", "-c", make))
    with pytest.raises(kind) as caught:
        await ssh_guest.start(process(*argv, **fields))
    assert text in caught.value.message
    assert caught.value.reason == "StartError"


async def test_what_no_process_can_hold_is_refused(ssh_guest: SshGuest) -> None:
    for bad in (process(), process("echo", "a\0b"), process("a=b"), process("true", env=(("A=B", "c"),))):
        with pytest.raises(InvalidInput):
            await ssh_guest.start(bad)
    with pytest.raises(InvalidInput):
        await ssh_guest.start(GuestProcess("../escape", ("true",)))


async def test_a_login_user_that_is_not_root_keeps_to_itself(ssh_system: SshSystem) -> None:
    guest = await connect(ssh_system, Login("runner", ssh_systems.PASSWORD))
    try:
        assert (await output_of(guest, process("id", "-u", user="1000"))).stdout == b"1000\n"
        with pytest.raises(Forbidden, match="not root"):
            await guest.start(process("id", user="root"))
    finally:
        await guest.close()


# --- Launched once --------------------------------------------------------------------------------------------------


async def test_racing_starts_of_one_id_launch_once(ssh_system: SshSystem) -> None:
    guests = [await connect(ssh_system) for _ in range(4)]
    try:
        counted = f"/run/count-{fresh_id()}"
        started = process("sh", "-c", f"echo x >>{counted}; cat {counted}")
        await asyncio.gather(*(guest.start(started) for guest in guests for _ in range(3)))
        log = MemoryLog()
        await guests[0].follow(started.id, log)
        assert log.stdout == b"x\n"
    finally:
        await asyncio.gather(*(guest.close() for guest in guests))


async def test_a_start_that_was_cut_off_half_way_is_taken_over(ssh_guest: SshGuest) -> None:
    half = process("echo", "done")
    await output_of(
        ssh_guest, process("sh", "-c", 'mkdir -p "$HOME/.vzkubelet/$ID"', env=await _home(ssh_guest, half.id))
    )
    assert (await output_of(ssh_guest, half)).stdout == b"done\n"


async def _home(guest: SshGuest, process_id: str) -> tuple[tuple[str, str], ...]:
    log = await output_of(guest, process("sh", "-c", "grep ^root: /etc/passwd"))
    return PATH, ("HOME", log.stdout.decode().split(":")[5]), ("ID", process_id)


# --- Its output -----------------------------------------------------------------------------------------------------


async def test_output_is_kept_apart_and_nothing_else_enters_it(ssh_guest: SshGuest) -> None:
    script = (
        "echo out; echo err >&2; echo again >/dev/stdout; echo >/dev/stderr; sleep 5 & kill $!; wait $!; kill -9 $$"
    )
    started = process("sh", "-c", script)
    await ssh_guest.start(started)
    log = MemoryLog()
    assert await ssh_guest.follow(started.id, log) == ExitStatus(137, 9)
    assert log.stdout == b"out\nagain\n"
    assert log.stderr.startswith(b"err\n\n")
    assert b"Killed" not in log.stderr


async def test_fifty_megabytes_arrive_exactly(ssh_guest: SshGuest) -> None:
    script = "head -c 50000000 /dev/urandom | tee /dev/stderr | sha256sum >/run/sum; cat /run/sum >&2"
    log = await output_of(ssh_guest, process("sh", "-c", script))
    assert len(log.stderr) > 50_000_000
    assert hashlib.sha256(log.stderr[:50_000_000]).hexdigest().encode() in log.stderr[50_000_000:]


async def test_output_is_seen_well_before_a_second_has_passed(ssh_guest: SshGuest) -> None:
    started = process("sh", "-c", "sleep 1; echo now; date +%s.%N; sleep 60")
    await ssh_guest.start(started)
    log = MemoryLog()
    following = spawn(ssh_guest.follow(started.id, log), name="follow")
    await log.until(len(b"now\n"))
    begun = time.monotonic()
    await ssh_guest.signal(started.id, signal.SIGKILL)
    await following
    assert time.monotonic() - begun < 0.75


async def test_children_that_hold_the_output_do_not_hold_the_end(ssh_guest: SshGuest) -> None:
    started = process("sh", "-c", "(sleep 60; echo late) & echo last words; exit 4")
    await ssh_guest.start(started)
    begun = time.monotonic()
    log = MemoryLog()
    assert await ssh_guest.follow(started.id, log) == ExitStatus(4)
    assert time.monotonic() - begun < 5
    assert log.stdout == b"last words\n"


async def test_a_signal_reaches_the_program_alone_and_adds_nothing_to_its_log(ssh_guest: SshGuest) -> None:
    child = "trap 'echo told' TERM; sleep 1"
    script = f"trap 'echo caught; exit 3' TERM; ({child}) & echo up; while :; do sleep 0.2; done"
    started = process("sh", "-c", script)
    await ssh_guest.start(started)
    log = MemoryLog()
    following = spawn(ssh_guest.follow(started.id, log), name="follow")
    await log.until(len(b"up\n"))
    await ssh_guest.signal(started.id, signal.SIGTERM)
    assert await following == ExitStatus(3)
    assert (log.stdout, log.stderr) == (b"up\ncaught\n", b"")


async def test_a_kill_takes_the_children_along(ssh_system: SshSystem, ssh_guest: SshGuest) -> None:
    started = process("sh", "-c", "sleep 86399 & sleep 86399")
    await ssh_guest.start(started)
    await ssh_guest.signal(started.id, signal.SIGKILL)
    await ssh_guest.follow(started.id, MemoryLog())
    async with asyncio.timeout(10):
        while any("sleep 86399" in line for line in ssh_system.processes()):
            await asyncio.sleep(0.02)


# --- Losing the connection ------------------------------------------------------------------------------------------

COUNT = """i=0; while [ $i -lt LINES ]; do
i=$((i+1)); echo line $i; echo error $i >&2; [ $((i % 4)) = 0 ] && sleep 0.01
done; exit 0"""


def counted(lines: int) -> tuple[str, bytes]:
    """A script that writes numbered lines in bursts, and what its stdout will be."""
    return COUNT.replace("LINES", str(lines)), "".join(f"line {n}\n" for n in range(1, lines + 1)).encode()


async def test_follow_goes_on_exactly_when_connections_are_cut(ssh_system: SshSystem, ssh_guest: SshGuest) -> None:
    script, expected = counted(400)
    started = process("sh", "-c", script)
    await ssh_guest.start(started)
    log = MemoryLog()
    following = spawn(ssh_guest.follow(started.id, log), name="follow")
    for size in (300, 900, 1500, 2200, 3000):
        await log.until(size)
        ssh_system.cut_connections()
    assert await following == ExitStatus(0)
    assert log.stdout == expected
    assert log.stderr == expected.replace(b"line", b"error")


CLIENT = """
import asyncio, sys
from pathlib import Path
from tests.support.guest_streams import FileLog
from vzkubelet.guests.guest import SshGuests
from vzkubelet.guests.ssh import Login
from vzkubelet.ports import GuestAddress

async def main():
    port, directory, process_id, password = sys.argv[1:]
    guests = SshGuests(Login("root", password))
    guest = await guests.connect(GuestAddress("127.0.0.1", "127.0.0.1", int(port)), Path(directory, "key"), 20)
    print("following", flush=True)
    print((await guest.follow(process_id, FileLog(Path(directory)))).code, flush=True)

asyncio.run(main())
"""


async def test_follow_goes_on_exactly_after_the_follower_was_killed(
    ssh_system: SshSystem, ssh_guest: SshGuest, tmp_path: Path
) -> None:
    script, expected = counted(2000)
    started = process("sh", "-c", script)
    await ssh_guest.start(started)
    command = [sys.executable, "-c", CLIENT, str(ssh_system.port), str(tmp_path), started.id, ssh_systems.PASSWORD]
    source = random.Random(7)
    for _ in range(10):
        client = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": "src:."})
        assert client.stdout is not None
        with client:
            await asyncio.to_thread(client.stdout.readline)
            await asyncio.sleep(source.uniform(0.0, 0.25))
            client.kill()
    done = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, env={**os.environ, "PYTHONPATH": "src:."}
    )
    assert done.stdout.split() == [b"following", b"0"], done.stderr
    assert (tmp_path / "stdout").read_bytes() == expected
    assert (tmp_path / "stderr").read_bytes() == expected.replace(b"line", b"error")


async def test_nothing_of_a_lost_follower_stays_in_the_guest(ssh_system: SshSystem, ssh_guest: SshGuest) -> None:
    started = process("sleep", "3600")
    await ssh_guest.start(started)
    log = MemoryLog()
    before = 1000
    for _ in range(10):  # what earlier tests left is still ending
        before = min(before, len(ssh_system.processes()))
        await asyncio.sleep(0.1)
    for _ in range(3):
        following = spawn(ssh_guest.follow(started.id, log), name="follow")
        await asyncio.sleep(0.5)
        ssh_system.cut_connections()
        await cancel(following)
    await ssh_guest.usage()
    deadline = time.monotonic() + 5
    while len(ssh_system.processes()) > before and time.monotonic() < deadline:
        await asyncio.sleep(0.1)
    assert len(ssh_system.processes()) <= before, ssh_system.processes()
    await ssh_guest.signal(started.id, signal.SIGKILL)


async def test_follow_gives_up_when_the_guest_stays_away(ssh_system: SshSystem) -> None:
    policy = ConnectPolicy(lost_after_s=1.0, reconnect_s=0.5)
    guest = await connect(ssh_system, policy=policy)
    started = process("sleep", "3600")
    await guest.start(started)
    following = spawn(guest.follow(started.id, MemoryLog()), name="follow", on_crash=lambda _: None)
    await asyncio.sleep(0.3)
    ssh_system.stop()
    try:
        with pytest.raises(Unavailable):
            await following
    finally:
        ssh_system.start()
        await guest.close()


async def test_a_killed_supervisor_is_a_lost_process(ssh_guest: SshGuest) -> None:
    started = process("sh", "-c", "echo before; sleep 3600")
    await ssh_guest.start(started)
    log = MemoryLog()
    following = spawn(ssh_guest.follow(started.id, log), name="follow")
    await log.until(len(b"before\n"))
    env = await _home(ssh_guest, started.id)
    await output_of(ssh_guest, process("sh", "-c", 'kill -9 $(cat "$HOME/.vzkubelet/$ID/supervisor")', env=env))
    assert await following == ExitStatus(137, 9)
    assert log.stdout == b"before\n"


async def test_secrets_are_not_in_the_process_list(ssh_system: SshSystem, ssh_guest: SshGuest) -> None:
    started = process("sleep", "3600", env=(PATH, ("TOKEN", "hunter2")))
    await ssh_guest.start(started)
    # env(1) is given the values and then becomes the program; before and after that nobody can read them.
    async with asyncio.timeout(10):
        while not any(line.endswith("sleep 3600") and "env" not in line for line in ssh_system.processes()):
            await asyncio.sleep(0.02)
    assert not [line for line in ssh_system.processes() if "hunter2" in line]
    look = 'cd "$HOME/.vzkubelet/$ID" && ls -ld . && ls && find . -type f -exec grep -l hunter2 {} +'
    env = await _home(ssh_guest, started.id)
    await ssh_guest.start(seen := process("sh", "-c", look, env=env))
    log = MemoryLog()
    await ssh_guest.follow(seen.id, log)
    assert log.stdout.startswith(b"drwx------")
    assert b"./" not in log.stdout, "a file still holds the secret"
    await ssh_guest.signal(started.id, signal.SIGKILL)
