"""``macos-vz-kubelet image pin``."""

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
def pin(ctx: click.Context, /, references: Sequence[str], **_: Any) -> None:
    """Keep images whatever the space: neither prune nor the agent removes them, only `image rm` does.

    It is the name that is kept: when the image under it is pulled again, the new one is.
    """
    store = Store(options.root(flags.standalone(ctx)))
    targets = [parse(reference) for reference in references]
    with options.store_faults(store):
        for target in targets:
            store.pin(target)
            click.echo(f"Pinned {target}")
