"""Looking at this host for guests' addresses: the lease file, the ARP table, a capture, and a nudge to who is silent.

Each look is cheap to repeat and shared by all guests that are being looked for; a source that this host does not permit
says so once and is silent from then on.
"""

import asyncio
import contextlib
import ipaddress
import logging
import os
import shutil
import signal
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

from vzkubelet import aio
from vzkubelet.errors import DeadlineExceeded, MachineFault, RemoteProtocolError, clip
from vzkubelet.machines.addresses import ArpEntry, BootpdLease, MacAddress, arp_table, bootpd_leases
from vzkubelet.machines.process import SEARCH_PATH, run
from vzkubelet.machines.vz.frames import PcapReader, capture_filter, sighting

_log = logging.getLogger(__name__)

_STABLE_READS = 5
_DISCARD_PORT = 9
_ARP_AGE_S = 0.5
_SNAPSHOT_BYTES = 1600  # what the reference captures of a packet: a whole Ethernet frame
_BPF_DEVICE = Path("/dev/bpf0")
_CAPTURE_READ_BYTES = 65536


class LeaseFile:
    """``/var/db/dhcpd_leases``, or another file of leases, read again only when it has changed."""

    def __init__(self, path: Path, parse: Callable[[str], list[BootpdLease]] = bootpd_leases) -> None:
        self._path = path
        self._parse = parse
        self._seen: tuple[int, int, int] | None = None
        self._leases: list[BootpdLease] = []
        self._unreadable = False

    @property
    def written_at(self) -> float | None:
        """When what was read last was written, in seconds since the epoch; None when there was no file."""
        return None if self._seen is None else self._seen[2] / 1e9

    def read(self) -> list[BootpdLease]:
        """Every lease in the file; none when there is no file. Blocks for as long as reading a small file takes."""
        identity = self._identity()
        if identity == self._seen:
            return self._leases
        text = self._stable_text()
        if text is not None:
            self._leases = self._parse(text)
            self._seen = identity  # of before the read: a change meanwhile is seen next time
        return self._leases

    def _identity(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns

    def _stable_text(self) -> str | None:
        """What two reads in a row agree on: the file may be written in place meanwhile. None while they do not."""
        before = self._read()
        for _ in range(_STABLE_READS):
            after = self._read()
            if after == before:
                return after
            before = after
        return None

    def _read(self) -> str:
        try:
            return self._path.read_bytes().decode(errors="replace")
        except FileNotFoundError:
            return ""
        except OSError as exc:
            if not self._unreadable:
                self._unreadable = True
                _log.warning("DHCP leases in %s cannot be read: %s", self._path, exc.strerror)
            return ""


class ArpTable:
    """What ``arp -an`` prints, at most `_ARP_AGE_S` old."""

    def __init__(self, command: Sequence[str] = ("arp", "-an")) -> None:
        self._command = tuple(command)
        self._entries: list[ArpEntry] | None = None
        self._read_at = float("-inf")
        self._reading = asyncio.Lock()
        self._told = False

    @property
    def read_at(self) -> float:
        """When what `read` returned last was read, in the loop's time."""
        return self._read_at

    async def read(self) -> list[ArpEntry] | None:
        """None where the table cannot be read."""
        async with self._reading:
            now = asyncio.get_running_loop().time()
            if now - self._read_at >= _ARP_AGE_S:
                self._entries = await self._table()
                self._read_at = now  # before: what happened meanwhile may not be in it
            return self._entries

    async def _table(self) -> list[ArpEntry] | None:
        try:
            status, output = await run(*self._command)
        except (MachineFault, DeadlineExceeded) as exc:
            self._silent(str(exc))
            return None
        if status != 0:
            self._silent(clip(output))
            return None
        self._told = False
        return arp_table(output)

    def _silent(self, reason: str) -> None:
        if not self._told:
            self._told = True
            _log.warning("guests' addresses are not checked against the ARP table: %s", reason)


class Capture:
    """Frames of one guest on one interface, through ``tcpdump``, which needs read access to ``/dev/bpf*``."""

    def __init__(self, command: Sequence[str] = ("tcpdump",), device: Path = _BPF_DEVICE) -> None:
        self._command = tuple(command)
        self._device = device
        self._told = False

    def obstacle(self) -> str:
        """Why nothing can be captured on this host; empty when it can be tried."""
        if shutil.which(self._command[0], path=SEARCH_PATH) is None:
            return f"{self._command[0]} is not installed"
        if self._device.exists() and not os.access(self._device, os.R_OK):
            return (
                f"{self._device} may only be read by root; Wireshark's ChmodBPF gives a group the right, "
                "and guests on a bridged interface are found without it when they talk to this host"
            )
        return ""

    async def watch(self, interface: str, mac: MacAddress, seen: Callable[[str], None]) -> None:
        """Tell each address that `mac` is seen to use, until cancelled. Returns when nothing can be captured."""
        obstacle = self.obstacle()
        if obstacle:
            self._silent(interface, obstacle)
            return
        command = [
            *self._command, "-i", interface, "-n", "-U", "-w", "-", "-s", str(_SNAPSHOT_BYTES), capture_filter(mac),
        ]  # fmt: skip
        try:
            tcpdump = await asyncio.create_subprocess_exec(
                *command, env={"PATH": SEARCH_PATH}, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE, start_new_session=True,
            )  # fmt: skip
        except OSError as exc:
            self._silent(interface, f"{self._command[0]}: {exc.strerror}")
            return
        try:
            self._silent(interface, await self._follow(tcpdump, mac, seen))
        finally:
            await aio.uninterrupted(_end(tcpdump), name=f"end of the capture on {interface}")

    async def _follow(self, tcpdump: asyncio.subprocess.Process, mac: MacAddress, seen: Callable[[str], None]) -> str:
        """Until the capture ends; why it did."""
        assert tcpdump.stdout is not None
        assert tcpdump.stderr is not None
        said = aio.spawn(tcpdump.stderr.read(), name="words of tcpdump", on_crash=lambda _: None)
        reader = PcapReader()
        try:
            while data := await tcpdump.stdout.read(_CAPTURE_READ_BYTES):
                for frame in reader.feed(data):
                    found = sighting(frame)
                    if found is not None and found.mac == mac:
                        seen(found.ip)
            return clip((await said).decode(errors="replace")) or "the capture ended"
        except RemoteProtocolError as exc:
            return str(exc)
        finally:
            await aio.cancel(said)

    def _silent(self, interface: str, reason: str) -> None:
        if not self._told:
            self._told = True
            _log.info("no frames are captured on %s to find guests' addresses: %s", interface, reason)


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)  # process.kill() would reap it before asyncio's watcher does
    await process.wait()


def prompt(ip: str, subnet: ipaddress.IPv4Network) -> None:
    """Make this host ask who has `ip`: an empty datagram to the discard port, if this host is on the same network.

    The answer, or that there was none, is in the ARP table a moment later. Nothing leaves by a router.
    """
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        sender.connect((ip, _DISCARD_PORT))  # chooses the route, sends nothing
        source, target = ipaddress.IPv4Address(sender.getsockname()[0]), ipaddress.IPv4Address(ip)
        near = ipaddress.IPv4Network(f"{target}/24", strict=False)
        if source in near or (source in subnet and target in subnet):
            sender.send(b"")
