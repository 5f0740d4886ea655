"""What verifying found out, for people and for the agent."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Finding:
    """A content that is not what its digest says, or is not there."""

    digest: str
    reason: str
    ranges: tuple[tuple[int, int], ...] = ()
    """Bytes (start, end) that are wrong, where that can be told."""
    moved_to: Path | None = None
    """Its place in quarantine."""
    references: tuple[str, ...] = ()
    """Of the images that it belongs to; they are pulled again when they are wanted."""

    def __str__(self) -> str:
        where = ", ".join(f"{start}-{end - 1}" for start, end in self.ranges[:_SHOWN_RANGES])
        more = f" and {len(self.ranges) - _SHOWN_RANGES} more" if len(self.ranges) > _SHOWN_RANGES else ""
        names = f" of {', '.join(self.references)}" if self.references else ""
        bytes_text = f"; bytes {where}{more}" if where else ""
        return f"content {self.digest}{names}: {self.reason}{bytes_text}"


_SHOWN_RANGES = 8


@dataclass(frozen=True, slots=True)
class Verification:
    """The outcome of verifying images."""

    contents: int
    """How many were read."""
    size_bytes: int
    """Together, holes included."""
    findings: tuple[Finding, ...] = ()
