"""``macos-vz-kubelet image pull``."""

import platform
import sys
from collections.abc import Sequence
from typing import Any

import click

from vzkubelet.cli import flags, interruption
from vzkubelet.cli.image import options
from vzkubelet.cli.progress import bytes_bar
from vzkubelet.images import Library, host_platforms
from vzkubelet.model.docker_config import RegistryCredential
from vzkubelet.model.reference import parse


@click.command()
@click.argument("reference", metavar="REF")
@options.platform
@options.quiet
@options.ca_file
@options.registry
@flags.some("cache-dir")
@click.pass_context
def pull(ctx: click.Context, /, reference: str, wanted: str | None, quiet: bool, **given: Any) -> None:
    """Pull an image into the cache, where pods of this host find it."""
    settings = flags.standalone(ctx)
    target = parse(reference)
    platforms = (options.parse_platform(wanted),) if wanted else host_platforms(sys.platform, platform.machine())
    library = options.library(settings, platforms, **options.connection(given))
    credentials = options.credentials(target, given)
    image_id = interruption.run(_pull(library, reference, credentials, quiet))
    digest = image_id.partition("@")[2]
    click.echo(digest if quiet else f"Pulled {target}\nDigest: {digest}")


async def _pull(library: Library, reference: str, credentials: Sequence[RegistryCredential], quiet: bool) -> str:
    try:
        with bytes_bar(quiet=quiet) as report:
            pulled = await library.pull(
                reference, credentials, lambda progress: report("pull", progress.done_bytes, progress.total_bytes)
            )
        return pulled.image_id
    finally:
        await library.close()
