"""What `doctor` examines: the agent as its configuration would have it, and what single rooms know of the host."""

import asyncio
import contextlib
import errno
import fcntl
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import yarl

from vzkubelet import aio, config, errors
from vzkubelet.config import Config, DriverChoice
from vzkubelet.daemon import inputs
from vzkubelet.daemon.parts import StateRoot
from vzkubelet.errors import InvalidInput
from vzkubelet.host.probe import Probe
from vzkubelet.host.service import install, place
from vzkubelet.host.subject import Acceleration, Cluster, Program, Subject
from vzkubelet.kube import credentials, kubeconfig, paths
from vzkubelet.kube.client import Client
from vzkubelet.kube.reviews import Reviews
from vzkubelet.machines.qemu import accelerator, bridge
from vzkubelet.machines.qemu.host import PLATFORMS, host_architecture
from vzkubelet.model.node import Node
from vzkubelet.node import facts, identity

NODE_STATE = "node"
ACCESS_TIMEOUT_S = 10.0
_CHECKED_ELSEWHERE = ("--kubeconfig", "APISERVER_")
"""Files that checks of their own look at, with more to say about them."""


@dataclass(frozen=True, slots=True)
class _Settings:
    config: Config
    mistakes: tuple[str, ...] = ()


async def subject(given: Mapping[str, str], probe: Probe, *, in_cluster: bool) -> Subject:
    """Everything about the agent with these flag values over those of the installed service, where there is one.

    Never raises for what is wrong with the host.
    """
    config_home = config.process_environment().get("XDG_CONFIG_HOME")
    service = place.of(probe.facts, Path(config_home) if config_home else None)
    settings = _settings({**_installed(service), **given}, in_cluster=in_cluster)
    driver = settings.config.machines.driver
    if driver is DriverChoice.AUTO:
        driver = DriverChoice.VZ if probe.facts.system == "darwin" else DriverChoice.QEMU
    qemu = driver is DriverChoice.QEMU and probe.facts.system == "linux"
    cluster = await _cluster(settings.config) if in_cluster else None
    program = Path(sys.executable).with_name("macos-vz-kubelet")
    return Subject(
        config=settings.config,
        driver=driver,
        service=service,
        cluster=cluster,
        mistakes=settings.mistakes,
        programs=_programs(settings.config) if qemu else (),
        acceleration=await _acceleration(settings.config, probe) if qemu else None,
        bridge_obstacle=await aio.run_blocking(_bridge_obstacle, settings.config, probe) if qemu else "",
        cache_obstacle=await aio.run_blocking(_cache_obstacle, settings.config),
        address=await _address(settings.config, cluster.server) if cluster is not None else "",
        program=str(program) if program.exists() else "macos-vz-kubelet",
    )


def _installed(service: place.Place) -> Mapping[str, str]:
    """Settings of the service, where there is one: that is the agent to look at, unless flags say otherwise."""
    try:
        return install.read_record(service).settings()
    except errors.NotFound:
        return {}


def _settings(given: Mapping[str, str], *, in_cluster: bool) -> _Settings:
    """What can be understood, and what is wrong with the rest."""
    purpose = config.Purpose.DAEMON if in_cluster else config.Purpose.STANDALONE
    understood, mistakes = config.understand(given, purpose=purpose)
    tried = [*(inputs.client_authority(understood) if in_cluster else ()), *inputs.guests(understood)]
    told = [mistake for mistake in mistakes if not _is_told_elsewhere(mistake)]
    told += inputs.untold(understood, tried, mistakes)
    return _Settings(understood, tuple(told))


def _is_told_elsewhere(mistake: str) -> bool:
    return mistake.startswith(_CHECKED_ELSEWHERE) and ": cannot read " in mistake


async def _cluster(settings: Config) -> Cluster:
    path = settings.kube.kubeconfig
    try:
        access = kubeconfig.load(path)
    except InvalidInput as exc:
        return Cluster(kubeconfig_fault=str(exc))
    if access.server.startswith("https:"):
        try:
            credentials.tls_context(access, b"", b"")
        except InvalidInput as exc:
            return Cluster(access.server, kubeconfig_fault=f"kubeconfig {path}: {exc}")
        try:
            credentials.tls_context(access, access.client_certificate, access.client_key)
        except InvalidInput as exc:
            return Cluster(access.server, access.client_certificate, pair_fault=str(exc))
    user, fault = "", ""
    try:
        async with asyncio.timeout(ACCESS_TIMEOUT_S):
            user = await _own_user(access)
    except errors.Error as exc:
        fault = str(exc)
    except TimeoutError:
        fault = f"the API server {access.server} did not answer within {ACCESS_TIMEOUT_S:g} s"
    return Cluster(access.server, access.client_certificate, user, access_fault=fault)


async def _address(settings: Config, server: str) -> str:
    """What the agent would tell the API server; empty where it cannot be found out."""
    if settings.node.ip or not server:
        return settings.node.ip or ""
    url = yarl.URL(server)
    try:
        async with asyncio.timeout(ACCESS_TIMEOUT_S):
            return await aio.run_blocking(facts.route_address, url.host or "", url.port or 443)
    except (errors.Unavailable, TimeoutError):
        return ""


def _cache_obstacle(settings: Config) -> str:
    """Why the agent could not keep its state: tried as it does, in the same places, and nothing is left of it."""
    for directory in (settings.cache_dir / NODE_STATE, settings.cache_dir / "images"):
        try:
            _try_directory(directory.absolute())
        except OSError as exc:
            return f"--cache-dir: cannot use {directory}: {exc.strerror}"
    return ""


def _try_directory(wanted: Path) -> None:
    """Make a directory, write and lock a file where `wanted` is or will be. Raises: OSError."""
    existing = next(path for path in (wanted, *wanted.parents) if os.path.lexists(path))
    if existing.is_symlink() and not existing.exists():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(existing))
    with tempfile.TemporaryDirectory(prefix=".trial-", dir=existing) as directory:
        descriptor = os.open(Path(directory) / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.pwrite(descriptor, b"1", 0)
        finally:
            os.close(descriptor)


async def _own_user(access: kubeconfig.Access) -> str:
    client = Client(credentials.Credentials(access, environment=config.process_environment()))
    try:
        name = await Reviews(client).own_name()
        # The name may have come from the certificate alone: ask for something that this node may see.
        with contextlib.suppress(errors.NotFound):  # not registered yet
            await client.get(paths.node(name.removeprefix(identity.USER_PREFIX)), Node)
        return name
    finally:
        await client.close()


def _programs(settings: Config) -> tuple[Program, ...]:
    kind = PLATFORMS[host_architecture()]
    bridged = settings.machines.network is not config.GuestNetwork.USER
    firmware = (settings.machines.firmware,) if settings.machines.firmware else tuple(map(Path, kind.firmware))
    libexec = tuple(Path(directory) / "virtiofsd" for directory in ("/usr/libexec", "/usr/lib/qemu", "/usr/bin"))
    return (
        Program(kind.program, kind.package, "it runs the machines"),
        Program("UEFI firmware", kind.firmware_package, "machines start with it", firmware),
        Program("virtiofsd", "qemu-system-common virtiofsd", "volumes are shared with it", libexec),
        Program("unshare", "util-linux", "read-only volumes are shared with it", required=False),
        Program("dnsmasq", "dnsmasq-base", "it gives bridged guests their addresses", required=False),
        Program("ip", "iproute2", "it makes the bridge", required=bridged),
        Program("iptables", "iptables", "guests reach the world through it", required=False),
    )


def _bridge_obstacle(settings: Config, probe: Probe) -> str:
    """Tried as the driver does, with an interface that is gone at once; programs are looked for elsewhere."""
    ip, dnsmasq = probe.which("ip"), probe.which("dnsmasq")
    if settings.machines.network is config.GuestNetwork.USER or probe.facts.uid != 0 or ip is None or dnsmasq is None:
        return ""
    return bridge.obstacle(str(ip), str(dnsmasq))


async def _acceleration(settings: Config, probe: Probe) -> Acceleration | None:
    """The agent's own verdict of this boot, or a trial: one that hangs must not hang at every look."""
    architecture = host_architecture()
    qemu = probe.which(PLATFORMS[architecture].program)
    obstacle = accelerator.precondition(architecture)
    if obstacle or qemu is None:
        return Acceleration(works=False, reason=obstacle or "there is no QEMU to try it with")
    with tempfile.TemporaryDirectory(prefix="kvm-trial-") as directory:
        kept = StateRoot(settings.cache_dir / NODE_STATE).machines.absolute()
        verdict_file = (kept if os.access(kept, os.W_OK | os.X_OK) else Path(directory)) / "kvm.json"
        try:
            await accelerator.KvmProof(str(qemu), architecture, verdict_file).accelerator()
            verdict = msgspec.json.decode(verdict_file.read_bytes(), type=accelerator.KvmVerdict)
        except (OSError, msgspec.DecodeError, errors.Error) as exc:
            return Acceleration(works=False, reason=f"it could not be tried: {errors.clip(str(exc))}")
    return Acceleration(verdict.works, verdict.reason)
