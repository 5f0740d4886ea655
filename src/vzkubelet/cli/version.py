"""``macos-vz-kubelet version``"""

import platform

import click

import vzkubelet


@click.command()
def version() -> None:
    """Print the version."""
    click.echo(f"macos-vz-kubelet {vzkubelet.__version__} ({platform.system()} {platform.machine()})")
