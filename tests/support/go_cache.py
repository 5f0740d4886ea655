"""The cache of the Go project of the same name, as its version 1.4 lays it out (pkg/oci, internal/disk)."""

import base64
import hashlib
import json
import os
import time
from pathlib import Path

GO_REFERENCE = "registry.test:5000/team/macos:26"
HARDWARE_MODEL = b"bplist00 a hardware model"
MACHINE_ID = b"bplist00 a machine identifier"


def go_directory(cache: Path, reference: str) -> Path:
    """Each ``:`` of a reference becomes a ``/``."""
    return cache / "blobs" / reference.replace(":", "/")


def write_go_image(cache: Path, reference: str, disk: bytes, aux: bytes, **config: object) -> Path:
    """A complete image; returns its directory."""
    directory = go_directory(cache, reference)
    directory.mkdir(parents=True)
    document = {
        "storage": [
            {"mediatype": "application/vnd.agoda.macosvz.aux.image.v1", "file": "aux.img"},
            {"mediatype": "application/vnd.agoda.macosvz.disk.image.v1", "file": "disk.img"},
        ],
        "mediatype": "application/vnd.agoda.macosvz.config.v1+json",
        "os": "darwin",
        "hardwareModelData": base64.b64encode(HARDWARE_MODEL).decode(),
        "machineIdData": base64.b64encode(MACHINE_ID).decode(),
        **config,
    }
    for name, content in (("disk.img", disk), ("aux.img", aux), ("config.json", json.dumps(document).encode())):
        write_go_file(directory, name, content)
    return directory


def write_go_file(directory: Path, name: str, content: bytes) -> None:
    """A file and its digest, which is trusted there because it is the newer one."""
    (directory / name).write_bytes(content)
    os.utime(directory / name, (time.time() - 60, time.time() - 60))
    (directory / f"{name}.digest").write_text(f"sha256:{hashlib.sha256(content).hexdigest()}")
