"""Which macOS a call needs. Pure.

Every call that came later than the deployment target stands inside ``if host >= MacOS(14):``, or behind
``if host < MacOS(14): raise …`` (or ``return``) in the same function; the static checker reads these guards and
compares them with the versions of Apple's SDK metadata.
"""

from dataclasses import dataclass, field

from vzkubelet.errors import Unsupported
from vzkubelet.model.mac import OLDEST_MACOS, true_major


@dataclass(frozen=True, slots=True, order=True)
class MacOS:
    """A version of macOS. The host's own also tells its architecture, which takes no part in comparisons."""

    major: int
    minor: int = 0
    architecture: str = field(default="arm64", compare=False)
    """``arm64`` or ``x86_64``: what this process runs as."""

    @classmethod
    def told(cls, major: int, minor: int, architecture: str) -> "MacOS":
        """What NSProcessInfo told, with the compatibility shim taken back."""
        return cls(true_major(major), minor, architecture)

    @property
    def is_apple_silicon(self) -> bool:
        return self.architecture == "arm64"

    def __str__(self) -> str:
        return f"macOS {self.major}.{self.minor}" if self.minor else f"macOS {self.major}"


DEPLOYMENT_TARGET = MacOS(*OLDEST_MACOS)


def check_host(host: MacOS) -> None:
    """Raises Unsupported for a host that no machine can run on, with what would be needed."""
    if not host.is_apple_silicon:
        raise Unsupported(
            f"this is a Mac with an Intel processor ({host.architecture}), or an Intel Python under Rosetta: macOS "
            "guests and saved machines exist on Apple Silicon only; on an M1 or later install an arm64 Python "
            "(`python3 -c 'import platform; print(platform.machine())'` must print arm64) and run "
            "`macos-vz-kubelet doctor`",
            reason="UnsupportedArchitecture",
        )
    if host < DEPLOYMENT_TARGET:
        raise unavailable("the vz machine driver", DEPLOYMENT_TARGET, host)


def unavailable(what: str, needs: MacOS, host: MacOS) -> Unsupported:
    """The error for something that this host's macOS is too old for."""
    return Unsupported(
        f"{what} needs {needs} or later and this host runs {host}; update it (`softwareupdate --list`) or do without",
        reason="UnsupportedHost",
    )
