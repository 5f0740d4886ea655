"""The console script as a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(sys.executable).parent / "macos-vz-kubelet"
HEAVY = ("aiohttp", "asyncssh", "aiodocker", "msgspec", "yaml", "rich", "cryptography", "psutil", "asyncio", "logging")


def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SCRIPT, *arguments],
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", **env},
        capture_output=True,
        text=True,
        timeout=30,
    )


def test_help_imports_nothing_heavy() -> None:
    done = run("--help", PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 0, done.stderr
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "click.core" in imported
    assert not imported.intersection(HEAVY)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nodname", "x"], "--nodename"),
        (["--kubelet-port", "x"], '--kubelet-port: "x" is not a whole number'),
        (["--config", "/nonexistent/settings.yaml"], "cannot read /nonexistent/settings.yaml: No such file"),
        (["--kubeconfig", "/nonexistent/config"], "cannot read /nonexistent/config: No such file"),
    ],
)
def test_bad_configuration_ends_with_code_2_and_no_traceback(arguments: list[str], message: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_lost_reader_is_no_error() -> None:
    """Hazard: the interpreter reports the broken pipe a second time while it exits."""
    with subprocess.Popen(
        [SCRIPT, "version"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": ""},
    ) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141
