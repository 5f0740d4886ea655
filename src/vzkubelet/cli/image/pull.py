"""``macos-vz-kubelet image pull``."""

import platform
import sys
from collections.abc import Callable, Sequence
from typing import Any

import click
import msgspec

from vzkubelet.cli import flags, interruption
from vzkubelet.cli.image import options
from vzkubelet.cli.progress import bytes_bar
from vzkubelet.errors import InvalidInput
from vzkubelet.images import Library, host_platforms
from vzkubelet.images.rate import RateLimit
from vzkubelet.images.upkeep import Upkeep
from vzkubelet.machines.vz import hardware_model
from vzkubelet.machines.vz.availability import MacOS
from vzkubelet.model import quantity
from vzkubelet.model.docker_config import RegistryCredential
from vzkubelet.model.reference import parse
from vzkubelet.ports import MachineImage


@click.command()
@click.argument("reference", metavar="REF")
@options.platform
@click.option("--concurrency", type=click.IntRange(1, 64), help="Ranges that are downloaded at the same time.")
@click.option("--rate", metavar="QUANTITY", help="Bytes per second at most, such as 50Mi; 0 = unlimited.")
@options.quiet
@options.as_json
@options.ca_file
@options.registry
@flags.some("cache-dir")
@click.pass_context
def pull(
    ctx: click.Context,
    /,
    reference: str,
    wanted: str | None,
    concurrency: int | None,
    rate: str | None,
    quiet: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Pull an image into the cache, where pods of this host find it.

    Only what is missing is moved, and an interrupted pull goes on where it was. --concurrency and --rate default to
    --image-pull-concurrency and --image-pull-rate of the agent.
    """
    settings = flags.standalone(ctx)
    target = parse(reference)
    library = Library(
        options.root(settings),
        (options.parse_platform(wanted),) if wanted else host_platforms(sys.platform, platform.machine()),
        concurrency=concurrency or settings.images.pull_concurrency,
        rate=RateLimit(settings.images.pull_rate_bytes_per_s if rate is None else _bytes_per_s(rate)),
        supports=None if wanted else _hardware_model_refusal(sys.platform),
        make_room=Upkeep(options.root(settings)).make_room,
        **options.connection(given),
    )
    credentials = options.credentials(target, given)
    pulled = interruption.run(_pull(library, reference, credentials, quiet or as_json))
    digest = pulled.image_id.partition("@")[2]
    if as_json:
        told = {"reference": str(target), "digest": digest, "disk": str(pulled.disk), "aux": str(pulled.aux)}
        click.echo(msgspec.json.encode(told | {"os": pulled.os, "architecture": pulled.architecture}))
    else:
        click.echo(digest if quiet else f"Pulled {target}\nDigest: {digest}")


def _hardware_model_refusal(system: str) -> Callable[[bytes], str | None] | None:
    """Why this Mac does not run guests of a hardware model; None on other hosts, which run no macOS at all."""
    if system != "darwin":
        return None
    major, minor = (int(number) for number in (*platform.mac_ver()[0].split("."), "0")[:2])
    return lambda model: hardware_model.refusal(model, MacOS.told(major, minor, platform.machine()))


async def _pull(
    library: Library, reference: str, credentials: Sequence[RegistryCredential], quiet: bool
) -> MachineImage:
    try:
        with bytes_bar(quiet=quiet) as report:
            return await library.pull(
                reference,
                credentials,
                lambda progress: report("pull", progress.done_bytes, progress.total_bytes, progress.stage),
            )
    finally:
        await library.close()


def _bytes_per_s(text: str) -> int:
    try:
        return quantity.to_int(text)
    except InvalidInput as exc:
        raise InvalidInput(f"--rate: {exc}") from exc
