"""A Mac for a test: a host directory of the double (tests/doubles/apple), and the frameworks imported from it.

`mac_host` and `apple_frameworks` are fixtures; import them where they are used, or make a `MacHost` of one's own.
Tests that use the double in their own process belong to tests/integration: its queues are threads.
"""

import importlib
import json
import os
import plistlib
import socket
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

DOUBLE = Path(__file__).parents[1] / "doubles" / "apple"
VERSIONS = ((13, 5), (14, 4), (15, 1), (26, 0))
"""The host versions that the driver is tested on."""

_LAST_ORDERS = ("power-off", "crash")
"""The guest's process may end before it has answered."""
_MODULES = ("objc", "Foundation", "Virtualization", "dispatch")
_STATELESS = ("vzdouble.metadata", "vzdouble.description", "vzdouble.backing", "vzdouble.forking")
"""Kept between tests: the same for every Mac, and slow to read."""


@dataclass(frozen=True, slots=True)
class AppleFrameworks:
    objc: Any
    Foundation: Any
    Virtualization: Any
    dispatch: Any


class MacHost:
    """One Mac: the directory that ``VZ_DOUBLE_HOST`` names."""

    def __init__(self, directory: Path, **settings: Any) -> None:
        self.directory = directory
        self._settings = settings
        self._faults = 0
        for name in ("faults", "running", "guests"):
            (directory / name).mkdir(parents=True, exist_ok=True)
        self.configure()

    def configure(self, **settings: Any) -> None:
        """Change host.json; the README of the double says what is read when."""
        self._settings |= settings
        staged = self.directory / "host.json.new"
        staged.write_text(json.dumps(self._settings))
        staged.replace(self.directory / "host.json")

    def fail(self, operation: str, **fault: Any) -> None:
        """Inject a fault (README, "faults/"): ``fail("start", code=6)``, ``fail("stop", never=True)``."""
        self._faults += 1
        path = self.directory / "faults" / f"{self._faults:03}-{operation.partition(':')[0]}.json"
        path.write_text(json.dumps({"operation": operation} | fault))

    def pending_faults(self) -> list[str]:
        return sorted(path.name for path in (self.directory / "faults").glob("*.json"))

    def environment(self) -> dict[str, str]:
        """Variables that put a subprocess on this Mac, the ones of this process included."""
        path = [str(DOUBLE), *filter(None, [os.environ.get("PYTHONPATH")])]
        return os.environ | {"VZ_DOUBLE_HOST": str(self.directory), "PYTHONPATH": os.pathsep.join(path)}

    def tell(self, guest: str, order: str) -> dict[str, Any]:
        """Say something to a running instant guest (by MAC), ``power-off`` for instance. Raises AssertionError."""
        with _connected(self.directory / "guests", f"{guest}.sock") as stream:
            stream.write(order + "\n")
            stream.flush()
            try:
                line = stream.readline()
            except ConnectionError:
                line = ""
        if not line and order.split()[0] in _LAST_ORDERS:
            return {"ok": True}
        answer: dict[str, Any] = json.loads(line)
        assert "error" not in answer, answer
        return answer

    def guest(self, mac: str) -> dict[str, Any]:
        """What an instant guest runs with, now."""
        found: dict[str, Any] = json.loads((self.directory / "guests" / f"{mac}.json").read_text())
        return found

    @property
    def leases(self) -> Path:
        return self.directory / "dhcpd_leases"

    def running(self) -> list[Path]:
        return sorted((self.directory / "running").glob("*.json"))

    def calls(self) -> list[dict[str, Any]]:
        return _lines(self.directory / "calls.jsonl")

    def aborts(self) -> list[dict[str, Any]]:
        return _lines(self.directory / "aborts.jsonl")

    def expect_aborts(self, *kinds: str) -> list[dict[str, Any]]:
        """Take the aborts that a test provoked; afterwards there are none. Raises AssertionError for others."""
        found = self.aborts()
        assert [line["kind"] for line in found] == list(kinds), found
        (self.directory / "aborts.jsonl").unlink(missing_ok=True)
        return found

    def check(self) -> None:
        """Raises AssertionError when anything would have ended a real process."""
        found = self.aborts()
        assert not found, "\n".join(f"{line['kind']}: {line['text']}\n{line['where']}" for line in found)


@contextmanager
def imported_frameworks(host: MacHost) -> Iterator[AppleFrameworks]:
    """The double in this process, on `host`; aborts are recorded, not executed. All VMs end and all is purged after."""
    if any(name in sys.modules for name in _MODULES):
        raise RuntimeError("another test left Apple's frameworks imported")
    host.configure(on_abort="record")
    before = os.environ.get("VZ_DOUBLE_HOST")
    os.environ["VZ_DOUBLE_HOST"] = str(host.directory)
    sys.path.insert(0, str(DOUBLE))
    try:
        yield AppleFrameworks(**{name: importlib.import_module(name) for name in _MODULES})
    finally:
        machine = sys.modules.get("vzdouble.machine")
        if machine is not None:
            machine.reset()
        sys.path.remove(str(DOUBLE))
        for name in [name for name in sys.modules if name in _MODULES or name.partition(".")[0] == "vzdouble"]:
            if name not in _STATELESS:
                del sys.modules[name]
        if before is None:
            del os.environ["VZ_DOUBLE_HOST"]
        else:
            os.environ["VZ_DOUBLE_HOST"] = before


@pytest.fixture
def mac_host(tmp_path: Path) -> Iterator[MacHost]:
    """A Mac with macOS 15.1; the test fails when a process on it would have been aborted."""
    host = MacHost(tmp_path / "mac", version=[15, 1])
    yield host
    host.check()


@pytest.fixture
def apple_frameworks(mac_host: MacHost) -> Iterator[AppleFrameworks]:
    with imported_frameworks(mac_host) as frameworks:
        yield frameworks


def hardware_model_data(platform_version: int = 2, minimum_os: tuple[int, int, int] = (13, 0, 0)) -> bytes:
    """A VZMacHardwareModel's data representation, of the shape that Apple's has."""
    model = {
        "DataRepresentationVersion": 1,
        "MinimumSupportedOS": list(minimum_os),
        "PlatformVersion": platform_version,
    }
    return plistlib.dumps(model, fmt=plistlib.FMT_BINARY)


def machine_identifier_data(ecid: int = 0x1234_5678_9ABC) -> bytes:
    """A VZMacMachineIdentifier's data representation."""
    return plistlib.dumps({"ECID": ecid}, fmt=plistlib.FMT_BINARY)


def write_restore_image(path: Path, version: str = "15.1", build: str = "24B83", **double: Any) -> Path:
    """An IPSW as far as the double looks into it; `double` as in vzdouble/installation.py."""
    manifest = {"ProductVersion": version, "ProductBuildVersion": build, "VZDouble": double}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("BuildManifest.plist", plistlib.dumps(manifest))
    return path


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@contextmanager
def _connected(directory: Path, name: str) -> Iterator[Any]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)  # socket paths are short, temporary ones are not
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(10.0)
            connection.connect(f"/proc/self/fd/{descriptor}/{name}")
            with connection.makefile("rw") as stream:
                yield stream
    finally:
        os.close(descriptor)
