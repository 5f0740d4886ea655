"""``macos-vz-kubelet image inspect``."""

from collections.abc import Iterator
from typing import Any

import click
import msgspec

from vzkubelet.cli import flags, interruption, sizes
from vzkubelet.cli.image import options
from vzkubelet.errors import InvalidInput, NotFound, Unavailable
from vzkubelet.images import inspection
from vzkubelet.images.inspection import FileView, Inspection, LocalView, MachineView
from vzkubelet.images.store import Store
from vzkubelet.model.oci import Platform
from vzkubelet.model.reference import Reference, parse


@click.command()
@click.argument("reference", metavar="REF")
@click.option("--remote", is_flag=True, help="Ask the registry, whatever this host has.")
@click.option("--manifest", "only_manifest", is_flag=True, help="Only the manifest, byte for byte.")
@options.platform
@options.as_json
@options.ca_file
@options.registry
@flags.some("cache-dir")
@click.pass_context
def inspect(
    ctx: click.Context, /, reference: str, remote: bool, only_manifest: bool, as_json: bool, **given: Any
) -> None:
    """Show an image: format, machine, files and their digests, and what this host has of it.

    What is here is shown without a request; what is not is asked for at the registry. The disk is not downloaded.
    """
    settings = flags.standalone(ctx)
    target = parse(reference)
    store = Store(options.root(settings))
    with options.store_faults(store):
        found = None if remote else inspection.local(store, target)
    wanted = options.parse_platform(given["wanted"]) if given["wanted"] else None
    if found is None or not (wanted is None or options.is_for(found, wanted)):
        found = _here_too(store, _ask(target, wanted, given))
    if only_manifest:
        if found.manifest is None:
            raise NotFound(f"nothing is known of the manifest of {target}: it came from another program's cache")
        click.echo(bytes(found.manifest), nl=False)
    elif as_json:
        click.echo(msgspec.json.encode(found))
    else:
        for name, text in _lines(found):
            click.echo(f"{name + ':':<12}{text}")


def _ask(target: Reference, wanted: Platform | None, given: dict[str, Any]) -> Inspection:
    credentials, connection = options.credentials(target, given), options.connection(given)
    if wanted is not None:
        return options.asked(target, wanted, credentials, connection)
    try:
        return interruption.run(inspection.remote(target, credentials, options.host(), **connection))
    except InvalidInput:  # nothing for this host is in the index: of what is, the first
        return interruption.run(inspection.remote(target, credentials, **connection))


def _here_too(store: Store, asked: Inspection) -> Inspection:
    """What the registry has told, with what this host has of that very image, whatever its name here."""
    try:
        with options.store_faults(store):
            names = [parse(record.reference) for record in store.references() if record.manifest_digest == asked.digest]
            known = next(filter(None, (inspection.local(store, name) for name in names)), None)
    except Unavailable as exc:  # of another user, for example: the registry's answer is worth as much
        click.echo(f"warning: what this host has is not known: {exc}", err=True)
        return asked
    if known is None:
        return asked
    return msgspec.structs.replace(asked, disk=known.disk, aux=known.aux, local=known.local)


def _lines(found: Inspection) -> Iterator[tuple[str, str]]:
    yield "Reference", found.reference
    yield "Digest", found.digest
    if found.resolved_digest:
        yield "Tag", found.resolved_digest
    for entry in found.index:
        yield "Entry", " ".join(filter(None, (entry.digest, entry.platform, entry.artifact_type or entry.media_type)))
    yield "Format", found.format or "of this host: no registry has it"
    yield from _machine_lines(found.machine)
    yield "Disk", _file_text(found.disk)
    yield "Aux", _file_text(found.aux)
    yield "Host", "nothing of it" if found.local is None else _local_text(found.local, found.disk, found.aux)
    for file in (found.disk, found.aux):
        if file.path is not None:
            yield "Path", file.path


def _machine_lines(machine: MachineView) -> Iterator[tuple[str, str]]:
    yield "Platform", f"{machine.os}/{machine.architecture}"
    parts = []
    if machine.cpu_count or machine.cpu_min:
        floor = f", at least {machine.cpu_min}" if machine.cpu_min else ""
        parts.append(f"{machine.cpu_count or machine.cpu_min} CPUs{floor}")
    if machine.memory_bytes or machine.memory_min_bytes:
        floor = f", at least {sizes.size(machine.memory_min_bytes)}" if machine.memory_min_bytes else ""
        parts.append(f"{sizes.size(machine.memory_bytes or machine.memory_min_bytes)} of memory{floor}")
    if machine.display:
        parts.append(f"display {machine.display}")
    if machine.mac_address:
        parts.append(machine.mac_address)
    if parts:
        yield "Machine", "; ".join(parts)
    if machine.os == "darwin":
        yield "Boot data", "hardware model and machine identifier" if machine.has_boot_data else "missing"
    for name, words in (("Entrypoint", machine.entrypoint), ("Command", machine.cmd)):
        if words is not None:
            yield name, msgspec.json.encode(words).decode()
    if machine.user or machine.working_dir:
        yield "User", " in ".join(filter(None, (machine.user, machine.working_dir)))
    for variable in machine.env:
        yield "Env", variable
    for label, value in machine.labels.items():
        yield "Label", f"{label}={value}"


def _file_text(file: FileView) -> str:
    parts = ["size not known" if file.size_bytes is None else sizes.size(file.size_bytes)]
    if file.blobs is not None:
        blobs = f"{file.blobs.count} blob{'s' if file.blobs.count != 1 else ''}"
        parts.append(f"{sizes.size(file.blobs.size_bytes)} in the registry ({blobs}, {file.blobs.layout})")
    digest = file.digest or file.raw_digest
    if digest:
        parts.append(digest)
    return ", ".join(parts)


def _local_text(local: LocalView, *files: FileView) -> str:
    allocated_bytes = sum(file.allocated_bytes or 0 for file in files)
    parts = [f"{sizes.size(allocated_bytes)} on disk" if local.complete else "incomplete: pull it again"]
    parts.append(f"{'imported' if local.imported else 'pulled'} {local.pulled_at}")
    parts.append(f"used {local.last_used_at}")
    if local.pinned:
        parts.append("pinned")
    return ", ".join(parts)
