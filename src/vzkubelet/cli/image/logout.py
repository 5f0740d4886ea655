"""``macos-vz-kubelet image logout``."""

import click

from vzkubelet.cli import interruption
from vzkubelet.cli.image.login import docker_logins
from vzkubelet.images.credentials import server_of
from vzkubelet.model.reference import HUB_DOMAIN


@click.command()
@click.argument("registry", metavar="[REGISTRY]", default=HUB_DOMAIN)
def logout(registry: str) -> None:
    """Forget the login of a registry, Docker Hub's when none is named."""
    server = server_of(registry)
    removed = interruption.run(docker_logins().erase(server))
    click.echo(f"Removing login credentials for {server}" if removed else f"Not logged in to {server}")
