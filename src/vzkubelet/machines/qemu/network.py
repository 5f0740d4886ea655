"""What a driver needs of a guest network, and the network that needs no privileges."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass
from typing import Protocol

from vzkubelet.machines.addresses import MacAddress
from vzkubelet.ports import GuestAddress, HostNetwork

SSH_PORT = 22
USER_GUEST_IP = "10.0.2.15"
"""What QEMU's user network gives every guest; nobody but the guest itself can reach it."""


LOOPBACK = "127.0.0.1"
_ANSWER_S = 0.3
"""A guest with an address answers or refuses a connection at once, even when its host is busy."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """One machine's place in the network, handed to its QEMU."""

    netdev: str
    descriptors: tuple[int, ...] = ()


class GuestNetwork(Protocol):
    """Where guests live. Everything may be repeated."""

    forwards_ssh: bool
    """The guest is reached through a loopback port that QEMU chose."""

    def host_network(self) -> HostNetwork | None: ...

    async def set_up(self) -> None:
        """Make sure it exists and works. Raises Unavailable, Unsupported, MachineFault."""

    def attached(self, uid: str) -> contextlib.AbstractAsyncContextManager[Attachment]:
        """A machine's attachment; the descriptors are closed when the block ends, QEMU has its own by then."""

    async def address(self, mac: MacAddress) -> GuestAddress | None:
        """The guest's address if it is known now."""

    async def release(self, mac: MacAddress) -> None:
        """Forget the address of a machine that has stopped."""

    async def retain(self, macs: Collection[MacAddress]) -> None:
        """Forget the addresses of all machines but these."""

    async def tear_down(self) -> None:
        """Remove what `set_up` made. No machine may run."""


class UserNetwork:
    """QEMU's user networking: outgoing connections only, SSH through a port of the loopback interface."""

    forwards_ssh = True

    def host_network(self) -> HostNetwork | None:
        return None

    async def set_up(self) -> None:
        return

    @contextlib.asynccontextmanager
    async def attached(self, uid: str) -> AsyncIterator[Attachment]:
        # Port 0: QEMU takes a free one itself, so that nobody can take it in between.
        yield Attachment(f"user,id=net0,ipv6=off,hostfwd=tcp:{LOOPBACK}:0-:{SSH_PORT}")

    async def address(self, mac: MacAddress) -> GuestAddress | None:
        return None

    async def release(self, mac: MacAddress) -> None:
        return

    async def retain(self, macs: Collection[MacAddress]) -> None:
        return

    async def tear_down(self) -> None:
        return


async def forwards(port: int) -> bool:
    """Whether a guest is behind a forwarded port: QEMU accepts in its place from the start, but then nothing comes.

    Any answer will do, also an end of the connection: it takes an address to refuse one.
    """
    try:
        async with asyncio.timeout(_ANSWER_S):
            reader, writer = await asyncio.open_connection(LOOPBACK, port)
    except (OSError, TimeoutError):
        return False
    try:
        async with asyncio.timeout(_ANSWER_S):
            await reader.read(1)
    except TimeoutError:
        return False
    except OSError:
        return True
    finally:
        writer.transport.abort()
    return True
