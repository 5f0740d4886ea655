"""Looking for a guest until it is found, or until it is known why not, in virtual time."""

import asyncio
import itertools
import logging
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.unit.machines.test_vz_guest_agent import answer, message
from vzkubelet import aio
from vzkubelet.errors import DeadlineExceeded, Exhausted, Unavailable
from vzkubelet.machines.addresses import ArpEntry, MacAddress
from vzkubelet.machines.vz.lease_pool import SHORTER_LEASES
from vzkubelet.machines.vz.observation import ArpTable, Capture, LeaseFile
from vzkubelet.machines.vz.resolvers import Resolvers, Sought
from vzkubelet.ports import GuestAddress

MAC, OTHER = MacAddress(bytes.fromhex("020000000001")), MacAddress(bytes.fromhex("02000000000a"))
NOW = 1_000_000.0
ADDRESS = GuestAddress("192.168.64.5", "192.168.64.5")


def block(ip: str, mac: MacAddress = MAC, end: float = NOW + 600) -> str:
    hardware = "1," + ":".join(f"{octet:x}" for octet in mac.octets)
    lines = [f"ip_address={ip}", f"hw_address={hardware}", f"identifier={hardware}", f"lease=0x{int(end):x}"]
    return "{\n" + "".join(f"\t{line}\n" for line in lines) + "}\n"


class FixedClock:
    def time(self) -> float:
        return NOW

    def monotonic(self) -> float:
        raise AssertionError("the loop's time is used")


class FakeArp(ArpTable):
    def __init__(self, *entries: ArpEntry, readable: bool = True) -> None:
        super().__init__()
        self.entries = list(entries)
        self.readable = readable

    async def _table(self) -> list[ArpEntry] | None:
        return list(self.entries) if self.readable else None


class FakeCapture(Capture):
    def __init__(self, *seen: str, blind: str = "") -> None:
        super().__init__()
        self.seen = seen
        self.blind = blind
        self.watched: list[str] = []

    def obstacle(self) -> str:
        return self.blind

    async def watch(self, interface: str, mac: MacAddress, seen: Callable[[str], None]) -> None:
        self.watched.append(interface)
        await asyncio.sleep(3)
        for ip in self.seen:
            seen(ip)
        await asyncio.Event().wait()


class Host:
    def __init__(self, directory: Path, *entries: ArpEntry, capture: Capture | None = None) -> None:
        self.leases = directory / "dhcpd_leases"
        self.arp = FakeArp(*entries)
        self.prompted: list[str] = []
        self.resolvers = Resolvers(
            self.leases,
            clock=FixedClock(),
            arp=self.arp,
            capture=capture or FakeCapture(),
            vmnet_plist=directory / "vmnet.plist",
            bootptab=directory / "bootptab",
            prompting=lambda ip, _: self.prompted.append(ip),
        )


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def seconds() -> float:
    return asyncio.get_running_loop().time()


async def test_a_guest_is_found_when_its_lease_appears_and_is_confirmed(host: Host) -> None:
    looking = aio.spawn(host.resolvers.address(Sought(MAC)), name="look")
    await asyncio.sleep(5)
    assert not looking.done()
    host.leases.write_text(block("192.168.64.5"))
    host.arp.entries.append(ArpEntry("192.168.64.5", MAC, "bridge100"))
    appeared = seconds()
    assert await looking == ADDRESS
    assert seconds() - appeared <= 1


async def test_a_lease_that_nobody_confirms_is_prompted_for_and_then_believed(host: Host) -> None:
    host.leases.write_text(block("192.168.64.5"))
    started = seconds()
    assert await host.resolvers.address(Sought(MAC)) == ADDRESS
    assert 1 <= seconds() - started <= 2
    assert set(host.prompted) == {"192.168.64.5"}
    assert len(host.prompted) <= 2


async def test_where_the_arp_table_cannot_be_read_a_lease_is_believed_at_once(host: Host) -> None:
    host.leases.write_text(block("192.168.64.5"))
    host.arp.readable = False
    started = seconds()
    assert await host.resolvers.address(Sought(MAC)) == ADDRESS
    assert seconds() - started < 1


async def test_a_guest_that_claims_anothers_mac_is_not_given_its_ssh_session(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    host.leases.write_text(block("192.168.64.9"))
    host.arp.entries.append(ArpEntry("192.168.64.9", OTHER, "bridge100"))
    with caplog.at_level(logging.WARNING), pytest.raises(DeadlineExceeded, match=f"{OTHER} answers at 192.168.64.9"):
        await host.resolvers.address(Sought(MAC), patience_s=30)
    assert len([record for record in caplog.records if "is not used" in record.message]) == 1


async def test_a_full_pool_is_told_after_a_minute_with_its_remedy(host: Host) -> None:
    host.leases.write_text(
        "".join(
            block(f"192.168.64.{number}", MacAddress(bytes([2, 1, 0, 0, 0, number])), NOW + number)
            for number in range(2, 255)
        )
    )
    started = seconds()
    with pytest.raises(Exhausted) as told:
        await host.resolvers.address(Sought(MAC))
    assert told.value.reason == "AddressPoolExhausted"
    assert SHORTER_LEASES in told.value.message
    assert 60 <= seconds() - started <= 62


async def test_a_guest_with_a_lease_is_waited_for_in_a_full_pool(host: Host) -> None:
    leases = [block(f"192.168.64.{number}", MacAddress(bytes([2, 1, 0, 0, 0, number]))) for number in range(2, 254)]
    host.leases.write_text("".join([*leases, block("192.168.64.254")]))
    host.arp.entries.append(ArpEntry("192.168.64.254", None, "bridge100"))
    looking = aio.spawn(host.resolvers.address(Sought(MAC)), name="look")
    await asyncio.sleep(100)
    host.arp.entries[:] = [ArpEntry("192.168.64.254", MAC, "bridge100")]
    assert (await looking).ip == "192.168.64.254"


async def test_a_deadline_tells_where_was_looked(tmp_path: Path) -> None:
    host = Host(tmp_path, capture=FakeCapture(blind="/dev/bpf0 may only be read by root"))
    with pytest.raises(DeadlineExceeded) as told:
        await host.resolvers.address(Sought(MAC, leased=False, interface="vlan7"), patience_s=20)
    assert "no ARP entry" in told.value.message
    assert "captured on vlan7 (/dev/bpf0" in told.value.message
    with pytest.raises(DeadlineExceeded, match=r"no lease of it in .*dhcpd_leases"):
        await host.resolvers.address(Sought(MAC), patience_s=20)


async def test_an_address_that_softnet_reserved_is_the_guests(host: Host, tmp_path: Path) -> None:
    (tmp_path / "bootptab").write_text("%%\n# comment\nvm-1 1 2:0:0:0:0:1 192.168.97.2\n")
    host.arp.entries.append(ArpEntry("192.168.97.2", MAC, "bridge101"))
    assert (await host.resolvers.address(Sought(MAC))).ip == "192.168.97.2"


async def test_a_guest_that_does_not_answer_at_its_address_is_told(host: Host) -> None:
    host.leases.write_text(block("192.168.64.5"))
    host.arp.entries.append(ArpEntry("192.168.64.5", None, "bridge100"))
    with pytest.raises(DeadlineExceeded, match=r"nobody answers at its address 192\.168\.64\.5"):
        await host.resolvers.address(Sought(MAC), patience_s=20)


async def test_an_ended_lease_is_told(host: Host) -> None:
    host.leases.write_text(block("192.168.64.5", end=NOW - 5))
    with pytest.raises(DeadlineExceeded, match=r"its lease of 192\.168\.64\.5 ended at"):
        await host.resolvers.address(Sought(MAC), patience_s=20)


async def test_a_bridged_guest_is_found_by_its_frames(tmp_path: Path) -> None:
    capture = FakeCapture("10.1.2.3")
    host = Host(tmp_path, capture=capture)
    sought = Sought(MAC, leased=False, interface="vlan7")
    assert (await host.resolvers.address(sought)).ip == "10.1.2.3"
    assert capture.watched == ["vlan7"]


async def test_a_guest_that_is_not_bridged_is_not_captured(tmp_path: Path) -> None:
    capture = FakeCapture("10.1.2.3")
    host = Host(tmp_path, capture=capture)
    host.leases.write_text(block("192.168.64.5"))
    await host.resolvers.address(Sought(MAC))
    assert capture.watched == []


@pytest.fixture
def agent() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    yield ours, theirs
    ours.close()
    theirs.close()


async def test_a_guest_is_found_by_its_agent(host: Host, agent: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = agent
    attempts = []

    async def connect() -> socket.socket:
        attempts.append(seconds())
        if len(attempts) < 3:
            raise Unavailable("nobody listens on vsock port 8080")
        theirs.sendall(answer(message("192.168.64.5")))
        return ours

    assert await host.resolvers.address(Sought(MAC, agent=connect)) == ADDRESS
    assert ours.fileno() == -1
    assert all(later - earlier >= 1 for earlier, later in itertools.pairwise(attempts))


async def test_an_agent_that_never_answers_does_not_keep_the_others_waiting(
    host: Host, agent: tuple[socket.socket, socket.socket]
) -> None:
    ours, _ = agent

    async def connect() -> socket.socket:
        return ours

    looking = aio.spawn(host.resolvers.address(Sought(MAC, agent=connect)), name="look")
    await asyncio.sleep(0.5)
    host.leases.write_text(block("192.168.64.5"))
    host.arp.entries.append(ArpEntry("192.168.64.5", MAC, "bridge100"))
    assert await looking == ADDRESS
    assert ours.fileno() == -1


async def test_a_connection_that_opens_too_late_is_closed(host: Host, agent: tuple[socket.socket, socket.socket]):
    ours, _ = agent

    async def connect() -> socket.socket:
        await asyncio.sleep(0.5)
        return ours

    looking = aio.spawn(host.resolvers.address(Sought(MAC, agent=connect)), name="look")
    await asyncio.sleep(0.7)
    await aio.cancel(looking)
    assert ours.fileno() == -1


async def test_a_guest_is_not_sought_where_the_one_before_it_was(host: Host) -> None:
    """Both had this MAC; the new one identifies itself otherwise and is leased another address."""
    host.leases.write_text(block("192.168.64.5", end=NOW + 600) + block("192.168.64.6", OTHER, end=NOW + 900))
    os.utime(host.leases, (NOW, NOW))
    host.arp.entries.append(ArpEntry("192.168.64.5", MAC, "bridge100"))
    looking = aio.spawn(host.resolvers.address(Sought(MAC, since=NOW - 1)), name="look")
    await asyncio.sleep(5)
    assert not looking.done()
    duid = "{\n\tip_address=192.168.64.9\n\thw_address=ff,1:2:3\n\tidentifier=ff,1:2:3\n\tlease=0xfffff\n}\n"
    host.leases.write_text(host.leases.read_text() + duid)
    host.arp.entries.append(ArpEntry("192.168.64.9", MAC, "bridge100"))
    assert (await looking).ip == "192.168.64.9"


@pytest.mark.parametrize("since", [None, NOW - 3600])
async def test_a_guest_that_runs_for_long_is_where_it_was(host: Host, since: float | None) -> None:
    host.leases.write_text(block("192.168.64.5") + block("192.168.64.6", OTHER, end=NOW + 9000))
    os.utime(host.leases, (NOW, NOW))
    host.arp.entries.append(ArpEntry("192.168.64.5", MAC, "bridge100"))
    started = seconds()
    assert await host.resolvers.address(Sought(MAC, since=since)) == ADDRESS
    assert seconds() - started < 1


async def test_a_guest_that_was_just_leased_its_address_is_found_at_once(host: Host) -> None:
    host.leases.write_text(block("192.168.64.6", OTHER, end=NOW + 300) + block("192.168.64.5", end=NOW + 600))
    os.utime(host.leases, (NOW, NOW))
    host.arp.entries.append(ArpEntry("192.168.64.5", MAC, "bridge100"))
    started = seconds()
    assert await host.resolvers.address(Sought(MAC, since=NOW - 1)) == ADDRESS
    assert seconds() - started < 1


def test_a_lease_file_is_read_again_when_it_changes_only(tmp_path: Path) -> None:
    path = tmp_path / "dhcpd_leases"
    file = LeaseFile(path)
    assert file.read() == []
    path.write_text(block("192.168.64.5"))
    first = file.read()
    assert [lease.ip for lease in first] == ["192.168.64.5"]
    assert file.read() is first
    (tmp_path / "dhcpd_leases-").write_text(block("192.168.64.6"))
    (tmp_path / "dhcpd_leases-").rename(path)
    assert [lease.ip for lease in file.read()] == ["192.168.64.6"]
    path.unlink()
    assert file.read() == []


def test_a_lease_file_that_cannot_be_read_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "dhcpd_leases").mkdir()
    file = LeaseFile(tmp_path / "dhcpd_leases")
    with caplog.at_level(logging.WARNING):
        assert file.read() == []
        os.utime(tmp_path / "dhcpd_leases", (1, 1))
        assert file.read() == []
    assert len(caplog.records) == 1


async def test_the_arp_table_is_read_once_for_all_guests_of_a_moment() -> None:
    reads = []

    class Counting(FakeArp):
        async def _table(self) -> list[ArpEntry] | None:
            reads.append(seconds())
            await asyncio.sleep(0.1)
            return []

    table = Counting()
    await asyncio.gather(*(table.read() for _ in range(20)))
    assert len(reads) == 1
    await asyncio.sleep(1)
    await table.read()
    assert len(reads) == 2
