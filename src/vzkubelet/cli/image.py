"""``macos-vz-kubelet image``: virtual machine images by hand, in the habits of docker and oras."""

import asyncio
import base64
import binascii
import os
import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import msgspec

from vzkubelet import config
from vzkubelet.cli import flags
from vzkubelet.cli.image_create import create
from vzkubelet.cli.progress import bytes_bar
from vzkubelet.errors import InvalidInput
from vzkubelet.files import open_regular
from vzkubelet.images import Library, Listing, Machine, Pusher, PushRequest, host_platforms
from vzkubelet.machines.vz import bundle
from vzkubelet.model import quantity
from vzkubelet.model.docker_config import Keyring, RegistryCredential
from vzkubelet.model.oci import Platform
from vzkubelet.model.reference import Reference, parse

_SHORT_DIGEST = slice(7, 19)


@click.group(context_settings={"max_content_width": 120})
def image() -> None:
    """Create, push, pull, list and remove virtual machine images."""


image.add_command(create)


def _registry_options(command: Any) -> Any:
    for option in (
        click.option("--plain-http", is_flag=True, help="Unencrypted HTTP; loopback registries need no flag."),
        click.option("--password-stdin", is_flag=True, help="Read the password from standard input."),
        click.option("-p", "--password", help="Password; visible in the process list, prefer --password-stdin."),
        click.option("-u", "--username", help="Login of the registry; default: what docker login has stored."),
    ):
        command = option(command)
    return command


@image.command()
@click.argument("reference", metavar="REF[,TAG...]")
@click.option("--bundle", "bundle_", metavar="DIR", type=click.Path(path_type=Path), help="What `image create` made.")
@click.option("--disk-path", type=click.Path(path_type=Path), help="Raw disk image.")
@click.option("--aux-path", type=click.Path(path_type=Path), help="Auxiliary storage or EFI variables.")
@click.option("--hardware-model", default="", metavar="BASE64", help="Boot data of a macOS guest.")
@click.option("--machine-id", default="", metavar="BASE64", help="Boot data of a macOS guest.")
@click.option("--os", "os_", type=click.Choice(["darwin", "linux"]), help="Default: darwin.")
@click.option("--arch", type=click.Choice(["arm64", "amd64"]), help="Default: arm64.")
@click.option("--image-config", type=click.Path(path_type=Path), help="OCI image config (JSON): entrypoint, env, user.")
@click.option(
    "--cpu-min",
    type=click.IntRange(1, bundle.MAX_CPUS),
    metavar="NUMBER",
    help="Processors that the guest needs at least.",
)
@click.option("--memory-min", metavar="QUANTITY", help="Memory that the guest needs at least, such as 4Gi.")
@_registry_options
@flags.some("cache-dir")
@click.pass_context
def push(ctx: click.Context, /, reference: str, plain_http: bool, **given: Any) -> None:
    """Push a virtual machine's files as an image.

    Further tags follow the first one behind commas: registry/repository:1.0,latest
    """
    settings = flags.standalone(ctx)
    targets = _targets(reference)
    machine = Machine(
        os=given["os_"] or "darwin",
        architecture=given["arch"] or "arm64",
        hardware_model=_base64(given["hardware_model"], "--hardware-model"),
        machine_id=_base64(given["machine_id"], "--machine-id"),
        cpu_min=given["cpu_min"] or 0,
        memory_min_bytes=_memory(given["memory_min"], "--memory-min") if given["memory_min"] else 0,
    )
    if given["bundle_"] and (given["os_"] or given["arch"]):
        raise click.UsageError("--os and --arch do not go with --bundle, which is a macOS machine for arm64")
    disk, aux, machine = _source(given["bundle_"], given["disk_path"], given["aux_path"], machine)
    request = PushRequest(
        disk=disk,
        aux=aux,
        machine=machine,
        image_config=_json_object(given["image_config"]) if given["image_config"] else None,
        created=_created(),
    )
    credential = (*_credentials(targets[0], **_login(given)), RegistryCredential())[0]
    digest = asyncio.run(_push(settings.cache_dir, request, targets, credential, plain_http))
    for target in targets:
        click.echo(f"Pushed {target}")
    click.echo(f"Digest: {digest}")


@image.command()
@click.argument("reference", metavar="REF")
@click.option("--platform", "wanted", metavar="OS/ARCH", help="Default: what this host runs.")
@_registry_options
@flags.some("cache-dir")
@click.pass_context
def pull(ctx: click.Context, /, reference: str, wanted: str | None, plain_http: bool, **given: Any) -> None:
    """Pull an image into the cache, where pods of this host find it."""
    settings = flags.standalone(ctx)
    target = parse(reference)
    platforms = (_platform(wanted),) if wanted else host_platforms(sys.platform, platform.machine())
    library = _library(settings, platforms, plain_http)
    credentials = _credentials(target, **_login(given))
    image_id = asyncio.run(_pull(library, reference, credentials))
    click.echo(f"Pulled {target}")
    click.echo(f"Digest: {image_id.partition('@')[2]}")


@image.command(name="ls")
@click.option("--json", "as_json", is_flag=True, help="One JSON array.")
@flags.some("cache-dir")
@click.pass_context
def ls(ctx: click.Context, /, as_json: bool, **_: Any) -> None:
    """List the images of this host."""
    rows = asyncio.run(_library(flags.standalone(ctx)).listing())
    if as_json:
        click.echo(msgspec.json.encode(rows))
        return
    table = [("REFERENCE", "DIGEST", "PLATFORM", "SIZE", "ON DISK", "PULLED"), *map(_row, rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    for row in table:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@image.command()
@click.argument("references", metavar="REF...", nargs=-1, required=True)
@flags.some("cache-dir")
@click.pass_context
def rm(ctx: click.Context, /, references: Sequence[str], **_: Any) -> None:
    """Remove images. Machines made of them live on."""
    library = _library(flags.standalone(ctx))
    for reference in references:
        freed_bytes = asyncio.run(library.remove(reference))
        space = "space is freed when the running pull ends" if freed_bytes is None else f"{_size(freed_bytes)} freed"
        click.echo(f"Removed {parse(reference)}, {space}")


async def _push(
    cache_dir: Path,
    request: PushRequest,
    targets: Sequence[Reference],
    credential: RegistryCredential,
    plain_http: bool,
) -> str:
    with bytes_bar() as report:
        pusher = Pusher(
            _root(cache_dir) / "uploads",
            credential,
            plain_http=plain_http,
            progress=lambda progress: report(progress.stage, progress.done_bytes, progress.total_bytes),
        )
        try:
            return await pusher.push(request, targets)
        finally:
            await pusher.close()


async def _pull(library: Library, reference: str, credentials: Sequence[RegistryCredential]) -> str:
    try:
        with bytes_bar() as report:
            pulled = await library.pull(
                reference, credentials, lambda progress: report("pull", progress.done_bytes, progress.total_bytes)
            )
        return pulled.image_id
    finally:
        await library.close()


def _library(settings: config.Config, platforms: Sequence[Platform] = (), plain_http: bool = False) -> Library:
    return Library(_root(settings.cache_dir), platforms, plain_http=plain_http)


def _root(cache_dir: Path) -> Path:
    return cache_dir / "images"


def _targets(text: str) -> list[Reference]:
    first, *tags = text.split(",")
    target = parse(first)
    if target.digest:
        raise InvalidInput(f"{text}: push under a tag, a digest follows from what is pushed")
    return [target, *(target.with_tag(tag) for tag in tags)]


def _login(given: dict[str, Any]) -> dict[str, Any]:
    return {name: given[name] for name in ("username", "password", "password_stdin")}


def _credentials(
    target: Reference, username: str | None, password: str | None, password_stdin: bool
) -> tuple[RegistryCredential, ...]:
    """The login given, else those of ``docker login`` (files only; credential helpers are not asked)."""
    if password_stdin:
        password = sys.stdin.read().rstrip("\r\n")
    if username:
        return (RegistryCredential(username, password or ""),)
    if password:
        raise click.UsageError("a password needs --username")
    directory = config.process_environment().get("DOCKER_CONFIG")
    if not directory and not config.has_home():
        return ()
    path = (Path(directory) if directory else Path.home() / ".docker") / "config.json"
    if not path.is_file():
        return ()
    keyring = Keyring()
    keyring.add_config(path.read_bytes(), str(path))
    return keyring.lookup(target)


def _created() -> str | None:
    """A time stamp only where the build asks for a reproducible one (reproducible-builds.org, SOURCE_DATE_EPOCH)."""
    epoch = config.process_environment().get("SOURCE_DATE_EPOCH")
    if not epoch:
        return None
    if not epoch.isdecimal():
        raise InvalidInput(f"SOURCE_DATE_EPOCH: {epoch} is not a number of seconds")
    return datetime.fromtimestamp(int(epoch), tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _source(
    directory: Path | None, disk: Path | None, aux: Path | None, machine: Machine
) -> tuple[Path, Path, Machine]:
    """What is pushed: the files given, or a bundle's; what is given beside a bundle wins."""
    if directory is None:
        if disk is None or aux is None:
            raise click.UsageError("give --bundle, or --disk-path and --aux-path")
        return disk, aux, machine
    boot = bundle.boot_data(directory)
    machine = Machine(
        os="darwin",
        architecture="arm64",
        hardware_model=machine.hardware_model or boot.hardware_model_data,
        machine_id=machine.machine_id or boot.machine_id_data,
        cpu_min=machine.cpu_min or boot.cpu_min,
        memory_min_bytes=machine.memory_min_bytes or boot.memory_min_bytes,
    )
    bundled_disk, bundled_aux = bundle.disk_and_aux(directory, boot)
    return disk or bundled_disk, aux or bundled_aux, machine


def _memory(text: str, flag: str) -> int:
    try:
        size_bytes = quantity.to_int(text)
    except InvalidInput as exc:
        raise InvalidInput(f"{flag}: {exc}") from exc
    if not 0 < size_bytes <= bundle.MAX_MEMORY_BYTES:
        raise InvalidInput(f"{flag}: {text} is not between 1 and {quantity.format_bytes(bundle.MAX_MEMORY_BYTES)}")
    return size_bytes


def _base64(text: str, flag: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise InvalidInput(f"{flag} is not base64") from exc


def _json_object(path: Path) -> dict[str, object]:
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            return msgspec.json.decode(file.read(), type=dict[str, object])
    except OSError as exc:
        raise InvalidInput(f"--image-config: cannot read {path}: {exc.strerror}") from exc
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise InvalidInput(f"--image-config: {path} is not a JSON object: {exc}") from exc


def _platform(text: str) -> Platform:
    os_, slash, architecture = text.partition("/")
    if not slash:
        raise InvalidInput(f"--platform: {text} is not of the form OS/ARCH, such as linux/amd64")
    return Platform(os=os_, architecture=architecture)


def _row(row: Listing) -> tuple[str, ...]:
    return (
        row.reference,
        row.manifest_digest[_SHORT_DIGEST],
        f"{row.os}/{row.architecture}",
        _size(row.size_bytes),
        _size(row.allocated_bytes),
        row.pulled_at,
    )


def _size(size_bytes: int) -> str:
    value = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
