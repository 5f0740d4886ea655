"""``macos-vz-kubelet image ls``."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from typing import Any

import click
import msgspec

from vzkubelet.cli import flags, sizes
from vzkubelet.cli.image import options
from vzkubelet.images.records import rfc3339
from vzkubelet.images.store import Store
from vzkubelet.images.upkeep import Upkeep
from vzkubelet.images.usage import ImageUsage

_SHORT_DIGEST = slice(7, 19)
_HEADING = ("REFERENCE", "DIGEST", "PLATFORM", "SIZE", "ON DISK", "UNIQUE", "LAST USED", "STATE")
_NO_NAME = "<none>"


class Row(msgspec.Struct, frozen=True, rename="camel"):
    """One reference; an image without any has one row too."""

    reference: str
    manifest_digest: str
    os: str
    architecture: str
    size_bytes: int
    """Of the raw files, holes included."""
    allocated_bytes: int
    """What they take of the volume."""
    unique_bytes: int
    """What of that nothing else shares: what removing the image frees."""
    pulled_at: str
    last_used_at: str
    pinned: bool
    complete: bool
    """False: damaged content was put aside; the next pull fetches it again."""


@click.command()
@click.option("-q", "--quiet", is_flag=True, help="Only the references.")
@options.as_json
@flags.some("cache-dir")
@click.pass_context
def ls(ctx: click.Context, /, quiet: bool, as_json: bool, **_: Any) -> None:
    """List the images of this host.

    SIZE is that of the machine's files, ON DISK what they take, UNIQUE what `image rm` of it would free: images share
    what is equal in them.
    """
    store = Store(options.root(flags.standalone(ctx)))
    state = asyncio.run(Upkeep(store).usage())
    with options.store_faults(store):
        rows = sorted((row for image in state.images for row in _rows(image, store)), key=lambda row: row.reference)
    if as_json:
        click.echo(msgspec.json.encode(rows))
    elif quiet:
        for row in rows:
            if row.reference != _NO_NAME:
                click.echo(row.reference)
    else:
        now = time.time()
        ages = {image.record.manifest_digest: _age(now - image.last_used_at) for image in state.images}
        show_table([_HEADING, *(_cells(row, ages[row.manifest_digest]) for row in rows)])


def show_table(table: Sequence[Sequence[str]]) -> None:
    """Columns as wide as their widest cell; the first row is the heading."""
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    for row in table:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _rows(image: ImageUsage, store: Store) -> Iterator[Row]:
    record = image.record
    pins, is_complete = store.pins(), store.is_complete(record, verify=False)
    names = [(pointer.reference, pointer.pulled_at) for pointer in image.references]
    for reference, pulled_at in names or [(_NO_NAME, rfc3339(image.came_at))]:
        yield Row(
            reference=reference,
            manifest_digest=record.manifest_digest,
            os=record.os,
            architecture=record.architecture,
            size_bytes=image.size_bytes,
            allocated_bytes=image.allocated_bytes,
            unique_bytes=image.unique_bytes,
            pulled_at=pulled_at,
            last_used_at=rfc3339(image.last_used_at),
            pinned=reference in pins,
            complete=is_complete,
        )


def _cells(row: Row, age: str) -> tuple[str, ...]:
    return (
        row.reference,
        row.manifest_digest[_SHORT_DIGEST],
        f"{row.os}/{row.architecture}",
        sizes.size(row.size_bytes),
        sizes.size(row.allocated_bytes),
        sizes.size(row.unique_bytes),
        age,
        ", ".join(filter(None, ("pinned" if row.pinned else "", "" if row.complete else "incomplete"))),
    )


def _age(seconds: float) -> str:
    """``3h ago``, as docker and kubectl round it."""
    whole = max(0, int(seconds))
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if whole >= 2 * length or (whole >= length and unit != "m"):
            return f"{whole // length}{unit} ago"
    return f"{whole}s ago"
