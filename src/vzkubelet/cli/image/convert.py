"""``macos-vz-kubelet image convert``."""

from typing import Any

import click

from vzkubelet.cli import flags, interruption
from vzkubelet.cli.image import options
from vzkubelet.cli.progress import bytes_bar
from vzkubelet.images import Pusher, PushResult
from vzkubelet.images.store import Store
from vzkubelet.model.docker_config import RegistryCredential
from vzkubelet.model.reference import parse


@click.command()
@click.argument("source", metavar="SOURCE")
@click.argument("reference", metavar="REF[,TAG...]")
@options.layout
@options.platform
@options.quiet
@options.as_json
@options.ca_file
@options.registry
@flags.some("cache-dir")
@click.pass_context
def convert(
    ctx: click.Context, /, source: str, reference: str, wanted: str | None, quiet: bool, as_json: bool, **given: Any
) -> None:
    """Push the image SOURCE as REF, in another format.

    SOURCE is taken out of the cache where it is there, else it is streamed from its registry without being stored.
    Disk, auxiliary storage and boot data stay what they are, bit for bit. --username is the login for REF, and for
    SOURCE too if that is in the same registry; other logins are those of `image login`.
    """
    settings = flags.standalone(ctx)
    origin, targets = parse(source), options.targets(reference)
    written = options.written(given)
    credentials = options.credentials(targets[0], given)
    anonymous = given | {"username": None, "password": None, "password_stdin": False}
    own = credentials if origin.domain == targets[0].domain else options.credentials(origin, anonymous)
    platforms = (options.parse_platform(wanted),) if wanted else ()
    with bytes_bar(quiet=quiet or as_json) as report:
        pusher = Pusher(
            options.root(settings),
            (*credentials, RegistryCredential())[0],
            **options.connection(given),
            progress=lambda progress: report(progress.stage, progress.done_bytes, progress.total_bytes),
        )

        async def work() -> PushResult:
            try:
                return await pusher.convert(
                    origin, targets, created=options.created(), credentials=own, platforms=platforms, **written
                )
            finally:
                await pusher.close()

        with options.store_faults(Store(options.root(settings))):
            result = interruption.run(work())
    options.show_pushed(result, targets, quiet=quiet, as_json=as_json)
