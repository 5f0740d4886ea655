"""The process that reads restore images and installs macOS: ``python -m vzkubelet.machines.vz.installer``.

It says and hears what `installation` lists. The end of stdin and SIGTERM cancel, which leaves the directory to whoever
made it.
"""

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from vzkubelet import aio
from vzkubelet.errors import Conflict, Error, InvalidInput, MachineFault
from vzkubelet.machines.directory import MachineDirectory, os_fault
from vzkubelet.machines.vz import apple, configuration, faults, platforms, restore_image
from vzkubelet.machines.vz.apple import AppleError
from vzkubelet.machines.vz.availability import MacOS
from vzkubelet.machines.vz.faults import Operation, Situation
from vzkubelet.machines.vz.installation import (
    Advanced,
    Answer,
    Describe,
    Described,
    Failed,
    Install,
    Installed,
    Request,
)
from vzkubelet.machines.vz.plan import MIB, Audio, Disk, Identity, IdentityPolicy, MachinePlan, MacOSBoot
from vzkubelet.machines.vz.protocol import Fault
from vzkubelet.machines.vz.queue import Queue
from vzkubelet.machines.vz.restore_image import RestoreImage

_log = logging.getLogger(__name__)

T = TypeVar("T")

_INSTALL_TIMEOUT_S = 6 * 3600.0
_CANCEL_TIMEOUT_S = 60.0
_POLL_S = 0.25
_CPUS = 4
"""With fewer an installation takes more than twice as long, and guests freeze (tart)."""
_MEMORY_BYTES = 8 * 1024 * MIB


def machine_plan(request: Install, image: RestoreImage, directory: MachineDirectory, mac: str) -> MachinePlan:
    """What an installation needs: the disk, the network for activation, and nothing that makes a noise."""
    return MachinePlan(
        boot=MacOSBoot(hardware_model=image.hardware_model, auxiliary_storage=directory.aux.name),
        cpus=max(request.cpus or _CPUS, image.cpu_min),
        memory_bytes=max(request.memory_bytes or _MEMORY_BYTES, image.memory_min_bytes),
        disks=(Disk(path=directory.disk_raw.name),),
        mac=mac,
        identity=Identity(policy=IdentityPolicy.RANDOM),
        audio=Audio.OFF,
        console="",
    )


class Installer:
    """One installation. `cancel` may come at any time."""

    def __init__(self, queue: Queue, host: MacOS) -> None:
        self._queue = queue
        self._situation = Situation(Operation.INSTALL, host=host, is_root=os.geteuid() == 0)
        self._host = host
        self._installer: Any = None
        self._kept: tuple[object, ...] = ()
        self._cancelled = asyncio.Event()

    def cancel(self) -> None:
        self._cancelled.set()

    async def install(self, request: Install, advanced: Callable[[float], None]) -> Installed:
        """Raises Unsupported (restore image, or a host that needs an update first), InvalidInput, NotFound, Exhausted,
        Forbidden, Conflict (cancelled), MachineFault, DeadlineExceeded."""
        directory = MachineDirectory(Path(request.directory).resolve())
        image = await restore_image.load(self._queue, Path(request.restore_image), self._host)
        await self._run(lambda: self._make(request, image, directory))
        watching = aio.spawn(self._watch(advanced), name="progress of the installation")
        try:
            await self._complete()
        finally:
            await aio.cancel(watching)
        advanced(1.0)
        return Installed(image=image, machine_id=directory.machine_id.read_bytes())

    # --- On the queue --------------------------------------------------------------------------------------------

    def _make(self, request: Install, image: RestoreImage, directory: MachineDirectory) -> None:
        """Disk, auxiliary storage, machine and installer; the installer belongs to the machine's queue."""
        vz = self._queue.frameworks.Virtualization
        _make_disk(directory, request.disk_size_bytes)
        platforms.create_auxiliary_storage(directory.aux, image.hardware_model)
        mac = str(vz.VZMACAddress.randomLocallyAdministeredAddress().string())
        plan = machine_plan(request, image, directory, mac)
        built = configuration.build(plan, directory, self._host, self._situation, None)
        machine = vz.VZVirtualMachine.alloc().initWithConfiguration_queue_(built.configuration, self._queue.native)
        file = apple.file_url(Path(request.restore_image).resolve())
        self._installer = vz.VZMacOSInstaller.alloc().initWithVirtualMachine_restoreImageURL_(machine, file)
        self._kept = (machine, *built.keep)

    def _fraction(self) -> float:
        return float(self._installer.progress().fractionCompleted())

    def _cancel(self) -> None:
        self._installer.progress().cancel()

    # --- In the event loop ---------------------------------------------------------------------------------------

    async def _run(self, work: Callable[[], T]) -> T:
        try:
            return await self._queue.run(work, Operation.INSTALL)
        except AppleError as exc:
            raise faults.translate(exc, self._situation) from exc

    async def _complete(self) -> None:
        completing = aio.spawn(
            self._queue.completed(
                lambda handler: self._installer.installWithCompletionHandler_(handler),
                Operation.INSTALL,
                _INSTALL_TIMEOUT_S,
            ),
            name="installation",
            on_crash=lambda _: None,
        )
        cancelling = aio.spawn(self._cancelled.wait(), name="cancellation of the installation")
        try:
            await asyncio.wait({completing, cancelling}, return_when=asyncio.FIRST_COMPLETED)
            if not completing.done():
                await self._run(self._cancel)
                await asyncio.wait({completing}, timeout=_CANCEL_TIMEOUT_S)
            if self._cancelled.is_set():
                raise Conflict("the installation was cancelled", reason="OperationCancelled")
            completing.result()
        except AppleError as exc:
            raise faults.translate(exc, self._situation) from exc
        finally:
            await aio.cancel(completing, cancelling)

    async def _watch(self, advanced: Callable[[float], None]) -> None:
        told = -1.0
        while True:
            fraction = await self._run(self._fraction)
            if fraction - told >= 0.001:
                advanced(fraction)
                told = fraction
            await asyncio.sleep(_POLL_S)


def _make_disk(directory: MachineDirectory, size_bytes: int) -> None:
    """A sparse file. Raises Exhausted, Unavailable, InvalidInput."""
    if size_bytes % 512:
        raise InvalidInput(f"a disk of {size_bytes} bytes is no multiple of 512")
    try:
        with directory.disk_raw.open("xb") as disk:
            disk.truncate(size_bytes)
    except OSError as exc:
        raise os_fault(exc, f"cannot make {directory.disk_raw}") from exc


# --- The process -----------------------------------------------------------------------------------------------------


def _say(answer: Answer) -> None:
    with contextlib.suppress(BrokenPipeError):  # nobody listens any more: the end of stdin says so too
        sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
        sys.stdout.buffer.flush()


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=1024 * 1024)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    host = apple.supported_host()
    queue = Queue("macos-vz-kubelet.installer")
    try:
        request = msgspec.json.decode(await reader.readline(), type=Request)
    except msgspec.DecodeError as exc:
        raise InvalidInput(f"this is no request for the installer: {exc}") from exc
    if isinstance(request, Describe):
        described = (
            restore_image.load(queue, Path(request.path), host)
            if request.path
            else restore_image.fetch_latest(queue, host)
        )
        _say(Described(image=await described))
        return
    installer = Installer(queue, host)
    loop.add_signal_handler(signal.SIGTERM, installer.cancel)
    listening = aio.spawn(_until_end(reader, installer.cancel), name="end of the client")
    try:
        _say(await installer.install(request, lambda fraction: _say(Advanced(fraction=fraction))))
    finally:
        await aio.cancel(listening)


async def _until_end(reader: asyncio.StreamReader, cancel: Callable[[], None]) -> None:
    while await reader.read(4096):
        pass
    cancel()


def main() -> int:
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    try:
        asyncio.run(_serve())
    except Error as exc:
        _say(Failed(fault=Fault.of(exc, faults.code_of(exc))))
        return exc.exit_code
    except Exception as exc:  # noqa: BLE001 - the last place where it can be told
        _log.exception("the installer failed")
        _say(Failed(fault=Fault.of(MachineFault(f"the installer failed: {exc!r}"))))
        return 1
    return 0


if __name__ == "__main__":
    code = main()
    logging.shutdown()
    sys.stderr.flush()
    # No interpreter shutdown: a callback of the framework that came in its midst would trap.
    os._exit(code)
