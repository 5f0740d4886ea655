"""The lease server of a bridge: dnsmasq, and the message that gives a dead guest's lease back."""

import asyncio
import ipaddress
import logging
import os
import secrets
import socket
import struct
from dataclasses import dataclass
from pathlib import Path

from vzkubelet.aio import run_blocking
from vzkubelet.errors import Unavailable, clip
from vzkubelet.machines.addresses import Lease, dnsmasq_leases
from vzkubelet.machines.process import Launch, ProcessRef, exit_of, is_alive, kill, last_words, launch, owned

_log = logging.getLogger(__name__)

ROLE = "dnsmasq"
_LEASE_TIME = "12h"
"""Long, so that a guest outlives a pause of the server; leases of dead guests are given back, not waited out."""
_SERVER_PORT = 67
_COOKIE = bytes([99, 130, 83, 99])  # RFC 2131, section 3
_RELEASE = 7  # DHCPRELEASE, RFC 2132, section 9.6
_STARTUP_S = 0.3
"""dnsmasq that cannot bind or read its options ends at once."""


@dataclass(frozen=True, slots=True)
class LeaseServerConfig:
    bridge: str
    gateway: str
    netmask: str
    first: str
    last: str
    name_servers: tuple[str, ...]
    directory: Path
    """Owner of the process; holds leases and log."""

    @property
    def leases(self) -> Path:
        return self.directory / "dnsmasq.leases"

    @property
    def log(self) -> Path:
        return self.directory / "dnsmasq.log"


def command_line(dnsmasq: str, config: LeaseServerConfig) -> list[str]:
    """dnsmasq as a pure lease server for one bridge, in the foreground. Pure."""
    arguments = [
        dnsmasq, "--keep-in-foreground", "--conf-file=/dev/null", "--pid-file=", "--log-facility=-", "--port=0",
        "--no-ping", "--dhcp-authoritative", "--dhcp-ignore-names", "--dhcp-ignore-clid", "--quiet-dhcp",
        f"--interface={config.bridge}", "--except-interface=lo", "--bind-interfaces",
        f"--dhcp-range={config.first},{config.last},{config.netmask},{_LEASE_TIME}",
        f"--dhcp-option=option:router,{config.gateway}",
        f"--dhcp-leasefile={config.leases}",
    ]  # fmt: skip
    if config.name_servers:
        arguments.append("--dhcp-option=option:dns-server," + ",".join(config.name_servers))
    return arguments


def release_message(lease: Lease, server: str, transaction: int) -> bytes:
    """A DHCPRELEASE in the guest's name (RFC 2131, section 2 and table 5). Pure."""
    client = ipaddress.IPv4Address(lease.ip).packed
    header = struct.pack("!BBBBIHH", 1, 1, 6, 0, transaction, 0, 0)
    header += client + bytes(12) + lease.mac.octets + bytes(10) + bytes(64) + bytes(128)
    options = bytes([53, 1, _RELEASE, 54, 4]) + ipaddress.IPv4Address(server).packed
    if lease.client_id:
        identifier = bytes.fromhex(lease.client_id.replace(":", ""))
        options += bytes([61, len(identifier)]) + identifier
    return header + _COOKIE + options + b"\xff"


class LeaseServer:
    """dnsmasq on one bridge; runs apart from the daemon and is found again by its mark."""

    def __init__(self, dnsmasq: str, config: LeaseServerConfig) -> None:
        self._dnsmasq = dnsmasq
        self.config = config
        self._process: ProcessRef | None = None

    def _find(self) -> list[ProcessRef]:
        return [
            process.ref
            for process in owned(self.config.directory)
            if process.role == ROLE and process.owner == str(self.config.directory)
        ]

    async def ensure(self, *, restart: bool = False) -> None:
        """Make sure exactly one runs; `restart` replaces one that served a bridge that is gone.

        Raises: Unavailable with dnsmasq's own words when it does not start.
        """
        if self._process is not None and is_alive(self._process) and not restart:
            return
        running = await run_blocking(self._find)
        if len(running) == 1 and not restart:
            self._process = running[0]
            return
        await kill(running)
        self.config.directory.mkdir(parents=True, exist_ok=True)
        self._process = launch(
            Launch(
                command_line(self._dnsmasq, self.config),
                self.config.directory,
                ROLE,
                self.config.directory,
                self.config.log,
            )
        )
        try:
            async with asyncio.timeout(_STARTUP_S):
                await exit_of(self._process)
        except TimeoutError:
            _log.info("leases on %s are handed out by dnsmasq, pid %d", self.config.bridge, self._process.pid)
            return
        raise Unavailable(
            f"dnsmasq for the guest network {self.config.bridge} ended at once: {clip(last_words(self.config.log))}"
        )

    async def stop(self) -> None:
        await kill(await run_blocking(self._find))
        self._process = None

    def leases(self) -> list[Lease]:
        """What is leased now; the file is rewritten in place, so a line may be missing for a moment."""
        try:
            return dnsmasq_leases(self.config.leases.read_text(errors="replace"))
        except FileNotFoundError:
            return []

    def release(self, lease: Lease) -> None:
        """Give a lease back; dnsmasq on this host hears it on the bridge's own address."""
        message = release_message(lease, self.config.gateway, secrets.randbits(32))
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, os.fsencode(self.config.bridge))
                sender.sendto(message, (self.config.gateway, _SERVER_PORT))
        except OSError as exc:
            _log.warning("the lease of %s was not given back: %s", lease.ip, exc.strerror)
