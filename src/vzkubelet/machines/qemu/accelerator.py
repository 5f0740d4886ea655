"""KVM or TCG: KVM is used only after it ran guest code on this boot of the host.

``/dev/kvm`` may exist and hang whoever uses it, unkillably. So the trial is a QEMU of its own, started apart from the
daemon, that runs a few bytes of machine code and must end in time; one that hangs is left alone and never waited for.
"""

import asyncio
import logging
import os
import signal
import tempfile
from dataclasses import dataclass
from pathlib import Path

import msgspec

from vzkubelet.aio import run_blocking, uninterrupted
from vzkubelet.errors import MachineFault, clip
from vzkubelet.files import write_atomic
from vzkubelet.machines.process import Launch, ProcessRef, boot_id, exit_of, last_words, launch, send_signal

_log = logging.getLogger(__name__)

TRIAL_TIMEOUT_S = 8.0
"""A working KVM needs well under a second for it."""


@dataclass(frozen=True, slots=True)
class Accelerator:
    name: str
    """``kvm`` or ``tcg``."""
    arguments: tuple[str, ...]


KVM = Accelerator("kvm", ("-accel", "kvm", "-cpu", "host"))
_TCG = ("-accel", "tcg,thread=multi,tb-size=128", "-cpu")
"""128 MiB hold the translated code of a booted guest; without a bound it may grow to an eighth of the host's memory."""
TCG = {
    # As `max` in what programs ask for (x86-64-v2, AES, random numbers), and a Debian guest boots in 5.9 s instead of
    # 7.6 s: the kernel keeps fewer mitigations and less state for an older Intel processor.
    "amd64": Accelerator("tcg", (*_TCG, "Nehalem,+aes,+pclmulqdq,+rdrand,+rdseed,+bmi1,+bmi2,+movbe,+adx,+popcnt")),
    "arm64": Accelerator("tcg", (*_TCG, "max")),
}


@dataclass(frozen=True, slots=True)
class TrialGuest:
    """Machine code that ends QEMU by itself, and what its exit status is then."""

    code: bytes
    arguments: tuple[str, ...]
    """``{code}`` stands for the file with the code."""
    exit_status: int


TRIALS = {
    # Boot sector: mov al, 0x11; out 0xf4, al; hlt; jmp back. isa-debug-exit ends QEMU with (value << 1) | 1.
    "amd64": TrialGuest(
        bytes([0xB0, 0x11, 0xE6, 0xF4, 0xF4, 0xEB, 0xFD]).ljust(510, b"\0") + b"\x55\xaa",
        ("-machine", "pc", "-device", "isa-debug-exit,iobase=0xf4,iosize=1",
         "-drive", "if=floppy,format=raw,readonly=on,file={code}"),
        0x11 << 1 | 1,
    ),
    # movz w0, #8; movk w0, #0x8400, lsl #16; hvc #0 (PSCI SYSTEM_OFF); b to itself.
    "arm64": TrialGuest(
        b"".join(word.to_bytes(4, "little") for word in (0x52800100, 0x72B08000, 0xD4000002, 0x14000000)),
        ("-machine", "virt,gic-version=host", "-device", "loader,file={code},addr=0x40000000,cpu-num=0,force-raw=on"),
        0,
    ),
}  # fmt: skip


class KvmVerdict(msgspec.Struct, frozen=True):
    """Kept per boot of the host in the cache directory, so that a hanging trial happens once."""

    boot_id: str
    works: bool
    reason: str


def precondition(architecture: str, device: Path = Path("/dev/kvm"), cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Why KVM cannot work, found without touching it; empty when it is worth a trial."""
    if not device.exists():
        return f"{device} does not exist"
    if not os.access(device, os.R_OK | os.W_OK):
        return f"no permission to use {device}; add the user to the group kvm"
    if architecture == "amd64":
        flags = next((line for line in cpuinfo.read_text().splitlines() if line.startswith("flags")), "")
        if not {"vmx", "svm"} & set(flags.split()):
            return "the processor shows neither vmx nor svm"
    return ""


class KvmProof:
    """Decides once per boot whether KVM works here. `verdict_file` lies in a directory that is kept."""

    def __init__(self, qemu: str, architecture: str, verdict_file: Path, timeout_s: float = TRIAL_TIMEOUT_S) -> None:
        self._qemu = qemu
        self._architecture = architecture
        self._verdict_file = verdict_file
        self._timeout_s = timeout_s
        self._lock = asyncio.Lock()
        self._verdict: KvmVerdict | None = None

    async def accelerator(self) -> Accelerator:
        """KVM if it is proven, else TCG. At most one trial runs; its time is bounded."""
        async with self._lock:
            if self._verdict is None:
                self._verdict = await run_blocking(self._remembered)
            if self._verdict is None:
                self._verdict = await self._prove()
                # A thread that is left writing would leave its staged file behind the cancelled start.
                written = run_blocking(write_atomic, self._verdict_file, msgspec.json.encode(self._verdict))
                await uninterrupted(written, name="KVM verdict")
                _log.info("KVM %s: %s", "works" if self._verdict.works else "is not used", self._verdict.reason)
        return KVM if self._verdict.works else TCG[self._architecture]

    def _remembered(self) -> KvmVerdict | None:
        try:
            verdict = msgspec.json.decode(self._verdict_file.read_bytes(), type=KvmVerdict)
        except (OSError, msgspec.DecodeError):
            return None
        return verdict if verdict.boot_id == boot_id() else None

    async def _prove(self) -> KvmVerdict:
        reason = precondition(self._architecture)
        works = False
        if not reason:
            works, reason = await self._try()
        return KvmVerdict(boot_id(), works, reason)

    async def _try(self) -> tuple[bool, str]:
        trial = TRIALS[self._architecture]
        with tempfile.TemporaryDirectory(prefix="kvm-trial-", dir=self._verdict_file.parent) as name:
            directory = Path(name)
            code, log = directory / "code", directory / "log"
            code.write_bytes(trial.code)
            command = [self._qemu, "-accel", "kvm", "-cpu", "host", "-m", "16", "-display", "none", "-nodefaults",
                       "-no-user-config", *(argument.format(code=code) for argument in trial.arguments)]  # fmt: skip
            try:
                process = launch(Launch(command, directory, "kvm-trial", directory, log))
            except MachineFault as exc:
                return False, str(exc)
            return await self._outcome(process, trial, log)

    async def _outcome(self, process: ProcessRef, trial: TrialGuest, log: Path) -> tuple[bool, str]:
        try:
            async with asyncio.timeout(self._timeout_s):
                status = await exit_of(process)
        except TimeoutError:
            return False, f"a trial guest did not end within {self._timeout_s:g} s"
        finally:
            send_signal(process, signal.SIGKILL)  # never waited for: it may hang in the kernel for ever
        if status == trial.exit_status:
            return True, "a trial guest ran"
        return False, f"a trial guest ended with status {status}: {clip(last_words(log))}"
