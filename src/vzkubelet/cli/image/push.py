"""``macos-vz-kubelet image push``."""

import base64
import binascii
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import msgspec

from vzkubelet import config
from vzkubelet.cli import flags, interruption
from vzkubelet.cli.image import options
from vzkubelet.cli.progress import bytes_bar
from vzkubelet.errors import InvalidInput
from vzkubelet.files import open_regular
from vzkubelet.images import Machine, Pusher, PushRequest
from vzkubelet.machines.vz import bundle
from vzkubelet.model import quantity
from vzkubelet.model.docker_config import RegistryCredential
from vzkubelet.model.reference import Reference, parse


@click.command()
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
@options.quiet
@options.registry
@flags.some("cache-dir")
@click.pass_context
def push(ctx: click.Context, /, reference: str, quiet: bool, **given: Any) -> None:
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
    credential = (*options.credentials(targets[0], given), RegistryCredential())[0]
    with bytes_bar(quiet=quiet) as report:
        pusher = Pusher(
            options.root(settings),
            credential,
            plain_http=given["plain_http"],
            progress=lambda progress: report(progress.stage, progress.done_bytes, progress.total_bytes),
        )
        digest = interruption.run(_push(pusher, request, targets))
    if quiet:
        click.echo(digest)
        return
    for target in targets:
        click.echo(f"Pushed {target}")
    click.echo(f"Digest: {digest}")


async def _push(pusher: Pusher, request: PushRequest, targets: Sequence[Reference]) -> str:
    try:
        return (await pusher.push(request, targets)).digest
    finally:
        await pusher.close()


def _targets(text: str) -> list[Reference]:
    first, *tags = text.split(",")
    target = parse(first)
    if target.digest:
        raise InvalidInput(f"{text}: push under a tag, a digest follows from what is pushed")
    return [target, *(target.with_tag(tag) for tag in tags)]


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
