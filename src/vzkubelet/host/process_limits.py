"""How much the kernel allows a process: an agent holds a few descriptors per machine, connection and log."""

from collections.abc import Iterator
from pathlib import Path

from vzkubelet.host.finding import Finding, ok, warning
from vzkubelet.host.probe import Probe
from vzkubelet.host.service.launchd import OPEN_FILES
from vzkubelet.host.subject import Subject

ENOUGH_OPEN_FILES = 4_096
ENOUGH_INOTIFY_INSTANCES = 128
_INSTANCES = Path("/proc/sys/fs/inotify/max_user_instances")


def open_files(probe: Probe, subject: Subject) -> Iterator[Finding]:
    if subject.cluster is not None and probe.status(subject.service.definition) is not None:
        yield ok("open-files", f"the service may open {OPEN_FILES} files")
        return
    allowed = probe.open_files()
    text = "any number of" if allowed.soft == -1 else str(allowed.soft)
    if allowed.soft == -1 or allowed.soft >= ENOUGH_OPEN_FILES:
        yield ok("open-files", f"a process may open {text} files")
        return
    wanted = ENOUGH_OPEN_FILES if allowed.hard == -1 else min(ENOUGH_OPEN_FILES, allowed.hard)
    fixes = [f"ulimit -n {wanted}   # in the shell that starts the agent; install sets it for the service"]
    if allowed.hard != -1 and allowed.hard < ENOUGH_OPEN_FILES:
        fixes = [
            "sudo launchctl limit maxfiles 65536 200000"
            if probe.facts.system == "darwin"
            else f"echo '{probe.facts.user} - nofile 65536' | sudo tee /etc/security/limits.d/macos-vz-kubelet.conf"
        ]
    yield warning(
        "open-files", f"a process may open only {text} files", "with many pods connections are refused", *fixes
    )


def inotify(probe: Probe, _: Subject) -> Iterator[Finding]:
    allowed = int(probe.read(_INSTANCES))
    if allowed >= ENOUGH_INOTIFY_INSTANCES:
        yield ok("inotify", f"a user may watch with {allowed} inotify instances")
        return
    yield warning(
        "inotify",
        f"a user may have only {allowed} inotify instances",
        "containers that follow files (kubectl logs, log collectors) fail with 'too many open files'",
        "sudo sysctl -w fs.inotify.max_user_instances=512",
        "echo fs.inotify.max_user_instances=512 | sudo tee /etc/sysctl.d/90-macos-vz-kubelet.conf",
    )
