"""The parts that every composition shares: driver, images, guests, side-cars and volumes around one state directory."""

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from vzkubelet import errors, files, ports
from vzkubelet.aio import SystemClock
from vzkubelet.config import Config, helper_environment
from vzkubelet.daemon import image_keeper
from vzkubelet.daemon.image_access import image_access
from vzkubelet.daemon.prepull import PullSlots
from vzkubelet.guests.guest import SshGuests
from vzkubelet.guests.ssh import ConnectPolicy, Login
from vzkubelet.images.library import Library
from vzkubelet.images.rate import RateLimit
from vzkubelet.images.upkeep import Upkeep
from vzkubelet.machines import selection
from vzkubelet.machines.qemu.driver import QemuDriver
from vzkubelet.machines.synthetic import SyntheticDriver
from vzkubelet.machines.synthetic_guest import SyntheticGuests
from vzkubelet.machines.vz.driver import VzDriver, VzSetup
from vzkubelet.pods.directory import PodDirectories
from vzkubelet.pods.machine_limit import MachineLimit
from vzkubelet.pods.machine_runtime import MachineRuntime
from vzkubelet.pods.machine_session import Parts as MachineParts
from vzkubelet.pods.world import NodeFacts, World
from vzkubelet.sidecars import Sidecars
from vzkubelet.volumes import Volumes

IMAGES = "images"
"""In the cache directory: the store."""
FIRMWARE = "firmware.fd"
"""In the cache directory: UEFI code for emulated guests, where the user has put one."""
HOST_STATE = "vz-host"
"""In the cache directory: what agents of one host share, where no place of the host is named for it."""
GUEST_LOST_AFTER_S = 600.0
"""A running machine whose SSH server does not answer is given up after this: hosts are suspended and overloaded, and
guests restart their network."""


@dataclass(frozen=True, slots=True)
class StateRoot:
    """One agent's own state below the cache: two agents never share one, images are shared by all."""

    path: Path

    @property
    def pods(self) -> Path:
        return self.path / "pods"

    @property
    def machines(self) -> Path:
        return self.path / "machines"

    @property
    def volumes(self) -> Path:
        return self.path / "volumes"

    @property
    def owner(self) -> str:
        """Names this state directory to shared services (the Docker engine's labels)."""
        return hashlib.sha256(str(self.path.absolute()).encode()).hexdigest()[:16]

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold the state for this process, which leaves its pid in the lock file.

        Raises:
            AlreadyExists: another process holds it. InvalidInput: the directory cannot be made or written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise errors.InvalidInput(f"--cache-dir: cannot use {self.path}: {exc.strerror}") from exc
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as exc:
                raise errors.AlreadyExists(f"{self.path} is in use by process {self.holder() or 'unknown'}") from exc
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
            try:
                yield
            finally:
                os.ftruncate(descriptor, 0)  # a pid that is written down is that of a holder
        finally:
            os.close(descriptor)

    def is_held(self) -> bool:
        try:
            with (self.path / "lock").open() as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def holder(self) -> int | None:
        """The process that holds the state, as it wrote itself down."""
        pid = (files.read_if_present(self.path / "lock") or b"").decode()
        return int(pid) if pid.isdigit() else None


class Parts:
    """Everything a pod worker needs that does not depend on where pods come from."""

    def __init__(self, config: Config, root: StateRoot, *, evicts_images: bool = False) -> None:
        """`evicts_images`: what no pod here uses may be removed when a pull needs room. Only for who knows all pods.

        Raises InvalidInput or Unsupported when the driver cannot run on this host.
        """
        self.root = root
        self.clock = SystemClock()
        self.driver = selection.select(
            config.machines.driver,
            root.machines,
            guest_network=config.machines.network,
            firmware=config.machines.firmware or _cached_firmware(config),
            vz=VzSetup(
                config.vz,
                config.machines.bridge_interface,
                config.vz.host_dir or config.cache_dir / HOST_STATE,
                helper_environment(),
            ),
        )
        self.images_in_use: Callable[[], Collection[str]] = frozenset
        """Whoever runs pods says what must not be removed."""
        self.upkeep = Upkeep(
            config.cache_dir / IMAGES,
            in_use=lambda: self.images_in_use(),
            evicts=evicts_images,
            rules=image_keeper.rules(config.images),
        )
        rate = RateLimit(config.images.pull_rate_bytes_per_s)
        self.images = self._library(config, rate, config.images.max_parallel_pulls + 1)  # and one ahead of pods
        self.directories = PodDirectories(root.pods)
        self.limit = MachineLimit()
        guests = _guests(config, self.driver)
        self.machines = MachineRuntime(
            MachineParts(
                self.driver,
                self.images,
                guests,
                self.directories,
                self.clock,
                self.limit,
                config.guests.ssh_readiness_timeout_s,
            )
        )
        self.image_access = image_access(config)
        self.pull_slots = PullSlots(config.images.max_parallel_pulls)
        self._docker_host = config.sidecars.docker_host
        self._sidecars: Sidecars | None = None

    @property
    def sidecars(self) -> Sidecars:
        """Made when it is first asked for: before `open` nobody knows the network that guests and side-cars share."""
        if self._sidecars is None:
            self._sidecars = Sidecars(self._docker_host, self.driver.network(), self.root.owner)
        return self._sidecars

    def ahead_library(self, config: Config) -> Library:
        """For images that no pod waits for: one with a rate of its own where one is set."""
        if not config.images.prepull_rate_bytes_per_s:
            return self.images
        return self._library(config, RateLimit(config.images.prepull_rate_bytes_per_s), 1)

    def _library(self, config: Config, rate: RateLimit, streams: int) -> Library:
        return Library(
            config.cache_dir / IMAGES,
            self.driver.platforms,
            streams=streams,
            concurrency=config.images.pull_concurrency,
            rate=rate,
            supports=self.driver.hardware_model_refusal if isinstance(self.driver, VzDriver) else None,
            make_room=self.upkeep.make_room,
        )

    async def open(self) -> None:
        """Adopt what an earlier process left."""
        await self.images.recover()
        await self.driver.adopt()
        await self.image_access.recover(self.image_finders())

    def image_finders(self) -> Mapping[ports.ImageKind, Callable[[str], Awaitable[ports.Image | None]]]:
        """Who can say whether an image is on this host, without using it."""
        return {ports.ImageKind.MACHINE: self.images.known, ports.ImageKind.SIDECAR: self.sidecars.find_image}

    def world(
        self,
        objects: ports.Objects,
        recorder: ports.Recorder,
        api_server: ports.PodStatusWriter,
        node: Callable[[], NodeFacts],
    ) -> World:
        volumes = Volumes(self.root.volumes, objects, node)
        return World(
            self.machines,
            self.sidecars,
            volumes,
            objects,
            recorder,
            api_server,
            self.clock,
            node,
            self.image_access,
            self.pull_slots,
        )

    async def close(self) -> None:
        """Let go; machines and side-cars run on."""
        await self.machines.close()
        if self._sidecars is not None:
            await self._sidecars.close()
        await self.image_access.close()
        await self.images.close()
        await self.driver.close()

    async def tear_down_network(self) -> None:
        """Give back the guests' network, once no machine is left that uses it."""
        if await self.driver.machines():
            return
        if self.driver.network() is not None:
            with contextlib.suppress(errors.Unavailable):  # no engine, no network of ours in it
                await self.sidecars.tear_down()
        if isinstance(self.driver, QemuDriver):
            await self.driver.tear_down()


def _cached_firmware(config: Config) -> Path | None:
    """The firmware that `make image` leaves in the cache for the guests of this repository."""
    file = config.cache_dir / FIRMWARE
    return file if file.exists() else None


def _guests(config: Config, driver: ports.MachineDriver) -> ports.Guests:
    if isinstance(driver, SyntheticDriver):
        return SyntheticGuests(driver)
    login, policy = guest_access(config)
    return SshGuests(login, policy)


def guest_access(config: Config) -> tuple[Login, ConnectPolicy]:
    settings = config.guests
    login = Login(
        settings.ssh_user,
        settings.ssh_password,
        key_path=settings.ssh_key_path,
        key=settings.ssh_key,
        passphrase=settings.ssh_key_passphrase,
    )
    policy = ConnectPolicy(
        lost_after_s=GUEST_LOST_AFTER_S,
        login_timeout_s=settings.ssh_dial_timeout_s,
        kex_algorithms=settings.ssh_kex_algorithms,
    )
    return login, policy
