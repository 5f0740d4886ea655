"""The Mac itself: version, processor, bindings, and the signed app that the helpers of machines run in."""

from collections.abc import Iterator
from pathlib import Path

from vzkubelet.errors import clip
from vzkubelet.host import property_list
from vzkubelet.host.finding import Finding, ok, problem, warning
from vzkubelet.host.probe import Probe
from vzkubelet.host.signing import bundle
from vzkubelet.host.subject import Subject
from vzkubelet.model.mac import OLDEST_MACOS, OLDEST_PYOBJC, true_major

VIRTUALIZATION = "com.apple.security.virtualization"
BRIDGING = "com.apple.vm.networking"


def macos_version(probe: Probe) -> tuple[int, ...] | None:
    """Of the host; None when it does not say."""
    output = probe.run(["sw_vers", "-productVersion"], environment={"SYSTEM_VERSION_COMPAT": "0"})
    parts = output.stdout.strip().split(".")
    if not output.ok or not all(part.isdigit() for part in parts):
        return None
    major, *rest = map(int, parts)
    return (true_major(major), *rest)


def version(probe: Probe, _: Subject) -> Iterator[Finding]:
    found = macos_version(probe)
    if found is None:
        yield warning("macos-version", "sw_vers does not tell the version of macOS", "what is offered depends on it")
        return
    text = ".".join(map(str, found))
    if found >= OLDEST_MACOS:
        yield ok("macos-version", f"macOS {text}")
    else:
        yield problem(
            "macos-version",
            f"macOS {text} is too old",
            "virtual machines need macOS 13 at least",
            "softwareupdate --list-full-installers",
            "sudo softwareupdate --install --all --restart",
        )


def architecture(probe: Probe, _: Subject) -> Iterator[Finding]:
    if probe.sysctl("hw.optional.arm64") != "1":
        yield problem(
            "architecture",
            "this Mac has an Intel processor",
            "Apple's framework runs macOS guests on Apple silicon only",
            "# use a Mac with Apple silicon; Linux guests also run under Linux: --machine-driver qemu",
        )
        return
    if probe.sysctl("sysctl.proc_translated") == "1" or probe.facts.machine == "x86_64":
        yield problem(
            "architecture",
            f"this Python {probe.facts.python} is an Intel program that Rosetta translates",
            "a translated process does not see macOS guests' classes at all",
            "arch -arm64 /bin/zsh -c 'python3 -m venv ~/vzkubelet && ~/vzkubelet/bin/pip install macos-vz-kubelet[vz]'",
        )
        return
    if probe.sysctl("kern.hv_support") == "0":
        yield problem(
            "architecture",
            "this Mac offers no hypervisor",
            "no guest starts; a Mac that is itself a virtual machine has none before an M3 and macOS 15",
            "# run the agent on the physical Mac",
        )
        return
    model = probe.sysctl("hw.model") or "Mac"
    yield ok("architecture", f"{model}, {probe.sysctl('machdep.cpu.brand_string') or 'Apple silicon'}")


def frameworks(probe: Probe, _: Subject) -> Iterator[Finding]:
    name = "pyobjc-framework-Virtualization"
    found = probe.package(name)
    fix = f"python3 -m pip install --upgrade 'macos-vz-kubelet[vz]'   # Python {probe.facts.python}"
    if found is None:
        yield problem("frameworks", f"{name} is not installed", "the vz driver cannot reach Apple's framework", fix)
    elif tuple(int(part) for part in found.split(".")[:2] if part.isdigit()) < OLDEST_PYOBJC:
        wanted = ".".join(map(str, OLDEST_PYOBJC))
        yield problem(
            "frameworks", f"{name} {found} is too old", f"versions before {wanted} deadlock and leak in callbacks", fix
        )
    else:
        yield ok("frameworks", f"PyObjC {found}")


def helper_app(probe: Probe, subject: Subject) -> Iterator[Finding]:
    app = subject.config.vz.helper_app
    sign = "macos-vz-kubelet sign"
    why = "Virtualization.framework refuses a process that is not entitled, so no machine starts"
    if probe.status(app / bundle.EXECUTABLE) is None:
        yield problem("helper-app", f"there is no signed app at {app}", why, sign)
        return
    verified = probe.run(["codesign", "--verify", "--strict", str(app)])
    if not verified.ok:
        yield problem("helper-app", f"the signature of {app} is broken: {clip(verified.stderr)}", why, sign)
        return
    granted = entitlements(probe, app)
    if not granted.get(VIRTUALIZATION):
        yield problem("helper-app", f"{app} is signed without {VIRTUALIZATION}", why, sign)
        return
    if subject.config.machines.bridge_interface and not granted.get(BRIDGING) and probe.facts.uid != 0:
        yield problem(
            "helper-app",
            f"{app} lacks {BRIDGING}, which bridging to {subject.config.machines.bridge_interface} needs",
            "no machine that is bridged starts",
            f"macos-vz-kubelet sign --identity 'Developer ID Application: …' --entitlement {BRIDGING} "
            "--provisioning-profile FILE.provisionprofile",
            "# or unset VZ_BRIDGE_INTERFACE to use NAT",
        )
        return
    yield from _staleness(probe, app, sign)


def entitlements(probe: Probe, app: Path) -> dict[str, object]:
    """What a bundle's signature grants; empty when it has none."""
    shown = probe.run(["codesign", "-d", "--entitlements", "-", "--xml", str(app)])
    if not shown.ok or not shown.stdout.strip():
        return {}
    try:
        return property_list.parse(shown.stdout.strip("\0\n").encode())
    except ValueError:
        return {}


def _staleness(probe: Probe, app: Path, sign: str) -> Iterator[Finding]:
    try:
        record = bundle.read_record(probe.read(app / bundle.RECORD))
    except (OSError, ValueError):
        yield warning(
            "helper-app", f"{app} was not made by this version", "its interpreter may not fit the packages", sign
        )
        return
    if record.python != probe.facts.python:
        yield warning(
            "helper-app",
            f"{app} holds Python {record.python}, the agent runs under {probe.facts.python}",
            "packages that are compiled for one Python do not load in another",
            sign,
        )
    else:
        yield ok("helper-app", f"{app} is signed ({record.identity_text}) and entitled")
