"""The interpreter that is copied into the app: which file is the real one, and what it needs beside it.

In a framework build (python.org, Homebrew) ``bin/python3`` only starts ``Resources/Python.app/Contents/MacOS/Python``,
which is the process that macOS asks for entitlements. Elsewhere (python-build-standalone, which uv installs) the file
behind ``bin/python3`` runs itself, and finds its library relative to its own place.
"""

import platform
import site
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vzkubelet.errors import InvalidInput, Unsupported
from vzkubelet.host.signing import macho

_RELATIVE = ("@executable_path/", "@loader_path/")
"""The same for the main executable."""
_RPATH = "@rpath/"
FRAMEWORK_EXECUTABLE = Path("Resources/Python.app/Contents/MacOS/Python")


@dataclass(frozen=True, slots=True)
class Interpreter:
    prefix: Path
    """Of the interpreter itself, not of a virtual environment."""
    executable: Path
    """The file that ends up as the process."""
    framework: str
    """Name of the framework; empty = not a framework build."""
    version: str
    site_directories: tuple[Path, ...]
    """Where this process finds its packages."""

    @property
    def short_version(self) -> str:
        return ".".join(self.version.split(".")[:2])


@dataclass(frozen=True, slots=True)
class Library:
    """A library that is looked for relative to the executable."""

    source: Path
    place: Path
    """Relative to the directory of the executable, without ``..`` in the middle: ``../lib/libpython3.12.dylib``."""


def running() -> Interpreter:
    """The interpreter of this process. Raises: InvalidInput when its files are not where they should be."""
    prefix, framework = Path(sys.base_prefix), sysconfig.get_config_var("PYTHONFRAMEWORK") or ""
    directories = [*site.getsitepackages(), *([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])]
    return Interpreter(
        prefix=prefix,
        executable=main_executable(prefix, framework, platform.python_version()),
        framework=framework,
        version=platform.python_version(),
        site_directories=tuple(path for path in map(Path, directories) if path.is_dir()),
    )


def main_executable(prefix: Path, framework: str, version: str) -> Path:
    """Raises: InvalidInput."""
    if framework:
        found = prefix / FRAMEWORK_EXECUTABLE
    else:
        found = (prefix / "bin" / f"python{'.'.join(version.split('.')[:2])}").resolve()
    if not found.is_file():
        raise InvalidInput(f"there is no interpreter {found}; use a Python from python.org, Homebrew or uv")
    return found


def libraries(executable: Path, data: bytes) -> tuple[Library, ...]:
    """What has to stand at the same place relative to a copy of the executable.

    Raises:
        Unsupported: not a program of a Mac, or one that cannot be moved.
    """
    if not macho.is_macho(data):
        raise Unsupported(f"{executable} is not a Mac program: sign on the Mac that the agent is to run on")
    try:
        linked = macho.linkage(data)
    except ValueError as exc:
        raise Unsupported(f"{executable}: {exc}") from exc
    return tuple(_relative(executable, linked))


def _relative(executable: Path, linked: macho.Linkage) -> Iterator[Library]:
    for name in linked.libraries:
        candidates = [name.removeprefix(prefix) for prefix in _RELATIVE if name.startswith(prefix)]
        if name.startswith(_RPATH):
            rest = name.removeprefix(_RPATH)
            candidates = [
                f"{rpath.removeprefix(prefix)}/{rest}"
                for rpath in linked.rpaths
                for prefix in _RELATIVE
                if rpath.startswith(prefix)
            ]
        if not candidates:
            continue
        existing = [place for place in candidates if (executable.parent / place).is_file()]
        if not existing:
            raise Unsupported(f"{executable} needs {name}, which is not there")
        place = Path(existing[0])
        if place.parts.count("..") > 1 or ".." in place.parts[1:]:
            raise Unsupported(
                f"{executable} needs {name}, outside of what can be copied; use a Python from python.org or uv"
            )
        yield Library((executable.parent / place).resolve(), place)
