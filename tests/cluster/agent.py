"""The node agent as a process, and the images its pods run: for demonstrations, end-to-end tests and benchmarks."""

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.cluster.control_plane import ControlPlane
from tests.cluster.node_credential import NodeCredential
from tests.cluster.processes import ChildProcess, ComponentFailed, Lifetime, spawn, wait_until

ROOT = Path(__file__).resolve().parents[2]
LOGIN = {"VZ_SSH_USER": "root", "VZ_SSH_PASSWORD": "vz"}
"""Of the guest that tools/guest-image builds."""
READY_TIMEOUT_S = 60.0
_IMAGE_CONFIG = "image-config.json"


def program() -> str:
    """The console script beside the Python that runs this."""
    return str(Path(sys.executable).with_name("macos-vz-kubelet"))


class Agent:
    """One `macos-vz-kubelet` daemon with a directory of its own; `kill` and `start` again adopt what runs.

    `guest` is what `build_guest` wrote: its firmware boots emulated guests faster.
    """

    def __init__(
        self,
        directory: Path,
        credential: NodeCredential,
        *,
        name: str,
        docker_host: str = "",
        guest: Path | None = None,
        driver: str = "qemu",
        flags: tuple[str, ...] = (),
        environment: Mapping[str, str] | None = None,
        lifetime: Lifetime = Lifetime.WITH_PARENT,
    ) -> None:
        self.directory = directory
        self.name = name
        self.cache = directory / "cache"
        self._credential = credential
        self._driver = driver
        self._flags = flags
        self._lifetime = lifetime
        self._environment = {**LOGIN, **credential.environment(), **(environment or {})}
        if guest is not None:
            self._environment["VZ_QEMU_FIRMWARE"] = str(guest / "firmware.fd")
        if docker_host:
            self._environment["DOCKER_HOST"] = docker_host
        self.child: ChildProcess | None = None

    @property
    def log(self) -> Path:
        return self.directory / "agent.log"

    @property
    def command(self) -> list[str]:
        return [
            program(),
            *("--nodename", self.name, "--node-ip", "127.0.0.1", "--kubelet-port", "0"),
            *("--machine-driver", self._driver, "--cache-dir", str(self.cache), "--log-level", "debug"),
            *("--cpu", "8", "--memory", "16Gi"),
            *self._flags,
        ]

    def start(self) -> ChildProcess:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.child = spawn(
            "agent",
            self.command,
            log=self.log,
            lifetime=self._lifetime,
            environment=self._environment,
            stop_grace_s=20.0,
        )
        return self.child

    def stop(self) -> None:
        """SIGTERM: the daemon lets go, what it runs goes on."""
        if self.child is not None:
            self.child.stop()

    def kill(self) -> None:
        """SIGKILL: a crash."""
        assert self.child is not None
        self.child.kill()

    def wait_ready(self, cluster: ControlPlane) -> None:
        """Until the API server shows the node Ready by a heartbeat of this life. Raises ComponentFailed."""
        assert self.child is not None
        wait_until(lambda: self._is_ready(cluster), self.child, what="node Ready", timeout_s=READY_TIMEOUT_S)

    def _is_ready(self, cluster: ControlPlane) -> bool:
        return "node is ready" in self.log.read_text(errors="replace") and node_is_ready(cluster, self.name)

    def tear_down(self) -> None:
        """Stop the daemon and remove what it left on this host: machines, side-cars, network."""
        self.stop()
        subprocess.run(
            [program(), "reset", "--cache-dir", str(self.cache), "--machine-driver", self._driver],
            env={**os.environ, **self._environment},
            check=True,
            capture_output=True,
        )


def node_is_ready(cluster: ControlPlane, name: str) -> bool:
    listed = cluster.run_kubectl(
        "get", "nodes", "--field-selector", f"metadata.name={name}",
        "-o", 'jsonpath={.items[*].status.conditions[?(@.type=="Ready")].status}',
    )  # fmt: skip
    return listed.stdout.strip() == b"True"


def build_guest(output: Path, *flags: str) -> Path:
    """Build the guest image into `output` (cached by the tool); one build at a time on this machine."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with (output.parent / f"{output.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _run([sys.executable, str(ROOT / "tools" / "guest-image"), "build", "--output", str(output), *flags])
    return output


def label_guest(output: Path, architecture: str) -> None:
    """Let what `build_guest` wrote say that it is for hosts of this architecture, which nothing in it has to be."""
    file = output / _IMAGE_CONFIG
    file.write_text(json.dumps({**json.loads(file.read_text()), "architecture": architecture}))


def push_guest(output: Path, reference: str, *flags: str) -> None:
    """Push what `build_guest` wrote, with the product's own command, for the architecture that its config names."""
    architecture = json.loads((output / _IMAGE_CONFIG).read_text())["architecture"]
    _run(
        [
            program(), "image", "push",
            "--disk-path", str(output / "disk.img"), "--aux-path", str(output / "aux.img"),
            "--os", "linux", "--arch", architecture, "--image-config", str(output / _IMAGE_CONFIG),
            *flags, reference,
        ]
    )  # fmt: skip


def _run(command: list[str]) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise ComponentFailed(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}")
