"""``reset``: take back everything that the agent left on this host."""

import asyncio

import click

from vzkubelet.cli import flags
from vzkubelet.cli.exec import VERB_SETTINGS


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@flags.some(*VERB_SETTINGS)
@click.pass_context
def reset(ctx: click.Context, /, **_: str) -> None:
    """Stop and remove every pod, machine, side-car and network of this host's agent. Images stay.

    Stop the agent first. For taking a host out of service; an upgrade needs none of it.
    """
    from vzkubelet.daemon import reset as whole

    for what in asyncio.run(whole.run(flags.standalone(ctx))):
        click.echo(f"removed {what}")
