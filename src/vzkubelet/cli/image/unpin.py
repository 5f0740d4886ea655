"""``macos-vz-kubelet image unpin``."""

from collections.abc import Sequence
from typing import Any

import click

from vzkubelet.cli import flags
from vzkubelet.cli.image import options
from vzkubelet.images.store import Store
from vzkubelet.model.reference import parse


@click.command()
@click.argument("references", metavar="REF...", nargs=-1, required=True)
@flags.some("cache-dir")
@click.pass_context
def unpin(ctx: click.Context, /, references: Sequence[str], **_: Any) -> None:
    """Let images go again when space is short."""
    store = Store(options.root(flags.standalone(ctx)))
    targets = [parse(reference) for reference in references]
    with options.store_faults(store):
        for target in targets:
            was_pinned = store.unpin(target)
            click.echo(f"Unpinned {target}" if was_pinned else f"{target} was not pinned")
