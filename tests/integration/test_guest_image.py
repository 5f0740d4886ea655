"""The test guest: its disk is the same wherever it is built, and it boots to an SSH server that behaves."""

import asyncio
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import asyncssh
import pytest

from tools.guest_image.command_line import DEFAULT_PASSWORD
from tools.guest_image.image_config import MEMORY_MIN_MIB

TOOL = Path(__file__).parents[2] / "tools" / "guest-image"
STOCK_FIRMWARE = Path("/usr/share/OVMF/OVMF_CODE_4M.fd")
VIRTIOFSD = ("/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd")
BOOT_TIMEOUT_S = 90.0
"""Emulated on a shared machine; alone it takes 4 s."""
END_TIMEOUT_S = 30.0


class BootedGuest:
    """One QEMU with its own copy of the image; user networking, SSH behind a port of loopback."""

    def __init__(self, image: Path, home: Path, *, memory_mib: int = 256, firmware: Path | None = None) -> None:
        self.home = home
        self.share = home / "share"
        self.packets = home / "packets.pcap"
        self._monitor = home / "qmp"
        self._logs = (home / "console.log", home / "qemu.log")
        self._children: list[subprocess.Popen[bytes]] = []
        self.share.mkdir(parents=True)
        for name in ("disk.img", "aux.img"):
            subprocess.run(["cp", "--sparse=always", image / name, home / name], check=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self._start_virtiofsd()
        self._qemu = self._start(self._command(memory_mib, firmware or image / "firmware.fd"))

    def _start(self, command: list[str]) -> subprocess.Popen[bytes]:
        with self._logs[1].open("ab") as log:
            child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._children.append(child)
        return child

    def _start_virtiofsd(self) -> None:
        program = next(path for path in VIRTIOFSD if Path(path).exists())
        endpoint = self.home / "virtiofs"
        self._start([program, f"--socket-path={endpoint}", "-o", f"source={self.share}", "-o", "cache=auto"])
        deadline = time.monotonic() + 10
        while not endpoint.exists():
            assert time.monotonic() < deadline, self._logs[1].read_text()
            time.sleep(0.02)

    def _command(self, memory_mib: int, firmware: Path) -> list[str]:
        home = self.home
        return [
            "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none",
            "-machine", "q35,memory-backend=ram,vmport=off", "-accel", "tcg", "-cpu", "max", "-smp", "1",
            "-m", f"{memory_mib}M", "-object", f"memory-backend-memfd,id=ram,size={memory_mib}M,share=on",
            "-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={firmware}",
            "-drive", f"if=pflash,format=raw,unit=1,file={home / 'aux.img'}",
            "-drive", f"if=none,id=disk,format=raw,file={home / 'disk.img'}",
            "-device", "virtio-blk-pci,drive=disk,bootindex=0",
            "-netdev", f"user,id=net,hostfwd=tcp:127.0.0.1:{self.port}-:22",
            "-device", "virtio-net-pci,netdev=net,romfile=",
            "-object", f"filter-dump,id=dump,netdev=net,file={self.packets}",
            "-device", "virtio-rng-pci",
            "-chardev", f"socket,id=fs,path={home / 'virtiofs'}", "-device", "vhost-user-fs-pci,chardev=fs,tag=share",
            "-serial", f"file:{self._logs[0]}", "-qmp", f"unix:{self._monitor},server=on,wait=off",
        ]  # fmt: skip

    @property
    def console(self) -> str:
        return self._logs[0].read_text(errors="replace")

    @contextlib.asynccontextmanager
    async def ssh(self) -> AsyncIterator[asyncssh.SSHClientConnection]:
        """A connection, as soon as the guest takes one."""
        deadline = time.monotonic() + BOOT_TIMEOUT_S
        while True:
            try:
                ready = await self._greeted()
                break
            except OSError as exc:
                state = self._qemu.poll()
                if state is not None or time.monotonic() > deadline:
                    pytest.fail(f"no SSH ({exc!r}), QEMU: {state}, {self._logs[1].read_text()}\n{self.console}")
                await asyncio.sleep(0.05)
        async with asyncssh.connect(
            sock=ready, username="root", password=DEFAULT_PASSWORD, known_hosts=None, client_keys=None,
            agent_path=None, config=None, login_timeout=BOOT_TIMEOUT_S,
        ) as connection:  # fmt: skip
            yield connection

    async def _greeted(self) -> socket.socket:
        """QEMU accepts before the guest listens: only the server's first word shows that somebody is there."""
        loop = asyncio.get_running_loop()
        endpoint = socket.socket()
        endpoint.setblocking(False)
        answered = asyncio.Event()
        try:
            await loop.sock_connect(endpoint, ("127.0.0.1", self.port))
            loop.add_reader(endpoint, answered.set)
            try:
                await asyncio.wait_for(answered.wait(), 0.5)
            finally:
                loop.remove_reader(endpoint)
            if endpoint.recv(4, socket.MSG_PEEK) != b"SSH-":
                raise ConnectionResetError("nobody listens yet")
        except BaseException:
            endpoint.close()
            raise
        return endpoint

    def command(self, name: str) -> None:
        """One QMP command."""
        with socket.socket(socket.AF_UNIX) as monitor, monitor.makefile("rw") as stream:
            monitor.connect(str(self._monitor))
            stream.readline()
            for execute in ("qmp_capabilities", name):
                stream.write(json.dumps({"execute": execute}) + "\n")
                stream.flush()
                while "return" not in (answer := json.loads(stream.readline())):
                    assert "event" in answer, answer

    def ended_within(self, limit_s: float) -> float:
        """Seconds until QEMU ends by itself."""
        began = time.monotonic()
        try:
            status = self._qemu.wait(limit_s)
        except subprocess.TimeoutExpired:
            pytest.fail(f"still running after {limit_s} s:\n{self.console}")
        assert status == 0, self._logs[1].read_text()
        return time.monotonic() - began

    def close(self) -> None:
        """Kill QEMU; virtiofsd ends when its peer has gone, and takes its own child along."""
        self._qemu.kill()
        for child in reversed(self._children):
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


Boot = Callable[..., BootedGuest]


@pytest.fixture(scope="module")
def module_boot(guest_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Boot]:
    with contextlib.ExitStack() as stack:

        def start(**options: object) -> BootedGuest:
            guest = BootedGuest(guest_directory, tmp_path_factory.mktemp("vm") / "guest", **options)  # type: ignore[arg-type]
            stack.callback(guest.close)
            return guest

        yield start


@pytest.fixture(scope="module")
def guest(module_boot: Boot) -> BootedGuest:
    """A guest that tests share: they leave it running."""
    return module_boot()


@pytest.fixture
def boot(guest_directory: Path, tmp_path: Path) -> Iterator[Boot]:
    with contextlib.ExitStack() as stack:

        def start(**options: object) -> BootedGuest:
            home = tmp_path / f"guest{len(list(tmp_path.iterdir()))}"
            guest = BootedGuest(guest_directory, home, **options)  # type: ignore[arg-type]
            stack.callback(guest.close)
            return guest

        yield start


def build(output: Path, cache: Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, TOOL, "build", "--output", output],
        env={**os.environ, "XDG_CACHE_HOME": str(cache), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


async def text(connection: asyncssh.SSHClientConnection, command: str) -> str:
    done = await connection.run(command, check=True)
    return str(done.stdout).strip()


class TestBuild:
    def test_same_inputs_give_the_same_bytes(self, guest_directory: Path, tmp_path: Path) -> None:
        ours = tmp_path / "cache" / "macos-vz-kubelet-tests" / "guest-image"
        ours.mkdir(parents=True)
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        packages = base / "macos-vz-kubelet-tests" / "guest-image" / "packages"
        shutil.copytree(packages, ours / "packages")  # spares the mirror, not the build
        build(tmp_path / "again", tmp_path / "cache", TZ="Asia/Tokyo", LANG="de_DE.UTF-8", SOURCE_DATE_EPOCH="77")
        first, second = (
            json.loads((path / "manifest.json").read_text()) for path in (guest_directory, tmp_path / "again")
        )
        assert first["outputs"] == second["outputs"]
        assert (guest_directory / "disk.img").read_bytes() == (tmp_path / "again" / "disk.img").read_bytes()
        assert any(package["name"].startswith("linux-image-6") for package in second["packages"])

        report = build(tmp_path / "third", tmp_path / "cache")
        assert "unchanged" in report
        assert json.loads((tmp_path / "third" / "manifest.json").read_text()) == second

    def test_root_file_system_has_no_errors(self, guest_directory: Path, tmp_path: Path) -> None:
        with (guest_directory / "disk.img").open("rb") as disk:
            disk.seek(1024)
            entries = disk.read(256)
            start, end = (int.from_bytes(entries[128 + at : 136 + at], "little") for at in (32, 40))
            disk.seek(start * 512)
            (tmp_path / "root.img").write_bytes(disk.read((end - start + 1) * 512))
        checked = subprocess.run(
            ["/sbin/e2fsck", "-fn", tmp_path / "root.img"], capture_output=True, text=True, check=False
        )
        assert checked.returncode == 0, checked.stdout

    def test_what_does_not_fit_is_refused_with_the_size_that_does(self, tmp_path: Path) -> None:
        done = subprocess.run(
            [sys.executable, TOOL, "build", "--output", tmp_path / "out", "--size-mib", "40"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1
        assert "give --size-mib" in done.stderr
        assert not (tmp_path / "out" / "disk.img").exists()


class TestSessions:
    @pytest.mark.parametrize("code", [0, 1, 3, 137, 255])
    async def test_exit_code(self, guest: BootedGuest, code: int) -> None:
        async with guest.ssh() as connection:
            done = await connection.run(f"exit {code}")
        assert done.exit_status == code
        assert (done.stdout, done.stderr) == ("", "")  # no banner, no message of the day

    async def test_death_by_signal_is_reported(self, guest: BootedGuest) -> None:
        async with guest.ssh() as connection:
            done = await connection.run("kill -TERM $$")
        assert done.exit_signal is not None
        assert done.exit_signal[0] == "TERM"

    async def test_terminal_and_its_resize(self, guest: BootedGuest) -> None:
        async with guest.ssh() as connection:
            process = await connection.create_process(
                "trap 'stty size' WINCH; stty size; while :; do sleep 0.1; done", term_type="xterm", term_size=(100, 40)
            )
            assert (await process.stdout.readline()).strip() == "40 100"
            process.change_terminal_size(132, 50)
            assert (await process.stdout.readline()).strip() == "50 132"
            process.close()
            await process.wait_closed()

    async def test_no_signal_is_ignored_from_the_start(self, guest: BootedGuest) -> None:
        """A shell gives SIGINT ignored to what it starts in the background: Ctrl-C would not work."""
        async with guest.ssh() as connection:
            assert "SigIgn:\t0000000000000000" in await text(connection, "exec cat /proc/self/status")

    async def test_hundred_sessions_of_one_connection(self, guest: BootedGuest) -> None:
        async with guest.ssh() as connection:
            done = await asyncio.gather(*(connection.run(f"sleep 1; exit {code}") for code in range(100)))
        assert [result.exit_status for result in done] == list(range(100))

    async def test_bytes_pass_unchanged_both_ways(self, guest: BootedGuest) -> None:
        content = os.urandom(3_000_000)
        async with guest.ssh() as connection:
            done = await connection.run("cat", input=content, encoding=None)
        assert done.stdout == content

    async def test_environment_reaches_the_command(self, guest: BootedGuest) -> None:
        async with guest.ssh() as connection:
            done = await connection.run("echo $GREETING", env={"GREETING": "good day"}, check=True)
        assert done.stdout == "good day\n"


class TestSystem:
    async def test_accounts_and_directories(self, guest: BootedGuest) -> None:
        async with guest.ssh() as connection:
            assert await text(connection, "id -u; id -u user") == "0\n1000"
            assert await text(connection, "stat -c %a /tmp; stat -c %u /home/user") == "1777\n1000"
            assert (
                await text(connection, "stat -f -c %T /; df -m / | tail -1 | awk '{print ($4 > 50)}'") == "ext2/ext3\n1"
            )
            assert await text(connection, "hostname; cat /proc/sys/kernel/random/boot_id | wc -c") == "guest\n37"

    async def test_privileges_are_dropped_with_util_linux(self, guest: BootedGuest) -> None:
        async with guest.ssh() as connection:
            dropped = "/usr/bin/setpriv --reuid 1000 --regid 1000 --groups 7 --no-new-privs --bounding-set=-all"
            assert await text(connection, f"{dropped} /bin/id") == "uid=1000(user) gid=1000(user) groups=7"
            assert "CapBnd:\t0000000000000000" in await text(connection, f"{dropped} /bin/cat /proc/self/status")

    async def test_applets_are_on_the_path_of_every_account(self, guest: BootedGuest) -> None:
        async with guest.ssh() as connection:
            for path in ("/bin/nc", "/sbin/ip", "/usr/bin/wget", "/usr/sbin/chroot"):
                await text(connection, f"test -x {path}")

    async def test_shared_directory(self, guest: BootedGuest) -> None:
        (guest.share / "from-host").write_text("hello")
        async with guest.ssh() as connection:
            # The module comes after SSH is up.
            await text(connection, "until grep -q virtiofs /proc/filesystems; do usleep 50000; done")
            await text(connection, "mkdir -p /mnt/share && mount -t virtiofs share /mnt/share")
            assert await text(connection, "cat /mnt/share/from-host; echo back >/mnt/share/from-guest") == "hello"
            await text(connection, "umount /mnt/share")
        assert (guest.share / "from-guest").read_text() == "back\n"

    async def test_interface_type_that_tests_add(self, guest: BootedGuest) -> None:
        async with guest.ssh() as connection:
            await text(connection, "modprobe dummy && ip link add probe0 type dummy && ip link del probe0")

    async def test_console_says_when_ssh_is_up_and_nothing_of_connections(self, guest: BootedGuest) -> None:
        async with guest.ssh() as connection:
            await text(connection, "true")
        assert guest.console.count("guest: sshd is listening on port 22") == 1
        assert "127.0.0.1" not in guest.console
        assert "10.0.2.2" not in guest.console

    async def test_lease_is_asked_for_with_the_hostname(self, guest: BootedGuest) -> None:
        async with guest.ssh() as connection:
            await text(connection, "true")
        assert b"\x0c\x05guest" in guest.packets.read_bytes()  # option 12

    async def test_orphans_are_reaped_at_once(self, guest: BootedGuest) -> None:
        async with guest.ssh() as connection:
            await text(connection, "for i in 1 2 3 4 5; do (sleep 0.1 &) ; done; sleep 0.5")
            assert await text(connection, "ps -o stat,comm | awk '$1 ~ /^Z/' | wc -l") == "0"


class TestEnd:
    async def test_power_button_ends_it(self, boot: Boot) -> None:
        guest = boot()
        async with guest.ssh() as connection:
            # The button's module comes after SSH is up.
            await text(connection, "until ls -l /proc/$(pidof acpid)/fd | grep input/event; do usleep 50000; done")
        guest.command("system_powerdown")
        elapsed_s = guest.ended_within(END_TIMEOUT_S)
        print(f"ended {elapsed_s:.2f} s after the power button")
        assert "reboot: Power down" in guest.console

    async def test_poweroff_from_inside_ends_it(self, boot: Boot) -> None:
        guest = boot()
        async with guest.ssh() as connection:
            await connection.run("poweroff")
            guest.ended_within(END_TIMEOUT_S)

    async def test_disk_outlives_a_reboot_and_clones_have_their_own_keys(self, boot: Boot, guest: BootedGuest) -> None:
        ours = boot()
        identity = "cat /proc/sys/kernel/random/boot_id"
        keys = "cat /etc/ssh/ssh_host_ed25519_key.pub"
        async with ours.ssh() as connection:
            await text(connection, "echo kept >/root/note")
            before, key = await text(connection, identity), await text(connection, keys)
            await connection.run("reboot")
        deadline = time.monotonic() + BOOT_TIMEOUT_S
        while True:
            async with ours.ssh() as connection:
                with contextlib.suppress(asyncssh.Error, OSError):
                    if await text(connection, identity) != before:
                        assert await text(connection, "cat /root/note") == "kept"
                        assert await text(connection, keys) == key
                        break
            assert time.monotonic() < deadline, ours.console
        async with guest.ssh() as connection:
            assert await text(connection, keys) != key


class TestMachines:
    async def test_smallest_memory_and_stock_firmware(self, boot: Boot) -> None:
        guest = boot(memory_mib=MEMORY_MIN_MIB, firmware=STOCK_FIRMWARE)
        async with guest.ssh() as connection:
            assert int(await text(connection, "awk '/MemAvailable/{print $2}' /proc/meminfo")) > 30_000
