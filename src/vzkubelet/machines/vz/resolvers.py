"""The address of a guest: lease file, ARP table, captured frames and the guest's own agent race; `evidence` judges."""

import asyncio
import contextlib
import ipaddress
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from vzkubelet import aio
from vzkubelet.errors import DeadlineExceeded, Error, Exhausted
from vzkubelet.machines.addresses import BootpdLease, MacAddress, bootptab_reservations
from vzkubelet.machines.vz.evidence import CONFIRMATION_S, Evidence, Verdict, judge, troubles
from vzkubelet.machines.vz.guest_agent import AgentCall
from vzkubelet.machines.vz.lease_pool import (
    BOOTPTAB,
    VMNET_PLIST,
    guest_leases,
    issued_since,
    pool_state,
    shared_subnet,
)
from vzkubelet.machines.vz.observation import ArpTable, Capture, LeaseFile, prompt
from vzkubelet.ports import GuestAddress

_log = logging.getLogger(__name__)

POLL_S = 0.25
PATIENCE_S = 240.0
"""A guest boots, logs in and asks for an address well within it; pods give a boot five minutes."""
EXHAUSTED_AFTER_S = 60.0
"""A guest that has asked for an address by then, and found the pool full, will not get one soon."""
_BOOT_S = 180.0
"""A guest that has run for so long has asked for an address."""
_PROMPT_S = 1.0
_AGENT_CALL_S = 1.0
_AGENT_PAUSE_S = 1.0
_AGENT_READ_BYTES = 4096

AgentConnect = Callable[[], Awaitable[socket.socket]]
"""Opens a connection to the guest's agent (vsock port `guest_agent.PORT`); the caller closes it. Raises `Error`."""


@dataclass(frozen=True, slots=True)
class Sought:
    """A guest whose address is wanted."""

    mac: MacAddress
    leased: bool = True
    """It gets its address from this host's DHCP server (NAT, vmnet): without a lease in a full pool it gets none."""
    interface: str | None = None
    """Host interface that it is bridged to: captured on, and the only one whose ARP entries count."""
    agent: AgentConnect | None = None
    since: float | None = None
    """When it was started, in seconds since the epoch; what was leased before is another guest's with its MAC."""


@dataclass(slots=True)
class _Hearing:
    """What the watchers of one guest have heard."""

    captured: list[str] = field(default_factory=list)
    told: str | None = None
    leases_before: dict[str, BootpdLease] | None = None
    prompted_at: float = float("-inf")
    first_prompts: dict[str, float] = field(default_factory=dict)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def captured_at(self, ip: str) -> None:
        if ip not in self.captured[-1:]:
            self.captured = [*(other for other in self.captured[-7:] if other != ip), ip]
            self.news.set()

    def told_by_agent(self, ip: str | None) -> None:
        if ip is not None and ip != self.told:
            self.told = ip
            self.news.set()


class Resolvers:
    """Finds guests. One per host, used by any number of guests at once."""

    def __init__(
        self,
        leases_file: Path,
        *,
        clock: aio.Clock | None = None,
        arp: ArpTable | None = None,
        capture: Capture | None = None,
        vmnet_plist: Path = Path(VMNET_PLIST),
        bootptab: Path = Path(BOOTPTAB),
        prompting: Callable[[str, ipaddress.IPv4Network], None] = prompt,
    ) -> None:
        self._leases = LeaseFile(leases_file)
        self._reservations = LeaseFile(bootptab, bootptab_reservations)
        self._leases_path = leases_file
        self._clock = clock or aio.SystemClock()
        self._arp = arp or ArpTable()
        self._capture = capture or Capture()
        self._vmnet_plist = vmnet_plist
        self._prompting = prompting

    async def address(self, sought: Sought, *, patience_s: float = PATIENCE_S) -> GuestAddress:
        """The guest's address as soon as it is known; cancellation leaves nothing.

        Raises: Exhausted (AddressPoolExhausted) when the host has no address for it, DeadlineExceeded with everything
        that is known about why after `patience_s`.
        """
        hearing = _Hearing()
        loop = asyncio.get_running_loop()
        started = loop.time()
        reported: set[str] = set()
        async with self._watching(sought, hearing):
            while True:
                hearing.news.clear()
                evidence = await self._evidence(sought, hearing, loop.time() - started)
                verdict = judge(evidence)
                self._report(sought, verdict, reported)
                if verdict.ip is not None:
                    _log.info("guest %s is at %s (%s)", sought.mac, verdict.ip, verdict.source)
                    return GuestAddress(verdict.ip, verdict.ip)
                self._give_up(sought, evidence, verdict, patience_s)
                self._prompt_all(verdict, hearing, loop.time())
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(hearing.news.wait(), POLL_S)

    def _subnet(self) -> ipaddress.IPv4Network:
        try:
            return shared_subnet(self._vmnet_plist.read_bytes())
        except OSError:
            return shared_subnet(None)

    @contextlib.asynccontextmanager
    async def _watching(self, sought: Sought, hearing: _Hearing) -> AsyncIterator[None]:
        """The slow sources, each a task of its own while the guest is looked for."""
        tasks = []
        if sought.agent is not None:
            asking = _ask_agent(sought.agent, hearing.told_by_agent)
            tasks.append(aio.spawn(asking, name=f"guest agent of {sought.mac}"))
        if sought.interface is not None:
            capturing = self._capture.watch(sought.interface, sought.mac, hearing.captured_at)
            tasks.append(aio.spawn(capturing, name=f"capture of {sought.mac}"))
        try:
            yield
        finally:
            await aio.cancel(*tasks)

    async def _evidence(self, sought: Sought, hearing: _Hearing, waited_s: float) -> Evidence:
        table = await self._arp.read()
        leases = [*self._reservations.read(), *self._leases.read()] if sought.leased else []
        return Evidence(
            mac=sought.mac,
            leases=leases,
            arp=table,
            captured=tuple(hearing.captured),
            told=hearing.told,
            interface=sought.interface,
            waited_s=waited_s,
            now=self._clock.time(),
            subnet=self._subnet() if sought.leased else None,
            asked=[ip for ip, at in hearing.first_prompts.items() if self._arp.read_at - at >= CONFIRMATION_S],
            current=self._current(sought, hearing, leases),
        )

    def _current(self, sought: Sought, hearing: _Hearing, leases: list[BootpdLease]) -> frozenset[str] | None:
        if hearing.leases_before is None:
            hearing.leases_before = {lease.client_id: lease for lease in leases}
        if not sought.leased or sought.since is None or self._clock.time() - sought.since > _BOOT_S:
            return None
        return issued_since(leases, sought.since, hearing.leases_before, self._leases.written_at)

    def _report(self, sought: Sought, verdict: Verdict, reported: set[str]) -> None:
        for refusal in verdict.refusals:
            if refusal not in reported:
                reported.add(refusal)
                _log.warning("an address of guest %s is not used: %s", sought.mac, refusal)

    def _give_up(self, sought: Sought, evidence: Evidence, verdict: Verdict, patience_s: float) -> None:
        """Raises when waiting on makes no sense."""
        why = [*verdict.refusals, *troubles(evidence)]
        if sought.leased and evidence.waited_s >= min(EXHAUSTED_AFTER_S, patience_s):
            mine = [lease for lease in guest_leases(evidence.leases, sought.mac) if lease.is_valid(evidence.now)]
            pool = pool_state(self._leases.read(), self._subnet(), evidence.now)
            if not mine and pool.is_exhausted:
                raise Exhausted(
                    f"guest {sought.mac} got no address: {pool.explanation()}", reason="AddressPoolExhausted"
                )
        if evidence.waited_s >= patience_s:
            raise DeadlineExceeded(
                f"guest {sought.mac} had no address after {patience_s:.0f} s: "
                + ("; ".join(why) or self._looked_at(sought, evidence))
            )

    def _looked_at(self, sought: Sought, evidence: Evidence) -> str:
        looked = []
        if sought.leased:
            mine = guest_leases(evidence.leases, sought.mac)
            looked.append(
                f"nobody answers at its address {mine[0].ip}" if mine else f"no lease of it in {self._leases_path}"
            )
        looked.append("no ARP entry" if evidence.arp is not None else "the ARP table cannot be read")
        if sought.interface is not None:
            blind = self._capture.obstacle()
            nothing = f"nothing of it was captured on {sought.interface}"
            looked.append(f"{nothing} ({blind})" if blind else nothing)
        if sought.agent is not None:
            looked.append("no answer from a guest agent")
        return f"{', '.join(looked)}; the guest's console tells whether it booted and brought its network up"

    def _prompt_all(self, verdict: Verdict, hearing: _Hearing, now: float) -> None:
        if not verdict.prompts or now - hearing.prompted_at < _PROMPT_S:
            return
        hearing.prompted_at = now
        subnet = self._subnet()
        for ip in verdict.prompts:
            hearing.first_prompts.setdefault(ip, now)
            self._prompting(ip, subnet)


async def _ask_agent(connect: AgentConnect, told: Callable[[str | None], None]) -> None:
    """Ask until the agent knows an address; most guests have no agent, so failures are nothing to talk about."""
    while True:
        try:
            async with asyncio.timeout(_AGENT_CALL_S):
                ip = await _agent_call(await connect())
        except (Error, OSError, TimeoutError) as exc:
            _log.debug("no answer from a guest agent: %s", exc)
            ip = None
        told(ip)
        await asyncio.sleep(_AGENT_PAUSE_S)


async def _agent_call(connection: socket.socket) -> str | None:
    """One `AgentCall` over a connection, which is closed. Raises OSError, RemoteProtocolError."""
    call = AgentCall()
    loop = asyncio.get_running_loop()
    with connection:
        connection.setblocking(False)
        await loop.sock_sendall(connection, call.request)
        while not call.is_done:
            data = await loop.sock_recv(connection, _AGENT_READ_BYTES)
            if not data:
                break
            answer = call.feed(data)
            if answer:
                await loop.sock_sendall(connection, answer)
    return call.ip
