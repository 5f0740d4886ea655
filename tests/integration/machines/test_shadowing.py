"""Files that happen to lie where a process of ours is started are not run by it."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from vzkubelet.cli.install import _MODULE
from vzkubelet.machines import process
from vzkubelet.machines.directory import MachineDirectory
from vzkubelet.machines.vz import capabilities, installation, self_check
from vzkubelet.machines.vz.launch import Interpreter, launch_helper

NAMES = ("calendar", "token", "click", "msgspec", "types")


@pytest.fixture
def shadowed(tmp_path: Path) -> Path:
    directory = tmp_path / "home"
    directory.mkdir()
    for name in NAMES:
        (directory / f"{name}.py").write_text(
            f"open({str(tmp_path / 'ran')!r}, 'a').write(__name__)\nraise SystemExit('{name} of the home directory')\n"
        )
    return directory


@pytest.fixture
def interpreter(tmp_path: Path) -> Interpreter:
    return Interpreter.find(tmp_path / "no.app", dict(os.environ))


def run(command: Sequence[str], where: Path, environment: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, cwd=where, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_the_shadow_is_one(shadowed: Path, tmp_path: Path) -> None:
    assert run([sys.executable, "-m", "vzkubelet", "version"], shadowed, dict(os.environ)).returncode != 0
    assert (tmp_path / "ran").exists()


def test_the_service_runs_nothing_of_the_home_directory(shadowed: Path, tmp_path: Path) -> None:
    done = run([sys.executable, *_MODULE, "version"], shadowed, dict(os.environ))
    assert (done.returncode, done.stderr) == (0, "")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "module",
    [capabilities.__name__, installation._MODULE, self_check._MODULE],
    ids=lambda name: name.rpartition(".")[2],
)
def test_the_app_runs_nothing_of_the_directory_it_starts_in(
    shadowed: Path, tmp_path: Path, interpreter: Interpreter, module: str
) -> None:
    run(interpreter.module(module, "facts"), shadowed, dict(interpreter.environment))
    assert not (tmp_path / "ran").exists()


async def test_a_helper_runs_nothing_of_the_directory_of_its_machine(
    shadowed: Path, tmp_path: Path, interpreter: Interpreter
) -> None:
    directory = MachineDirectory(shadowed)
    ref = launch_helper(interpreter, directory, ())
    assert [found.ref for found in process.owned(shadowed)] in ([ref], []), "it may have ended"
    assert await process.exit_of(ref) != 0, "there is no plan"
    assert not (tmp_path / "ran").exists(), directory.helper_log.read_text()
