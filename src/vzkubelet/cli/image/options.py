"""What several image verbs take: the registry's login and transport, and how much is said."""

import ssl
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from vzkubelet import config
from vzkubelet.cli import interruption
from vzkubelet.errors import InvalidInput
from vzkubelet.images import Library
from vzkubelet.images.credentials import DockerLogins
from vzkubelet.model.docker_config import RegistryCredential
from vzkubelet.model.oci import Platform
from vzkubelet.model.reference import Reference

F = TypeVar("F", bound=Callable[..., Any])

quiet = click.option("-q", "--quiet", is_flag=True, help="No progress, and only the result on standard output.")
as_json = click.option("--json", "as_json", is_flag=True, help="JSON for programs.")
platform = click.option("--platform", "wanted", metavar="OS/ARCH", help="Default: what this host runs.")
ca_file = click.option("--ca-file", type=click.Path(path_type=Path), help="Certificates to trust besides the system's.")


def registry(command: F) -> F:
    """Adds how to reach the registry and as whom."""
    for option in (
        click.option("--plain-http", is_flag=True, help="Unencrypted HTTP; loopback registries need no flag."),
        click.option("--password-stdin", is_flag=True, help="Read the password from standard input."),
        click.option("-p", "--password", help="Password; visible in the process list, prefer --password-stdin."),
        click.option("-u", "--username", help="Login of the registry; default: what docker login has stored."),
    ):
        command = option(command)
    return command


def library(settings: config.Config, platforms: tuple[Platform, ...] = (), **transport: Any) -> Library:
    """The images of the cache directory. `transport` is what `connection` returns."""
    return Library(root(settings), platforms, **transport)


def root(settings: config.Config) -> Path:
    return settings.cache_dir / "images"


def connection(given: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `Library` and `Pusher` from those of `registry`.

    Raises: InvalidInput.
    """
    return {"plain_http": given["plain_http"], "tls": _tls(given["ca_file"])}


def credentials(target: Reference, given: dict[str, Any]) -> tuple[RegistryCredential, ...]:
    """The login given, else those of ``docker login``, whose credential helpers are asked."""
    username, password = given["username"], given["password"]
    if given["password_stdin"]:
        password = sys.stdin.read().rstrip("\r\n")
    if username:
        return (RegistryCredential(username, password or ""),)
    if password:
        raise click.UsageError("a password needs --username")
    directory = config.docker_config_directory()
    if directory is None:
        return ()
    return interruption.run(DockerLogins(directory, config.helper_environment()).lookup(target))


def parse_platform(text: str) -> Platform:
    """Raises: InvalidInput."""
    os_, slash, architecture = text.partition("/")
    if not slash:
        raise InvalidInput(f"--platform: {text} is not of the form OS/ARCH, such as linux/amd64")
    return Platform(os=os_, architecture=architecture)


def _tls(ca_file: Path | None) -> ssl.SSLContext | None:
    if ca_file is None:
        return None
    context = ssl.create_default_context()
    try:
        context.load_verify_locations(ca_file)
    except ssl.SSLError as exc:
        raise InvalidInput(f"--ca-file: {ca_file} holds no certificates in PEM form") from exc
    except OSError as exc:
        raise InvalidInput(f"--ca-file: cannot read {ca_file}: {exc.strerror}") from exc
    return context
