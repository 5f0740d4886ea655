"""A "Mac" on this machine: the double's host directory, and the shared network that its guests live in.

Its NAT is a bridge of its own with a DHCP server whose leases are kept in a file as on a Mac, so several Macs live side
by side. Guests behind it are QEMU's (`tests/doubles/apple`), started by the processes that hold a virtual machine.
"""

import asyncio
import contextlib
import json
import os
import shlex
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from tests.cluster.bridges import Bridge, create_bridge, delete_bridge
from tests.cluster.processes import ChildProcess, ComponentFailed, Lifetime, spawn, start_identity, wait_until
from tests.support import bootpd
from vzkubelet.machines.qemu import dhcp, firewall

DOUBLE = Path(__file__).resolve().parents[1] / "doubles" / "apple"
BRIDGE_PREFIX = "vzmac"
_OWNER = "mac of "
_INTERFACES = Path("/sys/class/net")


class QemuMac:
    """One host of the double in `directory`, which is its ``VZ_DOUBLE_HOST``.

    `firmware` is what emulated guests boot; without it the host has instant guests only, and no network.
    """

    def __init__(
        self,
        directory: Path,
        *,
        firmware: Path | None = None,
        version: tuple[int, int] = (15, 1),
        lifetime: Lifetime = Lifetime.WITH_PARENT,
        **settings: Any,
    ) -> None:
        self.directory = directory.absolute()
        self._firmware = firmware
        self._lifetime = lifetime
        self._settings = {"version": list(version), "arch": "arm64", **settings}
        self._bridge: Bridge | None = None
        self._server: ChildProcess | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def leases(self) -> Path:
        return self.directory / "dhcpd_leases"

    @property
    def environment(self) -> dict[str, str]:
        """For the agent; the helpers that it starts inherit it."""
        search = [str(DOUBLE), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {
            "PYTHONPATH": os.pathsep.join(search),
            "VZ_DOUBLE_HOST": str(self.directory),
            "VZ_DHCP_LEASES_FILE": str(self.leases),
        }

    def start(self) -> None:
        """Raises: ComponentFailed; then nothing is left."""
        self.directory.mkdir(parents=True, exist_ok=True)
        host = {**self._settings, "guests": "instant"}
        try:
            if self._firmware is not None:
                self._start_network()
                assert self._bridge is not None
                qemu = {"firmware": str(self._firmware.absolute()), "bridge": self._bridge.name}
                (self.directory / "qemu.json").write_text(json.dumps(qemu))
                host["guests"] = "qemu"
            (self.directory / "host.json").write_text(json.dumps(host, indent=1))
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Take the network away. The directory stays, for its records."""
        if self._server is not None:
            self._server.stop()
            self._server = None
        if self._bridge is not None:
            _remove(self._bridge.name, str(self._bridge.gateway.network))
            self._bridge = None

    def aborts(self) -> list[str]:
        """What would have aborted a process on a real Mac: a test that leaves any has failed."""
        with contextlib.suppress(FileNotFoundError):
            return (self.directory / "aborts.jsonl").read_text().splitlines()
        return []

    def processes(self) -> list[str]:
        """Command lines of every live process of this Mac's: agents, helpers."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("VZ_DOUBLE_HOST") == str(self.directory):
                    found.append(shlex.join(process.cmdline()))
        return found

    def taps(self) -> set[str]:
        """Interfaces of running guests."""
        if self._bridge is None:
            return set()
        return {entry.name for entry in (_INTERFACES / self._bridge.name / "brif").iterdir()}

    def _start_network(self) -> None:
        dnsmasq = shutil.which("dnsmasq")
        if os.geteuid() != 0:
            raise ComponentFailed("a Mac's network needs root")
        if dnsmasq is None:
            raise ComponentFailed("dnsmasq is not installed: run `make setup`, or apt-get install dnsmasq-base")
        _sweep()
        self._bridge = create_bridge(BRIDGE_PREFIX)
        pid = os.getpid()
        alias = f"{_OWNER}{pid} {start_identity(pid)} {self._bridge.gateway.network}"
        subprocess.run(["ip", "link", "set", "dev", self._bridge.name, "alias", alias], check=True)
        asyncio.run(
            firewall.open_bridge(shutil.which("iptables"), self._bridge.name, str(self._bridge.gateway.network))
        )
        command = [*dhcp.command_line(dnsmasq, self._lease_config(self._bridge)), f"--dhcp-script={self._script()}"]
        # On a Mac the server's script runs as root too; dnsmasq itself drops to another user otherwise.
        command += ["--user=root", "--group=root"]
        log = self.directory / "bootpd.log"
        self._server = spawn("dhcp server", command, log=log, lifetime=self._lifetime)
        wait_until(lambda: "IP range" in log.read_text(), self._server, what="it serves leases", timeout_s=10)

    def _lease_config(self, bridge: Bridge) -> dhcp.LeaseServerConfig:
        hosts = list(bridge.gateway.network.hosts())
        return dhcp.LeaseServerConfig(
            bridge=bridge.name,
            gateway=str(bridge.gateway.ip),
            netmask=str(bridge.gateway.netmask),
            first=str(hosts[1]),
            last=str(hosts[-1]),
            name_servers=(),
            directory=self.directory,
        )

    def _script(self) -> Path:
        """dnsmasq passes its own arguments only."""
        script = self.directory / "bootpd"
        program = shlex.join([sys.executable, "-I", "-S", bootpd.__file__, str(self.leases)])
        script.write_text(f'#!/bin/sh\nexec {program} "$@"\n')
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        return script


def _remove(bridge: str, subnet: str) -> None:
    asyncio.run(firewall.close_bridge(shutil.which("iptables"), bridge, subnet))
    delete_bridge(bridge)


def _sweep() -> None:
    """Clear up after Macs whose test process was killed: bridge and packet filter rules outlive it."""
    for interface in _INTERFACES.glob(f"{BRIDGE_PREFIX}*"):
        with contextlib.suppress(
            OSError, ValueError, subprocess.SubprocessError
        ):  # somebody else sweeps, or the Mac stops right now
            owner = (interface / "ifalias").read_text().strip().removeprefix(_OWNER)
            pid, identity, subnet = owner.split(" ")
            if start_identity(int(pid)) != identity:
                _remove(interface.name, subnet)
