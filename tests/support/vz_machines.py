"""Machines of the vz helper for tests: their directories and plans, and helpers that run on a double's Mac."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from tests.support.apple_double import MacHost, hardware_model_data, machine_identifier_data
from vzkubelet.errors import Unavailable
from vzkubelet.machines.directory import MachineDirectory
from vzkubelet.machines.vz import plan as plans
from vzkubelet.machines.vz.client import Client
from vzkubelet.machines.vz.plan import MIB, Disk, EFIBoot, Identity, KernelBoot, MachinePlan, MacOSBoot
from vzkubelet.machines.vz.protocol import End

MAC = "02:00:00:00:00:01"
DISK_BYTES = 1024 * 1024
_EXIT_S = 20.0


def machine_directory(root: Path, uid: str = "pod-1") -> MachineDirectory:
    """A directory with a disk and auxiliary storage of no particular hardware model."""
    directory = MachineDirectory(root / "machines" / uid)
    directory.path.mkdir(parents=True)
    for path, size in ((directory.disk_raw, DISK_BYTES), (directory.aux, 4096)):
        path.touch()
        os.truncate(path, size)
    return directory


def macos_plan(**changes: Any) -> MachinePlan:
    fields: dict[str, Any] = {
        "boot": MacOSBoot(hardware_model=hardware_model_data(), auxiliary_storage="aux.img"),
        "identity": Identity(machine_id=machine_identifier_data()),
        "cpus": 4,
        "memory_bytes": 4096 * MIB,
        "disks": (Disk(path="disk.img"),),
        "mac": MAC,
    }
    return MachinePlan(**fields | changes)


def efi_plan(**changes: Any) -> MachinePlan:
    return macos_plan(**{"boot": EFIBoot(variable_store="efi.vars"), "identity": Identity()} | changes)


def kernel_plan(directory: MachineDirectory, **changes: Any) -> MachinePlan:
    """Writes a kernel and a RAM disk too."""
    for name in ("vmlinuz", "initrd"):
        (directory.path / name).write_bytes(b"MZ" + name.encode() * 100)
    boot = KernelBoot(kernel="vmlinuz", initial_ramdisk="initrd", command_line="console=hvc0")
    return macos_plan(**{"boot": boot, "identity": Identity()} | changes)


def end_of(directory: MachineDirectory) -> End:
    return msgspec.json.decode(directory.end.read_bytes(), type=End)


@dataclass(frozen=True, slots=True)
class RunningHelper:
    """A helper process and the machine it owns."""

    process: "subprocess.Popen[bytes]"
    directory: MachineDirectory

    async def client(self) -> Client:
        """Raises AssertionError when the helper ended instead of serving."""
        async with asyncio.timeout(_EXIT_S):
            while True:
                assert self.process.poll() is None, self.log()
                with contextlib.suppress(Unavailable):  # not there yet, or left by an earlier helper
                    return await Client.connect(self.directory.helper_socket)
                await asyncio.sleep(0.01)

    async def exit(self) -> int:
        """The exit status. Raises TimeoutError."""
        return await asyncio.to_thread(self.process.wait, _EXIT_S)

    def log(self) -> str:
        return self.directory.helper_log.read_text()


@asynccontextmanager
async def helper(
    host: MacHost, directory: MachineDirectory, plan: MachinePlan | None = None, *options: str
) -> AsyncIterator[RunningHelper]:
    """A helper for as long as the block lasts; it is killed when it still runs then."""
    if plan is not None:
        directory.plan.write_bytes(plans.encode(plan))
    with directory.helper_log.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "vzkubelet.machines.vz.helper", str(directory.path), *options],
            env=host.environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        yield RunningHelper(process, directory)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        await asyncio.to_thread(process.wait)
