"""The same for a Linux host that runs QEMU."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.recorded_host import RecordedHost
from tests.unit.host.hosts_support import change, linux, only, wrong
from vzkubelet.config import DriverChoice
from vzkubelet.errors import Forbidden, Unavailable
from vzkubelet.host import disks, doctor
from vzkubelet.host.finding import Severity
from vzkubelet.host.probe import DiskRoom
from vzkubelet.host.subject import Acceleration

UNIT = "systemctl show macos-vz-kubelet.service -p ActiveState -p Result -p MainPID"
PROBLEM, WARNING = Severity.PROBLEM, Severity.WARNING


def test_a_healthy_linux_host_has_nothing_wrong() -> None:
    host, subject = linux()
    assert wrong(host, subject) == []
    checked = {finding.check for finding in doctor.examine(host, subject)}
    assert checked >= {"programs", "acceleration", "guest-network", "inotify", "service"}
    assert not checked & {"keychain", "helper-app", "sleep"}


def not_root(host: RecordedHost) -> None:
    host.facts = replace(host.facts, uid=1000, user="ci")
    host.files[host.facts.home / ".config/systemd/user/macos-vz-kubelet.service"] = b""


PLANTS: list[tuple[Callable[[RecordedHost], object], str, Severity, str, str]] = [
    (lambda host: host.programs.pop("qemu-system-x86_64"), "programs", PROBLEM, "qemu-system-x86_64 is not installed",
     "apt-get install qemu-system-x86"),
    (lambda host: host.modes.pop(Path("/usr/share/OVMF/OVMF_CODE_4M.fd")), "programs", PROBLEM, "UEFI firmware",
     "apt-get install ovmf"),
    (lambda host: host.programs.pop("dnsmasq"), "guest-network", WARNING, "dnsmasq missing", "dnsmasq-base"),
    (lambda host: host.modes.pop(Path("/dev/net/tun")), "guest-network", WARNING, "no /dev/net/tun", "modprobe tun"),
    (not_root, "guest-network", WARNING, "not root", "sudo macos-vz-kubelet install"),
    (lambda host: setattr(host, "disk_room", DiskRoom(1 << 40, 1 << 29)), "disk-space", PROBLEM, "0.5 GiB", "image ls"),
    (lambda host: setattr(host, "docker", Unavailable("no engine")), "docker", WARNING, "no engine", "enable --now"),
    (lambda host: setattr(host, "docker", Forbidden("no permission")), "docker", WARNING, "no permission",
     "usermod -aG docker root"),
    (lambda host: setattr(host, "server_clock", host.now - 100), "clock", PROBLEM, "100 s ahead", "timedatectl"),
    (lambda host: setattr(host, "taken_port", "address already in use"), "port", PROBLEM, "in use", "ss -ltnp"),
    (lambda host: host.files.update({Path("/proc/sys/fs/inotify/max_user_instances"): b"64\n"}), "inotify", WARNING,
     "only 64", "fs.inotify.max_user_instances=512"),
    (lambda host: host.files.pop(Path("/etc/systemd/system/macos-vz-kubelet.service")), "service", WARNING,
     "not installed as a service", "macos-vz-kubelet install"),
    (lambda host: host.say(UNIT, "ActiveState=failed\nResult=exit-code\nMainPID=0\n"), "service", PROBLEM,
     "failed (exit-code)", "journalctl -u macos-vz-kubelet.service"),
    (lambda host: host.commands.clear(), "service", WARNING, "systemd does not answer", ""),
]  # fmt: skip


@pytest.mark.parametrize(("plant", "check", "severity", "what", "fix"), PLANTS)
def test_a_planted_problem_is_told_alone_with_its_fix(
    plant: Callable[[RecordedHost], object], check: str, severity: Severity, what: str, fix: str
) -> None:
    host, subject = linux()
    plant(host)
    found = only(wrong(host, subject))
    assert (found.check, found.severity) == (check, severity)
    assert what in found.what
    assert found.why
    assert fix in "\n".join(found.fix)


@pytest.mark.parametrize(("plant", "reason", "fix"), [
    (lambda host: host.modes.pop(Path("/dev/kvm")), "/dev/kvm does not exist", "modprobe kvm_intel"),
    (lambda host: host.usable.clear(), "no permission", "usermod -aG kvm"),
    (lambda _: None, "the processor shows neither vmx nor svm", "nested virtualization"),
    (lambda _: None, "a trial guest did not end within 8 s", "dmesg"),
])  # fmt: skip
def test_emulation_is_told_with_its_reason(plant: Callable[[RecordedHost], object], reason: str, fix: str) -> None:
    host, subject = linux()
    plant(host)
    found = only(wrong(host, change(subject, acceleration=Acceleration(works=False, reason=reason))))
    assert (found.check, found.severity) == ("acceleration", Severity.WARNING)
    assert reason in found.what
    assert fix in "\n".join(found.fix)


def test_a_bridge_that_was_asked_for_must_be_possible() -> None:
    host, subject = linux(guest_network="bridge")
    host.programs.pop("ip")
    assert only(wrong(host, subject)).severity is Severity.PROBLEM


def test_root_without_the_right_to_make_interfaces_is_told() -> None:
    host, subject = linux()
    found = only(wrong(host, change(subject, bridge_obstacle="no tap interface can be made")))
    assert (found.check, found.fix) == (
        "guest-network",
        ("# in a container: --cap-add NET_ADMIN --device /dev/net/tun",),
    )


def test_the_user_network_needs_no_bridge() -> None:
    host, subject = linux(guest_network="user")
    host.programs.pop("ip")
    assert wrong(host, subject) == []


def test_the_vz_driver_needs_a_mac() -> None:
    host, subject = linux()
    host.disk_room = DiskRoom(1 << 40, 1 << 39)
    found = only(wrong(host, change(subject, driver=DriverChoice.VZ)))
    assert (found.check, found.severity) == ("driver", Severity.PROBLEM)


@pytest.mark.parametrize(
    ("place", "kind"), [("/root/cache", "ext4"), ("/var/lib/vm images/a/b", "xfs"), ("/proc/x", "proc")]
)
def test_the_file_system_of_a_path_that_is_not_there_yet(place: str, kind: str) -> None:
    host, _ = linux()
    assert disks.file_system(host, Path(place)) == kind


def test_nobody_is_told_to_use_a_systemd_that_does_not_run() -> None:
    host, subject = linux()
    host.modes.pop(Path("/run/systemd/system"))
    host.files.pop(Path("/etc/systemd/system/macos-vz-kubelet.service"))
    host.docker = Unavailable("no engine")
    found = wrong(host, change(subject, program="/opt/venv/bin/macos-vz-kubelet"))
    assert {finding.check for finding in found} == {"docker", "service"}
    fixes = "\n".join(fix for finding in found for fix in finding.fix)
    assert "systemctl" not in fixes
    assert "install" not in fixes
    assert "/opt/venv/bin/macos-vz-kubelet under a supervisor" in fixes


def test_sudo_is_told_where_the_program_is() -> None:
    host, subject = linux()
    not_root(host)
    subject = change(subject, program="/opt/my venv/bin/macos-vz-kubelet")
    fixes = [fix for finding in wrong(host, subject) for fix in finding.fix]
    assert any(fix.startswith("sudo '/opt/my venv/bin/macos-vz-kubelet' install") for fix in fixes)


def test_a_user_on_his_own_has_his_own_unit() -> None:
    host, subject = linux()
    not_root(host)
    definition = host.facts.home / ".config/systemd/user/macos-vz-kubelet.service"
    place = replace(subject.service, domain="user", definition=definition)
    host.say(
        "systemctl --user show macos-vz-kubelet.service -p ActiveState -p Result -p MainPID", "ActiveState=active\n"
    )
    assert {finding.check for finding in wrong(host, change(subject, service=place))} == {"guest-network"}
