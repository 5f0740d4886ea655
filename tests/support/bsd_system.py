"""A system that is laid out like macOS, with a real OpenSSH server and zsh: the guest channel's counterpart on Linux.

``/`` is read-only and its entries are links into ``/private``, as on a sealed system volume; ``/Users``, ``/Volumes``,
``/private`` and ``/usr/local`` can be written. ``/proc``, ``/dev`` and ``/run`` are there for the tests' own programs.
"""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

from tests.support import bsd_tools
from tests.support.ssh_systems import PASSWORD, SshSystem, client_key, free_port

TOOLS = "/private/var/tools"

_PASSWD = """root:x:0:0:System Administrator:/private/var/root:/bin/zsh
runner:x:1000:1000:runner:/Users/runner:/bin/zsh
admin:x:501:20:admin:/Users/admin:/bin/zsh
guarded:x:502:20:asked for a password by sudo:/Users/guarded:/bin/zsh
nobody:x:65534:65534:Unprivileged User:/var/empty:/usr/bin/false
sshd:x:105:65534:sshd Privilege separation:/run/sshd:/usr/bin/false
"""
_GROUP = "root:x:0:\nrunner:x:1000:\nextra:x:2000:runner\nvideo:x:44:\nstaff:x:20:\nnogroup:x:65534:\n"

_SUDOERS = """Defaults env_reset, !lecture, !fqdn
root ALL=(ALL) ALL
admin ALL=(ALL) NOPASSWD: ALL
guarded ALL=(ALL) ALL
"""

_PAM = "auth required pam_unix.so\naccount required pam_unix.so\nsession required pam_permit.so\n"

_SSHD_CONFIG = """ListenAddress 127.0.0.1:{port}
HostKey /private/etc/ssh/host_key
AuthorizedKeysFile /private/etc/ssh/authorized_keys
PasswordAuthentication yes
KbdInteractiveAuthentication no
PermitRootLogin yes
StrictModes no
UsePAM no
UseDNS no
PidFile none
PrintLastLog no
SetEnv PATH={tools}
"""

_WRITABLE = ("private", "Users", "Volumes", "Library", "opt", "run", "usr-local")


def openssh_bsd(directory: Path) -> SshSystem:
    """macOS as far as scripts see it; root, `runner`, `admin` (sudo without a password) and `guarded` may log in."""
    port = free_port()
    root, data = directory / "root", directory / "data"
    for name in ("usr", "proc", "dev", *_WRITABLE[:-1]):
        (root / name).mkdir(parents=True)
    for name in _WRITABLE:
        (data / name).mkdir(parents=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        if Path("/", name).is_symlink():
            (root / name).symlink_to(f"usr/{name}")
        elif Path("/", name).is_dir():  # not usr-merged
            (root / name).mkdir()
    apfs = root / "System/Library/Filesystems/apfs.fs/Contents/Resources"
    apfs.mkdir(parents=True)
    (apfs / "apfs.util").symlink_to(f"{TOOLS}/apfs.util")
    for name in ("etc", "tmp", "var"):
        (root / name).symlink_to(f"private/{name}")
    _fill_private(directory, data / "private", port)
    for user, uid, gid in (("runner", 1000, 1000), ("admin", 501, 20), ("guarded", 502, 20)):
        home = data / "Users" / user
        home.mkdir(mode=0o700)
        os.chown(home, uid, gid)
    return SshSystem("openssh-zsh-bsd", directory, port, "\n".join(_boot(root, data)), "sshd")


def _boot(root: Path, data: Path) -> list[str]:
    here, there = shlex.quote(str(root)), shlex.quote(str(data))
    unmerged = [
        f"mount --bind /{name} {here}/{name}"
        for name in ("bin", "sbin", "lib", "lib64")
        if Path("/", name).is_dir() and not Path("/", name).is_symlink()
    ]
    return [
        f"mount --bind {here} {here}",
        f"mount --bind /usr {here}/usr",
        f"mount --bind {there}/usr-local {here}/usr/local",
        *unmerged,
        *(f"mount --bind {there}/{name} {here}/{name}" for name in _WRITABLE[:-1]),
        f"mount -t proc proc {here}/proc",
        f"mount --rbind /dev {here}/dev",
        f"mount --bind {here}/usr/bin/bash {here}/usr/bin/dash",  # macOS: bash called sh
        f"mkdir -p {here}/run/sshd",
        f"mount -o remount,ro,bind {here}",
        f"exec chroot {here} /usr/sbin/sshd -D -e -f /private/etc/ssh/sshd_config",
    ]


def _fill_private(directory: Path, private: Path, port: int) -> None:
    for name in (
        "etc/ssh",
        "etc/pam.d",
        "tmp",
        "var/root",
        "var/run",
        "var/db",
        "var/tmp",
        "var/log",
        "var/host",
        "var/empty",
    ):
        (private / name).mkdir(parents=True)
    for name in ("tmp", "var/tmp"):
        (private / name).chmod(0o1777)
    (private / "var/root").chmod(0o700)
    (private / "var/log/lastlog").touch()  # without it OpenSSH complains on terminals
    bsd_tools.install(private / TOOLS.removeprefix("/private/"))
    etc = private / "etc"
    digest = subprocess.run(["openssl", "passwd", "-6", PASSWORD], check=True, capture_output=True, text=True)
    users = ("root", "runner", "admin", "guarded")
    (etc / "passwd").write_text(_PASSWD)
    (etc / "group").write_text(_GROUP)
    (etc / "shadow").write_text("".join(f"{user}:{digest.stdout.strip()}:19000:0:99999:7:::\n" for user in users))
    (etc / "sudoers").write_text(_SUDOERS)
    (etc / "sudoers").chmod(0o440)
    for service in ("sudo", "other"):
        (etc / "pam.d" / service).write_text(_PAM)
    for name in ("ld.so.cache", "nsswitch.conf", "login.defs"):
        if Path("/etc", name).exists():
            shutil.copy(Path("/etc", name), etc / name)
    client_key(directory)
    shutil.copy(directory / "authorized_keys", etc / "ssh/authorized_keys")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", etc / "ssh/host_key"], check=True)
    (etc / "ssh/sshd_config").write_text(_SSHD_CONFIG.format(port=port, tools=TOOLS))
