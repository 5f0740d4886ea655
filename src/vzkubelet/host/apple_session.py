"""Whose screen, whose keychain, and whether the Mac stays awake: what macOS ties virtual machines to."""

import re
from collections.abc import Iterator
from pathlib import Path

from vzkubelet.host.apple_system import macos_version
from vzkubelet.host.finding import Finding, ok, problem, warning
from vzkubelet.host.probe import TIMED_OUT, Probe
from vzkubelet.host.subject import Subject

LOGIN_WINDOW = "/Library/Preferences/com.apple.loginwindow"
LOGIN_PASSWORD = Path("/etc/kcpassword")
KEYCHAIN = Path("Library/Keychains/login.keychain-db")
AQUA = "Aqua"
"""What launchctl calls the session of somebody who is logged in at the screen."""
_KEYCHAIN_SINCE = (15,)
"""Guests of macOS 15 and later have a host key, which is kept in the keychain of whom runs them."""
_PMSET = re.compile(r"^\s*(?P<name>[A-Za-z]+)\s+(?P<value>\d+)\b", re.MULTILINE)


def session(probe: Probe, _: Subject) -> Iterator[Finding]:
    user = probe.facts.user
    if probe.facts.uid == 0:
        yield problem(
            "session",
            "this is root",
            "guests of macOS 15 and later do not start under root, which has no login keychain",
            "# run the agent as the user who is logged in at the screen",
        )
        return
    manager = probe.run(["launchctl", "managername"]).stdout.strip()
    if manager == AQUA:
        yield ok("session", f"{user} is logged in at the screen")
        return
    if probe.run(["launchctl", "print", f"gui/{probe.facts.uid}"]).ok:
        yield ok("session", f"{user} is logged in at the screen (seen from a {manager or 'remote'} session)")
        return
    yield problem(
        "session",
        f"{user} is not logged in at the screen (this is a {manager or 'nameless'} session)",
        "a LaunchAgent runs only then, and elsewhere the keychain that machines need stays locked",
        f"sudo sysadminctl -autologin set -userName {user} -password -",
        "sudo shutdown -r now",
    )


def auto_login(probe: Probe, _: Subject) -> Iterator[Finding]:
    user = probe.facts.user
    # Over ssh sysadminctl writes the name and not the password, and ends with success all the same.
    fix = f"sudo sysadminctl -autologin set -userName {user} -password -   # in Terminal at the screen"
    why = "after a restart nobody is logged in, and the node does not come back"
    found = probe.run(["defaults", "read", LOGIN_WINDOW, "autoLoginUser"])
    name = found.stdout.strip()
    if not found.ok or not name:
        yield warning("auto-login", "nobody is logged in automatically", why, fix)
    elif name != user:
        yield warning("auto-login", f"{name} is logged in automatically, not {user}", why, fix)
    elif probe.status(LOGIN_PASSWORD) is None:
        yield warning(
            "auto-login", f"{user} is to be logged in automatically, but macOS has no password for it", why, fix
        )
    else:
        yield ok("auto-login", f"{user} is logged in automatically")


def filevault(probe: Probe, _: Subject) -> Iterator[Finding]:
    said = probe.run(["fdesetup", "status"]).stdout
    if "FileVault is On" in said:
        yield warning(
            "filevault",
            "FileVault is on",
            "a restarted Mac waits at the screen for a password, and no automatic login follows",
            "sudo fdesetup disable",
            "# or keep it, and restart only with: sudo fdesetup authrestart",
        )
    elif "FileVault is Off" in said:
        yield ok("filevault", "FileVault is off")
    else:
        yield warning("filevault", "fdesetup does not tell whether FileVault is on", "it would stop a restart half way")


def keychain(probe: Probe, _: Subject) -> Iterator[Finding]:
    path = probe.facts.home / KEYCHAIN
    if probe.status(path) is None:
        yield problem(
            "keychain",
            f"there is no login keychain {path}",
            "guests of macOS 15 and later keep a key in it and do not start without",
            f"security create-keychain -P {path}",
            f"security login-keychain -s {path}",
        )
        return
    shown = probe.run(["security", "show-keychain-info", str(path)], timeout_s=5.0)
    if shown.ok:
        yield _keychain_settings(shown.text, path)
    elif probe.run(["launchctl", "managername"]).stdout.strip() != AQUA:
        yield warning(
            "keychain",
            "the login keychain is locked for this session, which is not the one at the screen",
            "machines that are started from here fail with -25308 (interaction is not allowed)",
            f"security unlock-keychain {path}",
            "# or look again in Terminal at the screen, where the agent's LaunchAgent runs",
        )
    else:
        reason = "asks for a password" if shown.status == TIMED_OUT else "is locked"
        modern = (macos_version(probe) or _KEYCHAIN_SINCE) >= _KEYCHAIN_SINCE
        yield (problem if modern else warning)(
            "keychain",
            f"the login keychain {reason}",
            "guests of macOS 15 and later do not start: SecKeyCreateRandomKey fails with -25308",
            f"security unlock-keychain {path}",
        )


def _keychain_settings(said: str, path: Path) -> Finding:
    timeout = re.search(r"timeout=(\d+)", said)
    if timeout or "lock-on-sleep" in said:
        when = f"after {timeout[1]} s" if timeout else "when the Mac sleeps"
        return warning(
            "keychain",
            f"the login keychain locks itself {when}",
            "machines that start later fail with -25308",
            f"security set-keychain-settings {path}   # without options: it never locks itself",
        )
    return ok("keychain", "the login keychain is unlocked")


def sleep(probe: Probe, _: Subject) -> Iterator[Finding]:
    said = probe.run(["pmset", "-g"])
    settings = {match["name"]: int(match["value"]) for match in _PMSET.finditer(said.stdout)}
    if not said.ok or "sleep" not in settings:
        yield warning(
            "sleep", "pmset does not tell whether this Mac sleeps", "a Mac that sleeps is a node that is lost"
        )
        return
    minutes = 0 if settings.get("SleepDisabled") == 1 else settings["sleep"]
    if minutes:
        yield problem(
            "sleep",
            f"this Mac sleeps after {minutes} min without anybody at it",
            "the node goes NotReady, and its pods are taken away",
            "sudo pmset -a sleep 0 disksleep 0",
        )
    else:
        yield ok("sleep", "this Mac does not sleep")
    if settings.get("autorestart") == 0:
        yield warning(
            "sleep",
            "this Mac stays off after a power failure",
            "the node does not come back by itself",
            "sudo pmset -a autorestart 1",
        )
