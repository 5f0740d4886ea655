"""Everything that decides the bytes of an image: packages, tools that write file systems, this program, settings."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from .errors import BuildError
from .packages import Package, candidates, index_state, kernel_package, tool_versions
from .rootfs import GuestSettings

KERNEL = "linux-image-cloud-amd64"
_PROGRAMS = ("busybox-static", "openssh-server", "openssh-client", "util-linux")
_FIRMWARE = ("ovmf", "systemd-boot-efi")
_TOOLS = ("dosfstools", "e2fsprogs", "mtools")
# Shared libraries are the only dependencies worth following: nothing of a package is ever configured here.
_LIBRARY = re.compile(r"^(lib(?!pam-)[a-z0-9.+-]+|zlib1g)$")


@dataclass(frozen=True, slots=True)
class Inputs:
    packages: tuple[Package, ...]
    """Sorted by name."""
    kernel: Package
    tools: Mapping[str, str]
    settings: GuestSettings
    size_mib: int

    def facts(self) -> dict[str, object]:
        """All of it as JSON, files by digest; equal facts give equal images."""
        settings = self.settings
        return {
            "packages": [asdict(package) for package in self.packages],
            "tools": dict(self.tools),
            "builder": _sources_digest(),
            "settings": {
                "rootPassword": settings.root_password,
                "hostname": settings.hostname,
                "busybox": _digest(settings.busybox) if settings.busybox else None,
                "added": [[target, _digest(path), f"{mode:04o}"] for target, path, mode in settings.added],
                "sizeMiB": self.size_mib,
            },
        }

    def key(self) -> str:
        """Name of the cache entry."""
        return hashlib.sha256(json.dumps(self.facts(), sort_keys=True).encode()).hexdigest()[:32]


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as exc:
        raise BuildError(f"cannot read {path}: {exc.strerror}") from exc


def _sources_digest() -> str:
    digest = hashlib.sha256()
    here = Path(__file__).parent
    for path in sorted(here.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(f"{path.relative_to(here)}\0".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _dependencies(package: Package) -> Iterator[str]:
    for clause in package.depends.split(","):
        name = clause.split("|")[0].split("(")[0].strip()
        if _LIBRARY.match(name):
            yield name


def _resolve() -> tuple[dict[str, Package], str]:
    found = candidates((KERNEL, *_PROGRAMS, *_FIRMWARE))
    kernel = kernel_package(found[KERNEL])
    wanted = {kernel}
    for name in _PROGRAMS:
        wanted.update(_dependencies(found[name]))
    while wanted := wanted - found.keys():
        new = candidates(sorted(wanted))
        found.update(new)
        wanted = {name for package in new.values() for name in _dependencies(package)}
    return found, kernel


def _recall(memory: Path, state: str) -> dict[str, Any] | None:
    try:
        remembered: dict[str, Any] = json.loads(memory.read_bytes())
    except (OSError, ValueError):
        return None
    return remembered if remembered.get("state") == state else None


def _remember(memory: Path, facts: Mapping[str, Any]) -> None:
    memory.parent.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile("w", dir=memory.parent, delete=False) as stream:
        json.dump(facts, stream)
    Path(stream.name).rename(memory)


def resolve(settings: GuestSettings, size_mib: int, memory: Path) -> Inputs:
    """What apt would give today. The answer is kept in `memory` as long as apt's lists stay as they are.

    Raises: BuildError when apt lacks a package.
    """
    state = index_state()
    remembered = _recall(memory, state)
    if remembered is None:
        found, kernel = _resolve()
        remembered = {
            "state": state,
            "packages": [asdict(found[name]) for name in sorted(found)],
            "kernel": kernel,
            "tools": dict(tool_versions(_TOOLS)),
        }
        _remember(memory, remembered)
    packages = tuple(Package(**fields) for fields in remembered["packages"])
    kernel_found = next(package for package in packages if package.name == remembered["kernel"])
    return Inputs(packages, kernel_found, remembered["tools"], settings, size_mib)
