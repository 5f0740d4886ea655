"""Guests for tests: real SSH servers in small systems of their own, and the synthetic guest."""

import itertools
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from tests.support import bsd_system, ssh_systems
from tests.support.ssh_systems import SshSystem
from vzkubelet.guests.guest import SshGuest, SshGuests
from vzkubelet.guests.ssh import ConnectPolicy, Login
from vzkubelet.ports import GuestAddress

SYSTEMS = ("openssh-dash", "openssh-bash", "dropbear-busybox", "openssh-zsh-bsd")

POLICY = ConnectPolicy(lost_after_s=10.0)

_numbers = itertools.count(1)


def fresh_id() -> str:
    """A process id that no other test of this run uses: systems are shared by the tests of a module."""
    return f"test-{next(_numbers)}"


def address(system: SshSystem) -> GuestAddress:
    return GuestAddress("127.0.0.1", "127.0.0.1", system.port)


async def connect(system: SshSystem, login: Login | None = None, policy: ConnectPolicy = POLICY) -> SshGuest:
    login = login or Login("root", ssh_systems.PASSWORD)
    return await SshGuests(login, policy).connect(address(system), system.directory / f"key-{login.user}", 20.0)


def make_system(name: str, factory: pytest.TempPathFactory) -> SshSystem:
    directory = factory.mktemp(name)
    for parent in (directory, *directory.parents[:2]):
        parent.chmod(0o755)  # the systems' other users pass through here
    match name.partition("-"):
        case ("dropbear", _, _):
            return ssh_systems.dropbear(directory)
        case (_, _, "zsh-bsd"):
            return bsd_system.openssh_bsd(directory)
        case (_, _, shell):
            return ssh_systems.openssh(directory, shell)


@pytest.fixture(scope="module", params=SYSTEMS)
def ssh_system(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshSystem]:
    """One of the systems, running; shared by the tests of a module."""
    system = make_system(request.param, tmp_path_factory)
    system.start()
    yield system
    system.stop()


@pytest_asyncio.fixture
async def ssh_guest(ssh_system: SshSystem) -> AsyncIterator[SshGuest]:
    """The system's root, logged in by password."""
    guest = await connect(ssh_system)
    yield guest
    await guest.close()
