"""``macos-vz-kubelet image push``."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import msgspec

from vzkubelet.cli import flags, interruption
from vzkubelet.cli.image import machine, options
from vzkubelet.cli.progress import bytes_bar
from vzkubelet.errors import InvalidInput, NotFound
from vzkubelet.files import open_regular
from vzkubelet.images import Pusher, PushRequest, PushResult, bundles
from vzkubelet.images.store import Store
from vzkubelet.model.docker_config import RegistryCredential
from vzkubelet.model.reference import Reference, parse


@click.command()
@click.argument("reference", metavar="REF[,TAG...]")
@click.option(
    "--bundle",
    "bundle_",
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="A machine as `image create` makes it, or as macosvm, tart, lume, UTM or VirtualBuddy keep it.",
)
@click.option("--from", "local", metavar="REF", help="An image of this host; default: the one of the same name.")
@click.option("--disk-path", type=click.Path(path_type=Path), help="Raw disk image.")
@machine.options
@click.option("--image-config", type=click.Path(path_type=Path), help="OCI image config (JSON): entrypoint, env, user.")
@options.layout
@options.quiet
@options.as_json
@options.ca_file
@options.registry
@flags.some("cache-dir")
@click.pass_context
def push(ctx: click.Context, /, reference: str, quiet: bool, as_json: bool, **given: Any) -> None:
    """Push a virtual machine as an image: its files, a bundle of another tool, or what this host has of that name.

    Further tags follow the first one behind commas: registry/repository:1.0,latest
    """
    settings = flags.standalone(ctx)
    targets = options.targets(reference)
    written = options.written(given)
    image_config = _json_object(given["image_config"]) if given["image_config"] else None
    request = replace(
        _request(Store(options.root(settings)), targets[0], given),
        image_config=image_config,
        created=options.created(),
        **written,
    )
    credential = (*options.credentials(targets[0], given), RegistryCredential())[0]
    with bytes_bar(quiet=quiet or as_json) as report:
        pusher = Pusher(
            options.root(settings),
            credential,
            **options.connection(given),
            progress=lambda progress: report(progress.stage, progress.done_bytes, progress.total_bytes),
        )
        result = interruption.run(_push(pusher, request, targets))
    options.show_pushed(result, targets, quiet=quiet, as_json=as_json)


async def _push(pusher: Pusher, request: PushRequest, targets: Sequence[Reference]) -> PushResult:
    try:
        return await pusher.push(request, targets)
    finally:
        await pusher.close()


def _request(store: Store, target: Reference, given: dict[str, Any]) -> PushRequest:
    """What is pushed; what is given beside a bundle wins.

    Raises: InvalidInput, NotFound, UsageError, and what reading a bundle raises.
    """
    disk, aux, path, local = given["disk_path"], given["aux_path"], given["bundle_"], given["local"]
    if local is not None and (disk or aux or path):
        raise click.UsageError(
            "--from does not go with --bundle, --disk-path and --aux-path: say which of them is meant"
        )
    if path is not None:
        return _of_bundle(path, disk, given)
    if disk is not None and aux is not None:
        described = machine.described(given)
        if described.os == "darwin" and not (described.hardware_model and described.machine_id):
            raise InvalidInput("a macOS image needs --hardware-model and --machine-id: the guest does not boot without")
        _check_raw(disk, bundles.format_of(disk))
        bundles.check_sectors(disk)
        bundles.check_unused((disk, aux), str(disk))
        return PushRequest(disk, aux, described)
    if disk is not None or aux is not None:
        raise click.UsageError("give --disk-path and --aux-path, or --bundle")
    source = target if local is None else parse(local)
    with options.store_faults(store):
        found = store.find(source)
    if found is None:
        raise NotFound(
            f"{source} is not on this host: give --bundle, or --disk-path and --aux-path, or import it first"
        )
    record = found[1]
    if given["os_"] or given["arch"]:
        platform = f"{record.machine.os}/{record.machine.architecture}"
        raise click.UsageError(f"--os and --arch do not go with {source} of this host, which is {platform}")
    return PushRequest(
        disk=store.content_path(record.disk.digest),
        aux=store.content_path(record.aux.digest),
        machine=machine.with_flags(record.machine, given),
    )


def _of_bundle(path: Path, disk: Path | None, given: dict[str, Any]) -> PushRequest:
    bundle = machine.overridden(bundles.read(path), given)
    if disk is not None:
        bundle = replace(bundle, disk=disk, disk_format=bundles.format_of(disk))
        bundles.check_sectors(disk)
    bundles.check(bundle)
    _check_raw(bundle.disk, bundle.disk_format)
    bundles.check_unused(bundle.files, str(path))  # also what the flags named
    assert bundle.aux is not None
    return PushRequest(bundle.disk, bundle.aux, bundle.machine)


def _check_raw(disk: Path, format_: bundles.DiskFormat) -> None:
    if format_ is not bundles.DiskFormat.RAW:
        raise InvalidInput(f"{disk} is no raw disk: `image import` it first, then push the image")


def _json_object(path: Path) -> dict[str, object]:
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            return msgspec.json.decode(file.read(), type=dict[str, object])
    except OSError as exc:
        raise InvalidInput(f"--image-config: cannot read {path}: {exc.strerror}") from exc
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidInput(f"--image-config: {path} is not a JSON object: {exc}") from exc
