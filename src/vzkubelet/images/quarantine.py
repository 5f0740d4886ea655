"""Damaged contents, put aside: ``quarantine/<hex>.<nanoseconds since the epoch>``, and ``.json`` that says why."""

import logging
import time
from collections.abc import Iterator
from pathlib import Path

from vzkubelet.images.chunk_lists import hex_of, is_hex
from vzkubelet.images.content_users import entries, remove_old
from vzkubelet.images.records import Quarantined, rfc3339, write_record
from vzkubelet.images.staging import allocated_bytes
from vzkubelet.images.verification import Damage

_log = logging.getLogger(__name__)
_KEPT_RANGES = 100


class Quarantine:
    def __init__(self, directory: Path) -> None:
        """Touches nothing."""
        self._directory = directory

    def place(self, digest: str, damage: Damage) -> Path:
        """Where to move a damaged content to; what is wrong with it is written down already."""
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        target = self._directory / f"{hex_of(digest)}.{time.time_ns()}"
        reason = Quarantined(
            digest=digest,
            reason=damage.reason,
            ranges=damage.ranges[:_KEPT_RANGES],
            found_at=rfc3339(time.time()),
        )
        try:
            write_record(_reason(target), reason)
        except OSError as exc:  # a full volume must not keep damage in use
            _log.warning("%s is put aside without a word why: %s", target, exc)
        return target

    def found_before(self, at: float) -> Iterator[tuple[str, Path]]:
        """Digests and files of what was put aside before that time (since the epoch)."""
        for file in entries(self._directory):
            name, _, found_ns = file.name.partition(".")
            if is_hex(name) and found_ns.isdecimal() and int(found_ns) < at * 1e9:
                yield f"sha256:{name}", file

    def remove(self, file: Path) -> int:
        """The bytes freed."""
        freed_bytes = allocated_bytes(file)
        file.unlink()
        _reason(file).unlink(missing_ok=True)
        return freed_bytes

    def forget_orphans(self) -> None:
        """Remove what was written down of files that a crash kept from coming here."""
        remove_old(
            path for path in entries(self._directory) if path.suffix == ".json" and not path.with_suffix("").exists()
        )


def _reason(file: Path) -> Path:
    return file.with_name(f"{file.name}.json")
