"""Every planted problem of a Mac is found, alone, and with the command that mends it."""

import plistlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.recorded_host import RecordedHost
from tests.unit.host.hosts_support import APP, DAY, certificate_pem, change, key_pem, mac, only, wrong
from vzkubelet.errors import Forbidden, Unavailable
from vzkubelet.host import apple_system, doctor
from vzkubelet.host.finding import Severity
from vzkubelet.host.probe import TIMED_OUT, DiskRoom, OpenFiles, Output
from vzkubelet.host.service.place import LABEL
from vzkubelet.host.signing import bundle
from vzkubelet.host.subject import Cluster, Subject

VERSION = "SYSTEM_VERSION_COMPAT=0 sw_vers -productVersion"
KEYCHAIN = "security show-keychain-info /Users/ci/Library/Keychains/login.keychain-db"
ENTITLEMENTS = f"codesign -d --entitlements - --xml {APP}"
SHARING = Path("/Library/Preferences/SystemConfiguration/com.apple.InternetSharing.default.plist")
JOB = f"launchctl print gui/501/{LABEL}"
LOG = Path("/Users/ci/Library/Logs/macos-vz-kubelet.log")
FIREWALL = "/usr/libexec/ApplicationFirewall/socketfilterfw"
Plant = Callable[[RecordedHost], object]


def test_a_healthy_mac_has_nothing_wrong() -> None:
    host, subject = mac()
    assert wrong(host, subject) == []
    checked = {finding.check for finding in doctor.examine(host, subject)}
    assert checked >= {"macos-version", "helper-app", "keychain", "disk-clones", "serving-certificate", "service"}
    assert not checked & {"acceleration", "inotify", "programs"}


def commands(**answers: str) -> Plant:
    def plant(host: RecordedHost) -> None:
        for line, said in answers.items():
            host.say(line, said)

    return plant


def lose(*paths: Path) -> Plant:
    def plant(host: RecordedHost) -> None:
        for path in paths:
            host.files.pop(path, None)
            host.modes.pop(path, None)

    return plant


def facts(**changes: object) -> Plant:
    return lambda host: setattr(host, "facts", replace(host.facts, **changes))  # type: ignore[arg-type]


def put(path: Path, data: bytes) -> Plant:
    return lambda host: host.files.__setitem__(path, data)


def say(line: str, stdout: str = "", status: int = 0, stderr: str = "") -> Plant:
    return lambda host: host.say(line, stdout, status, stderr)


def answer(**attributes: object) -> Plant:
    def plant(host: RecordedHost) -> None:
        for name, value in attributes.items():
            setattr(host, name, value)

    return plant


def both(*plants: Plant) -> Plant:
    def plant(host: RecordedHost) -> None:
        for one in plants:
            one(host)

    return plant


def sysctl(name: str, value: str) -> Plant:
    return lambda host: host.sysctls.__setitem__(name, value)


def leases(host: RecordedHost) -> None:
    entry = "{\n\tip_address=192.168.64.2\n\tlease=0x%x\n}\n"
    host.files[Path("/var/db/dhcpd_leases")] = (entry % int(host.now + 9)).encode() * 240


def many_gigabytes(number: float) -> DiskRoom:
    return DiskRoom(500 << 30, int(number * (1 << 30)))


BACKGROUND = both(say("launchctl managername", "Background\n"), say("launchctl print gui/501", status=113))
RUNNING_PMSET = "Currently in use:\n Sleep On Power Button 1\n sleep                {}\n autorestart          {}\n"
PROBLEM, WARNING = Severity.PROBLEM, Severity.WARNING
NOW = 1795255200.0
CERTIFICATE = Path("/Users/ci/tls.crt")

PLANTS = [
    # id, plant, check, severity, part of what is told, part of a command that mends it
    ("macOS 12", say(VERSION, "12.7.6\n"), "macos-version", PROBLEM, "macOS 12.7.6", "softwareupdate --install"),
    ("no version", say(VERSION, status=1), "macos-version", WARNING, "does not tell", ""),
    ("Intel", sysctl("hw.optional.arm64", "0"), "architecture", PROBLEM, "Intel processor", "Apple silicon"),
    ("Rosetta", both(sysctl("sysctl.proc_translated", "1"), facts(machine="x86_64")), "architecture", PROBLEM,
     "Rosetta translates", "arch -arm64"),
    ("in a virtual machine", sysctl("kern.hv_support", "0"), "architecture", PROBLEM, "no hypervisor", "physical Mac"),
    ("no bindings", answer(packages={}), "frameworks", PROBLEM, "is not installed", "pip install --upgrade"),
    ("old bindings", answer(packages={"pyobjc-framework-Virtualization": "11.0"}), "frameworks", PROBLEM, "too old",
     "pip install --upgrade"),
    ("no app", lose(APP / bundle.EXECUTABLE), "helper-app", PROBLEM, "no signed app", "macos-vz-kubelet sign"),
    ("broken signature", say(f"codesign --verify --strict {APP}", status=1, stderr="a sealed resource is missing"),
     "helper-app", PROBLEM, "sealed resource is missing", "macos-vz-kubelet sign"),
    ("not entitled", say(ENTITLEMENTS, plistlib.dumps({}).decode()), "helper-app", PROBLEM,
     "without com.apple.security.virtualization", "macos-vz-kubelet sign"),
    ("unsigned", say(ENTITLEMENTS), "helper-app", PROBLEM, "without com.apple", "macos-vz-kubelet sign"),
    ("app of another Python", facts(python="3.13.1"), "helper-app", WARNING, "holds Python 3.12.8",
     "macos-vz-kubelet sign"),
    ("app of somebody else", lose(APP / bundle.RECORD), "helper-app", WARNING, "not made by this version",
     "macos-vz-kubelet sign"),
    ("nobody at the screen", BACKGROUND, "session", PROBLEM, "not logged in at the screen", "sysadminctl -autologin"),
    ("no auto-login", say("defaults read /Library/Preferences/com.apple.loginwindow autoLoginUser", status=1),
     "auto-login", WARNING, "nobody is logged in automatically", "sysadminctl -autologin set -userName ci"),
    ("auto-login of another", say("defaults read /Library/Preferences/com.apple.loginwindow autoLoginUser", "bob\n"),
     "auto-login", WARNING, "bob is logged in", "-userName ci"),
    ("auto-login by halves", lose(Path("/etc/kcpassword")), "auto-login", WARNING, "no password for it",
     "in Terminal at the screen"),
    ("FileVault", say("fdesetup status", "FileVault is On.\n"), "filevault", WARNING, "FileVault is on",
     "sudo fdesetup disable"),
    ("locked keychain", say(KEYCHAIN, status=36, stderr="User interaction is not allowed."), "keychain", PROBLEM,
     "is locked", "security unlock-keychain"),
    ("keychain asks", say(KEYCHAIN, status=TIMED_OUT), "keychain", PROBLEM, "asks for a password",
     "security unlock-keychain"),
    ("keychain times out", say(KEYCHAIN, stderr='Keychain "x" lock-on-sleep timeout=300s\n'), "keychain", WARNING,
     "locks itself after 300 s", "security set-keychain-settings"),
    ("no keychain", lose(Path("/Users/ci/Library/Keychains/login.keychain-db")), "keychain", PROBLEM,
     "no login keychain", "security create-keychain"),
    ("sleeps", say("pmset -g", RUNNING_PMSET.format("1 (sleep prevented by powerd)", 1)), "sleep", PROBLEM,
     "sleeps after 1 min", "sudo pmset -a sleep 0"),
    ("stays off", say("pmset -g", RUNNING_PMSET.format(0, 0)), "sleep", WARNING, "stays off after a power failure",
     "sudo pmset -a autorestart 1"),
    ("pmset fails", say("pmset -g", status=1), "sleep", WARNING, "does not tell", ""),
    ("guest out of reach", put(LOG, b"WARNING connect 192.168.64.2: [Errno 65] No route to host\n"), "local-network",
     PROBLEM, "out of reach", "AllowedEthernetLocalNetworkAddresses -array 192.168.64.0/24"),
    ("no usage text", put(APP / bundle.INFO_PLIST, plistlib.dumps({"CFBundleName": "x"})), "local-network", WARNING,
     "no app that macOS could ask about", "macos-vz-kubelet sign"),
    ("entitlements are nonsense", say(ENTITLEMENTS, "<plist"), "helper-app", PROBLEM, "without com.apple",
     "macos-vz-kubelet sign"),
    ("nonsense about leases", put(SHARING, b"<plist><"), "dhcp-leases", WARNING, "86400 s", "DHCPLeaseTimeSecs"),
    ("firewall", say(f"{FIREWALL} --getglobalstate", "Firewall is enabled. (State = 1)\n"), "firewall", WARNING,
     "does not know macos-vz-kubelet.app", "socketfilterfw --add '/Users/ci/Library"),
    ("default lease time", lose(SHARING), "dhcp-leases", WARNING, "86400 s", "DHCPLeaseTimeSecs -int 600"),
    ("leases run out", leases, "dhcp-leases", WARNING, "240 of 253", "DHCPLeaseTimeSecs -int 600"),
    ("disk full", answer(disk_room=many_gigabytes(3)), "disk-space", PROBLEM, "3.0 GiB", "image ls"),
    ("disk nearly full", answer(disk_room=many_gigabytes(50)), "disk-space", WARNING, "50.0 GiB", "image ls"),
    ("no Docker", answer(docker=Unavailable("no Docker engine answers")), "docker", WARNING, "no Docker engine",
     "colima start"),
    ("Docker refuses", answer(docker=Forbidden("no permission")), "docker", WARNING, "no permission", "usermod"),
    ("clock behind", answer(server_clock=NOW + 300), "clock", PROBLEM, "300 s behind", "sudo sntp -sS"),
    ("clock a little ahead", answer(server_clock=NOW - 12), "clock", WARNING, "12 s ahead", "sudo sntp -sS"),
    ("no clock", answer(server_clock=Unavailable("no answer")), "clock", WARNING, "no answer", ""),
    ("serving certificate expired", put(CERTIFICATE, certificate_pem(NOW, ends=-DAY)),
     "serving-certificate", PROBLEM, "expired on 2026-11-20", "certify serving kubelet-serving"),
    ("serving certificate expires", put(CERTIFICATE, certificate_pem(NOW, begins=-360 * DAY, ends=3 * DAY)),
     "serving-certificate", WARNING, "expires on 2026-11-24", "install -m 600 serving.key /Users/ci/tls.key"),
    ("serving certificate of tomorrow", put(CERTIFICATE, certificate_pem(NOW, begins=DAY)),
     "serving-certificate", PROBLEM, "not valid before", "date -u"),
    ("serving certificate is none", put(CERTIFICATE, b"nonsense"), "serving-certificate", PROBLEM,
     "not a PEM certificate", 'docs/macos.md, section "A node"'),
    ("serving certificate lost", lose(CERTIFICATE), "serving-certificate", PROBLEM, "cannot read", "ls -l"),
    ("key of another", put(Path("/Users/ci/tls.key"), key_pem(1)), "serving-certificate", PROBLEM, "is not the key of",
     "certify serving"),
    ("key with a passphrase", put(Path("/Users/ci/tls.key"), key_pem(passphrase=b"x")), "serving-certificate", PROBLEM,
     "the key /Users/ci/tls.key is encrypted; the agent needs it without a passphrase", "openssl pkey -in"),
    ("key is none", put(Path("/Users/ci/tls.key"), b"x"), "serving-certificate", PROBLEM, "tls.key is not a PEM key",
     "certify serving"),
    ("address of nobody", answer(taken_port="can't assign requested address"), "port", PROBLEM,
     "0.0.0.0 is not an address of this host (--bind-address)", "--bind-address"),
    ("port of root", answer(taken_port="permission denied"), "port", PROBLEM, "root's alone", "--kubelet-port 10250"),
    ("port taken", answer(taken_port="address already in use"), "port", PROBLEM, "address already in use",
     "lsof -nP -iTCP:10250"),
    ("job not loaded", say(JOB, status=113, stderr="Could not find service"), "service", PROBLEM, "has not loaded it",
     "launchctl bootstrap gui/501"),
    ("job crashes", say(JOB, "x = {\n\tstate = spawn scheduled\n\truns = 9\n\tlast exit code = 78: EX_CONFIG\n}\n"),
     "service", PROBLEM, "78 (EX_CONFIG)", "launchctl kickstart"),
    ("trouble in the log", put(LOG, b"INFO fine\n2026-11-21 ERROR lost a pod\n"), "service-log", WARNING, "lost a pod",
     "tail -n 50"),
]  # fmt: skip


@pytest.mark.parametrize(("plant", "check", "severity", "what", "fix"), [case[1:] for case in PLANTS],
                         ids=[case[0] for case in PLANTS])  # fmt: skip
def test_a_planted_problem_is_told_alone_with_its_fix(
    plant: Plant, check: str, severity: Severity, what: str, fix: str
) -> None:
    host, subject = mac()
    plant(host)
    found = only(wrong(host, subject))
    assert (found.check, found.severity) == (check, severity)
    assert what in found.what
    assert found.why
    assert fix in "\n".join(found.fix)


CLUSTERS = [
    (Cluster(kubeconfig_fault="kubeconfig x: not YAML"), "kubeconfig", "not YAML", "docs/macos.md"),
    (Cluster("https://x", b"", "", access_fault="connection refused"), "api-server", "connection refused", "whoami"),
    (Cluster("https://x", b"", "system:node:other"), "api-server", "node other", "--nodename other"),
    (Cluster("https://x", b"", "admin"), "api-server", '"admin"',
     "certify node kube-apiserver-client-kubelet 'client auth'"),
    (Cluster("https://x", certificate_pem(NOW, ends=-DAY), "system:node:node-1"), "client-certificate", "expired",
     "set-credentials node --client-certificate node.crt"),
    (Cluster("https://x", certificate_pem(NOW), "", pair_fault="[X509: KEY_VALUES_MISMATCH] key values mismatch"),
     "client-certificate", "is not the key of its client certificate", "certify node"),
    (Cluster("https://x", b"", access_fault="certificate verify failed: unable to get local issuer certificate"),
     "api-server", "the certificate-authority in /Users/ci/node.kubeconfig is not the one of https://x", "set-cluster"),
]  # fmt: skip


@pytest.mark.parametrize(("cluster", "check", "what", "fix"), CLUSTERS)
def test_trouble_with_the_cluster_is_told(cluster: Cluster, check: str, what: str, fix: str) -> None:
    host, subject = mac()
    found = only(wrong(host, change(subject, cluster=cluster)))
    assert (found.check, found.severity) == (check, Severity.PROBLEM)
    assert what in found.what
    assert fix in "\n".join(found.fix)


def test_a_certificate_of_another_node_is_read_without_any_server() -> None:
    host, subject = mac()
    cluster = Cluster("https://x", certificate_pem(NOW, name="system:node:other"), access_fault="connection refused")
    found = [entry for entry in wrong(host, change(subject, cluster=cluster)) if entry.check == "client-certificate"]
    assert only(found).fix == ("macos-vz-kubelet --nodename other",)
    assert '"system:node:other", not of system:node:node-1' in found[0].what


@pytest.mark.parametrize("names", [(), ("node-1",), ("node-1", "10.0.0.8")])
def test_a_serving_certificate_without_the_nodes_address_is_told(names: tuple[str, ...]) -> None:
    host, subject = mac()
    host.files[CERTIFICATE] = certificate_pem(NOW, names=names)
    found = only(wrong(host, change(subject, address="10.0.0.7")))
    assert (found.check, found.severity) == ("serving-certificate", PROBLEM)
    assert "not for this node's address 10.0.0.7" in found.what
    assert "NODE=node-1 IP=10.0.0.7" in found.fix
    host.files[CERTIFICATE] = certificate_pem(NOW, names=(*names, "10.0.0.7"))
    assert wrong(host, change(subject, address="10.0.0.7")) == []


def test_only_a_kubeconfig_that_is_there_can_be_viewed() -> None:
    host, subject = mac()
    broken = change(subject, cluster=Cluster(kubeconfig_fault="kubeconfig x: not YAML"))
    assert "config view" not in "".join(only(wrong(host, broken)).fix)
    host.files[subject.config.kube.kubeconfig] = b"["
    assert "config view" in only(wrong(host, broken)).fix[0]


def test_a_cache_that_the_agent_refuses_is_told() -> None:
    host, subject = mac()
    found = only(wrong(host, change(subject, cache_obstacle="--cache-dir: cannot use /x/node: Not a directory")))
    assert (found.check, found.severity, "--cache-dir" in found.fix[0]) == ("cache-directory", PROBLEM, True)


def test_the_password_of_an_engine_is_not_shown() -> None:
    host, subject = mac(docker_host="tcp://user:topsecret@h:1")
    assert "topsecret" not in "".join(finding.what for finding in doctor.examine(host, subject))


def test_macos_26_that_calls_itself_16_is_26() -> None:
    host, subject = mac(vz_network="vmnet-shared")
    assert only(wrong(host, subject)).check == "bridge"
    host.say(VERSION, "16.0\n")
    assert apple_system.macos_version(host) == (26, 0)
    assert wrong(host, subject) == []


def test_a_certificate_for_a_day_is_not_late_from_the_start() -> None:
    host, subject = mac()
    host.files[CERTIFICATE] = certificate_pem(NOW, begins=-DAY / 4, ends=DAY * 3 / 4)
    assert wrong(host, subject) == []


def test_the_keychain_cannot_be_judged_from_ssh_while_somebody_is_at_the_screen() -> None:
    host, subject = mac()
    host.say("launchctl managername", "Background\n")
    host.say(KEYCHAIN, status=36)
    found = only(wrong(host, subject))
    assert (found.check, found.severity) == ("keychain", Severity.WARNING)


def test_a_locked_keychain_is_no_problem_before_macos_15() -> None:
    host, subject = mac()
    host.say(VERSION, "14.7\n")
    host.say(KEYCHAIN, status=36)
    assert only(wrong(host, subject)).severity is Severity.WARNING


def test_root_cannot_hold_guests() -> None:
    host, subject = mac()
    host.facts = replace(host.facts, uid=0)
    assert "session" in {finding.check for finding in wrong(host, subject) if finding.severity is Severity.PROBLEM}


def test_a_firewall_that_knows_the_app_lets_it_in() -> None:
    host, subject = mac()
    host.say(f"{FIREWALL} --getglobalstate", "Firewall is enabled. (State = 1)\n")
    host.say(f"{FIREWALL} --listapps", f"1 : {APP}\n ( Allow incoming connections )\n")
    assert wrong(host, subject) == []


def bridged(host: RecordedHost, entitled: bool) -> None:
    keys = {"com.apple.security.virtualization": True, **({"com.apple.vm.networking": True} if entitled else {})}
    host.commands[ENTITLEMENTS] = Output(0, plistlib.dumps(keys).decode())
    host.usable.add(Path("/dev/bpf0"))


def test_bridging_needs_the_grant_of_apple() -> None:
    host, subject = mac(VZ_BRIDGE_INTERFACE="en0")
    bridged(host, entitled=False)
    found = only(wrong(host, subject))
    assert found.check == "helper-app"
    assert "--entitlement com.apple.vm.networking --provisioning-profile" in found.fix[0]
    bridged(host, entitled=True)
    assert wrong(host, subject) == []


def test_bridging_needs_the_interface() -> None:
    host, subject = mac(VZ_BRIDGE_INTERFACE="en7")
    bridged(host, entitled=True)
    found = only(wrong(host, subject))
    assert (found.check, found.severity) == ("bridge", Severity.PROBLEM)
    assert "en0, en1, en2, vlan0" in found.what


def test_bridged_guests_are_found_sooner_with_packets() -> None:
    host, subject = mac(VZ_BRIDGE_INTERFACE="vlan0")
    bridged(host, entitled=True)
    host.usable.clear()
    assert only(wrong(host, subject)).check == "packet-capture"


@pytest.mark.parametrize(("mode", "missing", "sudo", "healthy"), [
    (0o104755, False, False, True), (0o100755, False, False, False), (0o100755, False, True, True),
    (0o104755, True, False, False),
])  # fmt: skip
def test_a_packet_filter_needs_rights(mode: int, missing: bool, sudo: bool, healthy: bool) -> None:
    host, subject = mac(VZ_PACKET_FILTER="softnet --vm-fd {fd} --vm-mac-address {mac}")
    host.modes[Path("/opt/homebrew/bin/softnet")] = (mode, 0)
    if missing:
        host.programs.clear()
    if sudo:
        host.say("sudo -n /opt/homebrew/bin/softnet --help")
    found = wrong(host, subject)
    assert [finding.check for finding in found] == ([] if healthy else ["packet-filter"])


@pytest.mark.parametrize(("command", "asked"), [
    ("sudo softnet", "sudo -n /opt/homebrew/bin/softnet --help"),
    ("sudo -n softnet --allow=10.0.0.0/8", "sudo -n /opt/homebrew/bin/softnet --help"),
    ("sudo -u root -- softnet", "sudo -n -u root -- /opt/homebrew/bin/softnet --help"),
])  # fmt: skip
def test_sudo_before_a_packet_filter_is_no_right_of_the_filter(command: str, asked: str) -> None:
    """sudo itself is set-user-ID, which says nothing."""
    host, subject = mac(VZ_PACKET_FILTER=command)
    host.programs["sudo"] = "/usr/bin/sudo"
    host.modes[Path("/usr/bin/sudo")] = (0o104755, 0)
    host.modes[Path("/opt/homebrew/bin/softnet")] = (0o100755, 501)
    found = only(wrong(host, subject))
    assert found.check == "packet-filter"
    assert any("NOPASSWD: /opt/homebrew/bin/softnet" in fix for fix in found.fix)
    host.say(asked)
    assert wrong(host, subject) == []


def test_a_packet_filter_without_a_program_is_told() -> None:
    host, subject = mac(VZ_PACKET_FILTER="sudo -n")
    assert only(wrong(host, subject)).check == "packet-filter"


def test_clones_need_apfs() -> None:
    host, subject = mac(cache_dir="/Volumes/vm/cache")
    host.modes[Path("/Volumes/vm")] = (0o40755, 0)
    found = only(wrong(host, subject))
    assert (found.check, found.severity) == ("disk-clones", Severity.WARNING)
    assert "exfat" in found.what


def test_the_port_may_be_the_agents_own() -> None:
    host, subject = mac()
    host.taken_port = "address already in use"
    lock = subject.config.cache_dir / "node/lock"
    host.files[lock] = b"612"
    host.say(f"df -P {lock.parents[1]}", host.commands["df -P /Users/ci/Library"].stdout)
    assert wrong(host, subject) == []
    host.files[lock] = b"613"  # of an agent that is gone
    assert only(wrong(host, subject)).check == "port"


def test_without_a_service_the_shell_counts() -> None:
    host, subject = mac()
    del host.files[subject.service.definition]
    assert {finding.check for finding in wrong(host, subject)} == {"service", "open-files"}
    host.limits = OpenFiles(65536, -1)
    assert [finding.check for finding in wrong(host, subject)] == ["service"]


def test_without_a_cluster_nothing_of_it_is_looked_at() -> None:
    host, subject = mac()
    alone = change(subject, cluster=None)
    host.limits = OpenFiles(65536, -1)
    assert {finding.check for finding in doctor.examine(host, alone)}.isdisjoint(
        {"kubeconfig", "api-server", "clock", "serving-certificate", "port", "service"}
    )


def test_mistakes_of_the_configuration_come_first() -> None:
    host, subject = mac()
    mistakes = ("VZ_SSH_USER is not set: login of the guests.", '--kubelet-port: "x" is not a whole number')
    first, second, *_ = doctor.examine(host, change(subject, mistakes=mistakes))
    assert (first.check, first.fix) == ("configuration", ("export VZ_SSH_USER=…",))
    assert second.severity is Severity.PROBLEM


def test_a_check_that_fails_is_a_finding_and_stops_no_other() -> None:
    def broken(_: object, __: Subject) -> list[object]:
        raise PermissionError(13, "Permission denied")

    host, subject = mac()
    checks = [doctor.Check("broken", broken), *doctor.CHECKS]  # type: ignore[arg-type]
    found = doctor.examine(host, subject, checks)
    assert (found[0].check, found[0].severity) == ("broken", Severity.WARNING)
    assert len(found) > 10
