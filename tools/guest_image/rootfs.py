"""What is in the guest: programs from Debian packages, modules of its kernel, and a handful of scripts."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from .elf import module_dependencies, needed_libraries
from .errors import BuildError
from .tree import Directory, File, Symlink, Tree

FILES = Path(__file__).with_name("files")

# The kernel reaches its disk with these, in this order, dependencies first.
INITRAMFS_MODULES = ("virtio_pci", "virtio_blk")
# `dummy` serves tests that add interfaces, `overlay` and `tun` those that nest; the rest is the guest's own hardware.
ROOT_MODULES = (
    "virtio_net", "virtiofs", "virtio_blk", "virtio-rng", "vmw_vsock_virtio_transport", "button", "evdev",
    "dummy", "overlay", "tun",
)  # fmt: skip
# Program in its package -> place in the guest, over the busybox applet of that name. OpenSSH and not dropbear: it
# serves hundreds of sessions of one connection, passes the environment, and needs no RSA key at the first boot.
PROGRAMS = {
    "usr/sbin/sshd": "/bin/sshd",
    "usr/bin/ssh-keygen": "/bin/ssh-keygen",
    "usr/bin/setpriv": "/bin/setpriv",
}
_LIBRARY_DIRECTORIES = ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu")
_SCRIPTS = {
    "/bin/init": "init",
    "/etc/init.d/network": "network",
    "/etc/init.d/devices": "devices",
    "/etc/init.d/sshd": "sshd",
    "/etc/acpi/PWRF/00000080": "power-button",
    "/etc/udhcpc.script": "udhcpc.script",
}


@dataclass(frozen=True, slots=True)
class GuestSettings:
    """What a caller may choose about the inside of the guest."""

    root_password: str
    hostname: str
    busybox: Path | None = None
    """A static busybox to use instead of Debian's."""
    added: tuple[tuple[str, Path, int], ...] = field(default=())
    """More files: guest path, host file, mode."""


@dataclass(frozen=True, slots=True)
class KernelModules:
    """The modules of one unpacked kernel package, by name as modprobe takes it."""

    release: str
    root: Path
    paths: dict[str, Path]

    @classmethod
    def of(cls, unpacked: Path) -> KernelModules:
        releases = [path for path in (unpacked / "lib/modules").iterdir() if (path / "kernel").is_dir()]
        if len(releases) != 1:
            raise BuildError(f"the kernel package holds {len(releases)} module trees, expected one")
        paths = {path.stem: path for path in sorted(releases[0].rglob("*.ko"))}
        return cls(releases[0].name, releases[0], paths)

    def _path(self, name: str) -> Path:
        for spelling in (name, name.replace("_", "-"), name.replace("-", "_")):
            if spelling in self.paths:
                return self.paths[spelling]
        raise BuildError(f"kernel {self.release} has no module {name}")

    def closure(self, names: tuple[str, ...]) -> list[Path]:
        """The modules and all they depend on, each after its dependencies, without repetition."""
        ordered: list[Path] = []

        def visit(name: str) -> None:
            path = self._path(name)
            if path not in ordered:
                for dependency in module_dependencies(path.read_bytes()):
                    visit(dependency)
                ordered.append(path)

        for name in names:
            visit(name)
        return ordered

    def dependency_line(self, path: Path) -> str:
        """One line of modules.dep: the module, then what it needs, nearest first as depmod writes it."""
        others = [p for p in self.closure((path.stem,)) if p != path]
        needs = " ".join(str(other.relative_to(self.root)) for other in reversed(others))
        return f"{path.relative_to(self.root)}: {needs}".rstrip()


def _busybox(unpacked: Path, settings: GuestSettings) -> Path:
    return settings.busybox or unpacked / "bin/busybox"


def _ask_busybox(program: Path, *arguments: str) -> str:
    """Static and of the host's architecture: it can simply be asked."""
    try:
        done = subprocess.run([program, *arguments], capture_output=True, text=True, check=True, env={})
    except (OSError, subprocess.CalledProcessError) as exc:
        raise BuildError(f"{program} {arguments[0]} does not run on this machine: {exc}") from exc
    return done.stdout


def initramfs(unpacked: Path, modules: KernelModules, settings: GuestSettings) -> Tree:
    """The initial root: busybox, the disk's modules, one script."""
    tree = Tree()
    for path in ("/dev", "/sys", "/root"):
        tree.add(path, Directory())
    tree.add("/bin/busybox", File(_busybox(unpacked, settings).read_bytes(), 0o755))
    for applet in ("insmod", "mount", "poweroff", "sh", "switch_root", "usleep"):
        tree.add(f"/bin/{applet}", Symlink("busybox"))
    tree.add("/init", File((FILES / "initramfs-init").read_bytes(), 0o755))
    needed = modules.closure(INITRAMFS_MODULES)
    for module in needed:
        tree.add(f"/modules/{module.name}", File(module.read_bytes()))
    tree.add("/modules/order", File("".join(f"{path.stem}\n" for path in needed).encode()))
    return tree


def _add_directories(tree: Tree) -> None:
    for path in (
        "/bin",
        "/dev",
        "/etc",
        "/home",
        "/lib",
        "/lib64",
        "/mnt",
        "/opt",
        "/proc",
        "/run",
        "/srv",
        "/sys",
        "/var/log",
    ):
        tree.add(path, Directory())
    tree.add("/root", Directory(0o700))
    tree.add("/home/user", Directory(0o755, 1000, 1000))
    tree.add("/tmp", Directory(0o1777))
    tree.add("/var/tmp", Directory(0o1777))
    tree.add("/var/run", Symlink("../run"))
    tree.add("/sbin", Symlink("bin"))
    for name in ("bin", "sbin"):
        tree.add(f"/usr/{name}", Symlink("../bin"))
    tree.add("/usr/lib", Symlink("../lib"))


def _add_libraries(tree: Tree, unpacked: Path, program: bytes) -> None:
    for soname in needed_libraries(program):
        path = f"/lib/x86_64-linux-gnu/{soname}"
        if path in tree:
            continue
        found = next(
            (unpacked / base / soname for base in _LIBRARY_DIRECTORIES if (unpacked / base / soname).exists()), None
        )
        if found is None:
            raise BuildError(f"no package of the list brings {soname}")
        content = found.read_bytes()
        if soname.startswith("ld-linux"):
            tree.add("/lib64/ld-linux-x86-64.so.2", File(content, 0o755))
            continue
        tree.add(path, File(content))
        _add_libraries(tree, unpacked, content)


def _add_program(tree: Tree, unpacked: Path, source: str, target: str) -> None:
    content = (unpacked / source).read_bytes()
    tree.add(target, File(content, 0o755))
    _add_libraries(tree, unpacked, content)
    tree.add("/lib64/ld-linux-x86-64.so.2", File((unpacked / "lib64/ld-linux-x86-64.so.2").read_bytes(), 0o755))


def _add_accounts(tree: Tree, busybox: Path, settings: GuestSettings) -> None:
    # MD5-crypt: the cheapest hash that every crypt(3) takes. The password of a test image is no secret.
    digest = _ask_busybox(busybox, "mkpasswd", "-m", "md5", "-S", "fixture0", settings.root_password).strip()
    accounts = {
        "/etc/passwd": "root:x:0:0:root:/root:/bin/sh\nsshd:x:100:65534::/run/sshd:/bin/false\n"
        "user:x:1000:1000::/home/user:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
        "/etc/group": "root:x:0:\ntty:x:5:\nuser:x:1000:\nnogroup:x:65534:\n",
        "/etc/hostname": f"{settings.hostname}\n",
        "/etc/hosts": f"127.0.0.1\tlocalhost\n::1\tlocalhost\n127.0.1.1\t{settings.hostname}\n",
        "/etc/shells": "/bin/sh\n",
        "/etc/nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n",
    }
    for path, text in accounts.items():
        tree.add(path, File(text.encode()))
    shadow = f"root:{digest}:19000:0:99999:7:::\nsshd:*:19000::::::\nuser:*:19000:0:99999:7:::\nnobody:*:19000::::::\n"
    tree.add("/etc/shadow", File(shadow.encode(), 0o600))


def _add_modules(tree: Tree, modules: KernelModules) -> None:
    base = f"/lib/modules/{modules.release}"
    needed = modules.closure(INITRAMFS_MODULES + ROOT_MODULES)
    for path in needed:
        tree.add(f"{base}/{path.relative_to(modules.root)}", File(path.read_bytes()))
    lines = sorted(modules.dependency_line(path) for path in needed)
    tree.add(f"{base}/modules.dep", File("".join(f"{line}\n" for line in lines).encode()))


def root(unpacked: Path, modules: KernelModules, settings: GuestSettings) -> Tree:
    """The root file system.

    Raises: BuildError when a package lacks what it should bring.
    """
    tree = Tree()
    _add_directories(tree)
    busybox = _busybox(unpacked, settings)
    tree.add("/bin/busybox", File(busybox.read_bytes(), 0o755))
    for applet in _ask_busybox(busybox, "--list").split():
        if applet != "busybox":
            tree.add(f"/bin/{applet}", Symlink("busybox"))
    tree.add("/etc/ssh/sshd_config", File((FILES / "sshd_config").read_bytes()))
    for target, name in _SCRIPTS.items():
        tree.add(target, File((FILES / name).read_bytes(), 0o755))
    _add_accounts(tree, busybox, settings)
    _add_modules(tree, modules)
    for source, target in PROGRAMS.items():
        _add_program(tree, unpacked, source, target)
    for target, host_path, mode in settings.added:
        try:
            tree.add(target, File(host_path.read_bytes(), mode))
        except (OSError, ValueError) as exc:
            raise BuildError(f"cannot add {host_path} to the guest as {target}: {exc}") from exc
    return tree
