"""The import contracts can fail: a breach planted in a copy of the package is reported."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
LAYERS = "Layers BROKEN"
NO_IO = "wire, podstate, model and errors do no IO BROKEN"
BREACHES = {
    "wire does IO": ("wire", "import asyncio", NO_IO),
    "podstate does IO": ("podstate", "import subprocess", NO_IO),
    "podstate knows the API server": ("podstate", "import vzkubelet.kube", LAYERS),
    "asyncssh outside guests": ("sidecars", "import asyncssh", "asyncssh lives in guests BROKEN"),
    "aiodocker outside sidecars": ("guests", "import aiodocker", "aiodocker lives in sidecars BROKEN"),
    "qemu.qmp outside machines": ("pods", "import qemu.qmp", "qemu.qmp lives in machines BROKEN"),
    "PyObjC outside machines.vz": ("machines", "import objc", "PyObjC lives in machines.vz BROKEN"),
    "one room knows its neighbour": ("images", "import vzkubelet.machines", LAYERS),
    "the server reaches into the node": ("server", "import vzkubelet.node", LAYERS),
    "a port knows a room": ("ports", "import vzkubelet.guests", LAYERS),
    "a module without a layer": ("utils", "", "not listed as layers"),
}
"""Where the breach is planted, the statement, and what the report says."""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def lint_imports(checkout: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache", "--no-logo"],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout / "src")},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_contracts_are_kept(checkout: Path) -> None:
    done = lint_imports(checkout)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("breach", BREACHES)
def test_breach_is_reported(checkout: Path, breach: str) -> None:
    room, statement, report = BREACHES[breach]
    package = checkout / "src/vzkubelet" / room
    module = package / "planted.py" if package.is_dir() else package.with_suffix(".py")
    with module.open("a") as source:
        source.write(f"\n{statement}\n")
    done = lint_imports(checkout)
    assert done.returncode == 1, done.stdout + done.stderr
    assert report in " ".join(done.stdout.split()), done.stdout + done.stderr
