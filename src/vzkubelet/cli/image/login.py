"""``macos-vz-kubelet image login``: what ``docker login`` does, and into the same file."""

import sys
from typing import Any

import click

from vzkubelet import config
from vzkubelet.cli import interruption
from vzkubelet.cli.image import options
from vzkubelet.errors import Error, InvalidInput
from vzkubelet.images.credentials import DockerLogins, server_of
from vzkubelet.images.credentials.check import check
from vzkubelet.images.credentials.docker_logins import HUB_SERVER
from vzkubelet.model.docker_config import RegistryCredential
from vzkubelet.model.reference import HUB_DOMAIN, Reference


@click.command()
@click.argument("registry", metavar="[REGISTRY]", default=HUB_DOMAIN)
@click.option("-u", "--username", help="Asked for when it is not given.")
@click.option("-p", "--password", help="Password; visible in the process list, prefer --password-stdin.")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
@click.option("--plain-http", is_flag=True, help="Unencrypted HTTP; loopback registries need no flag.")
@options.ca_file
def login(registry: str, username: str | None, password: str | None, password_stdin: bool, **given: Any) -> None:
    """Log in to a registry: image pull and push use it, and docker too.

    REGISTRY is its host and port; without one, Docker Hub. The login is tried first, then kept in config.json of
    DOCKER_CONFIG or ~/.docker, or by the credential helper that is named there. Without a terminal give --username and
    --password-stdin.
    """
    server = server_of(registry)
    domain = HUB_DOMAIN if server == HUB_SERVER else server
    logins, transport = docker_logins(), options.connection(given)
    wanted = options.login_given(username, password, password_stdin)
    if wanted is None:
        kept = None if username else interruption.run(_kept(logins, domain, transport))
        if kept is not None:
            click.echo(f"Login Succeeded: as {kept.username or 'before'}, with what was kept for {domain}")
            return
        wanted = _asked(username, domain)
    interruption.run(check(domain, wanted, **transport))
    place = interruption.run(logins.store(server, wanted))
    if place == str(logins.path):
        click.echo(
            f"warning: the password is kept readable in {place}; a credential helper (credsStore) avoids that", err=True
        )
    click.echo("Login Succeeded")


def docker_logins() -> DockerLogins:
    """Raises InvalidInput: nobody knows where ``~`` points, and DOCKER_CONFIG is not set."""
    directory = config.docker_config_directory()
    if directory is None:
        raise InvalidInput(f"{config.NO_HOME}, or set DOCKER_CONFIG")
    return DockerLogins(directory, config.helper_environment())


async def _kept(logins: DockerLogins, domain: str, transport: dict[str, Any]) -> RegistryCredential | None:
    """A login that was kept before, if it still works."""
    for credential in await logins.lookup(Reference(domain, "", "latest")):
        try:
            await check(domain, credential, **transport)
        except Error as exc:
            click.echo(f"the login that was kept does not work: {exc}", err=True)
        else:
            return credential
    return None


def _asked(username: str | None, domain: str) -> RegistryCredential:
    if not sys.stdin.isatty():
        raise click.UsageError("there is no terminal to ask at: give --username and --password-stdin")
    if not username:
        username = str(click.prompt(f"Username for {domain}", err=True))
    return RegistryCredential(username, str(click.prompt("Password", hide_input=True, err=True)))
