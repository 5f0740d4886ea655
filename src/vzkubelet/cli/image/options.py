"""What several image verbs take: the registry's login and transport, and how much is said."""

import platform as platform_module
import ssl
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from vzkubelet import config
from vzkubelet.cli import interruption
from vzkubelet.errors import InvalidInput
from vzkubelet.images import Library, PushResult, gzip_encoder, host_platforms, inspection
from vzkubelet.images.credentials import DockerLogins
from vzkubelet.images.inspection import Inspection
from vzkubelet.images.push import FORMATS
from vzkubelet.images.records import rfc3339
from vzkubelet.images.store import Store, store_fault
from vzkubelet.model.docker_config import RegistryCredential
from vzkubelet.model.oci import Platform
from vzkubelet.model.reference import Reference, parse

F = TypeVar("F", bound=Callable[..., Any])

quiet = click.option("-q", "--quiet", is_flag=True, help="No progress, and only the result on standard output.")
as_json = click.option("--json", "as_json", is_flag=True, help="JSON for programs.")
platform = click.option("--platform", "wanted", metavar="OS/ARCH", help="Default: what this host runs.")
ca_file = click.option("--ca-file", type=click.Path(path_type=Path), help="Certificates to trust besides the system's.")


def layout(command: F) -> F:
    """Adds how an image that is pushed lies in the registry."""
    for option in (
        click.option("--level", type=click.IntRange(1, 19), help="Of compression; default: the fastest good one."),
        click.option("--base", metavar="REF", help="Older version whose chunks are used again (chunked)."),
        click.option(
            "--format",
            "format_",
            type=click.Choice(FORMATS),
            default=FORMATS[0],
            show_default=True,
            help="chunked: updates move only what changed; tart: for tart users.",
        ),
    ):
        command = option(command)
    return command


def written(given: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a push or a conversion from those of `layout`. Raises: InvalidInput."""
    base = parse(given["base"]) if given["base"] else None
    if base is not None and given["format_"] != "chunked":
        raise InvalidInput("--base: only images of --format chunked share chunks with older versions")
    level = given["level"]
    if level is not None and given["format_"] == "tart":
        raise InvalidInput("--level: the compression of --format tart has no levels")
    if level is not None and given["format_"] == "agoda" and level not in gzip_encoder.LEVELS:
        raise InvalidInput(f"--level: {level} is for --format chunked; gzip takes 1 to {gzip_encoder.LEVELS[-1]}")
    return {"format": given["format_"], "base": base, "level": level}


def targets(text: str) -> list[Reference]:
    """``REF[,TAG...]``. Raises: InvalidInput."""
    first, *tags = text.split(",")
    target = parse(first)
    if target.digest:
        raise InvalidInput(f"{text}: push under a tag, a digest follows from what is pushed")
    return [target, *(target.with_tag(tag) for tag in tags)]


def created() -> str | None:
    """A time stamp only where the build asks for a reproducible one (reproducible-builds.org, SOURCE_DATE_EPOCH)."""
    epoch = config.process_environment().get("SOURCE_DATE_EPOCH")
    if not epoch:
        return None
    if not epoch.isdecimal():
        raise InvalidInput(f"SOURCE_DATE_EPOCH: {epoch} is not a number of seconds")
    return rfc3339(float(epoch))


def show_pushed(result: PushResult, targets: Sequence[Reference], *, quiet: bool, as_json: bool) -> None:
    """What came of a push or a conversion."""
    if as_json:
        references = [str(target) for target in targets]
        sizes = {"uploadedBytes": result.uploaded_bytes, "reusedBytes": result.reused_bytes}
        click.echo(msgspec.json.encode({"references": references, "digest": result.digest, **sizes}))
    elif quiet:
        click.echo(result.digest)
    else:
        for target in targets:
            click.echo(f"Pushed {target}")
        click.echo(f"Digest: {result.digest}")


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


@contextmanager
def store_faults(store: Store) -> Iterator[None]:
    """Failures of the cache's volume as errors that name it."""
    try:
        yield
    except OSError as exc:
        raise store_fault(exc, str(store.root)) from exc


def connection(given: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `Library` and `Pusher` from those of `registry`.

    Raises: InvalidInput.
    """
    return {"plain_http": given["plain_http"], "tls": _tls(given["ca_file"])}


def credentials(target: Reference, given: dict[str, Any]) -> tuple[RegistryCredential, ...]:
    """The login given, else those of ``docker login``, whose credential helpers are asked."""
    username = given["username"]
    login = login_given(username, given["password"], given["password_stdin"])
    if login is not None:
        return (login,)
    if username:
        raise click.UsageError("--username needs a password: give --password-stdin")
    directory = config.docker_config_directory()
    if directory is None:
        return ()
    return interruption.run(DockerLogins(directory, config.helper_environment()).lookup(target))


def login_given(username: str | None, password: str | None, password_stdin: bool) -> RegistryCredential | None:
    """The login of the command line; None without a password. Raises: UsageError."""
    if password is not None and password_stdin:
        raise click.UsageError("--password and --password-stdin exclude each other")
    if password_stdin:
        if not username:
            raise click.UsageError("--password-stdin needs --username")
        password = sys.stdin.read().rstrip("\r\n")
    if password is None:
        return None
    if not username:
        raise click.UsageError("a password needs --username")
    if not password:
        raise click.UsageError("the password is empty")
    return RegistryCredential(username, password)


def parse_platform(text: str) -> Platform:
    """Raises: InvalidInput."""
    os_, _, architecture = text.partition("/")
    if not os_ or not architecture:
        raise InvalidInput(f"--platform: {text} is not of the form OS/ARCH, such as linux/amd64")
    return Platform(os=os_, architecture=architecture)


def host() -> tuple[Platform, ...]:
    """What this host runs."""
    return host_platforms(sys.platform, platform_module.machine())


def is_for(found: Inspection, wanted: Platform) -> bool:
    return (found.machine.os, found.machine.architecture) == (wanted.os, wanted.architecture)


def asked(
    target: Reference, wanted: Platform, credentials: Sequence[RegistryCredential], transport: dict[str, Any]
) -> Inspection:
    """What a registry has under a reference for a platform. Raises: InvalidInput, and as `inspection.remote`."""
    found = interruption.run(inspection.remote(target, credentials, (wanted,), **transport))
    if not is_for(found, wanted):
        of = f"{found.machine.os}/{found.machine.architecture}"
        raise InvalidInput(f"--platform: {target} is an image for {of}, not for {wanted}")
    return found


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
