"""Command line flags made from the table of settings. Values stay text: `config` parses all of them at once."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from vzkubelet import config

FILES = {
    "config": "YAML file with settings, named as the flags.",
    "environment-file": "File with variables, NAME=value, that count where the environment has none.",
}
"""Where settings come from besides flags and environment; no settings themselves."""

F = TypeVar("F", bound=Callable[..., Any])


def _option(setting: config.Option) -> Callable[[F], F]:
    metavar = "[=true|false]" if setting.is_switch else setting.metavar
    notes = [f"env {setting.env}"] if setting.env else []
    if setting.default is not None:
        notes.append(f"default {setting.default}")
    text = f"{setting.help}  [{'; '.join(notes)}]" if notes else setting.help
    return click.option(f"--{setting.name}", metavar=metavar, help=text)


def daemon(command: F) -> F:
    """Adds every flag of the daemon."""
    for setting in reversed([setting for setting in config.options() if setting.flag]):
        command = _option(setting)(command)
    for name, text in reversed(FILES.items()):
        command = click.option(f"--{name}", metavar="FILE", help=text)(command)
    return command


def some(*names: str) -> Callable[[F], F]:
    """Adds the named flags of the daemon to a verb, where they win over the same ones before the verb."""
    chosen = [setting for setting in config.options() if setting.name in names]
    assert len(chosen) == len(names), f"no such settings: {set(names) - {setting.name for setting in chosen}}"

    def add(command: F) -> F:
        for setting in reversed(chosen):
            command = _option(setting)(command)
        return command

    return add


def values(ctx: click.Context) -> dict[str, str]:
    """Settings given on the command line up to here, by name without dashes; the nearest to the verb wins."""
    names = {setting.name for setting in config.options() if setting.flag} | FILES.keys()
    given: dict[str, str] = values(ctx.parent) if ctx.parent else {}
    for parameter, value in ctx.params.items():
        name = parameter.replace("_", "-")
        if name in names and value is not None:
            given[name] = value
    return given


def with_switch_values(args: list[str]) -> list[str]:
    """Command line with ``=true`` behind every bare switch before the verb.

    Switches take a value only behind ``=``, as in Go, so that ``--disable-taint ps`` is a switch and a verb.
    """
    kinds = {f"--{setting.name}": setting.is_switch for setting in config.options() if setting.flag}
    kinds |= {f"--{name}": False for name in FILES}
    rewritten: list[str] = []
    rest = list(args)
    while rest and rest[0].startswith("--") and rest[0] != "--":
        flag = rest.pop(0)
        if kinds.get(flag):
            flag += "=true"
        rewritten.append(flag)
        if kinds.get(flag) is False and rest:
            rewritten.append(rest.pop(0))
    return rewritten + rest


def guest_variables() -> str:
    """The end of a verb's help: the variables that it obeys without having flags for them."""
    groups = ("guests.", "vz.", "sidecars.", "machines.")
    found = [setting for setting in config.options() if setting.env and setting.target.startswith(groups)]
    login = [setting for setting in found if setting.target.startswith("guests.")]
    width = max(len(setting.env) for setting in login)
    lines = [f"  {setting.env.ljust(width)}  {setting.help}" for setting in login]
    others = ", ".join(setting.env for setting in found if setting not in login)
    listed = "\n".join(["\b", "Environment:", *lines])
    return f"{listed}\n\nAlso {others}: see `macos-vz-kubelet --help`."


class WithSwitches(click.Command):
    """A verb that takes the daemon's flags, bare switches among them, as the daemon does."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, with_switch_values(args))


def standalone(ctx: click.Context) -> config.Config:
    """Settings of a verb that works on this machine without a cluster; sets up logging, from warnings on unless asked.

    Raises:
        InvalidInput: every mistake in the settings.
    """
    from vzkubelet.telemetry import logs

    given = values(ctx)
    if "config" not in given:
        given.setdefault("log-level", config.LogLevel.WARNING.value)
    settings = config.read(given, purpose=config.Purpose.STANDALONE)
    logs.configure(settings.logs.level, settings.logs.format)
    return settings
