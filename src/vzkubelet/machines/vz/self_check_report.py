"""What `doctor --self-check` found on a Mac: for its owner as text, for us as JSON. Pure."""

from collections import Counter
from collections.abc import Sequence
from enum import StrEnum

import msgspec


class State(StrEnum):
    OK = "ok"
    DIFFERENT = "different"
    """Not as the SDK metadata says, and nothing that the product needs is lost by it."""
    FAILED = "failed"
    SKIPPED = "skipped"


class Check(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that was tried."""

    stage: str
    name: str
    state: State
    expected: str = ""
    found: str = ""


class HostFacts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where it ran. Nothing that names the machine or its user."""

    macos: str = ""
    build: str = ""
    architecture: str = ""
    model: str = ""
    python: str = ""
    packages: dict[str, str] = {}
    """PyObjC distributions and their versions."""
    signed_app: bool = False
    """The interpreter of our signed application ran the check, and not any other."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """`checks` holds everything but what was as expected; that is counted in `ok`, per stage."""

    version: str
    """Of the product."""
    metadata: str
    """What the host was compared with: package, version and SDK."""
    host: HostFacts
    ok: dict[str, int]
    checks: tuple[Check, ...]

    @classmethod
    def of(cls, version: str, metadata: str, host: HostFacts, checks: Sequence[Check]) -> "Report":
        counts = Counter(check.stage for check in checks if check.state is State.OK)
        rest = tuple(check for check in checks if check.state is not State.OK)
        return cls(version=version, metadata=metadata, host=host, ok=dict(counts), checks=rest)

    @property
    def passed(self) -> bool:
        return bool(self.ok) and not any(check.state is State.FAILED for check in self.checks)

    @property
    def json(self) -> str:
        return msgspec.json.format(msgspec.json.encode(self), indent=1).decode()

    @property
    def summary(self) -> str:
        """A few lines for the Mac's owner."""
        host = self.host
        lines = [
            f"macOS {host.macos or '?'} ({host.build or 'build unknown'}), {host.model or 'a Mac'} {host.architecture}",
            f"Python {host.python}, {_packages(host.packages)}",
            "run by " + ("our signed application" if host.signed_app else "an interpreter that we did not sign"),
            f"compared with {self.metadata}",
            "",
        ]
        lines += [f"  ok        {count:4} {stage}" for stage, count in self.ok.items()]
        lines += [f"  {check.state:9} {check.stage}: {_told(check)}" for check in self.checks]
        verdict = "Everything that the agent needs is here." if self.passed else "This Mac differs: see above."
        return "\n".join([*lines, "", verdict])

    @property
    def text(self) -> str:
        """Summary and JSON, ready to be sent."""
        return f"{self.summary}\n\nPlease send this report along:\n\n{self.json}"


def _told(check: Check) -> str:
    parts = [check.name]
    if check.expected:
        parts.append(f"expected {check.expected}")
    if check.found:
        parts.append(f"found {check.found}" if check.expected else check.found)
    return ", ".join(parts)


def _packages(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in sorted(versions.items())) or "no PyObjC"
