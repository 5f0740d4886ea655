"""Resolve pyproject.toml into requirements/*.lock, or check (`--check`, without network) that they are up to date.

A lock names versions and hashes and nothing else: no index, no URL, so that it works with any mirror. The first line of
each carries the hash of what it was resolved from.
"""

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
LOCKS = ROOT / "requirements"
HEADER = "# inputs: sha256:"
PYTHON = "3.11"


@dataclass(frozen=True, slots=True)
class Lock:
    name: str
    arguments: tuple[str, ...]
    sections: tuple[str, ...]
    """What of pyproject.toml it depends on, as dotted paths."""

    @property
    def path(self) -> Path:
        return LOCKS / f"{self.name}.lock"

    @property
    def source(self) -> Path:
        own = LOCKS / f"{self.name}.in"
        return own if own.exists() else ROOT / "pyproject.toml"


_RUNTIME = ("project.requires-python", "project.dependencies", "project.optional-dependencies")
ALL = (
    Lock("runtime", ("--all-extras",), _RUNTIME),
    Lock(
        "dev",
        ("--extra", "vz", "--group", "dev", "--group", "build"),
        (*_RUNTIME, "dependency-groups", "build-system.requires"),
    ),
    Lock("go", (), ()),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only compare, change nothing")
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions instead of the locked ones")
    arguments = parser.parse_args()
    if not arguments.check:
        for lock in ALL:
            _resolve(lock, upgrade=arguments.upgrade)
    problems = [problem for lock in ALL for problem in _problems(lock)]
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if problems else 0


def _resolve(lock: Lock, *, upgrade: bool) -> None:
    command = [
        *("uv", "pip", "compile", "--quiet", "--universal", "--generate-hashes", f"--python-version={PYTHON}"),
        *("--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links"),
        *(["--upgrade"] if upgrade else []),
        *lock.arguments,
        *("--output-file", str(lock.path), str(lock.source)),
    ]
    subprocess.run(command, cwd=ROOT, check=True)
    lock.path.write_text(f"{HEADER}{_inputs_hash(lock)}\n{lock.path.read_text()}")
    print(f"wrote {lock.path.relative_to(ROOT)}")


def _inputs_hash(lock: Lock) -> str:
    document = tomllib.loads((ROOT / "pyproject.toml").read_text())
    inputs: dict[str, object] = {"arguments": lock.arguments, "python": PYTHON}
    for section in lock.sections:
        value: object = document
        for key in section.split("."):
            assert isinstance(value, dict), section
            value = value[key]
        inputs[section] = value
    if lock.source.suffix == ".in":
        inputs["source"] = lock.source.read_text()
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def _problems(lock: Lock) -> list[str]:
    name = lock.path.relative_to(ROOT)
    if not lock.path.exists():
        return [f"{name} is missing: run make lock"]
    text = lock.path.read_text()
    problems = []
    if text.splitlines()[0] != HEADER + _inputs_hash(lock):
        problems.append(f"{name} does not belong to {lock.source.relative_to(ROOT)}: run make lock")
    if re.search(r"://|--(extra-)?index-url|--find-links", text):
        problems.append(f"{name} names a place to download from")
    requirements = re.split(r"\n(?=\S)", text)[1:]
    unhashed = [requirement.split()[0] for requirement in requirements if "--hash=sha256:" not in requirement]
    if unhashed:
        problems.append(f"{name} has no hash for {', '.join(unhashed)}")
    return problems


if __name__ == "__main__":
    sys.exit(main())
