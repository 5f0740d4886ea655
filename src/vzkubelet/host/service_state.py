"""The service as the host's manager sees it, and what its log says."""

import re
from collections.abc import Iterator
from pathlib import Path

from vzkubelet.errors import clip
from vzkubelet.host.finding import Finding, ok, problem, warning
from vzkubelet.host.probe import NO_SUCH_PROGRAM, Probe
from vzkubelet.host.service import systemd
from vzkubelet.host.service.place import Place
from vzkubelet.host.subject import Subject

_WHY_NOT_INSTALLED = "the agent does not come back after a restart of the host, nor when it fails"
_LOG_TAIL_BYTES = 65_536
_TROUBLE = re.compile(r"\b(ERROR|CRITICAL)\b|\"level\": ?\"(error|critical)\"|^error: |^Traceback ")
_PID = re.compile(r"^\tpid = (\d+)", re.MULTILINE)
_EXIT = re.compile(r"^\tlast exit code = (\d+)(?:: (.*))?", re.MULTILINE)


def service(probe: Probe, subject: Subject) -> Iterator[Finding]:
    place = subject.service
    if probe.status(place.definition) is None and place.manager == "systemd" and not systemd.is_init(probe):
        yield warning(
            "service",
            "the agent cannot be a service: systemd does not run here",
            _WHY_NOT_INSTALLED,
            f"# start {subject.program} under a supervisor of your own",
        )
    elif probe.status(place.definition) is None:
        yield warning(
            "service", "the agent is not installed as a service", _WHY_NOT_INSTALLED, "macos-vz-kubelet install"
        )
    elif place.manager == "launchd":
        yield _launchd(probe, place)
    else:
        yield from _systemd(probe, place)


def log(probe: Probe, subject: Subject) -> Iterator[Finding]:
    place = subject.service
    if probe.status(place.definition) is None:
        return
    trouble = [line for line in last_lines(probe, place.log) if _TROUBLE.search(line)]
    if trouble:
        yield warning(
            "service-log",
            f"the log ends with trouble: {clip(trouble[-1], 160)}",
            "the agent lost work or failed",
            f"tail -n 50 '{place.log}'",
        )
    elif place.log is not None:
        yield ok("service-log", f"no trouble at the end of {place.log}")


def last_lines(probe: Probe, file: Path | None) -> list[str]:
    """The end of a log, the oldest line first; none when there is no log."""
    if file is None:
        return []
    try:
        data = probe.read(file)
    except OSError:
        return []
    return data[-_LOG_TAIL_BYTES:].decode(errors="replace").splitlines()[-200:]


def _launchd(probe: Probe, place: Place) -> Finding:
    shown = probe.run(["launchctl", "print", place.target])
    start = f"launchctl bootstrap {place.domain} '{place.definition}'"
    if not shown.ok:
        return problem(
            "service",
            f"{place.definition} is there, and launchd has not loaded it",
            "the agent does not run",
            f"launchctl enable {place.target}",
            start,
        )
    pid, ended = _PID.search(shown.stdout), _EXIT.search(shown.stdout)
    if pid:
        return ok("service", f"the agent runs under launchd as process {pid[1]}")
    how = f"it last ended with {ended[1]}" + (f" ({ended[2]})" if ended[2] else "") if ended else "it never started"
    return problem(
        "service",
        f"launchd has loaded the agent, but it does not run: {how}",
        "the node is NotReady",
        f"tail -n 50 '{place.log}'",
        f"launchctl kickstart -k {place.target}",
    )


def _systemd(probe: Probe, place: Place) -> Iterator[Finding]:
    shown = probe.run([*place.control, "show", place.name, "-p", "ActiveState", "-p", "Result", "-p", "MainPID"])
    if shown.status == NO_SUCH_PROGRAM or not shown.ok:
        yield warning("service", f"systemd does not answer: {clip(shown.text)}", "whether the agent runs is not known")
        return
    state = dict(line.partition("=")[::2] for line in shown.stdout.splitlines())
    if state.get("ActiveState") == "active":
        yield ok("service", f"the agent runs under systemd as process {state.get('MainPID', '?')}")
        return
    journal = "journalctl --user" if place.domain == "user" else "journalctl"
    yield problem(
        "service",
        f"{place.name} is {state.get('ActiveState') or 'unknown'} ({state.get('Result') or 'no result'})",
        "the node is NotReady",
        f"{journal} -u {place.name} -n 50",
        f"{' '.join(place.control)} enable --now {place.name}",
    )
