"""``macos-vz-kubelet image verify``."""

from collections.abc import Sequence
from typing import Any

import click
import msgspec

from vzkubelet.cli import flags, interruption, sizes
from vzkubelet.cli.image import options
from vzkubelet.cli.progress import bytes_bar
from vzkubelet.images.findings import Finding
from vzkubelet.images.upkeep import Upkeep

DAMAGED_EXIT_CODE = 1


@click.command()
@click.argument("references", metavar="[REF...]", nargs=-1)
@options.quiet
@options.as_json
@flags.some("cache-dir")
@click.pass_context
def verify(ctx: click.Context, /, references: Sequence[str], quiet: bool, as_json: bool, **_: Any) -> int:
    """Read images, or all of them, in full and compare them with their digests.

    Damaged content is put aside, so that the next pull fetches it again; the exit code is then 1. Machines that run on
    it go on.
    """
    upkeep = Upkeep(options.root(flags.standalone(ctx)))
    with bytes_bar(quiet=quiet or as_json) as report:
        result = interruption.run(
            upkeep.verify(references, lambda done_bytes, total_bytes: report("verify", done_bytes, total_bytes))
        )
    if as_json:
        findings = [_described(finding) for finding in result.findings]
        told = {"contents": result.contents, "sizeBytes": result.size_bytes, "findings": findings}
        click.echo(msgspec.json.encode(told))
    else:
        for finding in result.findings:
            click.echo(f"damaged: {finding}")
        if not quiet:
            click.echo(
                f"Verified {result.contents} files, {sizes.size(result.size_bytes)}: {_verdict(result.findings)}"
            )
    return DAMAGED_EXIT_CODE if result.findings else 0


def _verdict(findings: Sequence[Finding]) -> str:
    if not findings:
        return "all are as they came"
    names = sorted({name for finding in findings for name in finding.references})
    again = f"; pull again: {', '.join(names)}" if names else ""
    return f"{len(findings)} damaged{again}"


def _described(finding: Finding) -> dict[str, object]:
    return {
        "digest": finding.digest,
        "reason": finding.reason,
        "ranges": finding.ranges,
        "movedTo": None if finding.moved_to is None else str(finding.moved_to),
        "references": finding.references,
    }
