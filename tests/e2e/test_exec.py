"""``kubectl exec``, ``attach`` and ``logs`` through the real API server: no byte lost, the right exit code."""

import hashlib
import os
import pty
import subprocess
import time

import pytest

from tests.cluster.control_plane import ControlPlane
from tests.support.agent_fixtures import Pods

MANY = 50_000_000


@pytest.fixture
def sleeper(pods: Pods) -> Pods:
    """A pod "s" whose machine is up."""
    pods.apply(pods.pod("s", "sleep", "3600"))
    pods.wait_ready("s")
    return pods


def kubectl(cluster: ControlPlane, pods: Pods, *arguments: str) -> list[str]:
    return [str(cluster.kubectl), "--kubeconfig", str(cluster.admin_kubeconfig), "-n", pods.namespace, *arguments]


def test_exit_codes_and_large_streams(sleeper: Pods, cluster: ControlPlane) -> None:
    for code in (0, 1, 3, 137, 255):
        assert sleeper.exec("s", "sh", "-c", f"exit {code}", check=False).returncode == code
    data = os.urandom(MANY)
    summed = sleeper.kubectl("exec", "-i", "s", "--", "sha256sum", stdin=data, timeout_s=120)
    assert summed.stdout.split()[0].decode() == hashlib.sha256(data).hexdigest()
    zeros = sleeper.exec("s", "head", "-c", str(MANY), "/dev/zero", timeout_s=120)
    assert zeros.stdout == bytes(MANY)


@pytest.mark.timeout(240)
def test_slow_reader_gets_every_byte(sleeper: Pods, cluster: ControlPlane) -> None:
    size, received = 20_000_000, 0
    command = kubectl(cluster, sleeper, "exec", "s", "--", "head", "-c", str(size), "/dev/zero")
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        while chunk := process.stdout.read(1_000_000):
            received += len(chunk)
            time.sleep(len(chunk) / 1_000_000)
    assert (received, process.returncode) == (size, 0)


def test_terminal_with_its_size_and_a_resize(sleeper: Pods, cluster: ControlPlane) -> None:
    command = kubectl(cluster, sleeper, "exec", "-it", "s", "--", "sh")
    primary, secondary = pty.openpty()
    import fcntl
    import struct
    import termios

    def resize(rows: int, columns: int) -> None:
        fcntl.ioctl(primary, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    resize(40, 100)
    with subprocess.Popen(
        command, stdin=secondary, stdout=secondary, stderr=secondary, start_new_session=True
    ) as process:
        os.close(secondary)
        shown = _until(primary, b"# ", "")
        os.write(primary, b"stty size\n")
        shown = _until(primary, b"40 100", shown)
        resize(50, 132)
        process.send_signal(28)  # SIGWINCH: the pty is not the process's controlling terminal here
        deadline = time.monotonic() + 20
        while "50 132" not in shown and time.monotonic() < deadline:
            os.write(primary, b"stty size\n")
            shown = _until(primary, b"# ", shown)
        assert "50 132" in shown
        os.write(primary, b"exit 7\n")
        assert process.wait(20) == 7
    os.close(primary)


def _until(descriptor: int, wanted: bytes, before: str) -> str:
    shown, deadline = b"", time.monotonic() + 20
    while wanted not in shown:
        assert time.monotonic() < deadline, f"terminal showed only {before}{shown!r}"
        shown += os.read(descriptor, 4096)
    return before + shown.decode(errors="replace")


def test_stdout_and_stderr_stay_apart(sleeper: Pods) -> None:
    done = sleeper.exec("s", "sh", "-c", "echo out; echo err >&2; exit 2", check=False)
    assert (done.stdout, done.returncode) == (b"out\n", 2)
    assert done.stderr.startswith(b"err\n")


def test_missing_program_and_container_are_told(sleeper: Pods) -> None:
    missing = sleeper.exec("s", "no-such-program", check=False)
    assert missing.returncode != 0
    assert b"not found" in missing.stderr
    unknown = sleeper.kubectl("exec", "s", "-c", "nope", "--", "true", check=False)
    assert b"nope" in unknown.stderr


def test_attach_and_logs_follow_to_the_end(pods: Pods) -> None:
    pods.apply(pods.pod("talk", "sh", "-c", "for i in 1 2 3 4 5 6; do echo line $i; sleep 1; done; echo end"))
    pods.wait_ready("talk")
    attached = pods.kubectl("attach", "talk", "-c", "vm", timeout_s=60, check=False).stdout
    followed = pods.kubectl("logs", "-f", "talk", timeout_s=60).stdout
    assert attached.endswith(b"line 6\nend\n")
    assert followed == b"".join(b"line %d\n" % i for i in range(1, 7)) + b"end\n"
    assert pods.logs("talk", "--tail=1") == "end\n"
    assert len(pods.logs("talk", "--timestamps", "--tail=1").split()[0]) == 30


def test_exec_into_the_sidecar(pods: Pods, busybox_image: str) -> None:
    side = {"name": "side", "image": busybox_image, "command": ["sleep", "3600"]}
    pods.apply(pods.pod("two", "sleep", "3600", sidecars=[side]))
    pods.wait_ready("two")
    done = pods.kubectl(
        "exec", "-i", "two", "-c", "side", "--", "sh", "-c", "cat; exit 5", stdin=b"through", check=False
    )
    assert (done.stdout, done.returncode) == (b"through", 5)
