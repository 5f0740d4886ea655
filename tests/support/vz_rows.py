"""What tables of faults of Apple's framework have in common."""

import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tests.support.apple_double import MacHost
from tests.support.vz_world import VzWorld, vz_image

CODES = range(1, 13)
"""Of VZErrorDomain, those of a machine's life."""
AT_A_TIME = 8

RowT = TypeVar("RowT")


def fault(operation: str, **said: Any) -> tuple[str, dict[str, Any]]:
    """For `MacHost.fail`; the double's README has the keys."""
    return operation, said


def many_guests(root: Path, mac: MacHost) -> VzWorld:
    """Linux guests, of which a Mac runs more than two: rows that need no Mac of their own run beside each other."""
    return VzWorld(root / "machines", vz_image(root / "image", "linux"), mac)


def some_at_a_time(rows: Sequence[RowT]) -> Iterator[Sequence[RowT]]:
    for first in range(0, len(rows), AT_A_TIME):
        yield rows[first : first + AT_A_TIME]


def uid_of(name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_OID, name))
