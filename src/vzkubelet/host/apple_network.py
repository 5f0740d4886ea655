"""Between guests and their host on a Mac: leases, local network privacy, bridges and packets."""

import re
import stat
from collections.abc import Iterator
from pathlib import Path

from vzkubelet.config import VzNetwork
from vzkubelet.config.packet_filter import SOFTNET, FilterCommand
from vzkubelet.errors import clip
from vzkubelet.host import property_list
from vzkubelet.host.apple_system import macos_version
from vzkubelet.host.finding import Finding, ok, problem, warning
from vzkubelet.host.probe import Probe
from vzkubelet.host.service_state import last_lines
from vzkubelet.host.signing import bundle
from vzkubelet.host.subject import Subject

INTERNET_SHARING = Path("/Library/Preferences/SystemConfiguration/com.apple.InternetSharing.default.plist")
DEFAULT_LEASE_S = 86_400
RECOMMENDED_LEASE_S = 600
TOLERABLE_LEASE_S = 3_600
POOL_SIZE = 253
"""Addresses of the /24 that vmnet hands out."""
POOL_WARNING = 200
_LEASE = re.compile(r"lease=0x([0-9a-fA-F]+)")
_REFUSED = re.compile(r"No route to host|EHOSTUNREACH|Errno 65\b")
_PRIVACY_SINCE = (15,)
_EXEMPTIONS_SINCE = (15, 5)
_VMNET_SINCE = (26,)
FIREWALL = "/usr/libexec/ApplicationFirewall/socketfilterfw"
BPF = Path("/dev/bpf0")
GUEST_NETWORK = "192.168.64.0/24"
PREFERENCES = "com.apple.network.local-network"


def local_network(probe: Probe, subject: Subject) -> Iterator[Finding]:
    """Nothing tells the grant itself: refusals in the log do, and an app that cannot even be asked about."""
    version = macos_version(probe)
    if version is None or version < _PRIVACY_SINCE or probe.facts.uid == 0:
        yield ok("local-network", "local network privacy does not concern this agent")
        return
    why = "macOS 15 and later refuse connections to guests (No route to host) to an app that nobody allowed it"
    refusals = [line for line in last_lines(probe, subject.service.log) if _REFUSED.search(line)]
    allow = "# System Settings > Privacy & Security > Local Network: switch macos-vz-kubelet on"
    if refusals:
        fixes = [allow]
        if version >= _EXEMPTIONS_SINCE:
            fixes += [
                f"sudo defaults write {PREFERENCES} {key} -array {GUEST_NETWORK}"
                for key in ("AllowedEthernetLocalNetworkAddresses", "AllowedWiFiLocalNetworkAddresses")
            ]
            fixes.append("sudo shutdown -r now   # these two are for every program, and count after a restart")
        yield problem("local-network", f"a guest was out of reach: {clip(refusals[-1], 120)}", why, *fixes)
        return
    try:
        info = property_list.parse(probe.read(subject.config.vz.helper_app / bundle.INFO_PLIST))
    except (OSError, ValueError):
        info = {}
    if not info.get("NSLocalNetworkUsageDescription"):
        yield warning(
            "local-network",
            "there is no app that macOS could ask about",
            why,
            "macos-vz-kubelet sign",
            allow,
        )
    else:
        yield ok("local-network", "no guest was refused; macOS asks once when the agent first reaches for one")


def firewall(probe: Probe, subject: Subject) -> Iterator[Finding]:
    """The API server dials us. What is not in the list may still be let in when its signature is Apple's to know."""
    state = probe.run([FIREWALL, "--getglobalstate"])
    if "enabled" not in state.stdout:
        yield ok("firewall", "the firewall of macOS is off")
        return
    app = subject.config.vz.helper_app
    if str(app) in probe.run([FIREWALL, "--listapps"]).stdout:
        yield ok("firewall", f"the firewall of macOS knows {app.name}")
    else:
        yield warning(
            "firewall",
            f"the firewall of macOS is on and does not know {app.name}",
            "it may drop what the API server sends: kubectl exec and logs would time out",
            f"sudo {FIREWALL} --add '{app}'",
            f"sudo {FIREWALL} --unblockapp '{app}'",
        )


def dhcp_leases(probe: Probe, subject: Subject) -> Iterator[Finding]:
    if subject.config.machines.bridge_interface:
        yield ok("dhcp-leases", "guests get their addresses from the network that they are bridged to")
        return
    fix = f"sudo defaults write {INTERNET_SHARING} bootpd -dict DHCPLeaseTimeSecs -int {RECOMMENDED_LEASE_S}"
    lease_s = _lease_time(probe)
    active = _active_leases(probe, subject.config.vz.dhcp_leases_file)
    why = f"every new machine takes one of {POOL_SIZE} addresses for that long; when all are taken, no guest gets any"
    if active >= POOL_WARNING:
        yield warning("dhcp-leases", f"{active} of {POOL_SIZE} addresses for guests are taken", why, fix)
    if lease_s > TOLERABLE_LEASE_S:
        yield warning("dhcp-leases", f"guests keep their address for {lease_s} s", why, fix)
    elif active < POOL_WARNING:
        yield ok("dhcp-leases", f"addresses are leased for {lease_s} s, {active} of {POOL_SIZE} are taken")


def _lease_time(probe: Probe) -> int:
    try:
        bootpd = property_list.parse(probe.read(INTERNET_SHARING)).get("bootpd")
    except (OSError, ValueError):
        return DEFAULT_LEASE_S
    lease_s = bootpd.get("DHCPLeaseTimeSecs") if isinstance(bootpd, dict) else None
    return lease_s if isinstance(lease_s, int) else DEFAULT_LEASE_S


def _active_leases(probe: Probe, file: Path) -> int:
    try:
        text = probe.read(file).decode(errors="replace")
    except OSError:
        return 0  # there is none before the first guest
    return sum(int(found[1], 16) > probe.time() for found in _LEASE.finditer(text))


def bridge(probe: Probe, subject: Subject) -> Iterator[Finding]:
    wanted = subject.config.machines.bridge_interface
    if not wanted:
        yield from _vmnet(probe, subject)
        return
    listed = probe.run(["ifconfig", "-l"])
    if wanted in listed.stdout.split():
        yield ok("bridge", f"guests are bridged to {wanted}")
        return
    there = ", ".join(name for name in listed.stdout.split() if name.startswith(("en", "vlan", "bond"))) or "none"
    yield problem(
        "bridge",
        f"there is no interface {wanted}; there are {there}",
        "no machine starts",
        "networksetup -listallhardwareports",
        "export VZ_BRIDGE_INTERFACE=en0",
    )


def _vmnet(probe: Probe, subject: Subject) -> Iterator[Finding]:
    network = subject.config.vz.network
    version = macos_version(probe)
    if network is not VzNetwork.NAT and version is not None and version < _VMNET_SINCE:
        yield problem(
            "bridge",
            f"--vz-network {network} needs macOS 26, this is {'.'.join(map(str, version))}",
            "no machine starts",
            "macos-vz-kubelet --vz-network nat",
        )


def packet_filter(probe: Probe, subject: Subject) -> Iterator[Finding]:
    if not subject.config.vz.packet_filter:
        return
    command = FilterCommand.of(subject.config.vz.packet_filter)
    why = "guests that it is to confine are not started"
    if not command.program:
        yield problem("packet-filter", "sudo is told no program", why, "export VZ_PACKET_FILTER='sudo -n softnet'")
        return
    name = command.program[0]
    program = probe.which(name)
    if program is None:
        fix = "brew install cirruslabs/cli/softnet" if name == SOFTNET else f"ls -l {name}"
        yield problem("packet-filter", f"there is no program {name}", why, fix)
    elif not command.is_softnet and not command.sudo:
        yield ok("packet-filter", f"{program} is there; what rights it needs is its own affair")
    elif _may_make_networks(probe, command, program):
        yield ok("packet-filter", f"{program} may make networks")
    else:
        user = probe.facts.user
        fixes = [f"echo '{user} ALL=(root) NOPASSWD: {program}' | sudo tee /etc/sudoers.d/packet-filter"]
        if command.is_softnet and not command.sudo:
            fixes.insert(0, f"sudo chown root {program} && sudo chmod u+s {program}   # or:")
        yield problem("packet-filter", f"{program} has no right to make networks", why, *fixes)


def _may_make_networks(probe: Probe, command: FilterCommand, program: Path) -> bool:
    """softnet without rights starts itself again by ``sudo -n``; sudo in the command has to do without a terminal."""
    found = probe.status(program)
    is_privileged = found is not None and found.uid == 0 and bool(found.mode & stat.S_ISUID)
    if not command.sudo and (is_privileged or probe.facts.uid == 0):
        return True
    sudo = command.sudo or ("sudo",)
    before, after = (sudo[:-1], sudo[-1:]) if sudo[-1] == "--" else (sudo, ())
    quiet = () if "-n" in before or "--non-interactive" in before else ("-n",)
    return probe.run([before[0], *quiet, *before[1:], *after, str(program), "--help"]).ok


def packet_capture(probe: Probe, subject: Subject) -> Iterator[Finding]:
    if not subject.config.machines.bridge_interface:
        return  # the host leases the address itself, and knows it
    if probe.can_use(BPF):
        yield ok("packet-capture", "packets may be looked at")
    else:
        yield warning(
            "packet-capture",
            f"{BPF} is not ours to use",
            "the address of a bridged guest is found by ARP only, which takes longer",
            "brew install --cask wireshark-chmodbpf",
            f"sudo dseditgroup -o edit -a {probe.facts.user} -t user access_bpf   # then log in again",
        )
