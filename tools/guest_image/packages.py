"""Debian packages as inputs: which versions apt would install, their files, never installed on the host."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from email.parser import Parser
from pathlib import Path
from tempfile import TemporaryDirectory

from .errors import BuildError
from .programs import run


@dataclass(frozen=True, slots=True)
class Package:
    """One binary package as the archive's index describes it."""

    name: str
    version: str
    architecture: str
    sha256: str
    depends: str

    @property
    def file_name(self) -> str:
        return f"{self.name}_{self.version.replace(':', '%3a')}_{self.architecture}.deb"


def candidates(names: Iterable[str]) -> dict[str, Package]:
    """The version of each package that apt would install now, by name.

    Raises: BuildError when apt knows no such package.
    """
    wanted = list(dict.fromkeys(names))
    text = run(["apt-cache", "show", "--no-all-versions", *wanted])
    found: dict[str, Package] = {}
    for paragraph in text.split("\n\n"):
        fields = Parser().parsestr(paragraph.strip() + "\n", headersonly=True)
        name = fields["Package"]
        # An installed package may show a second paragraph without a file to download: skip it.
        if name and fields["SHA256"] and name not in found:
            found[name] = Package(
                name, fields["Version"], fields["Architecture"], fields["SHA256"], fields.get("Depends", "")
            )
    missing = [name for name in wanted if name not in found]
    if missing:
        raise BuildError(f"apt knows no package {', '.join(missing)}: run `apt-get update`, or use Debian 12 or later")
    return found


def kernel_package(meta: Package) -> str:
    """Name of the versioned kernel package that a kernel metapackage depends on.

    Raises: BuildError when there is none.
    """
    match = re.search(r"\blinux-image-\d[\w.+-]*", meta.depends)
    if match is None:
        raise BuildError(f"package {meta.name} {meta.version} depends on no linux-image package: {meta.depends!r}")
    return match.group()


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fetch(packages: Iterable[Package], store: Path) -> list[Path]:
    """The packages' files in `store`, in order; what is not there yet is downloaded in one go.

    Raises: BuildError when the download fails or a digest is not the index's.
    """
    wanted = list(packages)
    missing = [package for package in wanted if not _is_stored(package, store)]
    if missing:
        store.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=store, prefix=".download-") as scratch:
            run(
                ["apt-get", "-q", "download", *(f"{package.name}={package.version}" for package in missing)],
                cwd=scratch,
            )
            for package in missing:
                path = Path(scratch) / package.file_name
                if not path.exists() or _digest(path) != package.sha256:
                    raise BuildError(f"apt-get download gave no {package.file_name} with the digest of apt's index")
                path.rename(store / package.file_name)
    return [store / package.file_name for package in wanted]


def _is_stored(package: Package, store: Path) -> bool:
    path = store / package.file_name
    return path.exists() and _digest(path) == package.sha256


def unpack(archives: Iterable[Path], root: Path) -> None:
    """Raises: BuildError when an archive cannot be read."""
    for archive in archives:
        run(["dpkg-deb", "--extract", str(archive), str(root)])


def index_state() -> str:
    """A digest that changes when apt may answer differently: after an update or installation, with other sources."""
    digest = hashlib.sha256()
    for root in (Path("/var/lib/apt/lists"), Path("/etc/apt"), Path("/var/lib/dpkg/status")):
        for path in sorted([root, *root.rglob("*")]):
            try:
                status = path.stat()
            except OSError:  # a list that an update is just replacing
                continue
            if not path.is_dir():
                digest.update(f"{path} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def tool_versions(packages: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Name and version of the host packages whose programs write parts of the image."""
    text = run(["dpkg-query", "--show", "--showformat=${Package} ${Version}\n", *packages])
    for line in sorted(text.splitlines()):
        name, version = line.split(" ", 1)
        yield name, version
