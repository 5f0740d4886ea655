"""``uninstall``: take the service away again."""

import asyncio
from pathlib import Path

import click

from vzkubelet import config


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--purge", is_flag=True, help="Also remove machines, images, the log and the signed app.")
def uninstall(purge: bool) -> None:
    """Stop the agent's service and remove what `install` wrote.

    Virtual machines and side-cars that run go on (`reset` ends them), and images stay. With --purge they go too.

    \b
    Examples:
      kubectl drain mac-1 --ignore-daemonsets && macos-vz-kubelet uninstall
      macos-vz-kubelet uninstall --purge
    """
    from vzkubelet.host.local import LocalProbe
    from vzkubelet.host.service import install, place

    environment = config.process_environment()
    probe = LocalProbe(environment)
    home = environment.get("XDG_CONFIG_HOME")
    where = place.of(probe.facts, Path(home) if home else None)
    installed = install.read_record(where)
    # Read before the files go: the agent's own driver is to end its machines.
    settings = config.read(installed.settings(), purpose=config.Purpose.STANDALONE) if purge else None
    cache = Path(install.uninstall(probe, where, click.echo).cache_dir)
    if settings is None:
        click.echo(f"Images stay in {cache}. Machines that run go on; macos-vz-kubelet reset ends them.")
        return
    from vzkubelet.daemon import reset
    from vzkubelet.host.service import purge as rest

    for what in asyncio.run(reset.run(settings)):
        click.echo(f"removed {what}")
    for path in rest.remove(cache, settings.vz.helper_app, where.directory, where.log):
        click.echo(f"removed {path}")
