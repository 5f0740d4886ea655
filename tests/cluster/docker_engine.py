"""A private Docker engine: dockerd and containerd with their own data, sockets and bridge."""

import contextlib
import http.client
import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from tests.cluster.bridges import create_bridge
from tests.cluster.docker_api import DockerApi, DockerApiError
from tests.cluster.processes import (
    ChildProcess,
    ComponentFailed,
    Lifetime,
    ProcessRecord,
    spawn,
    start_identity,
    stop_recorded,
    wait_until,
)
from tests.cluster.registry import Registry
from tests.cluster.run_state import Leftovers, remove_leftovers

START_TIMEOUT_S = 60.0
RUNTIME_ROOT = Path("/run")
RUNTIME_PREFIX = "vzk-docker-"
OWNER_FILE = "owner.json"
BUSYBOX = "busybox:test"
# Plugins that a Docker engine never uses; several look at devices or create directories outside of ours.
_DISABLED_PLUGINS = (
    "io.containerd.grpc.v1.cri",
    "io.containerd.internal.v1.opt",
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.zfs",
)


class _Owner(msgspec.Struct, frozen=True):
    """The test process that an engine belongs to, and what to clear up when it was killed."""

    pid: int
    start_identity: str
    daemons: tuple[ProcessRecord, ...]
    leftovers: Leftovers


class DockerEngine:
    """An engine whose data is in `directory` (root only).

    `bridge` names an existing bridge that containers attach to, or `none`; by default the engine makes one with a free
    subnet and deletes it when it stops. No packet filter rule is written: containers reach each other and this
    machine, nothing else, and engines do not disturb one another.
    """

    def __init__(
        self,
        directory: Path,
        *,
        bridge: str | None = None,
        lifetime: Lifetime = Lifetime.WITH_PARENT,
        on_start: Callable[[ProcessRecord], None] = lambda _: None,
        on_leftovers: Callable[[Leftovers], None] = lambda _: None,
    ) -> None:
        self.directory = directory.absolute()
        self._wanted_bridge = bridge
        self.bridge = bridge
        self._lifetime = lifetime
        self._on_start = on_start
        self._on_leftovers = on_leftovers
        self._runtime: Path | None = None
        self._leftovers = Leftovers()
        self._children: list[ChildProcess] = []

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def socket(self) -> Path:
        assert self._runtime, "the engine has not been started"
        return self._runtime / "docker.sock"

    @property
    def host(self) -> str:
        """Value for DOCKER_HOST."""
        return f"unix://{self.socket}"

    @property
    def api(self) -> DockerApi:
        return DockerApi(self.socket)

    def start(self) -> None:
        """Start containerd and dockerd; returns when the engine answers.

        Raises: ComponentFailed with the end of the log of what failed; then nothing is left.
        """
        if os.geteuid() != 0:
            raise ComponentFailed("a private Docker engine needs root")
        programs = {name: shutil.which(name) for name in ("containerd", "dockerd")}
        if missing := [name for name, path in programs.items() if not path]:
            raise ComponentFailed(
                f"{' and '.join(missing)} not installed: run `make setup`, or apt-get install docker.io"
            )
        try:
            self._prepare()
            self._start_containerd()
            self._start_dockerd()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Remove all containers, stop both daemons, unmount, delete the bridge. Images stay in `directory`."""
        if self._children and self._children[-1].record.name == "dockerd":
            # A dead engine is what some tests make; its containers are found as leftovers.
            with contextlib.suppress(OSError, http.client.HTTPException, DockerApiError):
                self.api.remove_all_containers()
        while self._children:
            self._children.pop().stop()
        remove_leftovers(self._leftovers)
        self._leftovers = Leftovers()
        self._runtime = None

    def kill(self) -> None:
        """SIGKILL dockerd alone, as a crash would: containers go on under containerd."""
        self._children.pop().kill()

    def restart_dockerd(self) -> None:
        """Start dockerd again on its old socket, after `kill` or with a graceful stop."""
        if self._children[-1].record.name == "dockerd":
            self._children.pop().stop()
        self._start_dockerd()

    def import_busybox(self, reference: str = BUSYBOX) -> str:
        """Make a small image from this machine's static busybox; returns the image ID.

        Raises: ComponentFailed without busybox-static, DockerApiError.
        """
        repository, _, tag = reference.rpartition(":")
        changes = ["ENV PATH=/bin:/sbin:/usr/bin:/usr/sbin", 'CMD ["sh"]']
        self.api.import_image(busybox_archive(), repository, tag, changes)
        return self.api.image_id(reference)

    def push_busybox(self, registry: Registry, name: str = BUSYBOX) -> str:
        """Put the busybox image into a registry and return its reference there; nothing of it stays in this engine."""
        reference = f"{registry.host}/{name}"
        self.import_busybox(reference)
        repository, _, tag = reference.rpartition(":")
        auth = registry.basic_auth
        self.api.push(repository, tag, {"username": auth.username, "password": auth.password} if auth else {})
        self.api.remove_image(reference)
        return reference

    def _prepare(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        sweep_killed_engines()
        # Socket addresses end at 107 bytes, and the daemons derive theirs from this directory.
        self._runtime = Path(tempfile.mkdtemp(prefix=RUNTIME_PREFIX, dir=RUNTIME_ROOT))
        bridges: tuple[str, ...] = ()
        if self._wanted_bridge is None:
            self.bridge = create_bridge().name
            bridges = (self.bridge,)
        self._leftovers = Leftovers(
            bridges=bridges,
            mounts_below=(str(self._runtime), str(self.directory)),
            directories=(str(self._runtime),),
            shims_of=str(self._runtime / "containerd.sock"),
        )
        self._on_leftovers(self._leftovers)
        self._write_owner()

    def _write_owner(self) -> None:
        """Tell later engines whom this one belongs to; a daemon belongs to nobody and is never swept."""
        if self._lifetime is Lifetime.WITH_PARENT and self._runtime:
            pid = os.getpid()
            owner = _Owner(
                pid=pid,
                start_identity=start_identity(pid) or "",
                daemons=tuple(child.record for child in self._children),
                leftovers=self._leftovers,
            )
            (self._runtime / OWNER_FILE).write_bytes(msgspec.json.encode(owner))

    def _start_containerd(self) -> None:
        assert self._runtime
        address = self._runtime / "containerd.sock"
        configuration = self._runtime / "containerd.toml"
        configuration.write_text(
            "version = 2\n"
            f"root = {json.dumps(str(self.directory / 'containerd'))}\n"
            f"state = {json.dumps(str(self._runtime / 'containerd'))}\n"
            f"disabled_plugins = {json.dumps(_DISABLED_PLUGINS)}\n"
            f"[grpc]\naddress = {json.dumps(str(address))}\n"
        )
        child = self._spawn("containerd", ["containerd", "--config", str(configuration)])
        wait_until(address.exists, child, what="its socket was there", timeout_s=START_TIMEOUT_S)

    def _start_dockerd(self) -> None:
        assert self._runtime
        configuration = self._runtime / "daemon.json"  # In place of the machine's own.
        configuration.write_text("{}")
        child = self._spawn(
            "dockerd",
            [
                "dockerd",
                f"--config-file={configuration}",
                f"--data-root={self.directory / 'docker'}",
                f"--exec-root={self._runtime / 'docker'}",
                f"--pidfile={self._runtime / 'docker.pid'}",
                f"--host={self.host}",
                "--group=root",
                f"--containerd={self._runtime / 'containerd.sock'}",
                f"--bridge={self.bridge}",
                "--iptables=false",
                "--ip6tables=false",
                "--ip-masq=false",
                "--ip-forward=false",
                "--userland-proxy=false",
                "--shutdown-timeout=3",
            ],
        )
        wait_until(self.api.answers, child, what="it answered on its socket", timeout_s=START_TIMEOUT_S)

    def _spawn(self, name: str, command: list[str]) -> ChildProcess:
        child = spawn(
            name,
            command,
            log=self.directory / f"{name}.log",
            lifetime=self._lifetime,
            stop_grace_s=20.0,
        )
        self._children.append(child)
        self._write_owner()
        self._on_start(child.record)
        return child


def sweep_killed_engines() -> None:
    """Clear up after engines whose test process was killed: a bridge, mounts and containers outlive it."""
    for file in RUNTIME_ROOT.glob(f"{RUNTIME_PREFIX}*/{OWNER_FILE}"):
        with contextlib.suppress(FileNotFoundError):  # Somebody else sweeps, or the engine stops right now.
            owner = msgspec.json.decode(file.read_bytes(), type=_Owner)
            if start_identity(owner.pid) == owner.start_identity:
                continue
            file.rename(file.with_suffix(".swept"))
            for daemon in reversed(owner.daemons):
                stop_recorded(daemon)
            remove_leftovers(owner.leftovers)


def busybox_archive() -> bytes:
    """A root file system around the static busybox, as a tar with fixed times and owners.

    Raises: ComponentFailed when busybox-static is not installed.
    """
    program = shutil.which("busybox")
    if not program:
        raise ComponentFailed("busybox is not installed: run `make setup`, or apt-get install busybox-static")
    applets = subprocess.run([program, "--list"], capture_output=True, text=True, check=True).stdout.split()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for directory, mode in (("bin", 0o755), ("etc", 0o755), ("root", 0o700), ("tmp", 0o1777)):
            _add(archive, directory, tarfile.DIRTYPE, mode)
        _add(archive, "bin/busybox", tarfile.REGTYPE, 0o755, Path(program).read_bytes())
        _add(archive, "etc/passwd", tarfile.REGTYPE, 0o644, b"root:x:0:0:root:/root:/bin/sh\n")
        _add(archive, "etc/group", tarfile.REGTYPE, 0o644, b"root:x:0:\n")
        for applet in sorted(set(applets) - {"busybox"}):
            _add(archive, f"bin/{applet}", tarfile.SYMTYPE, 0o777, link="busybox")
    return buffer.getvalue()


def _add(archive: tarfile.TarFile, name: str, kind: bytes, mode: int, content: bytes = b"", link: str = "") -> None:
    member = tarfile.TarInfo(name)
    member.type, member.mode, member.size, member.linkname = kind, mode, len(content), link
    archive.addfile(member, io.BytesIO(content))
