"""``macos-vz-kubelet image rm``."""

import asyncio
from collections.abc import Sequence
from typing import Any

import click
import msgspec

from vzkubelet.cli import flags, sizes
from vzkubelet.cli.image import options
from vzkubelet.errors import NotFound
from vzkubelet.images.store import Store
from vzkubelet.model.reference import parse


@click.command()
@click.argument("references", metavar="REF...", nargs=-1, required=True)
@options.quiet
@options.as_json
@flags.some("cache-dir")
@click.pass_context
def rm(ctx: click.Context, /, references: Sequence[str], quiet: bool, as_json: bool, **_: Any) -> None:
    """Remove images. Machines made of them live on.

    A name with a digest removes all names that the image has in this repository.
    """
    settings = flags.standalone(ctx)
    library, store = options.library(settings), Store(options.root(settings))
    targets = [parse(reference) for reference in references]  # a bad one keeps the others
    told, refusals = [], []
    for target in targets:
        with options.store_faults(store):  # a digest takes all names of the image in its repository along
            names = sorted(record.reference for record in store.references() if record.answers(target))
        try:
            freed_bytes = asyncio.run(library.remove(str(target)))
        except NotFound as exc:  # what is gone already keeps none of the others
            refusals.append(exc)
            continue
        told.append({"reference": str(target), "removed": names, "freedBytes": freed_bytes})
        if not (quiet or as_json):
            click.echo(f"Removed {', '.join(names)}, {sizes.size(freed_bytes)} freed")
    if as_json:
        click.echo(msgspec.json.encode(told))
    for refusal in refusals[:-1]:
        click.echo(f"error: {refusal}", err=True)
    if refusals:
        raise refusals[-1]
