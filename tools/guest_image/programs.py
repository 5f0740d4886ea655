"""Host programs: run with a fixed environment, fail with their own words."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence

from .errors import BuildError

# Debian keeps mke2fs and mkfs.vfat where a normal user's PATH does not look.
_EXTRA_PATH = "/usr/sbin:/sbin"
_PACKAGES = {
    "apt-cache": "apt",
    "apt-get": "apt",
    "debugfs": "e2fsprogs",
    "dpkg-deb": "dpkg",
    "dpkg-query": "dpkg",
    "mcopy": "mtools",
    "mke2fs": "e2fsprogs",
    "mkfs.vfat": "dosfstools",
    "mmd": "mtools",
}


def _environment(extra: Mapping[str, str]) -> dict[str, str]:
    path = os.environ.get("PATH", "/usr/bin:/bin")
    environment = {"PATH": f"{path}:{_EXTRA_PATH}", "LC_ALL": "C", "TZ": "UTC"}
    # apt finds its proxy in the environment on machines that have one.
    environment.update({name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")})
    environment.update(extra)
    return environment


def run(
    argv: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    stdin: str | None = None,
    cwd: str | None = None,
) -> str:
    """Run a program to its end and return its standard output.

    Raises: BuildError when it is missing or fails, with the last lines it wrote to standard error.
    """
    variables = _environment(environment or {})
    if shutil.which(argv[0], path=variables["PATH"]) is None:
        package = _PACKAGES.get(argv[0])
        hint = f": install the Debian package {package}" if package else ""
        raise BuildError(f"program {argv[0]} not found{hint}")
    done = subprocess.run(
        argv, env=variables, input=stdin, cwd=cwd, capture_output=True, text=True, check=False, errors="replace"
    )
    if done.returncode != 0:
        words = "\n".join((done.stderr or done.stdout).strip().splitlines()[-5:])
        raise BuildError(f"{argv[0]} failed with exit code {done.returncode}: {words}")
    return done.stdout


def require(*names: str) -> None:
    """Raises: BuildError that lists every missing program and the packages that bring them."""
    path = _environment({})["PATH"]
    missing = [name for name in names if shutil.which(name, path=path) is None]
    if missing:
        packages = sorted({_PACKAGES.get(name, name) for name in missing})
        raise BuildError(f"programs not found: {', '.join(missing)}. Run: apt-get install {' '.join(packages)}")
