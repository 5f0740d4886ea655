"""The LaunchAgent (launchd.plist(5)).

An agent of the user and not a daemon of root: guests of macOS 15 and later need the login keychain of whoever is logged
in at the screen.
"""

import plistlib
from collections.abc import Sequence
from pathlib import Path

from vzkubelet.host.signing.bundle import IDENTIFIER

OPEN_FILES = 65_536
EXIT_TIMEOUT_S = 30
"""Before SIGKILL. The agent only lets go of what runs."""
SEARCH_PATH = "/opt/homebrew/bin:/opt/homebrew/sbin:/usr/local/bin:/usr/local/sbin:/usr/bin:/bin:/usr/sbin:/sbin"
"""launchd gives no more than the last four; Docker's credential helpers and softnet are in the first."""


def definition(label: str, command: Sequence[str], log: Path, home: Path) -> bytes:
    """The property list."""
    files = {"NumberOfFiles": OPEN_FILES}
    return plistlib.dumps(
        {
            "Label": label,
            "ProgramArguments": list(command),
            "RunAtLoad": True,
            "KeepAlive": True,
            "ThrottleInterval": 10,
            # Only a session at the screen has an unlocked keychain; those of ssh would start a second agent without.
            "LimitLoadToSessionType": "Aqua",
            # As an app that is used: otherwise processor and disk are throttled, and the guests' with them.
            "ProcessType": "Interactive",
            # Helpers of machines are children of the agent, and outlive it.
            "AbandonProcessGroup": True,
            "ExitTimeOut": EXIT_TIMEOUT_S,
            "AssociatedBundleIdentifiers": [IDENTIFIER],
            "EnvironmentVariables": {"PATH": SEARCH_PATH, "LANG": "en_US.UTF-8"},
            "SoftResourceLimits": files,
            "HardResourceLimits": files,
            "WorkingDirectory": str(home),
            "StandardOutPath": str(log),
            "StandardErrorPath": str(log),
        }
    )
