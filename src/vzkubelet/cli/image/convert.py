"""``macos-vz-kubelet image convert``."""

from collections.abc import Sequence
from typing import Any

import click

from vzkubelet.cli import flags, interruption
from vzkubelet.cli.image import options
from vzkubelet.cli.progress import bytes_bar
from vzkubelet.images import Pusher, PushResult, inspection
from vzkubelet.images.store import Store
from vzkubelet.model.docker_config import RegistryCredential
from vzkubelet.model.oci import Platform
from vzkubelet.model.reference import Reference, parse


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
    store = Store(options.root(settings))
    if wanted:
        origin = _of_platform(store, origin, options.parse_platform(wanted), own, options.connection(given))
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
                    origin, targets, created=options.created(), credentials=own, platforms=options.host(), **written
                )
            finally:
                await pusher.close()

        with options.store_faults(store):
            result = interruption.run(work())
    options.show_pushed(result, targets, quiet=quiet, as_json=as_json)


def _of_platform(
    store: Store,
    origin: Reference,
    wanted: Platform,
    credentials: Sequence[RegistryCredential],
    transport: dict[str, Any],
) -> Reference:
    """`origin` where this host has it for that platform, else that very image of its registry."""
    with options.store_faults(store):
        here = inspection.local(store, origin)
    if here is not None and options.is_for(here, wanted):
        return origin
    digest = options.asked(origin, wanted, credentials, transport).digest
    return parse(f"{origin.repository}@{digest}")
