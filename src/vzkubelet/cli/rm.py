"""``rm POD``: delete a pod that `run` started."""

import asyncio

import click

from vzkubelet.cli import flags
from vzkubelet.cli.exec import VERB_SETTINGS


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@flags.some(*VERB_SETTINGS)
@click.argument("pods", metavar="POD...", nargs=-1, required=True)
@click.pass_context
def rm(ctx: click.Context, /, pods: tuple[str, ...], **_: str) -> None:
    """Delete pods of this machine gracefully and everything they hold."""
    from vzkubelet.daemon import standalone

    settings = flags.standalone(ctx)
    for pod in pods:
        asyncio.run(standalone.remove(settings, pod))
        click.echo(f'pod "{pod}" deleted')
