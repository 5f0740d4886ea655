"""The place where a content is put together, and what is in it in the end."""

from dataclasses import dataclass

from vzkubelet.images.pull.ledger import Ledger
from vzkubelet.images.pull.writer import RawFile
from vzkubelet.images.records import ContentRecord
from vzkubelet.images.staging import Staging


@dataclass(frozen=True, slots=True)
class Moved:
    """What is in the staging place now, verified and synced."""

    content: ContentRecord
    chunks: bytes | None = None
    """The list of chunks that the digest is of."""


class Place:
    """Ledger and data of a staging place, open between `open` and `close`. Blocks."""

    def __init__(self, staging: Staging) -> None:
        self._staging = staging
        self._ledger: Ledger | None = None
        self._file: RawFile | None = None

    @property
    def ledger(self) -> Ledger:
        assert self._ledger is not None
        return self._ledger

    @property
    def file(self) -> RawFile:
        assert self._file is not None
        return self._file

    def open(self, plan: str) -> None:
        """Raises: OSError."""
        self._ledger = Ledger(self._staging.ledger, plan)
        self._file = RawFile(self._staging.data)

    def close(self) -> None:
        if self._ledger is not None:
            self._ledger.close()
        if self._file is not None:
            self._file.close()
