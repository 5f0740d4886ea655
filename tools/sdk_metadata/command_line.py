"""The command `tools/sdk-metadata`: write, check or compare the reduced SDK metadata."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from . import headers, published_tests, reduction
from .difference import differences
from .fwinfo import Json
from .sources import COCOA, DISPATCH, VIRTUALIZATION, SourceError, open_archive

ROOT = Path(__file__).resolve().parents[2]
DESTINATION = ROOT / "resources" / "apple-sdk"
_DESCRIPTION = """\
Reduces the dump of Apple's SDK headers in the PyObjC source distributions to resources/apple-sdk. The same sources give
the same bytes.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _parser()
    chosen = parser.parse_args(arguments)
    try:
        if chosen.diff:
            return _compare(*chosen.diff)
        if chosen.headers:
            _write(Path(__file__).with_name("nullability.json"), headers.read(chosen.headers, chosen.revision))
            return 0
        documents = _documents(chosen.source_directory, chosen.index)
    except SourceError as exc:
        print(f"sdk-metadata: {exc}", file=sys.stderr)
        return 1
    if chosen.check:
        stale = [name for name, text in documents.items() if _content(DESTINATION / name) != text]
        for name in stale:
            print(f"sdk-metadata: {name} is not what the sources give; run tools/sdk-metadata", file=sys.stderr)
        return 1 if stale else 0
    DESTINATION.mkdir(parents=True, exist_ok=True)
    for name, text in documents.items():
        (DESTINATION / name).write_text(text, encoding="utf-8")
        print(f"wrote {(DESTINATION / name).relative_to(ROOT)} ({len(text) // 1024} KiB)")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("sdk-metadata", description=_DESCRIPTION, allow_abbrev=False)
    parser.add_argument(
        "--from", dest="source_directory", type=Path, metavar="DIRECTORY",
        help="take the source distributions from there instead of the package index",
    )  # fmt: skip
    parser.add_argument("--index", metavar="URL", help="package index to ask (default: the one that pip uses)")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when the files differ")
    parser.add_argument(
        "--diff", nargs=2, type=Path, metavar=("OLD", "NEW"), help="print what changed between two reduced files"
    )
    parser.add_argument(
        "--headers", type=Path, metavar="DIRECTORY", help="renew nullability.json from generated .rs files"
    )
    parser.add_argument("--revision", default="unknown", help="with --headers: which revision the directory holds")
    return parser


def _documents(directory: Path | None, index: str | None) -> dict[str, str]:
    virtualization, cocoa, dispatch = (
        open_archive(source, directory, index) for source in (VIRTUALIZATION, COCOA, DISPATCH)
    )
    return {
        "LICENSE.txt": virtualization.text("License.txt"),
        "foundation.json": text(reduction.foundation(cocoa, dispatch)),
        "published_tests.json": text(published_tests.facts(virtualization)),
        "virtualization.json": text(reduction.virtualization(virtualization)),
    }


def text(value: object, level: int = 0) -> str:
    """JSON with sorted keys and one line for each method or value: the same document is always the same text."""
    if not isinstance(value, dict) or not value or "arguments" in value or not _has_objects(value):
        return json.dumps(value, sort_keys=True, ensure_ascii=False)
    space = " " * level
    members = (f"{space} {json.dumps(key)}: {text(value[key], level + 1)}" for key in sorted(value))
    return "{\n" + ",\n".join(members) + f"\n{space}}}" + ("" if level else "\n")


def _has_objects(value: Json) -> bool:
    return any(isinstance(member, dict) and member for member in value.values())


def _compare(old: Path, new: Path) -> int:
    before, after = (json.loads(path.read_text(encoding="utf-8")) for path in (old, new))
    for line in differences(before, after):
        print(line)
    return 0


def _write(path: Path, document: Json) -> None:
    path.write_text(text(document), encoding="utf-8")
    print(f"wrote {path.relative_to(ROOT)}")


def _content(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None
