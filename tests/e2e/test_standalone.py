"""``macos-vz-kubelet run`` and its companions: pods on this machine without a cluster."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster import agent as agents
from tests.support.agent_fixtures import NodeHost, machine_processes

EXAMPLE_IMAGE = "localhost:5000/linux-guest:latest"
STEADY = """
apiVersion: v1
kind: Pod
metadata: {name: steady}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 10
  containers:
  - name: vm
    image: IMAGE
    command: [sh, -c, "trap 'echo bye; exit 4' TERM; echo up; while :; do sleep 0.1; done"]
"""


class Machine:
    """The command line with a cache of its own."""

    def __init__(self, cache: Path, host: NodeHost, image: str) -> None:
        self.image = image
        self.cache = cache
        self._environment = {**os.environ, **host.environment}
        # qemu is what it takes by itself here; `ps` asks no driver.
        self._driver = [] if host.driver == "qemu" else ["--machine-driver", host.driver]

    def start(self, *arguments: str, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[str]:
        verb, *rest = arguments
        driver = [] if verb == "ps" else self._driver
        return subprocess.Popen(
            [agents.program(), verb, "--cache-dir", str(self.cache), *driver, *rest],
            env=self._environment, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, *arguments: str, input_text: str = "", timeout_s: float = 90) -> subprocess.CompletedProcess[str]:
        with self.start(*arguments, stdin=subprocess.PIPE) as process:
            try:
                stdout, stderr = process.communicate(input_text, timeout_s)
            except BaseException:
                process.kill()
                raise
        return subprocess.CompletedProcess(arguments, process.returncode, stdout, stderr)

    def manifest(self, directory: Path, text: str = STEADY, image: str = "IMAGE") -> str:
        file = directory / "pod.yaml"
        file.write_text(text.replace(image, self.image))
        return str(file)

    def until(self, holds: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + 60
        while not holds():
            assert time.monotonic() < deadline, what
            time.sleep(0.2)

    def leftovers(self) -> list[str]:
        return [line for line in machine_processes(self.cache) if "qemu-system" in line]


@pytest.fixture
def machine(tmp_path: Path, node_host: NodeHost, guest_image: str) -> Iterator[Machine]:
    made = Machine(tmp_path / "cache", node_host, guest_image)
    yield made
    assert made.run("reset").returncode == 0
    assert made.leftovers() == []


def test_example_prints_its_output_and_leaves_nothing(machine: Machine, tmp_path: Path) -> None:
    text = Path("examples/hello.yaml").read_text()
    done = machine.run("run", machine.manifest(tmp_path, text, EXAMPLE_IMAGE))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Hello from Linux ")
    assert machine.run("ps").stdout.splitlines()[1:] == []
    assert machine.leftovers() == []


def test_companions_act_on_a_running_pod_and_ctrl_c_deletes_it_gracefully(machine: Machine, tmp_path: Path) -> None:
    with machine.start("run", machine.manifest(tmp_path)) as running:
        machine.until(lambda: "1/1" in machine.run("ps").stdout, "running")
        assert machine.run("exec", "steady", "--", "sh", "-c", "exit 3").returncode == 3
        assert machine.run("exec", "-i", "steady", "--", "cat", input_text="through").stdout == "through"
        assert machine.run("logs", "steady").stdout == "up\n"
        again = machine.run("run", machine.manifest(tmp_path))
        assert again.returncode == 4
        assert "rm steady" in again.stderr
        running.send_signal(signal.SIGINT)
        stdout, _ = running.communicate(timeout=60)
    assert (stdout, running.returncode) == ("up\nbye\n", 4)


def test_pod_of_a_killed_run_is_listed_and_removed(machine: Machine, tmp_path: Path) -> None:
    with machine.start("run", machine.manifest(tmp_path)) as running:
        machine.until(lambda: "1/1" in machine.run("ps").stdout, "running")
        running.kill()
    assert len(machine.leftovers()) == 1
    assert machine.run("exec", "steady", "--", "true").returncode == 0
    removed = machine.run("rm", "steady")
    assert (removed.returncode, removed.stdout) == (0, 'pod "steady" deleted\n')
    assert "Pull" not in removed.stderr, "what is to be removed was started first"
    assert machine.leftovers() == []


def test_pod_is_removed_by_the_process_that_runs_it(machine: Machine, tmp_path: Path) -> None:
    with machine.start("run", machine.manifest(tmp_path)) as running:
        machine.until(lambda: "1/1" in machine.run("ps").stdout, "running")
        assert machine.run("rm", "steady").returncode == 0
        assert running.wait(30) == 4


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "is not YAML"),
        ("kind: Deployment", "cannot be run here"),
        ("kind: Pod\nmetadata: {name: Bad Name}", "is not a lower-case DNS name"),
        ("kind: Pod\nmetadata: {name: a}\nspec: {containers: []}", "spec.containers is empty"),
        ("kind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: c}]}", "has no image"),
        ("kind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: c, image: i}]}\n---\nkind: Pod", "found 2 pods"),
    ],
)
def test_bad_manifest_names_the_file_and_the_fault(machine: Machine, tmp_path: Path, text: str, complaint: str) -> None:
    done = machine.run("run", machine.manifest(tmp_path, text))
    assert done.returncode == 2
    assert str(tmp_path / "pod.yaml") in done.stderr
    assert complaint in done.stderr


def test_unknown_pod_is_told(machine: Machine) -> None:
    for verb in (["exec", "absent", "--", "true"], ["logs", "absent"], ["rm", "absent"]):
        done = machine.run(*verb)
        assert done.returncode == 3
        assert 'pod "absent" does not exist' in done.stderr
