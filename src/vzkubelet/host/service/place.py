"""Where the parts of a service belong on a host."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vzkubelet.host.probe import Facts

LABEL = "com.agoda.fleet.macos-vz-kubelet"
UNIT = "macos-vz-kubelet.service"
NAME = "macos-vz-kubelet"


@dataclass(frozen=True, slots=True)
class Place:
    manager: Literal["launchd", "systemd"]
    domain: str
    """``gui/501``, ``system`` or ``user`` (of systemd)."""
    name: str
    """Label or unit."""
    definition: Path
    """Property list or unit file."""
    directory: Path
    """Of the environment file and the record of the installation; ours alone."""
    log: Path | None
    """None = the journal has it."""

    @property
    def target(self) -> str:
        """How the manager is told which service."""
        return f"{self.domain}/{self.name}" if self.manager == "launchd" else self.name

    @property
    def environment_file(self) -> Path:
        return self.directory / "agent.env"

    @property
    def record(self) -> Path:
        return self.directory / "installed.json"

    @property
    def control(self) -> tuple[str, ...]:
        """The command that controls services of this domain."""
        if self.manager == "launchd":
            return ("launchctl",)
        return ("systemctl",) if self.domain == "system" else ("systemctl", "--user")


def of(facts: Facts, config_home: Path | None = None) -> Place:
    """The user's own domain; on Linux root has the system's. `config_home` stands for ``~/.config``."""
    home = facts.home
    if facts.system == "darwin":
        return Place(
            "launchd",
            f"gui/{facts.uid}",
            LABEL,
            home / "Library/LaunchAgents" / f"{LABEL}.plist",
            home / "Library/Application Support" / NAME,
            home / "Library/Logs" / f"{NAME}.log",
        )
    if facts.uid == 0:
        return Place("systemd", "system", UNIT, Path("/etc/systemd/system") / UNIT, Path("/etc") / NAME, None)
    config_home = config_home or home / ".config"
    return Place("systemd", "user", UNIT, config_home / "systemd/user" / UNIT, config_home / NAME, None)
