"""Modules and functions that have grown too long: reported above the aim, an error above the limit."""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCES = ("src", "tests", "tools", "bench")
MODULE_AIM, MODULE_LIMIT = 400, 600
FUNCTION_AIM, FUNCTION_LIMIT = 50, 80


@dataclass(frozen=True, slots=True)
class Finding:
    place: str
    lines: int
    limit: int

    @property
    def is_error(self) -> bool:
        return self.lines > self.limit


def main() -> int:
    findings = [finding for path in _sources() for finding in _measure(path)]
    for finding in sorted(findings, key=lambda finding: (-finding.lines / finding.limit, finding.place)):
        verdict = f"too long, at most {finding.limit}" if finding.is_error else "long"
        print(f"  {finding.place}: {finding.lines} lines, {verdict}")
    return 1 if any(finding.is_error for finding in findings) else 0


def _sources() -> list[Path]:
    return [path for name in SOURCES for path in sorted((ROOT / name).rglob("*.py"))]


def _measure(path: Path) -> Iterator[Finding]:
    text = path.read_text(encoding="utf-8")
    name = path.relative_to(ROOT)
    lines = text.count("\n")
    if lines > MODULE_AIM:
        yield Finding(str(name), lines, MODULE_LIMIT)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            length = node.end_lineno - node.lineno + 1
            if length > FUNCTION_AIM:
                yield Finding(f"{name}:{node.lineno} {node.name}()", length, FUNCTION_LIMIT)


if __name__ == "__main__":
    sys.exit(main())
