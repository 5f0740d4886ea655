"""`python -m bench.images`, or `python -m bench images`: the table of the image engine, as text and as JSON."""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from bench.images import reflink, rows, run, verdict
from bench.images.rows import Circumstances, Report
from tests.cluster.registry import Registry

SPACE = 5
"""Times the disk's size that a run takes at most: inputs, blobs of three formats, what is pulled, temporary files."""


def main(arguments: list[str] | None = None) -> int:
    options = _options(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # through the context managers, so that nothing is left
    began = time.monotonic()

    def say(what: str) -> None:
        print(f"[images {time.monotonic() - began:5.1f} s] {what}", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory(prefix="vz-bench-", dir=options.directory) as name:
        report = _measure(Path(name), options, began, say)
    print(rows.as_text(report))
    encoded = rows.as_json(report)
    if options.json:
        options.json.write_bytes(encoded)
    else:
        print(encoded.decode(), end="")
    return 0 if options.report_only or all(row.passed for row in report.rows) else 1


def _measure(directory: Path, options: argparse.Namespace, began: float, say: run.Say) -> Report:
    size_bytes = int(options.size * 2**30)
    _require_space(directory, (SPACE - (1 if options.inputs else 0)) * size_bytes)  # kept disks are elsewhere
    load_before = os.getloadavg()[0]
    inputs = run.Inputs.make(options.inputs or directory, size_bytes, say)
    for path in (inputs.disk, inputs.update):
        run.warm(path)
    with Registry(directory / "registry") as registry:
        found = run.Run(directory, inputs, registry, say)
        done = 0
        for number in range(options.rounds):
            found.round(number)
            done += 1
            if time.monotonic() - began > options.time_limit:
                say(f"no further round: {options.time_limit:.0f} s are over (--time-limit)")
                break
        found.push_again()
        found.update(done)
        found.cached()
        with reflink.mounted(directory, 3 * size_bytes) as place:
            if place is not None:
                found.update_with_reflinks(done, place)
    met = Circumstances(
        os.cpu_count() or 1,
        inputs.layout.size_bytes,
        done,
        round(load_before, 1),
        round(os.getloadavg()[0], 1),
        round(time.monotonic() - began, 1),
    )
    return Report(met, verdict.rows(found), found.steps.timings())


def _require_space(directory: Path, size_bytes: int) -> None:
    free_bytes = shutil.disk_usage(directory).free
    if free_bytes < size_bytes:
        raise SystemExit(
            f"{directory.parent} has {free_bytes / 2**30:.1f} GiB left, a run takes up to {size_bytes / 2**30:.0f}: "
            "name another place with --directory, or a smaller disk with --size"
        )


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog='make bench ARGS="images ..."', description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the JSON there, not to standard output")
    parser.add_argument("--size", type=float, default=8.0, metavar="GIB", help="of the raw disk (default: 8)")
    parser.add_argument("--rounds", type=int, default=3, choices=range(1, 11), metavar="N", help="(default: 3)")
    parser.add_argument("--directory", type=Path, metavar="DIR", help="where to work (default: the system's temporary)")
    parser.add_argument("--inputs", type=Path, metavar="DIR", help="keep the disks there, for the next run")
    parser.add_argument(
        "--time-limit", type=float, default=900.0, metavar="S", help="no further round after it (default: 900)"
    )
    parser.add_argument("--report-only", action="store_true", help="end with 0 also when a limit is not kept")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
