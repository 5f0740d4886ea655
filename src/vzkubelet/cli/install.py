"""``install``: the agent as a service of this host."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vzkubelet import config
from vzkubelet.cli import flags
from vzkubelet.errors import InvalidInput, Unsupported

if TYPE_CHECKING:
    from vzkubelet.config import Config
    from vzkubelet.host.probe import Probe

_MODULE = ("-P", "-m", "vzkubelet")
"""Without -P a file in the home directory, where the service runs, would stand in for a module of the same name."""


@click.command(cls=flags.WithSwitches, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--print", "--dry-run", "only_print", is_flag=True, help="Print the definition and change nothing.")
@flags.daemon
@click.pass_context
def install(ctx: click.Context, /, only_print: bool, **_: str | None) -> None:
    """Install the agent as a service that starts with this host, and start it.

    On a Mac a LaunchAgent of the user who is logged in at the screen, on Linux a systemd unit (root's, or the user's).
    The agent's flags are written into the service; its variables, secrets among them, go into a file that only its
    owner can read. Run it again to change settings or after an upgrade: virtual machines go on meanwhile.

    \b
    Examples:
      macos-vz-kubelet install --nodename mac-1 --kubeconfig ~/node.kubeconfig
      VZ_SSH_USER=admin VZ_SSH_PASSWORD=… macos-vz-kubelet install --config /etc/vzkubelet.yaml
      macos-vz-kubelet install --print --nodename mac-1
    """
    from vzkubelet.host.local import LocalProbe
    from vzkubelet.host.service import captured, place
    from vzkubelet.host.service import install as room

    given = flags.values(ctx)
    environment = config.process_environment()
    probe = LocalProbe(environment)
    settings = _settings(given, probe, only_print=only_print)
    where = place.of(probe.facts, _config_home(environment))
    if "environment-file" in given:
        environment = {**config.environment_file.read(Path(given["environment-file"]).expanduser()), **environment}
    taken = captured.capture(config.options(), given, environment)
    program = _program(settings, probe, must_exist=not only_print)
    wanted = room.plan(where, program, taken, settings.cache_dir.absolute(), probe.facts.home)
    if only_print:
        click.echo(wanted.definition.decode(), nl=False)
        return
    room.install(probe, wanted, click.echo)
    journal = "journalctl --user" if where.domain == "user" else "journalctl"
    click.echo(f"Installed {where.name}. Its log: {where.log or f'{journal} -u {where.name} -f'}")


def _settings(given: Mapping[str, str], probe: "Probe", *, only_print: bool) -> "Config":
    """Refuses what the agent would refuse. To look at the definition nobody needs a node's credentials: what is not
    given may be missing then, and what is given must be right.

    Raises:
        InvalidInput, Unsupported.
    """
    from vzkubelet.daemon import inputs

    settings, mistakes = config.understand(given)
    if only_print:
        mistakes = tuple(mistake for mistake in mistakes if not _is_lack(mistake, settings))
    inputs.refuse([*mistakes, *inputs.mistakes(settings, mistakes, may_lack_kubeconfig=only_print)])
    inputs.require_driver(settings, probe.facts.system, must_exist=not only_print)
    return settings


def _is_lack(mistake: str, settings: "Config") -> bool:
    kubeconfig = next(option for option in config.options() if option.name == "kubeconfig")
    default = kubeconfig.parse(kubeconfig.default or "")
    return " is not set: " in mistake or (
        settings.kube.kubeconfig == default and mistake.startswith(f"{kubeconfig.label}: cannot read {default}: ")
    )


def _config_home(environment: dict[str, str]) -> Path | None:
    found = environment.get("XDG_CONFIG_HOME")
    return Path(found) if found else None


def _program(settings: "Config", probe: "Probe", *, must_exist: bool) -> Sequence[str]:
    """On a Mac the app's interpreter: only an app can be allowed to reach guests on the local network."""
    from vzkubelet.host.signing import bundle

    match probe.facts.system:
        case "darwin":
            if must_exist and probe.facts.uid == 0:
                raise InvalidInput(
                    "on a Mac the agent is installed by the user who is logged in at the screen, not root"
                )
            app = settings.vz.helper_app.absolute()
            if must_exist and probe.status(app / bundle.EXECUTABLE) is None:
                raise InvalidInput(f"there is no signed app at {app}: run macos-vz-kubelet sign first")
            return (str(app / bundle.EXECUTABLE), *_MODULE)
        case "linux":
            script = Path(sys.executable).with_name("macos-vz-kubelet")
            return (str(script),) if script.exists() else (sys.executable, *_MODULE)
        case other:
            raise Unsupported(f"there is no service for {other}; run the agent under a supervisor of your own")
