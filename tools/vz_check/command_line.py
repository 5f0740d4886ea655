"""The command `tools/vz-check`: check the driver, and write or compare what is generated from it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from . import document
from .catalog import DEPLOYMENT_TARGET, METADATA, Catalog, Json
from .checker import Checker
from .findings import RULES

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "vzkubelet.machines.vz"
DIRECTORY = ROOT / "src" / "vzkubelet" / "machines" / "vz"
DOCUMENT = ROOT / "docs" / "vz-api.md"
API = DIRECTORY / "api.json"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("vz-check", description="Checks the vz driver against Apple's SDK metadata.")
    parser.add_argument("--write", action="store_true", help="write docs/vz-api.md and api.json again")
    parser.add_argument("--rules", action="store_true", help="list the rules and what they are about")
    parser.add_argument("--metadata", type=Path, default=METADATA, help="directory of the SDK metadata")
    chosen = parser.parse_args(arguments)
    if chosen.rules:
        for rule, reason in sorted(RULES.items()):
            print(f"{rule:24} {reason}")
        return 0
    checker = Checker(DIRECTORY, PACKAGE, Catalog.load(chosen.metadata), DIRECTORY.relative_to(ROOT))
    findings = checker.run()
    for finding in findings:
        print(finding)
    generated = _generated(checker.api())
    if chosen.write:
        for path, text in generated.items():
            path.write_text(text, encoding="utf-8")
    stale = [path for path, text in generated.items() if not path.is_file() or path.read_text("utf-8") != text]
    for path in stale:
        print(f"{path.relative_to(ROOT)} is stale: run tools/vz-check --write", file=sys.stderr)
    return 1 if findings or stale else 0


def _generated(api: Json) -> dict[Path, str]:
    target = f"{DEPLOYMENT_TARGET[0]}.{DEPLOYMENT_TARGET[1]}"
    packaged = _json(_without_modules({"deployment_target": target, **api}))
    return {DOCUMENT: document.text(api), API: packaged + "\n"}


def _json(value: object, level: int = 0) -> str:
    """Sorted keys, a line for each method and value: readable in a diff."""
    if not isinstance(value, dict) or "python" in value or not any(isinstance(v, dict) for v in value.values()):
        return json.dumps(value, sort_keys=True)
    space = " " * level
    members = (f"{space} {json.dumps(key)}: {_json(value[key], level + 1)}" for key in sorted(value))
    return "{\n" + ",\n".join(members) + f"\n{space}}}"


def _without_modules(value: Json) -> Json:
    return {
        key: _without_modules(inner) if isinstance(inner, dict) else inner
        for key, inner in value.items()
        if key != "modules"
    }
