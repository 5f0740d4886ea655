"""``macos-vz-kubelet image export``."""

from pathlib import Path
from typing import Any

import click

from vzkubelet.cli import flags, interruption
from vzkubelet.cli.image import options
from vzkubelet.cli.progress import bytes_bar
from vzkubelet.errors import NotFound
from vzkubelet.images import bundles
from vzkubelet.images.store import Store
from vzkubelet.model.reference import parse


@click.command()
@click.argument("reference", metavar="REF")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "tool",
    type=click.Choice([tool.value for tool in bundles.Tool]),
    default=bundles.Tool.MACOSVM.value,
    show_default=True,
    help="Whose machine it becomes.",
)
@options.quiet
@flags.some("cache-dir")
@click.pass_context
def export(ctx: click.Context, /, reference: str, directory: Path, tool: str, quiet: bool, **_: Any) -> None:
    """Make a virtual machine of macosvm or tart out of an image that is in the cache.

    DIRECTORY must not exist. For tart it is ~/.tart/vms/NAME; a machine of macosvm is started inside it with
    `macosvm -g vm.json`. What the guest writes stays there.
    """
    settings = flags.standalone(ctx)
    target = parse(reference)
    store = Store(options.root(settings))
    with interruption.sigterm_raises(), bytes_bar(quiet=quiet) as report, options.store_faults(store), store.pulling():
        found = store.find(target)
        if found is None:
            raise NotFound(f"{target} is not on this host: pull it first; see macos-vz-kubelet image ls")
        record = found[1]
        disk, aux = (store.content_path(content.digest) for content in (record.disk, record.aux))
        bundles.export(record.machine, disk, aux, directory.absolute(), bundles.Tool(tool), report)
    if not quiet:
        click.echo(f"Exported {target} to {directory}")
