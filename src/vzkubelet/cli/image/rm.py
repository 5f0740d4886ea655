"""``macos-vz-kubelet image rm``."""

import asyncio
from collections.abc import Sequence
from typing import Any

import click

from vzkubelet.cli import flags, sizes
from vzkubelet.cli.image import options
from vzkubelet.model.reference import parse


@click.command()
@click.argument("references", metavar="REF...", nargs=-1, required=True)
@flags.some("cache-dir")
@click.pass_context
def rm(ctx: click.Context, /, references: Sequence[str], **_: Any) -> None:
    """Remove images. Machines made of them live on."""
    library = options.library(flags.standalone(ctx))
    for reference in references:
        freed_bytes = asyncio.run(library.remove(reference))
        click.echo(f"Removed {parse(reference)}, {sizes.size(freed_bytes)} freed")
