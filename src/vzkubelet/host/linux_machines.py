"""What QEMU guests need of a Linux host."""

import shlex
from collections.abc import Iterator
from pathlib import Path

from vzkubelet.config import GuestNetwork
from vzkubelet.host.finding import Finding, ok, problem, warning
from vzkubelet.host.probe import Probe
from vzkubelet.host.subject import Program, Subject

_TUN = Path("/dev/net/tun")
_KVM = Path("/dev/kvm")
_KVM_WHY = "guests are emulated (TCG): they start in seconds instead of at once, and compute some ten times slower"


def programs(probe: Probe, subject: Subject) -> Iterator[Finding]:
    missing = [program for program in subject.programs if not _installed(probe, program)]
    for program in missing:
        (severity, why) = (problem, "no machine starts") if program.required else (warning, "it is done without")
        yield severity(
            "programs",
            f"{program.name} is not installed: {program.purpose}",
            why,
            f"sudo apt-get install {program.package}",
        )
    there = [program.name for program in subject.programs if program not in missing]
    if there:
        yield ok("programs", f"installed: {', '.join(there)}")


def acceleration(probe: Probe, subject: Subject) -> Iterator[Finding]:
    if subject.acceleration is None:
        return
    if subject.acceleration.works:
        yield ok("acceleration", f"KVM works: {subject.acceleration.reason}")
        return
    fixes: tuple[str, ...]
    if probe.status(_KVM) is None:
        fixes = (
            "sudo modprobe kvm_intel || sudo modprobe kvm_amd",
            "# in a virtual machine: switch nested virtualization on; on a PC: VT-x or AMD-V in the firmware",
        )
    elif not probe.can_use(_KVM):
        fixes = (f"sudo usermod -aG kvm {probe.facts.user}   # then log in again",)
    elif "vmx" in subject.acceleration.reason:
        fixes = ("# in a virtual machine: switch nested virtualization on; on a PC: VT-x or AMD-V in the firmware",)
    else:
        fixes = ("sudo dmesg | grep -i kvm",)
    yield warning("acceleration", f"KVM does not work: {subject.acceleration.reason}", _KVM_WHY, *fixes)


def guest_network(probe: Probe, subject: Subject) -> Iterator[Finding]:
    wanted = subject.config.machines.network
    if wanted is GuestNetwork.USER:
        yield ok("guest-network", "guests have a user network; pods have no address of their own")
        return
    obstacle, fix = _bridge_obstacle(probe, subject)
    if not obstacle:
        yield ok("guest-network", "guests and side-cars share a bridge")
    elif wanted is GuestNetwork.BRIDGE:
        yield problem("guest-network", f"no bridge can be made: {obstacle}", "the agent refuses to start", fix)
    else:
        yield warning(
            "guest-network",
            f"guests get a user network: {obstacle}",
            "pods have no address that others can reach; only exec, logs and port-forward work",
            fix,
        )


def _bridge_obstacle(probe: Probe, subject: Subject) -> tuple[str, str]:
    if probe.facts.uid != 0:
        return "the agent is not root", f"sudo {shlex.quote(subject.program)} install   # a service of the system"
    if probe.status(_TUN) is None:
        return f"there is no {_TUN}", "sudo modprobe tun"
    absent = [(name, package) for name, package in (("ip", "iproute2"), ("dnsmasq", "dnsmasq-base"))
              if probe.which(name) is None]  # fmt: skip
    if absent:
        names = " and ".join(name for name, _ in absent)
        return f"{names} missing", f"sudo apt-get install {' '.join(package for _, package in absent)}"
    return subject.bridge_obstacle, "# in a container: --cap-add NET_ADMIN --device /dev/net/tun"


def _installed(probe: Probe, program: Program) -> bool:
    if program.candidates:
        return any(probe.status(path) is not None for path in program.candidates)
    return probe.which(program.name) is not None
