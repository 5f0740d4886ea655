"""The console script in surroundings that are not a person's shell: no home, closed or full output, an early Ctrl-C."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = str(Path(sys.executable).parent / "macos-vz-kubelet")


def shell(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-c", line],
        env={"PATH": os.environ["PATH"], "SCRIPT": SCRIPT, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def as_nobody(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """As a user that is in no database. All is imported before: the checkout may be root's."""
    code = "import os; os.setgroups([]); os.setgid(12345); os.setuid(12345); from vzkubelet.cli import main; main()"
    code = f"import vzkubelet.cli.verbs, vzkubelet.cli.image.ls, vzkubelet.cli.ps, vzkubelet.daemon.standalone; {code}"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={"PATH": os.environ["PATH"]},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("arguments", [["--help"], ["version"], ["image", "--help"], ["run", "--help"]])
def test_without_a_home_what_needs_none_works(tmp_path: Path, arguments: list[str]) -> None:
    """Hazard: containers and CI without HOME could not even ask for help."""
    done = as_nobody(tmp_path, *arguments)
    assert (done.returncode, done.stderr) == (0, "")


def test_without_a_home_a_path_that_is_given_is_enough(tmp_path: Path) -> None:
    done = as_nobody(tmp_path, "ps", "--cache-dir", "/nonexistent/cache")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("arguments", [["ps"], ["image", "ls"], ["doctor"]])
def test_without_a_home_a_default_below_it_is_an_error_that_names_the_variable(
    tmp_path: Path, arguments: list[str]
) -> None:
    done = as_nobody(tmp_path, *arguments)
    assert done.returncode in (1, 2)
    assert "HOME is not set" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("verb", ["version", "ps", "logs absent", "--help"])
def test_closed_output_is_no_traceback(tmp_path: Path, verb: str) -> None:
    """Hazard: sys.stdout is None then, and the next file that is opened would be written to as stdout."""
    for closed in (">&-", ">&- 2>&-", "<&- >&- 2>&-"):
        done = shell(f'"$SCRIPT" {verb} {closed}', HOME=str(tmp_path))
        assert done.returncode in (0, 1, 3)
        assert "Traceback" not in done.stderr
        assert not done.stdout


@pytest.mark.parametrize("verb", ["version", "ps", "doctor --standalone", "--help"])
def test_output_that_cannot_be_written_is_one_line(tmp_path: Path, verb: str) -> None:
    done = shell(f'"$SCRIPT" {verb} >/dev/full', HOME=str(tmp_path))
    assert (done.returncode, done.stderr) == (1, "error: cannot write the output: No space left on device\n")


@pytest.mark.parametrize("module", ["click", "vzkubelet.cli.verbs", "asyncio", "vzkubelet.daemon.standalone"])
def test_interruption_while_modules_are_imported_is_quiet(tmp_path: Path, module: str) -> None:
    """Hazard: KeyboardInterrupt out of an import statement, with pages of traceback."""
    script = tmp_path / "interrupted.py"
    script.write_text(
        "import os, signal, sys\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, path, target=None):\n"
        f"        if name == {module!r}:\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupt())\n"
        "from vzkubelet.cli import main\n"
        "main(['ps', '--cache-dir', '/nonexistent'])\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize("delay_s", ["0.15", "0.3"])
def test_interruption_soon_after_the_start_is_quiet(tmp_path: Path, delay_s: str) -> None:
    script = tmp_path / "late.py"
    script.write_text(
        "import signal, sys\n"
        f"signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))\n"
        "from vzkubelet.cli import main\n"
        f"signal.setitimer(signal.ITIMER_REAL, {delay_s})\n"
        "main(['run', '-'])\n"
    )
    with subprocess.Popen(
        [sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "HOME": str(tmp_path)},
    ) as process:  # fmt: skip
        assert process.wait(60) == 130
        assert process.stderr is not None
        assert process.stderr.read() == ""
