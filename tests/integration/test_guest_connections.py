"""Getting into a guest: booting, logins, host keys; and what is prepared in it. Real servers, real mounts."""

import asyncio
import logging
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support import ssh_systems
from tests.support.guest_fixtures import address, connect, make_system
from tests.support.guest_streams import MemoryStreams
from tests.support.ssh_systems import SshSystem
from vzkubelet.aio import spawn
from vzkubelet.errors import Conflict, DeadlineExceeded, InvalidInput, Unauthenticated, Unavailable
from vzkubelet.guests.guest import SshGuest, SshGuests
from vzkubelet.guests.ssh import ConnectPolicy, Login
from vzkubelet.ports import ExecRequest, ExitStatus, GuestAddress, GuestMount

ROOT = Login("root", ssh_systems.PASSWORD)
QUICK = ConnectPolicy(banner_timeout_s=0.3, refused_login_s=0.5)


@pytest.fixture(params=["openssh-dash", "dropbear-busybox"])
def system(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshSystem]:
    """A system that is not started yet."""
    made = make_system(request.param, tmp_path_factory)
    yield made
    made.stop()


async def shell(guest: SshGuest, script: str) -> str:
    streams = MemoryStreams()
    assert await guest.exec(ExecRequest(("sh", "-c", script)), None, streams) == ExitStatus(0), streams.stderr
    return streams.stdout.decode()


# --- Connections ----------------------------------------------------------------------------------------------------


async def test_a_guest_that_boots_meanwhile_is_reached_at_once(system: SshSystem) -> None:
    connecting = spawn(connect(system), name="connect")
    await asyncio.sleep(1.0)
    system.start()
    begun = time.monotonic()
    guest = await connecting
    assert time.monotonic() - begun < 1.5
    await guest.close()


async def test_an_address_that_accepts_and_says_nothing_is_left_for_a_new_try(tmp_path: Path) -> None:
    """QEMU's user network accepts connections for a guest that does not listen yet."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent:
        where = GuestAddress("127.0.0.1", "127.0.0.1", silent.getsockname()[1])
        with pytest.raises(DeadlineExceeded, match="said nothing"):
            await SshGuests(ROOT, QUICK).connect(where, tmp_path / "key", 1.5)


async def test_nobody_there_is_a_deadline_with_the_reason(tmp_path: Path) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        where = GuestAddress("127.0.0.1", "127.0.0.1", reserved.getsockname()[1])
        begun = time.monotonic()
        with pytest.raises(DeadlineExceeded, match=r"within 0\.5 s.*127\.0\.0\.1"):
            await SshGuests(ROOT).connect(where, tmp_path / "key", 0.5)
        assert time.monotonic() - begun < 1.5


async def test_a_wrong_password_is_told_soon_and_never_shown(
    system: SshSystem, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    system.start()
    await (await connect(system)).close()
    login = Login("root", "wrong-secret")
    begun = time.monotonic()
    with pytest.raises(Unauthenticated, match="refused the login of user root") as caught:
        await SshGuests(login, QUICK).connect(address(system), tmp_path / "key", 60.0)
    assert time.monotonic() - begun < 15
    assert "wrong-secret" not in f"{caught.value}{login!r}{caplog.text}"
    assert ssh_systems.PASSWORD not in caplog.text


async def test_a_private_key_logs_in_and_an_unusable_one_is_named(system: SshSystem, tmp_path: Path) -> None:
    system.start()
    guest = await connect(system, Login("root", key_path=system.client_key))
    assert await shell(guest, "id -u") == "0\n"
    await guest.close()
    with pytest.raises(InvalidInput, match="nowhere"):
        await connect(system, Login("root", key_path=tmp_path / "nowhere"))


async def test_a_key_may_come_as_text_and_with_a_passphrase(system: SshSystem, tmp_path: Path) -> None:
    system.start()
    secret = tmp_path / "protected"
    secret.write_bytes(system.client_key.read_bytes())
    secret.chmod(0o600)
    subprocess.run(["ssh-keygen", "-q", "-p", "-f", secret, "-N", "opens it"], check=True)
    login = Login("root", key=secret.read_bytes(), passphrase="opens it")
    guest = await connect(system, login)
    assert await shell(guest, "id -u") == "0\n"
    await guest.close()
    for bad in (Login("root", key=secret.read_bytes(), passphrase="wrong"), Login("root", key=b"no key")):
        with pytest.raises(InvalidInput, match="VZ_SSH_PRIVATE_KEY_BASE64") as caught:
            await connect(system, bad)
        assert "wrong" not in str(caught.value)


async def test_key_exchanges_are_those_that_were_asked_for(system: SshSystem) -> None:
    system.start()
    guest = await connect(system, policy=ConnectPolicy(kex_algorithms=("curve25519-sha256",)))
    assert await shell(guest, "id -u") == "0\n"
    await guest.close()
    with pytest.raises(InvalidInput, match="cannot be set up"):
        await connect(system, policy=ConnectPolicy(kex_algorithms=("no-such-exchange",)))


async def test_an_unreachable_guest_is_given_up_at_the_deadline(tmp_path: Path) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        where = GuestAddress("127.0.0.1", "127.0.0.1", reserved.getsockname()[1])
        with pytest.raises(DeadlineExceeded, match=r"within 0\.5 s"):
            await SshGuests(ROOT).connect(where, tmp_path / "key", 0.5)


async def test_the_first_host_key_is_the_only_one_accepted(system: SshSystem, tmp_path: Path) -> None:
    system.start()
    remembered = tmp_path / "clone" / "host-key"
    guests = SshGuests(ROOT, QUICK)
    await (await guests.connect(address(system), remembered, 20.0)).close()
    kept = remembered.read_bytes()
    assert remembered.stat().st_mode & 0o777 == 0o600
    await (await guests.connect(address(system), remembered, 20.0)).close()
    assert remembered.read_bytes() == kept

    other = tmp_path / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", kept.split()[0].decode(), "-N", "", "-f", other], check=True)
    remembered.write_bytes(other.with_suffix(".pub").read_bytes())
    with pytest.raises(Conflict, match=r"not the one remembered in .*host-key"):
        await guests.connect(address(system), remembered, 20.0)
    remembered.write_text("no key at all")
    with pytest.raises(Conflict, match="holds no SSH host key"):
        await guests.connect(address(system), remembered, 20.0)


async def test_the_next_call_makes_a_lost_connection_again(system: SshSystem) -> None:
    system.start()
    guest = await connect(system)
    for _ in range(3):
        system.cut_connections()
        assert await shell(guest, "echo here") == "here\n"
    await guest.close()
    with pytest.raises(Unavailable, match="closed"):
        await guest.usage()


# --- Preparation ----------------------------------------------------------------------------------------------------

FAKE_MOUNT = """#!/bin/sh
# A virtio-fs share without a hypervisor: the directory of that name.
case "$1 $2" in
"-t virtiofs") mkdir -p "/run/host/$3" && exec {mount} -o bind "/run/host/$3" "$4" ;;
*) exec {mount} "$@" ;;
esac
"""


@pytest_asyncio.fixture(params=["/bin/mount", "/bin/busybox mount"])
async def prepared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SshGuest]:
    """A guest whose `mount` gives it directories of its own in place of shares."""
    system = make_system("openssh-dash", tmp_path_factory)
    system.start()
    guest = await connect(system)
    await shell(guest, "mount -t tmpfs tmpfs /usr/local/sbin")  # first in PATH
    streams = MemoryStreams([FAKE_MOUNT.format(mount=request.param).encode()])
    write = "cat >/usr/local/sbin/mount && chmod 755 /usr/local/sbin/mount"
    assert await guest.exec(ExecRequest(("sh", "-c", write)), None, streams) == ExitStatus(0)
    yield guest
    await guest.close()
    system.stop()


async def test_shares_are_mounted_where_the_pod_wants_them(prepared: SshGuest) -> None:
    await shell(prepared, "mkdir -p /run/host/data/sub/deep; echo hello >/run/host/data/sub/file; ln -s /run /run/link")
    mounts = [
        GuestMount("data", "/run/a/b c/d"),
        GuestMount("data", "/run/sub", sub_path="sub", read_only=True),
        GuestMount("data", "/run/one-file.conf", sub_path="sub/file"),
        GuestMount("data", "/run/link/linked", sub_path="sub"),
    ]
    await prepared.prepare("pod-name", mounts)
    assert await shell(prepared, "hostname") == "pod-name\n"
    assert await shell(prepared, "cat '/run/a/b c/d/sub/file' /run/one-file.conf /run/linked/file") == "hello\n" * 3
    assert await shell(prepared, "echo new >'/run/a/b c/d/made' && cat /run/host/data/made") == "new\n"
    assert "refused" in await shell(prepared, "touch /run/sub/x 2>/dev/null || echo refused")

    table = await shell(prepared, "cat /proc/mounts")
    await prepared.prepare("pod-name", mounts)
    assert await shell(prepared, "cat /proc/mounts") == table, "preparing again mounts nothing"


async def test_what_cannot_be_mounted_is_named(prepared: SshGuest) -> None:
    await shell(prepared, "mkdir -p /run/host/data; echo file >/run/blocked")
    with pytest.raises(Unavailable, match=r"/run/blocked/x") as caught:
        await prepared.prepare("", [GuestMount("data", "/run/blocked/x")])
    assert caught.value.reason == "CreateContainerError"


async def test_shut_down_asks_the_guests_own_system(prepared: SshGuest) -> None:
    fake = "printf '#!/bin/sh\\ntouch /run/powered-off\\n' >/usr/local/sbin/poweroff"
    await shell(prepared, f"{fake}; chmod 755 /usr/local/sbin/poweroff")
    await prepared.shut_down()
    await asyncio.wait_for(shell(prepared, "until [ -e /run/powered-off ]; do sleep 0.1; done"), 10)
