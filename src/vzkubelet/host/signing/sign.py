"""Building and signing the app: staged beside its place, verified, and put there whole."""

import contextlib
import ctypes
import os
import plistlib
import secrets
import shlex
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from importlib import resources
from pathlib import Path

from vzkubelet.errors import InvalidInput, MachineFault, Unsupported, clip
from vzkubelet.files import STAGING_PREFIX, remove_tree
from vzkubelet.host import property_list
from vzkubelet.host.apple_system import BRIDGING, entitlements
from vzkubelet.host.probe import Output, Probe
from vzkubelet.host.signing import bundle, macho, profile
from vzkubelet.host.signing.bundle import AD_HOC, Plan, Wishes
from vzkubelet.host.signing.interpreter import Interpreter, libraries

RESTRICTED = frozenset({BRIDGING, "com.apple.developer.networking.vmnet"})
"""Granted by Apple with a profile. Without one macOS kills the process at its start ("Killed: 9")."""
SIGNING_TIMEOUT_S = 120.0
"""A time stamp is fetched from Apple."""
PROOF = "import ssl, vzkubelet.cli; print('ok')"
_RENAME_SWAP = 2  # sys/stdio.h
Tell = Callable[[str], None]


def wishes(
    *, identity: str, identifier: str, extra: Sequence[str], profile_file: Path | None, hardened: bool, now: float
) -> Wishes:
    """What to sign with, checked.

    Raises:
        InvalidInput: what macOS would answer by killing the app.
    """
    wanted = _packaged("virtualization") | (_packaged("hardened") if hardened else {}) | dict.fromkeys(extra, True)
    restricted = sorted(RESTRICTED & wanted.keys())
    if restricted and (identity == AD_HOC or profile_file is None):
        raise InvalidInput(
            f"{restricted[0]} is granted by Apple: sign with --identity 'Developer ID Application: …' and "
            "--provisioning-profile FILE, else macOS kills the app when it starts"
        )
    if profile_file is None:
        return Wishes(wanted, identity, identifier, hardened)
    try:
        data = profile_file.read_bytes()
    except OSError as exc:
        raise InvalidInput(f"--provisioning-profile: cannot read {profile_file}: {exc.strerror}") from exc
    profile.check(data, str(profile_file), restricted, identifier, now)
    return Wishes(wanted, identity, identifier, hardened, data)


def make_plan(interpreter: Interpreter, chosen: Wishes) -> Plan:
    """Raises: Unsupported (not a Mac's interpreter, or one that cannot be copied)."""
    executable = interpreter.executable.read_bytes()
    needed = libraries(interpreter.executable, executable)
    own = macho.with_uuid(executable, chosen.identifier)
    return bundle.plan(interpreter, own, {library: library.source.read_bytes() for library in needed}, chosen)


def is_current(probe: Probe, app: Path, wanted: Plan) -> bool:
    """Whether the app is what would be made now, with a signature that holds."""
    try:
        found = bundle.read_record(probe.read(app / bundle.RECORD))
    except (OSError, ValueError):
        return False
    return (
        found == wanted.record
        and probe.run(["codesign", "--verify", "--strict", str(app)]).ok
        and entitlements(probe, app) == wanted.record.entitlements
    )


def commands(app: Path, wanted: Plan, entitlements_file: Path) -> list[list[str]]:
    """What signs the bundle at `app`, inside out."""
    record = wanted.record
    stamp = ["--timestamp=none"] if record.identity == AD_HOC else ["--timestamp"]
    how = ["codesign", "--force", "--sign", record.identity, *stamp]
    if record.hardened:
        how += ["--options", "runtime"]
    nested = [[*how, str(app / place)] for place in wanted.libraries]
    whole = [*how, "--identifier", record.identifier, "--entitlements", str(entitlements_file), str(app)]
    return [*nested, whole]


def sign(probe: Probe, app: Path, wanted: Plan, tell: Tell) -> None:
    """Make the app and put it in its place; an earlier one goes only when the new one is proven.

    Raises:
        Unsupported: not on a Mac. InvalidInput: the place cannot be written. MachineFault: a command failed.
    """
    if probe.facts.system != "darwin":
        raise Unsupported("only a Mac can sign: codesign is part of macOS")
    try:
        with _staged(app) as staged, tempfile.TemporaryDirectory(prefix="entitlements-") as directory:
            _write(staged, wanted)
            file = Path(directory) / "entitlements.plist"
            file.write_bytes(plistlib.dumps(dict(wanted.record.entitlements)))
            for command in commands(staged, wanted, file):
                _run(probe, command, tell)
            _prove(probe, staged, wanted, tell)
            _replace(app, staged)
    except OSError as exc:
        raise InvalidInput(f"cannot make {app}: {exc.strerror}: {exc.filename}") from exc


def _prove(probe: Probe, app: Path, wanted: Plan, tell: Tell) -> None:
    _run(probe, ["codesign", "--verify", "--strict", "--verbose=2", str(app)], tell)
    _run(probe, ["codesign", "-d", "--entitlements", "-", "--xml", str(app)], tell)
    found = entitlements(probe, app)
    if found != wanted.record.entitlements:
        raise MachineFault(f"the signature grants {sorted(found)} instead of {sorted(wanted.record.entitlements)}")
    done = _run(probe, [str(app / bundle.EXECUTABLE), "-P", "-c", PROOF], tell)
    if done.stdout.strip() != "ok":
        raise MachineFault(f"the interpreter in the app does not find the agent: {clip(done.text)}")


def _run(probe: Probe, command: Sequence[str], tell: Tell) -> Output:
    tell(f"$ {shell_text(command)}")
    done = probe.run(command, timeout_s=SIGNING_TIMEOUT_S)
    for line in done.text.splitlines()[:20]:
        tell(f"  {line}")
    if done.status == -signal.SIGKILL:
        raise MachineFault(
            "macOS killed the app at its start: it does not accept the signature with these entitlements "
            "(see: log show --last 1m --predicate 'sender == \"AppleMobileFileIntegrity\"')"
        )
    if not done.ok:
        raise MachineFault(f"{command[0]} failed with status {done.status}: {clip(done.text)}")
    return done


def shell_text(command: Sequence[str]) -> str:
    """As it would be typed."""
    return shlex.join(command)


def _write(app: Path, wanted: Plan) -> None:
    programs = {bundle.EXECUTABLE, *wanted.libraries}
    for place, data in wanted.files.items():
        file = app / place
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        file.chmod(0o755 if place in programs else 0o644)


@contextlib.contextmanager
def _staged(app: Path) -> Iterator[Path]:
    app.parent.mkdir(parents=True, exist_ok=True)
    # codesign takes a directory for a bundle by its suffix.
    staged = app.with_name(f"{STAGING_PREFIX}{secrets.token_hex(4)}-{app.name}")
    try:
        yield staged
    finally:
        remove_tree(staged)


def _replace(app: Path, staged: Path) -> None:
    """At no moment there is no app. Processes that run from the old one keep their files until they end."""
    if app.is_dir() and _exchange(app, staged):
        return  # what was there is removed with the staging directory
    retired = app.with_name(f"{STAGING_PREFIX}{secrets.token_hex(4)}-retired-{app.name}")
    with contextlib.suppress(FileNotFoundError):
        app.rename(retired)
    try:
        staged.rename(app)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            retired.rename(app)
        raise
    remove_tree(retired)


def _exchange(one: Path, other: Path) -> bool:
    """Let two directories change places in one step (renamex_np(2)); False where that cannot be done."""
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        exchange = libc.renamex_np
    except AttributeError:
        return False
    exchange.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_uint]
    return bool(exchange(os.fsencode(one), os.fsencode(other), _RENAME_SWAP) == 0)


def _packaged(name: str) -> dict[str, bool]:
    source = resources.files("vzkubelet.host").joinpath("entitlements", f"{name}.plist")
    return {key: bool(value) for key, value in property_list.parse(source.read_bytes()).items()}
