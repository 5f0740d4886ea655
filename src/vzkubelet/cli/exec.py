"""``exec POD -- COMMAND``: a command in a container of a pod that `run` started."""

import asyncio
import sys

import click

from vzkubelet.cli import flags

VERB_SETTINGS = ("machine-driver", "guest-network", "qemu-firmware", "cache-dir", "log-level")


class _Exec(click.Command):
    """Options stand on both sides of POD, and the command begins after the first ``--``, as with kubectl."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        given = args.index("--") if "--" in args else len(args)
        command = args[given + 1 :]
        rest = super().parse_args(ctx, args)
        if len(ctx.params["command"] or ()) != len(command) or not command:
            raise click.UsageError("write the command after two dashes: exec POD -- COMMAND", ctx)
        return rest


@click.command("exec", cls=_Exec, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-i", "--stdin", is_flag=True, help="Pass stdin to the command.")
@click.option("-t", "--tty", is_flag=True, help="Give the command a terminal.")
@click.option("-c", "--container", help="Container name; the first container (the machine) by default.")
@flags.some(*VERB_SETTINGS)
@click.argument("pod")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="-- COMMAND...")
@click.pass_context
def exec_(
    ctx: click.Context, /, pod: str, command: tuple[str, ...], stdin: bool, tty: bool, container: str | None, **_: str
) -> int:
    """Run COMMAND in a container of POD; its exit code is this command's.

    Two dashes stand before the command: exec -it POD -- sh -c 'echo hello'
    """
    from vzkubelet import ports
    from vzkubelet.cli import streams
    from vzkubelet.daemon import standalone

    settings = flags.standalone(ctx)
    terminal = tty and sys.stdin.isatty()
    far_end = streams.Terminal(stdin=stdin, terminal=terminal)
    with streams.raw_mode(terminal and stdin):
        return asyncio.run(standalone.execute(settings, pod, container, ports.ExecRequest(command, terminal), far_end))
