"""The root command: the daemon's flags, and the verbs by name."""

import difflib
import importlib
from dataclasses import dataclass

import click

from vzkubelet import config
from vzkubelet.cli import flags


@dataclass(frozen=True, slots=True)
class Verb:
    """Where a verb lives. `help` is kept here so that listing the verbs imports none of them."""

    module: str
    attribute: str
    help: str
    reaches_guests: bool = False
    """It obeys the settings of guests and machines too, which its help then names."""


VERBS = {
    "run": Verb("vzkubelet.cli.run", "run", "Run a pod on this machine without any cluster.", reaches_guests=True),
    "ps": Verb("vzkubelet.cli.ps", "ps", "List the pods on this machine."),
    "exec": Verb("vzkubelet.cli.exec", "exec_", "Run a command in a container.", reaches_guests=True),
    "logs": Verb("vzkubelet.cli.logs", "logs", "Print the log of a container.", reaches_guests=True),
    "rm": Verb("vzkubelet.cli.rm", "rm", "Delete a pod of this machine.", reaches_guests=True),
    "image": Verb(
        "vzkubelet.cli.image", "image", "Pull, push, list, verify, convert, import and export virtual machine images."
    ),
    "doctor": Verb("vzkubelet.cli.doctor", "doctor", "Say what ails this host, and how to mend it."),
    "sign": Verb("vzkubelet.cli.sign", "sign", "Make and sign the app that holds virtual machines (Mac)."),
    "install": Verb("vzkubelet.cli.install", "install", "Run the agent as a service of this host."),
    "uninstall": Verb("vzkubelet.cli.uninstall", "uninstall", "Stop and remove the service."),
    "reset": Verb("vzkubelet.cli.reset", "reset", "Take back everything that the agent left on this host."),
    "version": Verb("vzkubelet.cli.version", "version", "Print the version."),
}


EXIT_CODES = {
    0: "Done.",
    1: "A fault of the host or of the agent; doctor has found a problem.",
    2: "What was given cannot work: a flag, a setting, a file.",
    3: "There is no such pod, image or file.",
    4: "It exists already, or its state does not allow this now.",
    5: "The login was refused, or it may not do this.",
    6: "This host or driver does not offer it.",
    7: "Something is used up that may be free later: machines, disk space.",
    8: "A registry, Docker, the API server or a guest cannot be reached.",
    9: "It took longer than allowed.",
    130: "Interrupted by Ctrl-C.",
    141: "The reader of the output has gone.",
    143: "Ended by SIGTERM.",
}


class LazyGroup(click.Group):
    """Imports a verb when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        verb = VERBS.get(cmd_name)
        if verb is None:
            return None
        command = getattr(importlib.import_module(verb.module), verb.attribute)
        assert isinstance(command, click.Command)
        if verb.reaches_guests:
            command.epilog = flags.guest_variables()
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in VERBS:
            near = difflib.get_close_matches(name, VERBS, n=1)
            hint = f" Did you mean {near[0]}?" if near else f" There are {', '.join(VERBS)}."
            raise click.UsageError(f"No such command '{name}'.{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, verb.help) for name, verb in VERBS.items()])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Environment"):
            formatter.write_dl([(setting.env, setting.help) for setting in config.options() if not setting.flag])
        formatter.write_paragraph()
        formatter.write_text(
            "The file given with --config names settings as the flags are named, and those without a flag as their "
            "variable in lower case with dashes: vz-ssh-user."
        )
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code), text) for code, text in EXIT_CODES.items()])
        formatter.write_paragraph()
        formatter.write_text("run and exec end with the code of the container or the command.")

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, flags.with_switch_values(args))


@click.group(
    cls=LazyGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)
@flags.daemon
@click.pass_context
def root(ctx: click.Context, /, **_: str | None) -> int | None:
    """A Kubernetes node whose pods are virtual machines.

    Without a command it runs the node agent until it is told to stop. Settings come from flags, from environment
    variables and from the file given with --config, in this order of precedence.
    """
    if ctx.invoked_subcommand is not None:
        return None
    return _run_daemon(ctx)


def _run_daemon(ctx: click.Context) -> int | None:
    from vzkubelet.telemetry import logs

    settings = config.read(flags.values(ctx))
    logs.configure(settings.logs.level, settings.logs.format)
    outcome: int | None = importlib.import_module("vzkubelet.daemon").run(settings)
    return outcome
