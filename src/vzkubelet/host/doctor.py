"""All checks of a host, in the order in which a person would go about it."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from vzkubelet.config import DriverChoice
from vzkubelet.errors import Error, clip
from vzkubelet.host import (
    apple_network,
    apple_session,
    apple_system,
    certificates,
    cluster,
    disks,
    engine,
    linux_machines,
    process_limits,
    service_state,
)
from vzkubelet.host.finding import Finding, Severity, problem, warning
from vzkubelet.host.probe import Probe
from vzkubelet.host.subject import Subject

Examine = Callable[[Probe, Subject], Iterable[Finding]]


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    examine: Examine
    systems: frozenset[str] = frozenset({"darwin", "linux"})
    drivers: frozenset[DriverChoice] = frozenset(DriverChoice)
    in_cluster: bool = False
    """Only where the host joins a cluster."""

    def applies(self, probe: Probe, subject: Subject) -> bool:
        return (
            probe.facts.system in self.systems
            and subject.driver in self.drivers
            and (subject.cluster is not None or not self.in_cluster)
        )


_MAC = frozenset({"darwin"})
_LINUX = frozenset({"linux"})
_VZ = frozenset({DriverChoice.VZ})
_QEMU = frozenset({DriverChoice.QEMU})


def _configuration(_: Probe, subject: Subject) -> Iterable[Finding]:
    why = "the agent refuses to start"
    for mistake in subject.mistakes:
        setting = mistake.partition(" is not set")[0] if " is not set" in mistake else ""
        variable = setting.rpartition("(")[2].rstrip(")")
        fix = f"export {variable}=…" if variable else "macos-vz-kubelet --help   # what each setting takes"
        yield problem("configuration", mistake, why, fix)


def _driver(probe: Probe, subject: Subject) -> Iterable[Finding]:
    if subject.driver is DriverChoice.VZ:
        why, fix = "Virtualization.framework is part of macOS", "macos-vz-kubelet --machine-driver qemu"
    else:
        why, fix = "the agent runs QEMU on Linux only", "macos-vz-kubelet --machine-driver vz"
    yield problem("driver", f"the {subject.driver} driver does not work on {probe.facts.system}", why, fix)


CHECKS: tuple[Check, ...] = (
    Check("configuration", _configuration),
    Check("driver", _driver, _LINUX, _VZ),
    Check("driver", _driver, _MAC, _QEMU),
    Check("macos-version", apple_system.version, _MAC, _VZ),
    Check("architecture", apple_system.architecture, _MAC, _VZ),
    Check("frameworks", apple_system.frameworks, _MAC, _VZ),
    Check("helper-app", apple_system.helper_app, _MAC, _VZ),
    Check("session", apple_session.session, _MAC, _VZ),
    Check("auto-login", apple_session.auto_login, _MAC, _VZ),
    Check("filevault", apple_session.filevault, _MAC),
    Check("keychain", apple_session.keychain, _MAC, _VZ),
    Check("sleep", apple_session.sleep, _MAC),
    Check("local-network", apple_network.local_network, _MAC, _VZ),
    Check("firewall", apple_network.firewall, _MAC, _VZ, in_cluster=True),
    Check("dhcp-leases", apple_network.dhcp_leases, _MAC, _VZ),
    Check("bridge", apple_network.bridge, _MAC, _VZ),
    Check("packet-filter", apple_network.packet_filter, _MAC, _VZ),
    Check("packet-capture", apple_network.packet_capture, _MAC, _VZ),
    Check("programs", linux_machines.programs, _LINUX, _QEMU),
    Check("acceleration", linux_machines.acceleration, _LINUX, _QEMU),
    Check("guest-network", linux_machines.guest_network, _LINUX, _QEMU),
    Check("cache-directory", disks.cache),
    Check("disk-space", disks.space),
    Check("disk-clones", disks.clones),
    Check("docker", engine.docker),
    Check("kubeconfig", cluster.kubeconfig, in_cluster=True),
    Check("api-server", cluster.api_server, in_cluster=True),
    Check("clock", cluster.clock, in_cluster=True),
    Check("client-certificate", certificates.client, in_cluster=True),
    Check("serving-certificate", certificates.serving, in_cluster=True),
    Check("port", cluster.port, in_cluster=True),
    Check("open-files", process_limits.open_files),
    Check("inotify", process_limits.inotify, _LINUX),
    Check("service", service_state.service, in_cluster=True),
    Check("service-log", service_state.log, in_cluster=True),
)


def examine(probe: Probe, subject: Subject, checks: Sequence[Check] = CHECKS) -> list[Finding]:
    """What every check that concerns this host and this agent has found. One that fails is a finding of its own."""
    found: list[Finding] = []
    for check in checks:
        if not check.applies(probe, subject):
            continue
        try:
            found += check.examine(probe, subject)
        except (Error, OSError, ValueError, LookupError) as exc:
            reason = clip(str(exc)) or type(exc).__name__
            found.append(
                warning(check.name, f"could not be checked: {reason}", "what is not known cannot be relied on")
            )
    return found


def worst(findings: Iterable[Finding]) -> Severity:
    order = list(Severity)
    return max((finding.severity for finding in findings), key=order.index, default=Severity.OK)
