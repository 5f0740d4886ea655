"""``macos-vz-kubelet image ls``."""

import asyncio
from collections.abc import Sequence
from typing import Any

import click
import msgspec

from vzkubelet.cli import flags, sizes
from vzkubelet.cli.image import options
from vzkubelet.images import Listing

_SHORT_DIGEST = slice(7, 19)


@click.command()
@options.as_json
@flags.some("cache-dir")
@click.pass_context
def ls(ctx: click.Context, /, as_json: bool, **_: Any) -> None:
    """List the images of this host."""
    rows = asyncio.run(options.library(flags.standalone(ctx)).listing())
    if as_json:
        click.echo(msgspec.json.encode(rows))
        return
    show_table([("REFERENCE", "DIGEST", "PLATFORM", "SIZE", "ON DISK", "PULLED"), *map(_row, rows)])


def show_table(table: Sequence[Sequence[str]]) -> None:
    """Columns as wide as their widest cell; the first row is the heading."""
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    for row in table:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _row(row: Listing) -> tuple[str, ...]:
    return (
        row.reference,
        row.manifest_digest[_SHORT_DIGEST],
        f"{row.os}/{row.architecture}",
        sizes.size(row.size_bytes),
        sizes.size(row.allocated_bytes),
        row.pulled_at,
    )
