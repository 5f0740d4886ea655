"""Small systems with a real SSH server, each in namespaces of its own: the guest channel's counterpart without a VM.

A system has its own users (with passwords), processes, mounts and host name; it listens on a loopback port of this
machine. Nothing of the machine's own set-up is changed, and all of it ends with the process that `stop` kills.
"""

import contextlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

PASSWORD = "correct horse"

_PASSWD = """root:x:0:0:root:{home}:{shell}
runner:x:1000:1000:runner:{home}-runner:{shell}
nobody:x:65534:65534:nobody:/nonexistent:/bin/sh
sshd:x:105:65534::/run/sshd:/bin/sh
"""
_GROUP = "root:x:0:\nrunner:x:1000:\nextra:x:2000:runner\nvideo:x:44:\nnogroup:x:65534:\n"

_SSHD_CONFIG = """ListenAddress 127.0.0.1:{port}
HostKey {directory}/host_key
AuthorizedKeysFile {directory}/authorized_keys
PasswordAuthentication yes
KbdInteractiveAuthentication no
PermitRootLogin yes
StrictModes no
UsePAM no
UseDNS no
PidFile none
"""


@dataclass(slots=True)
class SshSystem:
    """A running system. `port` stays the same over `stop` and `start`."""

    name: str
    directory: Path
    port: int
    _boot: str
    _server: str
    _process: subprocess.Popen[bytes] | None = None
    _log: Path = field(init=False)

    def __post_init__(self) -> None:
        self._log = self.directory / "server.log"

    @property
    def client_key(self) -> Path:
        return self.directory / "client_key"

    @property
    def root(self) -> Path:
        """The system's file system as this machine sees it."""
        return Path(f"/proc/{self._init()}/root")

    def start(self) -> None:
        # The first process of a PID namespace: with it all others go.
        command = ["unshare", "--mount", "--pid", "--uts", "--fork", "--kill-child", "--propagation", "private"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "sh", "-ec", self._boot], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def cut_connections(self) -> None:
        """Kill what serves the connections, as a crash or a cut cable would end them; what they started lives on."""
        for pid in _children(self._init()):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if Path(f"/proc/{pid}/comm").read_text().strip() == self._server:
                    os.kill(pid, signal.SIGKILL)

    def processes(self) -> list[str]:
        """The command lines of all its processes but the server's own."""
        found = []
        for pid in _descendants(self._init()):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if Path(f"/proc/{pid}/comm").read_text().strip() != self._server:
                    found.append(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip())
        return [line for line in found if line]

    def _init(self) -> int:
        assert self._process is not None
        return next(iter(_children(self._process.pid)))


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _descendants(pid: int) -> Iterator[int]:
    with contextlib.suppress(FileNotFoundError):
        for child in _children(pid):
            yield child
            yield from _descendants(child)


def openssh(directory: Path, shell: str = "dash") -> SshSystem:
    """Debian with OpenSSH; `shell` is the users' login shell and what ``/bin/sh`` is."""
    port = free_port()
    _write_users(directory, directory / "home", f"/bin/{shell}")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", directory / "host_key"], check=True)
    client_key(directory)
    (directory / "sshd_config").write_text(_SSHD_CONFIG.format(port=port, directory=directory))
    here = shlex.quote(str(directory))
    boot = [
        "mount -t proc proc /proc",
        "mount -t tmpfs tmpfs /run",
        "mkdir -p /run/sshd",
        *(f"mount --bind {here}/{name} /etc/{name}" for name in ("passwd", "group", "shadow")),
        *([] if shell == "dash" else [f"mount --bind /bin/{shell} /bin/dash"]),
        f"exec /usr/sbin/sshd -D -e -f {here}/sshd_config",
    ]
    return SshSystem(f"openssh-{shell}", directory, port, "\n".join(boot), "sshd")


def dropbear(directory: Path) -> SshSystem:
    """A root file system of busybox and dropbear, as small Linux guests have."""
    port = free_port()
    root = directory / "root"
    for name in (
        "bin",
        "sbin",
        "usr/bin",
        "usr/sbin",
        "etc/dropbear",
        "proc",
        "dev",
        "run",
        "tmp",
        "root",
        "root-runner",
    ):
        (root / name).mkdir(parents=True)
    (root / "var").mkdir()
    (root / "var/run").symlink_to("../run")
    os.chown(root / "root-runner", 1000, 1000)
    (root / "tmp").chmod(0o1777)
    shutil.copy(_program("busybox"), root / "bin/busybox")
    subprocess.run(["chroot", root, "/bin/busybox", "--install", "-s"], check=True)
    for name in ("dropbear", "setpriv"):
        _install(_program(name), root / "usr/sbin" / name)
    (root / "usr/bin/setpriv").unlink(missing_ok=True)
    (root / "bin/setpriv").unlink(missing_ok=True)
    shutil.move(root / "usr/sbin/setpriv", root / "bin/setpriv")
    _write_users(root / "etc", Path("/root"), "/bin/sh")
    client_key(directory)
    (root / "root/.ssh").mkdir(mode=0o700)
    shutil.copy(directory / "authorized_keys", root / "root/.ssh/authorized_keys")
    keys = []
    for kind in ("rsa", "ecdsa", "ed25519"):
        key = root / f"etc/dropbear/dropbear_{kind}_host_key"
        subprocess.run(["dropbearkey", "-t", kind, "-f", key], check=True, capture_output=True)
        keys.append(f"-r /etc/dropbear/{key.name}")
    here = shlex.quote(str(root))
    boot = [
        f"mount --bind {here} {here}",
        f"mount -t proc proc {here}/proc",
        f"mount --rbind /dev {here}/dev",
        f"exec chroot {here} /usr/sbin/dropbear -F -E -m -p 127.0.0.1:{port} -P /run/dropbear.pid {' '.join(keys)}",
    ]
    return SshSystem("dropbear-busybox", directory, port, "\n".join(boot), "dropbear")


def _write_users(directory: Path, home: Path, shell: str) -> None:
    digest = subprocess.run(["openssl", "passwd", "-6", PASSWORD], check=True, capture_output=True, text=True)
    (directory / "passwd").write_text(_PASSWD.format(home=home, shell=shell))
    (directory / "group").write_text(_GROUP)
    users = ("root", "runner")
    (directory / "shadow").write_text("".join(f"{user}:{digest.stdout.strip()}:19000:0:99999:7:::\n" for user in users))
    (directory / "shells").write_text(f"{shell}\n")
    if directory in home.parents:
        home.mkdir(mode=0o700)
        runner = home.with_name(f"{home.name}-runner")
        runner.mkdir(mode=0o700)
        os.chown(runner, 1000, 1000)


def client_key(directory: Path) -> None:
    key = directory / "client_key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    shutil.copy(key.with_suffix(".pub"), directory / "authorized_keys")


def _install(program: Path, target: Path) -> None:
    """Copy a program and the libraries it is linked with into the root that `target` is in."""
    root = target.parents[2]
    shutil.copy(program, target)
    for line in subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout.splitlines():
        library = next((word for word in line.split() if word.startswith("/")), None)
        if library is not None:
            place = root / library.lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(library, place)


def _program(name: str) -> Path:
    path = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    assert path is not None, f"{name} is not installed: run make setup"
    return Path(path)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
