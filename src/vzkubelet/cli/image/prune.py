"""``macos-vz-kubelet image prune``."""

from typing import Any

import click
import msgspec

from vzkubelet.cli import flags, interruption, sizes
from vzkubelet.cli.image import options
from vzkubelet.cli.image.use import images_in_use
from vzkubelet.errors import InvalidInput
from vzkubelet.images.collection import Removed
from vzkubelet.images.store import Store
from vzkubelet.images.upkeep import Upkeep
from vzkubelet.model import duration


@click.command()
@click.option("-a", "--all", "everything", is_flag=True, help="Also images that have a name and nobody uses.")
@click.option("--unused-for", metavar="DURATION", help="With --all: only those not used for so long, such as 72h.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@options.quiet
@options.as_json
@flags.some("cache-dir")
@click.pass_context
def prune(
    ctx: click.Context,
    /,
    everything: bool,
    unused_for: str | None,
    dry_run: bool,
    quiet: bool,
    as_json: bool,
    **_: Any,
) -> None:
    """Free space: what interrupted pulls and damage left, and images whose tag has moved on.

    Images that machines of this host use, pinned ones and those of --prepull stay.
    """
    settings = flags.standalone(ctx)
    if unused_for is not None and not everything:
        raise InvalidInput("--unused-for: goes with --all; without it only what has no name is removed")
    store = Store(options.root(settings))
    with options.store_faults(store):
        in_use = images_in_use(settings)
    result = interruption.run(
        Upkeep(store).prune(
            everything=everything,
            unused_for_s=duration.parse(unused_for) if unused_for is not None else 0.0,
            in_use=in_use,
            is_trial=dry_run,
        )
    )
    if as_json:
        removed = [
            {"digest": image.manifest_digest, "references": image.references, "freedBytes": image.freed_bytes}
            for image in result.removed
        ]
        told = {"dryRun": dry_run, "removed": removed, "leftoverBytes": result.leftover_bytes}
        click.echo(msgspec.json.encode(told | {"freedBytes": result.freed_bytes}))
        return
    if not quiet:
        for image in result.removed:
            click.echo(f"{'Would remove' if dry_run else 'Removed'} {_name(image)}, {sizes.size(image.freed_bytes)}")
        if result.leftover_bytes:
            click.echo(f"{'Would clear' if dry_run else 'Cleared'} leftovers, {sizes.size(result.leftover_bytes)}")
    click.echo(f"{'Would free' if dry_run else 'Freed'} {sizes.size(result.freed_bytes)}")


def _name(image: Removed) -> str:
    return ", ".join(image.references) or f"an image without a name ({image.manifest_digest})"
