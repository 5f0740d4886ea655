"""``macos-vz-kubelet image import``."""

from pathlib import Path
from typing import Any

import click
import msgspec

from vzkubelet.cli import flags, interruption, sizes
from vzkubelet.cli.image import machine, options
from vzkubelet.cli.progress import bytes_bar
from vzkubelet.images import bundles
from vzkubelet.images.store import Store
from vzkubelet.model.reference import parse


@click.command(name="import")
@click.argument("path", type=click.Path(path_type=Path))
@click.argument("reference", metavar="REF")
@machine.options
@options.quiet
@options.as_json
@flags.some("cache-dir")
@click.pass_context
def import_(ctx: click.Context, /, path: Path, reference: str, quiet: bool, as_json: bool, **given: Any) -> None:
    """Take a virtual machine of this host's disk into the cache, under REF.

    PATH is the directory of a machine of macosvm, tart or lume, a .utm or .vbvm bundle, what `image create` made, or
    the file of a raw or qcow2 disk. It is shut down and stays as it is. Pods and `image push` then use REF as if it had
    been pulled; a pod with imagePullPolicy Always asks the registry for it.

    A disk file alone needs --aux-path and, for macOS, the boot data.
    """
    settings = flags.standalone(ctx)
    target = parse(reference)
    bundle = machine.overridden(bundles.read(path), given)
    with interruption.sigterm_raises(), bytes_bar(quiet=quiet or as_json) as report:
        record = bundles.import_bundle(Store(options.root(settings)), bundle, target, report)
    if as_json:
        told = {"reference": str(target), "digest": record.manifest_digest, "kind": bundle.kind}
        click.echo(msgspec.json.encode(told))
    elif quiet:
        click.echo(record.manifest_digest)
    else:
        click.echo(f"Imported {target}, {bundle.kind}, {sizes.size(record.disk.size_bytes)}")
        click.echo(f"Digest: {record.manifest_digest}")
