"""What a check found out."""

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    OK = "ok"
    WARNING = "warning"
    """Works, and will hurt one day or under load."""
    PROBLEM = "problem"
    """The agent or its machines do not work until it is mended."""


@dataclass(frozen=True, slots=True)
class Finding:
    check: str
    """Name of the check, the same in every version: ``keychain``."""
    severity: Severity
    what: str
    """One line, what is so."""
    why: str = ""
    """What goes wrong because of it; empty when all is well."""
    fix: tuple[str, ...] = ()
    """Commands that mend it, one per line, as they are typed; a step that has no command begins with ``#``."""


def ok(check: str, what: str) -> Finding:
    return Finding(check, Severity.OK, what)


def warning(check: str, what: str, why: str, *fix: str) -> Finding:
    return Finding(check, Severity.WARNING, what, why, fix)


def problem(check: str, what: str, why: str, *fix: str) -> Finding:
    return Finding(check, Severity.PROBLEM, what, why, fix)
