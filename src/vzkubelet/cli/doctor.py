"""``doctor``: what ails this host, and the command that mends it."""

import asyncio
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vzkubelet import config, errors
from vzkubelet.cli import flags

if TYPE_CHECKING:
    from vzkubelet.host.finding import Finding
    from vzkubelet.host.probe import Facts, Probe

PROBLEM_EXIT_CODE = 1
_MARKS = {"ok": ("✔", "green"), "warning": ("!", "yellow"), "problem": ("✘", "red")}
_WIDTH = 100
"""Columns where there is no terminal to ask."""
_NARROWEST, _WIDEST = 60, 120


@click.command(cls=flags.WithSwitches, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for programs and for reports.")
@click.option("--standalone", is_flag=True, help="Leave out what only a cluster needs.")
@click.option("--self-check", is_flag=True, help="On a Mac: try every class and selector of Apple's that is used.")
@click.option("--guest", metavar="KERNEL", help="With --self-check: boot this Linux kernel too.")
@click.option("--online", is_flag=True, help="With --self-check: let Apple's catalogue tell what a macOS guest needs.")
@click.option("-q", "--quiet", is_flag=True, help="Only what is wrong.")
@flags.daemon
@click.pass_context
def doctor(
    ctx: click.Context, /, as_json: bool, standalone: bool, self_check: bool, guest: str | None, online: bool,
    quiet: bool, **_: str | None,
) -> int:  # fmt: skip
    """Examine this host as the agent would find it, and say how to mend what is wrong.

    Takes the flags, variables and files of the agent, so that it examines what would really run; where the service is
    installed, its settings. The exit code is 1 when there is a problem; warnings do not count.

    \b
    Examples:
      macos-vz-kubelet doctor
      macos-vz-kubelet doctor --standalone            # enough for: macos-vz-kubelet run POD.yaml
      macos-vz-kubelet doctor --json > report.json
      sudo -E "$(command -v macos-vz-kubelet)" doctor --guest-network bridge
      macos-vz-kubelet doctor --self-check            # on a Mac; prints a report to send in
    """
    if not self_check and (guest is not None or online):
        raise click.UsageError(f"{'--online' if guest is None else '--guest'} belongs to --self-check", ctx)
    if self_check:
        return _self_check(flags.values(ctx), guest, online, as_json)
    from vzkubelet.daemon import preflight
    from vzkubelet.host import doctor as room

    probe = local_probe()
    subject = asyncio.run(preflight.subject(flags.values(ctx), probe, in_cluster=not standalone))
    found = room.examine(probe, subject)
    if as_json:
        shown = [finding for finding in found if not quiet or finding.severity != "ok"]
        click.echo(_json(probe.facts, str(subject.driver), shown))
    else:
        environment = config.process_environment()
        if environment.get("NO_COLOR") or environment.get("TERM") == "dumb":
            ctx.color = False
        _print(found, quiet)
    return PROBLEM_EXIT_CODE if room.worst(found) == "problem" else 0


def local_probe() -> "Probe":
    from vzkubelet.host.local import LocalProbe

    return LocalProbe(config.process_environment())


def _self_check(given: Mapping[str, str], guest: str | None, online: bool, as_json: bool) -> int:
    """Raises: Unsupported (no frameworks here)."""
    from vzkubelet.machines.vz import self_check
    from vzkubelet.machines.vz.launch import Interpreter

    app = config.read(given, purpose=config.Purpose.STANDALONE).vz.helper_app
    interpreter = Interpreter.find(app, config.helper_environment())
    try:
        report = self_check.run(Path(guest) if guest else None, interpreter, is_online=online)
    except errors.Unsupported as exc:
        raise errors.Unsupported("the self-check is for a Mac: it asks Apple's Virtualization.framework") from exc
    click.echo(report.json if as_json else report.text)
    return 0 if report.passed else PROBLEM_EXIT_CODE


def _json(facts: "Facts", driver: str, found: Sequence["Finding"]) -> str:
    import msgspec

    import vzkubelet

    document = {
        "version": vzkubelet.__version__,
        "host": {"system": facts.system, "machine": facts.machine, "user": facts.user, "python": facts.python},
        "driver": driver,
        "problems": sum(finding.severity == "problem" for finding in found),
        "warnings": sum(finding.severity == "warning" for finding in found),
        "findings": found,
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode()


def _print(found: Sequence["Finding"], quiet: bool) -> None:
    width = max((len(finding.check) for finding in found), default=0)
    for finding in found:
        if quiet and finding.severity == "ok":
            continue
        mark, color = _MARKS[finding.severity]
        label = f"{click.style(mark, fg=color, bold=True)} {finding.check.ljust(width)}  "
        indent = " " * (width + 4)
        click.echo(label + _wrapped(finding.what, indent))
        if finding.why:
            click.echo(indent + click.style(_wrapped(finding.why, indent), dim=True))
        for command in finding.fix:
            arrow = " " if command.startswith("#") else click.style("→", fg="cyan")
            click.echo(f"{indent}{arrow} {command}")
    problems = sum(finding.severity == "problem" for finding in found)
    warnings = sum(finding.severity == "warning" for finding in found)
    if problems or warnings:
        click.echo(f"\n{_count(problems, 'problem')}, {_count(warnings, 'warning')}.")
    else:
        click.echo("\nThis host is ready.")


def _wrapped(text: str, indent: str) -> str:
    """Commands are never wrapped: they are copied."""
    columns = min(max(shutil.get_terminal_size((_WIDTH, 24)).columns, _NARROWEST), _WIDEST)
    lines = textwrap.wrap(text, columns - len(indent), break_long_words=False, break_on_hyphens=False)
    return f"\n{indent}".join(lines)


def _count(number: int, noun: str) -> str:
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"
