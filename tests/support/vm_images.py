"""Files of virtual machines, and their images in a real registry."""

import hashlib
import json
import random
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vzkubelet.images import Machine, Pusher, PushRequest, Upkeep
from vzkubelet.model.reference import parse
from vzkubelet.ports import RegistryCredential

MIB = 1024 * 1024
LINUX = Machine("linux", "amd64")
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"


@dataclass(frozen=True, slots=True)
class VmFiles:
    disk: Path
    aux: Path

    def same_as(self, disk: Path, aux: Path) -> bool:
        return _digest(self.disk) == _digest(disk) and _digest(self.aux) == _digest(aux)


def make_files(directory: Path, seed: int = 1, *, size_bytes: int = 8 * MIB, data_bytes: int = 2 * MIB) -> VmFiles:
    """A disk with noise at its start and its end and a hole between them; equal seeds give equal files."""
    directory.mkdir(parents=True, exist_ok=True)
    noise = random.Random(seed)
    files = VmFiles(directory / f"disk-{seed}", directory / f"aux-{seed}")
    with files.disk.open("wb") as disk:
        disk.truncate(size_bytes)
        disk.write(noise.randbytes(data_bytes // 2))
        disk.seek(size_bytes - data_bytes // 2)
        disk.write(noise.randbytes(data_bytes // 2))
    files.aux.write_bytes(noise.randbytes(1000) + bytes(100_000))
    return files


async def push(
    files: VmFiles,
    *references: str,
    machine: Machine = LINUX,
    image_config: dict[str, object] | None = None,
    credential: RegistryCredential | None = None,
) -> str:
    """Push with our own tool; returns the manifest's digest."""
    pusher = Pusher(files.disk.parent, credential or RegistryCredential(), progress=lambda _: None)
    try:
        request = PushRequest(files.disk, files.aux, machine, image_config)
        return (await pusher.push(request, [parse(reference) for reference in references])).digest
    finally:
        await pusher.close()


@dataclass(slots=True)
class RawRepository:
    """Writes anything under a tag, as no proper tool would. Blocking; the registry is on loopback and asks no login."""

    url: str
    path: str
    headers: dict[str, str] = field(default_factory=dict)

    def put_blob(self, content: bytes) -> str:
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        with self._request("POST", "blobs/uploads/", b"") as opened:
            location = opened.headers["Location"]
        separator = "&" if "?" in location else "?"
        with self._send("PUT", f"{location}{separator}digest={digest}", content, "application/octet-stream"):
            return digest

    def put_manifest(self, tag: str, document: dict[str, Any] | bytes, media_type: str = MANIFEST_TYPE) -> str:
        content = document if isinstance(document, bytes) else json.dumps(document).encode()
        with self._request("PUT", f"manifests/{tag}", content, media_type):
            return f"sha256:{hashlib.sha256(content).hexdigest()}"

    def manifest(self, tag: str) -> dict[str, Any]:
        with self._request("GET", f"manifests/{tag}", None, MANIFEST_TYPE) as answer:
            document: dict[str, Any] = json.load(answer)
        return document

    def digest(self, tag: str) -> str:
        """Of the manifest."""
        with self._request("GET", f"manifests/{tag}", None, MANIFEST_TYPE) as answer:
            return f"sha256:{hashlib.sha256(answer.read()).hexdigest()}"

    def layer_digest(self, tag: str, kind: str) -> str:
        """Blob digest of the layer whose media type contains `kind`."""
        layers: Sequence[dict[str, Any]] = self.manifest(tag)["layers"]
        return str(next(layer["digest"] for layer in layers if kind in layer["mediaType"]))

    def _request(self, method: str, rest: str, body: bytes | None, media_type: str = "") -> Any:
        return self._send(method, f"{self.url}/v2/{self.path}/{rest}", body, media_type)

    def _send(self, method: str, url: str, body: bytes | None, media_type: str) -> Any:
        headers = {**self.headers, **({"Content-Type": media_type, "Accept": media_type} if media_type else {})}
        return urllib.request.urlopen(urllib.request.Request(url, body, headers, method=method))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


async def listed(root: Path) -> set[str]:
    """The references that a store has images for."""
    images = (await Upkeep(root).usage()).images
    return {reference.reference for image in images for reference in image.references}
