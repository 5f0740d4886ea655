"""The Go project's own push and pull as a program, built from its packages through the Go module proxy."""

import hashlib
import os
import platform
import subprocess
import tempfile
from pathlib import Path

from tests.cluster.binary import BuildFailed, cache_directory, go_toolchain

SOURCE = Path(__file__).parent / "reference"
HARDWARE_MODEL = "YnBsaXN0MDA="
MACHINE_ID = "YnBsaXN0MDA="


def build() -> Path:
    """The program; built in about two minutes the first time, then found by the hash of its source.

    Raises:
        BuildFailed: no Go, or the build ended with an error.
    """
    go, version = go_toolchain()
    digest = hashlib.sha256(f"{version}\n{platform.machine()}\n".encode())
    for path in sorted(SOURCE.iterdir()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    directory = cache_directory()
    binary = directory / f"image-reference-{digest.hexdigest()[:16]}"
    if not binary.exists():
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="build-", dir=directory) as scratch:
            output = Path(scratch, "reference")
            _run([go, "build", "-trimpath", "-buildvcs=false", "-o", str(output), "."])
            output.rename(binary)
    return binary


def _run(command: list[str]) -> None:
    environment = {
        **os.environ,
        "CGO_ENABLED": "0",
        "GOTOOLCHAIN": "local",
        "GOFLAGS": "-mod=readonly",
        "GOWORK": "off",
    }
    done = subprocess.run(command, cwd=SOURCE, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildFailed(f"{' '.join(command)} in {SOURCE} failed:\n{done.stderr[-4000:]}")


def push_command(program: Path, reference: str, disk: Path, aux: Path) -> list[str]:
    return [str(program), "push", reference, str(disk), str(aux), HARDWARE_MODEL, MACHINE_ID]


def pull_command(program: Path, reference: str, directory: Path) -> list[str]:
    return [str(program), "pull", reference, str(directory)]
