"""``macos-vz-kubelet image create``: a macOS virtual machine from Apple's restore image, ready to be pushed."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import click

from vzkubelet import config
from vzkubelet.cli import flags, interruption
from vzkubelet.cli.progress import Report, bytes_bar
from vzkubelet.errors import InvalidInput, Unsupported
from vzkubelet.machines.vz import bundle, download, installation
from vzkubelet.machines.vz.launch import Interpreter
from vzkubelet.model import quantity

_LATEST = "latest"
_MIN_DISK_BYTES = 32 * 1024**3
"""macOS takes more than 20 GiB after an installation and refuses to install into less."""


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option(
    "--ipsw", required=True, metavar="FILE|latest", help="Restore image; latest = fetch Apple's newest for this Mac."
)
@click.option("--disk-size", default="64Gi", show_default=True, metavar="QUANTITY", help="Grows only as it is used.")
@click.option("--cpu", type=click.IntRange(min=1), help="Processors during the installation; default 4.")
@click.option("--memory", metavar="QUANTITY", help="Memory during the installation; default 8Gi.")
@flags.some("cache-dir", "vz-helper-app")
@click.pass_context
def create(
    ctx: click.Context, /, directory: Path, ipsw: str, disk_size: str, cpu: int | None, memory: str | None, **_: Any
) -> None:
    """Install macOS into DIRECTORY, which must not exist.

    Needs a Mac and the app of `macos-vz-kubelet sign`. An interrupted download goes on where it was; an interrupted
    installation leaves nothing. Then set the guest up in a window (docs/macos.md) and push it:
    `macos-vz-kubelet image push --bundle DIRECTORY REF`.
    """
    settings = flags.standalone(ctx)
    disk_size_bytes = quantity.to_int(disk_size)
    if disk_size_bytes < _MIN_DISK_BYTES:
        raise InvalidInput(f"--disk-size: macOS does not install into {disk_size}; give 32Gi or more")
    request = installation.Install(
        directory="",
        restore_image=ipsw,
        disk_size_bytes=-(-disk_size_bytes // 4096) * 4096,
        cpus=cpu or 0,
        memory_bytes=quantity.to_int(memory) if memory else 0,
    )
    with bytes_bar() as report:
        try:
            installed = interruption.run(_create(settings, directory.absolute(), request, report))
        except Unsupported as exc:
            if sys.platform == "darwin" or importlib.util.find_spec("Virtualization"):
                raise
            # The driver's own words recommend another driver, which installs no macOS either.
            raise Unsupported("installing macOS needs a Mac with Apple silicon", reason=exc.reason) from exc
    click.echo(f"Installed {installed.image} into {directory}")


async def _create(
    settings: config.Config, directory: Path, request: installation.Install, report: Report
) -> installation.Installed:
    # Before anything is fetched: the name may be taken, and the host may be none that installs.
    with bundle.staged(directory) as staging:
        interpreter = Interpreter.find(settings.vz.helper_app, config.helper_environment())
        is_latest = request.restore_image == _LATEST
        path = "" if is_latest else str(Path(request.restore_image).expanduser().absolute())
        described = await installation.run(interpreter, installation.Describe(path=path))
        if is_latest:
            cache = settings.cache_dir / "restore-images"
            file = await download.download(
                described.image.url, cache, lambda done, total: report("download", done, total)
            )
            path = str(file)
        install = installation.Install(
            directory=str(staging),
            restore_image=path,
            disk_size_bytes=request.disk_size_bytes,
            cpus=request.cpus,
            memory_bytes=request.memory_bytes,
        )
        size_bytes = Path(path).stat().st_size
        installed = await installation.run(
            interpreter, install, lambda fraction: report("install", round(fraction * size_bytes), size_bytes)
        )
        assert isinstance(installed, installation.Installed)
        bundle.write(staging, installed)
        return installed
