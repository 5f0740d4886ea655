"""``logs POD``: the log of a container of a pod that `run` started."""

import asyncio
import sys

import click

from vzkubelet.cli import flags
from vzkubelet.cli.exec import VERB_SETTINGS


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-f", "--follow", is_flag=True, help="Go on until the container has ended.")
@click.option("-p", "--previous", is_flag=True, help="The log of the attempt before this one.")
@click.option("-c", "--container", help="Container name; the first container (the machine) by default.")
@click.option("--tail", type=click.IntRange(min=0), help="Only the last lines.")
@click.option("--timestamps", is_flag=True, help="Put the time of each line before it.")
@flags.some(*VERB_SETTINGS)
@click.argument("pod")
@click.pass_context
def logs(
    ctx: click.Context,
    /,
    pod: str,
    follow: bool,
    previous: bool,
    container: str | None,
    tail: int | None,
    timestamps: bool,
    **_: str,
) -> None:
    """Print the log of a container of POD."""
    from vzkubelet import ports
    from vzkubelet.daemon import standalone

    settings = flags.standalone(ctx)
    options = ports.LogOptions(follow=follow, tail_lines=tail, timestamps=timestamps)

    def write(data: bytes) -> None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()

    asyncio.run(standalone.logs(settings, pod, container, previous, options, write))
