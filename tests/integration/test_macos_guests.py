"""What is prepared, measured and ended in a macOS guest, on a system that is laid out like one; and users by sudo."""

import asyncio
import re
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support import ssh_systems
from tests.support.guest_fixtures import connect, fresh_id, make_system
from tests.support.guest_streams import MemoryLog, MemoryStreams
from tests.support.ssh_systems import SshSystem
from vzkubelet.aio import cancel, spawn
from vzkubelet.errors import Forbidden, NotFound, Unavailable
from vzkubelet.guests.guest import SshGuest
from vzkubelet.guests.ssh import Login
from vzkubelet.ports import ExecRequest, ExitStatus, GuestMount, GuestProcess, TerminalSize

PATH = ("PATH", "/usr/local/bin:/usr/bin:/bin")


@pytest.fixture(scope="module")
def bsd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshSystem]:
    system = make_system("openssh-zsh-bsd", tmp_path_factory)
    system.start()
    yield system
    system.stop()


@pytest_asyncio.fixture(params=["root", "admin", "guarded"])
async def guest(request: pytest.FixtureRequest, bsd: SshSystem) -> AsyncIterator[SshGuest]:
    """Logged in as root, as a user whose sudo asks for nothing, and as one whose sudo wants the password."""
    channel = await connect(bsd, Login(request.param, ssh_systems.PASSWORD))
    yield channel
    await channel.close()


@pytest_asyncio.fixture
async def admin(bsd: SshSystem) -> AsyncIterator[SshGuest]:
    channel = await connect(bsd, Login("admin", ssh_systems.PASSWORD))
    yield channel
    await channel.close()


def share(system: SshSystem, tag: str) -> Path:
    """A share of the host, as the guest's `mount_virtiofs` finds it."""
    path = system.directory / "data/private/var/host" / tag
    (path / "sub").mkdir(parents=True)
    (path / "sub/file").write_text("hello\n")
    path.chmod(0o777)
    return path


async def shell(guest: SshGuest, script: str) -> str:
    streams = MemoryStreams()
    process = GuestProcess(fresh_id(), ("unused",), (PATH,))
    assert await guest.exec(ExecRequest(("sh", "-c", script)), process, streams) == ExitStatus(0), streams.stderr
    return streams.stdout.decode()


# --- Host name and shares -------------------------------------------------------------------------------------------


async def test_the_host_name_is_set_for_the_kernel_and_for_bonjour(guest: SshGuest, bsd: SshSystem) -> None:
    name = f"pod-{fresh_id()}.example.com"
    await guest.prepare(name, [])
    assert await shell(guest, "uname -n") == f"{name}\n"
    preferences = bsd.directory / "data/private/var/db"
    assert (preferences / "LocalHostName").read_text() == f"{name.partition('.')[0]}\n"


@pytest.mark.parametrize(
    "place",
    [
        "/Users/Shared/a b/it's",
        "/private/tmp/{}",
        "/tmp/{}",
        "/var/run/secrets/kubernetes.io/{}",
        "/opt/{}",
        "/usr/local/{}",
        "/Volumes/{}",
    ],
)
async def test_a_share_is_mounted_at_its_place(guest: SshGuest, bsd: SshSystem, place: str) -> None:
    tag = fresh_id()
    on_host = share(bsd, tag)
    place = place.format(tag) if "{}" in place else f"{place}/{tag}"
    mount = GuestMount(tag, place)
    await guest.prepare("", [mount])
    quoted = "'" + place.replace("'", "'\\''") + "'"
    assert await shell(guest, f"cat {quoted}/sub/file; echo new >{quoted}/made") == "hello\n"
    assert (on_host / "made").read_text() == "new\n"
    table = await shell(guest, "cat /proc/mounts")
    await guest.prepare("", [mount])
    assert await shell(guest, "cat /proc/mounts") == table, "preparing again mounts nothing"


async def test_a_read_only_share_refuses_writes(guest: SshGuest, bsd: SshSystem) -> None:
    tag = fresh_id()
    share(bsd, tag)
    await guest.prepare("", [GuestMount(tag, f"/opt/{tag}", read_only=True)])
    assert await shell(guest, f"touch /opt/{tag}/x 2>/dev/null || echo refused") == "refused\n"


async def test_a_directory_in_a_share_is_linked(guest: SshGuest, bsd: SshSystem) -> None:
    tag = fresh_id()
    share(bsd, tag)
    mounts = [
        GuestMount(tag, f"/opt/{tag}", sub_path="/sub/"),
        GuestMount(tag, f"/opt/{tag}-file", sub_path="sub/file"),
    ]
    for _ in range(2):
        await guest.prepare("", mounts)
        assert await shell(guest, f"cat /opt/{tag}/file /opt/{tag}-file") == "hello\n" * 2
    with pytest.raises(Unavailable, match="has no missing"):
        await guest.prepare("", [GuestMount(tag, "/opt/x", sub_path="missing")])


async def test_a_full_directory_is_not_hidden_by_a_link(guest: SshGuest, bsd: SshSystem) -> None:
    tag = fresh_id()
    share(bsd, tag)
    (bsd.directory / "data/opt" / tag).mkdir()
    (bsd.directory / "data/opt" / tag / "kept").touch()
    with pytest.raises(Unavailable, match="not empty") as caught:
        await guest.prepare("", [GuestMount(tag, f"/opt/{tag}", sub_path="sub")])
    assert caught.value.reason == "CreateContainerError"


async def test_a_place_in_the_root_directory_is_made_by_synthetic_conf(guest: SshGuest, bsd: SshSystem) -> None:
    tag = fresh_id()
    share(bsd, tag)
    mounts = [GuestMount(tag, f"/{tag}/deep")]
    for _ in range(2):
        await guest.prepare("", mounts)
        assert await shell(guest, f"cat /{tag}/deep/sub/file") == "hello\n"
    lines = (bsd.directory / "data/private/etc/synthetic.conf").read_text().splitlines()
    assert lines.count(f"{tag}\tprivate/var/vzkubelet/{tag}") == 1


async def test_a_root_directory_that_stays_closed_is_told_with_the_way_out(admin: SshGuest, bsd: SshSystem) -> None:
    tool = bsd.directory / "data/private/var/tools/apfs.util"
    kept = tool.read_text()
    tag = fresh_id()
    share(bsd, tag)
    tool.write_text("#!/bin/sh\necho cannot stitch >&2\nexit 1\n")
    try:
        with pytest.raises(Unavailable, match=r"below /Users.*synthetic\.conf.*read-only.*cannot stitch"):
            await admin.prepare("", [GuestMount(tag, f"/{tag}")])
    finally:
        tool.write_text(kept)


async def test_a_share_that_is_not_there_is_named(guest: SshGuest) -> None:
    with pytest.raises(Unavailable, match="fs_tag nothing not found"):
        await guest.prepare("", [GuestMount("nothing", "/opt/nothing")])


async def test_a_share_that_the_ssh_server_may_not_read_is_told_with_the_setting(
    admin: SshGuest, bsd: SshSystem
) -> None:
    """macOS keeps virtio-fs mounts from what its SSH server starts, unless that has full disk access."""
    tool = bsd.directory / "data/private/var/tools/ls"
    kept = tool.read_text()
    tag = fresh_id()
    share(bsd, tag)
    tool.write_text('#!/bin/sh\necho "ls: $1: Operation not permitted" >&2\nexit 1\n')
    try:
        with pytest.raises(Unavailable, match="full disk access for remote users"):
            await admin.prepare("", [GuestMount(tag, f"/opt/{tag}")])
    finally:
        tool.write_text(kept)
    assert f"/opt/{tag}" not in await shell(admin, "cat /proc/mounts"), "what cannot be used is taken away again"


async def test_without_rights_the_guests_own_words_are_told(bsd: SshSystem) -> None:
    tag = fresh_id()
    share(bsd, tag)
    guest = await connect(bsd, Login("runner", ssh_systems.PASSWORD))
    try:
        with pytest.raises(Unavailable, match="sudo"):
            await guest.prepare("some-name", [])
        with pytest.raises(Unavailable, match=f"/opt/{tag}"):
            await guest.prepare("", [GuestMount(tag, f"/opt/{tag}")])
    finally:
        await guest.close()


# --- Power and figures ----------------------------------------------------------------------------------------------


async def test_shut_down_asks_the_guests_own_system(guest: SshGuest, bsd: SshSystem) -> None:
    mark = bsd.directory / "data/private/var/run/powered-off"
    mark.unlink(missing_ok=True)
    await guest.shut_down()
    async with asyncio.timeout(10):
        while not mark.exists():
            await asyncio.sleep(0.05)


async def test_cpu_time_only_grows(guest: SshGuest) -> None:
    first = await guest.usage()
    await shell(guest, "i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done")
    second = await guest.usage()
    assert second.cpu_ns > first.cpu_ns


# --- Users ----------------------------------------------------------------------------------------------------------


async def output_of(guest: SshGuest, *argv: str, **fields: str) -> MemoryLog:
    process = GuestProcess(fresh_id(), argv, (PATH,), **fields)  # type: ignore[arg-type]
    await guest.start(process)
    log = MemoryLog()
    assert await guest.follow(process.id, log) == ExitStatus(0), log.stderr
    return log


@pytest.mark.parametrize(
    ("user", "uid", "gid", "groups"),
    [
        ("root", 0, 0, {0}),
        ("runner", 1000, 1000, {1000, 2000}),
        ("runner:video", 1000, 44, {44}),
        ("4321", 4321, 0, {0}),
        ("4321:8765", 4321, 8765, {8765}),
        ("501", 501, 20, {20}),
    ],
)
async def test_sudo_switches_the_user_of_the_process(
    admin: SshGuest, user: str, uid: int, gid: int, groups: set[int]
) -> None:
    look = "grep -E '^(Uid|Gid|Groups)' /proc/self/status; cat; ls /proc/self/fd; echo again >/dev/stderr"
    log = await output_of(admin, "sh", "-c", look, user=user)
    lines = log.stdout.splitlines()
    found = {line.split(b":")[0]: [int(number) for number in line.split()[1:]] for line in lines if b":" in line}
    assert found[b"Uid"] == [uid] * 4
    assert found[b"Gid"] == [gid] * 4
    if uid != 501:  # the login user's own groups are the session's
        assert set(found[b"Groups"]) == groups
    assert log.stdout.split()[-4:] == [b"0", b"1", b"2", b"3"]
    assert log.stderr == b"again\n"


async def test_a_process_that_sudo_started_can_be_ended_with_its_children(admin: SshGuest, bsd: SshSystem) -> None:
    for number, expected in ((15, 143), (9, 137)):
        mark = f"sleep 7{number}1"
        process = GuestProcess(fresh_id(), ("sh", "-c", f"{mark} & exec {mark}"), (PATH,), user="runner")
        await admin.start(process)
        following = spawn(admin.follow(process.id, MemoryLog()), name="follow")
        async with asyncio.timeout(10):
            while sum(mark in line for line in bsd.processes()) < 2:
                await asyncio.sleep(0.02)
        await admin.signal(process.id, number)
        assert (await following).code == expected
    async with asyncio.timeout(10):
        while any("sleep 791" in line for line in bsd.processes()):
            await asyncio.sleep(0.02)
    with pytest.raises(NotFound):
        await admin.signal(process.id, 15)


async def test_an_exec_as_another_user_has_streams_exit_code_and_an_end(admin: SshGuest, bsd: SshSystem) -> None:
    beside = GuestProcess(fresh_id(), ("unused",), (PATH,), user="runner")
    streams = MemoryStreams([b"one\n", b"two\n"])
    status = await admin.exec(ExecRequest(("sh", "-c", "id -u; cat; echo err >&2; exit 3")), beside, streams)
    assert (status.code, bytes(streams.stdout), bytes(streams.stderr)) == (3, b"1000\none\ntwo\n", b"err\n")
    running = spawn(admin.exec(ExecRequest(("sleep", "7733")), beside, MemoryStreams()), name="exec")
    async with asyncio.timeout(10):
        while not any(line == "sleep 7733" for line in bsd.processes()):
            await asyncio.sleep(0.02)
        await cancel(running)
        while any("sleep 7733" in line for line in bsd.processes()):
            await asyncio.sleep(0.02)


async def test_a_terminal_as_another_user(admin: SshGuest) -> None:
    async def sizes() -> AsyncIterator[TerminalSize]:
        yield TerminalSize(101, 41)
        await asyncio.sleep(3600)

    async def keys() -> AsyncIterator[bytes]:
        yield b"stty size; id -un; tty\nexit 4\n"
        await asyncio.sleep(3600)

    beside = GuestProcess(fresh_id(), ("unused",), (PATH,), user="runner")
    streams = MemoryStreams(keys(), sizes())
    async with asyncio.timeout(20):
        assert await admin.exec(ExecRequest(("sh",), tty=True), beside, streams) == ExitStatus(4)
    assert b"41 101" in streams.stdout
    assert b"runner" in streams.stdout
    assert b"/dev/pts/" in streams.stdout


async def test_a_sudo_that_asks_for_a_password_switches_no_user(bsd: SshSystem) -> None:
    guest = await connect(bsd, Login("guarded", ssh_systems.PASSWORD))
    try:
        with pytest.raises(Forbidden, match="guarded is not root and its sudo asks for a password"):
            await guest.start(GuestProcess(fresh_id(), ("id",), (PATH,), user="runner"))
    finally:
        await guest.close()


async def test_the_password_is_in_no_process_list(bsd: SshSystem, tmp_path: Path) -> None:
    guest = await connect(bsd, Login("guarded", ssh_systems.PASSWORD))
    seen: list[str] = []
    try:
        preparing = spawn(guest.prepare(f"pod-{fresh_id()}", []), name="prepare")
        while not preparing.done():
            seen += bsd.processes()
            await asyncio.sleep(0)
        await preparing
    finally:
        await guest.close()
    assert any("sudo" in line for line in seen), "nothing was looked at"
    assert not [line for line in seen if ssh_systems.PASSWORD in line]


# --- The stand-ins --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "tail -s 0.2 -f /etc/passwd",
        "tail --follow /etc/passwd",
        "stat -c %s /etc/passwd",
        "mktemp --suffix=x",
        "mkdir --parents /tmp/x",
        "mount -t virtiofs tag /opt",
        "mount_virtiofs -o ro tag /opt",
        "ps aux",
        "df -B1 /",
        "ln -sfT a /tmp/b",
        "scutil --set HostName",
        "setsid true",
        "flock /tmp/x true",
        "timeout 1 true",
        "head --bytes=1",
    ],
)
async def test_what_macos_refuses_is_refused(bsd: SshSystem, line: str) -> None:
    """Or the tests above would show nothing."""
    here = ["nsenter", "-t", str(bsd._init()), "-m", f"--root=/proc/{bsd._init()}/root"]
    command = ["/bin/sh", "-c", f"PATH=/private/var/tools; {line}"]
    done = await asyncio.to_thread(subprocess.run, [*here, *command], capture_output=True, text=True)
    assert done.returncode != 0
    assert re.search(r"illegal option|usage|not found", done.stderr), done.stderr


def test_nothing_of_linux_is_asked_of_macos() -> None:
    package = Path(__file__).parents[2] / "src/vzkubelet/guests"
    for name in ("macos.sh", "macos_users.sh", "macos.py", "start.sh", "supervise.sh"):
        text = "\n".join(
            line for line in (package / name).read_text().splitlines() if not line.lstrip().startswith("#")
        )
        assert "/proc" not in text, name
        assert "/etc/passwd" not in text, name
