"""Which source distributions are read, where they come from, and that they are the ones that were reviewed.

Nothing of them is built or run: the archives are opened and single files are parsed.
"""

from __future__ import annotations

import hashlib
import html
import io
import re
import subprocess
import sys
import tarfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin


class SourceError(Exception):
    """A source distribution is missing, altered or laid out differently; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Source:
    """One pinned source distribution."""

    package: str
    version: str
    sha256: str

    @property
    def stem(self) -> str:
        return f"{self.package.replace('-', '_').lower()}-{self.version}"

    @property
    def file_name(self) -> str:
        return f"{self.stem}.tar.gz"


VIRTUALIZATION = Source(
    "pyobjc-framework-Virtualization", "12.2.2", "938cb8c0906d2a9bd2deef6e3374e79f074853e861ad223a761602c99ea647b6"
)
COCOA = Source("pyobjc-framework-Cocoa", "12.2.2", "c96c0ef69a71afbbb0e6a7d594b455c5fe47d62e0db376ee7a2b4b828c16ace9")
DISPATCH = Source(
    "pyobjc-framework-libdispatch", "12.2.2", "7cb799a7c5766cc1b68b68655a02c950646adfd2a743b7cbe8e4a04a51c44ecb"
)
ALL = (VIRTUALIZATION, COCOA, DISPATCH)


class Archive:
    """The files of one source distribution, by their path below its top directory."""

    def __init__(self, source: Source, data: bytes) -> None:
        digest = hashlib.sha256(data).hexdigest()
        if digest != source.sha256:
            raise SourceError(
                f"{source.file_name} has sha256 {digest}, but {source.sha256} was reviewed; read what changed, then "
                "pin the new hash in tools/sdk_metadata/sources.py"
            )
        self.source = source
        self._texts = _texts(source.stem, data)

    def text(self, path: str) -> str:
        """Raises: SourceError when the archive has no such file."""
        if path not in self._texts:
            raise SourceError(f"{self.source.file_name} has no {path}: its layout changed")
        return self._texts[path]

    def matching(self, pattern: str) -> list[str]:
        """All paths that fit a regular expression, in order."""
        return sorted(path for path in self._texts if re.fullmatch(pattern, path))

    def one_matching(self, pattern: str) -> str:
        """The only path that fits a regular expression. Raises: SourceError for none or several."""
        found = self.matching(pattern)
        if len(found) != 1:
            raise SourceError(f"{self.source.file_name}: {len(found)} files look like {pattern}, expected one")
        return found[0]


def _texts(stem: str, data: bytes) -> dict[str, str]:
    wanted = re.compile(r"metadata/.*\.fwinfo|Lib/.*\.py|PyObjCTest/.*\.py|License\.txt")
    texts = {}
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
        for member in archive:
            top, _, path = member.name.partition("/")
            if member.isfile() and top == stem and wanted.fullmatch(path):
                file = archive.extractfile(member)
                assert file is not None
                texts[path] = file.read().decode()
    return texts


def open_archive(source: Source, directory: Path | None, index: str | None) -> Archive:
    """From a directory that holds the file, else from the package index (pip's own setting, or `index`)."""
    if directory is not None:
        file = directory / source.file_name
        if not file.is_file():
            raise SourceError(f"no {source.file_name} in {directory}")
        return Archive(source, file.read_bytes())
    return Archive(source, _download(source, index or _configured_index()))


def _download(source: Source, index: str) -> bytes:
    page = urljoin(index.rstrip("/") + "/", source.package.lower() + "/")
    listing = _get(page).decode()
    for match in re.finditer(r'href="([^"]+)"', listing):
        link = urljoin(page, html.unescape(match[1])).partition("#")[0]
        if link.rpartition("/")[2] == source.file_name:
            return _get(link)
    raise SourceError(f"the package index offers no {source.file_name}")


def _get(url: str) -> bytes:
    if not url.startswith("https://") and not url.startswith("http://"):
        raise SourceError(f"{url} is no web address")
    try:
        with urllib.request.urlopen(url, timeout=120) as response:
            return bytes(response.read())
    except OSError as exc:
        raise SourceError(f"cannot read {url}: {exc}; give --from DIRECTORY with the files instead") from exc


def _configured_index() -> str:
    """The index that pip of this interpreter uses; its own default is not repeated here."""
    ask = [sys.executable, "-m", "pip", "config", "get", "global.index-url"]
    answer = subprocess.run(ask, capture_output=True, text=True, check=False)
    if answer.returncode == 0 and answer.stdout.strip():
        return answer.stdout.strip()
    default = "from pip._internal.models.index import PyPI; print(PyPI.simple_url)"
    answer = subprocess.run([sys.executable, "-c", default], capture_output=True, text=True, check=False)
    if answer.returncode == 0:
        return answer.stdout.strip()
    raise SourceError("pip does not say which index it uses: give --index URL or --from DIRECTORY")
