"""``exec POD -- COMMAND``: a command in a container of a pod that `run` started."""

import asyncio
import sys

import click

from vzkubelet.cli import flags

VERB_SETTINGS = ("machine-driver", "guest-network", "qemu-firmware", "cache-dir", "log-level")


class _Exec(click.Command):
    """Options may stand on both sides of POD when a ``--`` begins the command, as with kubectl; without it the command
    begins after POD."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.allow_interspersed_args = "--" in args
        ctx.ignore_unknown_options = "--" not in args
        return super().parse_args(ctx, args)


@click.command("exec", cls=_Exec, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-i", "--stdin", is_flag=True, help="Pass stdin to the command.")
@click.option("-t", "--tty", is_flag=True, help="Give the command a terminal.")
@click.option("-c", "--container", help="Container name; the first container (the machine) by default.")
@flags.some(*VERB_SETTINGS)
@click.argument("pod")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_context
def exec_(
    ctx: click.Context, /, pod: str, command: tuple[str, ...], stdin: bool, tty: bool, container: str | None, **_: str
) -> int:
    """Run COMMAND in a container of POD; its exit code is this command's."""
    from vzkubelet import ports
    from vzkubelet.cli import streams
    from vzkubelet.daemon import standalone

    settings = flags.standalone(ctx)
    terminal = tty and sys.stdin.isatty()
    far_end = streams.Terminal(stdin=stdin, terminal=terminal)
    with streams.raw_mode(terminal and stdin):
        return asyncio.run(standalone.execute(settings, pod, container, ports.ExecRequest(command, terminal), far_end))
