"""Tries what the product does on this host: a queue, a delegate, configurations, and a Linux guest if one is given."""

import asyncio
import contextlib
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import msgspec

from vzkubelet.errors import Error
from vzkubelet.machines.directory import MachineDirectory
from vzkubelet.machines.vz import apple, configuration, platforms, protocol, restore_image
from vzkubelet.machines.vz.availability import MacOS
from vzkubelet.machines.vz.delegate import Observer, delegate
from vzkubelet.machines.vz.faults import Operation, Situation
from vzkubelet.machines.vz.plan import (
    AUTOMOUNT_TAG,
    MIB,
    Audio,
    Disk,
    Display,
    EFIBoot,
    FileSystemShare,
    KernelBoot,
    MachinePlan,
    MacOSBoot,
    SharedDirectory,
)
from vzkubelet.machines.vz.queue import Queue
from vzkubelet.machines.vz.restore_image import RestoreImage
from vzkubelet.machines.vz.self_check_report import Check, State
from vzkubelet.machines.vz.session import Session

QUEUE_STAGE = "queue"
CONFIGURATION_STAGE = "configuration"
GUEST_STAGE = "guest"

_MACOS = "a macOS guest"
_MAC = "02:00:00:5e:1f:01"
_DISK_BYTES = 64 * MIB
_GUEST_MEMORY_BYTES = 512 * MIB
_GUEST_WORDS_S = 60.0
_COMMAND_LINE = "console=hvc0 panic=-1"


# --- Queue and delegate ----------------------------------------------------------------------------------------------


async def try_queue() -> list[Check]:
    """A private queue runs our work off the main thread, and a delegate class can be defined."""
    checks = []
    queue = Queue("com.agoda.fleet.virtualization.self-check")
    try:
        ran = await queue.run(lambda: 42, Operation.QUERY)
        state = State.OK if ran == 42 else State.FAILED
        checks.append(Check(QUEUE_STAGE, "a block on a private queue", state, "42", str(ran)))
    except Exception as exc:  # noqa: BLE001 - whatever it is, it is the finding
        checks.append(Check(QUEUE_STAGE, "a block on a private queue", State.FAILED, "42", repr(exc)))
    checks.append(_try_delegate())
    return checks


def _try_delegate() -> Check:
    name = "a delegate that hears the guest stop"
    heard: list[str] = []

    def stopped() -> None:
        heard.append("stopped")

    try:
        made = delegate(Observer(stopped, lambda _: None, lambda _: None))
        made.guestDidStopVirtualMachine_(None)
    except Exception as exc:  # noqa: BLE001 - as above
        return Check(QUEUE_STAGE, name, State.FAILED, "a call", repr(exc))
    return Check(QUEUE_STAGE, name, State.OK if heard else State.FAILED, "a call", "" if heard else "none")


# --- Configurations --------------------------------------------------------------------------------------------------


def try_configurations(host: MacOS) -> Iterator[Check]:
    """Build and validate what the driver would for a Linux guest, one device after the other."""
    for name, adorn in _plans(host):
        with _directory() as directory:
            plan = adorn(directory)
            try:
                configuration.build(plan, directory, host, _situation(host), None)
            except Error as exc:
                yield Check(CONFIGURATION_STAGE, name, State.FAILED, "valid", f"{exc.message} ({exc.reason})")
            except Exception as exc:  # noqa: BLE001 - a fault of ours that a Mac brings to light
                yield Check(CONFIGURATION_STAGE, name, State.FAILED, "valid", repr(exc))
            else:
                yield Check(CONFIGURATION_STAGE, name, State.OK)


def skip_macos() -> Check:
    found = "needs a hardware model, which Apple's catalogue tells: add --online; no image is downloaded"
    return Check(CONFIGURATION_STAGE, _MACOS, State.SKIPPED, "", found)


async def try_macos(host: MacOS) -> Check:
    """Ask Apple's catalogue for the newest hardware model, then build and validate what the driver would for it."""
    queue = Queue("com.agoda.fleet.virtualization.self-check")
    try:
        image = await restore_image.fetch_latest(queue, host)
        with _directory() as directory:
            await queue.run(lambda: _build_macos(image, directory, host), Operation.CONFIGURE)
    except Error as exc:
        return Check(CONFIGURATION_STAGE, _MACOS, State.FAILED, "valid", f"{exc.message} ({exc.reason})")
    except Exception as exc:  # noqa: BLE001 - a fault of ours that a Mac brings to light
        return Check(CONFIGURATION_STAGE, _MACOS, State.FAILED, "valid", repr(exc))
    return Check(CONFIGURATION_STAGE, _MACOS, State.OK)


def _build_macos(image: RestoreImage, directory: MachineDirectory, host: MacOS) -> None:
    platforms.create_auxiliary_storage(directory.aux, image.hardware_model)
    boot = MacOSBoot(hardware_model=image.hardware_model, auxiliary_storage=directory.aux.name)
    memory_bytes = max(image.memory_min_bytes, _GUEST_MEMORY_BYTES)
    plan = _efi(directory, boot=boot, cpus=max(image.cpu_min, 1), memory_bytes=memory_bytes, display=Display())
    situation = Situation(Operation.CONFIGURE, is_macos_guest=True, host=host, is_root=os.geteuid() == 0)
    configuration.build(plan, directory, host, situation, None)


def _plans(host: MacOS) -> Iterator[tuple[str, Callable[[MachineDirectory], MachinePlan]]]:
    yield "a Linux guest (EFI, disk, NAT, serial port, entropy, balloon, vsock)", _efi
    yield "the same with a display", lambda d: _efi(d, display=Display())
    yield "the same with audio", lambda d: _efi(d, audio=Audio.HOST)
    yield "the same with shares", lambda d: _efi(d, shares=_shares(d))
    if host >= MacOS(14):
        yield "the same, to be saved and restored", lambda d: _efi(d, suspendable=True)


def _efi(directory: MachineDirectory, **options: object) -> MachinePlan:
    disk = directory.path / "disk.img"
    with disk.open("wb") as file:
        file.truncate(_DISK_BYTES)
    plan = MachinePlan(
        boot=EFIBoot(variable_store="efi.vars"),
        cpus=1,
        memory_bytes=_GUEST_MEMORY_BYTES,
        disks=(Disk(path=disk.name),),
        mac=_MAC,
    )
    return _with(plan, **options)


def _with(plan: MachinePlan, **options: object) -> MachinePlan:
    return msgspec.structs.replace(plan, **options)


def _shares(directory: MachineDirectory) -> tuple[FileSystemShare, ...]:
    shared = directory.path / "shared"
    shared.mkdir()
    return (
        FileSystemShare(tag="single", directories=(SharedDirectory(path=str(shared)),)),
        FileSystemShare(
            tag=AUTOMOUNT_TAG, directories=(SharedDirectory(path=str(shared), name="one", read_only=True),)
        ),
    )


@contextlib.contextmanager
def _directory() -> Iterator[MachineDirectory]:
    with tempfile.TemporaryDirectory(prefix="vz-self-check-") as path:
        yield MachineDirectory(Path(path).resolve())


def _situation(host: MacOS) -> Situation:
    return Situation(Operation.CONFIGURE, is_macos_guest=False, host=host, is_root=os.geteuid() == 0)


# --- A guest ---------------------------------------------------------------------------------------------------------


async def try_guest(kernel: Path) -> list[Check]:
    """Boot a Linux kernel and wait for its first words on the serial console; then stop it.

    `kernel` is an uncompressed Image; ``initrd`` (or ``KERNEL.initrd``) and ``cmdline`` beside it are used where they
    exist. A directory stands for the ``kernel`` inside it.
    """
    if kernel.is_dir():
        kernel = kernel / "kernel"
    with _directory() as directory:
        async with _session(_kernel_plan(kernel, directory), directory) as session:
            answer = await session.handle(protocol.Start(id=1))
            if isinstance(answer.reply, protocol.Failed):
                fault = answer.reply.fault
                found = f"{fault.message} ({fault.reason or fault.kind})"
                return [Check(GUEST_STAGE, "start", State.FAILED, "a running guest", found)]
            checks = [Check(GUEST_STAGE, "start", State.OK)]
            words = await _first_words(directory.console)
            checks.append(
                Check(GUEST_STAGE, "serial console", State.OK)
                if words
                else Check(GUEST_STAGE, "serial console", State.FAILED, "output", f"none in {_GUEST_WORDS_S:.0f} s")
            )
            await session.kill()
            fault_text = session.end.fault if session.end is not None else "the machine does not end"
            state = State.FAILED if fault_text else State.OK
            return [*checks, Check(GUEST_STAGE, "stop", state, "", fault_text)]


def _kernel_plan(kernel: Path, directory: MachineDirectory) -> MachinePlan:
    beside = (kernel.with_name(f"{kernel.name}.initrd"), kernel.with_name("initrd"))
    ramdisk = next((str(path.resolve()) for path in beside if path.is_file()), "")
    command_line = kernel.with_name("cmdline")
    text = command_line.read_text().strip() if command_line.is_file() else _COMMAND_LINE
    boot = KernelBoot(kernel=str(kernel.resolve()), initial_ramdisk=ramdisk, command_line=text)
    return _with(_efi(directory), boot=boot)


@contextlib.asynccontextmanager
async def _session(plan: MachinePlan, directory: MachineDirectory) -> AsyncIterator[Session]:
    session = Session(plan, directory, None)
    try:
        yield session
    finally:
        await session.kill()
        await session.ended.wait()  # how it ended is written by then, into a directory that is about to be removed
        await session.drain(5.0)


async def _first_words(console: Path) -> bytes:
    """What the guest wrote first; empty when it stays silent."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_GUEST_WORDS_S):
            while True:
                if console.is_file() and (words := console.read_bytes()):
                    return words
                await asyncio.sleep(0.2)
    return b""


def host() -> MacOS:
    """Raises Unsupported."""
    return apple.supported_host()
