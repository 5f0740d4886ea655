"""What the framework runs on this host, asked in a process of its own (``python -m …capabilities`` prints it).

The daemon starts other programs all its life, which no process may do once Objective-C is loaded in it.
"""

import subprocess
import sys

import msgspec

from vzkubelet.errors import Error, MachineFault, clip
from vzkubelet.machines.vz import apple
from vzkubelet.machines.vz.availability import MacOS
from vzkubelet.machines.vz.launch import Interpreter
from vzkubelet.machines.vz.protocol import Fault

_ASK_S = 60.0
"""Loading the frameworks takes a second on a quiet host."""


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    version: tuple[int, int]
    """Of macOS."""
    cpu_min: int
    cpu_max: int
    memory_min_bytes: int
    memory_max_bytes: int
    nested: bool = False
    """Linux guests may run virtual machines."""


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the process prints: one of the two."""

    capabilities: Capabilities | None = None
    fault: Fault | None = None


def measured() -> Capabilities:
    """Of this host, in this process. Raises Unsupported."""
    host = apple.supported_host()
    virtualization = apple.frameworks().Virtualization
    configuration = virtualization.VZVirtualMachineConfiguration
    nested = False
    if host >= MacOS(15):
        nested = bool(virtualization.VZGenericPlatformConfiguration.isNestedVirtualizationSupported())
    return Capabilities(
        version=(host.major, host.minor),
        cpu_min=int(configuration.minimumAllowedCPUCount()),
        cpu_max=int(configuration.maximumAllowedCPUCount()),
        memory_min_bytes=int(configuration.minimumAllowedMemorySize()),
        memory_max_bytes=int(configuration.maximumAllowedMemorySize()),
        nested=nested,
    )


def ask(interpreter: Interpreter) -> Capabilities:
    """Of this host, in a process of its own, which takes about a second. Raises: Unsupported, MachineFault."""
    try:
        done = interpreter.run("vzkubelet.machines.vz.capabilities", timeout_s=_ASK_S)
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise MachineFault(f"cannot ask Virtualization.framework what it runs: {clip(str(exc))}") from exc
    try:
        answer = msgspec.json.decode(done.stdout, type=Answer)
    except msgspec.DecodeError as exc:
        words = clip(done.stderr.decode(errors="replace")[-1000:]) or f"exit status {done.returncode}"
        raise MachineFault(f"{interpreter.executable} cannot load Virtualization.framework: {words}") from exc
    if answer.fault is not None:
        raise answer.fault.error()
    if answer.capabilities is None:
        raise MachineFault("Virtualization.framework was asked what it runs, and the answer was empty")
    return answer.capabilities


def main() -> None:
    try:
        answer = Answer(capabilities=measured())
    except Error as exc:
        answer = Answer(fault=Fault.of(exc))
    sys.stdout.buffer.write(msgspec.json.encode(answer))


if __name__ == "__main__":
    main()
