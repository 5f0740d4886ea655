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
from tests.support.apple_double import MacHost
from vzkubelet.machines.qemu import dhcp, firewall

BRIDGE_PREFIX = "vzmac"
_OWNER = "mac of "
_INTERFACES = Path("/sys/class/net")


class QemuMac(MacHost):
    """A `MacHost` whose guests are real, booted with `firmware`."""

    def __init__(
        self, directory: Path, *, firmware: Path, lifetime: Lifetime = Lifetime.WITH_PARENT, **settings: Any
    ) -> None:
        super().__init__(directory.absolute(), **settings)
        self._firmware = firmware
        self._lifetime = lifetime
        self._bridge: Bridge | None = None
        self._server: ChildProcess | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def environment(self) -> dict[str, str]:
        """For the agent, which hands it on to its helpers."""
        return super().environment() | {"VZ_DHCP_LEASES_FILE": str(self.leases)}

    def start(self) -> None:
        """Raises: ComponentFailed; then nothing is left."""
        try:
            bridge = self._start_network()
        except BaseException:
            self.stop()
            raise
        qemu = {"firmware": str(self._firmware.absolute()), "bridge": bridge.name}
        (self.directory / "qemu.json").write_text(json.dumps(qemu))
        self.configure(guests="qemu")

    def stop(self) -> None:
        """End what still runs on this Mac, and take the network away. The directory stays, for its records."""
        for process in self._processes():
            process.kill()
        if self._server is not None:
            self._server.stop()
            self._server = None
        if self._bridge is not None:
            _remove(self._bridge.name, str(self._bridge.gateway.network))
            self._bridge = None

    def processes(self) -> list[str]:
        """Command lines of every live process of this Mac's: agents, helpers."""
        return [shlex.join(process.info["cmdline"]) for process in self._processes()]

    def _processes(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter(["cmdline"]):
            with contextlib.suppress(psutil.Error):
                if process.environ().get("VZ_DOUBLE_HOST") == str(self.directory):
                    found.append(process)
        return found

    def taps(self) -> set[str]:
        """Interfaces of running guests."""
        if self._bridge is None:
            return set()
        return {entry.name for entry in (_INTERFACES / self._bridge.name / "brif").iterdir()}

    def _start_network(self) -> Bridge:
        dnsmasq = shutil.which("dnsmasq")
        if os.geteuid() != 0:
            raise ComponentFailed("a Mac's network needs root")
        if dnsmasq is None:
            raise ComponentFailed("dnsmasq is not installed: run `make setup`, or apt-get install dnsmasq-base")
        _sweep()
        self._bridge = bridge = create_bridge(BRIDGE_PREFIX)
        subnet, pid = str(bridge.gateway.network), os.getpid()
        alias = f"{_OWNER}{pid} {start_identity(pid)} {subnet}"
        subprocess.run(["ip", "link", "set", "dev", bridge.name, "alias", alias], check=True)
        asyncio.run(firewall.open_bridge(shutil.which("iptables"), bridge.name, subnet))
        command = [*dhcp.command_line(dnsmasq, self._lease_config(bridge)), f"--dhcp-script={self._script()}"]
        # On a Mac the server's script runs as root too; dnsmasq itself drops to another user otherwise.
        command += ["--user=root", "--group=root"]
        log = self.directory / "bootpd.log"
        self._server = spawn("dhcp server", command, log=log, lifetime=self._lifetime)
        wait_until(lambda: "IP range" in log.read_text(), self._server, what="it serves leases", timeout_s=10)
        return bridge

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
