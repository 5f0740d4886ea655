"""Putting the service in place, and taking exactly that away again."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from vzkubelet.config import environment_file
from vzkubelet.errors import Error, InvalidInput, MachineFault, NotFound, Unsupported, clip
from vzkubelet.files import read_if_present, write_atomic
from vzkubelet.host.probe import Output, Probe
from vzkubelet.host.service import launchd, systemd
from vzkubelet.host.service.captured import Captured, single_line
from vzkubelet.host.service.place import Place

Tell = Callable[[str], None]
Wait = Callable[[float], None]
GONE_TIMEOUT_S = launchd.EXIT_TIMEOUT_S + 10
_POLL_S = 0.5
_AT_WORK = frozenset({"initializing", "starting", "running", "degraded", "maintenance", "stopping"})
"""systemctl(1), is-system-running; "offline" where systemd is not process 1, "unknown" where it gives no answer."""


class Record(msgspec.Struct, frozen=True):
    """What `install` left on the host, for `uninstall`."""

    definition: str
    environment_file: str
    log: str
    cache_dir: str
    arguments: tuple[str, ...] = ()
    """Settings of the service, ``--name=value``."""

    def settings(self) -> dict[str, str]:
        """Flag values by name, as `config.read` takes them."""
        return {name: value for name, _, value in (text.removeprefix("--").partition("=") for text in self.arguments)}


@dataclass(frozen=True, slots=True)
class Installation:
    """What is to be installed, as files."""

    place: Place
    definition: bytes
    environment: bytes
    """Content of the environment file; empty = there is none."""
    cache_dir: Path
    arguments: tuple[str, ...]


def plan(place: Place, program: Sequence[str], captured: Captured, cache_dir: Path, home: Path) -> Installation:
    """Raises: InvalidInput when a variable or a path cannot be written down."""
    environment = environment_file.text(captured.variables)
    for name, text in (
        *(("the program", word) for word in program),
        ("HOME", str(home)),
        ("--cache-dir", str(cache_dir)),
        ("XDG_CONFIG_HOME", str(place.environment_file)),
    ):
        single_line(name, text)
    kept = [f"--environment-file={place.environment_file}"] if environment else []
    arguments = (*captured.arguments, *kept)
    command = [*program, *arguments]
    if place.manager == "launchd":
        assert place.log is not None
        definition = launchd.definition(place.name, command, place.log, home)
    else:
        definition = systemd.definition(command, home, cache_dir, system=place.domain == "system").encode()
    return Installation(place, definition, environment.encode(), cache_dir, arguments)


def install(probe: Probe, wanted: Installation, tell: Tell, wait: Wait = time.sleep) -> None:
    """Write the files and (re)start the service. A running agent is replaced; its machines go on.

    A first installation that fails leaves nothing behind.

    Raises:
        Unsupported: no systemd runs here. InvalidInput: a file cannot be written. MachineFault: the service manager
        refuses.
    """
    place = wanted.place
    if place.manager == "systemd":
        _require_systemd(probe, place)
    is_first = not place.record.exists()
    try:
        _put_in_place(wanted, tell)
        _start(probe, place, tell, wait)
    except Error:
        if is_first:
            _take_back(probe, place, tell)
        raise


def _take_back(probe: Probe, place: Place, tell: Tell) -> None:
    """What failed once has its reason told; what fails here adds nothing to it."""
    if place.manager == "systemd":
        probe.run([*place.control, "disable", "--now", place.name])
    _remove(place, tell)
    if place.manager == "systemd":
        probe.run([*place.control, "daemon-reload"])


def _put_in_place(wanted: Installation, tell: Tell) -> None:
    try:
        write(wanted, tell)
    except OSError as exc:
        raise InvalidInput(f"cannot write {exc.filename or wanted.place.definition}: {exc.strerror}") from exc


def _start(probe: Probe, place: Place, tell: Tell, wait: Wait) -> None:
    if place.manager == "launchd":
        _stop(probe, place, tell, wait)
        _run(probe, ["launchctl", "enable", place.target], tell)
        _run(probe, ["launchctl", "bootstrap", place.domain, str(place.definition)], tell)
        _run(probe, ["launchctl", "print", place.target], None)
    else:
        _run(probe, [*place.control, "daemon-reload"], tell)
        _run(probe, [*place.control, "enable", place.name], tell)
        _run(probe, [*place.control, "restart", place.name], tell)


def read_record(place: Place) -> Record:
    """Raises: NotFound: nothing is installed here."""
    data = read_if_present(place.record)
    if data is None:
        raise NotFound(f"nothing is installed: there is no {place.record}")
    try:
        return msgspec.json.decode(data, type=Record)
    except msgspec.DecodeError as exc:
        raise NotFound(f"{place.record} is damaged: remove {place.definition} by hand") from exc


def uninstall(probe: Probe, place: Place, tell: Tell, wait: Wait = time.sleep) -> Record:
    """Stop the agent and remove what `install` wrote. Machines, images and the log stay.

    The files go in any case: a manager of services that is not there or refuses must not keep a secret on the host.

    Raises:
        NotFound: nothing is installed. MachineFault: the agent could not be stopped; its files are gone all the same.
    """
    record = read_record(place)
    answers = place.manager == "launchd" or _systemd_runs(probe, place)
    trouble: MachineFault | None = None
    try:
        if place.manager == "launchd":
            _stop(probe, place, tell, wait)
        elif answers:
            _run(probe, [*place.control, "disable", "--now", place.name], tell)
        else:
            tell("systemd does not run here, so there is no service to stop")
    except MachineFault as exc:
        trouble = exc
    _remove(place, tell)
    if place.manager == "systemd" and answers:
        _run(probe, [*place.control, "daemon-reload"], tell)
    if trouble is not None:
        raise MachineFault(f"the service's files are removed, but the agent may still run: {trouble}") from trouble
    return record


def _remove(place: Place, tell: Tell) -> None:
    """The record goes last: as long as it is there `uninstall` can be run again."""
    for file in (place.definition, place.environment_file):
        if file.exists():
            file.unlink()
            tell(f"removed {file}")
    place.record.unlink(missing_ok=True)


def write(wanted: Installation, tell: Tell) -> None:
    """The files of the service, each whole or not at all, and what tells `uninstall` of them. Raises: OSError."""
    place = wanted.place
    if place.log is not None:
        place.log.parent.mkdir(parents=True, exist_ok=True)
    if wanted.environment:
        write_atomic(place.environment_file, wanted.environment, 0o600)
        tell(f"wrote {place.environment_file} (readable by its owner only)")
    else:
        place.environment_file.unlink(missing_ok=True)
    write_atomic(place.definition, wanted.definition, 0o644)
    tell(f"wrote {place.definition}")
    record = Record(
        str(place.definition),
        str(place.environment_file) if wanted.environment else "",
        str(place.log or ""),
        str(wanted.cache_dir),
        wanted.arguments,
    )
    write_atomic(place.record, msgspec.json.encode(record), 0o600)


def _stop(probe: Probe, place: Place, tell: Tell, wait: Wait) -> None:
    """Take a loaded job out of launchd, which does so after it has answered."""
    if not probe.run(["launchctl", "print", place.target]).ok:
        return
    _run(probe, ["launchctl", "bootout", place.target], tell)
    left_s = float(GONE_TIMEOUT_S)
    while probe.run(["launchctl", "print", place.target]).ok:
        if left_s <= 0:
            raise MachineFault(f"the agent did not stop within {GONE_TIMEOUT_S} s: launchctl kill KILL {place.target}")
        wait(_POLL_S)
        left_s -= _POLL_S


def _systemd_runs(probe: Probe, place: Place) -> bool:
    said = probe.run([*place.control, "is-system-running"])
    return said.ok or said.stdout.strip() in _AT_WORK


def _require_systemd(probe: Probe, place: Place) -> None:
    """Raises: Unsupported. Asked before anything is written, the file with the secrets above all."""
    if not _systemd_runs(probe, place):
        raise Unsupported(
            f"systemd does not run here ({' '.join(place.control)} is-system-running), so there can be no service: run "
            f"macos-vz-kubelet under a supervisor of your own{_hint(place.control)}"
        )


def _run(probe: Probe, command: Sequence[str], tell: Tell | None) -> Output:
    if tell is not None:
        tell(f"$ {' '.join(command)}")
    done = probe.run(command, timeout_s=90.0)
    if not done.ok:
        raise MachineFault(f"{' '.join(command)} failed with status {done.status}: {clip(done.text)}{_hint(command)}")
    return done


def _hint(command: Sequence[str]) -> str:
    match list(command):
        case ["launchctl", "bootstrap", *_]:
            return "; is somebody logged in at the screen? A LaunchAgent runs only then (macos-vz-kubelet doctor)"
        case ["systemctl", "--user", *_]:
            return "; a user's services need a login session: sudo loginctl enable-linger $USER"
        case _:
            return ""
